//! The flags of `holdfast-bench longconn`, and which of them make no sense.
//!
//! Must not depend on: this machine.

use std::time::Duration;

use clap::Args;
use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_report::folder::check_label;
use holdfast_telemetry::units::count;

use holdfast_units::parse;

use crate::run_harness::RunFlags;

pub(super) const USERS_MAX: u64 = 100_000_000;
pub(super) const RATE_MIN: f64 = 0.01;
const RATE_MAX: f64 = 10_000_000.0;
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);
const MESSAGE_BYTES_MAX: usize = 4096;

/// The flags of `holdfast-bench longconn`.
#[derive(Debug, Clone, Args)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 passed, 1 fell short (run.json says in what), 2 not started, 130 interrupted."
)]
pub struct Flags {
    /// Open and hold this many connections [default: 1000000, or what memory can hold]
    #[arg(long, short = 'u', value_name = "COUNT", value_parser = parse::count)]
    pub users: Option<u64>,

    /// Open this many users a second, a number or `max`
    #[arg(long, short = 'r', alias = "rate", value_name = "RATE", default_value = "max", value_parser = parse_rate, allow_negative_numbers = true)]
    pub spawn_rate: SpawnRate,

    /// Send a heartbeat to each connection at this interval (1s, 550s, 10m)
    #[arg(long, alias = "every", value_name = "TIME", default_value = "30s", value_parser = parse::time)]
    pub interval: Duration,

    /// Hold all connections this long after the ramp [default: two intervals]
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    pub hold: Option<Duration>,

    /// Give the client these source addresses: addresses, ranges, CIDR or `auto` [default: the
    /// client's choice]
    #[arg(long, value_name = "ADDRESSES")]
    pub source: Option<String>,

    /// Send this as heartbeat
    #[arg(long, value_name = "TEXT", default_value = "ok")]
    pub message: String,

    /// Listen on this port [default: 999; in the host's network one that is free]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,

    /// Run the server with this many core threads [default: the server's choice]
    #[arg(long, value_name = "COUNT", value_parser = parse::count_in::<u32>(1..=1_024))]
    pub server_threads: Option<u32>,

    /// Run the client with this many core threads [default: the client's choice]
    #[arg(long, value_name = "COUNT", value_parser = parse::count_in::<u32>(1..=1_024))]
    pub client_threads: Option<u32>,

    /// Pass this argument to the server; may be repeated [default: none]
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub server_arg: Vec<String>,

    /// Pass this argument to the client; may be repeated [default: none]
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub client_arg: Vec<String>,

    /// Stay in the host's network: no setting is changed, other traffic is in the kernel's figures
    /// [default: off]
    #[arg(long)]
    pub no_namespace: bool,

    /// Leave the namespace's settings as the kernel makes them, instead of the kernel profiles
    /// (holdfast-tune) [default: off]
    #[arg(long)]
    pub no_profile: bool,

    /// Set one net.* setting of the namespace; may be repeated [default: none]
    #[arg(long, value_name = "KEY=VALUE")]
    pub sysctl: Vec<String>,

    /// Before the ramp, touch and free the memory it needs, so that the host of a virtual machine
    /// backs it: auto does so on a virtual machine that reports free memory to its host
    #[arg(long, alias = "warm", value_enum, default_value = "auto")]
    pub prefault: Prefault,

    /// Start even if memory will not suffice [default: off]
    #[arg(long)]
    pub force: bool,

    /// The flags that every run has.
    #[command(flatten)]
    pub run: RunFlags,
}

fn parse_rate(text: &str) -> Result<SpawnRate, String> {
    if text == "max" {
        return Ok(SpawnRate::Max);
    }
    let rate = parse::rate(text).map_err(|error| format!("{error}, or max"))?;
    Ok(SpawnRate::PerSecond(rate))
}

/// How fast users are opened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SpawnRate {
    /// As fast as it goes.
    Max,
    /// Users a second.
    PerSecond(f64),
}

impl std::fmt::Display for SpawnRate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::PerSecond(rate) => write!(f, "{rate}"),
        }
    }
}

/// Whether the memory of a run is touched before the ramp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Prefault {
    /// Where it makes a difference.
    #[default]
    Auto,
    /// In any case.
    On,
    /// Never.
    Off,
}

/// Checks what can be checked without looking at anything else.
///
/// # Errors
/// The first thing that makes no sense.
pub(super) fn check_figures(o: &Flags) -> Result<(), SetupError> {
    match o.users {
        Some(0) => {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                "zero users were asked for",
                "give at least one, --users 1000",
            ));
        }
        Some(n) if n > USERS_MAX => {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!(
                    "{} users are more than one machine can have ({})",
                    count(n),
                    count(USERS_MAX)
                ),
                "give fewer, --users 1000000",
            ));
        }
        _ => {}
    }
    if let SpawnRate::PerSecond(rate) = o.spawn_rate
        && !(RATE_MIN..=RATE_MAX).contains(&rate)
    {
        return Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            format!("a rate of {rate:?} users a second is outside {RATE_MIN} to {RATE_MAX}"),
            "give another, --spawn-rate 2000, or as fast as it goes, --spawn-rate max",
        ));
    }
    if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&o.interval) {
        return Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            format!(
                "an interval of {} is outside 10ms to 1day",
                humantime::format_duration(o.interval)
            ),
            "give another with --interval 30s",
        ));
    }
    if o.message.is_empty() || o.message.len() > MESSAGE_BYTES_MAX {
        return Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            format!(
                "a message of {} bytes is outside 1 to {MESSAGE_BYTES_MAX}",
                o.message.len()
            ),
            "give another with --message ok",
        ));
    }
    check_label(o.run.name.as_deref())?;
    if o.server_threads == Some(0) || o.client_threads == Some(0) {
        return Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            "zero threads were asked for",
            "leave --server-threads and --client-threads out",
        ));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The defaults, which make sense.
    pub fn flags() -> Flags {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            flags: Flags,
        }
        <Cli as clap::Parser>::parse_from(["longconn", "--interval", "550s"]).flags
    }

    fn refused(change: impl FnOnce(&mut Flags)) -> String {
        let mut flags = flags();
        change(&mut flags);
        let line = check_figures(&flags).expect_err("refused").to_string();
        assert!(line.contains("; next: ") && !line.contains('\n'), "{line}");
        line
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(refused(|o| o.users = Some(0)).contains("zero users"));
        assert!(refused(|o| o.users = Some(u64::MAX)).contains("more than one machine"));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e12] {
            refused(|o| o.spawn_rate = SpawnRate::PerSecond(rate));
        }
        refused(|o| o.interval = Duration::ZERO);
        refused(|o| o.interval = Duration::MAX);
        refused(|o| o.message = String::new());
        refused(|o| o.run.name = Some("../up".into()));
        refused(|o| o.client_threads = Some(0));
    }
}
