//! `holdfast-client worker`: users for a Locust master.
//!
//! ```text
//!   worker: the event loop ─┬─► session, one per worker: registration, heartbeats ─► link ─► zmtp      the master's side
//!                           │   message, reporting, master_clock
//!                           └─► runner: a user_pool per class, with ramp ─► engine                     the users' side
//!                               options, lookup, rows, stats, worker_log
//! ```
//!
//! A spawn request arrives on the link, is decoded by [`message`], and changes the session's wanted
//! users. The event loop adds up all sessions and calls `Runner::set_target_users`, which calls
//! `UserPool::set_target_users` for each class; that draws a line with `RampSmoother::set_target`,
//! and the load that the core threads follow.
//!
//! Must not depend on: the contents of messages.

mod flags;
mod link;
mod lookup;
mod master_clock;
pub mod message;
mod options;
mod process_stats;
mod ramp;
mod reporting;
mod rows;
mod runner;
mod session;
mod stats;
mod user_class;
mod user_pool;
mod worker;
mod worker_log;
pub mod zmtp;

use std::process::ExitCode;

use holdfast_telemetry::metrics::LabelValues;

use holdfast_supervisor::preflight::Preflight;
use holdfast_supervisor::run_command;
use holdfast_sysctl::Role;
use worker::Worker;

pub use flags::Flags;

/// Runs the subcommand.
pub fn main(flags: Flags) -> ExitCode {
    run_command(|| run(flags))
}

fn run(flags: Flags) -> Result<ExitCode, anyhow::Error> {
    flags.launch.engine.tie_to_parent()?;
    // Before the control plane's own ring, which would only panic.
    Preflight::check(Role::Client)?;
    let metrics = flags
        .launch
        .engine
        .open_metrics(LabelValues::default(), None)?;
    let console = flags.launch.open_console()?;
    let comment = "holdfast-client worker; microseconds; tags: connect, lateness, latency, raw";
    let log = flags.launch.open_histogram_log(comment)?;
    tokio_uring::start(async { Worker::start(flags, console, metrics, log)?.serve().await })
}
