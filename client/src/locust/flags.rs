//! The flags of `holdfast-client worker`.
//!
//! Must not depend on: what is done with them.

use clap::Args;

use super::user_class::UserClass;
use crate::launch::ClientFlags;
use holdfast_telemetry::units::parse;

/// What happens to users when the master is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnMasterLoss {
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
    pub(super) master: String,
    /// Register as COUNT workers: the master gives each an equal share of the users
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = parse::count_in::<u64>(1..=1_000))]
    pub(super) workers: u64,
    /// Run users of these classes
    #[arg(
        long,
        value_name = "CLASSES",
        value_enum,
        value_delimiter = ',',
        default_value = "LongConn,Http"
    )]
    pub(super) classes: Vec<UserClass>,
    /// Limit the users of each class [default: as many as memory and source addresses allow]
    #[arg(long, value_name = "COUNT", value_parser = parse::count_in::<u64>(1..=1_000_000_000))]
    pub(super) users_max: Option<u64>,
    /// Choose what users do when the master has sent nothing for five seconds
    #[arg(long, value_enum, default_value = "continue")]
    pub(super) on_master_loss: OnMasterLoss,
    /// Set the node id of the first worker, which is replaced if the master does not answer it
    #[arg(long, value_name = "ID", hide = true)]
    pub(super) identity: Option<String>,
    #[command(flatten)]
    pub(super) launch: ClientFlags,
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
