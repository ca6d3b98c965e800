//! The flags every subcommand has, and what follows from them: checks of the machine, the engine's config, the plan of addresses.
//!
//! Invariants: nothing starts before the forecast says that every user can have an address and the memory it takes.
//! Must not know: what users do.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use holdfast_engine::config::{RING_SLOTS_MAX, SPARE_SLOTS};
use holdfast_engine::{Config, DialPlan, KernelRing, allowed_cores};
use holdfast_sysctl::cost::{
    BIND_BUCKET_BYTES, DIRECT_DESCRIPTOR_BYTES, POLL_PARKED_BYTES, SOCKET_BYTES,
};
use holdfast_sysctl::{Machine, Role, grouped, preflight};
use holdfast_telemetry::console::{self, Console, ConsoleFlags};
use holdfast_telemetry::metrics;

use crate::load::Load;
use crate::source::{self, Source};

/// What the kernel keeps for one connection of ours at most, bytes: socket, bind bucket, direct descriptor, parked poll.
pub const KERNEL_BYTES_PER_CONNECTION: u64 =
    SOCKET_BYTES + BIND_BUCKET_BYTES + DIRECT_DESCRIPTOR_BYTES + POLL_PARKED_BYTES;

/// How many users, how fast, how long.
#[derive(Args)]
pub struct LoadFlags {
    /// Users: connections to open and hold
    #[arg(short, long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub users: u64,
    /// Users to start a second, or max
    #[arg(short = 'r', long, value_name = "RATE", default_value = "max", value_parser = parse_rate)]
    pub spawn_rate: u64,
    /// End after this time, ramp included [default: at SIGINT or SIGTERM, or when nothing is left to do]
    #[arg(short = 't', long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub run_time: Option<Duration>,
}

/// Flags every subcommand has.
#[derive(Args)]
pub struct Launch {
    /// Source addresses: an address, FIRST-LAST, a CIDR range, or auto (what the interfaces have; for loopback targets, as much of
    /// 127.0.0.0/8 as is needed); repeat or separate by commas
    #[arg(long, value_name = "ADDRESSES", default_value = "auto", value_delimiter = ',', value_parser = source::parse)]
    pub source: Vec<Source>,
    /// Source ports of each address
    #[arg(long, value_name = "FIRST-LAST", default_value = "1024-65535", value_parser = source::parse_ports)]
    pub ports: RangeInclusive<u16>,
    /// How long one attempt to connect may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub connect_timeout: Duration,
    /// At the end, connections are cut when none has ended in order for this long [default: longconn 30s, http 2s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub drain_timeout: Option<Duration>,
    /// Core threads [default: one for each core this process may use]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// How long a busy thread lets work gather, microseconds; less is prompter, more is cheaper [default: longconn 1000, http 0]
    #[arg(long, alias = "coalesce", value_name = "MICROSECONDS", value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub batch_delay: Option<u64>,
    /// Direct descriptors of one ring [default: the descriptor limit]
    #[arg(long, value_name = "COUNT", hide = true)]
    pub ring_slots: Option<u32>,
    /// Write every second's histograms to this file, in HdrHistogram's log format
    #[arg(long, value_name = "FILE")]
    pub histogram_log: Option<PathBuf>,
    #[command(flatten)]
    pub console: ConsoleFlags,
    #[command(flatten)]
    pub metrics: metrics::MetricsFlags,
    /// End at once when the process that started this one ends
    #[arg(long)]
    pub die_with_parent: bool,
}

/// What a protocol wants of the engine.
#[derive(Debug, Clone, Copy)]
pub struct Wants {
    /// Where `--batch-delay` is not given, microseconds.
    pub batch_delay_us: u64,
    /// Where `--drain-timeout` is not given.
    pub drain_timeout: Duration,
    /// Size of a receive buffer, bytes.
    pub buffer_bytes: u32,
    /// Memory of ours for one connection, bytes.
    pub own_bytes_per_connection: u64,
    /// Connections a user may have at once: one, and one that is ending.
    pub connections_per_user: u64,
}

impl Wants {
    /// Memory for one connection at most, ours and the kernel's, bytes.
    pub fn bytes_per_connection(&self) -> u64 {
        KERNEL_BYTES_PER_CONNECTION + self.own_bytes_per_connection
    }
}

/// What is needed to start an engine.
pub struct Ready {
    /// Its config.
    pub config: Config,
    /// Where connections come from and go to.
    pub plan: DialPlan,
    /// How many users, how fast.
    pub load: Arc<Load>,
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

/// A time from 10 ms to 4 hours, microseconds.
///
/// # Errors
/// One line naming the flag.
pub fn check_duration(
    name: &str,
    time: Duration,
    is_zero_allowed: bool,
) -> Result<u64, anyhow::Error> {
    let longest = Duration::from_secs(4 * 3_600);
    if (time.is_zero() && is_zero_allowed) || (Duration::from_millis(10)..=longest).contains(&time)
    {
        return Ok(time.as_millis() as u64 * 1_000);
    }
    anyhow::bail!("{name} {time:?} is out of range; next: give 10ms to 4h")
}

impl Launch {
    /// What is to be done before anything else is looked at.
    ///
    /// # Errors
    /// When the parent has ended already.
    pub fn begin(&self) -> Result<(), anyhow::Error> {
        if self.die_with_parent {
            console::die_with_parent()?;
        }
        Ok(())
    }

    /// Checks the times, and opens the console.
    ///
    /// # Errors
    /// One line naming what is wrong.
    pub fn console(&self) -> Result<Console, anyhow::Error> {
        check_duration("--connect-timeout", self.connect_timeout, false)?;
        if let Some(time) = self.drain_timeout {
            check_duration("--drain-timeout", time, false)?;
        }
        Console::new(&self.console).map_err(anyhow::Error::msg)
    }

    /// Checks the machine and derives all the engine needs; says what it will use.
    ///
    /// # Errors
    /// One line naming the cause and the next command to type.
    pub fn ready(
        &self,
        quantity: &LoadFlags,
        targets: &[SocketAddr],
        wants: Wants,
        console: &mut Console,
    ) -> Result<Ready, anyhow::Error> {
        let machine = Machine::read()?;
        preflight::check_kernel(&machine, "io_uring's BIND", preflight::KERNEL_BIND)?;
        preflight::check_io_uring(&machine)?;
        let nofile = preflight::raise_nofile()?;
        KernelRing::check(true)?;
        let users = quantity.users;
        preflight::check_memory(&machine, users, wants.bytes_per_connection())?;
        let plan = self.plan(users, targets)?;
        let cores = allowed_cores();
        let thread_count = self.threads.map_or(cores.len(), usize::from);
        let share = users.div_ceil(thread_count as u64) * wants.connections_per_user;
        let ring_slots = self.ring_slots.map_or(nofile.limit, u64::from);
        let ring_slots = ring_slots.min(share + u64::from(SPARE_SLOTS) * 2);
        let config = Config {
            capacity: users,
            thread_count,
            cores,
            ring_slots: ring_slots.min(u64::from(RING_SLOTS_MAX)) as u32,
            buffer_bytes: wants.buffer_bytes,
            batch_delay_us: self.batch_delay.unwrap_or(wants.batch_delay_us),
            connect_timeout: self.connect_timeout,
            drain_timeout: self.drain_timeout.unwrap_or(wants.drain_timeout),
            ..Config::default()
        };
        console.say(format_args!(
            "{nofile}; {} rings of {}; {} address and port combinations for {} users",
            config.ring_count(),
            config.ring_slots,
            grouped(plan.tuple_count()),
            grouped(users),
        ));
        for shortfall in holdfast_sysctl::plan::shortfalls(&machine, Role::Client, users) {
            console.say(shortfall);
        }
        let load = Arc::new(Load::new(users, quantity.spawn_rate));
        Ok(Ready { config, plan, load })
    }

    /// How many users fit here, memory and addresses considered: no more than `users_max`, if that is said.
    ///
    /// # Errors
    /// One line naming the cause and the next command to type.
    pub fn users_that_fit(
        &self,
        targets: &[SocketAddr],
        wants: Wants,
        users_max: Option<u64>,
    ) -> Result<u64, anyhow::Error> {
        if let Some(users_max) = users_max {
            return Ok(users_max);
        }
        let fits = preflight::memory_fits(&Machine::read()?, wants.bytes_per_connection());
        // Others take memory too, also between this look at it and the next.
        let users = (fits - fits / 8).max(1);
        let port_count = u64::from(self.ports.end() - self.ports.start()) + 1;
        let needed = users.div_ceil(port_count * targets.len() as u64);
        let addresses = source::addresses(&self.source, targets, needed)?;
        let plan = DialPlan::new(addresses, self.ports.clone(), targets.to_vec(), users)?;
        Ok(plan.tuple_count())
    }

    /// Everything users may connect from and to, or what is missing.
    fn plan(&self, users: u64, targets: &[SocketAddr]) -> Result<DialPlan, anyhow::Error> {
        // A few more than users, so that a port somebody else sits on is no loss.
        let tuple_count_max = users + users / 4 + 65_536;
        let port_count = u64::from(self.ports.end() - self.ports.start()) + 1;
        let needed = tuple_count_max.div_ceil(port_count * targets.len() as u64);
        let addresses = source::addresses(&self.source, targets, needed)?;
        let address_count = addresses.len() as u64;
        let plan = DialPlan::new(
            addresses,
            self.ports.clone(),
            targets.to_vec(),
            tuple_count_max,
        )?;
        preflight::check_sources(address_count, u64::from(plan.port_count()), targets, users)?;
        Ok(plan)
    }
}
