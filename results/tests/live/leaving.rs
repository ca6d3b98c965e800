//! However a program ends or is suspended: the terminal is as it was before.

use holdfast_telemetry::wire::ClientReport;

use crate::common::{Folder, Server, sum, until};
use crate::tmux::{Tmux, has_line};

/// A page of ten users in a new terminal.
fn page(server: &Server, terminal: &Tmux, more: &str) {
    terminal.type_command(
        "holdfast-client",
        &format!(
            "longconn --live --target {} --users 10 --every 1s {more}",
            server.address
        ),
    );
    terminal.until_line(&["connections", "10 of 10 open"]);
}

#[test]
#[ignore = "needs tmux: make test"]
fn every_end_gives_the_terminal_back() {
    let server = Server::start(&["--every", "1s"]);
    let terminal = Tmux::start("ends", 80, 24, &[]);
    for key in ["q", "C-c", "C-\\"] {
        page(&server, &terminal, "");
        terminal.key(key);
        let screen = terminal.until_line(&["users 10: opened 10"]);
        assert!(
            !has_line(&screen, &["connections"]),
            "{}",
            screen.join("\n")
        );
        terminal.assert_restored();
        terminal.type_line("clear");
        terminal.until_prompt();
    }
    // By time, and by signal.
    page(&server, &terminal, "--run-time 3s");
    terminal.until_line(&["users 10: opened 10"]);
    terminal.assert_restored();
    for signal in ["TERM", "HUP", "QUIT"] {
        terminal.type_line("clear");
        terminal.until_prompt();
        page(&server, &terminal, "");
        terminal.signal("holdfast-client", signal);
        terminal.until_line(&["users 10: opened 10"]);
        terminal.assert_restored();
    }
}

#[test]
#[ignore = "needs tmux: make test"]
fn error_restores_the_terminal() {
    let server = Server::start(&["--every", "1s"]);
    let terminal = Tmux::start("errors", 80, 24, &[]);
    page(&server, &terminal, "");
    // The server goes, all are lost, the client falls short.
    drop(server);
    let screen = terminal.until_line(&["users 10: opened 10"]);
    assert!(has_line(&screen, &["ended", "10"]), "{}", screen.join("\n"));
    terminal.assert_restored();
    // A file that cannot be written is told below what was there before.
    terminal.type_command(
        "holdfast-client",
        "longconn --live --target 127.0.0.1:1 --users 1 --json /nowhere/x",
    );
    terminal.until_line(&["error: cannot write /nowhere/x"]);
    terminal.assert_restored();
}

#[test]
#[ignore = "needs tmux: make test"]
fn suspended_program_restores_the_terminal_and_resumes() {
    let server = Server::start(&["--every", "1s"]);
    let terminal = Tmux::start("suspend", 80, 24, &[]);
    page(&server, &terminal, "");
    terminal.key("C-z");
    terminal.until_line(&["Stopped"]);
    terminal.assert_restored();
    terminal.type_line("fg");
    terminal.until_line(&["connections", "10 of 10 open"]);
    // In the background it runs on, and draws nothing.
    terminal.key("C-z");
    terminal.until_line(&["Stopped"]);
    terminal.type_line("clear; bg");
    terminal.until_prompt();
    let received = server.running.fresh().messages_sent;
    server
        .running
        .until("more messages", |r| r.messages_sent > received + 30);
    assert!(!has_line(&terminal.until_prompt(), &["connections"]));
    terminal.type_line("jobs");
    terminal.until_line(&["[1]+", "Running"]);
    terminal.assert_restored();
    terminal.type_line("fg");
    terminal.until_line(&["connections", "10 of 10 open"]);
    terminal.key("q");
    terminal.assert_restored();
}

#[test]
#[ignore = "needs tmux: make test"]
fn paused_terminal_does_not_block_the_run() {
    let server = Server::start(&["--every", "1s"]);
    let terminal = Tmux::start("held", 80, 24, &[]);
    let file = terminal.file("client.json");
    terminal.type_command(
        "holdfast-client",
        &format!(
            "longconn --target {} --users 10 --every 1s --run-time 6s --json {file}",
            server.address
        ),
    );
    terminal.until_line(&["open 10 of 10"]);
    terminal.key("C-s");
    // The run goes its way while nothing can be drawn: all users leave when it is time.
    server
        .running
        .until("all have left", |r| r.accepted == 10 && r.open_now == 0);
    terminal.key("C-q");
    until("the final figures", || {
        std::fs::metadata(&file).is_ok_and(|m| m.len() > 0)
    });
    terminal.until_line(&["users 10: opened 10"]);
    terminal.assert_restored();
}

#[test]
#[ignore = "needs tmux: make test"]
fn server_restores_the_terminal_on_sigterm() {
    let terminal = Tmux::start("server-ends", 80, 24, &[]);
    terminal.type_command("holdfast-server", "http --live --listen 127.0.0.1:0");
    terminal.until_line(&["server http", "listening"]);
    terminal.signal("holdfast-server", "TERM");
    terminal.until_line(&["responses 0, connections accepted 0"]);
    terminal.assert_restored();
}

#[test]
#[ignore = "needs tmux: make test"]
fn closed_terminal_stops_the_run_gracefully() {
    let server = Server::start(&["--every", "1s"]);
    let folder = Folder::new("closed");
    let file = folder.file("client.json");
    let terminal = Tmux::start("closing", 80, 24, &[]);
    page(&server, &terminal, &format!("--json {file}"));
    drop(terminal);
    until("the final figures", || {
        std::fs::metadata(&file).is_ok_and(|m| m.len() > 0)
    });
    let last: ClientReport =
        serde_json::from_str(&std::fs::read_to_string(&file).expect("there")).expect("a report");
    assert!(last.is_final && sum(&last.ended) == 10, "{last:?}");
}
