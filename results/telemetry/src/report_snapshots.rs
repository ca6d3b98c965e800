//! What people see of the reports of server and client.
//!
//! Invariants: what is asked for a second is nobody's report: whoever knows it adds it
//! ([`Snapshot::with_target_rate`]).
//! Must not depend on: how snapshots are shown, who made a report.

use std::collections::BTreeMap;

use crate::live::{Counter, Group, Percentiles, Snapshot, Span};
use crate::wire::{
    ClientReport, HttpClientReport, HttpServerReport, Latency, RelayReport, ServerReport,
    WorkerReport,
};

impl Percentiles {
    /// The percentiles of a whole run so far.
    #[must_use]
    pub fn so_far(name: &'static str, latency: Latency) -> Self {
        let is_measured = latency.count > 0;
        Self {
            name,
            span: Span::Run,
            p50_us: is_measured.then_some(latency.p50),
            p99_us: is_measured.then_some(latency.p99),
        }
    }
}

impl From<&ClientReport> for Snapshot {
    fn from(report: &ClientReport) -> Self {
        let at = seconds(report.at_us);
        let bad_messages = [
            ("wrong".to_owned(), report.messages_wrong),
            ("missed".to_owned(), report.messages_missed),
        ];
        Self {
            phase: if report.ramp_done { "hold" } else { "ramp" },
            seconds: at,
            open: Some(report.open_now),
            target: Some(report.users_asked),
            counters: vec![
                Counter::new("opened", report.opened, at),
                Counter::new("messages", report.messages_received, at),
                Counter::new("bytes", report.bytes_received, at),
            ],
            groups: vec![
                Group::bad("failed", report.failed.clone()),
                Group::bad("lost", without(&report.ended, &["held"])),
                Group::bad("bad messages", bad_messages.into()),
            ],
            ..Self::default()
        }
    }
}

impl From<&HttpClientReport> for Snapshot {
    fn from(report: &HttpClientReport) -> Self {
        let at = seconds(report.at_us);
        let ok = report.outcomes.get("ok").copied().unwrap_or(0);
        let backlog = (report.backlog_max > 0).then(|| ("requests".to_owned(), report.backlog_now));
        Self {
            phase: if report.ramp_done { "run" } else { "ramp" },
            seconds: at,
            open: Some(report.open_now),
            target: Some(report.users_asked),
            counters: vec![
                Counter::new("opened", report.opened, at),
                Counter::new("ok", ok, at),
                Counter::new("bytes", report.bytes_received, at),
            ],
            groups: vec![
                Group::bad("failed", without(&report.outcomes, &["ok", "stopped"])),
                Group::bad("not opened", report.failed.clone()),
                Group::neutral("due, unsent", backlog.into_iter().collect()),
                Group::neutral("responses", report.responses.clone()),
            ],
            ..Self::default()
        }
    }
}

impl From<&WorkerReport> for Snapshot {
    fn from(report: &WorkerReport) -> Self {
        Self {
            title: format!("client worker {}", report.master),
            part: format!(
                "{} of {} workers known to the master, {} tests",
                report.workers_known,
                report.workers,
                report.runs.len()
            ),
            open: Some(report.users_now),
            ..Self::default()
        }
    }
}

impl From<&ServerReport> for Snapshot {
    fn from(report: &ServerReport) -> Self {
        let at = seconds(report.at_us);
        Self {
            title: format!("server longconn {}", report.listen.join(",")),
            phase: if report.accepted == 0 {
                "listening"
            } else {
                "holding"
            },
            seconds: at,
            open: Some(report.open_now),
            target: Some(report.capacity),
            counters: vec![
                Counter::new("accepted", report.accepted, at),
                Counter::new("messages", report.messages_sent, at),
                Counter::new("bytes", report.bytes_received, at),
            ],
            groups: vec![
                not_accepted(&report.accept_failed, report.refused_full),
                Group::neutral("ended", report.closed.clone()),
            ],
            ..Self::default()
        }
    }
}

impl From<&HttpServerReport> for Snapshot {
    fn from(report: &HttpServerReport) -> Self {
        let at = seconds(report.at_us);
        Self {
            title: format!("server http {}", report.listen.join(",")),
            phase: if report.accepted == 0 {
                "listening"
            } else {
                "answering"
            },
            seconds: at,
            open: Some(report.open_now),
            target: Some(report.capacity),
            counters: vec![
                Counter::new("accepted", report.accepted, at),
                Counter::new("responses", report.responses.values().sum(), at),
                Counter::new("bytes", report.bytes_received, at),
            ],
            groups: vec![
                not_accepted(&report.accept_failed, report.refused_full),
                Group::bad("timed out", report.timed_out.clone()),
                Group::neutral("statuses", report.responses.clone()),
                Group::neutral("ended", report.closed.clone()),
            ],
            ..Self::default()
        }
    }
}

impl From<&RelayReport> for Snapshot {
    fn from(report: &RelayReport) -> Self {
        let at = seconds(report.at_us);
        Self {
            title: format!("server relay {}", report.listen.join(",")),
            phase: if report.accepted == 0 {
                "listening"
            } else {
                "relaying"
            },
            seconds: at,
            open: Some(report.clients_now),
            target: Some(report.capacity),
            counters: vec![
                Counter::new("accepted", report.accepted, at),
                Counter::new("connected", report.connected, at),
                Counter::new("bytes", report.bytes_forwarded, at),
            ],
            groups: vec![
                not_accepted(&report.accept_failed, report.refused_full),
                Group::bad("connects failed", report.connect_failed.clone()),
                Group::neutral("ended", report.ended.clone()),
            ],
            ..Self::default()
        }
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// All counts but those of some kinds.
fn without(counts: &BTreeMap<String, u64>, kinds: &[&str]) -> BTreeMap<String, u64> {
    let others = counts
        .iter()
        .filter(|(kind, _)| !kinds.contains(&kind.as_str()));
    others.map(|(kind, n)| (kind.clone(), *n)).collect()
}

/// Connections a server did not take, by kind.
fn not_accepted(failed: &BTreeMap<String, u64>, refused_full: u64) -> Group {
    let mut counts = failed.clone();
    if refused_full > 0 {
        counts.insert("refused_full".to_owned(), refused_full);
    }
    Group::bad("not accepted", counts)
}
