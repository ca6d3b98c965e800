//! `holdfast-client worker`: users for a Locust master. The flags of the subcommand.
//!
//! ```text
//!   worker: the event loop ─┬─► session, one per worker: registration, heartbeats ─► link ─► zmtp      the master's side
//!                           │   message, reporting, master_clock
//!                           └─► runner: a user_pool per class, with ramp ─► engine                     the users' side
//!                               options, lookup, rows, stats, worker_log
//! ```
//!
//! A spawn request arrives on the link, is decoded by [`message`], and changes the session's wanted users. The event loop adds up all
//! sessions and calls `Runner::set_target_users`, which calls `UserPool::set_target_users` for each class; that draws a line with
//! `RampSmoother::set_target`, and the load that the core threads follow.
//!
//! Must not depend on: the contents of messages.

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

use clap::Args;
use holdfast_telemetry::metrics::LabelValues;

use crate::launch::ClientFlags;
use holdfast_supervisor::run_command;
use user_class::UserClass;
use worker::Worker;

/// What happens to users when the master is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnMasterLoss {
    /// They go on until a master changes their number
    Continue,
    /// They stop
    Stop,
}

/// Flags of `holdfast-client worker`.
#[derive(Args)]
pub struct Flags {
    /// Connect to Locust's master at this address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5557", value_parser = parse_master)]
    master: String,
    /// Register as COUNT workers: the master gives each an equal share of the users
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    workers: u16,
    /// Run users of these classes
    #[arg(
        long,
        value_name = "CLASSES",
        value_enum,
        value_delimiter = ',',
        default_value = "LongConn,Http"
    )]
    classes: Vec<UserClass>,
    /// Limit the users of each class [default: as many as memory and source addresses allow]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    users_max: Option<u64>,
    /// Choose what users do when the master has sent nothing for five seconds
    #[arg(long, value_enum, default_value = "continue")]
    on_master_loss: OnMasterLoss,
    /// Set the node id of the first worker, which is replaced if the master does not answer it
    #[arg(long, value_name = "ID", hide = true)]
    identity: Option<String>,
    #[command(flatten)]
    launch: ClientFlags,
}

fn parse_master(text: &str) -> Result<String, String> {
    let (text, _) = text
        .strip_prefix("tcp://")
        .unwrap_or(text)
        .split_once('/')
        .unwrap_or((text, ""));
    let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(1..)) => Ok(text.to_owned()),
        _ => Err(
            "not HOST:PORT; next: give the address the master binds, such as 192.0.2.1:5557"
                .to_owned(),
        ),
    }
}

/// Runs the subcommand.
pub fn main(flags: Flags) -> ExitCode {
    run_command(|| run(flags))
}

fn run(flags: Flags) -> Result<ExitCode, anyhow::Error> {
    flags.launch.engine.tie_to_parent()?;
    let metrics = flags.launch.engine.open_metrics(LabelValues::default())?;
    let console = flags.launch.open_console()?;
    let comment = "holdfast-client worker; microseconds; tags: connect, lateness, latency, raw";
    let log = flags.launch.open_histogram_log(comment)?;
    tokio_uring::start(async { Worker::start(flags, console, metrics, log)?.serve().await })
}
