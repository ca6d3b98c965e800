//! How targets interpret, cut and expand their input bytes.
//!
//! Must not depend on: what the bytes mean.

use std::borrow::Cow;
use std::fmt::Debug;

/// How often a longer input is cut while fuzzing, where speed finds more than each single cut does;
/// the tests cut all but the longest everywhere.
const CUTS: usize = 16;
/// What all beginnings of an input may come to together then, bytes.
const CUT_BYTES: usize = 4_096;
/// Expansion marker, in inputs that allow it: with the following byte N it stands for 32 * N times
/// `a`.
const GROWS: u8 = 0xf5;

/// No expansion beyond this size, which exceeds every limit.
const GROWN_BYTES_MAX: usize = 20_000;

/// The first byte of an input, which says how it is used, and the others. The highest bit lets
/// [`GROWS`] grow, so that a short input can exceed every limit.
pub fn options(data: &[u8]) -> Option<(u8, Cow<'_, [u8]>)> {
    let (first, rest) = data.split_first()?;
    if first & 0x80 == 0 || !rest.contains(&GROWS) {
        return Some((*first, Cow::Borrowed(rest)));
    }
    let mut grown = Vec::new();
    let mut bytes = rest.iter();
    while let Some(byte) = bytes.next() {
        match bytes.as_slice().first() {
            Some(times) if *byte == GROWS && grown.len() < GROWN_BYTES_MAX => {
                grown.resize(grown.len() + 32 * usize::from(*times), b'a');
                bytes.next();
            }
            _ => grown.push(*byte),
        }
    }
    Some((*first, Cow::Owned(grown)))
}

/// Positions at which to cut `length` bytes in two, ascending.
pub fn cuts(length: usize) -> impl Iterator<Item = usize> {
    let count = match cfg!(feature = "libfuzzer") {
        true => (CUT_BYTES / (length + 1)).clamp(2, CUTS),
        false if length <= CUT_BYTES / 4 => length,
        false => CUTS,
    };
    let step = (length / count.max(1)).max(1);
    // The start varies, so that every position is used.
    (length % step..=length).step_by(step)
}

/// All of `choices` in the tests; while fuzzing two of them, which depend on `seed`.
pub fn some<T>(choices: &[T], seed: usize) -> impl Iterator<Item = &T> {
    let count = match cfg!(feature = "libfuzzer") {
        true => 2,
        false => choices.len(),
    };
    (0..count).map(move |number| &choices[(seed + 5 * number) % choices.len()])
}

/// What `read` says of `bytes`, having made sure that every beginning of them is either open
/// (`is_open`) or says the same, and that once one says something the longer ones do.
pub fn read_cut<T: PartialEq + Debug>(
    bytes: &[u8],
    read: impl Fn(&[u8]) -> T,
    is_open: impl Fn(&T) -> bool,
) -> T {
    let whole = read(bytes);
    let mut is_decided = false;
    for end in cuts(bytes.len()) {
        let said = read(&bytes[..end]);
        if is_open(&said) {
            assert!(!is_decided, "decided before {end}, open there");
        } else {
            is_decided = true;
            assert_eq!(said, whole, "cut at {end}");
        }
    }
    whole
}

/// Cuts `bytes` into pieces whose lengths depend on `seed`: 0 is one piece, 1 is single bytes.
pub fn pieces(bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let mut state = u32::from(seed);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = match seed {
            0 => rest.len(),
            1 => 1,
            _ => {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let width = 1 + (state >> 28) as usize;
                (1 + (state >> 8) as usize % (width * width)).min(rest.len())
            }
        };
        let (piece, after) = rest.split_at(length);
        rest = after;
        Some(piece)
    })
}
