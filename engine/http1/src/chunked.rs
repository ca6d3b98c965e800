//! A chunked body (RFC 9112, 7.1), read as it arrives and where it lies.
//!
//! Invariants: everything up to the end of the body is used, nothing after it; how the bytes were
//! cut makes no difference; the lines between the payload are bounded; after an error every further
//! step returns it again.
//! Must not depend on: what the payload is for, how long it may be, what a trailer means.

use core::mem::size_of;
use core::ops::Range;

use crate::head::{is_token_byte, is_value_byte};
use crate::malformed::{Malformed, Oddities, Oddity};

/// Longest line with a chunk's size and extensions, bytes without its line end. Bounds leading
/// zeros and whitespace too.
pub const CHUNK_LINE_BYTES_MAX: u16 = 4 << 10;
/// Longest trailer section, bytes without the empty line that ends it.
pub const TRAILER_BYTES_MAX: u16 = 8 << 10;

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// The first digit of a size.
    #[default]
    SizeStart,
    Size,
    /// Whitespace after a size or an extension; `;` has to follow.
    Gap,
    /// After `;`: whitespace or the first byte of a name.
    NameStart,
    Name,
    /// Whitespace after a name; `=` or `;` has to follow.
    NameGap,
    /// After `=`: whitespace, a quote or the first byte of a token.
    ValueStart,
    Value,
    Quoted,
    /// After a backslash in a quoted value.
    QuotedPair,
    /// After the closing quote.
    QuotedEnd,
    /// An extension that is not looked at.
    AnyExtension,
    SizeLf,
    Payload,
    PayloadCr,
    PayloadLf,
    /// The first byte of a trailer, or of the last line.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
    Failed(Malformed),
}

/// Reads a chunked body piece by piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunked {
    /// The size read so far, then the payload of this chunk still to come.
    left: u64,
    /// Bytes of the current line, or of the trailer section, so far.
    line_bytes: u16,
    oddities: Oddities,
    state: State,
    is_tolerant: bool,
}

const _: () = assert!(size_of::<Chunked>() <= 16);

/// What one step found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that were used. Fewer than given: the body ended there, or another run of
    /// payload begins there.
    pub used: usize,
    /// The payload this step found, as a range of the input; may be empty.
    pub data: Range<usize>,
    /// Whether the body ended.
    pub is_done: bool,
}

/// As [`Chunked::strict`].
impl Default for Chunked {
    fn default() -> Self {
        Chunked::strict()
    }
}

impl Chunked {
    /// At the beginning of a body, for a server: follows the grammar of RFC 9112, extensions
    /// included.
    pub const fn strict() -> Self {
        Chunked {
            left: 0,
            line_bytes: 0,
            oddities: Oddities::NONE,
            state: State::SizeStart,
            is_tolerant: false,
        }
    }

    /// At the beginning of a body, for a user agent: tolerates whitespace around sizes, bare LF,
    /// folded trailers and malformed extensions, and notes what [`Oddity`] lists.
    pub const fn tolerant() -> Self {
        Chunked {
            is_tolerant: true,
            ..Chunked::strict()
        }
    }

    /// Payload bytes of the current chunk still to come; 0 between chunks. A chunk may announce up
    /// to 2^64-1 bytes: whoever bounds a body need not wait for them.
    pub fn chunk_bytes_left(&self) -> u64 {
        match self.state {
            State::Payload => self.left,
            _ => 0,
        }
    }

    /// What was tolerated so far.
    pub fn oddities(&self) -> Oddities {
        self.oddities
    }

    /// Reads `bytes`, which follow those used before, up to the second run of payload or to the end
    /// of the body. Call it again with the rest until nothing is used or the body is done.
    ///
    /// # Errors
    /// [`Malformed`], at the first byte that is wrong. The end of the body cannot be found any
    /// more.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        let mut at = 0;
        let mut data = 0..0;
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Payload {
                if !data.is_empty() {
                    break;
                }
                let run = self.left.min((bytes.len() - at) as u64);
                self.left -= run;
                data = at..at + run as usize;
                at = data.end;
                if self.left == 0 {
                    self.state = State::PayloadCr;
                }
                continue;
            }
            match self.after(bytes[at]) {
                Ok(state) => self.state = state,
                Err(error) => {
                    self.state = State::Failed(error);
                    return Err(error);
                }
            }
            at += 1;
        }
        Ok(Step {
            used: at,
            data,
            is_done: self.state == State::Done,
        })
    }

    /// The state after `byte`, which is not payload.
    #[inline]
    fn after(&mut self, byte: u8) -> Result<State, Malformed> {
        use State::*;
        self.line_bytes += 1;
        let next = match (self.state, byte) {
            (SizeStart | Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if self.left >> 60 != 0 {
                    return Err(Malformed::ChunkSize);
                }
                if self.state == Size && self.left == 0 {
                    self.oddities.insert(Oddity::LeadingZeros);
                }
                let digit = (byte & 0xf) + if byte.is_ascii_digit() { 0 } else { 9 };
                self.left = self.left << 4 | u64::from(digit);
                Size
            }
            (Size | Name | Value | QuotedEnd | AnyExtension, b'\r') => SizeLf,
            (SizeLf, b'\n') => self.size_line_ended(),
            (Size | Gap, b';') if self.is_tolerant => AnyExtension,
            (AnyExtension, _) if is_value_byte(byte) => AnyExtension,
            (Size | Gap | Name | NameGap | Value | QuotedEnd, b';') => NameStart,
            (Size | Gap | Value | QuotedEnd, b' ' | b'\t') => Gap,
            (NameStart, b' ' | b'\t') => NameStart,
            (NameStart | Name, _) if is_token_byte(byte) => Name,
            (Name | NameGap, b' ' | b'\t') => NameGap,
            (Name | NameGap, b'=') => ValueStart,
            (ValueStart, b' ' | b'\t') => ValueStart,
            (ValueStart, b'"') => Quoted,
            (ValueStart | Value, _) if is_token_byte(byte) => Value,
            (Quoted, b'"') => QuotedEnd,
            (Quoted, b'\\') => QuotedPair,
            (Quoted | QuotedPair, _) if is_value_byte(byte) => Quoted,
            (PayloadCr, b'\r') => PayloadLf,
            (PayloadLf, b'\n') => self.payload_ended(),
            (TrailerStart, b'\r') => LastLf,
            (LastLf, b'\n') => Done,
            (TrailerStart | TrailerName, _) if is_token_byte(byte) => TrailerName,
            (TrailerName, b':') => TrailerValue,
            (TrailerValue, b'\r') => TrailerLf,
            (TrailerValue, _) if is_value_byte(byte) => TrailerValue,
            (TrailerLf, b'\n') => TrailerStart,
            _ => match self.tolerated(byte) {
                Some(next) => next,
                None => return Err(self.error()),
            },
        };
        let (bytes_max, error) = match next {
            TrailerStart | TrailerName | TrailerValue | TrailerLf => {
                (TRAILER_BYTES_MAX, Malformed::TrailerTooLong)
            }
            SizeLf | Payload | PayloadCr | PayloadLf | LastLf | Done | Failed(_) => {
                return Ok(next);
            }
            _ => (CHUNK_LINE_BYTES_MAX, Malformed::ChunkLine),
        };
        if self.line_bytes > bytes_max {
            return Err(error);
        }
        Ok(next)
    }

    fn size_line_ended(&mut self) -> State {
        self.line_bytes = 0;
        match self.left {
            0 => State::TrailerStart,
            _ => State::Payload,
        }
    }

    fn payload_ended(&mut self) -> State {
        self.line_bytes = 0;
        State::SizeStart
    }

    /// The state after a byte that the grammar does not allow, if it is tolerated.
    #[cold]
    fn tolerated(&mut self, byte: u8) -> Option<State> {
        use State::*;
        if !self.is_tolerant {
            return None;
        }
        // In a trailer section that has a line already.
        let has_trailer = self.line_bytes > 1;
        let (oddity, is_bare_lf, next) = match (self.state, byte) {
            (SizeStart, b' ' | b'\t') => (Some(Oddity::ChunkWhitespace), false, SizeStart),
            (Gap, b'\r') => (Some(Oddity::ChunkWhitespace), false, SizeLf),
            (Gap, b'\n') => (Some(Oddity::ChunkWhitespace), true, self.size_line_ended()),
            (Size | AnyExtension, b'\n') => (None, true, self.size_line_ended()),
            (PayloadCr, b'\n') => (None, true, self.payload_ended()),
            (TrailerStart, b'\n') => (None, true, Done),
            (TrailerValue, b'\n') => (None, true, TrailerStart),
            (TrailerStart, b' ' | b'\t') if has_trailer => {
                (Some(Oddity::FoldedLine), false, TrailerValue)
            }
            _ => return None,
        };
        if let Some(oddity) = oddity {
            self.oddities.insert(oddity);
        }
        if is_bare_lf {
            self.oddities.insert(Oddity::BareLf);
        }
        Some(next)
    }

    /// What is wrong with a byte in this state.
    #[cold]
    fn error(&self) -> Malformed {
        use State::*;
        match self.state {
            SizeStart | Size => Malformed::ChunkSize,
            Gap | NameStart | Name | NameGap | ValueStart | Value | Quoted | QuotedPair
            | QuotedEnd | AnyExtension => Malformed::ChunkExtension,
            SizeLf => Malformed::LineEnd,
            PayloadCr | PayloadLf => Malformed::ChunkEnd,
            TrailerStart | TrailerName | TrailerValue | TrailerLf | LastLf => Malformed::Trailer,
            Failed(error) => error,
            Payload | Done => unreachable!("these states take no byte here"),
        }
    }
}
