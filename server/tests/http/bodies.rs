//! Large request bodies are dropped as they come.

use std::io::Write;

use crate::peer::{Answer, GET, Peer};
use crate::{MIB, Server, books};

const BODY_BYTES: usize = 100_000_000;
const PIECE_BYTES: usize = 50_000;

/// Sends a body of 100 MB in pieces, each made by `framed`, and watches the server's memory.
fn upload(server: &Server, head: &[u8], end: &[u8], framed: impl Fn(&[u8]) -> Vec<u8>) -> Answer {
    let mut peer = Peer::new(server);
    let piece = framed(&vec![b'x'; PIECE_BYTES]);
    let rss_before = server.running.rss_bytes();
    let mut grown = 0;
    peer.say(head);
    for number in 0..BODY_BYTES / PIECE_BYTES {
        peer.stream.write_all(&piece).expect("the server reads on");
        if number % 100 == 0 {
            grown = grown.max(server.running.rss_bytes().saturating_sub(rss_before));
        }
    }
    peer.say(end);
    let answer = peer.hear(false);
    assert!(grown < 4 * MIB, "grew by {grown} bytes");
    // The body ended where it should.
    assert_eq!(peer.ask(GET).status, 200);
    assert_eq!(peer.finish(), b"");
    answer
}

#[test]
fn a_hundred_megabytes_are_dropped_in_constant_memory() {
    let server = Server::start(&[]);
    assert_eq!(Peer::new(&server).ask(GET).status, 200);
    let head = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
    let answer = upload(&server, head.as_bytes(), b"", <[u8]>::to_vec);
    assert_eq!(answer.status, 200);
    let head = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = |bytes: &[u8]| {
        let size = format!("{:x}\r\n", bytes.len());
        [size.as_bytes(), bytes, b"\r\n"].concat()
    };
    let answer = upload(&server, head, b"0\r\n\r\n", chunk);
    assert_eq!(answer.status, 200);
    let report = books(server, 5);
    assert!(report.bytes_received > 2 * BODY_BYTES as u64);
}
