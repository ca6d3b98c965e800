//! What is told of requests: Locust's statistics, gathered between two reports to the master.
//!
//! Invariants: what was added is in exactly one report; a minimum that was not measured is nil, never 0; response times are in Locust's
//! buckets; a text of an error is one of a fixed number.
//! Must not know: connections, where the numbers come from.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use rmpv::Value;
use sha2::{Digest, Sha256};

use super::message::map;

/// What happened under one name since the last time.
#[derive(Debug)]
pub struct Row {
    /// Name in Locust's tables.
    pub name: String,
    /// Method in Locust's tables.
    pub method: &'static str,
    /// Requests, failed ones too.
    pub requests: u64,
    /// How long they took, microseconds, as far as that is known.
    pub times_us: Histogram<u64>,
    /// Failed requests, by what happened.
    pub failures: Vec<(String, u64)>,
    /// Bytes received.
    pub bytes: u64,
}

/// One line of statistics.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Entry {
    /// Name and method.
    pub name: (String, String),
    /// When the last request was, seconds since 1970.
    pub last_request: Option<f64>,
    /// The beginning of the time that is reported on.
    pub start: f64,
    /// Requests, failed ones too.
    pub requests: u64,
    /// Those of them whose time is not known.
    pub none_requests: u64,
    /// Failed ones.
    pub failures: u64,
    /// Milliseconds in all.
    pub total_ms: f64,
    /// Most milliseconds.
    pub max_ms: f64,
    /// Fewest milliseconds.
    pub min_ms: Option<f64>,
    /// Bytes received.
    pub bytes: u64,
    /// Requests by Locust's buckets of milliseconds.
    pub times: BTreeMap<u64, u64>,
    /// Requests by the second they were in.
    pub per_second: BTreeMap<i64, u64>,
    /// Failures by the second they were in.
    pub failures_per_second: BTreeMap<i64, u64>,
}

/// A kind of failure.
#[derive(Debug, Clone)]
struct Failure {
    name: (String, String),
    what: String,
    occurrences: u64,
    first_seen: f64,
    last_seen: f64,
}

/// Everything since the last report.
#[derive(Debug, Default)]
pub struct Stats {
    entries: Vec<Entry>,
    total: Entry,
    failures: BTreeMap<String, Failure>,
}

/// Locust's bucket of a time: two digits of it, halves to even.
pub fn bucket_ms(ms: f64) -> u64 {
    let unit = match ms {
        ms if ms < 100.0 => 1.0,
        ms if ms < 1_000.0 => 10.0,
        ms if ms < 10_000.0 => 100.0,
        _ => 1_000.0,
    };
    ((ms / unit).round_ties_even() * unit) as u64
}

/// The name Locust gives a kind of failure, so that ours and those of Python's workers are one.
fn failure_key(method: &str, name: &str, what: &str) -> String {
    let quote = if what.contains('\'') && !what.contains('"') {
        '"'
    } else {
        '\''
    };
    let digest = Sha256::digest(format!("{method}.{name}.{quote}{what}{quote}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A number as Python has it: 0 where nothing was added.
fn number(value: f64) -> Value {
    if value == 0.0 { 0.into() } else { value.into() }
}

impl Entry {
    fn add(&mut self, row: &Row, now: f64, second: i64) {
        let failed: u64 = row.failures.iter().map(|(_, count)| count).sum();
        self.requests += row.requests;
        self.none_requests += row.requests.saturating_sub(row.times_us.len());
        self.failures += failed;
        self.bytes += row.bytes;
        if row.requests > 0 {
            self.last_request = Some(now);
            *self.per_second.entry(second).or_default() += row.requests;
        }
        if failed > 0 {
            *self.failures_per_second.entry(second).or_default() += failed;
        }
        if row.times_us.is_empty() {
            return;
        }
        for value in row.times_us.iter_recorded() {
            let (ms, count) = (
                value.value_iterated_to() as f64 / 1e3,
                value.count_at_value(),
            );
            self.total_ms += ms * count as f64;
            *self.times.entry(bucket_ms(ms)).or_default() += count;
        }
        let (least, most) = (
            row.times_us.min() as f64 / 1e3,
            row.times_us.max() as f64 / 1e3,
        );
        self.max_ms = self.max_ms.max(most);
        self.min_ms = Some(self.min_ms.map_or(least, |ms| ms.min(least)));
    }

    /// As Locust has it on the wire.
    pub fn to_value(&self) -> Value {
        let counts = |counts: &BTreeMap<i64, u64>| {
            Value::Map(
                counts
                    .iter()
                    .map(|(k, n)| ((*k).into(), (*n).into()))
                    .collect(),
            )
        };
        let times = self.times.iter().map(|(k, n)| ((*k).into(), (*n).into()));
        map([
            ("name", (&*self.name.0).into()),
            ("method", (&*self.name.1).into()),
            (
                "last_request_timestamp",
                self.last_request.map_or(Value::Nil, Value::from),
            ),
            ("start_time", self.start.into()),
            ("num_requests", self.requests.into()),
            ("num_none_requests", self.none_requests.into()),
            ("num_failures", self.failures.into()),
            ("total_response_time", number(self.total_ms)),
            ("max_response_time", number(self.max_ms)),
            (
                "min_response_time",
                self.min_ms.map_or(Value::Nil, Value::from),
            ),
            ("total_content_length", self.bytes.into()),
            ("response_times", Value::Map(times.collect())),
            ("num_reqs_per_sec", counts(&self.per_second)),
            ("num_fail_per_sec", counts(&self.failures_per_second)),
        ])
    }
}

impl Stats {
    /// Statistics from `now` on, seconds since 1970.
    pub fn new(now: f64) -> Self {
        let mut stats = Stats::default();
        stats.reset(now);
        stats
    }

    /// Forgets everything.
    pub fn reset(&mut self, now: f64) {
        self.entries.clear();
        self.failures.clear();
        self.total = Entry {
            name: ("Aggregated".to_owned(), String::new()),
            start: now,
            ..Entry::default()
        };
    }

    /// Adds what happened in a second.
    pub fn add(&mut self, row: &Row, now: f64, second: i64) {
        let name = (row.name.clone(), row.method.to_owned());
        let at = self.entries.iter().position(|entry| entry.name == name);
        let at = at.unwrap_or_else(|| {
            self.entries.push(Entry {
                name: name.clone(),
                start: self.total.start,
                ..Entry::default()
            });
            self.entries.len() - 1
        });
        self.entries[at].add(row, now, second);
        self.total.add(row, now, second);
        for (what, count) in row.failures.iter().filter(|(_, count)| *count > 0) {
            let key = failure_key(row.method, &row.name, what);
            let failure = self.failures.entry(key).or_insert_with(|| Failure {
                name: name.clone(),
                what: what.clone(),
                occurrences: 0,
                first_seen: now,
                last_seen: now,
            });
            failure.occurrences += count;
            failure.last_seen = now;
        }
    }

    /// The report since the last one: `stats`, `stats_total` and `errors`. While a test runs, idle seconds are requests' seconds too,
    /// or the master's rate would stand still instead of falling.
    pub fn take(&mut self, now: f64, is_running: bool) -> [(&'static str, Value); 3] {
        if is_running {
            self.total.last_request = Some(now);
        }
        let told = self
            .entries
            .iter()
            .filter(|e| e.requests > 0 || e.failures > 0);
        let entries = Value::Array(told.map(Entry::to_value).collect());
        let failures = self.failures.iter().map(|(key, failure)| {
            let value = map([
                ("name", (&*failure.name.0).into()),
                ("method", (&*failure.name.1).into()),
                ("error", (&*failure.what).into()),
                ("occurrences", failure.occurrences.into()),
                ("first_seen", failure.first_seen.into()),
                ("last_seen", failure.last_seen.into()),
            ]);
            ((&**key).into(), value)
        });
        let report = [
            ("stats", entries),
            ("stats_total", self.total.to_value()),
            ("errors", Value::Map(failures.collect())),
        ];
        self.reset(now);
        report
    }
}
