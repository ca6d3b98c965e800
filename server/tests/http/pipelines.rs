//! Many requests at once: all are answered, in order.

use std::io::Write;
use std::time::Instant;

use crate::common::{PATIENCE, Random};
use crate::peer::{GET, HEAD, Peer, answers};
use crate::{Server, books};

/// Requests in an order that can be told from the answers: those to HEAD have no body.
fn mixed(count: usize) -> (Vec<bool>, Vec<u8>) {
    let mut random = Random(count as u64);
    let are_head: Vec<bool> = (0..count).map(|_| random.below(2) == 0).collect();
    let bytes = are_head
        .iter()
        .map(|is_head| if *is_head { HEAD } else { GET });
    (are_head.clone(), bytes.collect::<Vec<_>>().concat())
}

#[test]
fn a_thousand_in_one_write_are_answered_in_order() {
    let server = Server::start(&[]);
    let (are_head, bytes) = mixed(1_000);
    let mut peer = Peer::new(&server);
    peer.say(&bytes);
    for is_head in &are_head {
        let answer = peer.hear(*is_head);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, if *is_head { &b""[..] } else { b"ok" });
    }
    // And the connection goes on.
    assert_eq!(peer.ask(GET).body, b"ok");
    assert_eq!(peer.finish(), b"");
    books(server, 1_001);
}

#[test]
fn twenty_thousand_are_written_before_any_answer_is_read() {
    let server = Server::start(&["--threads", "1"]);
    let (are_head, bytes) = mixed(20_000);
    let mut peer = Peer::new(&server);
    peer.stream.set_nonblocking(true).unwrap();
    let (mut written, since) = (0, Instant::now());
    while written < bytes.len() {
        match peer.stream.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(since.elapsed() < PATIENCE, "{written} bytes were taken");
                std::thread::yield_now();
            }
            Err(e) => panic!("cut after {written} bytes: {e}"),
        }
    }
    peer.stream.set_nonblocking(false).unwrap();
    // The end is said before the first answer is read; all come all the same, and then the server's
    // end.
    let all = answers(&peer.finish(), &are_head);
    assert_eq!(all.len(), 20_000);
    assert!(all.iter().all(|a| a.status == 200 && !a.says_close()));
    books(server, 20_000);
}

#[test]
fn heads_that_come_again_and_heads_that_nearly_do() {
    let upload = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
    let longer = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n";
    let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let old = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let last = b"GET / HTTP/1.0\r\nConnection: keep-aliv3\r\n\r\n";
    // A body that looks like a head, and one that begins like the next.
    let body_50 = [GET, b"POST / HTTP/1.1\r\nHost: a\r\nC"].concat();
    let body_50 = &body_50[..50];
    let requests = [
        [GET, b""],
        [GET, b""],
        [HEAD, b""],
        [HEAD, b""],
        [GET, b""],
        [b"\r\n", GET],
        [GET, b""],
        [upload, b"hello"],
        [upload, b"POST "],
        [GET, b""],
        [upload, b"GET /"],
        [longer, body_50],
        [longer, body_50],
        [chunked, b"5\r\nhello\r\n0\r\n\r\n"],
        [chunked, b"0\r\n\r\n"],
        [old, b""],
        [old, b""],
        [GET, b""],
        [last, b""],
        [GET, b""],
    ];
    let are_head: Vec<bool> = requests.iter().map(|[head, _]| *head == HEAD).collect();
    let bytes = requests.concat().concat();
    let server = Server::start(&[]);
    for piece_bytes in [bytes.len(), 100, 7] {
        let mut peer = Peer::new(&server);
        for piece in bytes.chunks(piece_bytes) {
            peer.say(piece);
        }
        let all = answers(&peer.hear_all(), &are_head);
        let told: Vec<Option<&str>> = all.iter().map(|a| a.header("Connection")).collect();
        let mut expected = [None; 19];
        expected[15..17].fill(Some("keep-alive"));
        expected[18] = Some("close");
        assert_eq!(told, expected);
        assert!(all.iter().all(|a| a.status == 200));
    }
    books(server, 3 * 19);
}

#[test]
fn what_follows_a_close_is_not_answered() {
    let server = Server::start(&[]);
    let last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for ending in [&last[..], b"GET / HTTP/1.0\r\n\r\n"] {
        let mut peer = Peer::new(&server);
        peer.say(&[GET, HEAD, ending, GET, GET].concat());
        let all = answers(&peer.hear_all(), &[false, true, false]);
        let closing: Vec<bool> = all.iter().map(|a| a.says_close()).collect();
        assert_eq!(closing, [false, false, true]);
    }
    books(server, 6);
}
