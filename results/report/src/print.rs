//! A result on standard output.
//!
//! Invariants: standard output holds the result and nothing else.
//! Must not know: what the result is.

use std::io::{self, Write};

use serde::Serialize;

/// Prints the result: `run.json` if `is_json`, the page of text otherwise.
pub fn print_result(run: &impl Serialize, is_json: bool, page: impl FnOnce() -> String) {
    let text = if is_json {
        serde_json::to_string_pretty(run).unwrap_or_default() + "\n"
    } else {
        page()
    };
    // A closed pipe is the reader's choice; the record is on disk.
    let _ = io::stdout().write_all(text.as_bytes());
}
