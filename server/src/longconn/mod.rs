//! `holdfast-server longconn`: its own flags, and its figures.
//!
//! Must not know: rings, slots.

pub mod heartbeat;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use holdfast_engine::{Config, Engine};
use holdfast_sysctl::cost::{DIRECT_DESCRIPTOR_BYTES, POLL_PARKED_BYTES, SOCKET_BYTES};
use holdfast_sysctl::grouped;
use holdfast_telemetry::console::say_counts;
use holdfast_telemetry::live::Snapshot;
use holdfast_telemetry::wire::{SERVER_SCHEMA, ServerReport};

use crate::launch::{self, Launch, Telling, Wants, gather, named};
use heartbeat::{HeartbeatConfig, HeartbeatReport, HeartbeatServer};

/// What one held connection costs here at most: kernel socket, direct descriptor, parked poll, and 128 bytes of ours.
const BYTES_PER_CONNECTION: u64 = SOCKET_BYTES + DIRECT_DESCRIPTOR_BYTES + POLL_PARKED_BYTES + 128;

/// Flags of `holdfast-server longconn`.
#[derive(Args)]
pub struct Flags {
    /// What is pushed to each connection
    #[arg(long, value_name = "TEXT", default_value = "ok")]
    message: String,
    /// Interval of the pushes to one connection, spread evenly over all of them; 0s pushes nothing
    #[arg(long, alias = "every", value_name = "TIME", default_value = "550s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Send back what peers send, instead of dropping it
    #[arg(long)]
    echo: bool,
    /// End connections whose peer sent nothing for this long [default: never]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    idle_timeout: Option<Duration>,
    #[command(flatten)]
    launch: launch::LaunchFlags,
}

/// Runs the subcommand.
pub fn main(flags: Flags) -> ExitCode {
    launch::run(|| run(flags))
}

fn run(flags: Flags) -> Result<ExitCode, anyhow::Error> {
    if flags.message.is_empty() || flags.message.len() > 16_384 {
        anyhow::bail!(
            "a message of {} bytes; next: give --message 1 to 16,384 bytes, or --interval 0s for none",
            flags.message.len()
        );
    }
    if !flags.interval.is_zero() {
        launch::check_time("--interval", flags.interval)?;
    }
    let idle_timeout = flags.idle_timeout;
    let idle_timeout_us = idle_timeout
        .map(|time| launch::check_time("--idle-timeout", time))
        .transpose()?;
    let wants = Wants {
        port: 7070,
        connection_bytes: BYTES_PER_CONNECTION,
        timeouts: Vec::new(),
        config: Config {
            buffer_bytes: 512,
            ..Config::default()
        },
    };
    let mut launch = Launch::new(flags.launch, wants)?;
    let heartbeat = HeartbeatConfig {
        message: Box::leak(flags.message.into_bytes().into_boxed_slice()),
        interval_us: flags.interval.as_millis() as u64 * 1_000,
        idle_timeout_us,
        echo: flags.echo,
    };
    let base = ServerReport {
        schema: SERVER_SCHEMA.to_owned(),
        listen: launch.addresses(),
        thread_count: launch.config.thread_count,
        capacity: launch.config.capacity,
        ring_slots: launch.config.ring_slots,
        ..ServerReport::default()
    };
    let ready = launch.ready("holding");
    let engine = Engine::start(launch.config, launch.listeners, None, |_| {
        HeartbeatServer::new(heartbeat)
    })?;
    launch.console.say(ready);
    let tale = Tale {
        base,
        interval_us: heartbeat.interval_us,
    };
    tokio_uring::start(launch::supervise(
        engine,
        launch.console,
        launch.metrics,
        tale,
    ))
}

/// The report, with what does not change.
struct Tale {
    base: ServerReport,
    /// Interval of the pushes, microseconds; 0 pushes nothing.
    interval_us: u64,
}

impl Telling<HeartbeatReport> for Tale {
    type Report = ServerReport;

    fn report(&mut self, engine: &Engine<HeartbeatReport>, is_final: bool) -> ServerReport {
        let mut skipped = 0;
        let stats = gather(engine, |heartbeat: &HeartbeatReport| {
            skipped += heartbeat.skipped
        });
        let mut anomalies = stats.anomalies().to_vec();
        anomalies.extend([
            ("messages_skipped", skipped),
            ("sends_short", stats.sends_short),
        ]);
        ServerReport {
            is_final,
            at_us: engine.now_us(),
            shard_count: stats.shard_count as usize,
            open_now: stats.open_now,
            // The sum of the threads' peaks, which need not have been at the same time; the gate lets no more than this be open.
            open_max: stats.open_max.min(self.base.capacity),
            accepted: stats.accepted,
            refused_full: stats.refused_full,
            accept_failed: named(stats.accept_failed_by_label()),
            closed: named(stats.closed_by_label()),
            messages_sent: stats.sends,
            bytes_received: stats.bytes_received,
            anomalies: named(anomalies),
            ..self.base.clone()
        }
    }

    fn snapshot(&self, report: &ServerReport) -> Snapshot {
        let due =
            (self.interval_us > 0).then(|| report.open_now as f64 * 1e6 / self.interval_us as f64);
        Snapshot::from(report).asking("messages", due)
    }

    fn summary(&self, report: &ServerReport) -> String {
        let mut text = format!(
            "accepted {}, held {} at most, refused {} for want of room, messages sent {}",
            grouped(report.accepted),
            grouped(report.open_max),
            grouped(report.refused_full),
            grouped(report.messages_sent),
        );
        say_counts(
            &mut text,
            &[
                ("ended", &report.closed),
                ("accept failed", &report.accept_failed),
                ("anomalies", &report.anomalies),
            ],
        );
        text
    }
}
