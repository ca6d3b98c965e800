//! Flags that every server and every client has, and the checks of their values.
//!
//! Must not depend on: protocols, engines.

use std::net::TcpListener;
use std::time::Duration;

use clap::Args;
use holdfast_engine::allowed_cores;
use holdfast_telemetry::console::{self, Console, ConsoleFlags};
use holdfast_telemetry::metrics::{LabelValues, Metrics, MetricsFlags};
use holdfast_units::parse;

/// Flags of every program that runs an engine.
#[derive(Debug, Args)]
pub struct EngineFlags {
    /// Abort open connections when none has closed for this long after the stop [default: 30s;
    /// client http: 2s]
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    pub drain_timeout: Option<Duration>,
    /// Run this many core threads [default: one for each core this process may use]
    #[arg(long, value_name = "COUNT", value_parser = parse::count_in::<u16>(1..=1_024))]
    pub threads: Option<u16>,
    /// Let work gather on a busy thread for this time; a number alone is microseconds. Less has
    /// lower latency, more costs less CPU [default: longconn 1ms, http 0]
    #[arg(long, alias = "coalesce", value_name = "TIME", value_parser = parse::micros_in(Duration::ZERO..=Duration::from_secs(1)))]
    pub batch_delay: Option<Duration>,
    /// Limit the direct descriptors of one ring [default: the descriptor limit]
    #[arg(long, value_name = "COUNT", hide = true, value_parser = parse::count_in::<u32>(0..=u64::from(u32::MAX)))]
    pub ring_slots: Option<u32>,
    /// Start even if memory will not hold all connections [default: off]
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    console: ConsoleFlags,
    #[command(flatten)]
    metrics: MetricsFlags,
    /// End at once when the parent process ends
    #[arg(long)]
    pub die_with_parent: bool,
}

impl EngineFlags {
    /// Core threads: those asked for, else one for each core that this process may use.
    pub fn thread_count(&self) -> usize {
        self.threads
            .map_or_else(|| allowed_cores().len(), usize::from)
    }

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

    /// What the check of memory found: an error, or with `--force` a warning.
    ///
    /// # Errors
    /// The error, unless the start is forced.
    pub fn unless_forced<E: std::fmt::Display>(
        &self,
        check: Result<(), E>,
        console: &mut Console,
    ) -> Result<(), E> {
        match check {
            Err(error) if self.force => {
                console.note(format_args!("{error}; started by --force"));
                Ok(())
            }
            check => check,
        }
    }

    /// Opens the console.
    ///
    /// # Errors
    /// One line: a flag that contradicts another one, or a file that cannot be written.
    pub fn open_console(&self) -> Result<Console, anyhow::Error> {
        Console::new(&self.console).map_err(anyhow::Error::msg)
    }

    /// Binds the port of `--metrics`, or takes the listener that this process inherited for it.
    /// `kinds` are the values that labels can have.
    ///
    /// # Errors
    /// One line: why the port cannot be bound.
    pub fn open_metrics(
        &self,
        kinds: LabelValues,
        inherited: Option<TcpListener>,
    ) -> Result<Metrics, anyhow::Error> {
        Metrics::open(&self.metrics, kinds, inherited).map_err(anyhow::Error::msg)
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
    let hours = longest.as_secs() / 3_600;
    anyhow::bail!("{flag} {time:?} is out of range; next: give 10ms to {hours}h")
}

/// Decodes the escapes of a payload: `\r`, `\n`, `\t`, `\0`, `\\` and `\xHH`.
///
/// # Errors
/// One line: the flag, and the escapes there are.
pub fn unescape(flag: &str, text: &str) -> Result<Vec<u8>, anyhow::Error> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (byte, length) = match rest {
            [b'r', ..] => (b'\r', 1),
            [b'n', ..] => (b'\n', 1),
            [b't', ..] => (b'\t', 1),
            [b'0', ..] => (0, 1),
            [b'\\', ..] => (b'\\', 1),
            [b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or_default() as u8;
                (digit(*high) << 4 | digit(*low), 3)
            }
            _ => anyhow::bail!(
                "{flag} has a backslash that begins no escape; next: write \\\\ for a backslash, or one of \\r \\n \\t \\0 \\xHH"
            ),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_others_named() {
        let bytes = unescape("--send", "GET /\\r\\n\\x00\\xff\\0\\\\é").unwrap();
        assert_eq!(bytes, b"GET /\r\n\x00\xff\0\\\xc3\xa9");
        for text in ["\\", "\\q", "\\x1", "\\xg0"] {
            let error = unescape("--send", text).unwrap_err().to_string();
            assert!(error.starts_with("--send ") && error.contains("; next: "));
        }
    }
}
