//! Requests: a table of those refused, with the status each gets, and one of those served, with
//! what is read from them.
//!
//! Every row is also cut at every byte. Expected values come from RFC 9112 and RFC 9110, whose
//! sections stand beside the rows.
//! Must not depend on: how the parser works.
#![forbid(unsafe_code)]

mod common;

use common::Random;
use holdfast_http1::{
    Body, EMPTY_LINES_MAX, HEADER_COUNT_CEILING, Limits, RequestError, RequestHead, parse_request,
};

/// Small, so that rows can exceed them.
const LIMITS: Limits = Limits {
    head_bytes_max: 400,
    target_bytes_max: 40,
    header_count_max: 6,
    body_bytes_max: 1_000,
};

/// What is refused: the status, the bytes. A head is left open where it has to be refused before it
/// ends.
#[rustfmt::skip]
const REFUSED: &[(u16, &[u8])] = &[
    // Content-Length (RFC 9110, 8.6; RFC 9112, 6.3).
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 5\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n"),
    (413, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n"),
    (413, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n"),
    // Transfer-Encoding (RFC 9112, 6.1 and 6.3).
    (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n"),
    (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x;q=\"1\",CHUNKED\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip, chunked\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;a=b\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip chunked\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding:\r\n\r\n"),
    (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n"),
    (400, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
    // Lines (RFC 9112, 2.2 and 5).
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n"),
    (400, b"GET / HTTP/1.1\r\n Host: a\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX\r: b\r\n"),
    (400, b"GET / HTTP/1.1\rHost: a\r\n"),
    (400, b"GET /\r HTTP/1.1\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\n\rX"),
    (400, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX:\nY: b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\n\n"),
    (400, b"GET / HTTP/1.0\n\r\n"),
    (400, b"GET / HTTP/1.0\r\n\n"),
    (400, b"GET / HTTP/1.1\r\nHost : a\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost\t: a\r\n"),
    (400, b"GET / HTTP/1.1\r\n: a\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost\r\n"),
    (400, b"GET / HTTP/1.1\r\nH(st: a\r\n"),
    (400, b"GET / HTTP/1.1\r\nH\xc3\xb6st: a\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n"),
    (400, b"\n"),
    (400, b"\r\nGET\r\n"),
    (400, b"\rGET / HTTP/1.1\r\n"),
    (400, b"\r\n\r\n\r\n\r\n\r"),
    (400, b"\r\n\n"),
    // Host (RFC 9112, 3.2).
    (400, b"GET / HTTP/1.1\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHostess: a\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    (400, b"GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: b@a\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a%2\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a%zz\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: []\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: [a]\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: [127.0.0.1]\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: [1:2:3:4:5:6:7]\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: [1::2::3]\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: [::12345]\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: [fe80::1%25lo]\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: [v1]\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: [v.a]\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: [vg.a]\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: [v1.]\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: [v1.a/]\r\n\r\n"),
    (400, b"GET http://[a]/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"CONNECT [a]:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: \xc3\xb6\r\n\r\n"),
    // The request line (RFC 9112, 3).
    (400, b" GET / HTTP/1.1\r\n"),
    (400, b"G(T / HTTP/1.1\r\n"),
    (400, b"GET  / HTTP/1.1\r\n"),
    (400, b"GET\t/ HTTP/1.1\r\n"),
    (400, b"GET /  HTTP/1.1\r\n"),
    (400, b"GET / a HTTP/1.1\r\n"),
    (400, b"GET /\0 HTTP/1.1\r\n"),
    (400, b"GET / HTTP/1.1 \r\n"),
    (400, b"GET /\r\n"),
    (400, b"GET\r\n"),
    (400, b"\x16\x03\x01\x02\x00\x01\x00"),
    (400, b"GET /\xff HTTP/1.1\r\n"),
    (400, b"GET /\xc3\xb6 HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"GET http:// HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"GET http://:80/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"GET http://b@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"GET ://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"CONNECT a: HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"CONNECT :80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    // Versions.
    (505, b"GET / HTTP/2.0\r\n"),
    (505, b"GET / HTTP/3\r\n"),
    (505, b"GET / HTTP/1.2\r\n"),
    (505, b"GET / HTTP/0.9\r\n"),
    (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (400, b"GET / HTTP/1\r\n"),
    (400, b"GET / HTTP/0\r\n"),
    (400, b"GET / HTTP/1.10\r\n"),
    (400, b"GET / HTTP/10.0\r\n"),
    (400, b"GET / HTTP/1.20\r\n"),
    (400, b"GET / HTTP/2.0\n"),
    (400, b"GET / HTTP/1.x\r\n"),
    (400, b"GET / HTTP/1,1\r\n"),
    (400, b"GET / HTTP/x\r\n"),
    (400, b"GET / http/1.1\r\n"),
    (400, b"GET / FTP/1.1\r\n"),
    (400, b"GET / \r\n"),
    // Expectations (RFC 9110, 10.1.1).
    (417, b"POST / HTTP/1.1\r\nHost: a\r\nExpect: a-miracle\r\nContent-Length: 5\r\n\r\n"),
    (417, b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, b\r\nContent-Length: 5\r\n\r\n"),
    (417, b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n"),
    // A method that nobody implements (RFC 9112, 3).
    (501, b"ABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDE"),
    (501, b"ABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDE / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (501, b"ABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDE(\r\n"),
    (400, b"ABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCD(\r\n"),
    // Limits, seen before the end of the head.
    (414, b"GET /2345678901234567890123456789012345678901"),
    (414, b"GET /2345678901234567890123456789012345678901 HTTP/1.1\r\nHost: a\r\n\r\n"),
    (414, b"GET /2345678901234567890123456789012345678901\0 HTTP/1.1\r\n"),
    (414, b"GET /2345678901234567890123456789012345678901 HTTP/2.0\r\n"),
    (414, b"GET /23456789012345678901234567890123456789\xff\xff HTTP/1.1\r\n"),
    (431, b"GET / HTTP/1.1\r\nA:\r\nB:\r\nC:\r\nD:\r\nE:\r\nF:\r\nG:\r\n"),
];

/// What is served, and what is read from it. `length` is that of the bytes.
#[rustfmt::skip]
fn served() -> Vec<(&'static [u8], RequestHead)> {
    let plain = RequestHead {
        length: 0, is_head: false, is_connect: false, is_http10: false, keep_alive: true, expects_continue: false, body: Body::None,
    };
    let http10 = RequestHead { is_http10: true, keep_alive: false, ..plain };
    let closing = RequestHead { keep_alive: false, ..plain };
    let connect = RequestHead { is_connect: true, ..closing };
    let five = RequestHead { body: Body::Length(5), ..plain };
    let chunked = RequestHead { body: Body::Chunked, ..plain };
    let rows: &[(&[u8], RequestHead)] = &[
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", plain),
        (b"GET / HTTP/1.1\r\nhOST:a\r\n\r\n", plain),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", plain),
        (b"GET / HTTP/1.1\r\nHost: \t a.example:8080 \t \r\nX: \xff\r\nY:  \r\n\r\n", plain),
        (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", plain),
        (b"GET / HTTP/1.1\r\nHost: [2001:DB8::192.0.2.1]\r\n\r\n", plain),
        (b"GET / HTTP/1.1\r\nHost: [v1F.a:b!]:80\r\n\r\n", plain),
        (b"ABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCDEFGHIJABCD / HTTP/1.1\r\nHost: a\r\n\r\n", plain),
        (b"GET / HTTP/1.1\r\nHost: a%2fb\r\n\r\n", plain),
        (b"get /a?b=|{}^c HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", plain),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", RequestHead { is_head: true, ..plain }),
        (b"head / HTTP/1.1\r\nHost: a\r\n\r\n", plain),
        (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", plain),
        (b"\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", plain),
        (b"GET http://a.example/b?c HTTP/1.1\r\nHost: a.example\r\n\r\n", plain),
        (b"GET HTTP://[::1]:80 HTTP/1.1\r\nHost: a.example\r\n\r\n", plain),
        (b"GET a+b://c?d HTTP/1.1\r\nHost:\r\n\r\n", plain),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", plain),
        (b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", connect),
        (b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n", connect),
        (b"GET /234567890123456789012345678901234567890 HTTP/1.1\r\nHost: a\r\n\r\n", plain),
        (b"GET / HTTP/1.1\r\nHost: a\r\nB:\r\nC:\r\nD:\r\nE:\r\nF:\r\n\r\n", plain),
        // Persistence.
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", closing),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, CLOSE\r\n\r\n", closing),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: ,a ,\tClose\r\nConnection: keep-alive\r\n\r\n", closing),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: closer\r\n\r\n", plain),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings:\r\n\r\n", plain),
        (b"GET / HTTP/1.0\r\n\r\n", http10),
        (b"GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n", RequestHead { keep_alive: true, ..http10 }),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", http10),
        // Bodies.
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", five),
        (b"POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:\t005 \r\n\r\n", five),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0000000000000000000000000000005\r\n\r\n", five),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", plain),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", five),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n", plain),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", RequestHead { body: Body::Length(1000), ..plain }),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", chunked),
        (b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding:CHUNKED \r\n\r\n", chunked),
        (b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n", RequestHead { body: Body::Length(5), ..http10 }),
        // Expectations.
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n",
            RequestHead { expects_continue: true, ..five }),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
            RequestHead { expects_continue: true, ..chunked }),
        (b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
            RequestHead { body: Body::Length(5), ..http10 }),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", plain),
    ];
    rows.iter().map(|(bytes, head)| (*bytes, RequestHead { length: bytes.len(), ..*head })).collect()
}

/// Reads every beginning of `bytes`: until one says something else than "incomplete", and from then
/// on all say the same. Returns that, and how many bytes it took.
fn read_cut(bytes: &[u8], limits: &Limits) -> (Result<Option<RequestHead>, RequestError>, usize) {
    let mut said = (Ok(None), 0);
    for end in 0..=bytes.len() {
        let now = parse_request(&bytes[..end], limits);
        if said.0 == Ok(None) {
            said = (now, end);
        } else {
            assert_eq!(now, said.0, "{} cut at {end}", bytes.escape_ascii());
        }
    }
    said
}

#[test]
fn malformed_requests_are_refused_with_their_status_however_cut() {
    for (status, bytes) in REFUSED {
        let (said, _) = read_cut(bytes, &LIMITS);
        let refusal = said.expect_err(&bytes.escape_ascii().to_string());
        assert_eq!(
            refusal.status,
            *status,
            "{}: {}",
            bytes.escape_ascii(),
            refusal.reason
        );
    }
}

#[test]
fn valid_requests_are_parsed_however_cut() {
    for (bytes, expected) in served() {
        let (said, end) = read_cut(bytes, &LIMITS);
        assert_eq!(said, Ok(Some(expected)), "{}", bytes.escape_ascii());
        assert_eq!(end, bytes.len(), "{}", bytes.escape_ascii());
    }
}

#[test]
fn head_ends_where_the_next_request_begins() {
    let rows = served();
    for (bytes, expected) in &rows {
        for (next, _) in &rows {
            let both = [*bytes, *next].concat();
            assert_eq!(parse_request(&both, &LIMITS), Ok(Some(*expected)));
        }
    }
}

#[test]
fn head_longer_than_the_limit_is_refused() {
    let fixed = b"GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
    let with = |count: usize| {
        let mut bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
        bytes.resize(bytes.len() + count, b'x');
        bytes.extend(b"\r\n\r\n");
        bytes
    };
    let longest = with(LIMITS.head_bytes_max - fixed);
    assert_eq!(read_cut(&longest, &LIMITS).1, LIMITS.head_bytes_max);
    assert!(matches!(parse_request(&longest, &LIMITS), Ok(Some(_))));
    for excess in [1, 2, 1_000] {
        let (said, end) = read_cut(&with(LIMITS.head_bytes_max - fixed + excess), &LIMITS);
        assert_eq!(said.map_err(|refusal| refusal.status), Err(431));
        assert_eq!(end, LIMITS.head_bytes_max);
    }
    // A fault behind the limit does not hide it.
    let mut faulty = with(LIMITS.head_bytes_max);
    faulty.extend(b"\0");
    assert_eq!(
        read_cut(&faulty, &LIMITS)
            .0
            .map_err(|refusal| refusal.status),
        Err(431)
    );
}

#[test]
fn default_limits_are_those_documented() {
    let limits = Limits::default();
    let with = |target: usize, headers: usize| {
        let mut bytes = b"GET /".to_vec();
        bytes.resize(4 + target, b'a');
        bytes.extend(b" HTTP/1.1\r\nHost: a\r\n");
        for _ in 1..headers {
            bytes.extend(b"A: b\r\n");
        }
        bytes.extend(b"\r\n");
        parse_request(&bytes, &limits)
            .map(|head| head.is_some())
            .map_err(|refusal| refusal.status)
    };
    assert_eq!(with(8 << 10, 64), Ok(true));
    assert_eq!(with((8 << 10) + 1, 1), Err(414));
    assert_eq!(with(1, 65), Err(431));
    // More than there is room for is as many as there is room for.
    let all = Limits {
        head_bytes_max: 64 << 10,
        header_count_max: usize::MAX,
        ..limits
    };
    let many = |count: usize| {
        [
            &b"GET / HTTP/1.0\r\n"[..],
            &b"A: b\r\n".repeat(count),
            b"\r\n",
        ]
        .concat()
    };
    assert!(matches!(
        parse_request(&many(HEADER_COUNT_CEILING), &all),
        Ok(Some(_))
    ));
    assert_eq!(
        parse_request(&many(HEADER_COUNT_CEILING + 1), &all).map_err(|refusal| refusal.status),
        Err(431)
    );
}

#[test]
fn empty_lines_alone_are_incomplete() {
    assert_eq!(parse_request(b"", &LIMITS), Ok(None));
    assert_eq!(
        parse_request(&b"\r\n".repeat(EMPTY_LINES_MAX), &LIMITS),
        Ok(None)
    );
    let more = parse_request(&b"\r\n".repeat(EMPTY_LINES_MAX + 1), &LIMITS);
    assert_eq!(more.map_err(|refusal| refusal.status), Err(400));
}

#[test]
fn random_bytes_never_panic_nor_depend_on_cuts() {
    let mut random = Random::new(0x0068_6f6c_6466_6173);
    let sound = served();
    for _ in 0..6_000 {
        let row = match random.below(3) {
            0 => random.choose(REFUSED).1,
            _ => random.choose(&sound).0,
        };
        let bytes = random.spoil(row);
        if let (Ok(Some(head)), end) = read_cut(&bytes, &LIMITS) {
            assert_eq!(head.length, end);
            assert!(head.body != Body::UntilClose && head.body != Body::Length(0));
            // What was accepted has no line end but CRLF.
            let text = &bytes[..end];
            let crlf_count = text.windows(2).filter(|pair| *pair == b"\r\n").count();
            assert_eq!(
                text.iter().filter(|byte| **byte == b'\n').count(),
                crlf_count
            );
            assert_eq!(
                text.iter().filter(|byte| **byte == b'\r').count(),
                crlf_count
            );
        }
    }
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..random.below(64)).map(|_| random.next() as u8).collect();
        let head = parse_request(&bytes, &Limits::default());
        assert!(!matches!(head, Ok(Some(head)) if head.length > bytes.len()));
    }
}
