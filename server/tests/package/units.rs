//! The systemd units: what systemd says of them, and that the server they start does nothing they
//! forbid.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use holdfast_telemetry::wire::ClientReport;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Folder, Running, client, own_address, until};
use crate::{installed, output};

const UNITS: [&str; 2] = ["holdfast-longconn", "holdfast-http"];

fn unit_file(folder: &Folder, unit: &str) -> String {
    folder.file(&format!("lib/systemd/system/{unit}.service"))
}

#[test]
#[ignore = "needs systemd-analyze and strace: make test"]
fn systemd_has_nothing_against_them_and_finds_them_closed() {
    let folder = installed("units");
    let _ = std::fs::read_dir(folder.file("etc/default")).expect("options of the units");
    for unit in UNITS {
        let file = unit_file(&folder, unit);
        let socket = folder.file(&format!("lib/systemd/system/{unit}.socket"));
        let mut verify = Command::new("systemd-analyze");
        verify
            .args(["verify", "--recursive-errors=no", &socket, &file])
            .env("MANPATH", folder.file("share/man"));
        let verified = verify
            .output()
            .expect("systemd-analyze runs; next: make need");
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success() && said.is_empty(), "{said}");
        // From 0, nothing is open, to 10.
        let said = output(Command::new("systemd-analyze").args([
            "security",
            "--offline=yes",
            "--no-pager",
            "--threshold=20",
            &file,
        ]));
        assert!(
            said.contains(&format!("Overall exposure level for {unit}.service: 1.")),
            "{said}"
        );
        let text = std::fs::read_to_string(&file).expect("the unit");
        assert!(
            text.contains("\nLimitNOFILE=1048576\n")
                && text.contains("\nLimitMEMLOCK=infinity\n")
                && text.contains("\nWantedBy=multi-user.target\n"),
            "{text}"
        );
    }
    let linked = output(Command::new("find").arg(&folder.0).args(["-type", "l"]));
    assert_eq!(linked, "", "enabled");
}

/// The system calls of each of systemd's groups.
fn groups() -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = None;
    for line in
        output(Command::new("systemd-analyze").args(["syscall-filter", "--no-pager"])).lines()
    {
        if line.starts_with('@') {
            current = Some(line.to_owned());
        } else if let Some(name) = line
            .strip_prefix("    ")
            .filter(|name| !name.starts_with('#'))
            && let Some(group) = &current
        {
            groups
                .entry(group.clone())
                .or_default()
                .push(name.to_owned());
        } else if !line.starts_with(' ') {
            current = None;
        }
    }
    groups
}

fn expanded(groups: &BTreeMap<String, Vec<String>>, name: &str) -> BTreeSet<String> {
    match groups.get(name) {
        Some(members) => members
            .iter()
            .flat_map(|member| expanded(groups, member))
            .collect(),
        None => BTreeSet::from([name.to_owned()]),
    }
}

/// What the `SystemCallFilter` lines of a unit let through.
fn allowed(unit: &str) -> BTreeSet<String> {
    let groups = groups();
    // systemd.exec(5): a list of what is allowed has these in any case.
    let always = expanded(&groups, "@default");
    let mut allowed = always.clone();
    for line in unit
        .lines()
        .filter_map(|line| line.strip_prefix("SystemCallFilter="))
    {
        let names = line
            .trim_start_matches('~')
            .split(' ')
            .flat_map(|name| expanded(&groups, name));
        if line.starts_with('~') {
            let forbidden: BTreeSet<_> = names.collect();
            allowed.retain(|name| always.contains(name) || !forbidden.contains(name));
        } else {
            allowed.extend(names);
        }
    }
    allowed
}

#[test]
#[ignore = "needs systemd-analyze and strace: make test"]
fn the_server_they_start_makes_no_system_call_they_forbid() {
    let folder = installed("filter");
    for unit in UNITS {
        let text = std::fs::read_to_string(unit_file(&folder, unit)).expect("the unit");
        let start = text
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="))
            .expect("a command");
        let options = std::fs::read_to_string(folder.file(&format!("etc/default/{unit}")))
            .expect("its options");
        let options = options
            .lines()
            .find_map(|line| line.strip_prefix("OPTIONS="))
            .expect("options");
        // Addresses of this test's own; all else is as it is installed.
        let address = own_address();
        let options = options
            .trim_matches('"')
            .replace("127.0.0.1", &address.to_string());
        let metrics = options.rsplit(' ').next().expect("an address").to_owned();
        let line = start.replace("$OPTIONS", &options);
        let traced = folder.file("traced");
        let mut strace = Command::new("strace");
        strace
            .args(["--follow-forks", "-o", &traced])
            .args(line.split(' '));
        strace.args([
            "--listen",
            &format!("{address}:7070"),
            "--json",
            &folder.file("last.json"),
        ]);
        let mut server = strace.spawn().expect("strace runs; next: make need");
        until("its metrics answer", || {
            let ended = server.try_wait().expect("our child");
            assert!(ended.is_none(), "{ended:?}: {line}");
            Command::new("curl")
                .args(["-sfo", "/dev/null", &format!("http://{metrics}/metrics")])
                .status()
                .expect("curl runs")
                .success()
        });
        let users: Running<ClientReport> = client(
            (address, 7070).into(),
            &[
                "--users",
                "50",
                "--expect",
                "",
                "--source",
                &address.to_string(),
            ],
        );
        users.until("50 users", |r| r.open_now == 50);
        // The server is the first that strace saw.
        let said = std::fs::read_to_string(&traced).expect("a trace");
        let pid = said
            .split(' ')
            .next()
            .and_then(|pid| pid.parse().ok())
            .expect("a process");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it lives");
        users.stop();
        assert!(server.wait().expect("our child").success());
        let report = std::fs::read_to_string(folder.file("last.json")).expect("the final figures");
        assert!(report.contains("\"accepted\": 50,"), "{report}");
        let said = std::fs::read_to_string(&traced).expect("a trace");
        let calls = said
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1)?.split_once('('));
        let calls: BTreeSet<_> = calls.map(|(name, _)| name.to_owned()).collect();
        assert!(
            calls.contains("io_uring_setup") && calls.contains("sched_setaffinity"),
            "{calls:?}"
        );
        let forbidden: Vec<_> = calls.difference(&allowed(&text)).cloned().collect();
        assert_eq!(
            forbidden,
            Vec::<String>::new(),
            "{unit} forbids what its server does"
        );
    }
}
