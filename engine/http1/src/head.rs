//! What the heads of requests and responses have in common: line ends, lists, numbers and
//! persistence, read one way for both.
//!
//! Invariants: a slice given to [`line_ends_are_crlf`] passed httparse, so each CR in it is
//! followed by LF.
//! Must not depend on: the direction of a message, the status an error gets.

use core::mem::MaybeUninit;

use httparse::Header;

use crate::limits::{HEADER_COUNT_CEILING, Limits};

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none; also with `Content-Length: 0`.
    None,
    /// By its length, bytes, at least one.
    Length(u64),
    /// It is chunked; see [`Chunked`](crate::Chunked).
    Chunked,
    /// By the end of the connection. Responses only.
    UntilClose,
}

impl Body {
    /// The body that a Content-Length announces, if there is one.
    pub(crate) fn announced(length: Option<u64>) -> Option<Self> {
        match length {
            None => None,
            Some(0) => Some(Body::None),
            Some(length) => Some(Body::Length(length)),
        }
    }
}

/// Room for the headers of one head. Not initialised: 4 KiB of writes a message would cost more
/// than the parsing.
pub(crate) type HeaderSpace<'b> = [MaybeUninit<Header<'b>>; HEADER_COUNT_CEILING];

/// A fresh [`HeaderSpace`].
#[inline]
pub(crate) fn header_space<'b>() -> HeaderSpace<'b> {
    [const { MaybeUninit::uninit() }; HEADER_COUNT_CEILING]
}

/// How many entries of the space a parser may use.
#[inline]
pub(crate) fn header_count_max(limits: &Limits) -> usize {
    limits.header_count_max.min(HEADER_COUNT_CEILING)
}

/// The part of `bytes` a head may occupy. Nothing behind it is read: otherwise an error behind the
/// limit would hide the limit from a reader that got all bytes at once, but not from one that got
/// them piece by piece.
#[inline]
pub(crate) fn window<'b>(bytes: &'b [u8], limits: &Limits) -> &'b [u8] {
    &bytes[..bytes.len().min(limits.head_bytes_max)]
}

/// Where `part`, which httparse cut out of `whole`, begins in it.
#[inline]
pub(crate) fn offset_in(whole: &[u8], part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

/// Whether every line of a complete head ends in CRLF; httparse takes a bare LF as well. Looks at
/// the bytes before each header's name and at the end of the head, instead of at all bytes.
#[inline]
pub(crate) fn line_ends_are_crlf(head: &[u8], headers: &[Header<'_>]) -> bool {
    head.ends_with(b"\r\n\r\n")
        && headers.iter().all(|header| {
            let name_at = offset_in(head, header.name);
            name_at >= 2 && head[name_at - 2] == b'\r'
        })
}

/// The number `value` consists of, if it is nothing but digits and fits.
#[inline]
pub(crate) fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The elements of a comma-separated list, without the whitespace around them; empty ones included.
#[inline]
pub(crate) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether `bytes` is a token (RFC 9110, 5.6.2).
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

/// Whether `byte` may stand in a token.
#[inline]
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `byte` may stand in a header's value.
#[inline]
pub(crate) fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// The options of the Connection headers of a head.
#[derive(Clone, Copy, Default)]
pub(crate) struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
}

impl ConnectionOptions {
    /// Adds those of one Connection header.
    #[inline]
    pub(crate) fn add(&mut self, value: &[u8]) {
        for option in elements(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// Whether the connection persists (RFC 9112, 9.3): close wins, HTTP/1.0 persists only with
    /// keep-alive.
    #[inline]
    pub(crate) fn keep_alive(self, is_http10: bool) -> bool {
        !self.close && (self.keep_alive || !is_http10)
    }
}

/// A list of transfer codings, as far as framing needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Chunked and nothing else.
    Chunked,
    /// Others only.
    Others,
    /// Others, then chunked.
    OthersThenChunked,
    /// Chunked somewhere, but others after it.
    ChunkedThenOthers,
    /// An empty element, not a token, chunked twice or with a parameter (RFC 9112, 7.1: an error).
    Faulty,
}

impl Coding {
    /// The list after one more Transfer-Encoding header: several of them form one list (RFC 9110,
    /// 5.3).
    #[inline]
    pub(crate) fn after(earlier: Option<Coding>, value: &[u8]) -> Coding {
        if earlier.is_none() && value.eq_ignore_ascii_case(b"chunked") {
            return Coding::Chunked;
        }
        Coding::after_list(earlier, value)
    }

    #[cold]
    fn after_list(earlier: Option<Coding>, value: &[u8]) -> Coding {
        let mut so_far = earlier;
        for element in elements(value) {
            let name_end = element.iter().position(|byte| *byte == b';');
            let name = element[..name_end.unwrap_or(element.len())].trim_ascii_end();
            let is_chunked = name.eq_ignore_ascii_case(b"chunked");
            so_far = Some(match so_far {
                Some(Coding::Faulty) => Coding::Faulty,
                _ if !is_token(name) || (is_chunked && name_end.is_some()) => Coding::Faulty,
                None if is_chunked => Coding::Chunked,
                Some(Coding::Others) if is_chunked => Coding::OthersThenChunked,
                _ if is_chunked => Coding::Faulty,
                None | Some(Coding::Others) => Coding::Others,
                Some(_) => Coding::ChunkedThenOthers,
            });
        }
        so_far.unwrap_or(Coding::Faulty)
    }
}
