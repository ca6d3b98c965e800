//! Shell completions and manual pages, generated from a program's own command line definition.
//!
//! Invariants: both are generated whole, so no flag can be missing. An error is one line and exit
//! code 2.
//! Must not depend on: any particular program.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, CommandFactory, Subcommand};
use clap_complete::Shell;

use crate::cli;

/// The subcommands every program has.
#[derive(Debug, Subcommand)]
pub enum CliDocs {
    /// Print completions for a shell; for bash: source <(PROGRAM completions bash)
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder, created if it does not exist
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

impl CliDocs {
    /// Runs the subcommand for the program whose command line is `P`.
    pub fn run<P: CommandFactory>(&self) -> ExitCode {
        let result = match self {
            CliDocs::Completions { shell } => cli::print(&completions(P::command(), *shell)),
            CliDocs::Man { folder } => write_man_pages(P::command(), folder),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Stderr may be closed as well: nothing is left to report to.
                let _ = writeln!(std::io::stderr(), "error: {error}");
                ExitCode::from(2)
            }
        }
    }
}

/// The completion script for a shell.
fn completions(mut command: Command, shell: Shell) -> Vec<u8> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}

/// One page for the program and one for each of its subcommands.
fn write_man_pages(command: Command, folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command, folder))
        .map_err(|e| {
            format!(
                "cannot write manual pages into {} ({e}); next: name a folder that can be written",
                folder.display()
            )
        })
}
