//! Chunked bodies: parsed in pieces, whole, and by the reference; all must agree.

use holdfast_http1::{Chunked, Oddities};

use crate::input::{cuts, options, pieces};
use crate::reference::{self, End};

/// Longer inputs test line limits, and are cut in two only while fuzzing.
const LONG_BYTES: usize = 512;

/// The payload, bytes used, and whether it ended; `None` after an error.
type Reading = Option<(Vec<u8>, usize, bool)>;

/// Reads as the documentation of [`Chunked::step`] says, and what is odd.
fn read<'a>(fresh: Chunked, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Reading, Oddities) {
    let mut chunked = fresh;
    let (mut payload, mut used, mut is_done) = (Vec::new(), 0, false);
    for piece in pieces {
        let mut rest = piece;
        while !rest.is_empty() && !is_done {
            let Ok(step) = chunked.step(rest) else {
                assert!(chunked.step(b"0\r\n\r\n").is_err(), "after an error");
                return (None, chunked.oddities());
            };
            assert!(0 < step.used && step.used <= rest.len(), "progress");
            assert!(step.data.start <= step.data.end && step.data.end <= step.used);
            payload.extend_from_slice(&rest[step.data]);
            used += step.used;
            is_done = step.is_done;
            rest = &rest[step.used..];
        }
    }
    (Some((payload, used, is_done)), chunked.oddities())
}

/// Chunked bodies, incrementally, for servers and for user agents: however they are cut, and as the
/// reference reads them, to the byte that is wrong.
pub fn chunked(data: &[u8]) {
    let Some((seed, bytes)) = options(data) else {
        return;
    };
    let (payload, end) = reference::chunked(&bytes);
    let strict = check(Chunked::strict(), &bytes, seed, payload, end);
    let (payload, end, odd) = reference::lenient_chunked(&bytes);
    let (tolerant, oddities) = check(Chunked::tolerant(), &bytes, seed, payload, end);
    if tolerant.is_some() {
        assert_eq!(oddities, odd, "the reference");
    }
    if strict.0.is_some() {
        assert_eq!(strict.0, tolerant, "what is valid is read alike");
    }
}

fn check(
    fresh: Chunked,
    bytes: &[u8],
    seed: u8,
    payload: Vec<u8>,
    end: End,
) -> (Reading, Oddities) {
    let whole = read(fresh, [bytes]);
    let expected = match end {
        End::Open | End::Within(_) => Some((payload, bytes.len(), false)),
        End::At(used) => Some((payload, used, true)),
        End::Wrong(at) => {
            // Detected at that byte, not before.
            assert!(read(fresh, [&bytes[..at]]).0.is_some(), "wrong before {at}");
            assert!(
                read(fresh, [&bytes[..=at]]).0.is_none(),
                "not wrong at {at}"
            );
            None
        }
    };
    assert_eq!(whole.0, expected, "the reference");
    for at in cuts(bytes.len()) {
        let (before, after) = bytes.split_at(at);
        assert_eq!(read(fresh, [before, after]), whole, "cut at {at}");
    }
    if cfg!(feature = "libfuzzer") && bytes.len() > LONG_BYTES {
        return whole;
    }
    assert_eq!(read(fresh, bytes.chunks(1)), whole, "byte by byte");
    let in_pieces = read(fresh, pieces(bytes, seed | 2));
    assert_eq!(in_pieces, whole, "in pieces");
    whole
}
