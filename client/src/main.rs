//! `holdfast-client`: protocols on the engine. This file is the table of its subcommands.
//!
//! Must not know: how a protocol works.
#![forbid(unsafe_code)]

mod longconn;
mod source;
mod target;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Opens very many TCP connections, and tells what became of each.
#[derive(Parser)]
#[command(name = "holdfast-client", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Open long connections from many source addresses, and check what they receive
    Longconn(longconn::Flags),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Longconn(flags) => longconn::main(flags),
    }
}
