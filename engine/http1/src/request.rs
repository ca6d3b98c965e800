//! The head of a request, read strictly: what two readers might frame differently is refused.
//!
//! Invariants: bytes that come later never change an answer other than "incomplete"; the first
//! error in the order of the bytes decides, and what can be judged only at the end of the head
//! (bare LF, Host, framing) comes after all of those.
//!
//! Where the RFCs leave a choice:
//! - A bare LF ends no line (RFC 9112, 2.2 lets a recipient accept it): 400.
//! - Empty lines before a request are skipped (2.2), at most [`EMPTY_LINES_MAX`] of them.
//! - A method longer than [`METHOD_BYTES_MAX`] is none that anybody implements: 501 (3).
//! - HTTP/1.2 to 1.9 get 505 as other majors do. RFC 9110, 2.5 would have them read as 1.1, but
//!   none was ever defined. What is not `HTTP/` digit dot digit is 400, except `HTTP/2` and
//!   `HTTP/3`. `PRI * HTTP/2.0` is 505 by that rule.
//! - Transfer-Encoding: several lines form one list (RFC 9110, 5.3). Anything but chunked before a
//!   final chunked is 501 (RFC 9112, 6.1); a list that does not end in chunked ("gzip", "identity",
//!   "chunked, gzip") has no reliable end and is 400 (6.3), and so are chunked twice or with
//!   parameters, an empty element, and any Transfer-Encoding in HTTP/1.0.
//! - Host, and the host of a target, is a URI host (RFC 3986, 3.2.2): brackets contain an IPv6
//!   address or an IPvFuture.
//! - A target with a fragment or bytes outside ASCII is 400 (3.2), and so is user information in
//!   one (RFC 9110, 4.2.4).
//! - If several things are wrong at the end of a head, 400 wins over 501, that over 417, that over
//!   413.
//!
//! Must not depend on: what the target or the method mean.

use core::net::Ipv6Addr;

use httparse::{Error, Header, Request, Status};

use crate::head::{
    Body, Coding, ConnectionOptions, elements, header_count_max, header_space, is_token_byte,
    line_ends_are_crlf, number, offset_in, window,
};
use crate::limits::Limits;

/// Most empty lines skipped before a request; one more is refused.
pub const EMPTY_LINES_MAX: usize = 4;
/// Longest method, bytes. The longest registered one, UPDATEREDIRECTREF, has 17.
pub const METHOD_BYTES_MAX: usize = 64;

/// What framing needs of the head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead {
    /// Bytes of the head, empty lines before it and the one that ends it included. The body begins
    /// here.
    pub length: usize,
    /// Whether the method is HEAD: the response has the head of a GET's, and no body.
    pub is_head: bool,
    /// Whether the method is CONNECT.
    pub is_connect: bool,
    /// Whether the version is 1.0: the response cannot be chunked, and keep-alive has to be stated.
    pub is_http10: bool,
    /// Whether another request may follow. Never after CONNECT: what follows is not HTTP.
    pub keep_alive: bool,
    /// Whether the peer waits for `100 Continue` before it sends the body. Never without a body or
    /// in HTTP/1.0.
    pub expects_continue: bool,
    /// How the end of the body is found.
    pub body: Body,
}

/// Why a request is refused. The connection has to close after the response: where the next request
/// begins is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestError {
    /// The status of the response.
    pub status: u16,
    /// What is wrong, in words.
    pub reason: &'static str,
}

/// The error as a `Result`.
#[cold]
fn refuse<T>(status: u16, reason: &'static str) -> Result<T, RequestError> {
    Err(RequestError { status, reason })
}

/// Reads the head at the beginning of `bytes`. `Ok(None)`: it is incomplete.
///
/// # Errors
/// [`RequestError`], as early as the bytes show it.
pub fn parse_request(bytes: &[u8], limits: &Limits) -> Result<Option<RequestHead>, RequestError> {
    let window = window(bytes, limits);
    let start = match window.first() {
        Some(b'\r' | b'\n') => match empty_lines(window)? {
            Some(start) => start,
            None => return incomplete(window, limits),
        },
        _ => 0,
    };
    let bytes = &window[start..];
    let mut space = header_space();
    let mut request = Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, &mut space[..header_count_max(limits)]);
    let (Ok(Status::Complete(length)), Some(method), Some(target), Some(minor)) =
        (parsed, request.method, request.path, request.version)
    else {
        return unfinished(bytes, &request, parsed.err(), limits)
            .and_then(|()| incomplete(window, limits));
    };
    if method.len() > METHOD_BYTES_MAX {
        return refuse(501, METHOD_TOO_LONG);
    }
    if target.len() > limits.target_bytes_max {
        return refuse(414, TARGET_TOO_LONG);
    }
    if !line_ends_are_crlf(&bytes[..length], request.headers) {
        return refuse(400, "a line of the head ends in a bare LF");
    }
    let is_connect = method == "CONNECT";
    check_target(method, is_connect, target.as_bytes())?;
    let is_http10 = minor == 0;
    let said = read_headers(request.headers, is_http10, limits)?;
    Ok(Some(RequestHead {
        length: start + length,
        is_head: method == "HEAD",
        is_connect,
        is_http10,
        keep_alive: said.options.keep_alive(is_http10) && !is_connect,
        expects_continue: said.expects_continue && !is_http10 && said.body != Body::None,
        body: said.body,
    }))
}

const METHOD_TOO_LONG: &str = "the method is too long";
const TARGET_TOO_LONG: &str = "the request target is too long";

/// Where the request begins after empty lines; `None` if that is not known yet.
#[cold]
fn empty_lines(bytes: &[u8]) -> Result<Option<usize>, RequestError> {
    let mut rest = bytes;
    for _ in 0..EMPTY_LINES_MAX {
        match rest {
            [b'\r', b'\n', after @ ..] => rest = after,
            [] | [b'\r'] => return Ok(None),
            _ => break,
        }
    }
    match rest {
        [] => Ok(None),
        [b'\r' | b'\n', ..] => refuse(400, "too many empty lines, a bare CR or a bare LF first"),
        _ => Ok(Some(bytes.len() - rest.len())),
    }
}

/// The answer to a head that has not ended: incomplete, unless it has as many bytes as it may have.
fn incomplete<T>(window: &[u8], limits: &Limits) -> Result<Option<T>, RequestError> {
    if window.len() == limits.head_bytes_max {
        return refuse(431, "the head is too long");
    }
    Ok(None)
}

/// What is wrong with a head that httparse refuses, or whose end has not arrived. `Ok`: nothing so
/// far.
#[cold]
fn unfinished(
    bytes: &[u8],
    request: &Request<'_, '_>,
    error: Option<Error>,
    limits: &Limits,
) -> Result<(), RequestError> {
    let method = bytes.iter().take(METHOD_BYTES_MAX + 1);
    if method.take_while(|byte| is_token_byte(**byte)).count() > METHOD_BYTES_MAX {
        return refuse(501, METHOD_TOO_LONG);
    }
    // The target comes before the error that httparse found, unless that is in the method.
    if let Some(method) = request.method {
        let target = &bytes[offset_in(bytes, method) + method.len() + 1..];
        let length = target
            .iter()
            .take(limits.target_bytes_max.saturating_add(1))
            .take_while(|byte| **byte > b' ' && **byte != 0x7f)
            .count();
        if length > limits.target_bytes_max {
            return refuse(414, TARGET_TOO_LONG);
        }
    }
    match (error, request.path) {
        (None, _) => Ok(()),
        (Some(Error::Version), Some(target)) => {
            check_version(&bytes[offset_in(bytes, target) + target.len() + 1..])
        }
        (Some(Error::TooManyHeaders), _) => refuse(431, "there are too many headers"),
        (Some(Error::HeaderName), _) => {
            refuse(400, "a header's name is malformed, or a line is folded")
        }
        (Some(Error::HeaderValue), _) => refuse(400, "a header's value has a control character"),
        (Some(Error::NewLine), _) => refuse(400, "a line does not end in CRLF"),
        (Some(_), _) => refuse(400, "the request line is malformed"),
    }
}

/// Tells an unsupported version from a malformed one. httparse gives up as soon as it is not 1.0 or
/// 1.1; this waits for the end of the line, or the answer would depend on how the bytes were cut.
/// `Ok`: it has not arrived.
fn check_version(rest: &[u8]) -> Result<(), RequestError> {
    const PATTERN: &[u8; 9] = b"HTTP/d.d\r";
    for (at, expected) in PATTERN.iter().enumerate() {
        let fits = match (rest.get(at), expected) {
            (None, _) => return Ok(()),
            (Some(byte), b'd') => byte.is_ascii_digit(),
            // `HTTP/2` and `HTTP/3`, as people write them.
            (Some(b'\r'), b'.') if rest[5] >= b'2' => break,
            (Some(byte), _) => byte == expected,
        };
        if !fits {
            return refuse(400, "the version is malformed");
        }
    }
    refuse(505, "the version is neither HTTP/1.1 nor HTTP/1.0")
}

/// Whether the target has one of the four forms of RFC 9112, 3.2, and the one of its method.
#[inline]
fn check_target(method: &str, is_connect: bool, target: &[u8]) -> Result<(), RequestError> {
    let is_foreign = target.iter().fold(false, |found, byte| {
        found | (*byte >= 0x80) | (*byte == b'#')
    });
    if is_foreign {
        return refuse(400, "the target has a fragment, or bytes outside ASCII");
    }
    if target[0] == b'/' && !is_connect {
        return Ok(());
    }
    let is_valid = if is_connect {
        is_authority(target)
    } else if target == b"*" {
        method == "OPTIONS"
    } else {
        is_absolute(target)
    };
    if is_valid {
        return Ok(());
    }
    refuse(400, "the target has none of the forms its method allows")
}

/// `host:port`, both there.
fn is_authority(target: &[u8]) -> bool {
    target.first() != Some(&b':')
        && target.contains(&b':')
        && target.last().is_some_and(u8::is_ascii_digit)
        && split_host(target).is_some_and(|port| !port.is_empty())
}

/// `scheme://host...`
fn is_absolute(target: &[u8]) -> bool {
    let Some(colon) = target.iter().position(|byte| *byte == b':') else {
        return false;
    };
    let (scheme, rest) = target.split_at(colon);
    let Some(rest) = rest.strip_prefix(b"://") else {
        return false;
    };
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(rest.len());
    let host = &rest[..end];
    scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
        && !matches!(host.first(), None | Some(b':'))
        && split_host(host).is_some()
}

/// The port of `host[:port]` (RFC 3986, 3.2.2 and 3.2.3), empty if there is none; `None` if the
/// whole is malformed.
fn split_host(value: &[u8]) -> Option<&[u8]> {
    let after = if let [b'[', literal @ ..] = value {
        let end = literal.iter().position(|byte| *byte == b']')?;
        let (address, after) = literal.split_at(end);
        is_ip_literal(address).then_some(())?;
        &after[1..]
    } else {
        let mut at = 0;
        while let Some(&byte) = value.get(at) {
            if HOST_BYTE[byte as usize] {
                at += 1;
            } else if byte == b'%' {
                value
                    .get(at + 1..at + 3)?
                    .iter()
                    .all(u8::is_ascii_hexdigit)
                    .then_some(())?;
                at += 3;
            } else {
                break;
            }
        }
        &value[at..]
    };
    match after {
        [] => Some(after),
        [b':', port @ ..] if port.iter().all(u8::is_ascii_digit) => Some(port),
        _ => None,
    }
}

/// Whether brackets may contain this: an IPv6 address, or `v`, a hexadecimal version, a dot and an
/// address of that version.
fn is_ip_literal(address: &[u8]) -> bool {
    if let [b'v' | b'V', future @ ..] = address {
        let Some(dot) = future.iter().position(|byte| *byte == b'.') else {
            return false;
        };
        let (version, rest) = (&future[..dot], &future[dot + 1..]);
        return !version.is_empty()
            && version.iter().all(u8::is_ascii_hexdigit)
            && !rest.is_empty()
            && rest.iter().all(|b| *b == b':' || HOST_BYTE[*b as usize]);
    }
    str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// unreserved and sub-delims of RFC 3986.
static HOST_BYTE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'!' | b'$'
            | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=');
        byte += 1;
    }
    table
};

/// What the headers tell of the framing.
struct Said {
    options: ConnectionOptions,
    expects_continue: bool,
    body: Body,
}

/// Reads the headers that matter, in one pass: comparing lengths first, since almost none has the
/// right one.
#[inline]
fn read_headers(
    headers: &[Header<'_>],
    is_http10: bool,
    limits: &Limits,
) -> Result<Said, RequestError> {
    let mut has_host = false;
    let mut length = None;
    let mut coding = None;
    let mut options = ConnectionOptions::default();
    let mut expects_continue = false;
    let mut expects_other = false;
    for Header { name, value } in headers {
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                if has_host {
                    return refuse(400, "there is more than one Host");
                }
                has_host = true;
                if split_host(value).is_none() {
                    return refuse(400, "Host is malformed");
                }
            }
            6 if name.eq_ignore_ascii_case("expect") => {
                for expectation in elements(value) {
                    if expectation.eq_ignore_ascii_case(b"100-continue") {
                        expects_continue = true;
                    } else {
                        expects_other |= !expectation.is_empty();
                    }
                }
            }
            10 if name.eq_ignore_ascii_case("connection") => options.add(value),
            14 if name.eq_ignore_ascii_case("content-length") => {
                if length.is_some() {
                    return refuse(400, "there is more than one Content-Length");
                }
                length = number(value);
                if length.is_none() {
                    return refuse(400, "Content-Length is no number, or too large a one");
                }
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                coding = Some(Coding::after(coding, value));
            }
            _ => {}
        }
    }
    if !has_host && !is_http10 {
        return refuse(400, "there is no Host");
    }
    let body = match coding {
        None => Body::announced(length).unwrap_or(Body::None),
        Some(_) if length.is_some() => {
            return refuse(400, "there are both Content-Length and Transfer-Encoding");
        }
        Some(_) if is_http10 => return refuse(400, "there is a Transfer-Encoding in HTTP/1.0"),
        Some(Coding::Chunked) => Body::Chunked,
        Some(Coding::OthersThenChunked) => {
            return refuse(501, "the transfer coding is unknown here");
        }
        Some(Coding::Others | Coding::ChunkedThenOthers | Coding::Faulty) => {
            return refuse(
                400,
                "the transfer codings do not end in chunked, or are malformed",
            );
        }
    };
    if expects_other {
        return refuse(417, "the expectation is not 100-continue");
    }
    if matches!(body, Body::Length(bytes) if bytes > limits.body_bytes_max) {
        return refuse(413, "the body is too long");
    }
    Ok(Said {
        options,
        expects_continue,
        body,
    })
}
