//! The built-in profiles, and `sysctl/SETTINGS.md` that shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use holdfast_sysctl::profile::{BUILT_IN, Profile};
use holdfast_sysctl::setting::{Kind, Setting};

use super::common::*;

/// The settings that the profiles must have.
const REQUIRED: [&str; 35] = [
    "fs.file-max",
    "fs.nr_open",
    "net.core.somaxconn",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_syncookies",
    "net.core.netdev_max_backlog",
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_tw_recycle",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_max_orphans",
    "net.core.optmem_max",
    "net.core.rmem_default",
    "net.core.wmem_default",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.netfilter.nf_conntrack_max",
    "net.nf_conntrack_max",
    "net.netfilter.nf_conntrack_buckets",
    "nofile",
    "net.ipv4.tcp_migrate_req",
    "net.ipv4.tcp_child_ehash_entries",
    "thash_entries",
    "memory-cgroup",
    "bpf-programs",
    "nft-rules",
    "kernel.io_uring_disabled",
];

fn profiles() -> Vec<Profile> {
    BUILT_IN
        .iter()
        .map(|(name, text)| Profile::parse(name, text).unwrap())
        .collect()
}

fn settings() -> Vec<(String, Setting)> {
    let of = |profile: Profile| {
        let name = profile.name;
        profile
            .settings
            .into_iter()
            .map(move |setting| (name.clone(), setting))
    };
    profiles().into_iter().flat_map(of).collect()
}

fn file_of(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("profiles")
        .join(name.to_owned() + ".conf")
}

#[test]
fn every_setting_is_explained() {
    for (profile, setting) in settings() {
        let what = format!("{profile}: {}", setting.key);
        assert!(!setting.why.is_empty(), "{what}: no why");
        assert!(
            setting.why.chars().count() <= 120,
            "{what}: a why of more than one line: {}",
            setting.why
        );
        assert!(
            setting.prose.split_whitespace().count() >= 20,
            "{what}: hardly any prose: {}",
            setting.prose
        );
        if setting.kind == Kind::Sysctl {
            assert!(setting.scope.is_some(), "{what}: no scope");
            assert!(setting.default.is_some(), "{what}: no default");
        }
    }
}

#[test]
fn written_values_are_those_for_a_million() {
    let mut scaled = 0;
    for (profile, setting) in settings() {
        assert_eq!(
            setting.wanted(1_000_000),
            setting.value,
            "{profile}: {}",
            setting.key
        );
        scaled += usize::from(!setting.scale.is_empty());
    }
    assert!(
        scaled >= 5,
        "{scaled} values follow the number of connections"
    );
}

#[test]
fn each_key_once_in_a_file() {
    for profile in profiles() {
        let mut seen = BTreeSet::new();
        for setting in &profile.settings {
            assert!(
                seen.insert(&setting.key),
                "{}: {} twice",
                profile.name,
                setting.key
            );
        }
    }
}

#[test]
fn all_required_settings_are_there() {
    let known: BTreeSet<String> = settings()
        .into_iter()
        .map(|(_, setting)| setting.key)
        .collect();
    let missing: Vec<_> = REQUIRED
        .iter()
        .filter(|key| !known.contains(**key))
        .collect();
    assert!(missing.is_empty(), "{missing:?}; there are {known:?}");
}

#[test]
fn files_agree() {
    // A key of two files is compared in the same way: on one machine both are wanted.
    let mut first: BTreeMap<String, (String, Setting)> = BTreeMap::new();
    for (profile, setting) in settings()
        .into_iter()
        .filter(|(_, setting)| setting.kind != Kind::Advice)
    {
        let Some((other, known)) = first.get(&setting.key) else {
            first.insert(setting.key.clone(), (profile, setting));
            continue;
        };
        let same = |setting: &Setting| {
            (
                setting.rule,
                setting.weight,
                setting.unless,
                setting.may_be_absent,
                setting.until.clone(),
            )
        };
        assert_eq!(
            same(known),
            same(&setting),
            "{}: {other} and {profile} differ",
            setting.key
        );
        let ruled = holdfast_sysctl::setting::Rule::Exactly == setting.rule;
        assert!(
            !ruled || known.value == setting.value,
            "{}: {other} and {profile} contradict",
            setting.key
        );
    }
}

#[test]
fn outdated_values_are_named() {
    for key in [
        "fs.file-max",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_tw_recycle",
        "net.ipv4.tcp_mem",
    ] {
        let said: Vec<_> = settings()
            .into_iter()
            .filter(|(_, setting)| setting.key == key)
            .collect();
        assert!(!said.is_empty(), "{key}");
        assert!(
            said.iter().any(|(_, setting)| setting.original.is_some()),
            "{key}"
        );
    }
    let recycle = settings()
        .into_iter()
        .find(|(_, setting)| setting.key == "net.ipv4.tcp_tw_recycle");
    assert_eq!(recycle.unwrap().1.until.as_deref(), Some("4.12"));
}

#[test]
#[ignore = "needs namespaces: make test"]
fn missing_keys_are_explained() {
    within(|| {
        // In a namespace many keys are absent or locked: the profiles say so themselves, so that
        // none of it is a failure.
        for role in ["server", "client", "both", "host"] {
            let document = tune(&[&"check", &"--role", &role, &"--json"]).json();
            for row in document["plan"]["rows"].as_array().unwrap() {
                assert_ne!(row["verdict"], "missing", "{role}: {row}");
                if row["verdict"] == "absent" {
                    assert_ne!(row["why"], "", "{role}: {row}");
                }
            }
        }
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn sysctl_reads_the_profiles() {
    within(|| {
        for (name, text) in BUILT_IN {
            let said = run(bounded("sysctl").arg("-p").arg(file_of(name)));
            let mut could_not = Vec::new();
            for line in text
                .lines()
                .filter(|line| !line.starts_with(['#', ' ']) && !line.is_empty())
            {
                let (key, value) = line.trim_start_matches('-').split_once('=').unwrap();
                let (key, value) = (key.trim(), value.trim());
                let path = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
                if fs::OpenOptions::new().write(true).open(&path).is_ok() {
                    assert_eq!(now(key), value, "{name}: {key}: {said:#?}");
                    assert!(said.out.contains(key), "{name}: {said:#?}");
                } else {
                    could_not.push((key, path));
                }
            }
            // It complains of those it could not write, and of no syntax.
            for line in said.err.lines() {
                let is_known = could_not
                    .iter()
                    .any(|(key, path)| line.contains(key) || line.contains(path.to_str().unwrap()));
                assert!(is_known, "{name}: {line}");
            }
        }
    });
}

#[test]
fn settings_md_has_the_tables() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("SETTINGS.md");
    let tables = tune(&[&"explain", &"--markdown"]).out;
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        tables,
        "holdfast-tune explain --markdown > {}",
        file.display()
    );
    for (name, _) in BUILT_IN {
        assert!(tables.contains(&format!("## {name}.conf\n")), "{name}");
    }
}
