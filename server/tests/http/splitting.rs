//! Requests cut at every byte get the answers of requests that were not.

use std::time::Duration;

use crate::common::sum;
use crate::peer::{Answer, Peer, answers};
use crate::{Server, books};

struct Case {
    bytes: &'static [u8],
    /// The requests in it: whether they are HEAD.
    are_head: &'static [bool],
    /// Where the head of a request that expects 100 ends.
    continue_at: Option<usize>,
}

const EXPECTING: &[u8] =
    b"PUT /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody";

const CASES: [Case; 6] = [
    Case {
        bytes: b"GET /a?b=c HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\n",
        are_head: &[false],
        continue_at: None,
    },
    Case {
        bytes: b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 19\r\n\r\nGET / HTTP/1.1\r\n\r\n!",
        are_head: &[false],
        continue_at: None,
    },
    Case {
        bytes: b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n0123456789\r\n00\r\nT: 1\r\nU:\r\n\r\n",
        are_head: &[false],
        continue_at: None,
    },
    Case {
        bytes: EXPECTING,
        are_head: &[false],
        continue_at: Some(EXPECTING.len() - 4),
    },
    Case {
        bytes: b"\r\nHEAD http://a/b HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        are_head: &[true, false, false],
        continue_at: None,
    },
    Case {
        bytes: b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        are_head: &[false, false],
        continue_at: None,
    },
];

/// The answers to a case, in full, whatever way its bytes come. Counts the interim ones.
fn heard(peer: Peer, case: &Case) -> (Vec<Answer>, usize) {
    let all = answers(&peer.finish(), case.are_head);
    let (interim, last): (Vec<_>, Vec<_>) = all.into_iter().partition(|a| a.status == 100);
    (
        last.into_iter().map(Answer::without_date).collect(),
        interim.len(),
    )
}

fn unsplit(server: &Server) -> Vec<Vec<Answer>> {
    let each = CASES.iter().map(|case| {
        let mut peer = Peer::new(server);
        peer.say(case.bytes);
        let (answers, interim_count) = heard(peer, case);
        assert_eq!(answers.len(), case.are_head.len());
        assert!(answers.iter().all(|a| a.status == 200));
        assert_eq!(interim_count, 0, "the body was there already");
        answers
    });
    each.collect()
}

fn request_count() -> usize {
    CASES.iter().map(|case| case.are_head.len()).sum()
}

#[test]
fn two_pieces_cut_at_every_byte() {
    let server = Server::start(&[]);
    let whole = unsplit(&server);
    let mut bytes_before: usize = CASES.iter().map(|case| case.bytes.len()).sum();
    let mut peers = Vec::new();
    for (case, expected) in CASES.iter().zip(&whole) {
        for cut in 1..case.bytes.len() {
            let mut peer = Peer::new(&server);
            peer.say(&case.bytes[..cut]);
            bytes_before += cut;
            peers.push((case, cut, expected, peer));
        }
    }
    // That the first pieces have been received by themselves is known, not hoped.
    server.running.until("every first piece received", |r| {
        r.bytes_received == bytes_before as u64
    });
    let mut answered = request_count();
    for (case, cut, expected, mut peer) in peers {
        let shown = case.bytes[..cut].escape_ascii();
        // A request that is over may have ended its connection: then nothing comes behind it.
        peer.say(&case.bytes[cut..]);
        let (answers, interim_count) = heard(peer, case);
        assert_eq!(&answers, expected, "cut after {shown}");
        let is_waiting = case.continue_at == Some(cut);
        assert_eq!(interim_count, usize::from(is_waiting), "cut after {shown}");
        answered += answers.len();
    }
    books(server, answered as u64);
}

#[test]
fn byte_by_byte() {
    let server = Server::start(&[]);
    let whole = unsplit(&server);
    let mut peers: Vec<Peer> = CASES.iter().map(|_| Peer::new(&server)).collect();
    let longest = CASES.iter().map(|case| case.bytes.len()).max().unwrap_or(0);
    for at in 0..longest {
        for (case, peer) in CASES.iter().zip(&mut peers) {
            if let Some(byte) = case.bytes.get(at) {
                peer.say(&[*byte]);
            }
        }
        // Lets the server see most bytes alone; that every cut works is the other test's to show.
        std::thread::sleep(Duration::from_millis(2));
    }
    for ((case, expected), peer) in CASES.iter().zip(&whole).zip(peers) {
        let (answers, interim_count) = heard(peer, case);
        assert_eq!(&answers, expected);
        assert!(interim_count <= usize::from(case.continue_at.is_some()));
    }
    let report = books(server, 2 * request_count() as u64);
    assert_eq!(sum(&report.timed_out), 0);
}
