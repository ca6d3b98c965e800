//! What people see while server, client and bench run: the real programs, in a real terminal and on
//! pipes.
#![forbid(unsafe_code)]

#[path = "../../../server/tests/common/mod.rs"]
mod common;

mod bench;
mod forms;
mod leaving;
mod plain;
mod tmux;

/// The program this package makes.
const OWN_PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-bench");

/// The number behind a name on a page: `opened` of `opened   2,000   0/s`.
#[track_caller]
fn shown(screen: &[String], name: &str) -> u64 {
    let line = screen.iter().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{}", screen.join("\n")));
    let number = line[name.len()..].split_whitespace().next();
    number
        .and_then(|n| n.replace(',', "").parse().ok())
        .unwrap_or_else(|| panic!("no number: {line}"))
}
