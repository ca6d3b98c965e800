//! `holdfast-client worker`: users for a Locust master. Its flags.
//!
//! ```text
//!   mod ─► process ─┬─► worker, one for each part of the process, ─► link ─► zmtp        the master's side
//!                   │   told, message
//!                   └─► fleet ─► crew, one for each user class, ─► engine                the users' side
//!                       lookup, stats, options, journal
//! ```
//!
//! Must not know: what a master says.

mod class;
mod clock;
mod crew;
mod fleet;
mod journal;
mod link;
mod lookup;
pub mod message;
mod options;
mod pace;
mod process;
mod rows;
mod share;
mod stats;
mod told;
mod vitals;
mod worker;
pub mod zmtp;

use std::process::ExitCode;

use clap::Args;
use holdfast_telemetry::metrics::LabelValues;

use crate::launch::ClientFlags;
use class::Class;
use holdfast_supervisor::run_command;
use process::Process;

/// What becomes of the users when the master is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnMasterLoss {
    /// They go on, until a master orders something else.
    Continue,
    /// They end.
    Stop,
}

/// Flags of `holdfast-client worker`.
#[derive(Args)]
pub struct Flags {
    /// Locust's master
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5557", value_parser = parse_master)]
    master: String,
    /// Workers this process is to the master: its share of the users is so many times that of one
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    workers: u16,
    /// User classes this process has
    #[arg(
        long,
        value_name = "CLASSES",
        value_enum,
        value_delimiter = ',',
        default_value = "LongConn,Http"
    )]
    classes: Vec<Class>,
    /// Most users of each class [default: what memory and source addresses hold]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    users_max: Option<u64>,
    /// What becomes of the users when the master has been silent for five seconds
    #[arg(long, value_enum, default_value = "continue")]
    on_master_loss: OnMasterLoss,
    /// Node id of the first worker, until the master refuses it
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
    tokio_uring::start(async { Process::start(flags, console, metrics, log)?.serve().await })
}
