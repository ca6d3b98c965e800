//! Least connections: the candidate with the fewest connections for its weight.
//!
//! Every choice reads the counts that all threads share, and counts its connection before it looks away.
//! A choice that another thread was quicker than looks again, [`TRIES`] times. So counts of backends of
//! equal weight that are filled this way differ by at most 1 plus one for each other thread in the midst
//! of a choice. There is no lock, and no order to keep up to date when a connection ends.
//!
//! Must not depend on: how candidates came about.

use std::ops::Range;

use super::candidates::{Candidate, SCAN_MAX, Selected};
use super::counts::ActiveCounts;
use super::selector::Selector;

/// How often a choice is made anew because the count chosen by had changed.
const TRIES: usize = 3;

/// True if `a` connections with weight `a_weight` are less load than `b` with `b_weight`.
pub fn is_less((a, a_weight): (u32, u32), (b, b_weight): (u32, u32)) -> bool {
    u64::from(a) * u64::from(b_weight) < u64::from(b) * u64::from(a_weight)
}

impl Selector {
    /// Chooses the least loaded candidate of the next window; if that one is full, of all.
    pub(super) fn least(&mut self, all: &[Candidate], counts: &ActiveCounts) -> Selected {
        let windows = all.len().div_ceil(SCAN_MAX);
        for _ in 0..windows {
            let from = self.window * SCAN_MAX;
            let to = all.len().min(from + SCAN_MAX);
            self.window = (self.window + 1) % windows;
            if let Some(place) = self.least_of(all, from..to, counts) {
                return Selected::One(place);
            }
        }
        Selected::AllFull
    }

    fn least_of(
        &mut self,
        all: &[Candidate],
        window: Range<usize>,
        counts: &ActiveCounts,
    ) -> Option<usize> {
        let part = &all[window.clone()];
        let mut tries = 0;
        loop {
            self.seen.clear();
            let (mut least, mut equals) = (None::<(usize, (u32, u32))>, 0);
            for (place, candidate) in part.iter().enumerate() {
                let active = counts.get(candidate.id);
                self.seen.push(active);
                if active >= candidate.maxconn {
                    continue;
                }
                let load = (active, candidate.weight);
                match least {
                    Some((_, other)) if is_less(other, load) => {}
                    Some((_, other)) if !is_less(load, other) => equals += 1,
                    _ => (least, equals) = (Some((place, load)), 1),
                }
            }
            let (mut place, load) = least?;
            if equals > 1 {
                let seen = &self.seen;
                let is_equal = |at: usize, candidate: &Candidate| {
                    let other = (seen[at], candidate.weight);
                    seen[at] < candidate.maxconn && !is_less(load, other)
                };
                let turn = self.turns.turn(all, window.clone(), is_equal);
                place = turn.expect("several take part") - window.start;
            }
            let Candidate { id, maxconn, .. } = part[place];
            tries += 1;
            let is_counted = match tries < TRIES {
                true => counts.try_acquire_seen(id, self.seen[place]),
                // Others are quicker each time: one among the least is good enough.
                false => counts.try_acquire(id, maxconn),
            };
            if is_counted {
                return Some(window.start + place);
            }
            if tries > TRIES + part.len() {
                return None;
            }
        }
    }
}
