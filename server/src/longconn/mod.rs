//! `holdfast-server longconn`: its flags and its report.
//!
//! Must not depend on: rings, slots.

pub mod heartbeat;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use holdfast_engine::{Config, Engine};
use holdfast_supervisor::flags::unescape;
use holdfast_supervisor::histogram_log::Intervals;
use holdfast_supervisor::run_command;
use holdfast_supervisor::supervise::{Reporter, merge_threads};
use holdfast_sysctl::cost::{DIRECT_DESCRIPTOR_BYTES, POLL_PARKED_BYTES, SOCKET_BYTES};
use holdfast_sysctl::grouped;
use holdfast_telemetry::console::write_counts;
use holdfast_telemetry::live::Snapshot;
use holdfast_telemetry::wire::{SERVER_SCHEMA, ServerHead, ServerReport};
use holdfast_units::parse;

use crate::launch::{self, Server, ServerFlags, ServerSpec, all_counts, check_duration};
use heartbeat::{HeartbeatConfig, HeartbeatReport, HeartbeatServer};

/// Memory of one connection at most: kernel socket, direct descriptor, parked poll, and 128 bytes
/// of the engine.
const BYTES_PER_CONNECTION: u64 = SOCKET_BYTES + DIRECT_DESCRIPTOR_BYTES + POLL_PARKED_BYTES + 128;

/// Flags of `holdfast-server longconn`.
#[derive(Args)]
pub struct Flags {
    /// Send this message to each connection. Escapes: \r \n \t \0 \\ \xHH
    #[arg(long, value_name = "TEXT", default_value = "ok")]
    message: String,
    /// Send to each connection at this interval, spread evenly over all of them; 0s sends nothing
    #[arg(long, alias = "every", value_name = "TIME", default_value = "550s", value_parser = parse::time)]
    interval: Duration,
    /// Echo what peers send, instead of dropping it
    #[arg(long)]
    echo: bool,
    /// Close connections whose peer has sent nothing for this long [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    idle_timeout: Option<Duration>,
    /// After an upgrade by SIGUSR2, close the connections that the old process still holds when
    /// this time is over [default: hold them until they end]
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    keep_after_upgrade: Option<Duration>,
    #[command(flatten)]
    server: ServerFlags,
}

/// Runs the subcommand.
pub fn main(flags: Flags) -> ExitCode {
    run_command(|| run(flags))
}

fn run(flags: Flags) -> Result<ExitCode, anyhow::Error> {
    let message = unescape("--message", &flags.message)?;
    if message.is_empty() || message.len() > 16_384 {
        anyhow::bail!(
            "a message of {} bytes; next: give --message 1 to 16,384 bytes, or --interval 0s for none",
            message.len()
        );
    }
    if !flags.interval.is_zero() {
        check_duration("--interval", flags.interval)?;
    }
    let idle_timeout = flags.idle_timeout;
    let idle_timeout_us = idle_timeout
        .map(|time| check_duration("--idle-timeout", time))
        .transpose()?;
    let spec = ServerSpec {
        port: 7070,
        bytes_per_connection: BYTES_PER_CONNECTION,
        slots_per_connection: 1,
        outcomes: Vec::new(),
        timeouts: Vec::new(),
        config: Config::builder().buffer_bytes(512),
        keep_after_upgrade: flags.keep_after_upgrade,
    };
    let server = Server::bind(flags.server, spec)?;
    let config = HeartbeatConfig {
        message: message.leak(),
        interval_us: flags.interval.as_millis() as u64 * 1_000,
        idle_timeout_us,
        echo: flags.echo,
    };
    let base = server.head(SERVER_SCHEMA);
    let interval_us = config.interval_us;
    let mut reporter = LongconnReporter { base, interval_us };
    server.run("holding", |_| HeartbeatServer::new(config), &mut reporter)?;
    Ok(ExitCode::SUCCESS)
}

struct LongconnReporter {
    /// The fields that do not change.
    base: ServerHead,
    /// Interval of the heartbeats, microseconds; 0: none are sent.
    interval_us: u64,
}

impl Reporter for LongconnReporter {
    type Counters = HeartbeatReport;
    type Command = ();
    type Report = ServerReport;

    fn report(
        &mut self,
        engine: &Engine<HeartbeatReport>,
        is_final: bool,
    ) -> (ServerReport, Intervals) {
        let mut skipped = 0;
        let stats = merge_threads(engine, |heartbeat| skipped += heartbeat.skipped);
        let mut anomalies = stats.anomalies().to_vec();
        anomalies.extend([
            ("messages_skipped", skipped),
            ("sends_short", stats.sends_short),
        ]);
        let report = ServerReport {
            head: launch::head(&self.base, is_final, engine.now_us(), &stats),
            messages_sent: stats.sends,
            bytes_received: stats.bytes_received,
            turns: all_counts(stats.turns()),
            anomalies: all_counts(anomalies),
        };
        (report, Intervals::new())
    }

    fn snapshot(&self, report: &ServerReport) -> Snapshot {
        let due =
            (self.interval_us > 0).then(|| report.open_now as f64 * 1e6 / self.interval_us as f64);
        Snapshot::from(report).with_target_rate("messages", due)
    }

    fn summary(&self, report: &ServerReport) -> String {
        let mut text = format!(
            "accepted {}, held {} at most, refused {} for want of room, messages sent {}",
            grouped(report.accepted),
            grouped(report.open_max),
            grouped(report.refused_full),
            grouped(report.messages_sent),
        );
        write_counts(
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
