//! Responses: tables of those that are malformed, valid, and odd but tolerated, with what is read
//! from them.
//!
//! Every row is also cut at every byte. Expected values come from RFC 9112, 2.2, 5.2, 6.1, 6.3 and
//! 9.3.
//! Must not depend on: how the parser works.
#![forbid(unsafe_code)]

mod common;

use std::collections::HashSet;

use common::Random;
use holdfast_http1::{
    Body, Limits, Malformed, Oddities, Oddity, ResponseHead, parse_response, status_reason,
};

/// Small, so that rows can exceed them.
const LIMITS: Limits = Limits {
    head_bytes_max: 200,
    target_bytes_max: 0,
    header_count_max: 4,
    body_bytes_max: 0,
};

use Malformed as M;

/// What is malformed, and the rule it breaks. A head is left open where it has to be refused before
/// it ends.
#[rustfmt::skip]
const MALFORMED: &[(Malformed, &[u8])] = &[
    (M::ContentLengths, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
    (M::ContentLengths, b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n"),
    (M::ContentLengths, b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 5, 6\r\n\r\n"),
    (M::ContentLength, b"HTTP/1.1 200 OK\r\nContent-Length: 5,\r\n\r\n"),
    (M::ContentLength, b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n"),
    (M::ContentLength, b"HTTP/1.1 200 OK\r\nContent-Length: 5 5\r\n\r\n"),
    (M::ContentLength, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n 5\r\n\r\n"),
    (M::ContentLength, b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n"),
    (M::ContentLength, b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n"),
    (M::ContentLength, b"HTTP/1.1 200 OK\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (M::TransferEncoding, b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n"),
    (M::TransferEncoding, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
    (M::TransferEncoding, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (M::TransferEncoding, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (M::TransferEncoding, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked; a=b\r\n\r\n"),
    (M::TransferEncoding, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chun\r\n ked\r\n\r\n"),
    (M::StatusLine, b"HTTP/1.1 200 O\rK\r\n"),
    (M::StatusLine, b"HTTP/1.1 200 O\0K\r\n"),
    (M::HeaderName, b"HTTP/1.1 200 OK\r\nA : b\r\n"),
    (M::HeaderName, b"HTTP/1.1 200 OK\r\n A: b\r\n"),
    (M::HeaderName, b"HTTP/1.1 200 OK\r\nA\r\n"),
    (M::HeaderName, b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nB : c\r\n"),
    (M::HeaderValue, b"HTTP/1.1 200 OK\r\nA: \x01\r\n"),
    (M::HeaderValue, b"HTTP/1.1 200 OK\r\nA: b\r\n c\rd\r\n"),
    (M::HeaderValue, b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nB: \0\r\n"),
    (M::HeaderName, b"HTTP/1.1 200 OK\r\n: b\r\n"),
    (M::LineEnd, b"HTTP/1.1 200 OK\r\n\rA"),
    (M::StatusLine, b"HTTP/1.1 099 Low\r\n\r\n"),
    (M::StatusLine, b"HTTP/1.5 099 Low\r\n\r\n"),
    (M::StatusLine, b"HTTP/1.1 20 OK\r\n"),
    (M::StatusLine, b"HTTP/1.1 2000 OK\r\n"),
    (M::StatusLine, b"HTTP/1.2 2000 OK\r\n"),
    (M::StatusLine, b"HTTP/1.1 2x0 OK\r\n"),
    (M::StatusLine, b"HTTP/1.2 2x0 OK\r\n"),
    (M::StatusLine, b"HTTP/1.1  200 OK\r\n"),
    (M::StatusLine, b"HTTP/1.10 200 OK\r\n"),
    (M::StatusLine, b"HTTP/1.20 200 OK\r\n"),
    (M::StatusLine, b"HTTP/1.2\r\n"),
    (M::StatusLine, b"HTTP/1.2 200 \x01\r\n"),
    (M::Version, b"HTTP/2.0 200 OK\r\n"),
    (M::Version, b"HTTP/2 200\r\n"),
    (M::Version, b"HTTP/0.9 200 OK\r\n"),
    (M::Version, b"HTTP/1.x 200 OK\r\n"),
    (M::Version, b"http/1.1 200 OK\r\n"),
    (M::Version, b"SSH-2.0-OpenSSH_9.2p1\r\n"),
    (M::StatusLine, b"\r\nHTTP/1.1 200 OK\r\n"),
    (M::StatusLine, b"\n"),
    (M::TooManyHeaders, b"HTTP/1.1 200 OK\r\nA:\r\nB:\r\nC:\r\nD:\r\nE:\r\n"),
    (M::TooManyHeaders, b"HTTP/1.3 200 OK\r\nA:\r\nB:\r\nC:\r\nD:\r\nE:\r\n"),
    (M::HeadTooLong, b"HTTP/1.1 200 OK\r\nA: 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\
        01234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"),
    (M::HeadTooLong, b"HTTP/1.9 200 OK\r\nA: 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\
        01234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"),
];

/// What is tolerated: the bytes, what is odd about them, keep_alive, body. All have status 200.
#[rustfmt::skip]
const ODD: &[(&[u8], &[Oddity], bool, Body)] = &[
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", &[Oddity::LengthBesideEncoding], false, Body::Chunked),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", &[Oddity::LengthBesideEncoding], false, Body::Chunked),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 5\r\n\r\n", &[Oddity::LengthBesideEncoding], false, Body::UntilClose),
    (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", &[Oddity::EncodingInHttp10], false, Body::Chunked),
    (b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n", &[Oddity::BareLf], true, Body::Length(5)),
    (b"HTTP/1.1 200\nContent-Length: 5\r\n\r\n", &[Oddity::BareLf], true, Body::Length(5)),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\n", &[Oddity::BareLf], true, Body::Length(5)),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\n", &[Oddity::BareLf], true, Body::Length(5)),
    (b"HTTP/1.1 200 OK\nContent-Length: 5\n\n", &[Oddity::BareLf], true, Body::Length(5)),
    (b"HTTP/1.1 200 OK\n\r\n", &[Oddity::BareLf], false, Body::UntilClose),
    (b"HTTP/1.1 200 OK\r\n\n", &[Oddity::BareLf], false, Body::UntilClose),
    (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 5\r\n\r\n", &[Oddity::FoldedLine], true, Body::Length(5)),
    (b"HTTP/1.1 200 OK\r\nA: b\r\n\tc\r\n \r\n\r\n", &[Oddity::FoldedLine], false, Body::UntilClose),
    (b"HTTP/1.1 200 OK\r\nContent-Length:\r\n 5\r\n\r\n", &[Oddity::FoldedLine], true, Body::Length(5)),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5 ,\r\n\t5\r\n\r\n", &[Oddity::FoldedLine], true, Body::Length(5)),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip,\r\n chunked\r\n\r\n", &[Oddity::FoldedLine], true, Body::Chunked),
    (b"HTTP/1.1 200 OK\r\nConnection: a,\r\n close\r\nContent-Length: 5\r\n\r\n", &[Oddity::FoldedLine], false, Body::Length(5)),
    (b"HTTP/1.1 200 OK\nA: b\n c\nContent-Length: 5\n\n", &[Oddity::FoldedLine, Oddity::BareLf], true, Body::Length(5)),
    (b"HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\n", &[Oddity::MinorVersion], true, Body::Length(5)),
    (b"HTTP/1.9 200\r\nContent-Length: 5\r\n\r\n", &[Oddity::MinorVersion], true, Body::Length(5)),
    (b"HTTP/1.9 200 \xfcber\r\nA:\r\nB:\r\nC:\r\nD:\r\n\r\n", &[Oddity::MinorVersion], false, Body::UntilClose),
    (b"HTTP/1.2 200 OK\nA: b\n c\nContent-Length: 0\nTransfer-Encoding: chunked\n\n",
        &[Oddity::FoldedLine, Oddity::BareLf, Oddity::MinorVersion, Oddity::LengthBesideEncoding], false, Body::Chunked),
];

/// Bytes, whether the request was HEAD, status, keep_alive, body.
type Row = (&'static [u8], bool, u16, bool, Body);

#[rustfmt::skip]
const VALID: &[Row] = &[
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
fn malformed_responses_are_refused_with_their_rule_however_cut() {
    for (rule, bytes) in MALFORMED {
        for was_head in [false, true] {
            let said = read_cut(bytes, was_head).0;
            assert_eq!(said, Err(*rule), "{}", bytes.escape_ascii());
        }
    }
}

fn check(bytes: &[u8], was_head: bool, expected: ResponseHead) {
    let (said, end) = read_cut(bytes, was_head);
    assert_eq!(said, Ok(Some(expected)), "{}", bytes.escape_ascii());
    assert_eq!(end, bytes.len());
    // What follows makes no difference.
    let followed = [bytes, b"\r\n\n\0HTTP/1.1 200"].concat();
    assert_eq!(
        parse_response(&followed, was_head, &LIMITS),
        Ok(Some(expected))
    );
}

#[test]
fn valid_responses_are_parsed_however_cut() {
    for (bytes, was_head, status, keep_alive, body) in VALID {
        let expected = ResponseHead {
            length: bytes.len(),
            status: *status,
            keep_alive: *keep_alive,
            body: *body,
            oddities: Oddities::NONE,
        };
        check(bytes, *was_head, expected);
    }
}

#[test]
fn odd_responses_are_parsed_and_their_oddities_noted() {
    for (bytes, odd, keep_alive, body) in ODD {
        let mut oddities = Oddities::NONE;
        odd.iter().for_each(|oddity| oddities.insert(*oddity));
        assert!(oddities.iter().eq(odd.iter().copied()), "{oddities:?}");
        let expected = ResponseHead {
            length: bytes.len(),
            status: 200,
            keep_alive: *keep_alive,
            body: *body,
            oddities,
        };
        check(bytes, false, expected);
        let (said, _) = read_cut(bytes, true);
        let said = said.expect("valid").expect("complete");
        assert_eq!((said.body, said.oddities), (Body::None, oddities));
    }
}

#[test]
fn limits_are_parameters() {
    let with = |count: usize| {
        let lines = b"A: b\r\n".repeat(count);
        [b"HTTP/1.1 200 OK\r\n", &lines[..], b"\r\n"].concat()
    };
    let limits = Limits::RESPONSE;
    assert!(matches!(
        parse_response(&with(256), false, &limits),
        Ok(Some(_))
    ));
    assert_eq!(
        parse_response(&with(257), false, &limits),
        Err(Malformed::TooManyHeaders)
    );
    let more = Limits {
        header_count_max: 300,
        ..limits
    };
    assert!(matches!(
        parse_response(&with(257), false, &more),
        Ok(Some(_))
    ));
    let long = [b"HTTP/1.1 200 OK\r\nA: ", &[b'x'; 64 << 10][..]].concat();
    assert_eq!(
        parse_response(&long, false, &limits),
        Err(Malformed::HeadTooLong)
    );
}

#[test]
fn labels_are_unique_and_descriptions_are_sentences() {
    let labels: HashSet<_> = Malformed::ALL.iter().map(|rule| rule.label()).collect();
    assert_eq!(labels.len(), Malformed::ALL.len());
    let labels: HashSet<_> = Oddity::ALL.iter().map(|oddity| oddity.label()).collect();
    assert_eq!(labels.len(), Oddity::ALL.len());
    for (number, rule) in Malformed::ALL.iter().enumerate() {
        assert_eq!(*rule as usize, number);
        assert!(rule.to_string().contains(' '), "{rule}");
    }
}

#[test]
fn random_bytes_never_panic_nor_depend_on_cuts() {
    let mut random = Random::new(0x7265_7370_6f6e_7365);
    for _ in 0..8_000 {
        let row = match random.below(4) {
            0 => random.choose(MALFORMED).1,
            1 => random.choose(ODD).0,
            _ => random.choose(VALID).0,
        };
        let bytes = random.spoil(row);
        let was_head = random.below(2) == 0;
        if let (Ok(Some(head)), end) = read_cut(&bytes, was_head) {
            assert_eq!(head.length, end);
            assert!((100..=999).contains(&head.status));
            assert!(!(head.keep_alive && head.body == Body::UntilClose));
            let text = &bytes[..end];
            let crlf_count = text.windows(2).filter(|pair| *pair == b"\r\n").count();
            let lf_count = text.iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(
                head.oddities.contains(Oddity::BareLf),
                lf_count > crlf_count,
                "{}",
                text.escape_ascii()
            );
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
fn reason_phrases_are_those_registered() {
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
