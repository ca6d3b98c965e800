//! The head of a response, as a user agent reads it: tolerant where RFC 9112 lets it be or other
//! agents are, and explicit about it.
//!
//! Invariants: as in a request, bytes that come later never change an answer other than
//! "incomplete".
//!
//! What is tolerated is noted in [`ResponseHead::oddities`]:
//! - A bare LF ends a line (RFC 9112, 2.2). Line breaks of a folded value count as spaces (5.2).
//!   HTTP/1.2 to 1.9 are read as 1.1 (RFC 9110, 2.5).
//! - Transfer-Encoding overrides Content-Length, and the connection closes afterwards (RFC 9112,
//!   6.3). So it does after a Transfer-Encoding in HTTP/1.0 (6.1).
//!
//! Where RFC 9112 leaves a choice:
//! - No empty line comes before a response.
//! - Equal Content-Lengths count as one, repeated or as a list (6.3); different ones are malformed.
//! - These rules hold for responses without a body as well: their framing is then ignored, but it
//!   has to be valid.
//!
//! Must not depend on: requests, other than whether one was HEAD. Responses to CONNECT are not for
//! this parser.

use httparse::{Error, Header, ParserConfig, Response, Status};

use crate::head::{
    Body, Coding, ConnectionOptions, elements, header_count_max, header_space, is_token,
    is_value_byte, line_ends_are_crlf, number, window,
};
use crate::limits::Limits;
use crate::malformed::{Malformed, Oddities, Oddity};

/// What framing needs of the head of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHead {
    /// Bytes of the head, the empty line that ends it included. The body begins here.
    pub length: usize,
    /// The status code, 100 to 999.
    pub status: u16,
    /// Whether another response may follow. Never after a 101: HTTP/1.1 ends there.
    pub keep_alive: bool,
    /// How the end of the body is found.
    pub body: Body,
    /// What was tolerated.
    pub oddities: Oddities,
}

/// Reads the head at the beginning of `bytes`, the response to a HEAD request if `was_head`.
/// `Ok(None)`: it is incomplete. Heads with a status below 200 are returned too, without a body;
/// the caller skips them, except 101.
///
/// # Errors
/// [`Malformed`], as early as the bytes show it; the connection cannot be used any more.
pub fn parse_response(
    bytes: &[u8],
    was_head: bool,
    limits: &Limits,
) -> Result<Option<ResponseHead>, Malformed> {
    let window = window(bytes, limits);
    // httparse would skip any number of empty lines.
    if let Some(b'\r' | b'\n') = window.first() {
        return Err(Malformed::StatusLine);
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
        return unfinished(parsed.err(), window, was_head, limits);
    };
    let mut fields = Fields::default();
    for Header { name, value } in &*response.headers {
        fields.add(name.as_bytes(), value)?;
    }
    if !line_ends_are_crlf(&window[..length], response.headers) {
        fields.oddities.insert(Oddity::BareLf);
    }
    fields
        .finish(length, status, minor == 0, was_head)
        .map(Some)
}

/// The answer to a head that httparse refuses, or whose end has not arrived.
#[cold]
fn unfinished(
    error: Option<Error>,
    window: &[u8],
    was_head: bool,
    limits: &Limits,
) -> Result<Option<ResponseHead>, Malformed> {
    Err(match error {
        None if window.len() == limits.head_bytes_max => Malformed::HeadTooLong,
        None => return Ok(None),
        // A folded line or another version, perhaps, which httparse does not read.
        Some(Error::HeaderName | Error::Version) => {
            return match parse_lines(window, was_head, limits)? {
                None if window.len() == limits.head_bytes_max => Err(Malformed::HeadTooLong),
                head => Ok(head),
            };
        }
        Some(Error::TooManyHeaders) => Malformed::TooManyHeaders,
        Some(Error::HeaderValue) => Malformed::HeaderValue,
        Some(Error::Status) => Malformed::StatusLine,
        Some(Error::NewLine | Error::Token) => Malformed::LineEnd,
    })
}

/// Reads a head line by line, slowly, with folded lines and versions from 1.0 to 1.9. `Ok(None)`:
/// it is incomplete.
fn parse_lines(
    window: &[u8],
    was_head: bool,
    limits: &Limits,
) -> Result<Option<ResponseHead>, Malformed> {
    // Whatever is not HTTP/1 does not have to end its line to be refused.
    let prefix = &window[..window.len().min(8)];
    let is_http1 = b"HTTP/1."
        .iter()
        .zip(prefix)
        .all(|(expected, byte)| expected == byte)
        && prefix.get(7).is_none_or(u8::is_ascii_digit);
    if !is_http1 {
        return Err(Malformed::Version);
    }
    let mut fields = Fields::default();
    let mut status_line = None;
    // Name and value of the last header: folded lines belong to the value, line breaks included.
    let mut last: Option<(&[u8], usize, usize)> = None;
    let mut header_count = 0;
    let mut at = 0;
    while let Some(lf) = window[at..].iter().position(|byte| *byte == b'\n') {
        let start = at;
        at += lf + 1;
        let line = &window[start..at - 1];
        let line = line.strip_suffix(b"\r").unwrap_or_else(|| {
            fields.oddities.insert(Oddity::BareLf);
            line
        });
        let Some((status, minor)) = status_line else {
            let parsed = parse_status_line(line)?;
            if parsed.1 > 1 {
                fields.oddities.insert(Oddity::MinorVersion);
            }
            status_line = Some(parsed);
            continue;
        };
        if let [b' ' | b'\t', ..] = line {
            let Some((_, _, end)) = &mut last else {
                return Err(Malformed::HeaderName);
            };
            if !line.iter().all(|byte| is_value_byte(*byte)) {
                return Err(Malformed::HeaderValue);
            }
            fields.oddities.insert(Oddity::FoldedLine);
            *end = start + line.len();
            continue;
        }
        if let Some((name, from, to)) = last.take() {
            fields.add(name, window[from..to].trim_ascii())?;
        }
        if line.is_empty() {
            return fields.finish(at, status, minor == 0, was_head).map(Some);
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        if value.is_empty() || !is_token(name) {
            return Err(Malformed::HeaderName);
        }
        if !value.iter().all(|byte| is_value_byte(*byte)) {
            return Err(Malformed::HeaderValue);
        }
        header_count += 1;
        if header_count > header_count_max(limits) {
            return Err(Malformed::TooManyHeaders);
        }
        last = Some((name, start + name.len() + 1, start + line.len()));
    }
    Ok(None)
}

/// The status and the minor version of a status line that begins with `HTTP/1.` and a digit.
fn parse_status_line(line: &[u8]) -> Result<(u16, u8), Malformed> {
    let (Some(minor @ b'0'..=b'9'), Some(b' ')) = (line.get(7), line.get(8)) else {
        return Err(Malformed::StatusLine);
    };
    let (Some(digits), reason) = (line.get(9..12), line.get(12..).unwrap_or_default()) else {
        return Err(Malformed::StatusLine);
    };
    let is_reason = matches!(reason, [] | [b' ', ..]) && reason.iter().all(|b| is_value_byte(*b));
    match number(digits) {
        Some(status) if is_reason => Ok((status as u16, minor - b'0')),
        _ => Err(Malformed::StatusLine),
    }
}

/// What the headers tell of the connection and of the body.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    coding: Option<Coding>,
    options: ConnectionOptions,
    oddities: Oddities,
}

impl Fields {
    /// Adds one header. Compares lengths first, since almost none has the right one.
    #[inline]
    fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        match name.len() {
            10 if name.eq_ignore_ascii_case(b"connection") => self.options.add(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                for element in elements(value) {
                    let number = number(element).ok_or(Malformed::ContentLength)?;
                    if *self.length.get_or_insert(number) != number {
                        return Err(Malformed::ContentLengths);
                    }
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.coding = Some(Coding::after(self.coding, value));
            }
            _ => {}
        }
        Ok(())
    }

    /// The head, once all headers are there.
    #[inline]
    fn finish(
        mut self,
        length: usize,
        status: u16,
        is_http10: bool,
        was_head: bool,
    ) -> Result<ResponseHead, Malformed> {
        if status < 100 {
            return Err(Malformed::StatusLine);
        }
        let mut keep_alive = self.options.keep_alive(is_http10) && status != 101;
        let announced = match self.coding {
            None => Body::announced(self.length).unwrap_or(Body::UntilClose),
            Some(coding) => {
                if self.length.is_some() {
                    self.oddities.insert(Oddity::LengthBesideEncoding);
                    keep_alive = false;
                }
                if is_http10 {
                    self.oddities.insert(Oddity::EncodingInHttp10);
                    keep_alive = false;
                }
                match coding {
                    Coding::Chunked | Coding::OthersThenChunked => Body::Chunked,
                    Coding::Others | Coding::ChunkedThenOthers => Body::UntilClose,
                    Coding::Faulty => return Err(Malformed::TransferEncoding),
                }
            }
        };
        let body = if was_head || matches!(status, 100..=199 | 204 | 304) {
            Body::None
        } else {
            announced
        };
        Ok(ResponseHead {
            length,
            status,
            keep_alive: keep_alive && body != Body::UntilClose,
            body,
            oddities: self.oddities,
        })
    }
}
