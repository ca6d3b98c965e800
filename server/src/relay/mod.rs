//! `holdfast-server relay`: its flags and its report.
//!
//! Must not depend on: rings, slots, how connections are relayed.

pub mod backends;
pub mod balance;
pub mod class;
pub mod config;
pub mod handler;
pub mod health;
mod profile;
pub mod state;
mod waiting;

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use holdfast_engine::{Config, Engine};
use holdfast_supervisor::histogram_log::Intervals;
use holdfast_supervisor::run_command;
use holdfast_supervisor::supervise::{Reporter, merge_threads};
use holdfast_sysctl::cost::{DIRECT_DESCRIPTOR_BYTES, RECV_PARKED_BYTES, SOCKET_BYTES};
use holdfast_sysctl::grouped;
use holdfast_telemetry::console::write_counts;
use holdfast_telemetry::live::Snapshot;
use holdfast_telemetry::wire::{RELAY_SCHEMA, RelayReport, ServerHead};

use crate::launch::{self, Server, ServerFlags, ServerSpec, all_counts, counts};
use backends::{Health, Topology};
use class::Class;
use config::{BackendConfig, DEFAULT_POOL, ListenConfig, PoolConfig, RelayConfig};
use handler::{Command, Relay, RelayCounts};
use health::{Change, Watcher};

/// Memory of one client at most: two kernel sockets with direct descriptors and waiting receives, and
/// 128 bytes of the engine.
const BYTES_PER_CLIENT: u64 =
    2 * (SOCKET_BYTES + DIRECT_DESCRIPTOR_BYTES + RECV_PARKED_BYTES) + 128;

/// Flags of `holdfast-server relay`.
#[derive(Args)]
pub struct Flags {
    /// Relay to this backend; repeat. Options behind commas: name=NAME, weight=0..256 (default 1),
    /// backup, maxconn=COUNT, check=tcp|http|none
    #[arg(long, value_name = "HOST:PORT[,OPTION...]", conflicts_with = "config")]
    backend: Vec<BackendConfig>,
    /// Read listeners, pools and everything else from this file, instead of --listen and --backend
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and exit: 0 if it is right, 2 if not
    #[arg(long)]
    check_config: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// Runs the subcommand.
pub fn main(flags: Flags) -> ExitCode {
    run_command(|| run(flags))
}

fn run(mut flags: Flags) -> Result<ExitCode, anyhow::Error> {
    let config = configuration(&flags)?;
    if flags.check_config {
        println!("the configuration is right");
        return Ok(ExitCode::SUCCESS);
    }
    let addresses = config.listen.iter().map(|listen| listen.address.clone());
    flags.server.listen_at(addresses.collect());
    let spec = ServerSpec {
        port: 7000,
        bytes_per_connection: BYTES_PER_CLIENT,
        timeouts: Vec::new(),
        outcomes: Class::ALL.iter().map(|class| class.label()).collect(),
        slots_per_connection: 2,
        config: Config::builder()
            .pairs(true)
            .peer_addresses(true)
            .buffer_bytes(65_536)
            .buffer_count_max(1_024)
            .park_after(Duration::from_secs(5))
            .batch_delay(Duration::ZERO),
        keep_after_upgrade: None,
    };
    let server = Server::bind(flags.server, spec)?;
    let topology = Arc::new(Topology::new(&config)?);
    topology.install();
    let mut reporter = RelayReporter {
        base: server.head(RELAY_SCHEMA),
        topology: Arc::clone(&topology),
        watcher: None,
        messages: Rc::default(),
    };
    let addresses = config.listen.iter().map(|listen| listen.address.as_str());
    let routes = server.routes(&addresses.collect::<Vec<_>>())?;
    let handler = |thread: usize| {
        let route_of = routes[thread].clone();
        Relay::new(Arc::clone(&topology), thread, route_of)
    };
    server.run("relaying", handler, &mut reporter)?;
    Ok(ExitCode::SUCCESS)
}

/// What the file or the flags ask for.
fn configuration(flags: &Flags) -> Result<RelayConfig, anyhow::Error> {
    if let Some(file) = &flags.config {
        if !flags.server.listen().is_empty() {
            anyhow::bail!(
                "--listen beside --config; next: put the address into {} as [[listen]]",
                file.display()
            );
        }
        return Ok(RelayConfig::read(file)?);
    }
    let listen = flags.server.listen().iter();
    let pool = PoolConfig {
        backend: flags.backend.clone(),
        ..PoolConfig::default()
    };
    let config = RelayConfig {
        listen: listen.map(|a| ListenConfig::new(a, DEFAULT_POOL)).collect(),
        pool: [(DEFAULT_POOL.to_owned(), pool)].into(),
        ..RelayConfig::default()
    };
    config.check()?;
    Ok(config)
}

struct RelayReporter {
    /// The fields that do not change.
    base: ServerHead,
    topology: Arc<Topology>,
    /// The health checks, once the engine runs.
    watcher: Option<Watcher>,
    messages: Rc<RefCell<Vec<String>>>,
}

impl RelayReporter {
    /// Says that a backend is down or up, and orders what follows for its connections.
    fn on_change(messages: &RefCell<Vec<String>>, change: &Change) {
        let backend = &change.backend;
        let text = format!(
            "backend {}/{} is {}: {}",
            backend.pool(),
            backend.name(),
            match change.health {
                Health::Up => "up",
                Health::Down => "down",
            },
            change.reason
        );
        messages.borrow_mut().push(text);
    }
}

impl Reporter for RelayReporter {
    type Counters = RelayCounts;
    type Command = Command;
    type Report = RelayReport;

    fn on_start(&mut self, _engine: &Engine<RelayCounts, Command>) {
        let messages = Rc::clone(&self.messages);
        let on_change = move |change: Change| Self::on_change(&messages, &change);
        self.watcher = Some(Watcher::start(Arc::clone(&self.topology), on_change));
    }

    fn take_messages(&mut self) -> Vec<String> {
        self.messages.take()
    }

    fn report(
        &mut self,
        engine: &Engine<RelayCounts, Command>,
        is_final: bool,
    ) -> (RelayReport, Intervals) {
        let mut all = RelayCounts::default();
        let stats = merge_threads(engine, |thread| all.add(thread));
        let ended = Class::ALL.iter().map(|class| class.label());
        let report = RelayReport {
            head: launch::head(&self.base, is_final, engine.now_us(), &stats),
            ended: counts(ended.zip(all.ended)),
            clients_now: all.clients_now,
            waiting_now: all.waiting_now,
            queued_now: all.queued_now,
            connect_attempts: stats.attempts,
            connected: stats.opened,
            connect_failed: counts(stats.failed_by_label()),
            connect_retries: all.retries,
            bytes_received: stats.bytes_received,
            bytes_forwarded: stats.bytes_forwarded,
            bytes_copied: stats.bytes_forwarded_copied,
            turns: all_counts(stats.turns()),
            anomalies: all_counts(stats.anomalies()),
        };
        (report, Intervals::new())
    }

    fn snapshot(&self, report: &RelayReport) -> Snapshot {
        Snapshot::from(report)
    }

    fn summary(&self, report: &RelayReport) -> String {
        let mut text = format!(
            "clients accepted {}, refused {} for want of room, connected {}, bytes forwarded {}",
            grouped(report.accepted),
            grouped(report.refused_full),
            grouped(report.connected),
            grouped(report.bytes_forwarded),
        );
        write_counts(
            &mut text,
            &[
                ("ended", &report.ended),
                ("connects failed", &report.connect_failed),
                ("sockets closed", &report.closed),
                ("accept failed", &report.accept_failed),
                ("anomalies", &report.anomalies),
            ],
        );
        text
    }
}
