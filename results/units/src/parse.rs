//! The grammar of quantities on the command line, the same in all programs.
//!
//! | | examples | |
//! |---|---|---|
//! | count | `500`, `10k`, `2.4M` | a whole number after its unit is applied: k, M, G are powers of 1,000 |
//! | rate per second | `0.5`, `10k`, `2.4M` | a number with the units of counts, optionally followed by `/s` |
//! | size | `512`, `64k`, `1.5M`, `16KiB` | bytes; k, M, G are powers of 1,000, Ki, Mi, Gi of 1,024, optionally followed by B |
//! | time | `500ms`, `1.5s`, `90`, `1h30m` | ns, us, ms, s, m, h, d, also one after the other; a number alone is seconds |
//! | percentage | `2`, `2.5`, `2%` | a number, optionally followed by `%` |
//!
//! Digits can be grouped with `_` or `,`.
//!
//! Invariants: values are exact, not rounded on the way (`2.4M` is 2,400,000). Every error names
//! what is accepted, in one form: `'TEXT' is not a COUNT; next: give ...`.
//! Must not depend on: clap; its `value_parser` takes these functions as they are.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::format::{count as grouped, duration};

/// Parses a count, such as `500`, `10k` or `2.4M`.
///
/// # Errors
/// What is accepted.
pub fn count(text: &str) -> Result<u64, String> {
    whole(text, decimal_unit).ok_or_else(|| {
        format!("'{text}' is not a count; next: give a whole number such as 500, 10k or 2.4M")
    })
}

/// A parser of counts within a range, for clap's `value_parser`.
pub fn count_in<T: Copy + TryFrom<u64> + Send + Sync + 'static>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    const EXAMPLES: [(u64, &str); 3] = [(500, "500"), (10_000, "10k"), (2_400_000, "2.4M")];
    move |text| within(text, count(text).ok(), "count", &range, &EXAMPLES)
}

/// `value`, which `text` was parsed to, if it is within the range; else what is accepted, with
/// examples that are.
fn within<T: Copy + TryFrom<u64>>(
    text: &str,
    value: Option<u64>,
    what: &str,
    range: &RangeInclusive<u64>,
    examples: &[(u64, &str)],
) -> Result<T, String> {
    let (least, most) = (grouped(*range.start()), grouped(*range.end()));
    let in_range = value.filter(|value| range.contains(value));
    if let Some(value) = in_range.and_then(|value| T::try_from(value).ok()) {
        return Ok(value);
    }
    if value.is_some() {
        return Err(format!(
            "{text} is out of range; next: give a {what} from {least} to {most}"
        ));
    }
    let fitting = examples.iter().filter(|(value, _)| range.contains(value));
    let fitting: Vec<_> = fitting.map(|(_, example)| *example).collect();
    let such_as = if fitting.is_empty() {
        least.clone()
    } else {
        fitting.join(" or ")
    };
    Err(format!(
        "'{text}' is not a {what}; next: give one from {least} to {most}, such as {such_as}"
    ))
}

/// Parses a rate per second that is above 0, such as `0.5`, `10k` or `2.4M`, also with `/s` behind
/// it.
///
/// # Errors
/// What is accepted.
pub fn rate(text: &str) -> Result<f64, String> {
    let error = || {
        format!("'{text}' is not a rate; next: give a number per second such as 0.5, 10k or 2.4M")
    };
    let plain = text.strip_suffix("/s").unwrap_or(text);
    let (number, unit) = split(plain);
    let factor = decimal_unit(unit).ok_or_else(error)?;
    let number = Number::parse(number).ok_or_else(error)?;
    let rate = number.digits as f64 / 10_f64.powi(number.decimals as i32) * factor as f64;
    (rate > 0.0).then_some(rate).ok_or_else(error)
}

/// Parses a percentage, such as `2`, `2.5` or `2%`; it may be negative.
///
/// # Errors
/// What is accepted.
pub fn percent(text: &str) -> Result<f64, String> {
    let plain = text.strip_suffix('%').unwrap_or(text);
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => (-1.0, digits),
        None => (1.0, plain),
    };
    let number = Number::parse(digits).ok_or_else(|| {
        format!("'{text}' is not a percentage; next: give one such as 2, 2.5 or 2%")
    })?;
    Ok(sign * number.digits as f64 / 10_f64.powi(number.decimals as i32))
}

/// Parses a size in bytes, such as `512`, `64k`, `1.5M` or `16KiB`.
///
/// # Errors
/// What is accepted.
pub fn size(text: &str) -> Result<u64, String> {
    let unit = |unit: &str| match unit.strip_suffix('B').unwrap_or(unit) {
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        unit => decimal_unit(unit),
    };
    whole(text, unit).ok_or_else(|| {
        format!("'{text}' is not a size; next: give bytes such as 512, 64k, 1.5M or 16KiB")
    })
}

/// A parser of sizes within a range, for clap's `value_parser`.
pub fn size_in<T: Copy + TryFrom<u64> + Send + Sync + 'static>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    const EXAMPLES: [(u64, &str); 3] = [(512, "512"), (16_384, "16KiB"), (1_500_000, "1.5M")];
    move |text| within(text, size(text).ok(), "size", &range, &EXAMPLES)
}

/// Parses a time, such as `500ms`, `1.5s`, `1h30m`; a number alone is seconds.
///
/// # Errors
/// What is accepted.
pub fn time(text: &str) -> Result<Duration, String> {
    nanoseconds(text)
        .and_then(|ns| u64::try_from(ns).ok())
        .map(Duration::from_nanos)
        .ok_or_else(|| {
            format!("'{text}' is not a time; next: give one such as 500ms, 1.5s, 90s or 1h30m")
        })
}

/// A parser of short times within a range, of which a number alone is microseconds, for clap's
/// `value_parser`.
pub fn micros_in(
    range: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    let within = time_in(range);
    move |text| match Number::parse(text) {
        Some(_) => within(&format!("{text}us")),
        None => within(text),
    }
}

/// A parser of times within a range, for clap's `value_parser`.
pub fn time_in(
    range: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let (least, most) = (duration(*range.start()), duration(*range.end()));
        match time(text)? {
            time if range.contains(&time) => Ok(time),
            _ => Err(format!(
                "{text} is out of range; next: give a time from {least} to {most}"
            )),
        }
    }
}

/// A decimal number without a sign: `digits` / 10^`decimals`.
struct Number {
    digits: u128,
    decimals: u32,
}

impl Number {
    fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let whole = whole.replace(['_', ','], "");
        let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !is_number(&whole) || !is_number(fraction) {
            return None;
        }
        if text.ends_with('.') || whole.len() + fraction.len() > 24 {
            return None;
        }
        Some(Self {
            digits: (whole + fraction).parse().ok()?,
            decimals: fraction.len() as u32,
        })
    }

    /// The number times `factor`, if that is a whole number.
    fn times(&self, factor: u64) -> Option<u128> {
        let scale = 10_u128.pow(self.decimals);
        let product = self.digits.checked_mul(factor.into())?;
        product.is_multiple_of(scale).then_some(product / scale)
    }
}

/// The number at the start of a text, and what follows it.
fn split(text: &str) -> (&str, &str) {
    let is_number = |c: char| c.is_ascii_digit() || "._,".contains(c);
    text.split_at(text.find(|c| !is_number(c)).unwrap_or(text.len()))
}

fn decimal_unit(unit: &str) -> Option<u64> {
    match unit {
        "" => Some(1),
        "k" | "K" => Some(1_000),
        "m" | "M" => Some(1_000_000),
        "g" | "G" => Some(1_000_000_000),
        _ => None,
    }
}

fn whole(text: &str, factor: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let (number, unit) = split(text);
    let product = Number::parse(number)?.times(factor(unit)?)?;
    product.try_into().ok()
}

fn nanoseconds(text: &str) -> Option<u128> {
    const SECOND: u64 = 1_000_000_000;
    if let Some(number) = Number::parse(text) {
        return number.times(SECOND);
    }
    let mut left = text.trim();
    let mut sum = 0_u128;
    while !left.is_empty() {
        let (number, behind) = split(left);
        let behind = behind.trim_start();
        let end = behind.find(|c: char| c.is_ascii_digit() || c == ' ');
        let (unit, rest) = behind.split_at(end.unwrap_or(behind.len()));
        let factor = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" | "sec" | "secs" | "second" | "seconds" => SECOND,
            "m" | "min" | "mins" | "minute" | "minutes" => 60 * SECOND,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600 * SECOND,
            "d" | "day" | "days" => 86_400 * SECOND,
            _ => return None,
        };
        sum = sum.checked_add(Number::parse(number)?.times(factor)?)?;
        left = rest.trim_start();
    }
    (!text.trim().is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        for (text, expected) in [
            ("0", 0),
            ("500", 500),
            ("10k", 10_000),
            ("10K", 10_000),
            ("2.4M", 2_400_000),
            ("0.5k", 500),
            ("1G", 1_000_000_000),
            ("1_000_000", 1_000_000),
            ("1,000,000", 1_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(count(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "k",
            ".",
            "1.",
            ".5",
            "0.5",
            "1.0001k",
            "-1",
            "+1",
            "1e6",
            "10 k",
            "10x",
            "1..2",
            "18446744073709551616",
            "99999999999999999999999999G",
            "٣",
            "10kk",
            "0x10",
        ] {
            let error = count(text).expect_err(text);
            assert!(error.contains("next: give a whole number"), "{error}");
        }
        let users = count_in(1..=1_000_000);
        assert_eq!(users("1M"), Ok(1_000_000_u32));
        assert_eq!(
            users("2M").unwrap_err(),
            "2M is out of range; next: give a count from 1 to 1,000,000"
        );
    }

    #[test]
    fn rates() {
        for (text, expected) in [
            ("0.5", 0.5),
            ("10k", 10_000.0),
            ("2.4M", 2_400_000.0),
            ("0.001", 0.001),
            ("7/s", 7.0),
            ("1.5k/s", 1_500.0),
        ] {
            assert_eq!(rate(text), Ok(expected), "{text}");
        }
        for text in [
            "", "0", "0.0", "-1", "inf", "nan", "max", "/s", "5/m", "1e3",
        ] {
            let error = rate(text).expect_err(text);
            assert!(error.contains("such as 0.5, 10k or 2.4M"), "{error}");
        }
    }

    #[test]
    fn percentages() {
        for (text, expected) in [("2", 2.0), ("2.5%", 2.5), ("-1%", -1.0), ("0", 0.0)] {
            assert_eq!(percent(text), Ok(expected), "{text}");
        }
        for text in ["", "%", "2%%", "--1", "inf", "nan", "1e3", "2 %"] {
            let error = percent(text).expect_err(text);
            assert!(error.contains("next: give one such as 2"), "{error}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("512", 512),
            ("64k", 64_000),
            ("1.5M", 1_500_000),
            ("2MB", 2_000_000),
            ("16KiB", 16_384),
            ("16Ki", 16_384),
            ("0.5MiB", 524_288),
            ("1B", 1),
        ] {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for text in ["", "B", "1.5", "1kiB", "1Bk", "-1", "1 k"] {
            let error = size(text).expect_err(text);
            assert!(error.contains("16KiB"), "{error}");
        }
    }

    #[test]
    fn times() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0.5", 500),
            ("90", 90_000),
            ("500ms", 500),
            ("1.5s", 1_500),
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1m30s500ms", 90_500),
            ("2 days", 172_800_000),
            ("5 minutes", 300_000),
            ("1000us", 1),
        ] {
            assert_eq!(
                time(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in [
            "",
            " ",
            "h",
            "-1s",
            "1x",
            "1h30",
            "s1",
            "1M",
            "1e3s",
            "99999999999d",
            "1s,",
        ] {
            let error = time(text).expect_err(text);
            assert!(error.contains("500ms, 1.5s, 90s or 1h30m"), "{error}");
        }
        let hold = time_in(Duration::from_millis(10)..=Duration::from_secs(3_600));
        assert_eq!(hold("1h"), Ok(Duration::from_secs(3_600)));
        assert_eq!(
            hold("2h").unwrap_err(),
            "2h is out of range; next: give a time from 10ms to 1h"
        );
    }

    #[test]
    fn short_times_without_a_unit_are_microseconds() {
        let delay = micros_in(Duration::ZERO..=Duration::from_secs(1));
        for (text, micros) in [
            ("0", 0),
            ("200", 200),
            ("1_000", 1_000),
            ("200us", 200),
            ("1ms", 1_000),
            ("0.5ms", 500),
            ("1s", 1_000_000),
        ] {
            assert_eq!(delay(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        for text in ["", "-1", "1000001", "2s", "1k", "us"] {
            assert!(delay(text).expect_err(text).contains("; next: "), "{text}");
        }
    }

    #[test]
    fn printed_times_can_be_typed() {
        for time_ns in [
            0,
            1,
            1_000,
            1_500_000,
            999_999_999,
            1_000_000_000,
            1_500_000_000,
            5_400_000_000_000,
            90_061_001_000_000,
        ] {
            let printed = duration(Duration::from_nanos(time_ns));
            assert_eq!(
                time(&printed),
                Ok(Duration::from_nanos(time_ns)),
                "{printed}"
            );
        }
    }
}
