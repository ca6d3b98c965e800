//! The schema of an HTTP run's `run.json`, and how rounds become one entry.
//!
//! Purpose: one definition of the record; `README.md` beside this crate explains every key with its
//! unit.
//! Invariants: the rules of [`crate::run`]: units end the names, what could not be measured is
//! `null`, the verdict follows from the record alone. Every figure of an entry is the median of the
//! rounds that stand in it.
//! Must not depend on: processes, the kernel, how figures are shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::header::Header;
use holdfast_telemetry::units::count;
pub(super) use holdfast_telemetry::units::round;
use holdfast_telemetry::wire::Latency;

/// The schema of a [`HttpRun`].
pub const HTTP_RUN_SCHEMA: &str = "holdfast.run.http/1";
/// The schema of a chat's [`HttpRun`]: the same keys, of messages delivered instead of requests.
pub const CHAT_RUN_SCHEMA: &str = "holdfast.run.chat/1";
/// What the scenarios of a chat begin with, before the number of members.
pub const MEMBERS_PREFIX: &str = "members-";

/// A side that uses at least this share of its cores has no more to give.
pub const SATURATED: f64 = 0.92;

/// One run, as `run.json` holds it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpRun {
    /// What every record begins with; its schema is [`HTTP_RUN_SCHEMA`].
    #[serde(flatten)]
    pub header: Header,
    /// What a reader must know and what is no shortfall: peers that are missing or failed, cores
    /// shared.
    pub notes: Vec<String>,
    /// What was asked for.
    pub asked: HttpAsked,
    /// Cores of the two sides.
    pub cores: Cores,
    /// First line that each foreign program says about its version; `null`: it is not here.
    pub programs: BTreeMap<String, Option<String>>,
    /// One entry for each scenario, subject and generator.
    pub scenarios: Vec<Entry>,
    /// One entry for each scenario: what the figures are to each other.
    pub ratios: Vec<Ratio>,
}

/// The request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpAsked {
    /// Scenarios, by name.
    pub scenarios: Vec<String>,
    /// Subjects, by name.
    pub subjects: Vec<String>,
    /// Generators, by name.
    pub generators: Vec<String>,
    /// Rounds.
    pub rounds: u32,
    /// Length of a measured slice.
    pub slice_seconds: f64,
    /// Load on a new server before it is measured.
    pub warm_up_seconds: f64,
    /// How fast the users of `users-*` start.
    pub users_per_second: u64,
    /// Messages that a member of a chat sends to all in a slice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<u32>,
}

impl HttpAsked {
    /// What a slice is.
    #[must_use]
    pub fn slice(&self) -> String {
        match self.messages {
            Some(messages) => format!("{} messages to all", count(messages.into())),
            None => format!("{} s", self.slice_seconds),
        }
    }
}

/// Cores by their number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cores {
    /// Of the server.
    pub server: Vec<usize>,
    /// Of the client.
    pub client: Vec<usize>,
}

/// Who kept the figure from being larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitingSide {
    /// The server used all its cores.
    Server,
    /// The generator used all its cores.
    Client,
    /// The cores of a side were full, and not by its process.
    Kernel,
    /// Nobody: more was not asked for.
    OfferedLoad,
}

impl HttpRun {
    /// What is counted as requests, in the plural.
    #[must_use]
    pub fn things(&self) -> &'static str {
        self.scenarios.first().map_or("requests", Entry::things)
    }
}

/// One scenario, subject and generator: medians over rounds, then the rounds themselves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Scenario.
    pub scenario: String,
    /// Server measured.
    pub subject: String,
    /// Program that made the load.
    pub generator: String,
    /// Rounds that gave figures.
    pub rounds: usize,
    /// Connections opened, idle ones included.
    pub connections: u64,
    /// Requests answered rightly a second.
    pub requests_per_second: Option<f64>,
    /// What the users make due a second; `null` where load is taken, not offered.
    pub offered_per_second: Option<f64>,
    /// Time on cores of the server's whole process tree for a million requests.
    pub server_cpu_seconds_per_million: Option<f64>,
    /// The least of the rounds.
    pub server_cpu_seconds_per_million_min: Option<f64>,
    /// The most of the rounds.
    pub server_cpu_seconds_per_million_max: Option<f64>,
    /// The same of the generator.
    pub client_cpu_seconds_per_million: Option<f64>,
    /// Latency; each percentile is a median for itself. `null` where none was measured.
    pub latency_us: Option<Latency>,
    /// The same from the sending, uncorrected; only our client tells both.
    pub latency_raw_us: Option<Latency>,
    /// Of a chat, whose `latency_us` is that of each delivery: until the last member had a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_us: Option<Latency>,
    /// Growth of the server's resident memory with the idle connections open, divided by them.
    pub rss_bytes_per_connection: Option<f64>,
    /// All resident memory of the server at that moment, divided by them.
    pub rss_all_bytes_per_connection: Option<f64>,
    /// What did not go right, by kind, summed over rounds.
    pub failures: BTreeMap<String, u64>,
    /// Share of the server's cores its processes used.
    pub server_busy_percent: Option<f64>,
    /// Share of the client's cores the generator used.
    pub client_busy_percent: Option<f64>,
    /// Who kept the figure from being larger.
    pub who_was_the_limit: Option<LimitingSide>,
    /// The same in full, first things first.
    pub limits: Vec<crate::bottleneck::Bottleneck>,
    /// The rounds.
    pub measured: Vec<Measured>,
}

/// One slice.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {
    /// Round, from 1.
    pub round: u32,
    /// Requests answered rightly in the window that CPU is taken over.
    pub requests: u64,
    /// Requests answered rightly a second, by the generator's clock.
    pub requests_per_second: Option<f64>,
    /// Length of that window.
    pub seconds: f64,
    /// Time on cores in it: server.
    pub server_cpu_seconds: f64,
    /// Time on cores in it: generator.
    pub client_cpu_seconds: f64,
    /// Share of the server's cores in use by whatever ran there, 0 to 1.
    pub server_cores_busy: f64,
    /// Share of the client's cores, likewise.
    pub client_cores_busy: f64,
    /// The part of these shares in softirqs.
    pub server_cores_softirq: f64,
    /// Likewise.
    pub client_cores_softirq: f64,
    /// Growth of TcpExt counters that name limits, in the same window; zeros are left out.
    pub counters: BTreeMap<String, u64>,
    /// Connections in TIME_WAIT at its end.
    pub time_wait: u64,
    /// Cores of the server.
    pub server_core_count: usize,
    /// Cores of the generator.
    pub client_core_count: usize,
    /// Both have the same cores.
    pub is_shared: bool,
    /// Latency.
    pub latency_us: Option<Latency>,
    /// Latency from the sending, uncorrected; only our client tells both.
    pub latency_raw_us: Option<Latency>,
    /// Of a chat: until the last member had a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_us: Option<Latency>,
    /// Connections that memory is divided by.
    pub idle_connections: u64,
    /// Resident memory of the server before the first connection.
    pub rss_base_bytes: Option<u64>,
    /// Resident memory of the server with the idle connections open.
    pub rss_bytes: Option<u64>,
    /// What did not go right, by kind, over the server's whole life.
    pub failures: BTreeMap<String, u64>,
    /// Our clients' and our server's counts of this server's whole life, if both ends are ours.
    pub counts: Option<CountsOfBoth>,
    /// Why there are no figures, if there are none.
    pub error: Option<String>,
}

/// The two counts that must agree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CountsOfBoth {
    /// Requests with the outcome ok, all our clients together.
    pub client_ok: u64,
    /// Requests still under way when a client was stopped: answered or not.
    pub client_stopped: u64,
    /// Responses with status 200, as the server counts.
    pub server_ok: u64,
}

/// What the figures of one scenario are to each other: CPU seconds per million requests, medians.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ratio {
    /// Scenario.
    pub scenario: String,
    /// Generator of the server figures.
    pub generator: String,
    /// Ours / the baseline.
    pub ours_over_floor: Option<f64>,
    /// nginx / ours.
    pub nginx_over_ours: Option<f64>,
    /// haproxy / ours.
    pub haproxy_over_ours: Option<f64>,
    /// Go / ours.
    pub go_over_ours: Option<f64>,
    /// tokio / ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokio_over_ours: Option<f64>,
    /// Our client / wrk, both on our server.
    pub our_client_over_wrk: Option<f64>,
    /// Our client / wrk, both on nginx.
    pub our_client_over_wrk_on_nginx: Option<f64>,
}

impl Measured {
    fn has_figures(&self) -> bool {
        self.error.is_none()
    }

    fn per_million(&self, cpu_seconds: f64) -> Option<f64> {
        (self.has_figures() && self.requests > 0).then(|| cpu_seconds / self.requests as f64 * 1e6)
    }

    fn busy(&self, cpu_seconds: f64, core_count: usize) -> Option<f64> {
        (self.has_figures() && self.seconds > 0.0 && core_count > 0)
            .then(|| cpu_seconds / self.seconds / core_count as f64)
    }

    /// Who kept this slice from being faster.
    #[must_use]
    pub fn limit(&self) -> Option<LimitingSide> {
        let server = self.busy(self.server_cpu_seconds, self.server_core_count)?;
        let client = self.busy(self.client_cpu_seconds, self.client_core_count)?;
        let is_full = if self.is_shared {
            server + client >= SATURATED
        } else {
            server.max(client) >= SATURATED
        };
        Some(match is_full {
            true if server >= client => LimitingSide::Server,
            true => LimitingSide::Client,
            false if self.server_cores_busy.max(self.client_cores_busy) >= SATURATED => {
                LimitingSide::Kernel
            }
            false => LimitingSide::OfferedLoad,
        })
    }
}

impl Entry {
    /// Fills in the medians of `measured`.
    #[must_use]
    pub fn summed_up(mut self) -> Self {
        let m = &self.measured;
        let each = |figure: &dyn Fn(&Measured) -> Option<f64>| -> Vec<f64> {
            m.iter()
                .filter(|m| m.has_figures())
                .filter_map(figure)
                .collect()
        };
        self.rounds = m.iter().filter(|m| m.has_figures()).count();
        self.requests_per_second = median(each(&|m| m.requests_per_second)).map(|v| round(v, 1));
        let server = each(&|m| m.per_million(m.server_cpu_seconds));
        self.server_cpu_seconds_per_million_min =
            server.iter().copied().reduce(f64::min).map(|v| round(v, 4));
        self.server_cpu_seconds_per_million_max =
            server.iter().copied().reduce(f64::max).map(|v| round(v, 4));
        self.server_cpu_seconds_per_million = median(server).map(|v| round(v, 4));
        self.client_cpu_seconds_per_million =
            median(each(&|m| m.per_million(m.client_cpu_seconds))).map(|v| round(v, 4));
        let percent = |v: Option<f64>| v.map(|v| round(100.0 * v, 1));
        self.server_busy_percent = percent(median(each(&|m| {
            m.busy(m.server_cpu_seconds, m.server_core_count)
        })));
        self.client_busy_percent = percent(median(each(&|m| {
            m.busy(m.client_cpu_seconds, m.client_core_count)
        })));
        let a_connection = |bytes: f64, m: &Measured| {
            (m.idle_connections > 0).then(|| bytes / m.idle_connections as f64)
        };
        self.rss_bytes_per_connection = median(each(&|m| {
            a_connection(m.rss_bytes? as f64 - m.rss_base_bytes? as f64, m)
        }))
        .map(|v| round(v, 1));
        self.rss_all_bytes_per_connection =
            median(each(&|m| a_connection(m.rss_bytes? as f64, m))).map(|v| round(v, 1));
        self.latency_us = median_latency(m.iter().filter_map(|m| m.latency_us.as_ref()));
        self.latency_raw_us = median_latency(m.iter().filter_map(|m| m.latency_raw_us.as_ref()));
        self.last_us = median_latency(m.iter().filter_map(|m| m.last_us.as_ref()));
        self.who_was_the_limit = most_often(m.iter().filter_map(Measured::limit));
        self.failures = BTreeMap::new();
        for (kind, n) in m.iter().flat_map(|m| &m.failures) {
            *self.failures.entry(kind.clone()).or_default() += n;
        }
        self
    }

    /// What is counted as requests, in the plural.
    #[must_use]
    pub fn things(&self) -> &'static str {
        if self.scenario.starts_with(MEMBERS_PREFIX) {
            "messages"
        } else {
            "requests"
        }
    }

    /// The first reason why a round has no figures.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.measured.iter().find_map(|m| m.error.as_deref())
    }
}

/// The value in the middle; the mean of both for an even number.
#[must_use]
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// Each percentile's median for itself; `None` where nothing was recorded.
pub fn median_latency<'a>(all: impl Iterator<Item = &'a Latency>) -> Option<Latency> {
    let all: Vec<&Latency> = all.filter(|l| l.count > 0).collect();
    let of = |field: fn(&Latency) -> u64| {
        median(all.iter().map(|l| field(l) as f64).collect()).map(|v| v.round() as u64)
    };
    Some(Latency {
        count: all.iter().map(|l| l.count).sum(),
        p50: of(|l| l.p50)?,
        p99: of(|l| l.p99)?,
        p999: of(|l| l.p999)?,
        max: of(|l| l.max)?,
    })
}

/// The limit of most rounds; of several, the first seen.
fn most_often(limits: impl Iterator<Item = LimitingSide>) -> Option<LimitingSide> {
    let mut counts: Vec<(LimitingSide, usize)> = Vec::new();
    for limit in limits {
        match counts.iter_mut().find(|(seen, _)| *seen == limit) {
            Some((_, n)) => *n += 1,
            None => counts.push((limit, 1)),
        }
    }
    let most = counts.iter().map(|(_, n)| *n).max()?;
    counts
        .iter()
        .find(|(_, n)| *n == most)
        .map(|(limit, _)| *limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(requests: u64, server: f64, client: f64) -> Measured {
        Measured {
            requests,
            requests_per_second: Some(requests as f64 / 2.0),
            seconds: 2.0,
            server_cpu_seconds: server,
            client_cpu_seconds: client,
            server_core_count: 1,
            client_core_count: 1,
            ..Measured::default()
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn rounds_become_medians_with_their_spread() {
        let mut broken = slice(0, 0.0, 0.0);
        broken.error = Some("died".into());
        broken.failures.insert("died".into(), 1);
        let entry = Entry {
            measured: vec![
                slice(400_000, 1.6, 1.9),  // 4.0 and 4.75 s a million
                slice(500_000, 1.7, 1.9),  // 3.4 and 3.8
                slice(500_000, 1.8, 1.95), // 3.6 and 3.9
                broken,
            ],
            ..Entry::default()
        }
        .summed_up();
        assert_eq!(entry.rounds, 3);
        assert_eq!(entry.server_cpu_seconds_per_million, Some(3.6));
        assert_eq!(entry.server_cpu_seconds_per_million_min, Some(3.4));
        assert_eq!(entry.server_cpu_seconds_per_million_max, Some(4.0));
        assert_eq!(entry.client_cpu_seconds_per_million, Some(3.9));
        assert_eq!(entry.requests_per_second, Some(250_000.0));
        assert_eq!(entry.who_was_the_limit, Some(LimitingSide::Client));
        assert_eq!(entry.failures["died"], 1);
        assert_eq!(entry.error(), Some("died"));
        assert_eq!(
            (entry.latency_us, entry.rss_bytes_per_connection),
            (None, None)
        );
    }

    #[test]
    fn limiting_side_is_the_saturated_one() {
        assert_eq!(slice(1, 1.9, 1.5).limit(), Some(LimitingSide::Server));
        assert_eq!(slice(1, 1.0, 1.84).limit(), Some(LimitingSide::Client));
        assert_eq!(slice(1, 0.2, 0.4).limit(), Some(LimitingSide::OfferedLoad));
        let mut kernel = slice(1, 0.2, 0.4);
        kernel.client_cores_busy = 0.99;
        assert_eq!(kernel.limit(), Some(LimitingSide::Kernel));
        let mut shared = slice(1, 0.9, 1.0);
        shared.is_shared = true;
        assert_eq!(shared.limit(), Some(LimitingSide::Client));
    }

    #[test]
    fn memory_is_growth_over_the_idle_connections() {
        let mut idle = slice(1, 1.0, 1.0);
        idle.idle_connections = 1_000;
        (idle.rss_base_bytes, idle.rss_bytes) = (Some(1_000_000), Some(1_500_000));
        let entry = Entry {
            measured: vec![idle],
            ..Entry::default()
        }
        .summed_up();
        assert_eq!(entry.rss_bytes_per_connection, Some(500.0));
        assert_eq!(entry.rss_all_bytes_per_connection, Some(1_500.0));
    }

    #[test]
    fn schema_round_trips_with_its_documented_keys() {
        let run = HttpRun {
            header: Header {
                schema: HTTP_RUN_SCHEMA.into(),
                ..Header::default()
            },
            scenarios: vec![Entry {
                measured: vec![slice(1, 1.0, 1.0)],
                latency_us: Some(Latency::default()),
                who_was_the_limit: Some(LimitingSide::OfferedLoad),
                ..Entry::default()
            }],
            ratios: vec![Ratio::default()],
            ..HttpRun::default()
        };
        let text = serde_json::to_string(&run).expect("writes");
        assert_eq!(serde_json::from_str::<HttpRun>(&text).expect("reads"), run);
        for key in [
            "scenario",
            "subject",
            "generator",
            "rounds",
            "requests_per_second",
            "failures",
            "server_cpu_seconds_per_million",
            "client_cpu_seconds_per_million",
            "latency_us",
            "p999",
            "rss_bytes_per_connection",
            "who_was_the_limit",
            "ours_over_floor",
        ] {
            assert!(text.contains(&format!("\"{key}\":")), "{key}");
        }
        assert!(text.contains("\"offered_load\""));
    }
}
