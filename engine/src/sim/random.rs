//! Numbers that look random and follow from a seed.
//!
//! Invariants: the same seed gives the same numbers for ever, on every machine, or a recorded seed would mean nothing.
//! Must not depend on: what they decide.

/// A generator after Wang Yi's wyrand: small, fast, and ours, so that no crate's next version changes what a seed means.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed. Neighbouring seeds have nothing in common.
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        random.next();
        random.0 ^= seed.rotate_left(32);
        random
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)] // It has no end.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xA076_1D64_78BD_642F);
        let wide = u128::from(self.0) * u128::from(self.0 ^ 0xE703_7ED1_A0B4_28DB);
        (wide >> 64) as u64 ^ wide as u64
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `first` to `last`, both included.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True `parts` times in 65,536.
    pub fn strikes(&mut self, parts: u32) -> bool {
        (self.next() >> 48) < u64::from(parts)
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A number from `first` to `last` whose order of magnitude is even: small ones are as likely as large ones.
    pub fn magnitude(&mut self, first: u64, last: u64) -> u64 {
        let bits = 64 - (last / first.max(1)).leading_zeros();
        let scale = first.max(1) << self.below(u64::from(bits));
        self.between(scale, (scale * 2).saturating_sub(1))
            .clamp(first, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_sequence_of_a_seed_never_changes() {
        let mut random = Random::new(7);
        let first: Vec<u64> = (0..3).map(|_| random.next()).collect();
        let mut again = Random::new(7);
        assert_eq!(first, (0..3).map(|_| again.next()).collect::<Vec<_>>());
        assert_ne!(first[0], Random::new(8).next());
        assert!((0..1_000).all(|_| (3..=5).contains(&random.between(3, 5))));
        assert!((0..1_000).all(|_| (10..=999).contains(&random.magnitude(10, 999))));
    }
}
