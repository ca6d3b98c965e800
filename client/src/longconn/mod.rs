//! `holdfast-client longconn`: its flags, its figures, its verdict.
//!
//! Invariants: the exit code is 0 only if no user failed and none was lost.
//! Must not know: rings, slots.

pub mod user;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use holdfast_engine::Engine;
use holdfast_supervisor::histogram_log::Intervals;
use holdfast_supervisor::run_command;
use holdfast_supervisor::supervise::{Reporter, Supervisor, merge_threads};
use holdfast_sysctl::grouped;
use holdfast_telemetry::console::{EXIT_SHORT, say_counts};
use holdfast_telemetry::live::Snapshot;
use holdfast_telemetry::metrics::LabelValues;
use holdfast_telemetry::wire::{CLIENT_SCHEMA, ClientReport};

use crate::aggregate::{
    add, counts_by_name, drain_into, histogram, latency, merge_spans, named, ramp_seconds,
    write_latencies,
};
use crate::launch::{
    ClientFlags, ClientSpec, EngineSetup, LoadFlags, check_duration, metric_kinds,
};
use crate::load::Load;
use crate::reconnect::Backoff;
use crate::target;
use user::{Ended, UserConfig, UserReport, Users};

/// What longconn wants of the engine. Memory of ours for a connection: its slot and its share of rings and histograms.
pub(crate) const SPEC: ClientSpec = ClientSpec {
    batch_delay_us: 1_000,
    drain_timeout: Duration::from_secs(30),
    buffer_bytes: 512,
    own_bytes_per_connection: 96,
    connections_per_user: 1,
};

/// First line of the histogram log.
const LOG_COMMENT: &str = "holdfast-client longconn; microseconds; tags: connect, lateness";

/// Flags of `holdfast-client longconn`.
#[derive(Args)]
pub struct Flags {
    /// Server to connect to; repeat or separate by commas: users go round all of them
    #[arg(long, value_name = "HOST:PORT", required = true, value_delimiter = ',')]
    target: Vec<String>,
    /// What each message must be; empty accepts anything
    #[arg(long, value_name = "TEXT", default_value = "ok")]
    expect: String,
    /// The interval messages are expected at, to time them and to count missed ones; 0s expects none
    #[arg(long, alias = "every", value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Send this upward
    #[arg(long, value_name = "TEXT", requires = "send_interval")]
    send: Option<String>,
    /// How often each user sends
    #[arg(long, alias = "send-every", value_name = "TIME", requires = "send", value_parser = humantime::parse_duration)]
    send_interval: Option<Duration>,
    /// Connect again after a failure or a loss
    #[arg(long)]
    reconnect: bool,
    /// Pause before the first reconnect; it doubles up to a minute, less a random part
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = humantime::parse_duration)]
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

/// A message that is sent or expected to the end of the program.
///
/// # Errors
/// One line naming the flag.
pub(crate) fn message(name: &str, text: String) -> Result<&'static [u8], anyhow::Error> {
    if text.len() > 16_384 {
        anyhow::bail!(
            "{name} of {} bytes is too long; next: give at most 16,384 bytes",
            text.len()
        );
    }
    Ok(Box::leak(text.into_bytes().into_boxed_slice()))
}

fn run(flags: Flags) -> Result<ExitCode, anyhow::Error> {
    let launch = flags.launch;
    launch.engine.tie_to_parent()?;
    let users_config = UserConfig {
        interval_us: check_duration("--interval", flags.interval, true)?,
        expect: message("--expect", flags.expect)?,
        send: match (flags.send, flags.send_interval) {
            (Some(text), Some(every)) => Some((
                message("--send", text)?,
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
    let kinds = LabelValues {
        ends: Ended::ALL.iter().map(|(_, name)| *name).collect(),
        ..metric_kinds()
    };
    let metrics = launch.engine.open_metrics(kinds)?;
    let mut console = launch.open_console()?;
    let histogram_log = launch.open_histogram_log(LOG_COMMENT)?;
    let targets = target::resolve(&flags.target)?;
    let ready = launch.prepare(&flags.quantity, &targets, SPEC, &mut console)?;
    let thread_count = ready.config.thread_count();
    let params = RunParams {
        title: format!("client longconn {}", flags.target.join(",")),
        load: Arc::clone(&ready.load),
        interval_us: users_config.interval_us,
    };
    let users = flags.quantity.users;
    let mut reporter = LongconnReporter::new(params, thread_count, users, flags.reconnect);
    let supervisor = Supervisor {
        console,
        metrics,
        run_time: flags.quantity.run_time,
        histogram_log,
        ready: None,
    };
    let EngineSetup { config, plan, load } = ready;
    let handler = |share| Users::new(users_config, Arc::clone(&load), share, thread_count);
    let last = supervisor.run(
        || Engine::start(config, Vec::new(), Some(plan), handler),
        &mut reporter,
    )?;
    let lost = last.opened - last.ended.get("held").copied().unwrap_or(0);
    let fell_short = last.failed.values().sum::<u64>()
        + lost
        + (last.users_asked - last.opened.min(last.users_asked));
    Ok(if fell_short == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_SHORT)
    })
}

/// What was asked for, as far as it is shown on the way.
pub(crate) struct RunParams {
    /// What runs, and on what.
    pub title: String,
    /// How many users, how fast.
    pub load: Arc<Load>,
    /// The interval messages are expected at, microseconds; 0 expects none.
    pub interval_us: u64,
}

/// What the control plane has gathered.
pub(crate) struct LongconnReporter {
    base: ClientReport,
    params: RunParams,
    /// Users reconnect.
    comes_again: bool,
    connect_us: Histogram<u64>,
    lateness_us: Histogram<u64>,
}

impl LongconnReporter {
    /// Nothing gathered yet.
    pub fn new(params: RunParams, thread_count: usize, users: u64, comes_again: bool) -> Self {
        LongconnReporter {
            base: ClientReport {
                schema: CLIENT_SCHEMA.to_owned(),
                thread_count,
                users_asked: users,
                ..ClientReport::default()
            },
            params,
            comes_again,
            connect_us: histogram(),
            lateness_us: histogram(),
        }
    }
}

impl Reporter for LongconnReporter {
    type Counters = UserReport;
    type Report = ClientReport;

    fn report(&mut self, engine: &Engine<UserReport>, is_final: bool) -> (ClientReport, Intervals) {
        let mut all = UserReport {
            is_ramped: true,
            ..UserReport::default()
        };
        let stats = merge_threads(engine, |thread| {
            for (sum, part) in all.ended.iter_mut().zip(thread.ended) {
                *sum += part;
            }
            all.received += thread.received;
            all.wrong += thread.wrong;
            all.missed += thread.missed;
            all.sent += thread.sent;
            all.present += thread.present;
            all.is_ramped &= thread.is_ramped;
            all.ramp_us = merge_spans(all.ramp_us, thread.ramp_us);
            drain_into(&mut thread.connect_us, &mut all.connect_us);
            drain_into(&mut thread.lateness_us, &mut all.lateness_us);
        });
        add(&mut self.connect_us, &all.connect_us);
        add(&mut self.lateness_us, &all.lateness_us);
        let ended = Ended::ALL.map(|(ended, name)| (name, all.ended[ended as usize]));
        let report = ClientReport {
            is_final,
            at_us: engine.now_us(),
            shard_count: stats.shard_count as usize,
            attempts: stats.attempts,
            opened: stats.opened,
            failed: named(stats.failed_by_label()),
            open_now: stats.open_now,
            connecting_now: stats.connecting_now,
            users_now: all.present,
            ended: named(ended),
            ramp_done: all.is_ramped,
            ramp_seconds: ramp_seconds(all.ramp_us),
            messages_received: all.received,
            messages_wrong: all.wrong,
            messages_missed: all.missed,
            messages_sent: all.sent,
            bytes_received: stats.bytes_received,
            connect_us: latency(&self.connect_us),
            lateness_us: latency(&self.lateness_us),
            anomalies: counts_by_name(stats.anomalies()),
            ..self.base.clone()
        };
        let intervals = vec![("connect", all.connect_us), ("lateness", all.lateness_us)];
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
        grouped((report.opened as f64 / report.ramp_seconds.max(0.001)) as u64),
        grouped(report.failed.values().sum()),
    );
    say_counts(
        &mut text,
        &[
            ("failed", &report.failed),
            ("ended", &report.ended),
            ("anomalies", &report.anomalies),
        ],
    );
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
        ],
    );
    text
}
