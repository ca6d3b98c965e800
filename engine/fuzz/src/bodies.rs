//! Chunked bodies: in pieces against whole, and whole against the reference.

use holdfast_http1::Chunked;

use crate::input::{cuts, options, pieces};
use crate::reference::{self, End};

/// What is longer is cut in two only while fuzzing: it is there for the limits of lines.
const LONG_BYTES: usize = 512;

/// The payload, bytes used, and whether it ended; `None` after a mistake.
type Reading = Option<(Vec<u8>, usize, bool)>;

/// Reads as the documentation of [`Chunked::step`] says.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Reading {
    let mut chunked = Chunked::default();
    let (mut payload, mut used, mut is_done) = (Vec::new(), 0, false);
    for piece in pieces {
        let mut rest = piece;
        while !rest.is_empty() && !is_done {
            let Ok(step) = chunked.step(rest) else {
                assert!(chunked.step(b"0\r\n\r\n").is_err(), "after a mistake");
                return None;
            };
            assert!(0 < step.used && step.used <= rest.len(), "progress");
            assert!(step.data.start <= step.data.end && step.data.end <= step.used);
            payload.extend_from_slice(&rest[step.data]);
            used += step.used;
            is_done = step.is_done;
            rest = &rest[step.used..];
        }
    }
    Some((payload, used, is_done))
}

/// Chunked bodies, incrementally: however they are cut, and as the reference reads them, to the byte that is wrong.
pub fn chunked(data: &[u8]) {
    let Some((seed, bytes)) = options(data) else {
        return;
    };
    let bytes = &bytes[..];
    let whole = read([bytes]);
    let (payload, end) = reference::chunked(bytes);
    let expected = match end {
        End::Open => Some((payload, bytes.len(), false)),
        End::At(used) => Some((payload, used, true)),
        End::Wrong(at) => {
            // Seen with that byte, and not before.
            assert!(read([&bytes[..at]]).is_some(), "wrong before {at}");
            assert!(read([&bytes[..=at]]).is_none(), "not wrong at {at}");
            None
        }
    };
    assert_eq!(whole, expected, "the reference");
    for at in cuts(bytes.len()) {
        let (before, after) = bytes.split_at(at);
        assert_eq!(read([before, after]), whole, "cut at {at}");
    }
    if cfg!(feature = "libfuzzer") && bytes.len() > LONG_BYTES {
        return;
    }
    assert_eq!(read(bytes.chunks(1)), whole, "byte by byte");
    assert_eq!(read(pieces(bytes, seed | 2)), whole, "in pieces");
}
