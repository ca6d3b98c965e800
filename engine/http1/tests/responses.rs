//! Responses: a table of those that are malformed, and one of those read, with what is read from them.
//!
//! Every row is also cut at every byte. Expected values come from RFC 9112, 6.3 and 9.3.
//! Must not know: how the parser works.
#![forbid(unsafe_code)]

mod common;

use common::Random;
use holdfast_http1::{Body, Limits, Malformed, ResponseHead, parse_response, status_reason};

/// Small, so that rows can exceed them.
const LIMITS: Limits = Limits {
    head_bytes_max: 200,
    target_bytes_max: 0,
    header_count_max: 4,
    body_bytes_max: 0,
};

#[rustfmt::skip]
const MALFORMED: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5,\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked; a=b\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\n",
    b"HTTP/1.1 200 OK\n\r\n",
    b"HTTP/1.1 200 OK\r\n\n",
    b"HTTP/1.1 200 O\rK\r\n",
    b"HTTP/1.1 200 O\0K\r\n",
    b"HTTP/1.1 200 OK\r\nA : b\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n",
    b"HTTP/1.1 200 OK\r\nA: \x01\r\n",
    b"HTTP/1.1 200 OK\r\n: b\r\n",
    b"HTTP/1.1 200 OK\r\n\rA",
    b"HTTP/1.1 099 Low\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n",
    b"HTTP/1.1 2000 OK\r\n",
    b"HTTP/1.1 2x0 OK\r\n",
    b"HTTP/1.1  200 OK\r\n",
    b"HTTP/1.1\r\n",
    b"HTTP/2.0 200 OK\r\n",
    b"HTTP/2 200\r\n",
    b"HTTP/1.2 200 OK\r\n",
    b"http/1.1 200 OK\r\n",
    b"\r\nHTTP/1.1 200 OK\r\n",
    b"\n",
    b"SSH-2.0-OpenSSH_9.2p1\r\n",
    b"HTTP/1.1 200 OK\r\nA:\r\nB:\r\nC:\r\nD:\r\nE:\r\n",
    b"HTTP/1.1 200 OK\r\nA: 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\
        01234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
];

/// Bytes, whether the request was HEAD, status, keep_alive, body.
type Row = (&'static [u8], bool, u16, bool, Body);

#[rustfmt::skip]
const SOUND: &[Row] = &[
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, 200, true, Body::Length(5)),
    (b"HTTP/1.1 200 OK\r\ncontent-length:18446744073709551615\r\n\r\n", false, 200, true, Body::Length(u64::MAX)),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 200, true, Body::None),
    (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", false, 200, true, Body::Length(5)),
    (b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n", false, 200, true, Body::Length(5)),
    (b"HTTP/1.1 999 \xfcber\r\nContent-Length: 5\r\n\r\n", false, 999, true, Body::Length(5)),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 05\r\n\r\n", false, 200, true, Body::Length(5)),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5 ,\t5\r\n\r\n", false, 200, true, Body::Length(5)),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", false, 200, false, Body::Length(5)),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: a, Close, keep-alive\r\n\r\n", false, 200, false, Body::Length(5)),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", false, 200, false, Body::Length(5)),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive\r\n\r\n", false, 200, true, Body::Length(5)),
    (b"HTTP/1.1 200 OK\r\n\r\n", false, 200, false, Body::UntilClose),
    (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", false, 200, false, Body::UntilClose),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", false, 200, true, Body::Chunked),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", false, 200, true, Body::Chunked),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", false, 200, true, Body::Chunked),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", false, 200, false, Body::UntilClose),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", false, 200, false, Body::UntilClose),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, 200, true, Body::None),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true, 200, true, Body::None),
    (b"HTTP/1.1 200 OK\r\n\r\n", true, 200, true, Body::None),
    (b"HTTP/1.1 204 No Content\r\n\r\n", false, 204, true, Body::None),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, 304, true, Body::None),
    (b"HTTP/1.1 100 Continue\r\n\r\n", false, 100, true, Body::None),
    (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", false, 103, true, Body::None),
    (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n", false, 101, false, Body::None),
    (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", false, 205, true, Body::None),
    (b"HTTP/1.1 200 OK\r\nA:\r\nB:\r\nC:\r\nContent-Length: 5\r\n\r\n", false, 200, true, Body::Length(5)),
];

/// As for requests: what is said first is said for all longer beginnings.
fn read_cut(bytes: &[u8], was_head: bool) -> (Result<Option<ResponseHead>, Malformed>, usize) {
    let mut said = (Ok(None), 0);
    for end in 0..=bytes.len() {
        let now = parse_response(&bytes[..end], was_head, &LIMITS);
        if said.0 == Ok(None) {
            said = (now, end);
        } else {
            assert_eq!(now, said.0, "{} cut at {end}", bytes.escape_ascii());
        }
    }
    said
}

#[test]
fn what_is_malformed_is_seen_however_it_is_cut() {
    for bytes in MALFORMED {
        for was_head in [false, true] {
            assert!(
                read_cut(bytes, was_head).0.is_err(),
                "{}",
                bytes.escape_ascii()
            );
        }
    }
}

#[test]
fn what_is_sound_is_read_however_it_is_cut() {
    for (bytes, was_head, status, keep_alive, body) in SOUND {
        let expected = ResponseHead {
            length: bytes.len(),
            status: *status,
            keep_alive: *keep_alive,
            body: *body,
        };
        let (said, end) = read_cut(bytes, *was_head);
        assert_eq!(said, Ok(Some(expected)), "{}", bytes.escape_ascii());
        assert_eq!(end, bytes.len());
        // What follows makes no difference.
        let followed = [*bytes, b"\r\n\n\0HTTP/1.1 200"].concat();
        assert_eq!(
            parse_response(&followed, *was_head, &LIMITS),
            Ok(Some(expected))
        );
    }
}

#[test]
fn no_bytes_make_it_panic_or_depend_on_how_they_were_cut() {
    let mut random = Random::new(0x7265_7370_6f6e_7365);
    for _ in 0..6_000 {
        let row = match random.below(3) {
            0 => random.choose(MALFORMED),
            _ => random.choose(SOUND).0,
        };
        let bytes = random.spoil(row);
        let was_head = random.below(2) == 0;
        if let (Ok(Some(head)), end) = read_cut(&bytes, was_head) {
            assert_eq!(head.length, end);
            assert!((100..=999).contains(&head.status));
            assert!(!(head.keep_alive && head.body == Body::UntilClose));
        }
    }
    for _ in 0..20_000 {
        let mut bytes = b"HTTP/1.1 ".to_vec();
        bytes.extend((0..random.below(32)).map(|_| random.next() as u8));
        let head = parse_response(&bytes, false, &Limits::default());
        assert!(!matches!(head, Ok(Some(head)) if head.length > bytes.len()));
    }
}

#[test]
fn reasons_are_those_registered() {
    assert_eq!(status_reason(200), "OK");
    assert_eq!(status_reason(413), "Content Too Large");
    assert_eq!(status_reason(431), "Request Header Fields Too Large");
    assert_eq!(status_reason(299), "");
    // Every status a request can be refused with has one.
    for status in [400, 413, 414, 417, 431, 501, 505] {
        assert_ne!(status_reason(status), "");
    }
    // They go into a status line as they are.
    for status in 0..=u16::MAX {
        assert!(
            status_reason(status)
                .bytes()
                .all(|byte| byte == b' ' || byte.is_ascii_graphic())
        );
    }
}
