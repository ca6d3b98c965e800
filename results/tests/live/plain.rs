//! Where no terminal can be drawn on: plain lines, or none.

use std::process::{Command, Output, Stdio};

use crate::common::{Server, program, until};
use crate::tmux::Tmux;

fn run(server: &Server, more: &[&str]) -> Output {
    Command::new(program("holdfast-client"))
        .args([
            "longconn",
            "--users",
            "20",
            "--every",
            "1s",
            "--run-time",
            "7s",
            "--target",
        ])
        .arg(server.address.to_string())
        .args(more)
        .stdin(Stdio::null())
        .output()
        .expect("runs")
}

#[test]
fn pipe_gets_occasional_plain_lines() {
    let server = Server::start(&["--every", "1s"]);
    let output = run(&server, &[]);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!said.contains(['\r', '\u{1b}']), "{said:?}");
    let lines: Vec<_> = said
        .lines()
        .filter(|l| l.contains("open 20 of 20"))
        .collect();
    assert!((1..=4).contains(&lines.len()), "not every second: {said}");
    assert!(
        lines[0].contains("hold") && lines[0].contains("failed 0"),
        "{said}"
    );
    let result = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(result.starts_with("users 20: opened 20"), "{result}");
}

#[test]
#[ignore = "needs tmux: make test"]
fn quiet_is_the_final_figures_and_nothing_else() {
    let server = Server::start(&["--every", "1s"]);
    let output = run(&server, &["--quiet"]);
    assert!(output.stderr.is_empty(), "{output:?}");
    assert!(
        output.stdout.starts_with(b"users 20: opened 20"),
        "{output:?}"
    );

    let terminal = Tmux::start("quiet", 80, 24, &[]);
    let out = terminal.file("out");
    terminal.type_line("clear");
    terminal.type_command(
        "holdfast-client",
        &format!(
            "longconn -q --target {} --users 20 --run-time 3s > {}",
            server.address, out
        ),
    );
    terminal.until_line(&["holdfast-client"]);
    until("the final figures", || {
        std::fs::metadata(&out).is_ok_and(|m| m.len() > 0)
    });
    let screen = terminal.until_prompt();
    let lines: Vec<_> = screen
        .iter()
        .filter(|l| !l.is_empty() && !l.contains("holdfast-client"))
        .collect();
    assert!(
        lines.len() <= 3 && !screen.concat().contains("open 20"),
        "{lines:?}"
    );
    terminal.assert_restored();
}

#[test]
#[ignore = "needs tmux: make test"]
fn dumb_terminal_gets_lines_and_no_page() {
    let server = Server::start(&["--every", "1s"]);
    let terminal = Tmux::start("dumb", 132, 40, &[("TERM", "dumb")]);
    let args = format!("--target {} --users 20 --run-time 7s", server.address);
    terminal.type_command("holdfast-client", &format!("longconn {args}"));
    terminal.until_line(&["hold", "open 20 of 20"]);
    terminal.assert_restored();
    terminal.type_command(
        "holdfast-client",
        &format!("longconn --live {args}; echo code $?"),
    );
    terminal.until_line(&["error: --live wants a terminal"]);
    terminal.until_line(&["code 2"]);
    let output = run(&server, &["--live"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty());
}
