//! `holdfast-client`: protocols on the engine. This file is the table of its subcommands.
//!
//! Must not depend on: how a protocol works.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use holdfast_client::{http, locust, longconn};
use holdfast_sysctl::cli;
use holdfast_sysctl::cli_docs::CliDocs;

/// Opens very many TCP connections, and tells what became of each.
#[derive(Parser)]
#[command(
    name = "holdfast-client",
    version,
    about,
    after_help = "Exit codes: 0 everything was as expected, 1 something fell short (the final figures say what), 2 usage or set-up error."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Open long connections from many source addresses, and check what they receive
    Longconn(Box<longconn::Flags>),
    /// Ask an HTTP/1.1 server over many connections, check the answers, and time them
    Http(Box<http::Flags>),
    /// Run the users that a Locust master asks for, of both kinds, with its host and arguments
    Worker(Box<locust::Flags>),
    #[command(flatten)]
    CliDocs(CliDocs),
}

fn main() -> ExitCode {
    match cli::parse::<Cli>().command {
        Command::Longconn(flags) => longconn::main(*flags),
        Command::Http(flags) => http::main(*flags),
        Command::Worker(flags) => locust::main(*flags),
        Command::CliDocs(command) => command.run::<Cli>(),
    }
}
