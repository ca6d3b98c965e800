//! A setting that cannot be set: the others are written, it is named with its reason, and the exit
//! code is 1.

use super::common::*;

/// Applies a profile that has `line` between two settings that can be had; what it says, with those
/// two written and everything put back.
fn applied_around(line: &str, look: impl FnOnce(&Said)) {
    let folder = folder();
    let text = format!("net.ipv4.tcp_retries2 = 9\n{line}\nnet.core.somaxconn = 5000\n");
    let (profile, state) = profile_and_state(&folder, text);
    let before = snapshot();
    let said = tune(&[&"apply", &"--profile", &profile, &"--state", &state]);
    assert_eq!(now("net.ipv4.tcp_retries2"), "9", "{line}: {said:#?}");
    assert_eq!(now("net.core.somaxconn"), "5000", "{line}: {said:#?}");
    look(&said);
    let restored = tune(&[&"restore", &"--state", &state]);
    assert_eq!(restored.code, 0, "{line}: {restored:#?}");
    assert_as_before(&before);
    assert_eq!(names(folder.path()), ["mine.conf"]);
}

/// The result column of the table of what was written.
fn result<'a>(said: &'a Said, key: &str) -> &'a str {
    let (_, results) = said.out.split_once("result\n").unwrap();
    let row = results.lines().find(|line| line.starts_with(key)).unwrap();
    row.rsplit("  ").next().unwrap()
}

#[test]
#[ignore = "needs namespaces: make test"]
fn unknown_key() {
    within(|| {
        // Misspelt: the profile does not say that it may be missing, as sysctl has it too.
        applied_around("net.core.somaxcon = 1", |said| {
            assert_eq!(said.code, 1, "{said:#?}");
            assert_eq!(said.row("net.core.somaxcon")[3], "missing");
            assert!(said.out.contains("misspelt"), "{}", said.out);
        });
        // A name below a key is no key either.
        applied_around("net.core.somaxconn.x = 1", |said| {
            assert_eq!(said.code, 1);
            assert_eq!(said.row("net.core.somaxconn.x")[3], "missing");
        });
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn key_that_may_be_missing() {
    within(|| {
        applied_around("-net.core.somaxcon = 1", |said| {
            assert_eq!((said.code, said.row("net.core.somaxcon")[3]), (0, "absent"));
        });
        applied_around("#: until 4.12\nnet.ipv4.tcp_tw_recycle = 0", |said| {
            let row = said.row("net.ipv4.tcp_tw_recycle");
            assert_eq!((said.code, row[3]), (0, "absent"));
            assert_eq!(row[4], "gone since Linux 4.12: skipped");
        });
        applied_around(
            "#: absent the host counts\nnet.ipv4.tcp_mem = 1 2 3",
            |said| {
                let row = said.row("net.ipv4.tcp_mem");
                assert_eq!(
                    (said.code, row[3], row[4]),
                    (0, "absent", "the host counts")
                );
            },
        );
        applied_around("#: since 99.1\nnet.core.later = 1", |said| {
            let row = said.row("net.core.later");
            assert_eq!((said.code, row[3]), (0, "absent"));
            assert!(row[4].contains("came with Linux 99.1"), "{row:?}");
        });
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn read_only_key() {
    within(|| {
        // As in a container whose /proc/sys is mounted read-only.
        applied_around("#: why files\nfs.file-max = 12345678", |said| {
            assert_eq!(said.code, 1, "{said:#?}");
            let row = said.row("fs.file-max");
            assert_eq!(row[3], "locked");
            assert!(
                row[4].contains("read-only") && row[4].ends_with(": files"),
                "{row:?}"
            );
            assert!(!said.out.contains("nothing to change"), "{}", said.out);
        });
        // Read-only in every namespace but the first.
        applied_around("net.core.rmem_max = 123456", |said| {
            assert_eq!(said.code, 1);
            let row = said.row("net.core.rmem_max");
            assert_eq!((row[3], row[4]), ("locked", "read-only here"));
        });
        // The profile says itself that it is to be set elsewhere.
        applied_around("#: scope initial\nnet.core.rmem_max = 123456", |said| {
            assert_eq!((said.code, said.row("net.core.rmem_max")[3]), (0, "locked"));
        });
        // What does already is no failure, whoever may write it.
        let enough = format!("net.core.rmem_max = {}", now("net.core.rmem_max"));
        applied_around(&enough, |said| {
            assert_eq!((said.code, said.row("net.core.rmem_max")[3]), (0, "ok"));
        });
        // Write-only: what it was cannot be saved, so it is not written.
        applied_around("net.ipv4.route.flush = 1", |said| {
            assert_eq!(
                (said.code, said.row("net.ipv4.route.flush")[3]),
                (1, "locked")
            );
        });
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn only_settings_that_cannot_be_set() {
    within(|| {
        let folder = folder();
        let (profile, state) = profile_and_state(&folder, "fs.file-max = 12345678\n");
        let said = tune(&[&"apply", &"--profile", &profile, &"--state", &state]);
        assert_eq!(said.code, 1, "{said:#?}");
        assert!(!said.out.contains("nothing to change"), "{}", said.out);
        assert_eq!(names(folder.path()), ["mine.conf"]);
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn value_the_kernel_refuses() {
    within(|| {
        for line in [
            "net.ipv4.tcp_keepalive_probes = 70000",
            "net.ipv4.ip_local_port_range = 70000 80000",
            "net.ipv4.ip_local_port_range = 60000 1024",
            "net.ipv4.tcp_congestion_control = carrier-pigeon",
            "net.ipv4.tcp_syncookies = many",
            "net.ipv4.ip_local_reserved_ports = 99999",
        ] {
            applied_around(line, |said| {
                assert_eq!(said.code, 1, "{line}: {said:#?}");
                let key = line.split(' ').next().unwrap();
                assert!(
                    result(said, key).starts_with("FAILED: "),
                    "{line}: {said:#?}"
                );
                assert!(said.out.contains("2 set, 1 failed"), "{line}: {}", said.out);
            });
        }
        applied_around("net.ipv4.tcp_keepalive_probes = 70000", |said| {
            assert!(
                result(said, "net.ipv4.tcp_keepalive_probes")
                    .contains("the kernel refuses this value")
            );
        });
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn value_the_kernel_adjusts() {
    within(|| {
        // The kernel reads hexadecimal numbers, and prints decimal ones.
        applied_around("net.ipv4.tcp_fin_timeout = 0x40", |said| {
            assert_eq!(
                (said.code, now("net.ipv4.tcp_fin_timeout").as_str()),
                (1, "64")
            );
            let result = result(said, "net.ipv4.tcp_fin_timeout");
            assert_eq!(result, "FAILED: the kernel has 64 instead");
        });
        // The same ports in other words are the same ports.
        applied_around(
            "net.ipv4.ip_local_reserved_ports = 8082,8081,8080,22",
            |said| {
                assert_eq!(now("net.ipv4.ip_local_reserved_ports"), "22,8080-8082");
                assert_eq!(said.code, 0, "{said:#?}");
                assert_eq!(result(said, "net.ipv4.ip_local_reserved_ports"), "set");
                assert!(said.out.contains("3 set, 0 failed"), "{}", said.out);
                assert!(said.out.contains("nothing to change"), "{}", said.out);
            },
        );
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn restore_reports_changes_by_others() {
    within(|| {
        let folder = folder();
        let text = "net.ipv4.tcp_fin_timeout = 0x40\nnet.core.somaxconn = 5000\nnet.ipv4.tcp_retries2 = 9\n";
        let (profile, state) = profile_and_state(&folder, text);
        tune(&[&"apply", &"--profile", &profile, &"--state", &state]);
        // Somebody else comes between: what was there before us is put back all the same, and that
        // is said.
        set("net.core.somaxconn", "6000");
        let restored = tune(&[&"restore", &"--state", &state]);
        assert_eq!(restored.code, 0, "{restored:#?}");
        assert_eq!(now("net.core.somaxconn"), "4096");
        assert!(
            restored.row("net.core.somaxconn")[3].contains("another program"),
            "{}",
            restored.out
        );
        // What the kernel made of ours was nobody else.
        assert_eq!(
            restored.row("net.ipv4.tcp_fin_timeout")[1..],
            ["64", "60", "set"]
        );
        assert_eq!(
            restored.row("net.ipv4.tcp_retries2")[1..],
            ["9", "15", "set"]
        );
    });
}
