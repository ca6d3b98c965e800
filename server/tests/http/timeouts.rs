//! Limits in time: who is slow is cut off and counted, who is slow but steady is served.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::common::{Folder, PATIENCE, Random, count, sum};
use crate::peer::{GET, HALF_GET, Peer, answers};
use crate::{Server, books};

/// Writes a byte every 20 ms until the server has answered that, and returns all it said.
fn drip(mut peer: Peer, byte: u8) -> Vec<u8> {
    use std::io::Write;
    let since = Instant::now();
    let interval = Duration::from_millis(20);
    peer.stream.set_read_timeout(Some(interval)).unwrap();
    let mut first = [0; 1];
    while peer.stream.peek(&mut first).is_err() {
        assert!(since.elapsed() < PATIENCE, "is let drip for ever");
        let _ = peer.stream.write(&[byte]);
    }
    peer.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.hear_all()
}

#[test]
fn slow_heads_and_bodies_get_408_and_silent_connections_nothing() {
    let (header, body, idle) = ("--header-timeout", "--read-timeout", "--idle-timeout");
    let server = Server::start(&[header, "300ms", body, "600ms", idle, "900ms"]);
    let mut slow_head = Peer::new(&server);
    slow_head.say(HALF_GET);
    let mut second_slow_head = Peer::new(&server);
    second_slow_head.say(&[GET, HALF_GET].concat());
    let mut slow_body = Peer::new(&server);
    slow_body.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    let mut slow_chunk = Peer::new(&server);
    slow_chunk.say(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n");
    let mut never = Peer::new(&server);
    let mut no_more = Peer::new(&server);
    no_more.say(GET);
    let slow = [slow_head, second_slow_head, slow_body, slow_chunk];
    let dripping = slow.map(|peer| std::thread::spawn(|| drip(peer, b'x')));
    let dripped = dripping.map(|thread| thread.join().expect("what was said is heard"));
    let statuses = |bytes: &[u8]| -> Vec<(u16, bool)> {
        let all = answers(bytes, &[false, false]);
        all.iter().map(|a| (a.status, a.says_close())).collect()
    };
    let late = (408, true);
    assert_eq!(
        dripped.map(|bytes| statuses(&bytes)),
        [vec![late], vec![(200, false), late], vec![late], vec![late]]
    );
    assert_eq!(never.hear_all(), b"");
    assert_eq!(statuses(&no_more.hear_all()), [(200, false)]);
    drop((never, no_more));
    let report = books(server, 6);
    assert_eq!(count(&report.responses, "408"), 4);
    assert_eq!(count(&report.timed_out, "header"), 2);
    assert_eq!(count(&report.timed_out, "body"), 2);
    assert_eq!(count(&report.timed_out, "idle"), 2);
    assert_eq!(sum(&report.timed_out), 6);
}

#[test]
fn body_may_take_longer_than_the_head_timeout() {
    let server = Server::start(&["--header-timeout", "100ms", "--idle-timeout", "100ms"]);
    let mut peer = Peer::new(&server);
    peer.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n");
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(40));
        peer.say(b"x");
    }
    assert_eq!(peer.hear(false).status, 200);
    assert_eq!(peer.hear_all(), b"");
    drop(peer);
    let report = books(server, 1);
    assert_eq!(count(&report.timed_out, "idle"), 1);
}

#[test]
fn stalled_reader_is_closed_and_slow_reader_gets_everything() {
    let folder = Folder::new("http-timeouts");
    let body = Random(7).bytes(20_000_000);
    std::fs::write(folder.file("body"), &body).unwrap();
    let server = Server::start(&["--body-file", &folder.file("body"), "--write-timeout", "1s"]);

    let mut deaf = Peer::new(&server);
    deaf.say(GET);
    let mut slow = Peer::new(&server);
    slow.say(GET);
    let (mut heard, mut piece) = (Vec::new(), vec![0; 100_000]);
    // About three times as long in all as the limit.
    while heard.len() < body.len() {
        let count = slow.stream.read(&mut piece).expect("who reads is not cut");
        assert!(count > 0, "cut after {} bytes", heard.len());
        heard.extend_from_slice(&piece[..count]);
        std::thread::sleep(Duration::from_millis(15));
    }
    let heard = [heard, slow.finish()].concat();
    let all = answers(&heard, &[false]);
    assert!(all[0].body == body, "byte by byte");

    server.running.until("the deaf one is cut", |r| {
        r.accepted == 2 && r.open_now == 0
    });
    assert!(deaf.until_cut() < body.len() as u64);
    let report = books(server, 2);
    assert_eq!(count(&report.timed_out, "write"), 1, "{report:?}");
    assert_eq!(sum(&report.timed_out), 1);
    assert_eq!(count(&report.closed, "stalled"), 1, "{:?}", report.closed);
}

#[test]

fn stalled_reader_of_a_last_response_is_counted() {
    let folder = Folder::new("http-timeouts-last");
    std::fs::write(folder.file("body"), vec![b'x'; 20_000_000]).unwrap();
    let server = Server::start(&[
        "--body-file",
        &folder.file("body"),
        "--write-timeout",
        "300ms",
    ]);
    let mut deaf = Peer::new(&server);
    deaf.say(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    server.running.until("the deaf one is cut", |r| {
        r.accepted == 1 && r.open_now == 0
    });
    let report = books(server, 1);
    assert_eq!(count(&report.timed_out, "write"), 1, "{report:?}");
    assert_eq!(count(&report.closed, "stalled"), 1, "{:?}", report.closed);
}
