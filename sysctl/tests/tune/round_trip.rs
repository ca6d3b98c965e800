//! Apply, check, restore: every key has its previous value again.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::common::*;

/// A profile of the shapes there are: one number, several, a range, a list, a word, shares of the
/// connections, and what follows.
const SHAPES: &str = "\
#: why handshakes that wait are dropped\n#: rule at-least\n#: per-connection 0.05 plus 1024 power-of-two\nnet.core.somaxconn = 65536

#: why ports run out\n#: rule covers\nnet.ipv4.ip_local_port_range = 1024 65535

#: why a server cannot listen\n#: rule contains\nnet.ipv4.ip_local_reserved_ports = 7070,8080-8089

#: why windows\n#: rule at-least\n#: per-connection 0 plus 4096, 0 plus 65536, 2 plus 4194304\nnet.ipv4.tcp_wmem = 4096 65536 6194304

#: why they linger\n#: rule at-most\nnet.ipv4.tcp_fin_timeout = 20

net.ipv4.tcp_congestion_control = reno
net/ipv4/conf/lo/rp_filter = 2
# The kernel sets forwarding and redirects of every interface with it.
net.ipv4.ip_forward = 1
-net.ipv4.tcp_tw_recycle = 0
";

#[test]
#[ignore = "needs namespaces: make test"]
fn own_profile() {
    within(|| {
        let folder = folder();
        let (profile, state) = profile_and_state(&folder, SHAPES);
        set("net.ipv4.ip_local_reserved_ports", "22,9000-9005\n");
        let before = snapshot();
        let check =
            |connections: &str| tune(&[&"check", &"-c", &connections, &"--profile", &profile]);

        // 0.05 * 1,000,000 + 1,024 = 51,024, rounded up to 65,536.
        let first = check("1M");
        assert_eq!(
            first.row("net.core.somaxconn")[1..4],
            ["4096", "65536", "change"]
        );
        assert_as_before(&before);

        let applied = tune(&[
            &"apply",
            &"-c",
            &"1M",
            &"--profile",
            &profile,
            &"--state",
            &state,
        ]);
        assert_eq!(
            (applied.code, applied.err.as_str()),
            (0, ""),
            "{}",
            applied.out
        );
        assert_eq!(now("net.core.somaxconn"), "65536");
        assert_eq!(now("net.ipv4.ip_local_port_range"), "1024 65535");
        assert_eq!(
            now("net.ipv4.ip_local_reserved_ports"),
            "22,7070,8080-8089,9000-9005"
        );
        assert_eq!(now("net.ipv4.tcp_wmem"), "4096 65536 6194304");
        assert_eq!(now("net.ipv4.tcp_fin_timeout"), "20");
        assert_eq!(now("net.ipv4.tcp_congestion_control"), "reno");
        assert_eq!(now("net.ipv4.conf.lo.rp_filter"), "2");
        assert_eq!(now("net.ipv4.ip_forward"), "1");

        let met = check("1M");
        assert_eq!(met.code, 0);
        assert_eq!(
            met.row("net.core.somaxconn")[1..4],
            ["65536", "65536", "ok"]
        );
        assert!(met.out.contains("nothing to change"), "{}", met.out);

        // 0.05 * 2,000,000 + 1,024 = 101,024, rounded up to 131,072.
        let again = tune(&[
            &"apply",
            &"-c",
            &"2M",
            &"--profile",
            &profile,
            &"--state",
            &state,
        ]);
        assert_eq!(again.code, 0, "{again:#?}");
        assert_eq!(now("net.core.somaxconn"), "131072");
        assert_eq!(now("net.ipv4.tcp_wmem"), "4096 65536 8194304");

        let restored = tune(&[&"restore", &"--state", &state]);
        assert_eq!(
            (restored.code, restored.err.as_str()),
            (0, ""),
            "{}",
            restored.out
        );
        assert_as_before(&before);
        assert_eq!(names(folder.path()), ["mine.conf"]);

        // There is nothing more to put back, which is not an error, and nothing changes.
        let twice = tune(&[&"restore", &"--state", &state]);
        assert_eq!(twice.code, 0);
        assert!(twice.out.contains("nothing to restore"), "{}", twice.out);
        assert_as_before(&before);
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn built_in_profiles() {
    within(|| {
        for role in ["server", "client", "both", "host"] {
            let folder = folder();
            let state = folder.path().join("state.json");
            let before = snapshot();
            for connections in ["100k", "3M"] {
                let said = tune(&[
                    &"apply",
                    &"--role",
                    &role,
                    &"-c",
                    &connections,
                    &"--state",
                    &state,
                    &"--json",
                ]);
                let document = said.json();
                // What could not be written here is only what this namespace may not write.
                for change in document["outcome"]["changes"].as_array().unwrap() {
                    assert!(change["error"].is_null(), "{role}: {change}");
                }
                // All that host.conf has belongs to the initial namespace.
                assert_eq!(state.exists(), role != "host", "{role}: {document:#}");
            }
            let check = tune(&[&"check", &"--role", &role, &"-c", &"3M", &"--json"]).json();
            for row in check["plan"]["rows"].as_array().unwrap() {
                assert!(row["write"].is_null(), "{role}: still to be written: {row}");
            }
            let restored = tune(&[&"restore", &"--state", &state]);
            assert_eq!(restored.code, 0, "{role}: {restored:#?}");
            assert_as_before(&before);
            assert!(names(folder.path()).is_empty());
        }
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn every_writable_key() {
    within(|| {
        // Every number this namespace lets us write, one more than it is: some the kernel refuses,
        // most it takes.
        let mut profile = String::new();
        let before = snapshot();
        let parts = [
            "core",
            "ipv4/tcp_",
            "netfilter",
            "unix",
            "mptcp",
            "ipv4/neigh/default",
        ];
        for (path, value) in &before {
            let Some(number) = value
                .as_ref()
                .ok()
                .and_then(|text| text.trim().parse::<i64>().ok())
            else {
                continue;
            };
            let key = path.strip_prefix("/proc/sys").unwrap().to_str().unwrap();
            let is_own = parts
                .iter()
                .any(|part| key.starts_with(&format!("net/{part}")));
            // It can be set and never be unset again.
            let is_own = is_own && !path.ends_with("nf_hooks_lwtunnel");
            let is_writable = fs::metadata(path).unwrap().permissions().mode() & 0o200 != 0;
            if is_own && is_writable {
                profile += &format!("{key} = {}\n", number + 1);
            }
        }
        let asked = profile.lines().count();
        let folder = folder();
        let (profile, state) = (
            file(&folder, "all.conf", profile),
            folder.path().join("state.json"),
        );
        let applied = tune(&[
            &"apply",
            &"--profile",
            &profile,
            &"--state",
            &state,
            &"--json",
        ])
        .json();
        let changes = applied["outcome"]["changes"].as_array().unwrap();
        assert_eq!(changes.len(), asked);
        let set = changes
            .iter()
            .filter(|change| change["error"].is_null())
            .count();
        assert!(asked > 50 && set * 2 > asked, "{set} of {asked} set");
        let restored = tune(&[&"restore", &"--state", &state]);
        assert_eq!(restored.code, 0, "{restored:#?}");
        assert_as_before(&before);
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn default_state_is_one_for_each_namespace() {
    within(|| {
        let folder = folder();
        let profile = file(&folder, "mine.conf", "net.core.somaxconn = 5000\n");
        let applied = tune(&[&"apply", &"--profile", &profile]);
        assert_eq!(applied.code, 0, "{applied:#?}");
        // net:[4026532177]
        let namespace = fs::read_link("/proc/self/ns/net").unwrap();
        let number = namespace
            .to_str()
            .unwrap()
            .trim_matches(|c: char| !c.is_ascii_digit());
        let run = std::path::Path::new("/run/holdfast");
        assert_eq!(names(run), [format!("tune-{number}.json")]);
        // Only who may change settings may say what they were.
        let mode = fs::metadata(run.join(format!("tune-{number}.json")))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(tune(&[&"restore"]).code, 0);
        assert_eq!(now("net.core.somaxconn"), "4096");
        assert!(names(run).is_empty());
    });
}
