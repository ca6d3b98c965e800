//! What the tests share: numbers that look random and are the same every time, and reading what
//! is cut anywhere.
//!
//! Must not depend on: what is parsed.
#![allow(dead_code)] // Each test is a crate of its own and uses a part.

use holdfast_l4::ParseError;

/// xorshift64* (Vigna 2016).
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed, which is not 0.
    pub fn new(seed: u64) -> Self {
        assert_ne!(seed, 0);
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// One of `choices`.
    pub fn choose<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// `bytes` with a few changes of the kind that breaks parsers.
    pub fn spoil(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut spoilt = bytes.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(spoilt.len() + 1);
            match self.below(6) {
                0 => spoilt.insert(at, self.next() as u8),
                1 if at < spoilt.len() => drop(spoilt.remove(at)),
                2 if at < spoilt.len() => spoilt[at] = self.next() as u8,
                3 if at < spoilt.len() => spoilt[at] ^= 1 << self.below(8),
                4 if at < spoilt.len() => spoilt[at] = spoilt[at].wrapping_add(1),
                5 => spoilt.truncate(at),
                _ => {}
            }
        }
        spoilt
    }
}

/// What `read` says of `bytes`, having made sure that every beginning of them is either incomplete
/// or says the same, and that nothing is incomplete behind what decided.
pub fn read_cut<'a, T: PartialEq + std::fmt::Debug, E: PartialEq + std::fmt::Debug>(
    bytes: &'a [u8],
    read: impl Fn(&'a [u8]) -> Result<T, ParseError<E>>,
) -> Result<T, ParseError<E>> {
    let whole = read(bytes);
    let mut is_decided = false;
    for end in 0..bytes.len() {
        let part = read(&bytes[..end]);
        match part {
            Err(ParseError::Incomplete) => assert!(!is_decided, "decided before {end}"),
            decided => {
                is_decided = true;
                assert_eq!(decided, whole, "{} cut at {end}", bytes.escape_ascii());
            }
        }
    }
    whole
}
