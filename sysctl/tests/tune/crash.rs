//! `apply` and `restore` that are killed: a later restore brings the previous values back.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::common::*;

const TRIES: usize = 16;

/// Keys that take any number, in the order they are written, with what they are.
fn keys() -> Vec<(String, i64)> {
    let mut keys = Vec::new();
    for part in [
        "netfilter",
        "ipv4/neigh/default",
        "ipv4/neigh/lo",
        "ipv4/conf/lo",
        "ipv4/conf/default",
    ] {
        let folder = Path::new("/proc/sys/net").join(part);
        // Connection tracking may not be there.
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix("/proc/sys")
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let is_writable = fs::OpenOptions::new().write(true).open(&path).is_ok();
            // Some are kept in units of the clock and come back rounded, some stand for others:
            // none of those.
            let is_plain = [
                "timeout_",
                "_probes",
                "_filter",
                "log_martians",
                "medium_id",
                "arp_",
                "unres",
                "tag",
            ]
            .iter()
            .any(|part| name.contains(part));
            if let (true, true, Some(number)) = (
                is_writable,
                is_plain,
                raw(&path).ok().and_then(|text| text.trim().parse().ok()),
            ) {
                keys.push((name, number));
            }
        }
    }
    assert!(keys.len() >= 20, "{keys:?}");
    keys
}

fn key_path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

fn started(args: &[&std::ffi::OsStr]) -> Child {
    Command::new(TUNE)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills the child as soon as `key` is no longer `was`, or lets it end. True if it was killed
/// before its end.
fn kill_when_changed(mut child: Child, key: &str, was: &str) -> bool {
    let end = Instant::now() + Duration::from_secs(60);
    while raw(&key_path(key)).unwrap() == was && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "neither changed {key} nor ended");
    }
    let _ = child.kill();
    child.wait().unwrap().signal() == Some(9)
}

#[test]
#[ignore = "needs namespaces: make test"]
fn killed_anywhere() {
    within(|| {
        let folder = folder();
        let keys = keys();
        let text: String = keys
            .iter()
            .map(|(key, number)| format!("{key} = {}\n", number + 1))
            .collect();
        let (profile, state) = (
            file(&folder, "all.conf", text),
            folder.path().join("state.json"),
        );
        let before = snapshot();
        let value = |key: &str| before[&key_path(key)].clone().unwrap();
        let apply = [
            "apply".as_ref(),
            "--profile".as_ref(),
            profile.as_os_str(),
            "--state".as_ref(),
            state.as_os_str(),
        ];
        let restore = ["restore".as_ref(), "--state".as_ref(), state.as_os_str()];
        let mut half_applied = 0;
        for i in 0..TRIES {
            let (key, _) = &keys[i * keys.len() / TRIES];
            let killed = kill_when_changed(started(&apply), key, &value(key));
            half_applied += usize::from(killed && snapshot() != before);
            // Half of the time the restore is killed as well: in between, and so early that it may
            // not have begun.
            if i % 2 == 1 {
                let (key, _) = &keys[keys.len() - 1 - i * keys.len() / TRIES];
                let set = raw(&key_path(key)).unwrap();
                kill_when_changed(started(&restore), key, &set);
            }
            let restored = tune(&[&"restore", &"--state", &state]);
            assert_eq!(restored.code, 0, "try {i}: {restored:#?}");
            assert_as_before(&before);
            assert!(!state.exists(), "try {i}");
        }
        assert!(
            half_applied > 0,
            "none of {TRIES} was killed after its first key"
        );
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn another_apply_after_the_crash() {
    within(|| {
        let folder = folder();
        let text =
            "net.core.somaxconn = 5000\nnet.ipv4.tcp_retries2 = 9\nnet.ipv4.tcp_fin_timeout = 30\n";
        let (profile, state) = profile_and_state(&folder, text);
        let before = snapshot();
        assert_eq!(
            tune(&[&"apply", &"--profile", &profile, &"--state", &state]).code,
            0
        );
        // As a crash after the first of three leaves it: all saved, one written.
        set("net.ipv4.tcp_retries2", "15");
        set("net.ipv4.tcp_fin_timeout", "60");
        let later = file(&folder, "later.conf", text.replace("5000", "7000"));
        assert_eq!(
            tune(&[&"apply", &"--profile", &later, &"--state", &state]).code,
            0
        );
        assert_eq!(now("net.core.somaxconn"), "7000");
        assert_eq!(tune(&[&"restore", &"--state", &state]).code, 0);
        assert_as_before(&before);
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn state_that_cannot_be_written() {
    within(|| {
        let folder = folder();
        let profile = file(&folder, "mine.conf", "net.core.somaxconn = 5000\n");
        // Read-only to root as well: the saved values must be safe before the first is changed.
        let state = Path::new("/proc/sys/kernel/state.json");
        let said = tune(&[&"apply", &"--profile", &profile, &"--state", &state]);
        assert!(
            said.error().contains("/proc/sys/kernel/state.json"),
            "{said:#?}"
        );
        assert_eq!(now("net.core.somaxconn"), "4096");
    });
}
