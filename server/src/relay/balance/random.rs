//! The less loaded of two candidates chosen at random, by weight.
//!
//! Needs two counts instead of all, and keeps the most loaded one nearly as close to the mean as least
//! connections does (Mitzenmacher, "The power of two choices").
//!
//! Must not depend on: how candidates came about.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use super::least::is_less;
use super::{ActiveCounts, Candidates, Selected, Selector, hash};

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

impl Selector {
    /// Chooses one of two; if both are full, the least loaded one.
    pub(super) fn less_loaded_of_two(
        &mut self,
        candidates: &Candidates,
        counts: &ActiveCounts,
    ) -> Selected {
        let all = candidates.all();
        let total = candidates.total_weight();
        let first = candidates.owner_of(self.random.below(total));
        // Another one: a number outside the first one's range, which is cut out.
        let end = candidates.cumulative[first];
        let own = u64::from(all[first].weight);
        let mut best = first;
        if total > own {
            let mut point = self.random.below(total - own);
            if point >= end - own {
                point += own;
            }
            let second = candidates.owner_of(point);
            let load = |place: usize| (counts.get(all[place].id), all[place].weight);
            let is_full = |place: usize| counts.get(all[place].id) >= all[place].maxconn;
            if is_full(first) || !is_full(second) && is_less(load(second), load(first)) {
                best = second;
            }
        }
        match counts.try_acquire(all[best].id, all[best].maxconn) {
            true => Selected::One(best),
            false => self.least(all, counts),
        }
    }
}
