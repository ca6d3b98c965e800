//! Flags that every server and every client has, and the checks of their values.
//!
//! Must not depend on: protocols, engines.

use std::time::Duration;

use clap::Args;
use holdfast_telemetry::console::{self, Console, ConsoleFlags};
use holdfast_telemetry::metrics::{LabelValues, Metrics, MetricsFlags};

/// Flags of every program that runs an engine.
#[derive(Debug, Args)]
pub struct EngineFlags {
    /// Abort open connections when none has closed for this long after the stop [default: 30s; client http: 2s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub drain_timeout: Option<Duration>,
    /// Run this many core threads [default: one for each core this process may use]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Let work gather on a busy thread, microseconds: less has lower latency, more costs less CPU [default: longconn 1000, http 0]
    #[arg(long, alias = "coalesce", value_name = "MICROSECONDS", value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub batch_delay: Option<u64>,
    /// Limit the direct descriptors of one ring [default: the descriptor limit]
    #[arg(long, value_name = "COUNT", hide = true)]
    pub ring_slots: Option<u32>,
    #[command(flatten)]
    console: ConsoleFlags,
    #[command(flatten)]
    metrics: MetricsFlags,
    /// End at once when the parent process ends
    #[arg(long)]
    pub die_with_parent: bool,
}

impl EngineFlags {
    /// Applies `--die-with-parent`. Comes before anything else.
    ///
    /// # Errors
    /// The parent has ended already.
    pub fn tie_to_parent(&self) -> Result<(), anyhow::Error> {
        if self.die_with_parent {
            console::die_with_parent()?;
        }
        Ok(())
    }

    /// Opens the console.
    ///
    /// # Errors
    /// One line: a flag that contradicts another one, or a file that cannot be written.
    pub fn open_console(&self) -> Result<Console, anyhow::Error> {
        Console::new(&self.console).map_err(anyhow::Error::msg)
    }

    /// Binds the port of `--metrics`. `kinds` are the values that labels can have.
    ///
    /// # Errors
    /// One line: why the port cannot be bound.
    pub fn open_metrics(&self, kinds: LabelValues) -> Result<Metrics, anyhow::Error> {
        Metrics::open(&self.metrics, kinds).map_err(anyhow::Error::msg)
    }
}

/// Checks the time of a flag: 10 ms to `longest`. Returns whole microseconds.
///
/// # Errors
/// One line: the flag, its value and the range.
pub fn check_duration(flag: &str, time: Duration, longest: Duration) -> Result<u64, anyhow::Error> {
    if (Duration::from_millis(10)..=longest).contains(&time) {
        return Ok(time.as_micros() as u64);
    }
    let time = humantime::format_duration(time);
    let longest = humantime::format_duration(longest);
    anyhow::bail!("{flag} {time} is out of range; next: {flag} with 10ms to {longest}")
}
