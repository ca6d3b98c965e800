//! `holdfast-client worker` through its public interfaces: the real program under Locust's real
//! master, headless and through its web page in a real browser, and under a router that sends what
//! no master sends. The real server counts what the users did.
#![forbid(unsafe_code)]

#[path = "../../../server/tests/common/mod.rs"]
mod common;
#[path = "../longconn/hlog.rs"]
mod hlog;

mod browser;
mod headless;
mod loss;
mod master;
mod mixed;
#[path = "../longconn/peer.rs"]
#[allow(dead_code)] // These tests use their part of it.
mod peer;
mod refusals;
mod router;
mod web;
mod wire;

/// The program this package makes.
const OWN_PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-client");

use std::path::PathBuf;

use holdfast_telemetry::wire::{ClientReport, HttpClientReport, WorkerReport};

use common::{Outcome, Running, subcommand};

/// A worker of a master, with reports on standard output.
fn worker(master: &str, args: &[&str]) -> Running<WorkerReport> {
    let mut command = subcommand("holdfast-client", "worker", &["--master", master]);
    command.args(args);
    Running::start(command)
}

/// What the users of a class did in one test of a worker.
fn class_report<R: serde::de::DeserializeOwned>(
    report: &WorkerReport,
    run: usize,
    class: &str,
) -> R {
    let all = report
        .runs
        .get(run)
        .unwrap_or_else(|| panic!("no test {run}: {report:?}"));
    let own = all
        .get(class)
        .unwrap_or_else(|| panic!("no {class}: {report:?}"));
    serde_json::from_value(own.clone()).expect("a report")
}

/// What its long connections did.
fn longconn(outcome: &Outcome<WorkerReport>, run: usize) -> ClientReport {
    class_report(&outcome.last(), run, "LongConn")
}

/// What its HTTP users did.
fn http(outcome: &Outcome<WorkerReport>, run: usize) -> HttpClientReport {
    class_report(&outcome.last(), run, "Http")
}

/// A program of the Python that Locust lives in.
fn python(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("locust/.venv/bin")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing; next: make locust-venv",
        path.display()
    );
    path
}
