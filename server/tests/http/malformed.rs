//! What must not be understood: each malformed request gets its status, the connection ends, and
//! nothing behind it is answered.

use crate::common::{count, sum};
use crate::peer::{GET, Peer, answers};
use crate::{Server, books};

const LIMITS: [&str; 8] = [
    "--head-max",
    "1024",
    "--target-max",
    "200",
    "--headers-max",
    "8",
    "--body-max",
    "1000",
];

/// Status and request; `%` stands for a filling of 300 bytes, which several limits are below.
#[rustfmt::skip]
const TABLE: &[(u16, &[u8])] = &[
    // Two ways to find the end of the body: CL.TE, TE.CL, and TE.TE by every way to hide one of the
    // two.
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-length: 3\r\nTransfer-encoding: Chunked\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\nContent-Length: 4\r\n\r\nbody"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-encoding: identity\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x, chunked, y\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\n: chunked\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\n"),
    (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: deflate, chunked\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n"),
    // A length that is not one.
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 30\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\nbody"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4;x\r\n\r\nbody"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0b100\r\n\r\nbody"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \"4\"\r\n\r\nbody"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\x0b\r\n\r\nbody"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 36893488147419103236\r\n\r\nbody"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
    // Lines.
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\tContent-Length: 30\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\n\x20Host: a\r\nHost: a\r\n\r\n"),
    (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    (400, b"GET / HTTP/1.1\rHost: a\r\r"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX\0Y: 1\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n"),
    (400, b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    // Hosts.
    (400, b"GET / HTTP/1.1\r\n\r\n"),
    (400, b"GET http://a/ HTTP/1.1\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a, b\r\nHost : b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
    // Chunks.
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\nx\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 x\r\nx\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nbad trailer\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT: 1\r\n folded\r\n\r\n"),
    // Limits: the target, the head, the headers, the body by its length, by its chunks, and by what
    // frames them.
    (414, b"GET /% HTTP/1.1\r\nHost: a\r\n\r\n"),
    (414, b"GET /%%%%"),
    (431, b"GET / HTTP/1.1\r\nHost: a\r\nA: %\r\nB: %\r\nC: %\r\nD: %\r\n\r\n"),
    (431, b"GET / HTTP/1.1\r\nHost: a\r\n%%%%"),
    (431, b"GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\nC:\r\nD:\r\nE:\r\nF:\r\nG:\r\nH:\r\n\r\n"),
    (413, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n%%%%"),
    (413, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n"),
    (413, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4b0\r\n%%%%\r\n0\r\n\r\n"),
    (413, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;%\r\nx\r\n1;%\r\nx\r\n1;%\r\nx\r\n1;%\r\nx\r\n0\r\n\r\n"),
    // Nothing behind the limit is read: what is wrong there is not what the request is refused for,
    // in one piece or in many.
    (413, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4b0\r\n%%%%not the end of a chunk"),
    // What this server does not do.
    (505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (505, b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    (505, b"GET / HTTP/0.9\r\n\r\n"),
    (400, b"GET /\r\n\r\n"),
    (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    (417, b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 4\r\n\r\nbody"),
    (417, b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x\r\n\r\n"),
];

fn filled(request: &[u8]) -> Vec<u8> {
    let pieces: Vec<&[u8]> = request.split(|b| *b == b'%').collect();
    pieces.join(&[b'x'; 300][..])
}

#[test]
fn each_is_refused_and_the_last_thing_that_is_answered() {
    let server = Server::start(&LIMITS);
    let before: &[&[u8]] = &[b"", GET];
    let mut asked = 0;
    for (status, request) in TABLE {
        for before in before {
            let mut peer = Peer::new(&server);
            peer.say(&[before, &filled(request)[..], GET, GET].concat());
            let all = answers(&peer.hear_all(), &[false, false]);
            let shown = request.escape_ascii();
            let statuses: Vec<u16> = all.iter().map(|a| a.status).collect();
            let expected: &[u16] = if before.is_empty() {
                &[*status]
            } else {
                &[200, *status]
            };
            assert_eq!(statuses, expected, "{shown}");
            let refusal = all.last().unwrap();
            assert!(refusal.says_close(), "{shown}: {refusal:?}");
            assert!(refusal.body.starts_with(status.to_string().as_bytes()));
            asked += statuses.len();
            // The end was told; what is said after it is not answered either.
            let _ = std::io::Write::write(&mut peer.stream, GET);
            assert_eq!(peer.until_cut(), 0, "{shown}");
        }
    }
    let report = books(server, asked as u64);
    for status in [400, 413, 414, 417, 431, 501, 505] {
        let rows = TABLE.iter().filter(|row| row.0 == status).count();
        let counted = count(&report.responses, &status.to_string());
        assert_eq!(counted, 2 * rows as u64, "{status}");
    }
    assert_eq!(count(&report.responses, "200"), TABLE.len() as u64);
    assert_eq!(sum(&report.timed_out), 0);
}

/// The rows stand beside what looks like them and is right, so that the server is not merely rude.
#[rustfmt::skip]
const RIGHT: &[&[u8]] = &[
    b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a.example:80/b?c HTTP/1.1\r\nHost: a.example\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n",
    b"BREW /pot HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
    b"GET / HTTP/1.1\r\nHOST:\t a \t\r\nX:\r\nY: \xff\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 000\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n%%%",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n00a;b=\"c\"\r\n0123456789\r\n0\r\nT: u\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n384\r\n%%%\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 4\r\n\r\nbody",
    b"GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\nC:\r\nD:\r\nE:\r\nF:\r\nG:\r\n\r\n",
];

#[test]
fn what_is_right_is_answered_and_so_is_what_follows() {
    let server = Server::start(&LIMITS);
    for request in RIGHT {
        let mut peer = Peer::new(&server);
        peer.say(&[&filled(request)[..], GET].concat());
        let all = answers(&peer.finish(), &[false, false]);
        let shown = request.escape_ascii();
        let statuses: Vec<u16> = all.iter().map(|a| a.status).collect();
        assert_eq!(statuses, [200, 200], "{shown}");
        assert!(!all.iter().any(|a| a.says_close()), "{shown}");
    }
    books(server, 2 * RIGHT.len() as u64);
}

/// RFC 9110, 9.3.2: a client that asked with HEAD would take a body for the beginning of something
/// else.
#[test]
fn a_refused_head_request_gets_no_body() {
    let server = Server::start(&LIMITS);
    let mut peer = Peer::new(&server);
    peer.say(b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n");
    let all = answers(&peer.hear_all(), &[true]);
    assert_eq!((all.len(), all[0].status), (1, 400));
    assert!(all[0].says_close());
    drop(peer);
    books(server, 1);
}
