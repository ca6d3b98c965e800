//! Random numbers for balancing, not for secrets.
//!
//! Must not depend on: candidates.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use super::hash;

/// A generator of random numbers (SplitMix64): for balancing, not for secrets.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers that differ for each thread and each start of the program.
    pub fn new(thread: u64) -> Self {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(thread);
        Random(hasher.finish())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash::mix(self.0)
    }

    /// A number from 0 to 1.
    pub fn unit(&mut self) -> f64 {
        self.next() as f64 / u64::MAX as f64
    }

    /// A number below `bound`, which is more than 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a product: no division, and no bias that bounds of this size show.
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}
