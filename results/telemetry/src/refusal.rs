//! A request that cannot be served, said in one line.
//!
//! Purpose: the one error type of what happens before a load starts: cause, and the next command to type.
//! Invariants: one line, whatever went into it. A refusal leaves no process, no namespace and no run behind.
//! Must not know: what a run measures; a run that falls short is a verdict, not a refusal.

use std::fmt;

/// Why nothing was started. Displayed as `error: cause; next: command`; the process exits with code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    line: String,
}

impl Refusal {
    /// `cause` in words, `next` the command or change that helps.
    pub fn new(cause: impl fmt::Display, next: impl fmt::Display) -> Self {
        Self {
            line: one_line(&format!("error: {cause}; next: {next}")),
        }
    }

    /// A line a child process already worded in the same form.
    pub fn passed_on(line: &str) -> Self {
        let line = one_line(line);
        let line = if line.starts_with("error:") {
            line
        } else {
            format!("error: {line}")
        };
        Self { line }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_on_one_line() {
        let refusal = Refusal::new("two\nlines", "make\n it one");
        assert_eq!(refusal.to_string(), "error: two lines; next: make it one");
        assert_eq!(
            Refusal::passed_on("error: port in use\n").to_string(),
            "error: port in use"
        );
        assert_eq!(
            Refusal::passed_on("port in use").to_string(),
            "error: port in use"
        );
    }
}
