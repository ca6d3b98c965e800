//! The bench: the figures of both ends on one page.

use holdfast_report::http::record::HttpRun;
use holdfast_report::run::Run;

use crate::shown;
use crate::tmux::{Tmux, assert_fits};

fn record<R: serde::de::DeserializeOwned>(runs: &str) -> R {
    let text = std::fs::read_to_string(format!("{runs}/latest/run.json")).expect("a record");
    serde_json::from_str(&text).expect("of this schema")
}

#[test]
#[ignore = "needs tmux: make test"]
fn longconn_shows_both_ends_and_its_phases() {
    let terminal = Tmux::start("bench", 80, 24, &[]);
    let runs = terminal.file("runs");
    terminal.type_command(
        "holdfast-bench",
        &format!("longconn --live --users 500 --every 1s --hold 8s --warm off --runs {runs}"),
    );
    terminal.until_line(&["bench longconn 500 users", "start"]);
    terminal.until_line(&["bench longconn 500 users", "hold", "left"]);
    let screen = terminal.until_line(&["connections", "500 of 500 open"]);
    assert_fits(&screen, 80);
    for process in ["server", "client"] {
        let line = screen
            .iter()
            .find(|l| l.starts_with(process))
            .expect("both ends");
        assert!(
            line.contains("memory") && line.contains("a connection"),
            "{line}"
        );
    }
    let (opened, accepted) = (shown(&screen, "opened"), shown(&screen, "accepted"));
    terminal.until_line(&["counts", "client 500", "server 500"]);
    terminal.assert_restored();
    let run: Run = record(&runs);
    assert_eq!(
        (opened, accepted),
        (run.connections.opened, run.connections.server_accepted)
    );
    // Interrupted by the key, it ends in order.
    terminal.type_line("clear");
    terminal.type_command(
        "holdfast-bench",
        &format!("longconn --live --users 50 --every 1s --hold 60s --warm off --runs {runs}; echo code $?"),
    );
    terminal.until_line(&["connections", "50 of 50 open"]);
    terminal.key("q");
    terminal.until_line(&["code 130"]);
    terminal.assert_restored();
    let run: Run = record(&runs);
    assert_eq!(run.connections.opened, 50);
}

#[test]
#[ignore = "needs tmux: make test"]
fn http_shows_the_slice_and_the_client() {
    let terminal = Tmux::start("bench-http", 100, 30, &[]);
    let runs = terminal.file("runs");
    terminal.type_command(
        "holdfast-bench",
        &format!(
            "http --live --scenarios keepalive-64 --subjects holdfast --generators holdfast --rounds 1 --slice 6s --runs {runs}"
        ),
    );
    terminal.until_line(&["part", "1 of 1: round 1, keepalive-64 holdfast by holdfast"]);
    terminal.until_line(&["connections", "64 of 64 open"]);
    let screen = terminal.until_line(&["ok  ", "/s"]);
    assert_fits(&screen, 100);
    assert_eq!(shown(&screen, "failed"), 0);
    terminal.until_line(&["http: 1 slices"]);
    terminal.assert_restored();
    let run: HttpRun = record(&runs);
    assert_eq!(run.scenarios.len(), 1);
}
