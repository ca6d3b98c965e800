//! Figures as a terminal shows them.
//!
//! Must not depend on: what the figures are of.

use crate::units::{bytes, count, micros};

/// `1:02:03`, or `2:03` within the first hour.
#[must_use]
pub fn clock(seconds: f64) -> String {
    let all = seconds.max(0.0) as u64;
    let (hours, minutes, seconds) = (all / 3_600, all / 60 % 60, all % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// Microseconds, or `-`.
#[must_use]
pub fn maybe_micros(us: Option<u64>) -> String {
    us.map_or("-".into(), micros)
}

/// Bytes a connection, or `-` while there is none.
#[must_use]
pub fn per_connection(all_bytes: u64, open: Option<u64>) -> String {
    match open.and_then(|open| all_bytes.checked_div(open)) {
        None => "-".into(),
        Some(each) if each < 1 << 20 => format!("{} B", count(each)),
        Some(each) => bytes(each),
    }
}

/// The characters that curves and bars are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Glyphs {
    /// Blocks of an eighth: the locale has UTF-8.
    Blocks,
    /// What every terminal has.
    Ascii,
}

impl Glyphs {
    /// What the locale of this process has.
    #[must_use]
    pub fn of_locale() -> Self {
        let set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter();
        let first = set
            .filter_map(|name| std::env::var(name).ok())
            .find(|v| !v.is_empty());
        let is_utf8 = first.is_some_and(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.ends_with("utf-8") || locale.ends_with("utf8")
        });
        if is_utf8 { Self::Blocks } else { Self::Ascii }
    }

    /// From nothing to all of a character's height.
    #[must_use]
    pub fn levels(self) -> [&'static str; 9] {
        match self {
            Self::Blocks => [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
            Self::Ascii => [" ", "_", ".", "-", ":", "=", "+", "*", "#"],
        }
    }

    /// A curve one character high, from zero to its largest value.
    #[must_use]
    pub fn curve(self, values: &[f64]) -> String {
        let largest = values.iter().copied().fold(0.0, f64::max);
        let levels = self.levels();
        let level = |value: &f64| match largest > 0.0 {
            // What is not zero can be seen.
            true => (value / largest * 8.0).ceil() as usize,
            false => 0,
        };
        values
            .iter()
            .map(|value| levels[level(value).min(8)])
            .collect()
    }

    /// A bar of so many characters, filled to a share.
    #[must_use]
    pub fn bar(self, share: f64, columns: usize) -> String {
        let (full, empty) = match self {
            Self::Blocks => ("█", "░"),
            Self::Ascii => ("#", "."),
        };
        let filled = (share.clamp(0.0, 1.0) * columns as f64) as usize;
        full.repeat(filled) + &empty.repeat(columns - filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!(
            (clock(59.9), clock(3_661.0)),
            ("0:59".into(), "1:01:01".into())
        );
        assert_eq!(per_connection(5_000, Some(0)), "-");
        assert_eq!(per_connection(5_000_000, Some(1_000)), "5,000 B");
        assert_eq!(maybe_micros(None), "-");
    }

    #[test]
    fn curves_and_bars() {
        assert_eq!(Glyphs::Blocks.curve(&[0.0, 0.1, 4.0, 8.0]), " ▁▄█");
        assert_eq!(Glyphs::Ascii.curve(&[0.0, 0.0]), "  ");
        assert_eq!(Glyphs::Ascii.bar(0.5, 4), "##..");
        assert_eq!(Glyphs::Ascii.bar(7.0, 3), "###");
    }
}
