//! Reading a file of `/proc`, and the forms that several of them share.
//!
//! Invariants: a file that cannot be read is an empty text.

use std::fs;

/// The whole file; empty if it cannot be read.
pub fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The file as one number; `None` if it is not one.
pub fn number(path: &str) -> Option<u64> {
    text(path).trim().parse().ok()
}

/// A line such as `Slab:  30028 kB`, in bytes.
#[must_use]
pub fn kib_line(text: &str, name: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}
