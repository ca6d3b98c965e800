//! What a peer sees of a server that holds it: heartbeats, echo, the end in order.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_telemetry::wire::ServerReport;

use crate::common::{Folder, PATIENCE, Random, Server, count, read_to_end, sum};

#[test]
fn sigterm_ends_two_thousand_in_order_and_all_counts_agree() {
    let folder = Folder::new("sigterm");
    let json = folder.file("server.json");
    let server = Server::start(&["--connections", "5000", "--every", "300ms", "--json", &json]);
    let mut peers: Vec<_> = (0..2_000).map(|_| server.connect()).collect();
    server.until_open(2_000);
    server
        .running
        .until("heartbeats", |r| r.messages_sent > 4_000);

    server.running.signal(nix::sys::signal::Signal::SIGTERM);
    let mut bytes_received = 0;
    for peer in &mut peers {
        let bytes = read_to_end(peer).expect("the end comes as FIN, not as a reset");
        assert!(
            bytes.chunks(2).all(|message| message == b"ok"),
            "whole messages only"
        );
        bytes_received += bytes.len() as u64;
    }
    drop(peers);

    let outcome = server.running.outcome();
    assert_eq!(outcome.code(), Some(0), "{}", outcome.errors);
    let last = outcome.last();
    assert!(last.is_final);
    assert_eq!(
        (
            last.open_now,
            last.open_max,
            last.accepted,
            last.refused_full
        ),
        (0, 2_000, 2_000, 0)
    );
    assert_eq!(
        (count(&last.closed, "by_us"), sum(&last.closed)),
        (2_000, 2_000)
    );
    assert_eq!(last.messages_sent * 2, bytes_received);
    let written: ServerReport =
        serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(written, last);
}

#[test]
fn peer_that_does_not_close_is_aborted() {
    let server = Server::start(&["--every", "0s", "--drain-timeout", "300ms"]);
    let peer = server.connect();
    server.until_open(1);
    let outcome = server.running.stop();
    assert_eq!(outcome.code(), Some(0));
    assert_eq!(count(&outcome.last().closed, "cut"), 1);
    drop(peer);
}

#[test]
fn heartbeats_come_at_the_interval_and_never_early() {
    let server = Server::start(&["--every", "200ms", "--message", "beat"]);
    let since = Instant::now();
    let mut peer = server.connect();
    for number in 0..5u32 {
        let mut message = [0; 4];
        peer.read_exact(&mut message).expect("a heartbeat");
        assert_eq!(&message, b"beat");
        let earliest = Duration::from_millis(200) * number;
        assert!(
            since.elapsed() + Duration::from_millis(5) >= earliest,
            "heartbeat {number} is early"
        );
        if number == 2 {
            assert!(since.elapsed() < PATIENCE / 2, "3 in 30 s");
        }
    }
}

#[test]
fn no_heartbeat_with_an_interval_of_zero() {
    let server = Server::start(&["--every", "0s"]);
    let mut peer = server.connect();
    peer.write_all(b"dropped and counted").unwrap();
    let report = server.running.until("bytes", |r| r.bytes_received > 0);
    assert_eq!((report.bytes_received, report.messages_sent), (19, 0));
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut peer).expect("FIN"), b"");
    server
        .running
        .until("its end", |r| count(&r.closed, "peer_closed") == 1);
}

#[test]
fn echo_gives_back_bytes_split_anywhere() {
    let server = Server::start(&["--echo", "--every", "0s"]);
    let mut peer = server.connect();
    peer.set_nodelay(true).unwrap();
    let text = b"one byte at a time\n";
    for byte in text {
        peer.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut back = [0; 19];
    peer.read_exact(&mut back).expect("the echo");
    assert_eq!(&back, text);
}

#[test]
fn echo_gives_back_a_megabyte_also_after_the_peer_has_ended_its_side() {
    let server = Server::start(&["--echo", "--every", "0s"]);
    let mut peer = server.connect();
    let mut random = Random(1);
    let bytes = random.bytes(1 << 20);
    let mut writing = peer.try_clone().unwrap();
    let to_write = bytes.clone();
    let writer = std::thread::spawn(move || {
        let mut rest = &to_write[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((random.below(5_000) as usize + 1).min(rest.len()));
            writing.write_all(piece).expect("the server reads");
            rest = after;
        }
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let back = read_to_end(&mut peer).expect("FIN");
    writer.join().unwrap();
    assert_eq!(back.len(), bytes.len());
    assert!(back == bytes, "every byte the same");
    let report = server
        .running
        .until("its end", |r| r.open_now == 0 && r.accepted == 1);
    assert_eq!(report.bytes_received, 1 << 20);
}

#[test]
fn silent_peers_are_closed_as_idle_and_talking_ones_kept() {
    let server = Server::start(&["--every", "100ms", "--idle-timeout", "2s"]);
    let mut talking = server.connect();
    let mut silent: Vec<_> = (0..5).map(|_| server.connect()).collect();
    let since = Instant::now();
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let talker = std::thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            talking.write_all(b".").expect("kept");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    for peer in &mut silent {
        read_to_end(peer).expect("FIN");
    }
    assert!(
        since.elapsed() >= Duration::from_secs(2),
        "not before its time"
    );
    let report = server.running.until("five ends", |r| sum(&r.closed) == 5);
    assert_eq!(
        (count(&report.closed, "idle"), report.open_now),
        (5, 1),
        "{report:?}"
    );
    server.running.until("longer than it may be silent", |r| {
        r.at_us > report.at_us + 2_500_000
    });
    is_over.store(true, Ordering::Relaxed);
    talker.join().expect("it was never closed");
    let report = server.until_open(0);
    assert_eq!(
        (count(&report.closed, "idle"), sum(&report.closed)),
        (5, 6),
        "{report:?}"
    );
}
