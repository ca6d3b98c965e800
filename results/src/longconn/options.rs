//! The flags of `longconn`, and which of them make no sense.
//!
//! Must not know: this machine.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_report::folder::check_label;
use holdfast_telemetry::refusal::Refusal;
use holdfast_telemetry::units::count;

pub(super) const USERS_MAX: u64 = 100_000_000;
pub(super) const RATE_MIN: f64 = 0.01;
const RATE_MAX: f64 = 10_000_000.0;
const EVERY_MIN: Duration = Duration::from_millis(10);
const EVERY_MAX: Duration = Duration::from_secs(24 * 3600);
const MESSAGE_BYTES_MAX: usize = 4096;

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

/// The flags of `holdfast-bench longconn`; each is explained by `--help`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Options {
    pub users: Option<u64>,
    pub rate: SpawnRate,
    pub every: Duration,
    pub hold: Option<Duration>,
    pub source: Option<String>,
    pub message: String,
    pub port: u16,
    pub label: Option<String>,
    pub runs: Option<PathBuf>,
    pub server_threads: Option<u32>,
    pub client_threads: Option<u32>,
    pub server_args: Vec<String>,
    pub client_args: Vec<String>,
    pub is_private: bool,
    pub has_profile: bool,
    pub sysctl: Vec<String>,
    pub is_forced: bool,
    pub warm: WarmUp,
    pub bin_dir: Option<PathBuf>,
}

/// Whether the memory of a run is warmed before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum WarmUp {
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
pub(super) fn check_figures(o: &Options) -> Result<(), Refusal> {
    match o.users {
        Some(0) => {
            return Err(Refusal::new(
                "zero users were asked for",
                "give at least one, --users 1000",
            ));
        }
        Some(n) if n > USERS_MAX => {
            return Err(Refusal::new(
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
    if let SpawnRate::PerSecond(rate) = o.rate
        && !(RATE_MIN..=RATE_MAX).contains(&rate)
    {
        return Err(Refusal::new(
            format!("a rate of {rate:?} users a second is outside {RATE_MIN} to {RATE_MAX}"),
            "give another, --rate 2000, or as fast as it goes, --rate max",
        ));
    }
    if !(EVERY_MIN..=EVERY_MAX).contains(&o.every) {
        return Err(Refusal::new(
            format!(
                "an interval of {} is outside 10ms to 1day",
                humantime::format_duration(o.every)
            ),
            "give another with --every 30s",
        ));
    }
    if o.message.is_empty() || o.message.len() > MESSAGE_BYTES_MAX {
        return Err(Refusal::new(
            format!(
                "a message of {} bytes is outside 1 to {MESSAGE_BYTES_MAX}",
                o.message.len()
            ),
            "give another with --message ok",
        ));
    }
    check_label(o.label.as_deref())?;
    if o.server_threads == Some(0) || o.client_threads == Some(0) {
        return Err(Refusal::new(
            "zero threads were asked for",
            "leave --server-threads and --client-threads out",
        ));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Some that make sense.
    pub fn options() -> Options {
        Options {
            users: None,
            rate: SpawnRate::Max,
            every: Duration::from_secs(550),
            hold: None,
            source: None,
            message: "ok".into(),
            port: 999,
            label: None,
            runs: None,
            server_threads: None,
            client_threads: None,
            server_args: vec![],
            client_args: vec![],
            is_private: true,
            has_profile: true,
            sysctl: vec![],
            is_forced: false,
            warm: WarmUp::Off,
            bin_dir: None,
        }
    }

    fn refused(change: impl FnOnce(&mut Options)) -> String {
        let mut options = options();
        change(&mut options);
        let line = check_figures(&options).expect_err("refused").to_string();
        assert!(
            line.starts_with("error: ") && line.contains("; next: ") && !line.contains('\n'),
            "{line}"
        );
        line
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(refused(|o| o.users = Some(0)).contains("zero users"));
        assert!(refused(|o| o.users = Some(u64::MAX)).contains("more than one machine"));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e12] {
            refused(|o| o.rate = SpawnRate::PerSecond(rate));
        }
        refused(|o| o.every = Duration::ZERO);
        refused(|o| o.every = Duration::MAX);
        refused(|o| o.message = String::new());
        refused(|o| o.label = Some("../up".into()));
        refused(|o| o.client_threads = Some(0));
    }
}
