//! Users that wait to connect again, and how long they pause after failures.
//!
//! A pause doubles with every failure in a row, less a random part, so that users that lost their
//! connections together do not come back together.
//! Invariants: only waiting users take memory.
//! Must not depend on: connections, what a user does.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// 2^64 / golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Numbers that look random; the same ones in every run.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of thread `share`.
    pub fn new(share: usize) -> Self {
        Random(GOLDEN.wrapping_mul(share as u64 + 1))
    }

    /// At least 0 and less than 1.
    pub fn fraction(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// First and longest pause, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After one failure.
    pub first_us: u64,
    /// However many there were.
    pub longest_us: u64,
}

impl Backoff {
    /// The pause after `retries` earlier ones in a row: half to whole of `first * 2^retries`.
    pub fn pause_us(self, retries: u16, random: &mut Random) -> u64 {
        let pause_us = self
            .first_us
            .saturating_mul(1 << retries.min(20))
            .min(self.longest_us);
        (pause_us as f64 * (0.5 + 0.5 * random.fraction())) as u64
    }
}

/// Users that wait to connect, by due time.
#[derive(Debug)]
pub struct ReconnectQueue<T> {
    waiting: BinaryHeap<Reverse<Entry<T>>>,
}

#[derive(Debug)]
struct Entry<T> {
    due_us: u64,
    user: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.due_us == other.due_us
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.due_us.cmp(&other.due_us)
    }
}

impl<T> Default for ReconnectQueue<T> {
    fn default() -> Self {
        ReconnectQueue {
            waiting: BinaryHeap::new(),
        }
    }
}

impl<T> ReconnectQueue<T> {
    /// Adds a user that connects at `due_us`, engine time.
    pub fn push(&mut self, due_us: u64, user: T) {
        self.waiting.push(Reverse(Entry { due_us, user }));
    }

    /// Removes the first user that is due by `now_us`. Returns its due time too.
    pub fn pop_due(&mut self, now_us: u64) -> Option<(u64, T)> {
        if self.next_us()? > now_us {
            return None;
        }
        let Reverse(entry) = self.waiting.pop()?;
        Some((entry.due_us, entry.user))
    }

    /// The earliest due time.
    pub fn next_us(&self) -> Option<u64> {
        self.waiting.peek().map(|Reverse(entry)| entry.due_us)
    }

    /// Removes the user that is due first.
    pub fn pop_first(&mut self) -> Option<T> {
        self.waiting.pop().map(|Reverse(entry)| entry.user)
    }

    /// Removes the users for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.waiting.retain(|Reverse(entry)| keep(&entry.user));
    }

    /// Removes all users.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.waiting.drain().map(|Reverse(entry)| entry.user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_leave_in_due_order_and_never_early() {
        let mut line = ReconnectQueue::default();
        for (due_us, name) in [(30, 'c'), (10, 'a'), (20, 'b')] {
            line.push(due_us, name);
        }
        assert_eq!(line.pop_due(9), None);
        assert_eq!(line.pop_due(25), Some((10, 'a')));
        assert_eq!(line.pop_due(25), Some((20, 'b')));
        assert_eq!((line.pop_due(25), line.next_us()), (None, Some(30)));
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let backoff = Backoff {
            first_us: 1_000,
            longest_us: 60_000,
        };
        let mut random = Random::new(0);
        for (retries, whole) in [
            (0, 1_000),
            (1, 2_000),
            (5, 32_000),
            (6, 60_000),
            (99, 60_000),
        ] {
            let pause_us = backoff.pause_us(retries, &mut random);
            assert!(
                (whole / 2..=whole).contains(&pause_us),
                "{retries}: {pause_us}"
            );
        }
    }
}
