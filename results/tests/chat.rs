//! The real `holdfast-bench chat`: small runs of the real servers and members, and of a server that loses messages.
//!
//! They need our examples built: `cargo build --workspace --examples` does.
#![forbid(unsafe_code)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use common::{Stage, assert_interrupted, assert_named, assert_refused, send, stderr};
use holdfast_report::header::Verdict;
use holdfast_report::http::record::{CHAT_RUN_SCHEMA, HttpRun};
use nix::sys::signal::Signal;

const FLAGS: &[&str] = &["chat", "--rounds", "1", "--messages", "3"];

/// Where our examples are.
fn built() -> PathBuf {
    let bench = Path::new(env!("CARGO_BIN_EXE_holdfast-bench"));
    let bin_dir = bench.parent().expect("a folder");
    for example in ["chat", "bare_chat", "chat_members", "chat_tokio"] {
        assert!(
            bin_dir.join("examples").join(example).is_file(),
            "{example} is not built; next: cargo build --workspace --examples"
        );
    }
    bin_dir.into()
}

fn run(stage: &Stage, args: &[&str]) -> (Output, HttpRun) {
    let output = stage.bench(args).output().expect("runs");
    let run = stage.record();
    stage.assert_nothing_runs();
    (output, run)
}

#[test]
fn every_server_delivers_every_message_to_every_member_once() {
    let stage = Stage::new("real", "", "", FLAGS);
    let bin_dir = built().display().to_string();
    let subjects = "holdfast,baseline,tokio";
    let args = [
        "--bin-dir",
        &bin_dir,
        "--members",
        "300",
        "--subjects",
        subjects,
    ];
    let (output, run) = run(&stage, &args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(run.header.schema, CHAT_RUN_SCHEMA);
    let names: Vec<_> = run
        .scenarios
        .iter()
        .map(|e| (&*e.scenario, &*e.subject))
        .collect();
    let expected = ["holdfast", "floor", "tokio"].map(|subject| ("members-300", subject));
    assert_eq!(names, expected);
    for entry in &run.scenarios {
        assert!(entry.failures.is_empty(), "{entry:?}");
        let measured = &entry.measured[0];
        assert_eq!((measured.requests, measured.idle_connections), (900, 300));
        assert!(measured.server_cpu_seconds > 0.0 && measured.client_cpu_seconds > 0.0);
        let each = measured.latency_us.expect("measured");
        let last = measured.last_us.expect("measured");
        assert_eq!((each.count, last.count), (900, 3));
        assert!(each.p50 <= last.p50 && each.max == last.max, "{entry:?}");
        assert!(entry.rss_bytes_per_connection.is_some());
    }
    let ratio = &run.ratios[0];
    assert!(ratio.ours_over_floor.is_some() && ratio.tokio_over_ours.is_some());
    let latest = stage.runs().join("latest");
    let page = std::fs::read_to_string(latest.join("report.md")).expect("a report");
    assert!(
        page.contains("Server CPU seconds per million messages") || page.contains("Messages/s")
    );
}

#[test]
#[ignore = "needs python3; next: make test"]
fn a_member_that_gets_a_message_twice_or_never_fails_the_run() {
    let stage = Stage::new("wrong", "", "", FLAGS);
    let bin_dir = built();
    // The baseline in the place of our server, behind a proxy that repeats what comes for one member.
    let own = stage.runs().with_file_name("bin").join("examples");
    std::fs::create_dir_all(&own).expect("a folder");
    for example in ["bare_chat", "chat_members"] {
        std::os::unix::fs::symlink(bin_dir.join("examples").join(example), own.join(example))
            .expect("a link");
    }
    let twice = r#"#!/usr/bin/env python3
import socket, sys, threading
host, port = sys.argv[1].rsplit(':', 1)
listener = socket.create_server((host, int(port)), backlog=64)
print('listening', flush=True)
members = []
def serve(member):
    while line := member.recv(32, socket.MSG_WAITALL):
        for number, other in enumerate(members):
            other.sendall(line * (2 if number == 3 else 1))
while True:
    members.append(listener.accept()[0])
    threading.Thread(target=serve, args=members[-1:], daemon=True).start()
"#;
    common::write_program(&own.join("chat"), twice);
    let (output, run) = run(&stage, &["--members", "8", "--subjects", "holdfast"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(run.header.verdict, Verdict::Fail);
    // Two batches of three messages of 32 bytes.
    assert_eq!(run.scenarios[0].failures.get("invalid_bytes"), Some(&192));
    assert_named(&run.header.reasons, "invalid_bytes 192");
}

#[test]
fn interrupt_stops_all_and_leaves_a_record() {
    let stage = Stage::new("interrupt", "", "", FLAGS);
    let bin_dir = built().display().to_string();
    let bench = stage.start(&[
        "--bin-dir",
        &bin_dir,
        "--members",
        "8",
        "--messages",
        "10000",
    ]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    send(&bench, Signal::SIGINT);
    let output = bench.wait_with_output().expect("ends");
    assert_interrupted(&output, &stage.record::<HttpRun>().header);
    stage.assert_nothing_runs();
}

#[test]
fn what_is_missing_is_named() {
    let stage = Stage::new("missing", "", "", FLAGS);
    let output = stage.bench(&[]).output().expect("runs");
    assert_refused(&output, "examples/chat is missing");
    let output = stage.bench(&["--members", "1"]).output().expect("runs");
    assert_refused(&output, "1 is out of range");
}
