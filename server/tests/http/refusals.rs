//! What the server says when it cannot start: one line with cause and next command, exit code 2.

use std::net::TcpListener;

use holdfast_telemetry::wire::HttpServerReport;

use crate::Server;
use crate::common::{Outcome, Running, subcommand};

fn refusal(args: &[&str]) -> Outcome<HttpServerReport> {
    let mut command = subcommand("holdfast-server", "http", args);
    if !args.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    Running::start(command).outcome()
}

#[test]
fn a_port_in_use_names_who_has_it() {
    let first = Server::start(&[]);
    let listen = first.address.to_string();
    let pid = format!("pid {}", first.running.pid());
    refusal(&["--listen", &listen]).assert_refused(&["holdfast-server", &pid, "next:"]);
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = stranger.local_addr().unwrap().to_string();
    let pid = format!("pid {}", std::process::id());
    refusal(&["--listen", &listen]).assert_refused(&[&pid, "next:", "--listen"]);
}

#[test]
fn a_body_that_cannot_be_read_is_named() {
    let missing = refusal(&["--body-file", "/nowhere/at/all"]);
    missing.assert_refused(&["/nowhere/at/all", "next:", "--body-file"]);
    let folder = refusal(&["--body-file", "/tmp"]);
    folder.assert_refused(&["/tmp", "next:", "--body-file"]);
}

#[test]
fn times_out_of_range_name_their_flag() {
    for flag in [
        "--header-timeout",
        "--read-timeout",
        "--write-timeout",
        "--idle-timeout",
    ] {
        for value in ["0s", "9ms", "25h", "1000000h"] {
            refusal(&[flag, value]).assert_refused(&[flag, "next: give 10ms to 24h"]);
        }
    }
}

#[test]
fn bad_values_are_refused_with_code_2() {
    for (flag, value) in [
        ("--header", "no colon"),
        ("--header", ": no name"),
        ("--header", "a b: c"),
        ("--header", "a: b\r\nc: d"),
        ("--header", "a: \x01"),
        ("--header", "Content-Length: 5"),
        ("--header", "transfer-encoding: chunked"),
        ("--header", "CONNECTION: close"),
        ("--header", "Date: today"),
        ("--status", "199"),
        ("--status", "600"),
        ("--status", "ok"),
        ("--head-max", "255"),
        ("--head-max", "65537"),
        ("--target-max", "0"),
        ("--headers-max", "129"),
        ("--body-max", "-1"),
        ("--read-timeout", "5x"),
        ("--idle-timeout", "soon"),
        ("--listen", "127.0.0.1:x"),
        ("--listen", "unix:/run/holdfast"),
        ("--threads", "0"),
        ("--json", "/nowhere/at/all.json"),
        ("--no-such-flag", "1"),
    ] {
        let outcome = refusal(&[flag, value]);
        let said = &outcome.errors;
        assert_eq!(outcome.code(), Some(2), "{flag} {value}: {said}");
        let first = said.lines().next().unwrap_or_default();
        let names_it = said.contains(flag) || said.contains(value);
        assert!(
            first.starts_with("error: ") && names_it,
            "{flag} {value}: {said}"
        );
        // Ours say what to do next; what clap refuses points to --help, or names the values it
        // takes.
        let has_next = ["next:", "--help"].iter().any(|next| said.contains(next));
        assert!(has_next, "{flag} {value}: {said}");
        assert!(outcome.reports.is_empty(), "{flag} {value}");
    }
    let both = refusal(&["--body", "a", "--body-file", "b"]);
    assert_eq!(both.code(), Some(2), "{}", both.errors);
}
