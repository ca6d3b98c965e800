//! What every server has in common: the flags of listening, holding and telling, the way from them to a running engine, and the
//! supervision until it has ended.
//!
//! Invariants: nothing starts before the preflight has passed; every way out after the start prints the final figures.
//! Must not know: protocols, rings, slots.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use holdfast_engine::{
    CloseReason, Config, Engine, KernelRing, OpenFailure, Shutdown, Stats, allowed_cores,
};
use holdfast_sysctl::{Machine, Role, grouped, preflight};
use holdfast_telemetry::console::{self, Console, ConsoleFlags, Event, Events};
use holdfast_telemetry::live::Snapshot;
use holdfast_telemetry::metrics::{self, Exposed, Kinds, Metrics, Thread};
use serde::Serialize;

use crate::port;

/// Held by default, where memory allows.
const CONNECTIONS_DEFAULT: u64 = 1_000_000;

/// Flags every server has.
#[derive(Args)]
pub struct LaunchFlags {
    /// Address and port to listen on; repeat or separate by commas [default: port 7070 of every address; http: 8080]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    listen: Vec<String>,
    /// Connections held at most; more are reset at once and counted [default: 1000000, or what memory allows]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    connections: Option<u64>,
    /// After SIGTERM or SIGINT, connections are cut when none has ended in order for this long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,
    /// Core threads [default: one for each core this process may use]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Accept on the core a connection's packets arrive on: best when clients are on this machine or the network card has a queue
    /// for each core
    #[arg(long, alias = "local-accept")]
    accept_on_rx_cpu: bool,
    /// How long a busy thread lets work gather, microseconds; less is prompter, more is cheaper [default: 1000; http: 0]
    #[arg(long, alias = "coalesce", value_name = "MICROSECONDS", value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    batch_delay: Option<u64>,
    /// Direct descriptors of one ring [default: the descriptor limit]
    #[arg(long, value_name = "COUNT", hide = true)]
    ring_slots: Option<u32>,
    #[command(flatten)]
    console: ConsoleFlags,
    #[command(flatten)]
    metrics: metrics::MetricsFlags,
    /// End at once when the process that started this one ends
    #[arg(long)]
    die_with_parent: bool,
}

/// What a protocol wants of its server.
pub struct Wants {
    /// Port listened on when none is named.
    pub port: u16,
    /// Memory one connection takes at most, the kernel's included, bytes.
    pub connection_bytes: u64,
    /// Limits in time there are, by name.
    pub timeouts: Vec<&'static str>,
    /// Sizes and times of the engine; capacity, threads and ring sizes are filled in here.
    pub config: Config,
}

/// A server about to start.
pub struct Launch {
    /// Where its reports go.
    pub console: Console,
    /// Where they go as metrics.
    pub metrics: Metrics,
    /// What the engine is asked to be.
    pub config: Config,
    /// Its listeners, `[thread][address]`.
    pub listeners: Vec<Vec<OwnedFd>>,
    /// The addresses it listens on.
    pub bound: Vec<SocketAddr>,
}

/// Runs a subcommand; an error of usage or set-up is one line.
pub fn run(command: impl FnOnce() -> Result<ExitCode, anyhow::Error>) -> ExitCode {
    command().unwrap_or_else(|error| console::refuse(&error))
}

/// Refuses a time that is too short or too long to work with. `name` is its flag.
///
/// # Errors
/// One line naming the flag and the range.
pub fn check_time(name: &str, time: Duration) -> Result<u64, anyhow::Error> {
    if !(Duration::from_millis(10)..=Duration::from_secs(86_400)).contains(&time) {
        anyhow::bail!("{name} {time:?} is out of range; next: give 10ms to 24h");
    }
    Ok(time.as_micros() as u64)
}

impl Launch {
    /// Checks the machine and takes the ports.
    ///
    /// # Errors
    /// One line naming what is missing and the next command.
    pub fn new(flags: LaunchFlags, wants: Wants) -> Result<Self, anyhow::Error> {
        if flags.die_with_parent {
            console::die_with_parent()?;
        }
        let kinds = Kinds {
            open_failures: OpenFailure::ALL.iter().map(|f| f.label()).collect(),
            ends: CloseReason::ALL.iter().map(|r| r.label()).collect(),
            timeouts: wants.timeouts,
            ..Kinds::default()
        };
        let metrics = Metrics::open(&flags.metrics, kinds).map_err(anyhow::Error::msg)?;
        let mut console = Console::new(&flags.console).map_err(anyhow::Error::msg)?;
        let machine = Machine::read()?;
        preflight::check_kernel(&machine, "io_uring's ACCEPT_DONTWAIT", (6, 10))?;
        preflight::check_io_uring(&machine)?;
        let nofile = preflight::raise_nofile()?;
        KernelRing::check(false)?;
        let capacity = match flags.connections {
            Some(asked) => {
                preflight::check_memory(&machine, asked, wants.connection_bytes)?;
                asked
            }
            None => {
                CONNECTIONS_DEFAULT.min(preflight::memory_fits(&machine, wants.connection_bytes))
            }
        };
        let mut listen = flags.listen;
        if listen.is_empty() {
            listen.push(format!("0.0.0.0:{}", wants.port));
        }
        let addresses = resolve(&listen)?;
        let cores = allowed_cores();
        let thread_count = flags.threads.map_or(cores.len(), usize::from);
        let share = capacity.div_ceil(thread_count as u64);
        let ring_slots = flags.ring_slots.map_or(nofile.limit, u64::from);
        let ring_slots =
            ring_slots.min(share + u64::from(holdfast_engine::config::SPARE_SLOTS) * 2);
        let config = Config {
            capacity,
            thread_count,
            cores: cores.clone(),
            ring_slots: ring_slots.min(u64::from(holdfast_engine::config::RING_SLOTS_MAX)) as u32,
            batch_delay_us: flags.batch_delay.unwrap_or(wants.config.batch_delay_us),
            drain_timeout: flags.drain_timeout,
            ..wants.config
        };
        config.check()?;
        let cores_of_listeners = flags.accept_on_rx_cpu.then_some(&cores[..]);
        let (listeners, bound) =
            port::listen(&addresses, thread_count, cores_of_listeners, &mut console)?;
        console.say(format_args!(
            "{nofile}; {} rings of {} when full",
            config.ring_count(),
            config.ring_slots
        ));
        for shortfall in holdfast_sysctl::plan::shortfalls(&machine, Role::Server, capacity) {
            console.say(shortfall);
        }
        Ok(Launch {
            console,
            metrics,
            config,
            listeners,
            bound,
        })
    }

    /// The addresses as text.
    pub fn addresses(&self) -> Vec<String> {
        self.bound.iter().map(ToString::to_string).collect()
    }

    /// What to say once it runs: `doing` up to its capacity.
    pub fn ready(&self, doing: &str) -> String {
        format!(
            "{doing} up to {} connections on {} with {} threads; Ctrl-C ends them in order",
            grouped(self.config.capacity),
            self.addresses().join(", "),
            self.config.thread_count,
        )
    }
}

/// Resolves the addresses to listen on.
fn resolve(listen: &[String]) -> Result<Vec<SocketAddr>, anyhow::Error> {
    let mut addresses = Vec::new();
    for text in listen {
        let found = text.to_socket_addrs().map_err(|e| {
            anyhow::anyhow!("cannot listen on '{text}' ({e}); next: give HOST:PORT, such as 0.0.0.0:7070 or [::]:7070")
        })?;
        addresses.extend(found);
    }
    for address in &addresses {
        preflight::check_port(*address)?;
    }
    Ok(addresses)
}

/// How a protocol tells what its server did.
pub trait Telling<P> {
    /// Its report.
    type Report: Serialize + Exposed;
    /// The figures of all threads now.
    fn report(&mut self, engine: &Engine<P>, is_final: bool) -> Self::Report;
    /// What people see of it, once a second.
    fn snapshot(&self, report: &Self::Report) -> Snapshot;
    /// The end for people.
    fn summary(&self, report: &Self::Report) -> String;
}

/// Stays with the engine until it has ended: signals, progress, the final figures.
///
/// # Errors
/// What ended a thread, or kept the figures from being written.
pub async fn supervise<P: Default + Send + 'static, T: Telling<P>>(
    engine: Engine<P>,
    mut console: Console,
    metrics: Metrics,
    mut telling: T,
) -> Result<ExitCode, anyhow::Error> {
    let mut events = Events::new(&console)?;
    let mut stops = 0;
    let mut printed_us = 0;
    metrics.serve()?;
    let first = telling.report(&engine, false);
    show(&metrics, &first, &engine);
    console.progress(&first, || telling.snapshot(&first));
    while !engine.is_done() {
        match events.next(&mut console).await {
            Event::Stop => {
                stops += 1;
                engine.stop(if stops == 1 {
                    Shutdown::Graceful
                } else {
                    Shutdown::Immediate
                });
            }
            Event::Tick if engine.now_us() - printed_us >= 1_000_000 => {
                printed_us = engine.now_us();
                let report = telling.report(&engine, false);
                show(&metrics, &report, &engine);
                console.progress(&report, || {
                    let now = telling.snapshot(&report);
                    let phase = if stops > 0 { "drain" } else { now.phase };
                    Snapshot { phase, ..now }
                });
            }
            Event::Tick => {}
        }
    }
    let last = telling.report(&engine, true);
    show(&metrics, &last, &engine);
    let ended = engine.join();
    let written = console.finish(&last, telling.summary(&last));
    ended?;
    written.map_err(anyhow::Error::msg)?;
    Ok(ExitCode::SUCCESS)
}

fn show<P: Default + Send + 'static>(metrics: &Metrics, report: &impl Exposed, engine: &Engine<P>) {
    let threads = engine.reports().map(|core| Thread {
        open_now: core.stats.open_now,
        shard_count: core.stats.shard_count,
        bytes_received: core.stats.bytes_received,
    });
    metrics.update(report, &[], threads);
}

/// Merges the counters of all threads, and hands each handler's report to `each`.
pub fn gather<P: Default + Send + 'static>(engine: &Engine<P>, mut each: impl FnMut(&P)) -> Stats {
    let mut stats = Stats::default();
    for report in engine.reports() {
        stats.merge(&report.stats);
        each(&report.handler);
    }
    stats
}

/// Counts by name.
pub fn named(pairs: impl IntoIterator<Item = (impl ToString, u64)>) -> BTreeMap<String, u64> {
    pairs.into_iter().map(|(k, v)| (k.to_string(), v)).collect()
}
