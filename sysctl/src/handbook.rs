//! What a program tells shells and `man` about itself, from its own table of flags.
//!
//! Invariants: both are written whole from that table, so a flag cannot be missing. An error is one line and exit code 2.
//! Must not know: which program asks.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, CommandFactory, Subcommand};
use clap_complete::Shell;

/// The subcommands every program has.
#[derive(Debug, Subcommand)]
pub enum Handbook {
    /// Print completions for a shell; for bash: source <(PROGRAM completions bash)
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder, made if it is not there
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

impl Handbook {
    /// Does what was asked of the program `P`.
    pub fn main<P: CommandFactory>(&self) -> ExitCode {
        let done = match self {
            Handbook::Completions { shell } => {
                // A reader that has seen enough is no error.
                let _ = std::io::stdout().write_all(&completions(P::command(), *shell));
                Ok(())
            }
            Handbook::Man { folder } => write_pages(P::command(), folder),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(2)
            }
        }
    }
}

/// The script of a shell.
fn completions(mut command: Command, shell: Shell) -> Vec<u8> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}

/// A page for the program and one for each of its subcommands.
fn write_pages(command: Command, folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command, folder))
        .map_err(|e| {
            format!(
                "cannot write manual pages into {} ({e}); next: name a folder that can be written",
                folder.display()
            )
        })
}
