//! Smooth weighted round robin, as nginx has it.
//!
//! Each turn every candidate gains its weight; the one with most is chosen and pays what all gained. In
//! as many turns as the weights add up to, each is chosen as often as its weight says, as evenly
//! interleaved as weights allow: 5, 1, 1 gives a a b a c a a.
//!
//! Invariants: what the candidates have adds up to 0; candidates that are full neither gain nor pay.
//! Must not depend on: other algorithms.

use std::ops::Range;

use super::candidates::{Candidate, Selected};
use super::counts::ActiveCounts;

/// The turns of one core thread.
#[derive(Debug, Default)]
pub struct RoundRobin {
    /// What each candidate has.
    credits: Vec<i64>,
}

impl RoundRobin {
    /// Goes on with `new` candidates instead of `old`. Who stays keeps its credit, who comes gets none.
    pub fn adopt(&mut self, old: &[Candidate], new: &[Candidate]) {
        let kept = |candidate: &Candidate| {
            let place = old.iter().position(|o| o.id == candidate.id)?;
            self.credits.get(place).copied()
        };
        // Both lists mostly begin alike: looked up by place first.
        let credit = |(place, candidate): (usize, &Candidate)| match old.get(place) {
            Some(o) if o.id == candidate.id => self.credits[place],
            _ => kept(candidate).unwrap_or(0),
        };
        let mut credits: Vec<i64> = new.iter().enumerate().map(credit).collect();
        // Who left took its credit along: the rest is shared out, lest one who comes with none be
        // far behind, or far in front of, all others.
        if let Some(count) = i64::try_from(credits.len()).ok().filter(|count| *count > 0) {
            let sum: i64 = credits.iter().sum();
            for credit in &mut credits {
                *credit -= sum.div_euclid(count);
            }
            credits[0] -= sum.rem_euclid(count);
        }
        self.credits = credits;
    }

    /// Chooses the candidate whose turn it is among those that are not full.
    pub fn select(&mut self, all: &[Candidate], counts: &ActiveCounts) -> Selected {
        // Each time somebody else was quicker, one more is full.
        for _ in 0..=all.len() {
            let is_open = |c: &Candidate| c.maxconn == u32::MAX || counts.get(c.id) < c.maxconn;
            let Some(place) = self.turn(all, 0..all.len(), |_, c| is_open(c)) else {
                return Selected::AllFull;
            };
            if counts.try_acquire(all[place].id, all[place].maxconn) {
                return Selected::One(place);
            }
        }
        Selected::AllFull
    }

    /// Lets a turn pass.
    pub fn skip_turn(&mut self, all: &[Candidate]) {
        self.turn(all, 0..all.len(), |_, _| true);
    }

    /// Whose turn it is among those of `window` that take part. `takes_part` gets a candidate with its
    /// place in the window.
    pub fn turn(
        &mut self,
        all: &[Candidate],
        window: Range<usize>,
        takes_part: impl Fn(usize, &Candidate) -> bool,
    ) -> Option<usize> {
        let (mut gained, mut chosen) = (0, None);
        let credits = &mut self.credits[window.clone()];
        for (place, (candidate, credit)) in all[window.clone()].iter().zip(credits).enumerate() {
            if !takes_part(place, candidate) {
                continue;
            }
            *credit += i64::from(candidate.weight);
            gained += i64::from(candidate.weight);
            if chosen.is_none_or(|(_, most)| *credit > most) {
                chosen = Some((place, *credit));
            }
        }
        let place = window.start + chosen?.0;
        self.credits[place] -= gained;
        Some(place)
    }
}
