//! The body that comes in chunks (RFC 9112, 7.1), read as it comes and where it lies.
//!
//! Purpose: tells payload from what is between, without keeping a byte of either.
//! Invariants: everything up to the end of the body is used, nothing after it; how the bytes were cut makes no difference; the
//! lines between the payload are bounded; after a mistake every further step is one.
//! Must not know: what becomes of the payload, how long it may be, what a trailer says.

use core::mem::size_of;
use core::ops::Range;

use crate::head::{Malformed, is_token_byte, is_value_byte};

/// Longest line with a chunk's size and extensions, bytes, its CRLF not included.
pub const CHUNK_LINE_BYTES_MAX: u16 = 4 << 10;
/// Longest trailer section, bytes, the empty line that ends it not included.
pub const TRAILER_BYTES_MAX: u16 = 8 << 10;
/// Most digits of a size: as many as a `u64` has.
const SIZE_DIGITS_MAX: u16 = 16;

/// Where in a chunked body a byte stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// In the digits of a size, or before them.
    #[default]
    Size,
    /// In whitespace after a size; an extension has to follow.
    SizeGap,
    Extension,
    SizeLf,
    Payload,
    PayloadCr,
    PayloadLf,
    /// Where a trailer, or the last line, begins.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
    Failed,
}

/// Reads a chunked body piece by piece. Fresh ones ([`Default`]) stand at its beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chunked {
    /// The size read so far, then the payload still to come of this chunk.
    left: u64,
    /// Bytes of the current line, or of the trailer section, so far.
    line_bytes: u16,
    place: Place,
}

const _: () = assert!(size_of::<Chunked>() <= 16);

/// What one step found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that were used. Fewer than there were: the body ended there, or another run of payload begins there.
    pub used: usize,
    /// Where in the input the payload lies that this step found; may be empty.
    pub data: Range<usize>,
    /// Whether the body ended.
    pub is_done: bool,
}

impl Chunked {
    /// Reads `bytes`, which follow those used before, up to the second run of payload in them or to the end of the body. To be
    /// repeated with the rest until nothing was used or the body is done. A body is done only when a step says so.
    ///
    /// # Errors
    /// [`Malformed`], at the first byte that is wrong; the end of the body cannot be found any more.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        let mut at = 0;
        let mut data = 0..0;
        while at < bytes.len() && self.place != Place::Done {
            if self.place == Place::Payload {
                if !data.is_empty() {
                    break;
                }
                let run = self.left.min((bytes.len() - at) as u64);
                self.left -= run;
                data = at..at + run as usize;
                at = data.end;
                if self.left == 0 {
                    self.place = Place::PayloadCr;
                }
                continue;
            }
            match self.after(bytes[at]) {
                Ok(place) => self.place = place,
                Err(mistake) => {
                    self.place = Place::Failed;
                    return Err(mistake);
                }
            }
            at += 1;
        }
        Ok(Step {
            used: at,
            data,
            is_done: self.place == Place::Done,
        })
    }

    /// Where the byte after `byte` stands, which is no payload.
    #[inline]
    fn after(&mut self, byte: u8) -> Result<Place, Malformed> {
        let next = match (self.place, byte) {
            (Place::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if self.line_bytes == SIZE_DIGITS_MAX {
                    return Err(Malformed("a chunk's size has too many digits"));
                }
                let digit = (byte & 0xf) + if byte.is_ascii_digit() { 0 } else { 9 };
                self.left = self.left << 4 | u64::from(digit);
                self.line_bytes += 1;
                return Ok(Place::Size);
            }
            (Place::Size, _) if self.line_bytes == 0 => {
                return Err(Malformed("a chunk has no size"));
            }
            (Place::Size | Place::Extension, b'\r') => return Ok(Place::SizeLf),
            (Place::Size | Place::SizeGap, b' ' | b'\t') => Place::SizeGap,
            (Place::Size | Place::SizeGap, b';') => Place::Extension,
            (Place::Size | Place::SizeGap, _) => {
                return Err(Malformed("a chunk's size is malformed"));
            }
            (Place::Extension, _) if is_value_byte(byte) => Place::Extension,
            (Place::SizeLf, b'\n') => {
                self.line_bytes = 0;
                return Ok(match self.left {
                    0 => Place::TrailerStart,
                    _ => Place::Payload,
                });
            }
            (Place::PayloadCr, b'\r') => return Ok(Place::PayloadLf),
            (Place::PayloadLf, b'\n') => return Ok(Place::Size),
            (Place::PayloadCr | Place::PayloadLf, _) => {
                return Err(Malformed("a chunk's payload does not end in CRLF"));
            }
            (Place::TrailerStart, b'\r') => return Ok(Place::LastLf),
            (Place::LastLf, b'\n') => return Ok(Place::Done),
            (Place::TrailerStart | Place::TrailerName, _) if is_token_byte(byte) => {
                Place::TrailerName
            }
            (Place::TrailerName, b':') => Place::TrailerValue,
            (Place::TrailerValue, b'\r') => Place::TrailerLf,
            (Place::TrailerValue, _) if is_value_byte(byte) => Place::TrailerValue,
            (Place::TrailerLf, b'\n') => Place::TrailerStart,
            (Place::Extension | Place::SizeLf, _) => {
                return Err(Malformed(
                    "a chunk's line has a control character, a bare CR or a bare LF",
                ));
            }
            (Place::Failed, _) => return Err(Malformed("the body was malformed before")),
            _ => return Err(Malformed("a trailer is malformed")),
        };
        // Only lines without an end of their own get here.
        self.line_bytes += 1;
        let line_bytes_max = match next {
            Place::SizeGap | Place::Extension => CHUNK_LINE_BYTES_MAX,
            _ => TRAILER_BYTES_MAX,
        };
        if self.line_bytes > line_bytes_max {
            return Err(Malformed(
                "a chunk's line, or the trailer section, is too long",
            ));
        }
        Ok(next)
    }
}
