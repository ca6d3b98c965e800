//! One reason why something cannot start, and the figures in it as people read them.
//!
//! Invariant: displays as exactly one line. Must not know what was checked.

use std::fmt;

/// Why something cannot be done here, and what to type next. Displays as `cause; next: remedy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// What is missing, with the figures that show it.
    pub cause: String,
    /// The next command, or what to ask for instead.
    pub next: String,
}

impl Shortfall {
    /// A shortfall; line breaks in either part become spaces, since error texts of others may carry some.
    pub fn new(cause: impl Into<String>, next: impl Into<String>) -> Self {
        let one_line = |text: String| text.replace(['\n', '\r'], " ");
        Self {
            cause: one_line(cause.into()),
            next: one_line(next.into()),
        }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; next: {}", self.cause, self.next)
    }
}

impl std::error::Error for Shortfall {}

/// Bytes as GiB with one decimal: `7.7 GiB`.
pub fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortfall_is_one_line() {
        let shortfall = Shortfall::new("no room\nat all", "make some");
        assert_eq!(shortfall.to_string(), "no room at all; next: make some");
    }

    #[test]
    fn figures_as_people_read_them() {
        assert_eq!(gibibytes(8_300_000_000), "7.7 GiB");
    }
}
