//! Peers that do not read: they cost a bounded number of bytes, and nobody else notices.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, Server, count, read_to_end};

const MIB: u64 = 1 << 20;
/// More than the kernel's buffers of both ends hold (tcp_rmem and tcp_wmem: 6 MiB and 4 MiB each
/// way), so that a server which goes on reading gives itself away.
const FLOOD_BYTES: usize = 50_000_000;

fn echoes(peer: &mut TcpStream, text: &[u8]) {
    peer.write_all(text).expect("taken");
    let mut back = vec![0; text.len()];
    peer.read_exact(&mut back).expect("the echo");
    assert_eq!(back, text);
}

/// The byte at a place of the flood: its period is a prime, so a lost or repeated piece shows.
fn flood_byte(place: usize) -> u8 {
    (place % 251) as u8
}

#[test]
fn unread_echo_flood_stops_at_the_peer_and_is_complete_once_read() {
    let server = Server::start(&["--echo", "--every", "0s"]);
    let mut other = server.connect();
    echoes(&mut other, b"before");
    let rss_before = server.running.rss_bytes();

    let mut peer = server.connect();
    peer.set_nonblocking(true).unwrap();
    let mut written = 0;
    let mut progress_at = Instant::now();
    // The end of progress is the end of what the kernel's buffers take.
    while written < FLOOD_BYTES && progress_at.elapsed() < Duration::from_secs(2) {
        let piece: Vec<u8> = (written..FLOOD_BYTES.min(written + 65_536))
            .map(flood_byte)
            .collect();
        match peer.write(&piece) {
            Ok(count) => {
                written += count;
                progress_at = Instant::now();
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(e) => panic!("cut after {written} bytes: {e}"),
        }
    }
    assert!(written < FLOOD_BYTES, "the server reads without end");
    let grown = server.running.rss_bytes().saturating_sub(rss_before);
    assert!(grown < 8 * MIB, "grew by {grown} bytes");
    echoes(&mut other, b"during");
    let cpu_before = server.running.cpu();
    std::thread::sleep(Duration::from_secs(1));
    let cpu = server.running.cpu() - cpu_before;
    assert!(
        cpu < Duration::from_millis(500),
        "waits without turning round: {cpu:?} in a second"
    );

    peer.set_nonblocking(false).unwrap();
    let mut place = 0;
    let mut piece = vec![0; 65_536];
    while place < written {
        let count = peer
            .read(&mut piece)
            .expect("the echo goes on when it is read");
        assert!(count > 0, "ended after {place} of {written} bytes");
        let is_same = piece[..count]
            .iter()
            .enumerate()
            .all(|(i, b)| *b == flood_byte(place + i));
        assert!(is_same, "wrong between {place} and {}", place + count);
        place += count;
    }
    echoes(&mut peer, b"after");
    echoes(&mut other, b"after");
}

#[test]
fn a_peer_that_reads_no_heartbeats_is_closed_as_stalled() {
    let message = "m".repeat(16_000);
    let server = Server::start(&["--every", "10ms", "--message", &message]);
    let deaf = server.connect();
    let mut listening = server.connect();
    server.until_open(2);
    let rss_before = server.running.rss_bytes();
    let since = Instant::now();
    let mut piece = vec![0; 65_536];
    let mut bytes_heard = 0u64;
    let mut grown = 0;
    loop {
        let count = listening
            .read(&mut piece)
            .expect("the one that reads is served");
        assert!(count > 0 && piece[..count].iter().all(|b| *b == b'm'));
        bytes_heard += count as u64;
        grown = grown.max(server.running.rss_bytes().saturating_sub(rss_before));
        if server.running.until("a report", |_| true).open_now == 1 {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "the deaf one is still held");
    }
    let report = server.running.until("its end", |r| r.open_now == 1);
    assert_eq!(count(&report.closed, "stalled"), 1, "{:?}", report.closed);
    assert!(grown < 8 * MIB, "grew by {grown} bytes");
    assert!(bytes_heard > 16_000);
    drop(deaf);
}

#[test]
fn slot_of_a_dead_echo_peer_that_never_read_is_freed() {
    let server = Server::start(&["--echo", "--every", "0s"]);
    let mut peer = server.connect();
    peer.set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let piece = vec![7; 65_536];
    while peer.write(&piece).is_ok() {}
    // It has unread bytes, so this is a reset.
    drop(peer);
    server
        .running
        .until("its end", |r| r.accepted == 1 && r.open_now == 0);
    let mut next = server.connect();
    echoes(&mut next, b"served");
    next.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut next).expect("FIN"), b"");
}
