//! All workers of a run, and the server, in the terms of a long-connection run.
//!
//! Purpose: pdsh prints the workers' lines with the host's name before each; [`WorkerReports`]
//! keeps the latest of each host, and [`WorkerReports::total`] is their sum. Requests count as
//! messages, so that HTTP users fill the same record.
//! Invariants: a worker that is gone has no users: what it had open is not counted any more.
//! Must not depend on: processes, hosts' namespaces.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use holdfast_telemetry::report_line::{Report, read_json};
use holdfast_telemetry::wire::{
    ClientReport, HTTP_SERVER_SCHEMA, HttpClientReport, HttpServerReport, SERVER_SCHEMA,
    ServerReport, WORKER_SCHEMA, WorkerReport,
};

/// The latest line of each worker, by host.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct WorkerReports {
    latest: BTreeMap<String, WorkerReport>,
}

/// What one worker's users did.
#[derive(Debug, Clone, Default)]
pub struct UserTotals {
    /// Connections and messages.
    pub report: ClientReport,
    /// What became of requests, by class; empty for long connections.
    pub outcomes: BTreeMap<String, u64>,
}

impl Report for WorkerReports {
    fn read(line: &str) -> Result<Self, String> {
        let (host, line) = line.split_once(": ").ok_or("no host before it")?;
        let report = read_json(line, WORKER_SCHEMA, |r: &WorkerReport| &r.schema)?;
        Ok(Self {
            latest: [(host.to_owned(), report)].into(),
        })
    }

    fn is_final(&self) -> bool {
        false
    }

    fn absorb(latest: &mut Option<Self>, new: Self) {
        latest.get_or_insert_default().latest.extend(new.latest);
    }
}

impl WorkerReports {
    /// Hosts whose workers have said something.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.latest.keys().map(String::as_str)
    }

    /// Workers the master knows.
    #[must_use]
    pub fn known(&self) -> usize {
        self.latest.values().map(|r| r.workers_known).sum()
    }

    /// Whether a host's worker has ended in order.
    #[must_use]
    pub fn has_ended(&self, host: &str) -> bool {
        self.latest.get(host).is_some_and(|r| r.is_final)
    }

    /// What the worker of one host has done in its last test.
    #[must_use]
    pub fn of(&self, host: &str, class: &str) -> UserTotals {
        let report = self.latest.get(host);
        let run = report.and_then(|r| r.runs.last());
        let mut totals = run
            .and_then(|run| run.get(class))
            .map(|value| totals_of(class, value))
            .unwrap_or_default();
        totals.report.is_final = self.has_ended(host);
        totals
    }

    /// All of them together; hosts that are `gone` have nothing open.
    #[must_use]
    pub fn total(&self, class: &str, gone: &BTreeSet<String>) -> UserTotals {
        let mut sum = UserTotals::default();
        sum.report.is_final = !self.latest.is_empty();
        sum.report.ramp_done = !self.latest.is_empty();
        for host in self.hosts() {
            let mut one = self.of(host, class);
            if gone.contains(host) {
                (one.report.open_now, one.report.connecting_now) = (0, 0);
            }
            add(&mut sum, &one);
        }
        sum
    }
}

fn totals_of(class: &str, value: &serde_json::Value) -> UserTotals {
    if class == "Http" {
        let report: HttpClientReport = serde_json::from_value(value.clone()).unwrap_or_default();
        return of_http(report);
    }
    UserTotals {
        report: serde_json::from_value(value.clone()).unwrap_or_default(),
        outcomes: BTreeMap::new(),
    }
}

fn of_http(r: HttpClientReport) -> UserTotals {
    let report = ClientReport {
        head: r.head,
        ramp_done: r.ramp_done,
        ramp_seconds: r.ramp_seconds,
        messages_received: r.outcomes.get("ok").copied().unwrap_or(0),
        bytes_received: r.bytes_received,
        connect_us: r.connect_us,
        lateness_us: r.latency_us,
        anomalies: r.anomalies,
        ..ClientReport::default()
    };
    UserTotals {
        report,
        outcomes: r.outcomes,
    }
}

fn add(sum: &mut UserTotals, one: &UserTotals) {
    let (s, r) = (&mut sum.report, &one.report);
    s.is_final &= r.is_final;
    s.ramp_done &= r.ramp_done;
    s.at_us = s.at_us.max(r.at_us);
    s.ramp_seconds = s.ramp_seconds.max(r.ramp_seconds);
    s.thread_count += r.thread_count;
    s.shard_count += r.shard_count;
    s.users_asked += r.users_asked;
    s.attempts += r.attempts;
    s.opened += r.opened;
    s.open_now += r.open_now;
    s.connecting_now += r.connecting_now;
    s.messages_received += r.messages_received;
    s.messages_wrong += r.messages_wrong;
    s.messages_missed += r.messages_missed;
    s.messages_sent += r.messages_sent;
    s.bytes_received += r.bytes_received;
    // Percentiles cannot be added: until the histograms are merged, the slowest worker's stand for
    // all.
    if r.connect_us.p99 >= s.connect_us.p99 {
        s.connect_us = r.connect_us;
    }
    if r.lateness_us.p99 >= s.lateness_us.p99 {
        s.lateness_us = r.lateness_us;
    }
    for (into, from) in [
        (&mut s.head.failed, &r.failed),
        (&mut s.ended, &r.ended),
        (&mut s.anomalies, &r.anomalies),
        (&mut sum.outcomes, &one.outcomes),
    ] {
        for (name, n) in from {
            *into.entry(name.clone()).or_default() += n;
        }
    }
}

/// A server of either kind; responses count as messages.
#[derive(Debug, Clone, Default)]
pub struct AnyServer(pub ServerReport);

impl Report for AnyServer {
    fn read(line: &str) -> Result<Self, String> {
        if !line.contains(HTTP_SERVER_SCHEMA) {
            return read_json(line, SERVER_SCHEMA, |r: &ServerReport| &r.schema).map(Self);
        }
        let r = read_json(line, HTTP_SERVER_SCHEMA, |r: &HttpServerReport| &r.schema)?;
        Ok(Self(ServerReport {
            head: r.head,
            messages_sent: r.responses.get("200").copied().unwrap_or(0),
            bytes_received: r.bytes_received,
            turns: BTreeMap::new(),
            anomalies: r.anomalies,
        }))
    }

    fn is_final(&self) -> bool {
        self.0.is_final
    }
}

#[cfg(test)]
mod tests {
    use holdfast_telemetry::wire::ClientHead;

    use super::*;

    fn line(host: &str, open: u64, received: u64) -> WorkerReports {
        let report = ClientReport {
            head: ClientHead {
                open_now: open,
                opened: open,
                failed: [("refused".to_string(), 1)].into(),
                ..ClientHead::default()
            },
            messages_received: received,
            ..ClientReport::default()
        };
        let worker = WorkerReport {
            schema: WORKER_SCHEMA.into(),
            workers_known: 1,
            runs: vec![
                [(
                    "LongConn".to_string(),
                    serde_json::to_value(report).expect("writes"),
                )]
                .into(),
            ],
            ..WorkerReport::default()
        };
        let text = serde_json::to_string(&worker).expect("writes");
        WorkerReports::read(&format!("{host}: {text}")).expect("reads")
    }

    #[test]
    fn workers_add_up_by_their_latest_lines() {
        let mut all = None;
        for new in [
            line("client1", 1, 0),
            line("client2", 20, 7),
            line("client1", 10, 5),
        ] {
            WorkerReports::absorb(&mut all, new);
        }
        let all = all.expect("lines");
        assert_eq!((all.hosts().count(), all.known()), (2, 2));
        let total = all.total("LongConn", &BTreeSet::new());
        assert_eq!(
            (total.report.open_now, total.report.messages_received),
            (30, 12)
        );
        assert_eq!(total.report.failed["refused"], 2);
        let gone = ["client2".to_string()].into();
        assert_eq!(all.total("LongConn", &gone).report.open_now, 10);
        assert!(
            WorkerReports::read("no host").is_err() && WorkerReports::read("client1: {}").is_err()
        );
    }
}
