//! What the client says when it cannot start: cause and next command, exit code 2.

use crate::common::{Outcome, refusal};

use holdfast_telemetry::wire::ServerReport;

fn refused(args: &[&str]) -> Outcome<ServerReport> {
    let outcome = refusal("holdfast-client", args);
    assert!(outcome.reports.is_empty(), "{args:?}");
    outcome
}

#[test]
fn an_unknown_host_is_named() {
    refused(&["--target", "no-such-host.invalid:7070"])
        .assert_refused(&["no-such-host.invalid", "next:"]);
}

#[test]
fn too_few_source_addresses_report_the_number_missing() {
    let target = [
        "--target",
        "127.0.0.1:7070",
        "--source",
        "127.0.0.1",
        "--ports",
        "1024-1033",
    ];
    refused(&[&target[..], &["--users", "11"]].concat()).assert_refused(&[
        "10 connections",
        "11 asked",
        "1 more address",
        "--source 127.",
    ]);
    refused(&[&target[..], &["--users", "45"]].concat()).assert_refused(&["4 more addresses"]);
    // The target's own port is not used as a source port, so of ten there are nine.
    refused(&[
        "--target",
        "127.0.0.1:1030",
        "--source",
        "127.0.0.1",
        "--ports",
        "1024-1033",
        "--users",
        "10",
    ])
    .assert_refused(&["9 connections"]);
}

#[test]
fn sources_of_another_family_are_refused_for_each_target() {
    let both = ["--target", "127.0.0.1:1,[::1]:1", "--source", "127.0.0.1"];
    refused(&both).assert_refused(&["[::1]:1", "no IPv6 source address", "next:"]);
    refused(&["--target", "127.0.0.1:1", "--source", "::1"]).assert_refused(&["IPv4", "next:"]);
}

#[test]
fn bad_values_are_refused_with_code_2() {
    let too_long = "m".repeat(16_385);
    for args in [
        &["--source", "127.0.0.1/33"][..],
        &["--source", "127.0.0.1/"],
        &["--source", "10.0.0.9-10.0.0.1"],
        &["--source", "somewhere"],
        &["--ports", "0-9"],
        &["--ports", "9-8"],
        &["--ports", "1024-70000"],
        &["--targets-file", "/nowhere/at/all"],
        &["--users", "0"],
        &["--users", "-1"],
        &["--users", "1000000001"],
        &["--users", "1000000000"],
        &["--spawn-rate", "0"],
        &["--spawn-rate", "-5"],
        &["--spawn-rate", "1e12"],
        &["--spawn-rate", "NaN"],
        &["--spawn-rate", "fast"],
        &["--run-time", "soon"],
        &["--interval", "1ms"],
        &["--run-time", "0s"],
        &["--send", "\\q", "--send-interval", "1s"],
        &["--lateness-max", "1s"],
        &["--interval", "5h"],
        &["--expect", &too_long],
        &["--send", "x"],
        &["--send-every", "1s"],
        &["--send", "x", "--send-every", "0s"],
        &["--reconnect", "--reconnect-pause", "0s"],
        &["--connect-timeout", "0s"],
        &["--drain-timeout", "0s"],
        &["--threads", "0"],
        &["--target", "127.0.0.1"],
        &["--target", "127.0.0.1:0"],
        &["--json", "/nowhere/at/all.json"],
        &["--histogram-log", "/nowhere/at/all.hlog"],
        &["--no-such-flag"],
    ] {
        let outcome =
            refused(&[&["--target", "127.0.0.1:7070", "--run-time", "1s"], args].concat());
        assert_eq!(outcome.code(), Some(2), "{args:.20?}: {}", outcome.errors);
        let first = outcome.errors.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("error: ") && first.len() > 20,
            "{args:.20?}: {first}"
        );
    }
    assert_eq!(refused(&["--users", "1"]).code(), Some(2), "no target");
}

/// The range of local ports is 32768 to 60999 in a new namespace: nothing that stops this program,
/// but any beside it.
#[test]
#[ignore = "needs namespaces: make test"]
fn too_small_kernel_settings_are_reported_with_the_command() {
    let said = crate::common::said_in_a_new_network(
        "holdfast-client",
        &["longconn", "--target", "127.0.0.1:7070", "--users", "20000"],
    );
    assert!(
        said.lines()
            .any(|line| line.starts_with("net.ipv4.ip_local_port_range ")
                && line.ends_with("holdfast-tune check --role client --connections 20000")),
        "{said}"
    );
}
