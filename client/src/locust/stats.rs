//! Statistics in Locust's form, accumulated between two reports to the master.
//!
//! Invariants: everything added is in exactly one report; a minimum that was not measured is nil,
//! never 0; response times are in Locust's buckets; the number of distinct error texts is bounded.
//! Must not depend on: connections, the source of the numbers.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use rmpv::Value;
use sha2::{Digest, Sha256};

use super::message::map;

/// Requests of one name since the last collection.
#[derive(Debug)]
pub struct Row {
    /// Name in Locust's tables.
    pub name: String,
    /// Method in Locust's tables.
    pub method: String,
    /// Requests, including failed ones.
    pub requests: u64,
    /// Response times, microseconds; failures have none.
    pub times_us: Histogram<u64>,
    /// Failed requests, by error text.
    pub failures: Vec<(String, u64)>,
    /// Bytes received.
    pub bytes: u64,
}

/// One line of statistics.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Entry {
    /// Name and method.
    pub name: (String, String),
    /// Time of the last request, seconds since 1970.
    pub last_request: Option<f64>,
    /// Start of the reported interval, seconds since 1970.
    pub start: f64,
    /// Requests, including failed ones.
    pub requests: u64,
    /// Those of them without a response time.
    pub none_requests: u64,
    /// Failed requests.
    pub failures: u64,
    /// Sum of response times, milliseconds.
    pub total_ms: f64,
    /// Longest response time, milliseconds.
    pub max_ms: f64,
    /// Shortest response time, milliseconds.
    pub min_ms: Option<f64>,
    /// Bytes received.
    pub bytes: u64,
    /// Requests by Locust's bucket of their response time, milliseconds.
    pub times: BTreeMap<u64, u64>,
    /// Requests by second.
    pub per_second: BTreeMap<i64, u64>,
    /// Failures by second.
    pub failures_per_second: BTreeMap<i64, u64>,
}

/// A kind of failure.
#[derive(Debug, Clone)]
struct Failure {
    name: (String, String),
    error: String,
    occurrences: u64,
    first_seen: f64,
    last_seen: f64,
}

/// Statistics since the last report.
#[derive(Debug)]
pub struct Stats {
    entries: Vec<Entry>,
    total: Entry,
    failures: BTreeMap<String, Failure>,
}

/// Locust's bucket of a response time: two significant digits, halves to even.
pub fn bucket_ms(ms: f64) -> u64 {
    let unit = match ms {
        ms if ms < 100.0 => 1.0,
        ms if ms < 1_000.0 => 10.0,
        ms if ms < 10_000.0 => 100.0,
        _ => 1_000.0,
    };
    ((ms / unit).round_ties_even() * unit) as u64
}

/// Locust's key of an error, so that ours and those of Python workers are merged.
fn failure_key(method: &str, name: &str, what: &str) -> String {
    let quote = if what.contains('\'') && !what.contains('"') {
        '"'
    } else {
        '\''
    };
    let digest = Sha256::digest(format!("{method}.{name}.{quote}{what}{quote}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A sum as Python encodes it: the integer 0 if nothing was added.
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

    /// The entry in Locust's wire format.
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
        Stats {
            entries: Vec::new(),
            total: Entry {
                name: ("Aggregated".to_owned(), String::new()),
                start: now,
                ..Entry::default()
            },
            failures: BTreeMap::new(),
        }
    }

    /// Discards everything.
    pub fn reset(&mut self, now: f64) {
        *self = Stats::new(now);
    }

    /// Adds the requests of a second.
    pub fn add(&mut self, row: &Row, now: f64, second: i64) {
        let name = (row.name.clone(), row.method.clone());
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
            let key = failure_key(&row.method, &row.name, what);
            let failure = self.failures.entry(key).or_insert_with(|| Failure {
                name: name.clone(),
                error: what.clone(),
                occurrences: 0,
                first_seen: now,
                last_seen: now,
            });
            failure.occurrences += count;
            failure.last_seen = now;
        }
    }

    /// The statistics since the last report: `stats`, `stats_total` and `errors`. While a test
    /// runs, the last request is always now: otherwise the master's rate would freeze during idle
    /// seconds instead of falling.
    pub fn take_report(&mut self, now: f64, is_running: bool) -> [(&'static str, Value); 3] {
        if is_running {
            self.total.last_request = Some(now);
        }
        let reported = self
            .entries
            .iter()
            .filter(|e| e.requests > 0 || e.failures > 0);
        let entries = Value::Array(reported.map(Entry::to_value).collect());
        let failures = self.failures.iter().map(|(key, failure)| {
            let value = map([
                ("name", (&*failure.name.0).into()),
                ("method", (&*failure.name.1).into()),
                ("error", (&*failure.error).into()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::histogram;
    use crate::locust::message::{Message, captured};

    /// The same with its counts sorted: a Python dict is in order of insertion.
    fn sorted(value: Value) -> Value {
        match value {
            Value::Map(mut pairs) => {
                if pairs.iter().all(|(key, _)| key.is_u64()) {
                    pairs.sort_by_key(|(key, _)| key.as_u64());
                }
                Value::Map(pairs.into_iter().map(|(k, v)| (k, sorted(v))).collect())
            }
            Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
            other => other,
        }
    }

    fn bytes(value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, value).unwrap();
        bytes
    }

    #[test]
    fn entries_equal_locusts_byte_for_byte() {
        let theirs = Message::decode(&captured::sent("stats")).unwrap();
        let theirs = sorted(theirs.data);
        let theirs = &theirs.as_map().unwrap()[0].1.as_array().unwrap()[..2];
        let idle = Entry {
            name: ("echo".to_owned(), "TCP".to_owned()),
            last_request: Some(1795350450.9829333),
            start: 1795350448.8682935,
            requests: 2,
            none_requests: 2,
            bytes: 10,
            per_second: [(1795350449, 1), (1795350450, 1)].into(),
            ..Entry::default()
        };
        let busy = Entry {
            name: ("connect".to_owned(), "TCP".to_owned()),
            last_request: Some(1795350451.505965),
            start: 1795350448.8683074,
            requests: 12,
            none_requests: 0,
            failures: 5,
            total_ms: 978.1854658428217,
            max_ms: 284.598122129082,
            min_ms: Some(1.25),
            bytes: 448,
            times: [
                (60, 1),
                (1, 5),
                (25, 1),
                (59, 1),
                (180, 1),
                (170, 1),
                (190, 1),
                (280, 1),
            ]
            .into(),
            per_second: [
                (1795350448, 2),
                (1795350449, 4),
                (1795350450, 2),
                (1795350451, 4),
            ]
            .into(),
            failures_per_second: [
                (1795350448, 1),
                (1795350449, 1),
                (1795350450, 1),
                (1795350451, 2),
            ]
            .into(),
        };
        assert_eq!(bytes(&idle.to_value()), bytes(&theirs[0]));
        assert_eq!(bytes(&busy.to_value()), bytes(&theirs[1]));
    }

    #[test]
    fn error_keys_equal_locusts() {
        assert_eq!(
            failure_key(
                "TCP",
                "connect",
                "ConnectionRefusedError(111, 'Connection refused')"
            ),
            "5cd728f5a5178ce6df5331e2a1d6a466149e3bfd9712349021f124c526e6d1fe"
        );
    }

    #[test]
    fn buckets_equal_locusts_with_halves_to_even() {
        let cases = [
            (0.5, 0),
            (1.5, 2),
            (99.4, 99),
            (99.6, 100),
            (105.0, 100),
            (115.0, 120),
            (145.0, 140),
            (147.0, 150),
            (1_050.0, 1_000),
            (3_432.0, 3_400),
            (9_950.0, 10_000),
            (58_760.0, 59_000),
        ];
        for (ms, bucket) in cases {
            assert_eq!(bucket_ms(ms), bucket, "{ms}");
        }
    }

    #[test]
    fn everything_is_reported_once_and_an_idle_interval_has_no_minimum() {
        let mut times_us = histogram();
        times_us.record_n(2_000, 3).unwrap();
        let row = Row {
            name: "recv".to_owned(),
            method: "TCP".to_owned(),
            requests: 5,
            times_us,
            failures: vec![("wrong message".to_owned(), 2)],
            bytes: 7,
        };
        let mut stats = Stats::new(100.0);
        stats.add(&row, 101.5, 101);
        stats.add(&row, 102.5, 102);
        let get = |value: &Value, key: &str| {
            value
                .as_map()
                .unwrap()
                .iter()
                .find(|(k, _)| k.as_str() == Some(key))
                .unwrap()
                .1
                .clone()
        };
        let [(_, entries), (_, total), (_, errors)] = stats.take_report(103.0, true);
        let entry = entries.as_array().unwrap()[0].clone();
        for (key, expected) in [
            ("num_requests", Value::from(10)),
            ("num_none_requests", 4.into()),
            ("num_failures", 4.into()),
            ("total_content_length", 14.into()),
            ("start_time", 100.0.into()),
            ("response_times", Value::Map(vec![(2.into(), 6.into())])),
            (
                "num_reqs_per_sec",
                Value::Map(vec![(101.into(), 5.into()), (102.into(), 5.into())]),
            ),
        ] {
            assert_eq!(
                (get(&entry, key), get(&total, key)),
                (expected.clone(), expected),
                "{key}"
            );
        }
        assert_eq!(
            (
                get(&entry, "last_request_timestamp"),
                get(&total, "last_request_timestamp")
            ),
            (102.5.into(), 103.0.into())
        );
        assert_eq!(get(&errors.as_map().unwrap()[0].1, "occurrences"), 4.into());
        let [(_, entries), (_, total), (_, errors)] = stats.take_report(106.0, true);
        assert_eq!(
            (entries, errors),
            (Value::Array(vec![]), Value::Map(vec![]))
        );
        assert_eq!(
            (get(&total, "min_response_time"), get(&total, "start_time")),
            (Value::Nil, 103.0.into())
        );
    }
}
