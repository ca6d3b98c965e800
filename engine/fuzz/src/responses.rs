//! Heads of responses: cut against whole, and whole against the reference.
//!
//! As for requests, the parser may refuse before the reference sees the end of the head, if no way
//! to go on would be accepted.

use holdfast_http1::{Limits, parse_response};

use crate::input::{options, read_cut, some};
use crate::reference::{self, Said};
use crate::requests::SMALL;

const ENDINGS: &[&[u8]] = &[
    b"\r\n\r\n",
    b"\n\r\n",
    b"\n",
    b" 200 OK\r\n\r\n",
    b"200 OK\r\n\r\n",
    b"200\r\n\r\n",
    b"0\r\n\r\n",
    b"00 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"1 200 OK\r\n\r\n",
    b": a\r\n\r\n",
    b"a:\r\n\r\n",
];

/// Heads of responses.
pub fn http_response(data: &[u8]) {
    let Some((option, bytes)) = options(data) else {
        return;
    };
    let bytes = &bytes[..];
    let was_head = option & 2 != 0;
    let limits = match option & 1 {
        0 => SMALL,
        _ => Limits::default(),
    };
    let parse = |bytes: &[u8]| parse_response(bytes, was_head, &limits);
    let said = read_cut(bytes, parse, |said| *said == Ok(None));
    match (&said, reference::response(bytes, was_head, &limits)) {
        (Ok(Some(head)), Said::Sound(expected)) => {
            assert_eq!(*head, expected, "the reference");
            let whole = &bytes[..head.length];
            assert_eq!(parse(whole), said);
            assert_eq!(parse(&whole[..head.length - 1]), Ok(None));
            assert_eq!(parse(&[whole, b"\r\n\0\xff: HTTP"].concat()), said);
        }
        (Ok(None), Said::Open) => assert!(bytes.len() < limits.head_bytes_max, "too long by now"),
        (Err(_), Said::Wrong(_)) => {}
        (Err(_), Said::Open) if bytes.len() >= limits.head_bytes_max => {}
        (Err(refusal), Said::Open) => {
            for ending in some(ENDINGS, bytes.len()) {
                let went_on = [bytes, ending].concat();
                let said = reference::response(&went_on, was_head, &limits);
                assert!(
                    !matches!(said, Said::Sound(_)),
                    "{refusal:?}, but sound with {}",
                    ending.escape_ascii()
                );
            }
        }
        (said, expected) => panic!("{said:?}, but the reference says {expected:?}"),
    }
}
