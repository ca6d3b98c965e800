//! Raised values and ports reserved by others are kept, unless `--exact` is given.

use super::common::*;

const PROFILE: &str = "\
#: rule at-least\nnet.core.somaxconn = 8000
#: rule at-most\nnet.ipv4.tcp_fin_timeout = 30
#: rule at-least\nnet.ipv4.tcp_wmem = 8192 32768 4194304
#: rule covers\nnet.ipv4.ip_local_port_range = 10000 50000
#: rule contains\nnet.ipv4.ip_local_reserved_ports = 7070,8080-8081
";

fn raised() {
    set("net.core.somaxconn", "9000");
    set("net.ipv4.tcp_fin_timeout", "15");
    set("net.ipv4.tcp_wmem", "4096 65536 8388608");
    set("net.ipv4.ip_local_port_range", "2000 45000");
    set("net.ipv4.ip_local_reserved_ports", "22,8000-8090\n");
}

#[test]
#[ignore = "needs namespaces: make test"]
fn raised_values_are_kept() {
    within(|| {
        let folder = folder();
        let (profile, state) = profile_and_state(&folder, PROFILE);
        raised();
        let before = snapshot();
        let check = tune(&[&"check", &"--profile", &profile]);
        assert_eq!(check.row("net.core.somaxconn")[3], "ok");
        assert_eq!(check.row("net.ipv4.tcp_fin_timeout")[3], "ok");
        assert_eq!(check.row("net.ipv4.tcp_wmem")[3], "change");

        assert_eq!(
            tune(&[&"apply", &"--profile", &profile, &"--state", &state]).code,
            0
        );
        assert_eq!(now("net.core.somaxconn"), "9000");
        assert_eq!(now("net.ipv4.tcp_fin_timeout"), "15");
        // Element by element.
        assert_eq!(now("net.ipv4.tcp_wmem"), "8192 65536 8388608");
        // Wider at both ends.
        assert_eq!(now("net.ipv4.ip_local_port_range"), "2000 50000");
        assert_eq!(now("net.ipv4.ip_local_reserved_ports"), "22,7070,8000-8090");
        assert_eq!(tune(&[&"restore", &"--state", &state]).code, 0);
        assert_as_before(&before);
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn exact_lowers_them() {
    within(|| {
        let folder = folder();
        let (profile, state) = profile_and_state(&folder, PROFILE);
        raised();
        let before = snapshot();
        let check = tune(&[&"check", &"--exact", &"--profile", &profile]);
        assert_eq!(
            check.row("net.core.somaxconn")[1..4],
            ["9000", "8000", "change"]
        );
        let said = tune(&[
            &"apply",
            &"--exact",
            &"--profile",
            &profile,
            &"--state",
            &state,
        ]);
        assert_eq!(said.code, 0, "{said:#?}");
        assert_eq!(now("net.core.somaxconn"), "8000");
        assert_eq!(now("net.ipv4.tcp_fin_timeout"), "30");
        assert_eq!(now("net.ipv4.tcp_wmem"), "8192 32768 4194304");
        assert_eq!(now("net.ipv4.ip_local_port_range"), "10000 50000");
        assert_eq!(now("net.ipv4.ip_local_reserved_ports"), "7070,8080-8081");
        assert!(said.out.contains("nothing to change"), "{}", said.out);
        assert_eq!(tune(&[&"restore", &"--state", &state]).code, 0);
        assert_as_before(&before);
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn long_lists_are_kept_whole() {
    within(|| {
        let folder = folder();
        let (profile, state) = profile_and_state(&folder, PROFILE);
        // The kernel gives a list in one read only: 32 bytes and 4 KiB are where a reader that asks
        // for less loses the rest.
        for count in [10, 3000] {
            let ports: Vec<String> = (0..count).map(|i| (20_001 + 2 * i).to_string()).collect();
            let ports = ports.join(",");
            set("net.ipv4.ip_local_reserved_ports", &format!("{ports}\n"));
            let before = snapshot();
            assert_eq!(now("net.ipv4.ip_local_reserved_ports"), ports);
            let applied = tune(&[&"apply", &"--profile", &profile, &"--state", &state]);
            assert_eq!(applied.code, 0, "{count}: {applied:#?}");
            assert_eq!(
                now("net.ipv4.ip_local_reserved_ports"),
                format!("7070,8080-8081,{ports}")
            );
            let restored = tune(&[&"restore", &"--state", &state]);
            assert_eq!(restored.code, 0, "{count}: {restored:#?}");
            assert_as_before(&before);
        }
    });
}
