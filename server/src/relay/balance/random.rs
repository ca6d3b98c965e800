//! The less loaded of two candidates chosen at random, by weight.
//!
//! Needs two counts instead of all, and keeps the most loaded one nearly as close to the mean as least
//! connections does (Mitzenmacher, "The power of two choices").
//!
//! Must not depend on: how candidates came about.

use super::candidates::{Candidates, Selected};
use super::counts::ActiveCounts;
use super::least::is_less;
use super::selector::Selector;

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
