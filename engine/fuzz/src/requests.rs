//! Heads of requests: cut against whole, and whole against the reference.
//!
//! The reference and the parser must agree on every head that has its end: served or not, and on
//! all that is read from it. Allowed differences, and why:
//! - Of several faults the parser names the first that it meets, the reference lists all: the
//!   parser's has to be among them. What is wrong only with what a sound head says has one status,
//!   exactly.
//! - The parser refuses as early as it can, the reference waits for the empty line: an early
//!   refusal is right if no way to go on makes the reference accept.
//! - A version that is none of ours is refused at the CR behind it, before it is seen that no LF
//!   follows.
//! - A head longer than the limit is refused, with the first fault or with 431.

use holdfast_http1::{Limits, RequestError, RequestHead, parse_request};

use crate::input::{options, read_cut, some};
use crate::reference::{self, Said};

/// Small limits, so that short inputs exceed them.
pub const SMALL: Limits = Limits {
    head_bytes_max: 400,
    target_bytes_max: 40,
    header_count_max: 6,
    body_bytes_max: 1_000,
};

/// Possible continuations of a head.
const ENDINGS: &[&[u8]] = &[
    b"\r\n\r\n",
    b"\n\r\n",
    b"\n",
    b"\r\nHost: a\r\n\r\n",
    b"\nHost: a\r\n\r\n",
    b" / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HTTP/1.1\r\nHost: a\r\n\r\n",
    b"1\r\nHost: a\r\n\r\n",
    b"0\r\n\r\n",
    b": a\r\n\r\n",
    b"a:\r\n\r\n",
    b"a:\r\nHost: a\r\n\r\n",
];

/// The limits that an option byte asks for.
pub fn limits(option: u8) -> Limits {
    match option & 1 {
        0 => SMALL,
        _ => Limits::default(),
    }
}

/// Heads of requests.
pub fn http_request(data: &[u8]) {
    let Some((option, bytes)) = options(data) else {
        return;
    };
    let bytes = &bytes[..];
    let limits = limits(option);
    let parse = |bytes: &[u8]| parse_request(bytes, &limits);
    let said = read_cut(bytes, parse, |said| *said == Ok(None));
    match (&said, reference::request(bytes, &limits)) {
        (Ok(Some(head)), Said::Sound(expected)) => {
            assert_eq!(*head, expected, "the reference");
            check_length(bytes, head, &limits);
        }
        (Ok(None), Said::Open) => assert!(bytes.len() < limits.head_bytes_max, "431 by now"),
        (Err(refusal), Said::Open) => check_early(bytes, refusal, &limits),
        (Err(refusal), Said::Wrong(statuses)) => {
            let is_first_fault = statuses.contains(&refusal.status);
            // What stands between empty lines and a request that is cut off there is judged before
            // anything else.
            let is_too_many_lines = bytes.starts_with(b"\r") || bytes.starts_with(b"\n");
            assert!(
                is_first_fault || is_too_many_lines && refusal.status == 400,
                "{refusal:?}, not {statuses:?}"
            );
        }
        (said, expected) => panic!("{said:?}, but the reference says {expected:?}"),
    }
}

/// The head is exactly so long, whatever follows.
fn check_length(bytes: &[u8], head: &RequestHead, limits: &Limits) {
    let whole = &bytes[..head.length];
    assert_eq!(parse_request(whole, limits), Ok(Some(*head)));
    assert_eq!(parse_request(&whole[..head.length - 1], limits), Ok(None));
    let followed = [whole, b"\r\n\0\xff: GET"].concat();
    assert_eq!(parse_request(&followed, limits), Ok(Some(*head)));
}

/// Asserts that no continuation would have made the head valid.
fn check_early(bytes: &[u8], refusal: &RequestError, limits: &Limits) {
    if bytes.len() >= limits.head_bytes_max {
        return;
    }
    for ending in some(ENDINGS, bytes.len()) {
        let went_on = [bytes, ending].concat();
        let said = reference::request(&went_on, limits);
        assert!(
            !matches!(said, Said::Sound(_)),
            "{refusal:?}, but sound with {}",
            ending.escape_ascii()
        );
    }
}
