//! `holdfast-client longconn`: its flags, its report, its verdict.
//!
//! Invariants: the exit code is 0 only if no user failed, none was lost and lateness kept its
//! limit.
//! Must not depend on: rings, slots.

pub mod user;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use holdfast_engine::Engine;
use holdfast_supervisor::control::Control;
use holdfast_supervisor::flags::unescape;
use holdfast_supervisor::histogram_log::Intervals;
use holdfast_supervisor::run_command;
use holdfast_supervisor::supervise::{Reporter, Supervisor, merge_threads};
use holdfast_sysctl::grouped;
use holdfast_telemetry::console::{EXIT_SHORT, write_counts};
use holdfast_telemetry::live::Snapshot;
use holdfast_telemetry::metrics::LabelValues;
use holdfast_telemetry::wire::{CLIENT_SCHEMA, ClientHead, ClientReport};
use holdfast_units::parse;

use crate::aggregate::{
    add, counts_by_name, drain_into, head, head_now, histogram, latency, merge_spans, named,
    ramp_seconds, write_failed_targets, write_latencies,
};
use crate::http::read_file;
use crate::launch::{
    ClientFlags, ClientSpec, Destination, EngineSetup, LoadFlags, check_duration, metric_kinds,
};
use crate::load::Load;
use crate::reconnect::Backoff;
use crate::target::Server;
use crate::turns::{self, Turns};
use crate::{interned, target};
use user::{Closed, Ended, SERVER_COUNT_MAX, UserConfig, UserReport, Users};

/// What longconn wants of the engine. Memory of ours for a connection: its slot and its share of
/// rings and histograms.
pub(crate) const SPEC: ClientSpec = ClientSpec {
    batch_delay_us: 1_000,
    drain_timeout: Duration::from_secs(30),
    buffer_bytes: 512,
    own_bytes_per_connection: 96,
    connections_per_user: 1,
};

/// Longest message, bytes.
const MESSAGE_BYTES_MAX: usize = 16_384;

/// First line of the histogram log.
const LOG_COMMENT: &str =
    "holdfast-client longconn; microseconds; tags: connect, lateness, response";

/// Flags of `holdfast-client longconn`.
#[derive(Args)]
pub struct Flags {
    /// Connect to this server; repeat or separate by commas: users are shared out evenly
    #[arg(
        long,
        value_name = "HOST:PORT",
        required_unless_present = "targets_file",
        value_delimiter = ','
    )]
    target: Vec<String>,
    /// Connect to the servers in this file, each with its share of the users. A line for each:
    /// HOST:PORT [WEIGHT], the weight 1 if it has none; - is standard input [default: none]
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    targets_file: Option<PathBuf>,
    /// Expect exactly this as each message; empty accepts anything. Escapes: \r \n \t \0 \\ \xHH
    #[arg(long, value_name = "TEXT", default_value = "ok")]
    expect: String,
    /// Expect messages at this interval: time them and count missed ones; 0s expects none
    #[arg(long, alias = "every", value_name = "TIME", default_value = "0s", value_parser = parse::time)]
    interval: Duration,
    /// Fall short (exit 1) when the 99.9th percentile of lateness is above this [default: the
    /// interval]
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    lateness_max: Option<Duration>,
    /// Send this message, with the escapes of --expect [default: nothing]. Without --interval, the
    /// next message is taken for the response and timed
    #[arg(long, value_name = "TEXT", requires = "send_interval")]
    send: Option<String>,
    /// Send at this interval
    #[arg(long, alias = "send-every", value_name = "TIME", requires = "send", value_parser = parse::time)]
    send_interval: Option<Duration>,
    /// Connect again after a failure or a loss
    #[arg(long)]
    reconnect: bool,
    /// Pause this long before the first reconnect; doubles up to a minute, less a random part
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse::time)]
    reconnect_pause: Duration,
    #[command(flatten)]
    quantity: LoadFlags,
    #[command(flatten)]
    launch: ClientFlags,
}

/// Runs the subcommand.
pub fn main(flags: Flags) -> ExitCode {
    run_command(|| run(flags))
}

/// Decodes a message that is sent or expected until the end of the process.
///
/// # Errors
/// One line naming the flag.
pub(crate) fn message(flag: &str, text: &str) -> Result<&'static [u8], anyhow::Error> {
    let bytes = unescape(flag, text)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        anyhow::bail!(
            "{flag} of {} bytes is too long; next: give at most {MESSAGE_BYTES_MAX} bytes",
            bytes.len()
        );
    }
    Ok(interned::keep(bytes))
}

fn run(flags: Flags) -> Result<ExitCode, anyhow::Error> {
    let launch = flags.launch;
    launch.engine.tie_to_parent()?;
    let users_config = UserConfig {
        interval_us: check_duration("--interval", flags.interval, true)?,
        expect: message("--expect", &flags.expect)?,
        send: match (flags.send, flags.send_interval) {
            (Some(text), Some(every)) => Some((
                message("--send", &text)?,
                check_duration("--send-interval", every, false)?,
            )),
            _ => None,
        },
        reconnect: if flags.reconnect {
            let first_us = check_duration("--reconnect-pause", flags.reconnect_pause, false)?;
            Some(Backoff {
                first_us,
                longest_us: first_us.max(60_000_000),
            })
        } else {
            None
        },
    };
    let lateness_limit_us = match flags.lateness_max {
        Some(_) if flags.interval.is_zero() => anyhow::bail!(
            "--lateness-max judges messages that are due at an interval; next: give --interval too"
        ),
        Some(limit) => check_duration("--lateness-max", limit, false)?,
        None => users_config.interval_us,
    };
    let kinds = LabelValues {
        ends: Ended::ALL.iter().map(|(_, name)| *name).collect(),
        ..metric_kinds()
    };
    let targets = match &flags.targets_file {
        Some(path) => {
            let text = read_file(path)?;
            let text = String::from_utf8_lossy(&text);
            turns::parse_lines(&text, ("a server", "192.0.2.1:7070"), |s| Ok(s.to_owned()))
                .map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?
        }
        None => flags.target.iter().map(|t| (t.clone(), 1)).collect(),
    };
    let metrics = launch.engine.open_metrics(kinds, None)?;
    let mut console = launch.open_console()?;
    let histogram_log = launch.open_histogram_log(LOG_COMMENT)?;
    let users = flags.quantity.users;
    let Destinations { servers, turns } = destinations(&targets, &launch)?;
    let shares = match &turns {
        Some(turns) => turns.shares(users, servers.len()),
        None => vec![users],
    };
    let destinations = servers.iter().zip(&shares);
    let destinations: Vec<Destination<'_>> = destinations
        .map(|(server, users)| Destination {
            addresses: &server.addresses,
            users: *users,
        })
        .collect();
    let ready = launch.prepare(&flags.quantity, &destinations, SPEC, &mut console)?;
    let thread_count = ready.config.thread_count();
    let params = RunParams {
        title: {
            let names: Vec<&str> = targets.iter().map(|(name, _)| &**name).collect();
            format!("client longconn {}", target::list(&names))
        },
        load: ready.load,
        interval_us: users_config.interval_us,
        lateness_limit_us,
    };
    let mut reporter = LongconnReporter::new(params, thread_count, users, flags.reconnect);
    let control = Control::new(&console, false)?;
    let supervisor = Supervisor {
        console,
        metrics,
        run_time: flags.quantity.run_time,
        histogram_log,
        ready: None,
        inherited: None,
        upgrade: None,
    };
    let EngineSetup {
        config,
        plan,
        targets,
        load,
    } = ready;
    let names = servers.into_iter().map(|server| server.names);
    target::keep_resolved(names.zip(targets).collect(), &launch.resolve);
    let handler = |share| {
        let users = Users::new(users_config, load, share, thread_count);
        match &turns {
            Some(turns) => users.with_servers(turns.clone()),
            None => users,
        }
    };
    let last = supervisor.run(
        control,
        || Engine::start(config, Vec::new(), Some(plan), handler),
        &mut reporter,
    )?;
    let lost = last.opened - last.ended.get("held").copied().unwrap_or(0);
    let fell_short = last.failed.values().sum::<u64>()
        + lost
        + (last.users_asked - last.opened.min(last.users_asked));
    let is_late = lateness_limit_us > 0 && last.lateness_us.p999 > lateness_limit_us;
    Ok(if fell_short == 0 && !is_late {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_SHORT)
    })
}

/// Servers, and which of them users keep to.
struct Destinations {
    servers: Vec<Server>,
    /// The servers of users, by their numbers; `None`: users rotate over all addresses.
    turns: Option<Turns>,
}

/// The servers of these targets with weights.
///
/// # Errors
/// One line naming a target that cannot be resolved, or weights that are too many.
fn destinations(
    targets: &[(String, u64)],
    launch: &ClientFlags,
) -> Result<Destinations, anyhow::Error> {
    let overrides = &launch.resolve;
    let texts = || targets.iter().map(|(text, _)| &**text);
    let (servers, numbers) = target::resolve_servers(texts(), overrides)?;
    let mut weights = vec![0; servers.len()];
    for (number, (_, weight)) in numbers.iter().zip(targets) {
        weights[usize::from(*number)] += weight;
    }
    if servers.len() <= SERVER_COUNT_MAX {
        let turns = Turns::new(&weights)?.spread_over(launch.engine.thread_count());
        return Ok(Destinations {
            turns: (servers.len() > 1).then_some(turns),
            servers,
        });
    }
    if targets.iter().any(|(_, weight)| *weight != targets[0].1) {
        anyhow::bail!(
            "{} servers with different weights are too many; next: give at most {SERVER_COUNT_MAX}, or equal weights",
            servers.len()
        );
    }
    let names: Vec<String> = texts().map(str::to_owned).collect();
    let addresses = target::resolve(&names, overrides)?;
    Ok(Destinations {
        servers: vec![Server { names, addresses }],
        turns: None,
    })
}

/// What was asked for, as far as it is shown on the way.
pub(crate) struct RunParams {
    /// What runs, and on what.
    pub title: String,
    /// How many users, how fast.
    pub load: Load,
    /// The interval messages are expected at, microseconds; 0 expects none.
    pub interval_us: u64,
    /// Largest 99.9th percentile of lateness of a run that did not fall short, microseconds; 0:
    /// lateness is not judged.
    pub lateness_limit_us: u64,
}

/// What the control plane has gathered.
pub(crate) struct LongconnReporter {
    base: ClientHead,
    params: RunParams,
    /// Users reconnect.
    comes_again: bool,
    connect_us: Histogram<u64>,
    lateness_us: Histogram<u64>,
    response_us: Histogram<u64>,
}

impl LongconnReporter {
    /// Nothing gathered yet.
    pub fn new(params: RunParams, thread_count: usize, users: u64, comes_again: bool) -> Self {
        LongconnReporter {
            base: head(CLIENT_SCHEMA, thread_count, users),
            params,
            comes_again,
            connect_us: histogram(),
            lateness_us: histogram(),
            response_us: histogram(),
        }
    }
}

impl Reporter for LongconnReporter {
    type Counters = UserReport;
    type Command = Load;
    type Report = ClientReport;

    fn report(
        &mut self,
        engine: &Engine<UserReport, Load>,
        is_final: bool,
    ) -> (ClientReport, Intervals) {
        let mut all = UserReport {
            is_ramped: true,
            ..UserReport::default()
        };
        let stats = merge_threads(engine, |thread| {
            let ended = all.ended.iter_mut().zip(thread.ended);
            ended.for_each(|(sum, part)| *sum += part);
            let closed = all.closed.iter_mut().zip(thread.closed);
            closed.for_each(|(sum, part)| *sum += part);
            all.received += thread.received;
            all.wrong += thread.wrong;
            all.missed += thread.missed;
            all.sent += thread.sent;
            all.present += thread.present;
            all.is_ramped &= thread.is_ramped;
            all.ramp_us = merge_spans(all.ramp_us, thread.ramp_us);
            drain_into(&mut thread.connect_us, &mut all.connect_us);
            drain_into(&mut thread.lateness_us, &mut all.lateness_us);
            drain_into(&mut thread.response_us, &mut all.response_us);
        });
        add(&mut self.connect_us, &all.connect_us);
        add(&mut self.lateness_us, &all.lateness_us);
        add(&mut self.response_us, &all.response_us);
        let ended = Ended::ALL.map(|(ended, name)| (name, all.ended[ended as usize]));
        let report = ClientReport {
            head: head_now(&self.base, is_final, engine.now_us(), &stats, all.present),
            ended: named(ended),
            closed: named(Closed::ALL.map(|(closed, name)| (name, all.closed[closed as usize]))),
            ramp_done: all.is_ramped,
            ramp_seconds: ramp_seconds(all.ramp_us),
            messages_received: all.received,
            messages_wrong: all.wrong,
            messages_missed: all.missed,
            messages_sent: all.sent,
            bytes_received: stats.bytes_received,
            connect_us: latency(&self.connect_us),
            lateness_us: latency(&self.lateness_us),
            lateness_limit_us: self.params.lateness_limit_us,
            response_us: latency(&self.response_us),
            turns: counts_by_name(stats.turns()),
            anomalies: counts_by_name(stats.anomalies()),
        };
        let intervals = vec![
            ("connect", all.connect_us),
            ("lateness", all.lateness_us),
            ("response", all.response_us),
        ];
        (report, intervals)
    }

    /// All are lost, and none comes back: there is nothing to wait for.
    fn is_over(&self, report: &ClientReport) -> bool {
        !self.comes_again && has_nobody_left(report)
    }

    fn snapshot(&self, report: &ClientReport) -> Snapshot {
        let interval_us = self.params.interval_us;
        let due = (interval_us > 0).then(|| report.open_now as f64 * 1e6 / interval_us as f64);
        Snapshot {
            title: self.params.title.clone(),
            ..Snapshot::from(report)
        }
        .with_target_rate("opened", self.params.load.spawn_rate())
        .with_target_rate("messages", due)
    }

    fn summary(&self, report: &ClientReport) -> String {
        summary(report)
    }
}

/// True if every user was tried and none is open or under way any more.
fn has_nobody_left(report: &ClientReport) -> bool {
    report.ramp_done
        && report.attempts >= report.users_asked
        && report.open_now + report.connecting_now == 0
}

fn summary(report: &ClientReport) -> String {
    let mut text = format!(
        "users {}: opened {} in {:.1} s ({}/s), failed {}",
        grouped(report.users_asked),
        grouped(report.opened),
        report.ramp_seconds,
        holdfast_units::rate(report.opened as f64 / report.ramp_seconds.max(0.001)),
        grouped(report.failed.values().sum()),
    );
    write_counts(
        &mut text,
        &[
            ("failed", &report.failed),
            ("ended", &report.ended),
            ("closed at the end", &report.closed),
            ("anomalies", &report.anomalies),
        ],
    );
    write_failed_targets(&mut text, &report.head);
    text += &format!(
        "\nmessages: received {}, wrong {}, missed {}, sent {}",
        grouped(report.messages_received),
        grouped(report.messages_wrong),
        grouped(report.messages_missed),
        grouped(report.messages_sent),
    );
    write_latencies(
        &mut text,
        &[
            ("connect", report.connect_us),
            ("lateness", report.lateness_us),
            ("response", report.response_us),
        ],
    );
    if report.lateness_us.count > 0 && report.lateness_limit_us > 0 {
        let is_kept = report.lateness_us.p999 <= report.lateness_limit_us;
        text += &format!(
            "\nlateness limit: p99.9 {} us, {}",
            grouped(report.lateness_limit_us),
            if is_kept { "kept" } else { "exceeded" }
        );
        if !is_kept {
            write_counts(&mut text, &[("turns", &report.turns)]);
        }
    }
    text
}
