//! `holdfast-client longconn`: flags, forecast, start, supervision, figures.
//!
//! Invariants: nothing starts before the forecast says that every user can have an address; every way out after the start prints
//! the final figures; the exit code is 0 only if no user failed and none was lost.
//! Must not know: rings, slots.

mod user;

use std::fs::File;
use std::io::BufWriter;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use clap::Args;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use holdfast_engine::{Config, DialPlan, Engine, KernelRing, Stats, Stop, allowed_cores};
use holdfast_results::console::{self, Console, EXIT_SHORT, Event, Events, Progress};
use holdfast_results::wire::{CLIENT_SCHEMA, ClientReport, Latency};
use holdfast_sysctl::{Machine, grouped, preflight};

use crate::source::{self, Source};
use crate::target;
use user::{Ended, Load, UserConfig, UserReport, Users, histogram};

/// What one connection costs here at most: kernel socket, bind bucket, direct descriptor, parked poll, and 96 bytes of ours.
const BYTES_PER_CONNECTION: u64 = 3_829 + 128 + 40 + 256 + 96;

/// Flags of `holdfast-client longconn`.
#[derive(Args)]
pub struct Flags {
    /// Server to connect to; repeat or separate by commas: users go round all of them
    #[arg(long, value_name = "HOST:PORT", required = true, value_delimiter = ',')]
    target: Vec<String>,
    /// Users: connections to open and hold
    #[arg(short, long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    users: u64,
    /// Users to start a second, or max
    #[arg(short = 'r', long, value_name = "RATE", default_value = "max", value_parser = parse_rate)]
    spawn_rate: u64,
    /// End after this time, ramp included [default: at SIGINT or SIGTERM, or when nobody is left]
    #[arg(short = 't', long, value_name = "TIME", value_parser = humantime::parse_duration)]
    run_time: Option<Duration>,
    /// Source addresses: an address, FIRST-LAST, a CIDR range, or auto (what the interfaces have; for loopback targets, as much of
    /// 127.0.0.0/8 as is needed); repeat or separate by commas
    #[arg(long, value_name = "ADDRESSES", default_value = "auto", value_delimiter = ',', value_parser = source::parse)]
    source: Vec<Source>,
    /// Source ports of each address
    #[arg(long, value_name = "FIRST-LAST", default_value = "1024-65535", value_parser = source::parse_ports)]
    ports: RangeInclusive<u16>,
    /// What each message must be; empty accepts anything
    #[arg(long, value_name = "TEXT", default_value = "ok")]
    expect: String,
    /// The interval messages are expected at, to time them and to count missed ones; 0s expects none
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    every: Duration,
    /// Send this upward
    #[arg(long, value_name = "TEXT", requires = "send_every")]
    send: Option<String>,
    /// How often each user sends
    #[arg(long, value_name = "TIME", requires = "send", value_parser = humantime::parse_duration)]
    send_every: Option<Duration>,
    /// Connect again after a failure or a loss
    #[arg(long)]
    reconnect: bool,
    /// Pause before the first reconnect; it doubles up to a minute, less a random part
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = humantime::parse_duration)]
    reconnect_pause: Duration,
    /// How long one attempt may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    connect_timeout: Duration,
    /// At the end, connections are cut when none has ended in order for this long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,
    /// Core threads [default: one for each core this process may use]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// How long a busy thread lets work gather, microseconds; less is prompter, more is cheaper
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    coalesce: u64,
    /// Direct descriptors of one ring [default: the descriptor limit]
    #[arg(long, value_name = "COUNT", hide = true)]
    ring_slots: Option<u32>,
    /// Write every second's histograms to this file, in HdrHistogram's log format
    #[arg(long, value_name = "FILE")]
    histogram_log: Option<PathBuf>,
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

/// Users a second, in thousandths.
fn parse_rate(text: &str) -> Result<u64, String> {
    if text == "max" {
        return Ok(Load::MAX);
    }
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=100_000_000.0).contains(&rate) => Ok((rate * 1_000.0).round() as u64),
        _ => {
            Err("not a rate; next: give users a second from 0.001 to 100000000, or max".to_owned())
        }
    }
}

/// Runs the subcommand.
pub fn main(flags: Flags) -> ExitCode {
    match run(flags) {
        Ok(code) => code,
        Err(error) => console::refuse(&error),
    }
}

fn interval_us(name: &str, time: Duration, is_zero_allowed: bool) -> Result<u64, anyhow::Error> {
    let longest = Duration::from_secs(4 * 3_600);
    if (time.is_zero() && is_zero_allowed) || (Duration::from_millis(10)..=longest).contains(&time)
    {
        return Ok(time.as_millis() as u64 * 1_000);
    }
    anyhow::bail!("{name} {time:?} is out of range; next: give 10ms to 4h")
}

fn message(name: &str, text: String) -> Result<&'static [u8], anyhow::Error> {
    if text.len() > 16_384 {
        anyhow::bail!(
            "{name} of {} bytes is too long; next: give at most 16,384 bytes",
            text.len()
        );
    }
    Ok(Box::leak(text.into_bytes().into_boxed_slice()))
}

fn run(flags: Flags) -> Result<ExitCode, anyhow::Error> {
    if flags.die_with_parent {
        console::die_with_parent()?;
    }
    let config = UserConfig {
        every_us: interval_us("--every", flags.every, true)?,
        expect: message("--expect", flags.expect)?,
        send: match (flags.send, flags.send_every) {
            (Some(text), Some(every)) => Some((
                message("--send", text)?,
                interval_us("--send-every", every, false)?,
            )),
            _ => None,
        },
        reconnect_us: if flags.reconnect {
            let first_us = interval_us("--reconnect-pause", flags.reconnect_pause, false)?;
            Some((first_us, first_us.max(60_000_000)))
        } else {
            None
        },
    };
    interval_us("--connect-timeout", flags.connect_timeout, false)?;
    interval_us("--drain-timeout", flags.drain_timeout, false)?;
    let mut console =
        Console::new(flags.progress, flags.json.as_deref()).map_err(anyhow::Error::msg)?;
    let histogram_log = flags.histogram_log.as_ref().map(|path| {
        File::create(path).map_err(|e| {
            anyhow::anyhow!(
                "cannot write {} ({e}); next: name a file in a folder that exists",
                path.display()
            )
        })
    });
    let histogram_log = histogram_log.transpose()?;
    let targets = target::resolve(&flags.target)?;
    let machine = Machine::read()?;
    preflight::check_kernel(&machine, "io_uring's BIND", preflight::KERNEL_BIND)?;
    preflight::check_io_uring(&machine)?;
    let nofile = preflight::raise_nofile()?;
    KernelRing::check(true)?;
    preflight::check_memory(&machine, flags.users, BYTES_PER_CONNECTION)?;
    let plan = plan(&flags.source, &flags.ports, &targets, flags.users)?;
    let cores = allowed_cores();
    let thread_count = flags.threads.map_or(cores.len(), usize::from);
    let share = flags.users.div_ceil(thread_count as u64);
    let ring_slots = flags.ring_slots.map_or(nofile.limit, u64::from);
    let ring_slots = ring_slots.min(share + u64::from(holdfast_engine::config::SPARE_SLOTS) * 2);
    let engine_config = Config {
        capacity: flags.users,
        thread_count,
        cores,
        ring_slots: ring_slots.min(u64::from(holdfast_engine::config::RING_SLOTS_MAX)) as u32,
        buffer_bytes: 512,
        coalesce_us: flags.coalesce,
        connect_timeout: flags.connect_timeout,
        drain_timeout: flags.drain_timeout,
        ..Config::default()
    };
    console.say(format_args!(
        "{nofile}; {} rings of {}; {} address and port combinations for {} users",
        engine_config.ring_count(),
        engine_config.ring_slots,
        grouped(plan.tuple_count()),
        grouped(flags.users),
    ));
    let load = Arc::new(Load {
        users: AtomicU64::new(flags.users),
        spawn_rate_milli: AtomicU64::new(flags.spawn_rate),
    });
    let view = View {
        base: ClientReport {
            schema: CLIENT_SCHEMA.to_owned(),
            thread_count,
            users_asked: flags.users,
            ..ClientReport::default()
        },
        connect_us: histogram(),
        lateness_us: histogram(),
    };
    tokio_uring::start(async {
        // Before the first user: whoever sees one may ask for the end already, and gets the figures.
        let events = Events::new()?;
        let engine = Engine::start(engine_config, Vec::new(), Some(plan), |share| {
            Users::new(config, Arc::clone(&load), share, thread_count)
        })?;
        supervise(
            engine,
            events,
            view,
            &mut console,
            flags.run_time,
            flags.reconnect,
            histogram_log,
        )
        .await
    })
}

/// Everything users may connect from and to, or what is missing.
fn plan(
    sources: &[Source],
    ports: &RangeInclusive<u16>,
    targets: &[std::net::SocketAddr],
    users: u64,
) -> Result<DialPlan, anyhow::Error> {
    // A few more than users, so that a port somebody else sits on is no loss.
    let tuple_count_max = users + users / 4 + 65_536;
    let port_count = u64::from(ports.end() - ports.start()) + 1;
    let needed = tuple_count_max.div_ceil(port_count * targets.len() as u64);
    let addresses = source::addresses(sources, targets, needed)?;
    let address_count = addresses.len() as u64;
    let plan = DialPlan::new(addresses, ports.clone(), targets.to_vec(), tuple_count_max)?;
    preflight::check_sources(address_count, u64::from(plan.port_count()), targets, users)?;
    Ok(plan)
}

/// What the control plane has gathered.
struct View {
    base: ClientReport,
    connect_us: Histogram<u64>,
    lateness_us: Histogram<u64>,
}

async fn supervise(
    engine: Engine<UserReport>,
    mut events: Events,
    mut view: View,
    console: &mut Console,
    run_time: Option<Duration>,
    comes_again: bool,
    histogram_log: Option<File>,
) -> Result<ExitCode, anyhow::Error> {
    let mut out = histogram_log.map(BufWriter::new);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = match &mut out {
        None => None,
        Some(out) => Some(
            IntervalLogWriterBuilder::new()
                .add_comment("holdfast-client longconn; microseconds; tags: connect, lateness")
                .with_start_time(SystemTime::now())
                .with_base_time(SystemTime::now())
                .with_max_value_divisor(1.0)
                .begin_log_with(out, &mut serializer)?,
        ),
    };
    let mut stops = 0;
    let mut printed_us = 0;
    let mut last = ClientReport::default();
    loop {
        let is_done = engine.is_done();
        let event = if is_done {
            Event::Tick
        } else {
            events.next().await
        };
        let now_us = engine.now_us();
        let is_over = stops == 0 && run_time.is_some_and(|t| u128::from(now_us) >= t.as_micros());
        if event == Event::Stop || is_over {
            stops += 1;
            engine.stop(if stops == 1 { Stop::InOrder } else { Stop::Now });
        }
        if is_done || now_us - printed_us >= 1_000_000 {
            let from_us = std::mem::replace(&mut printed_us, now_us);
            let (report, connect_us, lateness_us) = view.gather(&engine, is_done);
            if let Some(log) = &mut log {
                let (start, length) = (
                    Duration::from_micros(from_us),
                    Duration::from_micros(now_us - from_us),
                );
                for (tag, histogram) in [("connect", &connect_us), ("lateness", &lateness_us)] {
                    if !histogram.is_empty() {
                        log.write_histogram(histogram, start, length, Tag::new(tag))
                            .map_err(|e| {
                                anyhow::anyhow!(
                                    "cannot write the histogram log ({e:?}); next: free space"
                                )
                            })?;
                    }
                }
            }
            if stops == 0 && !comes_again && has_nobody_left(&report) {
                // All are lost, and none comes back: there is nothing to wait for.
                stops = 1;
                engine.stop(Stop::InOrder);
            }
            if !is_done {
                console.progress(
                    &report,
                    line(&report, &last, (now_us - from_us) as f64 / 1e6),
                );
            }
            last = report;
        }
        if is_done {
            break;
        }
    }
    drop(log);
    let ended = engine.join();
    let written = console.finish(&last, summary(&last));
    ended?;
    written.map_err(anyhow::Error::msg)?;
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

impl View {
    /// The report as of now, and the histograms of the time since the last one.
    fn gather(
        &mut self,
        engine: &Engine<UserReport>,
        is_final: bool,
    ) -> (ClientReport, Histogram<u64>, Histogram<u64>) {
        let mut stats = Stats::default();
        let mut all = UserReport {
            is_ramped: true,
            ..UserReport::default()
        };
        for mut core in engine.reports() {
            stats.merge(&core.stats);
            let own = &mut core.handler;
            for (sum, part) in all.ended.iter_mut().zip(own.ended) {
                *sum += part;
            }
            all.received += own.received;
            all.wrong += own.wrong;
            all.missed += own.missed;
            all.sent += own.sent;
            all.is_ramped &= own.is_ramped;
            all.ramp_us = match (all.ramp_us, own.ramp_us) {
                (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
                (a, b) => a.or(b),
            };
            for (sum, part) in [
                (&mut all.connect_us, &mut own.connect_us),
                (&mut all.lateness_us, &mut own.lateness_us),
            ] {
                sum.add(&*part).expect("all have the same bounds");
                part.reset();
            }
        }
        self.connect_us
            .add(&all.connect_us)
            .expect("all have the same bounds");
        self.lateness_us
            .add(&all.lateness_us)
            .expect("all have the same bounds");
        let named = |pairs: &mut dyn Iterator<Item = (&'static str, u64)>| {
            pairs
                .filter(|(_, n)| *n > 0)
                .map(|(k, v)| (k.to_owned(), v))
                .collect()
        };
        let report = ClientReport {
            is_final,
            at_us: engine.now_us(),
            shard_count: stats.shard_count as usize,
            attempts: stats.attempts,
            opened: stats.opened,
            failed: named(&mut stats.failed_by_label()),
            open_now: stats.open_now,
            connecting_now: stats.connecting_now,
            ended: named(
                &mut Ended::ALL
                    .iter()
                    .map(|(ended, name)| (*name, all.ended[*ended as usize])),
            ),
            ramp_done: all.is_ramped,
            ramp_seconds: all
                .ramp_us
                .map_or(0.0, |(first, last)| (last - first) as f64 / 1e6),
            messages_received: all.received,
            messages_wrong: all.wrong,
            messages_missed: all.missed,
            messages_sent: all.sent,
            bytes_received: stats.bytes_received,
            connect_us: latency(&self.connect_us),
            lateness_us: latency(&self.lateness_us),
            anomalies: stats
                .anomalies()
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect(),
            ..self.base.clone()
        };
        (report, all.connect_us, all.lateness_us)
    }
}

/// True if every user was tried and none is open or under way any more.
fn has_nobody_left(report: &ClientReport) -> bool {
    report.ramp_done
        && report.attempts >= report.users_asked
        && report.open_now + report.connecting_now == 0
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    Latency {
        count: histogram.len(),
        p50: histogram.value_at_quantile(0.5),
        p99: histogram.value_at_quantile(0.99),
        p999: histogram.value_at_quantile(0.999),
        max: histogram.max(),
    }
}

fn line(now: &ClientReport, before: &ClientReport, seconds: f64) -> String {
    let rate = |now: u64, before: u64| {
        grouped((now.saturating_sub(before) as f64 / seconds.max(0.001)) as u64)
    };
    format!(
        "{:>7.0}s  open {} of {}  +{}/s  failed {}  lost {}  messages {} ({}/s)  late p99 {} us",
        now.at_us as f64 / 1e6,
        grouped(now.open_now),
        grouped(now.users_asked),
        rate(now.opened, before.opened),
        grouped(now.failed.values().sum()),
        grouped(
            now.ended
                .iter()
                .filter(|(k, _)| *k != "held")
                .map(|(_, n)| n)
                .sum()
        ),
        grouped(now.messages_received),
        rate(now.messages_received, before.messages_received),
        grouped(now.lateness_us.p99),
    )
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
    for (what, counts) in [
        ("failed", &report.failed),
        ("ended", &report.ended),
        ("anomalies", &report.anomalies),
    ] {
        for (name, count) in counts.iter().filter(|(_, n)| **n > 0) {
            text += &format!("\n{what}: {name} {}", grouped(*count));
        }
    }
    text += &format!(
        "\nmessages: received {}, wrong {}, missed {}, sent {}",
        grouped(report.messages_received),
        grouped(report.messages_wrong),
        grouped(report.messages_missed),
        grouped(report.messages_sent),
    );
    for (what, l) in [
        ("connect", report.connect_us),
        ("lateness", report.lateness_us),
    ] {
        if l.count > 0 {
            text += &format!(
                "\n{what}: p50 {} us, p99 {} us, p99.9 {} us, max {} us",
                grouped(l.p50),
                grouped(l.p99),
                grouped(l.p999),
                grouped(l.max)
            );
        }
    }
    text
}
