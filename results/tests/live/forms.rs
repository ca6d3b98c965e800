//! The page and the line: at all sizes, while the size changes, with the numbers of the final
//! reports.

use std::time::Duration;

use holdfast_telemetry::wire::{ClientReport, ServerReport};
use nix::sys::signal::Signal;

use crate::common::{Server, ServerOf, client, count, sum};
use crate::shown;
use crate::tmux::{Codes, Tmux, assert_fits, has_line};

const KEYS: &str = " l: one line   q, Ctrl-C: end in order";

fn report<R: serde::de::DeserializeOwned>(file: &str) -> R {
    let text = std::fs::read_to_string(file).expect("a final report");
    serde_json::from_str(&text).expect("of this schema")
}

/// A page fills the terminal: its title above, its keys below, no line too long.
#[track_caller]
fn assert_page(screen: &[String], title: &str, columns: usize, rows: usize) {
    assert!(screen[0].starts_with(title), "{}", screen.join("\n"));
    assert_eq!(screen.get(rows - 1).map(String::as_str), Some(KEYS));
    assert_fits(screen, columns);
}

#[test]
#[ignore = "needs tmux: make test"]
fn the_page_has_the_clients_numbers_at_every_size() {
    let server = Server::start(&["--every", "1s"]);
    let terminal = Tmux::start("page", 80, 24, &[]);
    let file = terminal.file("client.json");
    terminal.type_command(
        "holdfast-client",
        &format!(
            "longconn --live --target {} --users 2000 --spawn-rate 1000 --every 1s --json {file}",
            server.address
        ),
    );
    let ramp = terminal.until_line(&["of 2,000 open"]);
    assert_page(&ramp, "client longconn 127.0.0.1:", 80, 24);
    let all_open = ["connections", "2,000 of 2,000 open", "100%"];
    terminal.until_line(&all_open);
    for (columns, rows) in [(80, 24), (200, 60), (40, 10), (120, 31), (80, 24)] {
        terminal.resize(columns, rows);
        let is_whole = |screen: &[String]| {
            screen.get(usize::from(rows) - 1).is_some_and(|l| l == KEYS)
                && has_line(screen, &all_open[..2])
        };
        let screen = terminal.until(&format!("the page at {columns}x{rows}"), is_whole);
        assert_page(&screen, "client longconn 127.", columns.into(), rows.into());
        assert_eq!(shown(&screen, "opened"), 2_000);
        if rows >= 24 {
            for name in [
                "lateness",
                "ours",
                "machine",
                "cores",
                "sockets",
                "open",
                "messages/s",
            ] {
                assert!(
                    screen.iter().any(|l| l.starts_with(name)),
                    "{name}:\n{}",
                    screen.join("\n")
                );
            }
            assert!(has_line(
                &screen,
                &["lateness", "p50", "p99", "of the last second"]
            ));
            assert!(has_line(&screen, &["messages", "of 2,000/s asked"]));
        }
    }
    // Too small for a page: the line, and the page again when there is room.
    terminal.resize(60, 6);
    terminal.until("the line", |screen| {
        !has_line(screen, &[KEYS]) && has_line(screen, &["hold", "open 2,000 of 2,000", "failed 0"])
    });
    terminal.resize(80, 24);
    let screen = terminal.until_line(&[KEYS]);
    let messages = shown(&screen, "messages");
    terminal.key("q");
    let after = terminal.until_prompt();
    assert!(
        has_line(&after, &["users 2,000: opened 2,000"]),
        "{}",
        after.join("\n")
    );
    terminal.assert_restored();
    let last: ClientReport = report(&file);
    assert_eq!((last.opened, sum(&last.failed)), (2_000, 0));
    assert_eq!(count(&last.ended, "held"), 2_000);
    assert!(
        (1..=last.messages_received).contains(&messages),
        "{messages} of {last:?}"
    );
}

#[test]
#[ignore = "needs tmux: make test"]
fn the_page_has_the_servers_numbers_and_failures_by_kind() {
    let terminal = Tmux::start("server", 100, 30, &[]);
    let file = terminal.file("server.json");
    terminal.type_command(
        "holdfast-server",
        &format!("longconn --live --listen 127.0.0.1:0 --connections 300 --every 1s --json {file}"),
    );
    let screen = terminal.until_line(&["server longconn 127.0.0.1:", "listening"]);
    let title = screen[0].split_whitespace().nth(2).expect("an address");
    let address = title.parse().expect("an address");
    let users = client(address, &["--users", "350", "--every", "1s"]);
    users.until("all tried", |r| r.ramp_done && count(&r.ended, "held") == 0);
    terminal.until_line(&["connections", "300 of 300 open"]);
    let screen = terminal.until_line(&["not accepted", "50", "refused_full 50"]);
    assert_eq!(
        (shown(&screen, "accepted"), shown(&screen, "not accepted")),
        (300, 50)
    );
    let lost = users.stop().last();
    assert_eq!(
        sum(&lost.ended) - count(&lost.ended, "held") + sum(&lost.failed),
        50,
        "{lost:?}"
    );
    let screen = terminal.until_line(&["connections  0 of 300 open"]);
    let ended = shown(&screen, "ended");
    terminal.key("C-c");
    terminal.assert_restored();
    let last: ServerReport = report(&file);
    assert_eq!((last.accepted, last.refused_full), (300, 50));
    assert_eq!(sum(&last.closed), ended);
}

#[test]
#[ignore = "needs tmux: make test"]
fn failures_show_by_kind_at_the_client_too() {
    let server = Server::start(&["--every", "1s", "--connections", "100"]);
    let terminal = Tmux::start("failures", 80, 24, &[]);
    let file = terminal.file("client.json");
    terminal.type_command(
        "holdfast-client",
        &format!(
            "longconn --live --target {} --users 120 --json {file}",
            server.address
        ),
    );
    terminal.until_line(&["connections", "100 of 120 open"]);
    let screen = terminal.until("all tried", |screen| {
        shown(screen, "failed") + shown(screen, "lost") == 20
    });
    let (failed, lost) = (shown(&screen, "failed"), shown(&screen, "lost"));
    terminal.key("q");
    terminal.until_prompt();
    let last: ClientReport = report(&file);
    assert_eq!(failed, sum(&last.failed));
    assert_eq!(lost, last.opened - count(&last.ended, "held"));
    assert_eq!(failed + lost, 20);
    for (kind, n) in last
        .failed
        .iter()
        .chain(&last.ended)
        .filter(|(k, _)| *k != "held")
    {
        assert!(
            has_line(&screen, &[&format!("{kind} {n}")]),
            "{kind}:\n{}",
            screen.join("\n")
        );
    }
}

#[test]
#[ignore = "needs tmux: make test"]
fn status_line_never_wraps_and_is_erased() {
    let server = Server::start(&["--every", "1s"]);
    let terminal = Tmux::start("line", 200, 24, &[]);
    terminal.type_command(
        "holdfast-client",
        &format!(
            "longconn --target {} --users 500 --every 1s --json {}",
            server.address,
            terminal.file("j")
        ),
    );
    terminal.until_line(&[
        "hold",
        "open 500 of 500",
        "failed 0",
        "messages",
        "/conn",
        "cpu",
        "l: all",
    ]);
    for columns in [120, 40, 30, 90, 12, 200] {
        terminal.resize(columns, 24);
        let open: &[&str] = if columns > 30 {
            &["hold", "open 500 of 500"]
        } else {
            &["hold"]
        };
        let is_it = |screen: &[String]| {
            let lines: Vec<_> = screen.iter().filter(|l| l.contains(" hold")).collect();
            has_line(screen, open) && lines.iter().all(|l| l.chars().count() < columns.into())
        };
        let screen = terminal.until(&format!("a line of {columns} columns"), is_it);
        let lines = screen.iter().filter(|line| line.contains(" hold"));
        assert_eq!(
            lines.count(),
            1,
            "nothing of another line is left:\n{}",
            screen.join("\n")
        );
        assert!(!screen.concat().contains('\u{1b}'));
    }
    // Lines are drawn while the terminal gets narrower, too.
    for i in 0..30 {
        terminal.resize(if i % 2 == 0 { 14 } else { 150 }, 24);
        std::thread::sleep(Duration::from_millis(70));
    }
    terminal.until("one line", |screen| {
        screen.iter().filter(|line| line.contains(" hold")).count() == 1
    });
    terminal.key("l");
    terminal.until_line(&["connections", "500 of 500 open"]);
    terminal.key("l");
    terminal.until_line(&["hold", "open 500 of 500", "failed 0"]);
    // In the line, q is a letter like others.
    terminal.key("q");
    terminal.key("l");
    terminal.until_line(&["connections", "500 of 500 open"]);
    server.running.signal(Signal::SIGTERM);
    terminal.assert_restored();
}

#[test]
#[ignore = "needs tmux: make test"]
fn no_color_and_ascii_are_respected() {
    let server = Server::start(&["--every", "1s"]);
    let page = |name, variables: &[(&str, &str)]| {
        let terminal = Tmux::start(name, 80, 24, variables);
        terminal.type_command(
            "holdfast-client",
            &format!(
                "longconn --live --target {} --users 50 --every 1s",
                server.address
            ),
        );
        terminal.until_line(&["connections", "50 of 50 open"]);
        terminal.until_line(&["messages/s"]);
        let screen = terminal.screen(Codes::Kept);
        terminal.key("q");
        terminal.assert_restored();
        screen
    };
    // A colour is any of 30 to 49 or 90 to 107, alone or among other attributes.
    let has_colour = |screen: &[String]| {
        let text = screen.concat();
        let codes = text
            .split("\u{1b}[")
            .skip(1)
            .filter_map(|s| s.split_once('m'));
        codes
            .flat_map(|(code, _)| code.split(';').map(str::parse::<u32>))
            .any(|n| matches!(n, Ok(30..=38 | 40..=48 | 90..=107)))
    };
    assert!(has_colour(&page("colour", &[])));
    let plain = page("plain", &[("NO_COLOR", "1"), ("LC_ALL", "C")]);
    assert!(!has_colour(&plain), "{plain:?}");
    assert!(plain.concat().is_ascii(), "{}", plain.join("\n"));
    assert!(plain.concat().contains('#'));
}

#[test]
#[ignore = "needs tmux: make test"]
fn http_ends_have_their_pages_too() {
    let server = ServerOf::<holdfast_telemetry::wire::HttpServerReport>::start(&[]);
    let terminal = Tmux::start("http", 80, 24, &[]);
    let file = terminal.file("client.json");
    terminal.type_command(
        "holdfast-client",
        &format!(
            "http --live --target http://{}/ --users 20 --rate 400 -n 2000 --json {file}",
            server.address
        ),
    );
    let screen = terminal.until_line(&["ok", "of 400/s asked"]);
    assert_page(&screen, "client http 127.0.0.1:", 80, 24);
    assert!(has_line(&screen, &["part", "of 2,000 requests"]));
    terminal.until_line(&["latency", "p50", "p99", "of the last second"]);
    terminal.assert_restored();
    let last: holdfast_telemetry::wire::HttpClientReport = report(&file);
    assert_eq!(count(&last.outcomes, "ok"), 2_000);
}
