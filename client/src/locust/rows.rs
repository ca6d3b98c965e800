//! Turns the reports of our users into rows of Locust's tables.
//!
//! Long connections: `connect` counts attempts, timed from their intended start; `recv` counts
//! messages, timed by their lateness, with wrong and missed messages and lost connections as
//! failures. HTTP users: one row with method and path, timed from when a request was due. Failures
//! have no time. A connection or request that ended because its user was stopped counts nowhere.
//! Invariants: all rows of a class together count each event once.
//! Must not depend on: engines, the wire format.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use holdfast_telemetry::wire::{ClientReport, HttpClientReport};

use super::stats::Row;
use crate::aggregate::histogram;
use holdfast_supervisor::histogram_log::Intervals;

/// Ends of connections that are not failures, or were counted as messages already.
const NOT_LOST: [&str; 6] = [
    "held",
    "stopped",
    "cut",
    "closed_by_us",
    "wrong_data",
    "missed_message",
];

/// Counts that grew, by name, without those in `except`.
fn growth(
    now: &BTreeMap<String, u64>,
    before: &BTreeMap<String, u64>,
    except: &[&str],
) -> Vec<(String, u64)> {
    let counted = now.iter().filter(|(name, _)| !except.contains(&&***name));
    let grown = counted.map(|(name, count)| {
        let count = count - before.get(name).copied().unwrap_or(0);
        (name.replace('_', " "), count)
    });
    grown.filter(|(_, count)| *count > 0).collect()
}

fn take(intervals: &mut Intervals, tag: &str) -> Histogram<u64> {
    let at = intervals.iter().position(|(t, _)| *t == tag);
    at.map_or_else(histogram, |at| intervals.swap_remove(at).1)
}

fn sum(counts: &[(String, u64)]) -> u64 {
    counts.iter().map(|(_, count)| count).sum()
}

/// Rows of long connections, for the time between two reports.
pub fn longconn(now: &ClientReport, before: &ClientReport, mut intervals: Intervals) -> Vec<Row> {
    let failed = growth(&now.failed, &before.failed, &["cancelled"]);
    let mut bad = growth(&now.ended, &before.ended, &NOT_LOST);
    bad.push((
        "wrong message".to_owned(),
        now.messages_wrong - before.messages_wrong,
    ));
    bad.push((
        "missed message".to_owned(),
        now.messages_missed - before.messages_missed,
    ));
    let connect = Row {
        name: "connect".to_owned(),
        method: "TCP".to_owned(),
        requests: now.opened - before.opened + sum(&failed),
        times_us: take(&mut intervals, "connect"),
        failures: failed,
        bytes: 0,
    };
    let receive = Row {
        name: "recv".to_owned(),
        method: "TCP".to_owned(),
        requests: now.messages_received - before.messages_received + sum(&bad),
        times_us: take(&mut intervals, "lateness"),
        failures: bad,
        bytes: now.bytes_received - before.bytes_received,
    };
    vec![connect, receive]
}

/// Rows of HTTP users, for the time between two reports. All send the same request.
pub fn http(
    now: &HttpClientReport,
    before: &HttpClientReport,
    mut intervals: Intervals,
    (method, path): (&str, &str),
) -> Vec<Row> {
    let failed = growth(&now.outcomes, &before.outcomes, &["ok", "stopped"]);
    let ok = |report: &HttpClientReport| report.outcomes.get("ok").copied().unwrap_or(0);
    vec![Row {
        name: path.to_owned(),
        method: method.to_owned(),
        requests: ok(now) - ok(before) + sum(&failed),
        times_us: take(&mut intervals, "latency"),
        failures: failed,
        bytes: now.bytes_received - before.bytes_received,
    }]
}
