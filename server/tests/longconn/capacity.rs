//! How many a server holds: exactly as many as it was asked to, under any descriptor limit that
//! lets it live.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::common::{self, LONGCONN_ARGS, Server, client, count, sum};

/// Connects `number` peers from four threads at once.
fn crowd(server: &Server, number: usize) -> Vec<TcpStream> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|part| {
                scope.spawn(move || {
                    // A refusal may come while connect is still under way.
                    (part..number)
                        .step_by(4)
                        .filter_map(|_| TcpStream::connect(server.address).ok())
                        .collect()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|t| -> Vec<_> { t.join().unwrap() })
            .collect()
    })
}

/// True if the peer gets another heartbeat, false if it was reset.
fn is_served(peer: &mut TcpStream) -> bool {
    peer.set_read_timeout(Some(common::PATIENCE)).unwrap();
    match peer.read(&mut [0; 2]) {
        Ok(length) => length > 0,
        Err(e) if e.kind() == ErrorKind::ConnectionReset => false,
        Err(e) => panic!("neither served nor reset: {e}"),
    }
}

#[test]
fn capacity_of_100_refuses_50_of_150_and_reuses_freed_slots() {
    let server = Server::start(&["--connections", "100", "--every", "200ms"]);
    let mut peers = crowd(&server, 150);
    let report = server
        .running
        .until("all looked at", |r| r.accepted + r.refused_full == 150);
    assert_eq!(
        (report.open_now, report.accepted, report.refused_full),
        (100, 100, 50)
    );
    peers.retain_mut(is_served);
    assert_eq!(peers.len(), 100);

    peers.truncate(90);
    server.until_open(90);
    peers.extend(crowd(&server, 10));
    let report = server.until_open(100);
    assert_eq!((report.accepted, report.refused_full), (110, 50));
    assert!(
        peers.iter_mut().all(is_served),
        "all 100 get another heartbeat"
    );
    let report = server.running.fresh();
    assert_eq!((report.open_now, report.open_max), (100, 100));
}

#[test]
fn as_many_as_fit_are_never_refused() {
    // Each round waits for two reports, which come once a second: twelve rounds, four of each of
    // three servers side by side.
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let args = ["--connections", "100", "--every", "0s", "--threads", "4"];
                let server = Server::start(&args);
                for round in 1..=4 {
                    let peers = crowd(&server, 100);
                    let report = server.running.until("all looked at", |r| {
                        r.accepted + r.refused_full == round * 100
                    });
                    assert_eq!(report.refused_full, 0, "in round {round}");
                    drop(peers);
                    server.until_open(0);
                }
            });
        }
    });
}

/// A server under a limit of descriptors, soft and hard.
fn limited(nofile: u64, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {nofile} && exec \"$0\" \"$@\"")])
        .arg(common::program("holdfast-server"));
    command
        .args(LONGCONN_ARGS)
        .args(["--listen", "127.0.0.1:0"])
        .args(args);
    command
}

#[test]
fn twenty_thousand_under_a_limit_of_4096_descriptors() {
    let server = Server::run(limited(4_096, &["--connections", "25000", "--every", "2s"]));
    let users = client(
        server.address,
        &[
            "--users",
            "20000",
            "--source",
            "127.77.0.0/24",
            "--every",
            "2s",
        ],
    );
    let report = server.until_open(20_000);
    assert!(report.shard_count >= 5, "{} rings", report.shard_count);
    server
        .running
        .until("heartbeats", |r| r.messages_sent >= 20_000);
    let outcome = users.stop();
    let last = outcome.last();
    assert_eq!(
        (last.opened, count(&last.ended, "held"), outcome.code()),
        (20_000, 20_000, Some(0))
    );
    assert_eq!(
        (server.until_open(0).open_max, sum(&last.failed)),
        (20_000, 0)
    );
}

#[test]
fn two_hundred_descriptors_hold_a_thousand() {
    let server = Server::run(limited(200, &["--connections", "1000", "--every", "500ms"]));
    let mut peers = crowd(&server, 1_000);
    let report = server.until_open(1_000);
    // 200 entries less the 32 spare ones hold 168; each of the two threads has its own rings.
    assert!(
        report.shard_count >= 6 && report.refused_full == 0,
        "{report:?}"
    );
    assert!(peers.iter_mut().all(is_served));
}

#[test]
fn a_limit_too_small_is_refused_in_one_line() {
    // io_uring switched off by sysctl cannot be tried here: kernel.io_uring_disabled is the whole
    // machine's.
    let outcome =
        common::Running::<holdfast_telemetry::wire::ServerReport>::start(limited(32, &[]))
            .outcome();
    outcome.assert_refused(&["ulimit -n"]);
}

#[test]
fn sixty_four_descriptors_hold_some_or_are_refused() {
    let running = common::Running::<holdfast_telemetry::wire::ServerReport>::start(limited(
        64,
        &["--connections", "100", "--every", "200ms"],
    ));
    std::thread::sleep(Duration::from_millis(500));
    let outcome = running.stop();
    match outcome.code() {
        Some(0) => assert!(outcome.last().is_final),
        _ => outcome.assert_refused(&["ulimit -n"]),
    }
}
