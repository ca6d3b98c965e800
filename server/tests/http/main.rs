//! `holdfast-server http` through its public doors: the real program, real sockets, clients that
//! others wrote and peers of the test's own, polite and not.
#![forbid(unsafe_code)]

#[path = "../common/mod.rs"]
mod common;

mod bodies;
mod drain;
mod malformed;
mod peer;
mod pipelines;
mod programs;
mod refusals;
mod responses;
mod rude;
mod slow_heads;
mod splitting;
mod timeouts;
mod upgrade;

use holdfast_telemetry::wire::HttpServerReport;

use common::{Outcome, ServerOf, sum};

/// The program this package makes.
const OWN_PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-server");

/// A server that answers HTTP, on a free port.
type Server = ServerOf<HttpServerReport>;

const MIB: u64 = 1 << 20;

/// Ends the server in order; its books are right in themselves and say what the peers counted.
fn books(server: Server, answered: u64) -> HttpServerReport {
    let report = closed_books(server.running.stop());
    assert_eq!(sum(&report.responses), answered, "{:?}", report.responses);
    report
}

/// The final report of a server that ended well: everyone who came has gone, for one reason each.
fn closed_books(outcome: Outcome<HttpServerReport>) -> HttpServerReport {
    assert_eq!(outcome.code(), Some(0), "{}", outcome.errors);
    let report = outcome.last();
    assert!(report.is_final);
    assert_eq!(report.open_now, 0);
    assert_eq!(sum(&report.closed), report.accepted, "{:?}", report.closed);
    for name in ["stale_completions", "unexpected"] {
        let anomalies = &report.anomalies;
        assert_eq!(common::count(anomalies, name), 0, "{anomalies:?}");
    }
    report
}
