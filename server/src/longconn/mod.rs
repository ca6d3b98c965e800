//! `holdfast-server longconn`: flags, start, supervision, figures.
//!
//! Invariants: nothing starts before the preflight has passed; every way out after the start prints the final figures.
//! Must not know: rings, slots.

mod holder;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use holdfast_engine::{Config, Engine, KernelRing, Stats, Stop, allowed_cores};
use holdfast_results::console::{self, Console, Event, Events, Progress};
use holdfast_results::wire::{SERVER_SCHEMA, ServerReport};
use holdfast_sysctl::{Machine, grouped, preflight};

use crate::port;
use holder::{Holder, HolderConfig};

/// What one held connection costs here at most: kernel socket, direct descriptor, parked poll, and 64 bytes of ours.
const BYTES_PER_CONNECTION: u64 = 3_829 + 40 + 256 + 128;
/// Held by default, where memory allows.
const CONNECTIONS_DEFAULT: u64 = 1_000_000;

/// Flags of `holdfast-server longconn`.
#[derive(Args)]
pub struct Flags {
    /// Address and port to listen on; repeat or separate by commas
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "0.0.0.0:7070",
        value_delimiter = ','
    )]
    listen: Vec<String>,
    /// Connections held at most; more are reset at once and counted [default: 1000000, or what memory allows]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    connections: Option<u64>,
    /// What is pushed to each connection
    #[arg(long, value_name = "TEXT", default_value = "ok")]
    message: String,
    /// Interval of the pushes to one connection, spread evenly over all of them; 0s pushes nothing
    #[arg(long, value_name = "TIME", default_value = "550s", value_parser = humantime::parse_duration)]
    every: Duration,
    /// Send back what peers send, instead of dropping it
    #[arg(long)]
    echo: bool,
    /// End connections whose peer sent nothing for this long [default: never]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    idle_timeout: Option<Duration>,
    /// After SIGTERM or SIGINT, connections are cut when none has ended in order for this long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,
    /// Core threads [default: one for each core this process may use]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Accept on the core a connection's packets arrive on: best when clients are on this machine or the network card has a queue
    /// for each core
    #[arg(long)]
    local_accept: bool,
    /// How long a busy thread lets work gather, microseconds; less is prompter, more is cheaper
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    coalesce: u64,
    /// Direct descriptors of one ring [default: the descriptor limit]
    #[arg(long, value_name = "COUNT", hide = true)]
    ring_slots: Option<u32>,
    /// How progress is shown
    #[arg(long, value_enum, default_value = "auto")]
    progress: Progress,
    /// Write the final figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// End at once when the process that started this one ends
    #[arg(long)]
    die_with_parent: bool,
}

/// Runs the subcommand.
pub fn main(flags: Flags) -> ExitCode {
    match run(flags) {
        Ok(code) => code,
        Err(error) => console::refuse(&error),
    }
}

fn run(flags: Flags) -> Result<ExitCode, anyhow::Error> {
    if flags.die_with_parent {
        console::die_with_parent()?;
    }
    if flags.message.is_empty() || flags.message.len() > 16_384 {
        anyhow::bail!(
            "a message of {} bytes; next: give --message 1 to 16,384 bytes, or --every 0s for none",
            flags.message.len()
        );
    }
    if !flags.every.is_zero()
        && !(Duration::from_millis(10)..=Duration::from_secs(86_400)).contains(&flags.every)
    {
        anyhow::bail!(
            "--every {:?} is out of range; next: give 10ms to 24h, or 0s for no messages",
            flags.every
        );
    }
    if flags
        .idle_timeout
        .is_some_and(|t| !(Duration::from_millis(10)..=Duration::from_secs(86_400)).contains(&t))
    {
        anyhow::bail!("--idle-timeout is out of range; next: give 10ms to 24h, or leave it out");
    }
    let mut console =
        Console::new(flags.progress, flags.json.as_deref()).map_err(anyhow::Error::msg)?;
    let machine = Machine::read()?;
    preflight::check_kernel(&machine, "io_uring's ACCEPT_DONTWAIT", (6, 10))?;
    preflight::check_io_uring(&machine)?;
    let nofile = preflight::raise_nofile()?;
    KernelRing::check(false)?;
    let capacity = match flags.connections {
        Some(asked) => {
            preflight::check_memory(&machine, asked, BYTES_PER_CONNECTION)?;
            asked
        }
        None => CONNECTIONS_DEFAULT.min(preflight::memory_fits(&machine, BYTES_PER_CONNECTION)),
    };
    let addresses = resolve(&flags.listen)?;
    let cores = allowed_cores();
    let thread_count = flags.threads.map_or(cores.len(), usize::from);
    let share = capacity.div_ceil(thread_count as u64);
    let ring_slots = flags.ring_slots.map_or(nofile.limit, u64::from);
    let ring_slots = ring_slots.min(share + u64::from(holdfast_engine::config::SPARE_SLOTS) * 2);
    let config = Config {
        capacity,
        thread_count,
        cores: cores.clone(),
        ring_slots: ring_slots.min(u64::from(holdfast_engine::config::RING_SLOTS_MAX)) as u32,
        buffer_bytes: 512,
        coalesce_us: flags.coalesce,
        drain_timeout: flags.drain_timeout,
        ..Config::default()
    };
    config.check()?;
    let cores_of_listeners = flags.local_accept.then_some(&cores[..]);
    let (listeners, bound) = port::listen(&addresses, thread_count, cores_of_listeners, &console)?;
    console.say(format_args!(
        "{nofile}; {} rings of {} when full",
        config.ring_count(),
        config.ring_slots
    ));
    let ring_slots = config.ring_slots;
    let holder = HolderConfig {
        message: Box::leak(flags.message.into_bytes().into_boxed_slice()),
        every_us: flags.every.as_millis() as u64 * 1_000,
        idle_timeout_us: flags.idle_timeout.map(|t| t.as_micros() as u64),
        echo: flags.echo,
    };
    let engine = Engine::start(config, listeners, None, |_| Holder::new(holder))?;
    console.say(format_args!(
        "holding up to {} connections on {} with {thread_count} threads; Ctrl-C ends them in order",
        grouped(capacity),
        bound
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    ));
    let base = ServerReport {
        schema: SERVER_SCHEMA.to_owned(),
        listen: bound.iter().map(ToString::to_string).collect(),
        thread_count,
        capacity,
        ring_slots,
        ..ServerReport::default()
    };
    tokio_uring::start(supervise(engine, base, &mut console))
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

async fn supervise(
    engine: Engine<holder::HolderReport>,
    base: ServerReport,
    console: &mut Console,
) -> Result<ExitCode, anyhow::Error> {
    let mut events = Events::new()?;
    let mut stops = 0;
    let mut printed_us = 0;
    console.progress(&report(&engine, &base, false), "listening");
    while !engine.is_done() {
        match events.next().await {
            Event::Stop => {
                stops += 1;
                engine.stop(if stops == 1 { Stop::InOrder } else { Stop::Now });
            }
            Event::Tick if engine.now_us() - printed_us >= 1_000_000 => {
                printed_us = engine.now_us();
                let report = report(&engine, &base, false);
                console.progress(&report, line(&report));
            }
            Event::Tick => {}
        }
    }
    let last = report(&engine, &base, true);
    let ended = engine.join();
    let written = console.finish(&last, summary(&last));
    ended?;
    written.map_err(anyhow::Error::msg)?;
    Ok(ExitCode::SUCCESS)
}

fn report(
    engine: &Engine<holder::HolderReport>,
    base: &ServerReport,
    is_final: bool,
) -> ServerReport {
    let mut stats = Stats::default();
    let mut skipped = 0;
    for report in engine.reports() {
        stats.merge(&report.stats);
        skipped += report.handler.skipped;
    }
    let named = |pairs: &mut dyn Iterator<Item = (&'static str, u64)>| {
        pairs.map(|(k, v)| (k.to_owned(), v)).collect()
    };
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
        open_max: stats.open_max.min(base.capacity),
        accepted: stats.accepted,
        refused_full: stats.refused_full,
        accept_failed: named(&mut stats.accept_failed_by_label()),
        closed: named(&mut stats.closed_by_label()),
        messages_sent: stats.sends,
        bytes_received: stats.bytes_received,
        anomalies: named(&mut anomalies.into_iter()),
        ..base.clone()
    }
}

fn line(report: &ServerReport) -> String {
    format!(
        "{:>7.0}s  open {}  accepted {}  refused {}  ended {}  messages {}",
        report.at_us as f64 / 1e6,
        grouped(report.open_now),
        grouped(report.accepted),
        grouped(report.refused_full),
        grouped(report.closed.values().sum()),
        grouped(report.messages_sent),
    )
}

fn summary(report: &ServerReport) -> String {
    let mut text = format!(
        "accepted {}, held {} at most, refused {} for want of room, messages sent {}",
        grouped(report.accepted),
        grouped(report.open_max),
        grouped(report.refused_full),
        grouped(report.messages_sent),
    );
    for (what, counts) in [
        ("ended", &report.closed),
        ("accept failed", &report.accept_failed),
        ("anomalies", &report.anomalies),
    ] {
        for (name, count) in counts.iter().filter(|(_, n)| **n > 0) {
            text += &format!("\n{what}: {name} {}", grouped(*count));
        }
    }
    text
}
