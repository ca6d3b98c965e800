//! The programs that make load: their command lines, and what they say in the end.
//!
//! Purpose: from a `Generator` and what a slice asks of it to a program with its arguments, and
//! from its last line to an [`Outcome`].
//! Invariants: a generator runs until it is told to stop; its own time limit is only a bound for
//! the case that nobody does. Whatever is not a right answer is a failure by kind.
//! Must not depend on: which server is behind the address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Deserialize;

use super::programs::{Family, Programs, kill_with_parent};
use super::scenario::Generator;

use holdfast_telemetry::live::{Percentiles, Snapshot};
use holdfast_telemetry::report_line::{Report, read_json};
use holdfast_telemetry::wire::{self, HttpClientReport, Latency};
use holdfast_testbed::child::words;

const WRK: &str = include_str!("../../competitors/wrk.lua");
const WRK_PIPELINE: &str = include_str!("../../competitors/wrk-pipeline.lua");

/// wrk's result, as `competitors/wrk.lua` prints it. Times are microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct WrkResult {
    schema: String,
    duration_us: u64,
    requests: u64,
    connect: u64,
    read: u64,
    write: u64,
    status: u64,
    timeout: u64,
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// A line that a generator prints.
#[derive(Debug, Clone)]
pub enum GeneratorLine {
    /// Of ours.
    Client(Box<HttpClientReport>),
    /// wrk's result.
    Wrk(WrkResult),
    /// wrk's other lines.
    Words,
}

impl Report for GeneratorLine {
    fn read(line: &str) -> Result<Self, String> {
        if line.starts_with(r#"{"schema":"wrk/"#) {
            read_json(line, "wrk/1", |r: &WrkResult| &r.schema).map(Self::Wrk)
        } else if line.starts_with('{') {
            read_json(line, wire::HTTP_CLIENT_SCHEMA, |r: &HttpClientReport| {
                &r.schema
            })
            .map(|report| Self::Client(Box::new(report)))
        } else {
            Ok(Self::Words)
        }
    }

    fn is_final(&self) -> bool {
        match self {
            Self::Client(report) => report.is_final,
            Self::Wrk(_) => true,
            Self::Words => false,
        }
    }
}

impl GeneratorLine {
    /// Figures for people, of our client.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        let Self::Client(report) = self else {
            return None;
        };
        let mut now = Snapshot::from(&**report);
        now.times
            .push(Percentiles::so_far("latency", report.latency_us));
        Some(now)
    }
}

/// What a load came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Connections opened; wrk does not tell.
    pub opened: u64,
    /// Requests answered rightly.
    pub ok: u64,
    /// Requests under way when it was stopped; wrk does not tell.
    pub stopped: u64,
    /// The same a second, by the generator's clock.
    pub per_second: Option<f64>,
    /// Latency of these.
    pub latency: Option<Latency>,
    /// The same from the sending, uncorrected, where the generator tells both.
    pub latency_raw: Option<Latency>,
    /// What did not go right, by kind.
    pub failures: BTreeMap<String, u64>,
}

/// What a slice asks of its load.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The server.
    pub address: SocketAddr,
    /// Threads, one for each core.
    pub threads: usize,
    /// Connections, each with one user on it.
    pub connections: u64,
    /// Users started a second; `None`: as fast as it goes.
    pub per_second: Option<u64>,
    /// What a user waits between two requests, as the client's `--wait` spells it.
    pub wait: &'static str,
    /// Requests a second on a fixed schedule, of all users together; `None`: the closed model, with
    /// `wait`.
    pub rate: Option<u64>,
    /// Time after the start that the client's own figures leave out.
    pub warm_up: Duration,
    /// Requests sent together.
    pub pipeline: u32,
    /// False: a new connection for each request.
    pub is_keep_alive: bool,
}

/// No load runs longer than this, whatever happens.
const RUN_TIME_MAX: Duration = Duration::from_secs(900);

/// The command line of `generator`; wrk's script is written into `dir`.
///
/// # Errors
/// When the program is missing or the script cannot be written.
pub fn start(
    generator: Generator,
    programs: &Programs,
    wanted: &Wanted,
    dir: &Path,
) -> Result<(PathBuf, Vec<String>), String> {
    match generator {
        Generator::Holdfast => {
            let program = programs
                .client
                .clone()
                .ok_or("holdfast-client is not here")?;
            Ok((program, client_args(wanted)))
        }
        Generator::Wrk => {
            let wrk = programs.wrk.as_deref().ok_or("wrk is not here")?;
            let script = dir.join("wrk.lua");
            std::fs::write(&script, wrk_script(wanted.pipeline))
                .map_err(|e| format!("{}: {e}", script.display()))?;
            let args = wrk_args(wanted, &script);
            Ok(kill_with_parent(programs, Family::Alone, wrk, args))
        }
    }
}

/// The signal at which a generator stops and says its result.
#[must_use]
pub fn stop_signal(generator: Generator) -> Signal {
    match generator {
        Generator::Holdfast => Signal::SIGTERM,
        Generator::Wrk => Signal::SIGINT,
    }
}

/// The arguments of our client.
#[must_use]
pub fn client_args(wanted: &Wanted) -> Vec<String> {
    let rate = wanted
        .per_second
        .map_or_else(|| "max".into(), |n| n.to_string());
    let mut args = words(&[
        "http",
        "--target",
        &format!("http://{}/", wanted.address),
        "--users",
        &wanted.connections.to_string(),
        "--spawn-rate",
        &rate,
        "--run-time",
        &format!("{}s", RUN_TIME_MAX.as_secs()),
        "--warm-up",
        &format!("{}ms", wanted.warm_up.as_millis()),
        "--threads",
        &wanted.threads.to_string(),
        "--progress",
        "json",
        "--die-with-parent",
    ]);
    let rate = wanted.rate.map(|rate| rate.to_string());
    args.extend(match &rate {
        Some(rate) => words(&["--rate", rate]),
        None => words(&["--wait", wanted.wait]),
    });
    if !wanted.is_keep_alive {
        args.push("--no-keepalive".into());
    }
    if wanted.pipeline > 1 {
        args.extend(words(&["--pipeline", &wanted.pipeline.to_string()]));
    }
    args
}

fn wrk_args(wanted: &Wanted, script: &Path) -> Vec<String> {
    let mut args = words(&[
        "-t",
        &wanted.threads.to_string(),
        "-c",
        &wanted.connections.to_string(),
        "-d",
        &RUN_TIME_MAX.as_secs().to_string(),
        "-s",
        &script.display().to_string(),
    ]);
    if !wanted.is_keep_alive {
        args.extend(words(&["-H", "Connection: close"]));
    }
    args.push(format!("http://{}/", wanted.address));
    args
}

fn wrk_script(pipeline: u32) -> String {
    if pipeline > 1 {
        WRK.to_string() + &WRK_PIPELINE.replace("@PIPELINE@", &pipeline.to_string())
    } else {
        WRK.to_string()
    }
}

/// What a last line says.
///
/// # Errors
/// When there is none.
pub fn outcome(line: Option<&GeneratorLine>) -> Result<Outcome, String> {
    match line {
        Some(GeneratorLine::Client(report)) if report.is_final => Ok(of_client(report)),
        Some(GeneratorLine::Wrk(result)) => Ok(of_wrk(result)),
        _ => Err("the generator left no result".into()),
    }
}

fn of_client(report: &HttpClientReport) -> Outcome {
    let outcome = |class: &str| report.outcomes.get(class).copied().unwrap_or(0);
    let mut failures: BTreeMap<String, u64> = report
        .outcomes
        .iter()
        .filter(|(class, n)| !["ok", "stopped"].contains(&class.as_str()) && **n > 0)
        .map(|(class, n)| (class.clone(), *n))
        .collect();
    if report.pending_now > 0 {
        failures.insert("without_outcome".into(), report.pending_now);
    }
    let has_measured = report.measured_seconds > 0.0 && report.measured_ok > 0;
    Outcome {
        opened: report.opened,
        ok: outcome("ok"),
        stopped: outcome("stopped"),
        per_second: has_measured.then(|| report.measured_ok as f64 / report.measured_seconds),
        latency: (report.latency_us.count > 0).then_some(report.latency_us),
        latency_raw: (report.latency_raw_us.count > 0).then_some(report.latency_raw_us),
        failures,
    }
}

fn of_wrk(result: &WrkResult) -> Outcome {
    let failures = [
        ("connect", result.connect),
        ("read", result.read),
        ("write", result.write),
        ("wrong_status", result.status),
        ("timed_out", result.timeout),
    ];
    // wrk gives 0 for a percentile beyond what its histogram holds; the largest value is an upper
    // bound of it.
    let percentile = |us: u64| if us == 0 { result.max } else { us };
    // wrk counts an answer of the wrong status among its requests too.
    let ok = result.requests.saturating_sub(result.status);
    Outcome {
        opened: 0,
        ok,
        stopped: 0,
        per_second: (result.duration_us > 0 && ok > 0)
            .then(|| ok as f64 / (result.duration_us as f64 / 1e6)),
        latency: (ok > 0).then_some(Latency {
            count: ok,
            p50: percentile(result.p50),
            p99: percentile(result.p99),
            p999: percentile(result.p999),
            max: result.max,
        }),
        latency_raw: None,
        failures: failures
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .map(|(kind, n)| (kind.to_string(), n))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            address: "127.1.0.1:900".parse().expect("an address"),
            threads: 2,
            connections: 64,
            per_second: None,
            wait: "0",
            rate: None,
            warm_up: Duration::ZERO,
            pipeline: 1,
            is_keep_alive: true,
        }
    }

    #[test]
    fn wrk_lines_are_read() {
        let line = r#"{"schema":"wrk/1","duration_us":2000000,"requests":500010,"connect":0,"read":3,"write":0,"status":10,"timeout":0,"p50":240,"p99":400,"p999":0,"max":5000}"#;
        let read = GeneratorLine::read(line).expect("reads");
        assert!(read.is_final());
        let found = outcome(Some(&read)).expect("a result");
        assert_eq!((found.ok, found.per_second), (500_000, Some(250_000.0)));
        assert_eq!(found.latency.map(|l| (l.p50, l.p999)), Some((240, 5_000)));
        assert_eq!(
            found.failures,
            BTreeMap::from([("read".into(), 3), ("wrong_status".into(), 10)])
        );
        let words = GeneratorLine::read("Running 2s test @ http://127.0.0.1/").expect("words");
        assert!(matches!(words, GeneratorLine::Words));
        assert!(outcome(Some(&words)).is_err() && outcome(None).is_err());
        assert!(GeneratorLine::read(r#"{"schema":"wrk/2"}"#).is_err());
    }

    #[test]
    fn our_client_counts_all_but_ok_and_stopped_as_failed() {
        let mut report = HttpClientReport {
            measured_seconds: 2.0,
            measured_ok: 900,
            ..HttpClientReport::default()
        };
        report.is_final = true;
        for (class, n) in [("ok", 1_000), ("stopped", 7), ("reset", 2), ("refused", 0)] {
            report.outcomes.insert(class.into(), n);
        }
        let found = of_client(&report);
        assert_eq!(
            (found.ok, found.stopped, found.per_second),
            (1_000, 7, Some(450.0))
        );
        assert_eq!(found.failures, BTreeMap::from([("reset".into(), 2)]));
        report.is_final = false;
        let line = GeneratorLine::Client(Box::new(report));
        assert!(outcome(Some(&line)).is_err());
    }

    #[test]
    fn command_lines() {
        let line = |args: Vec<String>| args.join(" ");
        let script = Path::new("/w.lua");
        assert_eq!(
            line(wrk_args(&wanted(), script)),
            "-t 2 -c 64 -d 900 -s /w.lua http://127.1.0.1:900/"
        );
        let close = Wanted {
            is_keep_alive: false,
            pipeline: 16,
            ..wanted()
        };
        assert!(line(wrk_args(&close, script)).contains("-H Connection: close http"));
        assert!(line(client_args(&close)).ends_with("--no-keepalive --pipeline 16"));
        assert!(line(client_args(&wanted())).contains("--spawn-rate max --run-time 900s"));
        assert!(
            wrk_script(16).contains("for i = 1, 16 do") && !wrk_script(1).contains("request =")
        );
    }
}
