//! A result on standard output.
//!
//! Invariants: standard output holds the result and nothing else. A result that cannot be written
//! is an error; a reader that has closed its end is not. Text for people has no control characters
//! but line breaks, whatever a record holds.
//! Must not depend on: what the result is.

use std::borrow::Cow;

use holdfast_telemetry::output;
use serde::Serialize;

/// Prints the result, `run.json` if `is_json` and the page of text otherwise; false if it could not
/// be written, which is then said on standard error.
#[must_use]
pub fn print_result(run: &impl Serialize, is_json: bool, page: impl FnOnce() -> String) -> bool {
    if is_json {
        let text = serde_json::to_string_pretty(run).unwrap_or_default() + "\n";
        print_bytes(text.as_bytes())
    } else {
        print_page(&page())
    }
}

/// Prints text for people; false if it could not be written, which is then said on standard error.
#[must_use]
pub fn print_page(text: &str) -> bool {
    print_bytes(printable(text).as_bytes())
}

/// Prints bytes as they are; false if they could not be written, which is then said on standard
/// error.
#[must_use]
pub fn print_bytes(bytes: &[u8]) -> bool {
    let printed = output::print(bytes);
    printed
        .map_err(|why| output::log_last(format_args!("error: {why}")))
        .is_ok()
}

/// A text whose control characters, line breaks aside, a terminal shows and does not obey.
fn printable(text: &str) -> Cow<'_, str> {
    let is_obeyed = |c: char| c.is_control() && c != '\n';
    match text.contains(is_obeyed) {
        true => text.replace(is_obeyed, "\u{fffd}").into(),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_a_record_do_not_reach_the_terminal() {
        assert_eq!(printable("a\nb µ"), "a\nb µ");
        let hostile = "\u{1b}]0;title\u{7}\u{9b}31m\r\n";
        assert_eq!(
            printable(hostile),
            "\u{fffd}]0;title\u{fffd}\u{fffd}31m\u{fffd}\n"
        );
    }
}
