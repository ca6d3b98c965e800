//! Numbers as people read them.
//!
//! Purpose: one spelling for each kind of figure, long for text (`1,000,000`, `35.7 B`, `1.3 ms`)
//! and short for an axis (`1M`).
//! Invariants: what is unknown is `-`; no number, however odd, makes anything here panic.
//! Must not depend on: where a figure comes from.

use std::time::Duration;

use holdfast_telemetry::units::{count, minutes};

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Things a second.
    PerSecond,
    /// Bytes of one connection.
    Bytes,
    /// Microseconds.
    Micros,
    /// Cores in use.
    Cores,
    /// Seconds on cores.
    CpuSeconds,
    /// Microseconds on cores, of one thing.
    CpuMicros,
    /// Millions of bytes.
    Megabytes,
}

impl Unit {
    /// The unit's name, for the head of a column.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::PerSecond => "per second",
            Self::Bytes => "bytes",
            Self::Micros => "µs",
            Self::Cores => "cores",
            Self::CpuSeconds => "CPU seconds",
            Self::CpuMicros => "CPU µs",
            Self::Megabytes => "MB",
        }
    }

    /// Halves of it mean nothing.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self == Self::Count
    }

    /// A figure in full.
    #[must_use]
    pub fn full(self, value: f64) -> String {
        match self {
            Self::Count => decimal(value),
            Self::PerSecond => format!("{}/s", decimal(value)),
            Self::Bytes => bytes_each(value),
            Self::Micros => micros(value),
            Self::Cores => format!("{value:.2} cores"),
            Self::CpuSeconds => format!("{} s", decimal(value)),
            Self::CpuMicros => format!("{} µs", decimal(value)),
            Self::Megabytes => format!("{} MB", decimal(value)),
        }
    }

    /// A figure beside an axis, in few letters.
    #[must_use]
    pub fn short(self, value: f64) -> String {
        match self {
            Self::Count | Self::PerSecond | Self::Megabytes => thousands(value),
            Self::Cores | Self::CpuSeconds | Self::CpuMicros => trimmed(value, 2),
            Self::Bytes => format!("{} B", decimal(value)),
            Self::Micros => micros(value).replace(".0 ", " ").replace(".00 ", " "),
        }
    }
}

/// The number, or `-`.
#[must_use]
pub fn known<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".into(), text)
}

/// Grouped from a thousand on, else three digits; whole numbers without decimals.
#[must_use]
pub fn decimal(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "-".into(),
        // Saturates, as casts do.
        _ if value >= 999.5 => count(value.round() as u64),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        a if a >= 99.95 => format!("{value:.0}"),
        a if a >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// At most `digits` decimals, no zeros at the end of them.
#[must_use]
pub fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

/// Microseconds in the unit that reads best.
#[must_use]
pub fn micros(us: f64) -> String {
    match us {
        _ if !us.is_finite() => "-".into(),
        _ if us < 999.5 => format!("{} µs", trimmed(us, 0)),
        _ if us < 999_500.0 => format!(
            "{} ms",
            trimmed(us / 1e3, if us < 99_950.0 { 1 } else { 0 })
        ),
        _ => format!("{:.2} s", us / 1e6),
    }
}

/// A difference of microseconds, with its sign.
#[must_use]
pub fn signed_micros(us: Option<i64>) -> String {
    known(us, |us| {
        let sign = if us < 0 { "−" } else { "+" };
        format!("{sign}{}", micros(us.unsigned_abs() as f64))
    })
}

/// `35.7 B`, `8,362 B`: bytes of one connection, which are compared to the byte.
#[must_use]
pub fn bytes_each(value: f64) -> String {
    match value {
        v if v.abs() < 1_000.0 => format!("{v:.1} B"),
        v => format!("{} B", decimal(v)),
    }
}

/// `1.5 s`, `2 min 4 s`.
#[must_use]
pub fn span(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{} s", trimmed(seconds, 1));
    }
    minutes(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

fn thousands(value: f64) -> String {
    let mut names = ["", "k", "M", "G"].iter();
    let mut name = names.next();
    let mut value = value;
    while value.abs() >= 1_000.0 && names.len() > 0 {
        value /= 1_000.0;
        name = names.next();
    }
    format!("{}{}", trimmed(value, 2), name.unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (unit, value, full, short) in [
            (Unit::Count, 1_000_000.0, "1,000,000", "1M"),
            (Unit::Count, 0.0, "0", "0"),
            (Unit::PerSecond, 43_481.1, "43,481/s", "43.48k"),
            (Unit::Bytes, 39.24, "39.2 B", "39.2 B"),
            (Unit::Bytes, 8_361.71, "8,362 B", "8,362 B"),
            (Unit::Micros, 1_310.0, "1.3 ms", "1.3 ms"),
            (Unit::Micros, 81_279.0, "81.3 ms", "81.3 ms"),
            (Unit::Micros, 2_000_000.0, "2.00 s", "2 s"),
            (Unit::Cores, 1.5, "1.50 cores", "1.5"),
            (Unit::CpuSeconds, 9.4625, "9.46 s", "9.46"),
            (Unit::CpuMicros, 40.17, "40.2 µs", "40.17"),
        ] {
            assert_eq!(
                (unit.full(value), unit.short(value)),
                (full.into(), short.into())
            );
        }
        assert_eq!(span(124.38), "2 min 4 s");
        let signed = [Some(1_929), Some(-640), None].map(signed_micros);
        assert_eq!(signed, ["+1.9 ms", "−640 µs", "-"]);
    }

    #[test]
    fn odd_numbers_do_not_panic() {
        for value in [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            -1.0,
            f64::MAX,
            f64::MIN_POSITIVE,
        ] {
            for unit in [
                Unit::Count,
                Unit::PerSecond,
                Unit::Bytes,
                Unit::Micros,
                Unit::Cores,
                Unit::CpuSeconds,
                Unit::CpuMicros,
                Unit::Megabytes,
            ] {
                let _ = (unit.full(value), unit.short(value), span(value));
            }
        }
    }
}
