//! `holdfast-client http` through its public doors: the real program against servers of the test's
//! own, which answer in every way a server can, and against real ones.
#![forbid(unsafe_code)]

#[path = "../../../server/tests/common/mod.rs"]
mod common;
#[path = "../longconn/peer.rs"]
#[allow(dead_code)] // These tests use their part of it.
mod peer;

mod answers;
mod books;
mod load;
mod names;
mod refusals;
mod server;
mod servers;
mod several_servers;

/// The program this package makes.
const OWN_PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-client");

use std::net::SocketAddr;
use std::process::Command;

use holdfast_telemetry::wire::HttpClientReport;

use common::{Outcome, Running, count, own_address, program, sum};

/// `holdfast-client http` with reports on standard output, which ends with this test.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(program("holdfast-client"));
    command
        .args(["http", "--progress", "json", "--die-with-parent"])
        .args(args);
    command
}

/// Users of a server, started.
fn client(target: SocketAddr, args: &[&str]) -> Running<HttpClientReport> {
    let (target, source) = (format!("http://{target}/path"), own_address().to_string());
    Running::start(command(
        &[&["--target", &target, "--source", &source], args].concat(),
    ))
}

/// Users of a server, run to the end. The books balance.
fn run(target: SocketAddr, args: &[&str]) -> Outcome<HttpClientReport> {
    let outcome = client(target, args).outcome();
    assert_balanced(&outcome);
    outcome
}

/// A client with just these arguments, run to the end. The books balance.
fn run_with(args: &[&str]) -> Outcome<HttpClientReport> {
    let outcome = Running::start(command(args)).outcome();
    assert_balanced(&outcome);
    outcome
}

/// Every request and every attempt is in exactly one class, and nothing is under way any more.
fn assert_balanced(outcome: &Outcome<HttpClientReport>) {
    let last = outcome.last();
    assert!(last.is_final, "{}", outcome.errors);
    assert_eq!(sum(&last.outcomes), last.requests, "{last:?}");
    assert_eq!(
        (last.pending_now, last.open_now, last.connecting_now),
        (0, 0, 0),
        "{last:?}"
    );
    assert_eq!(last.attempts, last.opened + sum(&last.failed), "{last:?}");
}

/// So many requests became each of these.
fn assert_outcomes<const N: usize>(last: &HttpClientReport, expected: [(&str, u64); N]) {
    let counts = expected.map(|(name, _)| (name, count(&last.outcomes, name)));
    assert_eq!(counts, expected, "{last:?}");
}
