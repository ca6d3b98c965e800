//! What the client says when it cannot start: cause and next command, exit code 2.

use holdfast_telemetry::wire::HttpClientReport;

use crate::command;
use crate::common::{Outcome, Running};

fn refused(args: &[&str]) -> Outcome<HttpClientReport> {
    let outcome = Running::start(command(args)).outcome();
    assert!(outcome.reports.is_empty(), "{args:?}");
    outcome
}

#[test]
fn https_is_refused_with_the_way_out() {
    let outcome = refused(&["--target", "https://127.0.0.1/"]);
    assert_eq!(outcome.code(), Some(2));
    let first = outcome.errors.lines().next().unwrap_or_default();
    assert!(
        first.contains("https") && first.contains("next: "),
        "{first}"
    );
}

#[test]
fn unknown_hosts_and_too_few_addresses_are_named() {
    refused(&["--target", "http://no-such-host.invalid/"])
        .assert_refused(&["no-such-host.invalid", "next:"]);
    let ports = [
        "--source",
        "127.0.0.1",
        "--ports",
        "1024-1033",
        "--users",
        "11",
    ];
    refused(&[&["--target", "http://127.0.0.1:7070/"], &ports[..]].concat()).assert_refused(&[
        "10 connections",
        "11 asked",
        "1 more address",
    ]);
}

#[test]
fn bad_values_are_refused_with_code_2() {
    for args in [
        &["--target", "ftp://127.0.0.1/"][..],
        &["--target", "unix:/run/server"],
        &[
            "--target",
            "http://127.0.0.1/a",
            "--target",
            "http://127.0.0.2/b",
        ],
        &["--targets-file", "/nowhere/at/all"],
        &["--targets-file", "/dev/null"],
        &["--run-time", "0s"],
        &["--resolve", "a:80"],
        &["--wait", "1s..100ms"],
        &["--wait", "1us"],
        &["--wait", "5h"],
        &["--wait", "1s", "--rate", "5"],
        &["--rate", "0"],
        &["--rate", "1e12"],
        &["--requests", "0"],
        &["--pipeline", "0"],
        &["--pipeline", "129"],
        &["--method", "GET /"],
        &["--method", "CONNECT"],
        &["--header", "X"],
        &["--header", "X: a\r\nY: b"],
        &["--header", "Content-Length: 5"],
        &["--body", "x", "--body-file", "y"],
        &["--body-file", "/nowhere/at/all"],
        &["--expect-status", "100"],
        &["--expect-status", "2x"],
        &["--timeout", "0s"],
        &["--timeout", "1ms"],
        &["--run-time", "1s", "--warm-up", "1s"],
        &["--connect-timeout", "0s"],
        &["--drain-timeout", "0s"],
        &["--json", "/nowhere/at/all.json"],
        &["--histogram-log", "/nowhere/at/all.hlog"],
        &["--every", "1s"],
    ] {
        let outcome = if args[0] == "--target" {
            refused(args)
        } else {
            refused(&[&["--target", "http://127.0.0.1:7070/"], args].concat())
        };
        assert_eq!(outcome.code(), Some(2), "{args:?}: {}", outcome.errors);
        let first = outcome.errors.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("error: ") && first.len() > 20,
            "{args:?}: {first}"
        );
    }
    assert_eq!(refused(&["--users", "1"]).code(), Some(2), "no target");
}
