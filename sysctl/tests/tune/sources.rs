//! Source addresses and ports: those that a client on this machine can use for a target.

use std::process::Command;

use serde_json::Value;

use super::common::*;

/// Runs `ip` with the words of `line`.
fn ip(line: &str) {
    let said = run(bounded("ip").args(line.split(' ')));
    assert_eq!(said.code, 0, "ip {line}: {said:#?}");
}

/// Two addresses on an interface with a route, one on an interface that is down, one on a bridge
/// without a carrier.
fn interfaces() {
    for line in [
        "link set lo up",
        "link add eth0 type veth peer name peer0",
        "link set peer0 up",
        "address add 10.99.0.1/24 dev eth0",
        "address add 10.99.0.2/24 dev eth0 label eth0:second",
        "link set eth0 up",
        "link add docker0 type bridge",
        "address add 172.17.0.1/16 dev docker0",
        "link set docker0 up",
        "link add eth1 type veth peer name peer1",
        "link set peer1 up",
        "address add 192.168.7.1/24 dev eth1",
        "address add 192.168.7.2/24 dev eth1",
        "address add 192.168.7.3/24 dev eth1",
    ] {
        ip(line);
    }
}

fn sources(args: &[&str]) -> Value {
    let mut command: Command = bounded(TUNE);
    let said = run(command
        .args(["plan", "--role", "client", "--json"])
        .args(args));
    said.json()["plan"]["sources"].take()
}

#[test]
#[ignore = "needs namespaces: make test"]
fn only_addresses_that_reach_the_target_count() {
    within(|| {
        interfaces();
        // Without a default route, the interface that is up and has the most; with one, its own.
        assert_eq!(sources(&[])["here"], 2);
        assert_eq!(sources(&["--target", "10.99.0.9:80"])["here"], 2);
        ip("link set eth1 up");
        assert_eq!(sources(&["--target", "10.99.0.9:80"])["here"], 2);
        assert_eq!(sources(&["--target", "192.168.7.9:80"])["here"], 3);
        ip("route add default via 10.99.0.254");
        assert_eq!(sources(&[])["here"], 2);
        assert_eq!(sources(&["--target", "198.51.100.1:80"])["here"], 2);
        // 64,511 ports to each of two targets.
        let two = ["--target", "10.99.0.9:80", "--target", "10.99.0.8:80"];
        assert_eq!(sources(&two)["per_address"], 2 * 64_512);
        let apart = ["--target", "10.99.0.9:80", "--target", "192.168.7.9:80"];
        let said = run(bounded(TUNE).args(["check", "-r", "client"]).args(apart));
        assert!(said.error().contains("different interfaces"), "{said:#?}");
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn targets_without_a_route_are_an_error() {
    within(|| {
        interfaces();
        let said = tune(&[&"check", &"-r", &"client", &"--target", &"198.51.100.1:80"]);
        assert!(
            said.error().starts_with("no route to 198.51.100.1 ("),
            "{said:#?}"
        );
        assert!(
            said.error().ends_with("; next: ip route get 198.51.100.1"),
            "{said:#?}"
        );
        let said = tune(&[&"check", &"--target", &"10.99.0.9"]);
        assert!(said.error().contains("give HOST:PORT"), "{said:#?}");
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn reserved_ports_do_not_count() {
    within(|| {
        interfaces();
        let per_address = |args: &[&str]| sources(args)["per_address"].as_u64().unwrap();
        assert_eq!(per_address(&[]), 64_511);
        set("net.ipv4.ip_local_reserved_ports", "1100,1101,1-9\n");
        assert_eq!(per_address(&[]), 64_509);
        assert_eq!(per_address(&["--target", "10.99.0.9:1100"]), 64_510);
        assert_eq!(per_address(&["--target", "10.99.0.9:7070"]), 64_509);
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn time_wait_entries_have_buckets() {
    within(|| {
        let wanted = |connections: &str| {
            let plan = tune(&[&"plan", &"--json", &"-c", &connections]).json();
            let rows = plan["plan"]["rows"].as_array().unwrap().clone();
            let mut rows = rows.iter();
            let row = rows.find(|row| row["key"] == "net.ipv4.tcp_child_ehash_entries");
            row.unwrap()["wanted"].as_str().unwrap().to_owned()
        };
        // 4 x 64 + 65,536; with 300,000 entries in TIME_WAIT allowed, 300,256: rounded up.
        set("net.ipv4.tcp_max_tw_buckets", "65000");
        assert_eq!(wanted("64"), "131072");
        set("net.ipv4.tcp_max_tw_buckets", "300000");
        assert_eq!(wanted("64"), "524288");
    });
}
