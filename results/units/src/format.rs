//! Figures as people read them, and the arithmetic of counts.
//!
//! Invariants: pure; what is unknown shows as `-`. No count, however large, is a panic.
//! Must not depend on: what is counted.

use std::collections::BTreeMap;
use std::time::Duration;

/// A count with its digits in groups of three: `1,000,000`.
#[must_use]
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A rate per second: whole from 10 on, with a decimal below, two below 1: `1,234`, `2.5`, `0.25`.
#[must_use]
pub fn rate(per_second: f64) -> String {
    let digits = match per_second {
        10.0.. => return count(per_second.round() as u64),
        1.0.. => 1,
        _ => 2,
    };
    let text = format!("{per_second:.digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A time as it can be typed: `1h30m`, `1.5s`, `500ms`.
#[must_use]
pub fn duration(time: Duration) -> String {
    let ns = time.as_nanos();
    let trimmed = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    match ns {
        0 => return "0s".into(),
        1..1_000 => return format!("{ns}ns"),
        1_000..1_000_000 => return trimmed(format!("{}.{:03}", ns / 1_000, ns % 1_000)) + "us",
        1_000_000..1_000_000_000 => {
            return trimmed(format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000)) + "ms";
        }
        _ => {}
    }
    let all = time.as_secs();
    let mut text = String::new();
    for (length, unit) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
        let n = match unit {
            "d" => all / length,
            "h" => all % 86_400 / length,
            _ => all % 3_600 / length,
        };
        if n > 0 {
            text += &format!("{n}{unit}");
        }
    }
    let seconds = trimmed(format!("{}.{:09}", all % 60, time.subsec_nanos()));
    if seconds != "0" {
        text += &format!("{seconds}s");
    }
    text
}

/// Bytes in the unit that reads best.
#[must_use]
pub fn bytes(n: u64) -> String {
    let n = n as f64;
    let gib = f64::from(1u32 << 30);
    let mib = f64::from(1u32 << 20);
    if n >= gib {
        format!("{:.1} GiB", n / gib)
    } else {
        format!("{:.1} MiB", n / mib)
    }
}

/// Microseconds in the unit that reads best.
#[must_use]
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// Bytes a connection, `-` where unknown.
#[must_use]
pub fn per(value: Option<f64>) -> String {
    value.map_or("-".into(), |v| {
        if v < 1_000.0 {
            format!("{v:.1} B")
        } else {
            format!("{} B", count(v.round() as u64))
        }
    })
}

/// [`bytes`], `-` where unknown.
#[must_use]
pub fn maybe_bytes(value: Option<u64>) -> String {
    value.map_or("-".into(), bytes)
}

/// All of some counts together. A record is anybody's file: more than a number holds stays the
/// largest one, and is no panic.
#[must_use]
pub fn total(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().fold(0, |sum, n| sum.saturating_add(*n))
}

/// `value` with so many digits behind the point.
#[must_use]
pub fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// `7 min 30 s`.
#[must_use]
pub fn minutes(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(64_511), "64,511");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(micros(999), "999 us");
        assert_eq!(micros(1_500), "1.5 ms");
        assert_eq!(micros(2_000_000), "2.00 s");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(bytes(512 << 20), "512.0 MiB");
        assert_eq!(
            [0.0, 0.2, 0.25, 1.0, 2.54, 9.0, 10.4, 1_234.5].map(rate),
            ["0", "0.2", "0.25", "1", "2.5", "9", "10", "1,235"]
        );
        let text = |ms| duration(Duration::from_millis(ms));
        assert_eq!(
            [0, 500, 1_500, 60_000, 5_400_000, 90_000_001].map(text),
            ["0s", "500ms", "1.5s", "1m", "1h30m", "1d1h0.001s"]
        );
    }
}
