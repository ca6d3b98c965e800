//! The head of a response, as a client reads it that asked with HEAD or without.
//!
//! Purpose: where a response's head ends, how its body is framed, and what becomes of the connection after it.
//! Invariants: as in a request, bytes that come later never change an answer other than "incomplete".
//!
//! Where RFC 9112 leaves a choice:
//! - A bare LF ends no line, and no empty line comes before a response. Versions other than 1.1 and 1.0 are malformed.
//! - Content-Length beside Transfer-Encoding, and Transfer-Encoding in HTTP/1.0, are faulty framing (6.1): malformed.
//! - Equal Content-Lengths count as one, repeated or as a list (6.3); different ones are malformed.
//! - These rules hold for responses without a body as well: what is in the head is then ignored, but it has to be sound.
//!
//! Must not know: requests other than whether one was HEAD. Responses to CONNECT are not for this parser.

use httparse::{Error, Header, ParserConfig, Response, Status};

use crate::head::{
    Body, Coding, Malformed, Persistence, elements, header_count_max, header_space,
    line_ends_are_crlf, number, window,
};
use crate::limits::Limits;

/// What framing needs to know of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHead {
    /// Bytes of the head, the empty line that ends it included. The body begins here.
    pub length: usize,
    /// The status code, 100 to 999.
    pub status: u16,
    /// Whether another response may follow. Never after a 101: what follows that is no HTTP/1.1.
    pub keep_alive: bool,
    /// How the end of the body is found.
    pub body: Body,
}

/// Reads the head at the beginning of `bytes`, the answer to a HEAD request if `was_head`. `Ok(None)`: it is not complete, more
/// bytes are needed. Heads with a status below 200 are returned too, without a body; but for 101, the caller passes over them.
///
/// # Errors
/// [`Malformed`], as early as the bytes show it; the connection is of no more use.
pub fn parse_response(
    bytes: &[u8],
    was_head: bool,
    limits: &Limits,
) -> Result<Option<ResponseHead>, Malformed> {
    let window = window(bytes, limits);
    // httparse would pass over empty lines, any number of them.
    if let Some(b'\r' | b'\n') = window.first() {
        return malformed("an empty line comes before the status line");
    }
    let mut space = header_space();
    let mut response = Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        window,
        &mut space[..header_count_max(limits)],
    );
    let (Ok(Status::Complete(length)), Some(status), Some(minor)) =
        (parsed, response.code, response.version)
    else {
        return unfinished(parsed.err(), window.len() == limits.head_bytes_max);
    };
    if status < 100 {
        return malformed("the status is below 100");
    }
    if !line_ends_are_crlf(&window[..length], response.headers) {
        return malformed("a line of the head ends in a bare LF");
    }
    let is_http10 = minor == 0;
    let (persistence, announced) = read_headers(response.headers, is_http10)?;
    let body = if was_head || matches!(status, 100..=199 | 204 | 304) {
        Body::None
    } else {
        announced
    };
    Ok(Some(ResponseHead {
        length,
        status,
        keep_alive: persistence.stays(is_http10) && body != Body::UntilClose && status != 101,
        body,
    }))
}

/// A mistake, where a `Result` is wanted.
#[cold]
fn malformed<T>(why: &'static str) -> Result<T, Malformed> {
    Err(Malformed(why))
}

/// The answer to a head httparse refused, or has not seen the end of.
#[cold]
fn unfinished<T>(error: Option<Error>, is_full: bool) -> Result<Option<T>, Malformed> {
    malformed(match error {
        None if is_full => "the head is too long",
        None => return Ok(None),
        Some(Error::TooManyHeaders) => "there are too many headers",
        Some(Error::HeaderName) => "a header's name is malformed, or a line is folded",
        Some(Error::HeaderValue) => "a header's value has a control character",
        Some(Error::Version) => "the version is neither HTTP/1.1 nor HTTP/1.0",
        Some(Error::Status) => "the status line is malformed",
        Some(Error::NewLine | Error::Token) => "a line does not end in CRLF",
    })
}

/// What the headers say of the connection and of the body, in one pass: by length first, since almost none has the right one.
#[inline]
fn read_headers(headers: &[Header<'_>], is_http10: bool) -> Result<(Persistence, Body), Malformed> {
    let mut length = None;
    let mut coding = None;
    let mut persistence = Persistence::default();
    for Header { name, value } in headers {
        match name.len() {
            10 if name.eq_ignore_ascii_case("connection") => persistence.note(value),
            14 if name.eq_ignore_ascii_case("content-length") => {
                for element in elements(value) {
                    let Some(number) = number(element) else {
                        return malformed("Content-Length is no number, or too large a one");
                    };
                    if *length.get_or_insert(number) != number {
                        return malformed("there are different Content-Lengths");
                    }
                }
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                coding = Some(Coding::after(coding, value));
            }
            _ => {}
        }
    }
    let body = match coding {
        None => Body::announced(length).unwrap_or(Body::UntilClose),
        Some(_) if length.is_some() => {
            return malformed("there are both Content-Length and Transfer-Encoding");
        }
        Some(_) if is_http10 => return malformed("there is a Transfer-Encoding in HTTP/1.0"),
        Some(Coding::Chunked | Coding::OthersThenChunked) => Body::Chunked,
        Some(Coding::Others | Coding::ChunkedThenOthers) => Body::UntilClose,
        Some(Coding::Faulty) => return malformed("the transfer codings are malformed"),
    };
    Ok((persistence, body))
}
