//! `holdfast-server`: protocols on the engine. This file is the table of its subcommands.
//!
//! Must not depend on: how a protocol works.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use holdfast_server::{http, longconn, relay};
use holdfast_sysctl::cli;
use holdfast_sysctl::cli_docs::CliDocs;

/// Serves very many TCP connections: holds them, answers HTTP on them, or relays them.
#[derive(Parser)]
#[command(
    name = "holdfast-server",
    version,
    about,
    after_help = "Exit codes: 0 ended by a signal, 2 usage or set-up error, 130 interrupted before it served.\n\n\
                  Signals: SIGTERM and SIGINT close connections gracefully; a second one aborts them. SIGUSR2 upgrades: it starts the \
                  program anew with the same options, which takes the listeners over when it serves, and this process ends with its \
                  connections. Sockets that systemd passes are served instead of the default ones."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Hold long connections and push a message to each at an interval
    Longconn(Box<longconn::Flags>),
    /// Answer every HTTP/1.1 request with the same response
    Http(Box<http::Flags>),
    /// Relay TCP connections to backends
    Relay(Box<relay::Flags>),
    #[command(flatten)]
    CliDocs(CliDocs),
}

fn main() -> ExitCode {
    match cli::parse::<Cli>().command {
        Command::Longconn(flags) => longconn::main(*flags),
        Command::Http(flags) => http::main(*flags),
        Command::Relay(flags) => relay::main(*flags),
        Command::CliDocs(command) => command.run::<Cli>(),
    }
}
