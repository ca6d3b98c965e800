//! Turns: which of several weighted things comes next. Lines of `THING [WEIGHT]` in a file.
//!
//! Of things with weights, each has its share of the turns, spread as evenly as the others allow.
//! Invariants: of n turns in a row from the start of a round, each thing has its share give or take
//! one; every thing has a turn.
//! Must not depend on: what has turns.

use std::sync::Arc;

/// Most turns of all things together, after which they repeat.
const TURN_COUNT_MAX: u64 = 1 << 20;

/// A round of turns that repeats, and whose turn it is.
#[derive(Debug, Clone)]
pub struct Turns {
    numbers: Arc<[u16]>,
    next: usize,
    /// Turns after which numbered turns begin one later in the round.
    block: u64,
}

impl Turns {
    /// Turns of as many things as there are weights, by their numbers. At most 65,536 things.
    ///
    /// # Errors
    /// One line when the turns of a round are too many.
    pub fn new(weights: &[u64]) -> Result<Self, anyhow::Error> {
        let divisor = weights.iter().fold(0, |a, weight| gcd(a, *weight));
        let weights: Vec<u64> = weights.iter().map(|w| w / divisor.max(1)).collect();
        let count = weights.iter().try_fold(0_u64, |sum, w| sum.checked_add(*w));
        let Some(count) = count.filter(|count| *count <= TURN_COUNT_MAX) else {
            anyhow::bail!(
                "the weights add up to more than {TURN_COUNT_MAX}; next: give smaller ones in the same proportion"
            );
        };
        // Turn k of n of a thing belongs at (k + 1/2) / n of the round.
        let mut due: Vec<(u64, u16)> = Vec::with_capacity(count as usize);
        for (number, weight) in weights.iter().enumerate() {
            // Twice as fine as a turn, and both factors are below 2^21.
            due.extend((0..*weight).map(|k| ((2 * k + 1) * count / weight, number as u16)));
        }
        due.sort_unstable();
        Ok(Turns {
            numbers: due.into_iter().map(|(_, number)| number).collect(),
            next: 0,
            block: u64::MAX,
        })
    }

    /// The same for turns of which thread t of `thread_count` has those numbered t, t + `thread_count`
    /// and so on: each thread then has every thing's turns. Otherwise one of two threads would always
    /// have the same of two things.
    #[must_use]
    pub fn spread_over(mut self, thread_count: usize) -> Self {
        let (round, threads) = (self.numbers.len() as u64, thread_count as u64);
        // Whole rounds, so that those stay whole, after which a thread would meet the same places.
        self.block = round / gcd(round, threads) * threads;
        self
    }

    /// Begins where thread `share` of `share_count` does, so that few turns are not all the first
    /// thing's.
    pub fn start_at(&mut self, share: usize, share_count: usize) {
        self.next = self.numbers.len() * share / share_count;
    }

    /// Whose turn it is; the next one's comes after it.
    #[inline]
    pub fn take(&mut self) -> u16 {
        let number = self.numbers[self.next];
        self.next += 1;
        if self.next == self.numbers.len() {
            self.next = 0;
        }
        number
    }

    /// Whose turn number `turn` is, from the start.
    pub fn at(&self, turn: u64) -> u16 {
        let round = self.numbers.len() as u64;
        self.numbers[((turn % round + turn / self.block % round) % round) as usize]
    }

    /// How many of the first `turn_count` turns thing `number` of `count` has, for each.
    pub fn shares(&self, turn_count: u64, count: usize) -> Vec<u64> {
        let round = self.numbers.len() as u64;
        let mut shares = vec![0; count];
        for number in &*self.numbers {
            shares[usize::from(*number)] += turn_count / round;
        }
        for turn in turn_count - turn_count % round..turn_count {
            shares[usize::from(self.at(turn))] += 1;
        }
        shares
    }

    /// The fewest turns in which everything has one.
    pub fn turns_until_all(&self) -> u64 {
        let mut seen = std::collections::HashSet::new();
        let mut last = 0;
        for (turn, number) in (1..).zip(&*self.numbers) {
            if seen.insert(*number) {
                last = turn;
            }
        }
        last
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Parses a file of `THING [WEIGHT]` lines. Empty lines and those that begin with `#` say nothing;
/// the weight is 1 if there is none. `what` is a thing, and `example` one of them.
///
/// # Errors
/// The number of the first bad line, and what is wrong with it.
pub fn parse_lines<T>(
    text: &str,
    (what, example): (&str, &str),
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<(T, u64)>, String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (thing, weight) = line.split_once([' ', '\t']).unwrap_or((line, "1"));
        let weight = holdfast_units::parse::count_in::<u64>(1..=TURN_COUNT_MAX)(weight.trim());
        let thing = parse(thing).and_then(|thing| Ok((thing, weight?)));
        found.push(thing.map_err(|e| format!("line {number}: {e}"))?);
    }
    match found.is_empty() {
        true => Err(format!("no line has {what}; next: give one as {example}")),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(weights: &[u64], count: usize) -> Vec<u16> {
        let mut turns = Turns::new(weights).unwrap();
        (0..count).map(|_| turns.take()).collect()
    }

    #[test]
    fn turns_are_by_weight_and_even() {
        assert_eq!(taken(&[1], 3), [0, 0, 0]);
        assert_eq!(taken(&[1, 1, 1], 7), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(taken(&[300, 100], 8), [0, 0, 1, 0, 0, 0, 1, 0]);
        let many = taken(&[50, 30, 20, 1], 1_010);
        for (number, count) in [(0, 500), (1, 300), (2, 200), (3, 10)] {
            assert_eq!(many.iter().filter(|n| **n == number).count(), count);
        }
        assert!(Turns::new(&[TURN_COUNT_MAX, 1]).is_err());
        assert!(Turns::new(&[u64::MAX, u64::MAX - 1]).is_err());
        assert_eq!(taken(&[1 << 40, 1 << 40], 2), [0, 1], "in proportion");
    }

    #[test]
    fn every_thread_has_all_things_by_weight() {
        for (weights, threads) in [
            (vec![1; 16], 2),
            (vec![1; 2], 4),
            (vec![3, 1], 6),
            (vec![1; 5], 3),
        ] {
            let turns = Turns::new(&weights).unwrap().spread_over(threads);
            let total: u64 = weights.iter().sum();
            // So many turns that each thread meets each place equally often.
            let turn_count = 20 * total * total * threads as u64;
            let mut seen = vec![vec![0; weights.len()]; threads];
            for turn in 0..turn_count {
                seen[turn as usize % threads][usize::from(turns.at(turn))] += 1;
            }
            let exact: Vec<u64> = weights.iter().map(|w| 20 * total * w).collect();
            assert!(seen.iter().all(|s| *s == exact), "{weights:?}: {seen:?}");
            for turn_count in 0..100 {
                let mut counted = vec![0; weights.len()];
                (0..turn_count).for_each(|turn| counted[usize::from(turns.at(turn))] += 1);
                assert_eq!(turns.shares(turn_count, weights.len()), counted);
            }
        }
    }

    #[test]
    fn shares_of_any_number_of_turns_are_within_one_of_the_weights() {
        let weights = [50, 30, 20, 1];
        let turns = Turns::new(&weights).unwrap();
        for turn_count in [0, 1, 7, 101, 1_000, 123_456] {
            let shares = turns.shares(turn_count, 4);
            assert_eq!(shares.iter().sum::<u64>(), turn_count);
            for (share, weight) in shares.iter().zip(weights) {
                let exact = turn_count as f64 * weight as f64 / 101.0;
                assert!((*share as f64 - exact).abs() <= 1.0, "{shares:?}");
            }
            let counted = (0..turn_count).filter(|t| turns.at(*t) == 3).count();
            assert_eq!(counted as u64, shares[3]);
        }
        assert_eq!(
            turns.turns_until_all(),
            51,
            "the last one is amid the others"
        );
    }
}
