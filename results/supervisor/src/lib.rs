//! Runs an engine as a program: what `holdfast-server` and `holdfast-client` share.
//!
//! [`flags`] has the flags that both programs have, [`preflight`] checks the machine and sizes the
//! engine, [`supervise`] runs the engine to its end: signals, progress, metrics, the histogram log,
//! the final figures. [`upgrade`] replaces a running server.
//! Invariants: nothing starts before the preflight has passed; every way out after the start prints
//! the final figures.
//! Must not depend on: protocols, rings, the benchmark driver.
#![forbid(unsafe_code)]

pub mod control;
pub mod flags;
pub mod histogram_log;
pub mod notify;
pub mod preflight;
pub mod supervise;
pub mod upgrade;

use std::process::ExitCode;

use holdfast_telemetry::console;

/// Exit code of a program that was interrupted before it did what it is for.
const EXIT_INTERRUPTED: u8 = 130;

/// Runs a subcommand. An error of usage or set-up is printed as one line and exits with code 2, one
/// of [`control::Interrupted`] with code 130.
pub fn run_command(command: impl FnOnce() -> Result<ExitCode, anyhow::Error>) -> ExitCode {
    command().unwrap_or_else(|error| {
        let code = console::refuse(&error);
        match error.is::<control::Interrupted>() {
            true => ExitCode::from(EXIT_INTERRUPTED),
            false => code,
        }
    })
}
