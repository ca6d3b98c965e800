//! UTF-8 that arrives in pieces.
//!
//! Invariants: text is refused at its first wrong byte, wherever it was cut.
//! Must not depend on: frames.

/// How far a text has been read: one byte of state.
///
/// ```
/// use holdfast_websocket::Utf8;
///
/// let (first, second) = "κόσμε".as_bytes().split_at(3);
/// let mut text = Utf8::default();
/// assert!(text.feed(first) && !text.is_complete());
/// assert!(text.feed(second) && text.is_complete());
/// assert!(!text.feed(b"\xff"));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Utf8(u8);

const COMPLETE: u8 = 0;
/// This number of continuation bytes is due.
const ONE: u8 = 1;
const TWO: u8 = 2;
const THREE: u8 = 3;
/// The same, but the first one is restricted: neither overlong forms, nor surrogates, nor numbers above U+10FFFF.
const TWO_FROM_A0: u8 = 4;
const TWO_TO_9F: u8 = 5;
const THREE_FROM_90: u8 = 6;
const THREE_TO_8F: u8 = 7;

impl Utf8 {
    /// The state with the number that [`Utf8::number`] returned.
    pub(crate) fn from_number(number: u8) -> Self {
        Utf8(number)
    }

    /// The state as a number below 8.
    pub(crate) fn number(self) -> u8 {
        self.0
    }

    /// Reads the next bytes. False: the text is not UTF-8, and nothing more may be read of it.
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while self.0 != COMPLETE {
            let Some((byte, after)) = rest.split_first() else {
                return true;
            };
            if !self.next(*byte) {
                return false;
            }
            rest = after;
        }
        match str::from_utf8(rest) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => rest[error.valid_up_to()..]
                .iter()
                .all(|byte| self.next(*byte)),
        }
    }

    /// True if no character is unfinished.
    pub fn is_complete(self) -> bool {
        self.0 == COMPLETE
    }

    fn next(&mut self, byte: u8) -> bool {
        self.0 = match (self.0, byte) {
            (COMPLETE, 0..0x80) => COMPLETE,
            (COMPLETE, 0xc2..=0xdf) => ONE,
            (COMPLETE, 0xe0) => TWO_FROM_A0,
            (COMPLETE, 0xed) => TWO_TO_9F,
            (COMPLETE, 0xe1..=0xef) => TWO,
            (COMPLETE, 0xf0) => THREE_FROM_90,
            (COMPLETE, 0xf1..=0xf3) => THREE,
            (COMPLETE, 0xf4) => THREE_TO_8F,
            (ONE, 0x80..=0xbf) => COMPLETE,
            (TWO, 0x80..=0xbf) | (TWO_FROM_A0, 0xa0..=0xbf) | (TWO_TO_9F, 0x80..=0x9f) => ONE,
            (THREE, 0x80..=0xbf) | (THREE_FROM_90, 0x90..=0xbf) | (THREE_TO_8F, 0x80..=0x8f) => TWO,
            _ => return false,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`Utf8`] says of `bytes` given in two pieces: valid and complete, open, or wrong.
    fn read(first: &[u8], second: &[u8]) -> Option<bool> {
        let mut text = Utf8::default();
        (text.feed(first) && text.feed(second)).then(|| text.is_complete())
    }

    #[test]
    fn every_sequence_of_four_bytes_is_judged_as_the_standard_library_does() {
        // All leading bytes, with the continuation bytes at the edges of every range.
        let edges = [0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff];
        for lead in 0..=255_u8 {
            for second in edges {
                for third in edges {
                    for fourth in edges {
                        let bytes = [lead, second, third, fourth];
                        let expected = match str::from_utf8(&bytes) {
                            Ok(_) => Some(true),
                            Err(error) if error.error_len().is_none() => Some(false),
                            Err(_) => None,
                        };
                        for cut in 0..=4 {
                            let (before, after) = bytes.split_at(cut);
                            assert_eq!(read(before, after), expected, "{bytes:x?} cut at {cut}");
                        }
                    }
                }
            }
        }
    }
}
