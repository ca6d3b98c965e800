//! What a system gets of Holdfast besides programs: completions, manual pages, an installation that
//! goes without a trace, systemd units. The Debian package is checked by `make deb-check`: it wants
//! a release build.
#![forbid(unsafe_code)]

#[path = "../common/mod.rs"]
mod common;

mod completions;
mod install;
mod manual;
mod units;

/// The program this package makes.
const OWN_PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-server");

use std::process::Command;

use common::{Folder, program};

const PROGRAMS: [&str; 4] = [
    "holdfast-server",
    "holdfast-client",
    "holdfast-bench",
    "holdfast-tune",
];

/// What a command prints, which must end well.
#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; next: make need"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// The subcommands a `--help` lists.
fn subcommands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| line.starts_with(' '));
    // What stands further to the right continues a line.
    let names = lines.filter(|line| !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// A program's own and each subcommand's `--help`, with the words that lead there.
fn helps(name: &str) -> Vec<(Vec<String>, String)> {
    let help = |words: &[String]| {
        output(
            Command::new(program(name))
                .args(words)
                .arg("--help")
                .env("COLUMNS", "200"),
        )
    };
    let own = help(&[]);
    let named = subcommands(&own).into_iter().map(|name| vec![name]);
    let below: Vec<_> = named.map(|words| (words.clone(), help(&words))).collect();
    assert!(below.len() > 2, "{own}");
    [(Vec::new(), own)].into_iter().chain(below).collect()
}

/// The flags a `--help` explains.
fn flags(help: &str) -> Vec<String> {
    let lines = help
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'));
    let flags = lines.filter_map(|line| line.split([' ', ',']).find(|word| word.starts_with("--")));
    let flags: Vec<_> = flags.map(str::to_owned).collect();
    assert!(flags.contains(&"--help".to_owned()), "{help}");
    flags
}

/// `make` in the root of the workspace, the programs of this test run's folder at hand.
fn make(target: &str, variables: &[String]) -> Command {
    let programs = program("holdfast-server")
        .parent()
        .expect("a folder")
        .to_owned();
    for name in PROGRAMS {
        assert!(program(name).exists());
    }
    let mut make = Command::new("make");
    make.args([
        "--no-print-directory",
        "-C",
        concat!(env!("CARGO_MANIFEST_DIR"), "/.."),
        target,
    ])
    .arg(format!("BIN_DIR={}", programs.display()))
    .args(variables)
    // This may run below a make of its own.
    .env_remove("MAKEFLAGS")
    .env_remove("MAKELEVEL");
    make
}

/// Everything installed below a folder, as if that were where the system looks.
fn installed(name: &str) -> Folder {
    let folder = Folder::new(name);
    let at = folder.0.display();
    output(&mut make(
        "install",
        &[format!("PREFIX={at}"), format!("SYSCONF_DIR={at}/etc")],
    ));
    folder
}
