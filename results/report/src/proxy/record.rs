//! The record of a run of `proxy`: `run.json`, schema [`PROXY_RUN_SCHEMA`].
//!
//! Invariants: units end the names; what was not measured is `null`. Comparisons follow from trials
//! alone. Adding a key keeps the schema's number.
//! Must not depend on: how figures are taken, whether they are good.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bottleneck::Bottleneck;
use crate::header::Header;
use crate::network::{Agreement, NetworkRecord};

use holdfast_telemetry::units::round;
use holdfast_telemetry::wire::Latency;

/// The schema of a [`ProxyRun`].
pub const PROXY_RUN_SCHEMA: &str = "holdfast.run.proxy/2";
/// Its limits had words of their own (`maxconn`, `cpu`; `words` for `evidence`); they are still
/// understood.
pub const PROXY_RUN_SCHEMA_1: &str = "holdfast.run.proxy/1";

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyRun {
    /// What every record begins with; its schema is [`PROXY_RUN_SCHEMA`].
    #[serde(flatten)]
    pub header: Header,
    /// All hosts.
    pub network: NetworkRecord,
    /// What was asked for.
    pub asked: ProxyAsked,
    /// What the system under test says of its version.
    pub version: Option<String>,
    /// Every measurement, in order.
    pub trials: Vec<Trial>,
    /// What the system adds, scenario by scenario.
    pub added: Vec<Added>,
}

impl ProxyRun {
    /// Names the mode of every trial in a record that has none: haproxy passed requests on in HTTP
    /// mode then, and long connections in TCP mode.
    pub fn name_modes(&mut self) {
        let system = self.asked.system.clone();
        let of = |scenario: &str| match system.as_str() {
            "haproxy" if scenario.starts_with("http") => Some("http".to_owned()),
            "haproxy" => Some("tcp".to_owned()),
            "nginx" => Some("stream".to_owned()),
            _ => None,
        };
        for trial in self.trials.iter_mut().filter(|t| t.is_proxied) {
            trial.mode = trial.mode.take().or_else(|| of(&trial.scenario));
        }
        for added in &mut self.added {
            added.mode = added.mode.take().or_else(|| of(&added.scenario));
        }
    }

    /// Where the system stopped: the trial that held the most connections then.
    #[must_use]
    pub fn stopped(&self) -> Option<(&Trial, &Bottleneck)> {
        let limited = self
            .trials
            .iter()
            .filter_map(|t| Some((t, t.limit.as_ref()?)));
        limited.rev().max_by_key(|(_, limit)| limit.connections)
    }
}

/// The request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyAsked {
    /// The system under test: `haproxy`, `nginx` or an address.
    pub system: String,
    /// Scenarios.
    pub scenarios: Vec<String>,
    /// Long connections through the system and without it.
    pub users: u64,
    /// Long connections to find its end with.
    pub limit_users: u64,
    /// Connections opened a second.
    pub spawn_rate_per_second: f64,
    /// Interval of messages.
    pub every_seconds: f64,
    /// How long they are held.
    pub hold_seconds: f64,
    /// Length of a measurement of HTTP.
    pub slice_seconds: f64,
    /// Rounds of HTTP scenarios.
    pub rounds: u32,
}

impl ProxyAsked {
    /// The way that connections of a trial took.
    #[must_use]
    pub fn way(&self, is_proxied: bool) -> String {
        if is_proxied {
            format!("through {}", self.system)
        } else {
            "direct".into()
        }
    }
}

/// One scenario, direct or through the system: its only round, or the medians of all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trial {
    /// Its scenario.
    pub scenario: String,
    /// Through the system under test.
    pub is_proxied: bool,
    /// What the system understands of what it passes on: `tcp` or `http` (haproxy), `stream`
    /// (nginx); `null`: direct, or not known.
    pub mode: Option<String>,
    /// Round, from 1; 0: all of them.
    pub round: u32,
    /// Users, one connection each.
    pub users: u64,
    /// Connections that opened at the client.
    pub opened: u64,
    /// Attempts that failed, by kind.
    pub failed: BTreeMap<String, u64>,
    /// How opened connections ended (long connections), or what became of requests (HTTP), by
    /// class.
    pub outcomes: BTreeMap<String, u64>,
    /// Requests answered rightly in the window, a second; heartbeats received in it, a second.
    pub per_second: f64,
    /// The least of the rounds.
    pub per_second_min: Option<f64>,
    /// The most of the rounds.
    pub per_second_max: Option<f64>,
    /// Requests the waiting users would make of a server that answers at once, a second.
    pub offered_per_second: Option<f64>,
    /// Connect time from the intended start.
    pub connect_us: Latency,
    /// Lateness of heartbeats; latency of requests from the time they were due.
    pub latency_us: Latency,
    /// While the connections opened (long connections).
    pub ramp: Option<Window>,
    /// While all were held; the measured part (HTTP).
    pub window: Option<Window>,
    /// Resident memory of the system before the first connection.
    pub proxy_rss_base_bytes: Option<u64>,
    /// The same with all of them open.
    pub proxy_rss_bytes: Option<u64>,
    /// Growth of the machine's kernel slabs over the same time.
    pub slab_growth_bytes: Option<i64>,
    /// What several counted.
    pub agreements: Vec<Agreement>,
    /// Where the system stopped, if it did.
    pub limit: Option<Bottleneck>,
    /// Why there are no figures.
    pub error: Option<String>,
    /// The rounds, if there were several.
    pub rounds: Vec<Trial>,
}

impl Trial {
    /// The way its connections took, in a word. Of requests through haproxy, `through` has always
    /// meant HTTP mode.
    #[must_use]
    pub fn way(&self) -> &'static str {
        match (self.is_proxied, self.mode.as_deref()) {
            (false, _) => "direct",
            (true, Some("tcp")) if self.scenario.starts_with("http") => "through-tcp",
            (true, _) => "through",
        }
    }
}

/// Time on cores within a part of a trial.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    /// By the clock.
    pub seconds: f64,
    /// Requests answered, or connections opened, or heartbeats received in it.
    pub count: u64,
    /// The server's.
    pub server_cpu_seconds: f64,
    /// The client's.
    pub client_cpu_seconds: f64,
    /// The system's.
    pub proxy_cpu_seconds: Option<f64>,
    /// Share of all cores in use, by whatever ran.
    pub machine_busy_percent: f64,
}

impl Window {
    /// So much time on a core for each thing counted, microseconds.
    #[must_use]
    pub fn us_each(&self, cpu_seconds: f64) -> Option<f64> {
        (self.count > 0).then(|| round(cpu_seconds * 1e6 / self.count as f64, 2))
    }

    /// The system's.
    #[must_use]
    pub fn proxy_cpu_us_each(&self) -> Option<f64> {
        self.us_each(self.proxy_cpu_seconds?)
    }
}

/// What the system adds in one scenario: the medians of what it adds in each round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Added {
    /// Which.
    pub scenario: String,
    /// The mode of the system in it, as in [`Trial::mode`].
    pub mode: Option<String>,
    /// Median latency through it less without it; negative where it is noise.
    pub latency_p50_us: Option<i64>,
    /// The least of the rounds.
    pub latency_p50_us_min: Option<i64>,
    /// The most of the rounds.
    pub latency_p50_us_max: Option<i64>,
    /// 99th percentile, likewise.
    pub latency_p99_us: Option<i64>,
    /// Requests or heartbeats a second through it, as a share of those without it.
    pub rate_ratio: Option<f64>,
    /// The least of the rounds.
    pub rate_ratio_min: Option<f64>,
    /// The most of the rounds.
    pub rate_ratio_max: Option<f64>,
    /// Its time on a core for a connection opened.
    pub cpu_us_per_connection: Option<f64>,
    /// Its time on a core for a request answered or heartbeat passed on.
    pub cpu_us_per_message: Option<f64>,
    /// Its own memory for a connection held.
    pub bytes_per_connection: Option<f64>,
    /// Kernel memory a connection takes beyond a direct one.
    pub kernel_bytes_per_connection: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bottleneck::BottleneckKind;

    #[test]
    fn modes_of_records_without_them_are_known() {
        let text = r#"{"asked":{"system":"haproxy"},"trials":[
            {"scenario":"longconn","is_proxied":true},{"scenario":"http-64"},
            {"scenario":"http-64","is_proxied":true},
            {"scenario":"http-64","is_proxied":true,"mode":"tcp"}]}"#;
        let mut run: ProxyRun = serde_json::from_str(text).expect("a record");
        run.name_modes();
        let found = run.trials.iter().map(|t| (t.mode.as_deref(), t.way()));
        assert_eq!(
            found.collect::<Vec<_>>(),
            [
                (Some("tcp"), "through"),
                (None, "direct"),
                (Some("http"), "through"),
                (Some("tcp"), "through-tcp")
            ]
        );
    }

    #[test]
    fn limits_of_the_first_schema_are_readable() {
        let old = |what: &str| {
            let text =
                format!(r#"{{"limit":{{"what":"{what}","connections":9986,"words":"two each"}}}}"#);
            let trial: Trial = serde_json::from_str(&text).expect("a trial");
            trial.limit.expect("a limit")
        };
        assert_eq!(old("maxconn").what, BottleneckKind::ProxyCapacity);
        assert_eq!(old("cpu").what, BottleneckKind::MachineCpu);
        let limit = old("descriptors");
        assert_eq!(
            (limit.what, limit.connections, limit.evidence.as_str()),
            (BottleneckKind::Descriptors, Some(9_986), "two each")
        );
    }
}
