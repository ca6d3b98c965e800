//! What the tests share: numbers that look random and are the same every time.
//!
//! Must not depend on: HTTP.
#![allow(dead_code)] // Each test is a crate of its own and uses a part.

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
        const PIECES: [&[u8]; 16] = [
            b"\r",
            b"\n",
            b"\r\n",
            b"\r\n\r\n",
            b" ",
            b"\t",
            b":",
            b";",
            b",",
            b"\0",
            b"\x7f",
            b"\xff",
            b"0",
            b"f",
            b"chunked",
            b"Content-Length: 1\r\n",
        ];
        let mut spoilt = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(spoilt.len() + 1);
            match self.below(4) {
                0 => drop(spoilt.splice(at..at, self.choose(&PIECES).iter().copied())),
                1 if at < spoilt.len() => drop(spoilt.remove(at)),
                2 if at < spoilt.len() => spoilt[at] = self.next() as u8,
                3 => spoilt.truncate(at),
                _ => {}
            }
        }
        spoilt
    }
}
