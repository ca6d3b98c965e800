//! What the reports of our users are in Locust's tables.
//!
//! Long connections: `connect` counts attempts, timed from their intended start; `recv` counts messages, timed by how late they were,
//! and as failures what was wrong, missed or lost. HTTP users: one row with the method and the path, timed from when a request was due.
//! The time of what failed is not known. What ended because users were taken away is no request.
//! Invariants: all of a class's reports together count each event once.
//! Must not know: engines, the wire.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use holdfast_telemetry::wire::{ClientReport, HttpClientReport};

use super::stats::Row;
use crate::aggregate::histogram;
use holdfast_supervisor::histogram_log::Intervals;

/// Ends of connections that are no loss, or were counted as messages.
const NO_LOSS: [&str; 6] = [
    "held",
    "stopped",
    "cut",
    "closed_by_us",
    "wrong_data",
    "missed_message",
];

/// What grew, by name, but for some.
fn growth(
    now: &BTreeMap<String, u64>,
    before: &BTreeMap<String, u64>,
    except: &[&str],
) -> Vec<(String, u64)> {
    let told = now.iter().filter(|(name, _)| !except.contains(&&***name));
    let grown = told.map(|(name, count)| {
        let count = count - before.get(name).copied().unwrap_or(0);
        (name.replace('_', " "), count)
    });
    grown.filter(|(_, count)| *count > 0).collect()
}

fn taken(intervals: &mut Intervals, tag: &str) -> Histogram<u64> {
    let at = intervals.iter().position(|(t, _)| *t == tag);
    at.map_or_else(histogram, |at| intervals.swap_remove(at).1)
}

fn sum(counts: &[(String, u64)]) -> u64 {
    counts.iter().map(|(_, count)| count).sum()
}

/// What long connections did between two reports.
pub fn longconn(now: &ClientReport, before: &ClientReport, mut intervals: Intervals) -> Vec<Row> {
    let failed = growth(&now.failed, &before.failed, &["cancelled"]);
    let mut bad = growth(&now.ended, &before.ended, &NO_LOSS);
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
        method: "TCP",
        requests: now.opened - before.opened + sum(&failed),
        times_us: taken(&mut intervals, "connect"),
        failures: failed,
        bytes: 0,
    };
    let receive = Row {
        name: "recv".to_owned(),
        method: "TCP",
        requests: now.messages_received - before.messages_received + sum(&bad),
        times_us: taken(&mut intervals, "lateness"),
        failures: bad,
        bytes: now.bytes_received - before.bytes_received,
    };
    vec![connect, receive]
}

/// What HTTP users did between two reports, who all ask the same.
pub fn http(
    now: &HttpClientReport,
    before: &HttpClientReport,
    mut intervals: Intervals,
    (method, path): (&'static str, &str),
) -> Vec<Row> {
    let failed = growth(&now.outcomes, &before.outcomes, &["ok", "stopped"]);
    let ok = |report: &HttpClientReport| report.outcomes.get("ok").copied().unwrap_or(0);
    vec![Row {
        name: path.to_owned(),
        method,
        requests: ok(now) - ok(before) + sum(&failed),
        times_us: taken(&mut intervals, "latency"),
        failures: failed,
        bytes: now.bytes_received - before.bytes_received,
    }]
}
