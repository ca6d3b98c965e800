//! One line that a program prints for another: how it is read, whatever is in it.
//!
//! Invariants: a line of another schema is refused, never half understood.
//! Must not depend on: processes, what the figures mean.

use holdfast_engine::{SetupError, SetupErrorKind};
use serde::de::DeserializeOwned;

use crate::wire::{CLIENT_SCHEMA, ClientReport, SERVER_SCHEMA, ServerReport};

/// A line that a child prints.
pub trait Report: Sized + 'static {
    /// Reads one line.
    ///
    /// # Errors
    /// Why it is no report.
    fn read(line: &str) -> Result<Self, String>;
    /// Whether it is the last one.
    fn is_final(&self) -> bool;
    /// What is known once `new` has been said: `new`, unless reports of several come through one
    /// child.
    fn absorb(latest: &mut Option<Self>, new: Self) {
        *latest = Some(new);
    }
}

/// A line of a program whose output is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnyLine;

impl Report for AnyLine {
    fn read(_line: &str) -> Result<Self, String> {
        Ok(Self)
    }
    fn is_final(&self) -> bool {
        false
    }
}

/// The error that a child process printed as its last words, `error: cause; next: command`.
#[must_use]
pub fn passed_on(line: &str) -> SetupError {
    let line = line.trim().trim_start_matches("error:").trim_start();
    let (cause, next_step) = line.split_once("; next: ").unwrap_or((line, ""));
    SetupError::new(SetupErrorKind::Other, cause, next_step)
}

/// Reads a line of JSON that must carry `schema`.
///
/// # Errors
/// What is wrong with it.
pub fn read_json<R: DeserializeOwned>(
    line: &str,
    schema: &str,
    schema_of: fn(&R) -> &str,
) -> Result<R, String> {
    let report: R = serde_json::from_str(line).map_err(|e| e.to_string())?;
    if schema_of(&report) == schema {
        Ok(report)
    } else {
        Err(format!(
            "schema {:?} instead of {schema:?}",
            schema_of(&report)
        ))
    }
}

impl Report for ServerReport {
    fn read(line: &str) -> Result<Self, String> {
        read_json(line, SERVER_SCHEMA, |r: &Self| &r.schema)
    }
    fn is_final(&self) -> bool {
        self.is_final
    }
}

impl Report for ClientReport {
    fn read(line: &str) -> Result<Self, String> {
        read_json(line, CLIENT_SCHEMA, |r: &Self| &r.schema)
    }
    fn is_final(&self) -> bool {
        self.is_final
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_child_processes_keep_their_cause_and_next_step() {
        let error = passed_on("error: port 999 is in use; next: ss -ltn\n");
        assert_eq!(
            (error.cause(), error.next_step()),
            ("port 999 is in use", "ss -ltn")
        );
        assert_eq!(passed_on("port in use").to_string(), "port in use");
    }
}
