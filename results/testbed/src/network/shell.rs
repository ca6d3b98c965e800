//! `holdfast-bench lab`: the network to look at, or to run something in.
//!
//! Invariants: with a command nothing is printed but what the command prints, and its exit code is
//! ours. Without one a shell opens, and the lab ends with it.
//! Must not depend on: how the network is made.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use super::Network;
use super::layout::Layout;
use crate::programs::{bin_dir_or_own, find};
use crate::sandbox::{self, Entered, Inside};

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_telemetry::output;

/// Connections the hosts' settings are scaled to, unless somebody says otherwise.
const USERS_DEFAULT: u64 = 1_000_000;

/// The flags of the network, for all who run something in it.
#[derive(Debug, Clone, Args)]
pub struct NetworkFlags {
    /// Client hosts in the lab
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = holdfast_units::parse::count_in::<u8>(0..=255))]
    pub clients: u8,

    /// Addresses of each client host
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = holdfast_units::parse::count_in::<u8>(0..=255))]
    pub addresses: u8,
}

/// The flags of `holdfast-bench lab`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: the command's, or the shell's; 2 not started.\n\n\
        In the lab every host is a namespace: ip netns exec client1 holdfast-client longconn --target backend:7070 ...\n\
        Names of hosts are also names for addresses. All of it ends with the shell or command, however that ends."
)]
pub struct Flags {
    #[command(flatten)]
    lab: NetworkFlags,

    /// Connections to scale kernel settings and connection tables to
    #[arg(long, short = 'u', value_name = "COUNT", default_value_t = USERS_DEFAULT, value_parser = holdfast_units::parse::count)]
    users: u64,

    /// Command to run in the lab, in the bridge's namespace [default: check the network, show it
    /// and open a shell]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Makes the lab and runs the command or a shell in it; its exit code.
///
/// # Errors
/// When the lab cannot be made, or the command not be started.
pub fn open(flags: &Flags) -> Result<u8, SetupError> {
    let layout = Layout::new(flags.lab.clients, flags.lab.addresses)?;
    let inside = match sandbox::enter(false)? {
        Entered::Done(code) => return Ok(code),
        Entered::Inside(inside) => inside,
    };
    let network = Network::build(layout, flags.users)?;
    let (program, args) = match flags.command.split_first() {
        Some((program, args)) => (find_or_given(program), args),
        None => {
            let calls = network.check()?;
            let printed = output::print(page(&network, &inside, calls).as_bytes());
            printed.unwrap_or_else(output::log);
            (shell(), &[][..])
        }
    };
    // Our own programs are found by their names.
    let own = bin_dir_or_own(None);
    let before = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&before)));
    let mut command = Command::new(&program);
    command.args(args).env("PATH", path.unwrap_or(before));
    let Err::<Infallible, _>(e) = Err(command.exec());
    Err(SetupError::new(
        SetupErrorKind::NotFound,
        format!("{} cannot be started: {e}", program.display()),
        "holdfast-bench lab -- ip netns list",
    ))
}

/// A word with a slash is a path; another is looked for as a shell would.
fn find_or_given(program: &str) -> PathBuf {
    if program.contains('/') {
        return program.into();
    }
    find(program).unwrap_or_else(|| program.into())
}

fn shell() -> PathBuf {
    std::env::var_os("SHELL").map_or_else(|| "/bin/sh".into(), PathBuf::from)
}

/// What a visitor reads first.
fn page(network: &Network, inside: &Inside, calls: usize) -> String {
    let door = inside.door();
    format!(
        "\nThe lab, inside this shell only ({calls} calls between its hosts were answered):\n\n{}\n\
         \x20 a command on a host      ip netns exec client1 COMMAND\n\
         \x20 from another terminal    {door} -- bash\n\
         \x20                          {door} -- ip netns exec client1 bash\n\
         \x20 the end of all of it     exit\n\n",
        network.layout.picture()
    )
}
