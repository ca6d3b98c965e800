//! What every run has around it, whatever is measured.
//!
//! Purpose: the flags, the runtime and the signals before it; the record on disk, the printed
//! result and the exit code after it.
//! Invariants: a record that cannot be written is said, never passed over: the run then falls
//! short. Standard output holds the result and nothing else.
//! Must not depend on: what was measured, how a verdict was found.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tokio::signal::unix::SignalKind;

use holdfast_engine::{SetupError, SetupErrorKind, check_io_uring};
use holdfast_report::folder::RunFolder;
use holdfast_report::header::Verdict;
use holdfast_sysctl::preflight;
use holdfast_telemetry::live::LiveFlags;
use holdfast_telemetry::output;
use holdfast_telemetry::proc::process;
use holdfast_telemetry::report_line::Report;
use holdfast_telemetry::signals::Signals;
use holdfast_testbed::child::Child;
use nix::sys::signal::Signal;

/// The flags of every run, whatever it measures; each is explained by `--help`.
#[derive(Debug, Clone, Args)]
pub struct RunFlags {
    /// Append this word to the name of the run's folder [default: none]
    #[arg(long, value_name = "WORD")]
    pub name: Option<String>,

    /// Create the run's folder in this one [default: results/runs of this workspace]
    #[arg(long, alias = "runs", value_name = "DIR")]
    pub results_dir: Option<PathBuf>,

    /// Print run.json to standard output instead of the summary [default: off]
    #[arg(long)]
    pub json: bool,

    /// How the run is shown.
    #[command(flatten)]
    pub live: LiveFlags,

    /// Take holdfast-server, holdfast-client and, for http and chat, examples/* from this folder
    /// [default: where this program is]
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
}

/// Checks what every run needs of this machine, before anything else starts: descriptors and
/// io_uring.
///
/// # Errors
/// When there are too few descriptors, or the kernel refuses io_uring.
pub fn check_machine() -> Result<(), SetupError> {
    preflight::raise_nofile()?;
    check_io_uring(true)
}

/// The runtime of a load.
///
/// # Errors
/// When the kernel gives no io_uring.
pub fn runtime() -> Result<tokio_uring::Runtime, SetupError> {
    tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(|e| {
        SetupError::new(SetupErrorKind::Io, format!("io_uring cannot be set up: {e} (kernel.io_uring_disabled, a seccomp filter, or a kernel before 5.11)"), "sysctl -w kernel.io_uring_disabled=0")
    })
}

/// Listens for whatever asks for the end. Inside the runtime.
///
/// # Errors
/// When it cannot be listened for.
pub fn signals() -> io::Result<Signals> {
    let mut kinds = vec![
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::quit(),
    ];
    // Under nohup the end of the terminal is not the end of the run.
    if !process::ignores(Signal::SIGHUP as i32) {
        kinds.push(SignalKind::hangup());
    }
    Signals::listen(&kinds)
}

/// Writes the record and points `latest` at it; false if the record is not on disk.
#[must_use]
pub fn write_record(run: &impl Serialize, folder: &RunFolder, runs: &Path) -> bool {
    if let Err(e) = folder.write_json("run.json", run) {
        output::log(format_args!(
            "error: {}: {e}; next: free space there, or choose another folder with --results-dir DIR",
            folder.file("run.json").display()
        ));
        return false;
    }
    if let Err(e) = folder.point_latest() {
        output::log(format_args!(
            "warning: {}/latest could not be pointed at this run: {e}",
            runs.display()
        ));
    }
    true
}

/// Writes the final report of `child` into `folder`, as it was printed.
pub fn write_final_report<R: Report>(child: &Child<R>, folder: &RunFolder, file: &str) {
    if let Some(raw) = &child.heard().final_raw
        && let Err(e) = folder.write_json(file, raw)
    {
        output::log(format_args!(
            "warning: {}: {e}",
            folder.file(file).display()
        ));
    }
}

/// 0 passed, 1 fell short or left no record, 130 interrupted.
#[must_use]
pub fn exit_code(verdict: Verdict, is_interrupted: bool, is_written: bool) -> u8 {
    const FELL_SHORT: u8 = 1;
    const INTERRUPTED: u8 = 130;
    match verdict {
        _ if is_interrupted => INTERRUPTED,
        Verdict::Pass if is_written => 0,
        _ => FELL_SHORT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_the_outcome() {
        assert_eq!(exit_code(Verdict::Pass, false, true), 0);
        assert_eq!(exit_code(Verdict::Pass, false, false), 1);
        assert_eq!(exit_code(Verdict::Fail, false, true), 1);
        assert_eq!(exit_code(Verdict::Pass, true, true), 130);
    }
}
