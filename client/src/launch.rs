//! What every subcommand of the client shares besides the supervisor: flags, and the sizes and
//! addresses that follow from them.
//!
//! Invariants: nothing starts unless every user can have an address and its memory.
//! Must not depend on: what users do.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use holdfast_engine::{Config, DialPlan, OpenFailure, Targets};
use holdfast_supervisor::flags::{self, EngineFlags};
use holdfast_supervisor::histogram_log::HistogramLog;
use holdfast_supervisor::preflight::Preflight;
use holdfast_sysctl::cost::{
    BIND_BUCKET_BYTES, DIRECT_DESCRIPTOR_BYTES, POLL_PARKED_BYTES, SOCKET_BYTES,
};
use holdfast_sysctl::{Machine, Role, grouped, ports, preflight};
use holdfast_telemetry::console::Console;
use holdfast_telemetry::metrics::LabelValues;
use holdfast_units::parse;

use crate::load::Load;
use crate::source::{self, Source};
use crate::target::{self, Override};

/// Kernel memory of one connection at most, bytes: socket, bind bucket, direct descriptor, parked
/// poll.
pub const KERNEL_BYTES_PER_CONNECTION: u64 =
    SOCKET_BYTES + BIND_BUCKET_BYTES + DIRECT_DESCRIPTOR_BYTES + POLL_PARKED_BYTES;

/// The longest time that a flag accepts.
const DURATION_MAX: Duration = Duration::from_secs(4 * 3_600);

/// How many users, how fast, how long.
#[derive(Args)]
pub struct LoadFlags {
    /// Run this many users, each with one connection
    #[arg(short, long, value_name = "COUNT", default_value_t = 1, value_parser = parse::count_in::<u64>(1..=1_000_000_000))]
    pub users: u64,
    /// Start this many users per second, or max
    #[arg(short = 'r', long, value_name = "RATE", default_value = "max", value_parser = parse_rate)]
    pub spawn_rate: u64,
    /// Stop after this time, ramp included [default: at SIGINT or SIGTERM, or when nothing is left
    /// to do]
    #[arg(short = 't', long, value_name = "TIME", value_parser = parse_run_time)]
    pub run_time: Option<Duration>,
}

/// Flags of every subcommand.
#[derive(Args)]
pub struct ClientFlags {
    /// Connect from these source addresses: an address, FIRST-LAST, a CIDR range, or auto (those of
    /// the interface that the route to the targets leaves by; for loopback targets, as much of
    /// 127.0.0.0/8 as is needed); repeat or separate by commas
    #[arg(long, value_name = "ADDRESSES", default_value = "auto", value_delimiter = ',', value_parser = source::parse)]
    pub source: Vec<Source>,
    /// Use these source ports of each address, except for reserved ones
    /// (net.ipv4.ip_local_reserved_ports)
    #[arg(long, value_name = "FIRST-LAST", default_value = "1024-65535", value_parser = source::parse_ports)]
    pub ports: RangeInclusive<u16>,
    /// Use this address for a target instead of asking the resolver, as curl does; repeat [default:
    /// none]
    #[arg(long, value_name = "HOST:PORT:ADDRESS", value_parser = target::parse_override)]
    pub resolve: Vec<Override>,
    /// Give up an attempt to connect after this time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse::time)]
    pub connect_timeout: Duration,
    /// Write the histograms of every second to this file, in HdrHistogram's log format [default:
    /// none]
    #[arg(long, value_name = "FILE")]
    histogram_log: Option<PathBuf>,
    /// What every program with an engine has.
    #[command(flatten)]
    pub engine: EngineFlags,
}

/// What a protocol requires of the engine.
#[derive(Debug, Clone, Copy)]
pub struct ClientSpec {
    /// Default of `--batch-delay`, microseconds.
    pub batch_delay_us: u64,
    /// Default of `--drain-timeout`.
    pub drain_timeout: Duration,
    /// Size of a receive buffer, bytes.
    pub buffer_bytes: u32,
    /// Memory of this process for one connection, bytes.
    pub own_bytes_per_connection: u64,
    /// Connections that a user may have at once: one, and one that is closing.
    pub connections_per_user: u64,
}

impl ClientSpec {
    /// Memory of one connection at most, this process and the kernel, bytes.
    pub fn bytes_per_connection(&self) -> u64 {
        self.own_bytes_per_connection + KERNEL_BYTES_PER_CONNECTION
    }
}

/// Where users connect to.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// Addresses of one server, of one IP version.
    pub addresses: &'a [SocketAddr],
    /// Users that may be connected to it at once.
    pub users: u64,
}

/// Everything an engine of users starts with.
pub struct EngineSetup {
    /// The engine's config.
    pub config: Config,
    /// Where connections come from and go to: a group for each destination.
    pub plan: DialPlan,
    /// The addresses of each destination, to be changed while the plan is used.
    pub targets: Vec<Targets>,
    /// How many users, how fast.
    pub load: Load,
}

/// Parses users per second; gives thousandths.
fn parse_rate(text: &str) -> Result<u64, String> {
    if text == "max" {
        return Ok(Load::MAX);
    }
    match parse::rate(text) {
        Ok(rate) if (0.001..=100_000_000.0).contains(&rate) => Ok((rate * 1_000.0).round() as u64),
        _ => Err(
            "not a rate; next: give users per second from 0.001 to 100000000, or max".to_owned(),
        ),
    }
}

/// Parses the time a run takes, which is not 0.
fn parse_run_time(text: &str) -> Result<Duration, String> {
    match parse::time(text)? {
        time if time.is_zero() => {
            Err("a run of 0 s does nothing; next: give --run-time 10s, or leave it out".to_owned())
        }
        time => Ok(time),
    }
}

/// Checks the time of a flag: 10 ms to 4 hours, or 0 where that is allowed. Returns microseconds, a
/// multiple of 1,000.
///
/// # Errors
/// One line: the flag, its value and the range.
pub fn check_duration(
    flag: &str,
    time: Duration,
    is_zero_allowed: bool,
) -> Result<u64, anyhow::Error> {
    if time.is_zero() && is_zero_allowed {
        return Ok(0);
    }
    Ok(flags::check_duration(flag, time, DURATION_MAX)? / 1_000 * 1_000)
}

/// The values that labels of a client's metrics can have.
pub fn metric_kinds() -> LabelValues {
    LabelValues {
        open_failures: OpenFailure::ALL.iter().map(|f| f.label()).collect(),
        ..LabelValues::default()
    }
}

impl ClientFlags {
    /// Checks the times, and opens the console.
    ///
    /// # Errors
    /// One line naming what is wrong.
    pub fn open_console(&self) -> Result<Console, anyhow::Error> {
        check_duration("--connect-timeout", self.connect_timeout, false)?;
        if let Some(time) = self.engine.drain_timeout {
            check_duration("--drain-timeout", time, false)?;
        }
        self.engine.open_console()
    }

    /// Creates the file of `--histogram-log`. `comment` is its first line.
    ///
    /// # Errors
    /// One line: the file and the cause.
    pub fn open_histogram_log(&self, comment: &str) -> Result<Option<HistogramLog>, anyhow::Error> {
        let path = self.histogram_log.as_deref();
        path.map(|path| HistogramLog::create(path, comment))
            .transpose()
    }

    /// Checks the machine and derives everything the engine starts with; prints what it will use.
    ///
    /// # Errors
    /// One line: the cause and the next command.
    pub fn prepare(
        &self,
        quantity: &LoadFlags,
        destinations: &[Destination<'_>],
        spec: ClientSpec,
        console: &mut Console,
    ) -> Result<EngineSetup, anyhow::Error> {
        let checked = Preflight::check(Role::Client)?;
        let users = quantity.users;
        let enough = preflight::check_memory(&checked.machine, users, spec.bytes_per_connection());
        self.engine.unless_forced(enough, console)?;
        let plans = self.plans(destinations)?;
        let targets = plans.iter().map(DialPlan::targets).collect();
        let plan = DialPlan::joined(plans)?;
        let base = Config::builder()
            .buffer_bytes(spec.buffer_bytes)
            .batch_delay(Duration::from_micros(spec.batch_delay_us))
            .connect_timeout(self.connect_timeout)
            .drain_timeout(spec.drain_timeout);
        let config = checked.config(&self.engine, users, spec.connections_per_user, base)?;
        console.note(format_args!(
            "{}; {} address and port combinations for {} users",
            checked.summary(&config),
            grouped(plan.tuple_count()),
            grouped(users),
        ));
        for warning in checked.warnings(users) {
            console.note(warning);
        }
        let load = Load::new(users, quantity.spawn_rate);
        Ok(EngineSetup {
            config,
            plan,
            targets,
            load,
        })
    }

    /// How many users memory and source addresses allow, or `users_max`.
    ///
    /// # Errors
    /// One line: the cause and the next command.
    pub fn users_that_fit(
        &self,
        targets: &[SocketAddr],
        spec: ClientSpec,
        users_max: Option<u64>,
    ) -> Result<u64, anyhow::Error> {
        if let Some(users_max) = users_max {
            return Ok(users_max);
        }
        let fits = preflight::memory_fits(&Machine::read()?, spec.bytes_per_connection());
        // Other processes take memory too, also between this check and the next one.
        let users = (fits - fits / 8).max(1);
        let ports = ports::usable_ports(self.ports.clone(), targets);
        let plan = self.tuples(users, users, targets, ports)?;
        Ok(plan.tuple_count())
    }

    /// Source addresses, ports and targets of the users of each destination.
    fn plans(&self, destinations: &[Destination<'_>]) -> Result<Vec<DialPlan>, anyhow::Error> {
        // A port that any of them listens on may be one of this machine's servers.
        let all: Vec<_> = destinations
            .iter()
            .flat_map(|d| d.addresses)
            .copied()
            .collect();
        let ports = ports::usable_ports(self.ports.clone(), &all);
        let plan = |destination: &Destination<'_>| -> Result<DialPlan, anyhow::Error> {
            let Destination { addresses, users } = *destination;
            // More than users, so that a port in use by others is no loss and each rests after use
            // (TIME_WAIT).
            let tuple_count_max = users + users / 4 + 65_536;
            let plan = self.tuples(users + users / 4, tuple_count_max, addresses, ports.clone())?;
            let source_count = plan.source_count() as u64;
            let port_count = u64::from(plan.port_count());
            preflight::check_sources(source_count, port_count, addresses, users)?;
            Ok(plan)
        };
        let plans = destinations.iter().map(|destination| {
            plan(destination).map_err(|error| match destinations.len() {
                1 => error,
                _ => anyhow::anyhow!("{}: {error}", destination.addresses[0]),
            })
        });
        plans.collect()
    }

    /// A plan with as many source addresses as `connections` need.
    fn tuples(
        &self,
        connections: u64,
        tuple_count_max: u64,
        targets: &[SocketAddr],
        ports: Vec<u16>,
    ) -> Result<DialPlan, anyhow::Error> {
        let per_address = (ports.len() * targets.len()).max(1) as u64;
        let addresses =
            source::addresses(&self.source, targets, connections.div_ceil(per_address))?;
        Ok(DialPlan::new(
            addresses,
            ports,
            targets.to_vec(),
            tuple_count_max,
        )?)
    }
}
