//! What all four programs promise on the command line: exit codes are those that `--help` lists,
//! and every piece of advice works when it is typed.
//!
//! Invariants: no test needs root, a network or a tool of others. A program that does not end by
//! itself is ended.
#![forbid(unsafe_code)]

mod advice;
mod exit_codes;
mod hints;
mod quantities;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What follows `holdfast-` in the names of the programs.
const PROGRAMS: [&str; 4] = ["server", "client", "bench", "tune"];

/// A program of ours, where the tests' own is.
fn program(name: &str) -> PathBuf {
    let bench = Path::new(env!("CARGO_BIN_EXE_holdfast-bench"));
    let path = bench.with_file_name(format!("holdfast-{name}"));
    let missing = "is not built; next: cargo build --workspace";
    assert!(path.is_file(), "{} {missing}", path.display());
    path
}

/// Runs a command line such as `server longconn --listen x` in a folder where it may write; it is
/// ended after ten seconds.
fn run(line: &[&str]) -> Output {
    run_within("10", line)
}

fn run_within(seconds: &str, line: &[&str]) -> Output {
    let folder = std::env::temp_dir();
    Command::new("timeout")
        .args(["--kill-after=5", seconds])
        .arg(program(line[0]))
        .args(&line[1..])
        .current_dir(folder)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("timeout runs")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The text of `--help`.
fn help(line: &[&str]) -> String {
    let output = run(&[line, &["--help"]].concat());
    assert!(output.status.success(), "{line:?}: {}", errors(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// The subcommands that a `--help` lists.
fn subcommands(help: &str) -> BTreeSet<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    // A description that goes on is indented further.
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}
