//! Faults around a running client: its log cannot be written, somebody sits on its ports, its
//! descriptors run out. At full size and in the network: `make faults`, engine/RELIABILITY.md.

use std::net::TcpListener;

use crate::common::{Server, client, count, kept, own_address, sum};

#[test]
fn unwritable_histogram_log_is_reported_and_loses_no_user() {
    let server = Server::start(&["--every", "100ms"]);
    let source = own_address().to_string();
    let args = ["--users", "50", "--every", "100ms", "--run-time", "3s"];
    let more = ["--source", &source, "--histogram-log", "/dev/full"];
    let outcome = client(server.address, &[&args[..], &more].concat()).outcome();
    let last = outcome.last();
    assert!(last.is_final, "{last:?}");
    assert_eq!((last.opened, kept(&last.ended)), (50, 50), "{last:?}");
    assert_eq!(outcome.code(), Some(2), "{}", outcome.errors);
    assert!(
        outcome.errors.contains("histogram log") && outcome.errors.contains("next: free space"),
        "{}",
        outcome.errors
    );
    server.until_open(0);
}

#[test]
fn ports_in_use_are_skipped_and_exhaustion_is_reported() {
    let server = Server::start(&["--every", "0s"]);
    let source = own_address();
    let squatters: Vec<TcpListener> = (21_000..21_050)
        .map(|port| TcpListener::bind((source, port)).expect("free"))
        .collect();
    let source = source.to_string();
    let args = ["--source", &source, "--ports", "21000-21299"];
    let users = client(server.address, &[&["--users", "250"], &args[..]].concat());
    let last = users.until("all open", |r| r.open_now == 250);
    // Each thread tries each of its taken ports at least once, and no user is lost to them.
    assert!(count(&last.anomalies, "address_in_use") >= 1, "{last:?}");
    assert_eq!(users.stop().code(), Some(0));
    server.until_open(0);

    let users = client(server.address, &[&["--users", "300"], &args[..]].concat());
    users.until("all tried", |r| r.ramp_done);
    let outcome = users.stop();
    let last = outcome.last();
    assert_eq!(
        (
            last.attempts,
            last.opened,
            count(&last.failed, "no_address_left")
        ),
        (300, 250, 50),
        "{last:?}"
    );
    assert_eq!((outcome.code(), sum(&last.ended)), (Some(1), 250));
    assert_eq!(squatters.len(), 50);
}

#[test]
fn exhausted_descriptors_fail_new_attempts_only() {
    let server = Server::start(&["--every", "0s"]);
    let source = own_address().to_string();
    let args = ["--users", "1000", "--spawn-rate", "500", "--threads", "1"];
    let more = ["--ring-slots", "300", "--source", &source];
    let users = client(server.address, &[&args[..], &more].concat());
    users.until("some in", |r| r.opened > 0);
    users.limit_descriptors(8);
    let last = users.until("all tried", |r| r.ramp_done);
    assert!(last.open_now >= 268, "what its rings hold: {last:?}");
    let outcome = users.stop();
    let last = outcome.last();
    assert_eq!(
        last.opened + count(&last.failed, "no_descriptor"),
        1_000,
        "{last:?}"
    );
    assert_eq!(
        (outcome.code(), count(&last.ended, "held")),
        (Some(1), last.opened),
        "{last:?}"
    );
    server.until_open(0);
}
