//! Runs an engine as a program: what `holdfast-server` and `holdfast-client` share.
//!
//! [`flags`] has the flags that both programs have, [`preflight`] checks the machine and sizes the engine, [`supervise`] runs the
//! engine to its end: signals, progress, metrics, the histogram log, the final figures.
//! Invariants: nothing starts before the preflight has passed; every way out after the start prints the final figures.
//! Must not depend on: protocols, rings, the benchmark driver.
#![forbid(unsafe_code)]

pub mod flags;
pub mod histogram_log;
pub mod preflight;
pub mod supervise;

use std::process::ExitCode;

use holdfast_telemetry::console;

/// Runs a subcommand. An error of usage or set-up is printed as one line and exits with code 2.
pub fn run_command(command: impl FnOnce() -> Result<ExitCode, anyhow::Error>) -> ExitCode {
    command().unwrap_or_else(|error| console::refuse(&error))
}
