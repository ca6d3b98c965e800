//! What a record says of a run that Locust's master drove.
//!
//! Invariants: units end the names; what was not measured is `null`. The rules in
//! [`LocustRecord::shortfalls`] need nothing else.
//! Must not depend on: how figures are taken.

use serde::{Deserialize, Serialize};

use crate::network::Agreement;

use holdfast_telemetry::units::{count, round};

/// Locust's side of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocustRecord {
    /// What it says of its version.
    pub version: String,
    /// The class of all users.
    pub user_class: String,
    /// The master.
    pub master: MasterRecord,
    /// Each worker.
    pub workers: Vec<WorkerRecord>,
    /// Growth of the workers' resident memory since their start, over the users held.
    pub worker_bytes_per_user: Option<f64>,
    /// The ramp, second by second.
    pub ramp: RampRecord,
    /// Requests, for users of HTTP.
    pub requests: Option<RequestsRecord>,
    /// The master's final table.
    pub table: Vec<TableRow>,
    /// What several counted.
    pub agreements: Vec<Agreement>,
}

/// Locust's master.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MasterRecord {
    /// Its command line.
    pub command: String,
    /// Exit code; `null`: it did not end by itself.
    pub exit_code: Option<i32>,
    /// Share of one core in the ramp.
    pub cpu_percent_ramp: Option<f64>,
    /// Share of one core in the hold.
    pub cpu_percent_hold: Option<f64>,
    /// Resident memory at the end of the hold.
    pub rss_bytes: Option<u64>,
}

/// One worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerRecord {
    /// Its host.
    pub host: String,
    /// Users that opened.
    pub opened: u64,
    /// Users at the end of the hold.
    pub open: u64,
    /// Resident memory right after its start.
    pub rss_base_bytes: Option<u64>,
    /// The same at the end of the hold.
    pub rss_bytes: Option<u64>,
    /// It ended in order.
    pub has_final_report: bool,
}

/// One row of the table of requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableRow {
    /// What was done: `TCP`, `GET`.
    pub method: String,
    /// To what: `connect`, `recv`, a path.
    pub name: String,
    /// How often, failures included.
    pub num_requests: u64,
    /// How often in vain.
    pub num_failures: u64,
}

/// How evenly users came.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RampRecord {
    /// Users asked for a second.
    pub asked_per_second: f64,
    /// Connections that opened in each whole second of the ramp, a second, as the backend's kernel
    /// counts.
    pub per_second: Vec<f64>,
    /// Farthest from what was asked, percent of it; `null`: no whole second.
    pub worst_percent: Option<f64>,
    /// How far it may be.
    pub tolerance_percent: f64,
}

/// Requests over the hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestsRecord {
    /// What became of each, by class, over the whole run.
    pub outcomes: std::collections::BTreeMap<String, u64>,
    /// Answered by the server in the hold, a second.
    pub server_per_second: Option<f64>,
    /// Mean of what the master's chart showed in the hold.
    pub charted_per_second: Option<f64>,
}

/// How far the chart may be from what the server counted, percent.
const CHART_PERCENT: f64 = 1.0;

/// A ramp with fewer users left than it is to open in this time, seconds, is at its end.
const ENDING_SECONDS: f64 = 0.1;

impl RampRecord {
    /// From the backend's count of established connections at moments, in seconds, of a ramp to
    /// `users`.
    #[must_use]
    pub fn of(
        samples: &[(f64, u64)],
        users: u64,
        asked_per_second: f64,
        tolerance_percent: f64,
    ) -> Self {
        let ending = users.saturating_sub((asked_per_second * ENDING_SECONDS) as u64);
        let per_second: Vec<f64> = samples
            .windows(2)
            // The first and the last second of a ramp are not whole; workers end theirs a moment
            // apart.
            .filter(|pair| pair[0].1 > 0 && pair[1].1 <= ending && pair[1].1 > pair[0].1)
            .map(|pair| round((pair[1].1 - pair[0].1) as f64 / (pair[1].0 - pair[0].0), 1))
            .collect();
        let worst = per_second
            .iter()
            .map(|rate| 100.0 * (rate - asked_per_second).abs() / asked_per_second)
            .fold(None, |worst: Option<f64>, percent| {
                Some(worst.map_or(percent, |w| w.max(percent)))
            });
        Self {
            asked_per_second,
            per_second,
            worst_percent: worst.map(|percent| round(percent, 2)),
            tolerance_percent,
        }
    }
}

impl LocustRecord {
    /// Everything that is not as it should be, in words.
    #[must_use]
    pub fn shortfalls(&self) -> Vec<String> {
        let mut found: Vec<String> = self
            .agreements
            .iter()
            .filter_map(Agreement::shortfall)
            .collect();
        if let Some(worst) = self
            .ramp
            .worst_percent
            .filter(|w| *w > self.ramp.tolerance_percent)
        {
            found.push(format!(
                "a second of the ramp was {worst}% from the {} users a second asked for, more than {}%",
                count(self.ramp.asked_per_second.round() as u64),
                self.ramp.tolerance_percent
            ));
        }
        for worker in self.workers.iter().filter(|w| !w.has_final_report) {
            found.push(format!(
                "the worker on {} left no final report",
                worker.host
            ));
        }
        if self.master.exit_code != Some(0) {
            let code = self.master.exit_code;
            let code = code.map_or("did not end by itself".into(), |c| {
                format!("exited with code {c}")
            });
            found.push(format!("Locust's master {code}"));
        }
        if let Some(requests) = &self.requests {
            found.extend(requests.shortfalls());
        }
        found
    }
}

impl RequestsRecord {
    fn shortfalls(&self) -> Vec<String> {
        let is_right = |class: &str| ["ok", "stopped"].contains(&class);
        let wrong = self.outcomes.iter().filter(|(class, _)| !is_right(class));
        let mut found: Vec<String> = wrong
            .filter(|(_, n)| **n > 0)
            .map(|(class, n)| format!("{} requests ended as {class}", count(*n)))
            .collect();
        match (self.server_per_second, self.charted_per_second) {
            (Some(server), Some(charted)) if server > 0.0 => {
                let apart = 100.0 * (charted - server).abs() / server;
                if apart > CHART_PERCENT {
                    found.push(format!(
                        "the chart showed {charted} requests a second, the server counted {server}: {apart:.1}% apart"
                    ));
                }
            }
            _ => found.push("how many requests a second were charted or counted is unknown".into()),
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> LocustRecord {
        let mut record = LocustRecord {
            ramp: RampRecord::of(
                &[
                    (0.0, 0),
                    (1.0, 50),
                    (2.0, 150),
                    (3.01, 252),
                    (4.0, 295),
                    (5.0, 300),
                ],
                300,
                100.0,
                2.0,
            ),
            agreements: vec![Agreement::exact(
                "users",
                [("locust", 300), ("workers", 300)],
            )],
            ..LocustRecord::default()
        };
        record.master.exit_code = Some(0);
        record
    }

    #[test]
    fn whole_seconds_of_a_ramp_are_judged() {
        let ramp = good().ramp;
        assert_eq!(ramp.per_second, [100.0, 101.0]);
        assert_eq!(ramp.worst_percent, Some(1.0));
        assert_eq!(good().shortfalls(), Vec::<String>::new());
        let none = RampRecord::of(&[(0.0, 0), (1.0, 300)], 300, 1_000.0, 2.0);
        assert_eq!((none.per_second.len(), none.worst_percent), (0, None));
    }

    #[test]
    fn each_shortfall_is_named() {
        let falls = |words: &str, change: fn(&mut LocustRecord)| {
            let mut record = good();
            change(&mut record);
            let found = record.shortfalls();
            assert!(
                found.len() == 1 && found[0].contains(words),
                "{words}: {found:?}"
            );
        };
        falls("users: locust 299", |r| r.agreements[0].add("locust", 299));
        falls("was 3% from the 100 users a second", |r| {
            r.ramp.worst_percent = Some(3.0)
        });
        falls("worker on client2 left no final report", |r| {
            r.workers.push(WorkerRecord {
                host: "client2".into(),
                ..WorkerRecord::default()
            });
        });
        falls("Locust's master exited with code 1", |r| {
            r.master.exit_code = Some(1)
        });
        falls("1.5% apart", |r| {
            r.requests = Some(RequestsRecord {
                server_per_second: Some(1_000.0),
                charted_per_second: Some(1_015.0),
                ..RequestsRecord::default()
            });
        });
        falls("3 requests ended as timed_out", |r| {
            r.requests = Some(RequestsRecord {
                server_per_second: Some(1_000.0),
                charted_per_second: Some(1_000.0),
                outcomes: [("timed_out".to_string(), 3), ("ok".to_string(), 9)].into(),
            });
        });
    }
}
