//! The figures of a run that are compared, by name.
//!
//! Purpose: one list for each kind of run; a name is the figure's path in `run.json`, for HTTP
//! behind `SCENARIO.SUBJECT.GENERATOR.`.
//! Invariants: only figures of ours have a better direction: a peer that got slower is nobody's
//! regression. What was not measured is not in the list.
//! Must not depend on: how many runs there are, what is noise.

use serde::Serialize;

use crate::header::Verdict;
use crate::http::record::{Entry, HttpRun, Measured};
use crate::proxy::record::{ProxyRun, Trial};
use crate::record::Record;
use crate::relay::figures::{Aim, Kind};
use crate::relay::record::{OURS, RelayRun};
use crate::report::units::Unit;
use crate::run::Run;

use holdfast_telemetry::units::total;
use holdfast_telemetry::wire::Latency;

/// Which way a figure should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Up.
    Higher,
    /// Down.
    Lower,
    /// It only tells something.
    Neither,
}

/// One figure of one run.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// Its unit.
    pub unit: Unit,
    /// Which way it should go.
    pub better: Better,
    /// A smaller change than this is none: what it is measured with cannot see it.
    pub grain: f64,
    /// It counts what should not be there at all.
    pub is_fault: bool,
    /// Its value.
    pub value: f64,
    /// The values it is the median of, where the run has rounds.
    pub rounds: Vec<f64>,
}

/// Microseconds in which a heartbeat's or a connect's time is told apart: both are gathered for a
/// millisecond.
const GRAIN_LONGCONN_US: f64 = 1_000.0;
/// Likewise a request's.
const GRAIN_HTTP_US: f64 = 10.0;

/// All figures of a run.
#[must_use]
pub fn of(record: &Record) -> Vec<Metric> {
    match record {
        Record::Longconn(run) => longconn(run),
        Record::Http(run) => http(run),
        Record::Proxy(run) => proxy(run),
        Record::Relay(run) => relay(run),
    }
}

struct List(Vec<Metric>);

impl List {
    fn add(&mut self, name: &str, unit: Unit, better: Better, grain: f64, value: Option<f64>) {
        self.0
            .extend(value.filter(|v| v.is_finite()).map(|value| Metric {
                name: name.into(),
                unit,
                better,
                grain,
                is_fault: false,
                value,
                rounds: Vec::new(),
            }));
    }

    fn fault(&mut self, name: &str, count: u64) {
        self.add(name, Unit::Count, Better::Lower, 0.0, Some(count as f64));
        if let Some(last) = self.0.last_mut() {
            last.is_fault = true;
        }
    }

    fn latency(&mut self, name: &str, grain: f64, latency: &Latency) {
        if latency.count == 0 {
            return;
        }
        for (percentile, value, better) in [
            ("p50", latency.p50, Better::Lower),
            ("p99", latency.p99, Better::Lower),
            // One stall of the machine makes these: they tell, and are not judged.
            ("p999", latency.p999, Better::Neither),
            ("max", latency.max, Better::Neither),
        ] {
            let name = format!("{name}.{percentile}");
            self.add(&name, Unit::Micros, better, grain, Some(value as f64));
        }
    }
}

fn longconn(run: &Run) -> Vec<Metric> {
    use Better::{Higher, Lower, Neither};
    let mut list = List(Vec::new());
    let (c, m, memory) = (&run.connections, &run.messages, &run.memory);
    list.fault(
        "verdict.fail",
        u64::from(run.header.verdict == Verdict::Fail),
    );
    list.fault("connections.failed", total(&c.failed));
    list.fault("connections.lost", c.lost);
    list.fault("messages.missed", m.missed);
    list.fault("messages.wrong", m.wrong);
    // A rate that was asked for and kept says nothing of how fast it could have been.
    let ramp = if run.asked.spawn_rate_per_second.is_some() {
        Neither
    } else {
        Higher
    };
    list.add(
        "ramp.per_second",
        Unit::PerSecond,
        ramp,
        0.0,
        Some(run.ramp.per_second),
    );
    list.add(
        "messages.per_second",
        Unit::PerSecond,
        Neither,
        0.0,
        m.per_second,
    );
    list.latency(
        "latency_us.connect",
        GRAIN_LONGCONN_US,
        &run.latency_us.connect,
    );
    list.latency(
        "latency_us.lateness",
        GRAIN_LONGCONN_US,
        &run.latency_us.lateness,
    );
    for (name, value, better) in [
        (
            "server_rss_bytes_per_connection",
            memory.server_rss_bytes_per_connection,
            Lower,
        ),
        (
            "client_rss_bytes_per_connection",
            memory.client_rss_bytes_per_connection,
            Lower,
        ),
        ("slab_bytes_per_pair", memory.slab_bytes_per_pair, Lower),
        (
            "machine_bytes_per_pair",
            memory.machine_bytes_per_pair,
            Neither,
        ),
    ] {
        list.add(&format!("memory.{name}"), Unit::Bytes, better, 0.5, value);
    }
    list.add(
        "cpu.server_seconds",
        Unit::CpuSeconds,
        Lower,
        0.05,
        Some(run.cpu.server_seconds),
    );
    list.add(
        "cpu.client_seconds",
        Unit::CpuSeconds,
        Lower,
        0.05,
        Some(run.cpu.client_seconds),
    );
    for (phase, cpu) in [("ramp", run.cpu.ramp), ("hold", run.cpu.hold)] {
        let of = |f: fn(&crate::run::CpuPhase) -> f64| cpu.as_ref().map(f);
        for (name, value) in [
            ("server", of(|p| p.server_seconds)),
            ("client", of(|p| p.client_seconds)),
        ] {
            list.add(
                &format!("cpu.{phase}.{name}_seconds"),
                Unit::CpuSeconds,
                Neither,
                0.05,
                value,
            );
        }
    }
    list.0
}

fn http(run: &HttpRun) -> Vec<Metric> {
    let mut list = List(Vec::new());
    list.fault(
        "verdict.fail",
        u64::from(run.header.verdict == Verdict::Fail),
    );
    for entry in run.scenarios.iter().filter(|e| e.rounds > 0) {
        of_entry(&mut list, entry);
    }
    list.0
}

fn proxy(run: &ProxyRun) -> Vec<Metric> {
    use Better::{Higher, Lower, Neither};
    let mut list = List(Vec::new());
    list.fault(
        "verdict.fail",
        u64::from(run.header.verdict == Verdict::Fail),
    );
    for trial in run.trials.iter().filter(|t| t.error.is_none()) {
        let name = |figure: &str| format!("{}.{}.{figure}", trial.scenario, trial.way());
        // Where only ours are on the way, and as many as go.
        let is_taken =
            !trial.is_proxied && trial.ramp.is_none() && trial.offered_per_second.is_none();
        list.fault(&name("failed"), total(&trial.failed));
        let mut add = |figure: &str, unit, better, grain, of: &dyn Fn(&Trial) -> Option<f64>| {
            let before = list.0.len();
            list.add(&name(figure), unit, better, grain, of(trial));
            if let Some(metric) = list.0.get_mut(before) {
                let sound = trial.rounds.iter().filter(|t| t.error.is_none());
                metric.rounds = sound.filter_map(of).filter(|v| v.is_finite()).collect();
            }
        };
        let better = if is_taken { Higher } else { Neither };
        add("per_second", Unit::PerSecond, better, 0.0, &|t| {
            Some(t.per_second)
        });
        let (better, grain) = match (trial.is_proxied, trial.ramp) {
            (true, _) => (Neither, 0.0),
            (false, Some(_)) => (Lower, GRAIN_LONGCONN_US),
            (false, None) => (Lower, GRAIN_HTTP_US),
        };
        let latency = |t: &Trial| (t.latency_us.count > 0).then_some(t.latency_us);
        add("latency_us.p50", Unit::Micros, better, grain, &|t| {
            Some(latency(t)?.p50 as f64)
        });
        add("latency_us.p99", Unit::Micros, better, grain, &|t| {
            Some(latency(t)?.p99 as f64)
        });
    }
    for added in &run.added {
        for (figure, unit, value) in [
            (
                "cpu_us_per_connection",
                Unit::CpuMicros,
                added.cpu_us_per_connection,
            ),
            (
                "cpu_us_per_message",
                Unit::CpuMicros,
                added.cpu_us_per_message,
            ),
            (
                "bytes_per_connection",
                Unit::Bytes,
                added.bytes_per_connection,
            ),
            (
                "kernel_bytes_per_connection",
                Unit::Bytes,
                added.kernel_bytes_per_connection,
            ),
        ] {
            // The other mode stands beside what the name has always meant.
            let is_beside =
                added.scenario.starts_with("http") && added.mode.as_deref() == Some("tcp");
            let way = if is_beside { "added-tcp" } else { "added" };
            let name = format!("{}.{way}.{figure}", added.scenario);
            list.add(&name, unit, Neither, 0.5, value);
        }
    }
    list.0
}

/// `SCENARIO.RELAY.FIGURE`, and what ours is to the floor and to the best competitor:
/// `SCENARIO.FIGURE.ours_over_floor`, `.ours_over_best`.
fn relay(run: &RelayRun) -> Vec<Metric> {
    let mut list = List(Vec::new());
    list.fault(
        "verdict.fail",
        u64::from(run.header.verdict == Verdict::Fail),
    );
    let better = |kind: &Kind| match kind.aim {
        Aim::More => Better::Higher,
        Aim::Less => Better::Lower,
        Aim::Tells => Better::Neither,
    };
    for entry in run.entries.iter().filter(|e| e.rounds > 0) {
        let name = |figure: &str| format!("{}.{}.{figure}", entry.scenario, entry.subject);
        let is_ours = entry.subject == OURS;
        for (key, figure) in &entry.figures {
            let Some(kind) = Kind::of(key) else { continue };
            let aim = if is_ours {
                better(kind)
            } else {
                Better::Neither
            };
            list.add(&name(key), kind.unit, aim, kind.grain, Some(figure.median));
            if let Some(last) = list.0.last_mut() {
                last.rounds = entry.each(key);
            }
        }
        if is_ours {
            list.fault(&name("failures"), total(&entry.failures));
        }
    }
    for goal in &run.goals {
        let Some(kind) = Kind::of(&goal.figure) else {
            continue;
        };
        for (what, value) in [
            ("ours_over_floor", goal.ours_over_floor),
            ("ours_over_best", goal.ours_over_best),
        ] {
            let name = format!("{}.{}.{what}", goal.scenario, goal.figure);
            list.add(&name, Unit::Count, better(kind), 0.01, value);
        }
    }
    list.0
}

fn of_entry(list: &mut List, entry: &Entry) {
    let name = |figure: &str| {
        format!(
            "{}.{}.{}.{figure}",
            entry.scenario, entry.subject, entry.generator
        )
    };
    let when = |is_ours: bool, better| if is_ours { better } else { Better::Neither };
    let (server, client) = (entry.subject == "holdfast", entry.generator == "holdfast");
    let taken = server && entry.offered_per_second.is_none();
    let mut add =
        |figure: &str, unit, better, grain, value, rounds: &dyn Fn(&Measured) -> Option<f64>| {
            let before = list.0.len();
            list.add(&name(figure), unit, better, grain, value);
            if let Some(metric) = list.0.get_mut(before) {
                let sound = entry.measured.iter().filter(|m| m.error.is_none());
                metric.rounds = sound.filter_map(rounds).filter(|v| v.is_finite()).collect();
            }
        };
    let per_million =
        |seconds: f64, m: &Measured| (m.requests > 0).then(|| seconds / m.requests as f64 * 1e6);
    add(
        "requests_per_second",
        Unit::PerSecond,
        when(taken, Better::Higher),
        0.0,
        entry.requests_per_second,
        &|m| m.requests_per_second,
    );
    add(
        "server_cpu_seconds_per_million",
        Unit::CpuSeconds,
        when(server, Better::Lower),
        0.01,
        entry.server_cpu_seconds_per_million,
        &|m| per_million(m.server_cpu_seconds, m),
    );
    add(
        "client_cpu_seconds_per_million",
        Unit::CpuSeconds,
        when(client, Better::Lower),
        0.01,
        entry.client_cpu_seconds_per_million,
        &|m| per_million(m.client_cpu_seconds, m),
    );
    let latency = entry.latency_us;
    for (figure, is_judged, of) in [
        ("latency_us.p50", true, (|l| l.p50) as fn(&Latency) -> u64),
        ("latency_us.p99", true, |l| l.p99),
        ("latency_us.p999", false, |l| l.p999),
    ] {
        let better = when(server && is_judged, Better::Lower);
        add(
            figure,
            Unit::Micros,
            better,
            GRAIN_HTTP_US,
            latency.map(|l| of(&l) as f64),
            &|m| Some(of(m.latency_us.as_ref()?) as f64),
        );
    }
    let rss = |m: &Measured| {
        let growth = m.rss_bytes? as f64 - m.rss_base_bytes? as f64;
        (m.idle_connections > 0).then(|| growth / m.idle_connections as f64)
    };
    add(
        "rss_bytes_per_connection",
        Unit::Bytes,
        when(server, Better::Lower),
        0.5,
        entry.rss_bytes_per_connection,
        &rss,
    );
    if server {
        list.fault(&name("failures"), total(&entry.failures));
    }
}
