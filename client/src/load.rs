//! How many users there are to be and how fast they come: the load, and one thread's part of it.
//!
//! Invariants: user k of a thread is due at a time of its own, smooth inside each second, and threads take turns; a late turn starts
//! everybody who is due, each with the time it was meant to start at.
//! Must not know: what a user does, connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many users there are to be, and how fast; may change while running.
#[derive(Debug)]
pub struct Load {
    /// Users over all threads.
    pub users: AtomicU64,
    /// Users to start a second over all threads, in thousandths; [`Load::MAX`] for as fast as it goes.
    pub spawn_rate_milli: AtomicU64,
}

impl Load {
    /// As fast as it goes.
    pub const MAX: u64 = u64::MAX;

    /// Users to start a second, over all threads; `None` for as fast as it goes.
    pub fn spawn_rate(&self) -> Option<f64> {
        match self.spawn_rate_milli.load(Ordering::Relaxed) {
            Self::MAX => None,
            milli => Some(milli as f64 / 1e3),
        }
    }
}

/// One thread's share of a load: who is to start when.
#[derive(Debug)]
pub struct Spawn {
    load: Arc<Load>,
    share: u64,
    share_count: u64,
    /// Users started.
    started: u64,
    /// The rate, since when it counts, and how many had been started by then.
    pace_from: Option<(u64, u64, u64)>,
}

/// Users that may start now, from [`Spawn::due`].
#[derive(Debug, Clone, Copy)]
pub struct Due {
    rate_milli: u64,
    now_us: u64,
    /// Users who may have been started by now, by pace alone.
    paced: u64,
    /// When the one after them is due, engine time; `None` when there is no pace.
    next_us: Option<u64>,
    /// Users there are to be by now.
    allowed: u64,
}

impl Spawn {
    /// The part of thread `share` of `share_count`.
    pub fn new(load: Arc<Load>, share: usize, share_count: usize) -> Self {
        Spawn {
            load,
            share: share as u64,
            share_count: share_count as u64,
            started: 0,
            pace_from: None,
        }
    }

    /// Users started so far.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// The number the next user has among all users of all threads.
    pub fn next_number(&self) -> u64 {
        self.started * self.share_count + self.share
    }

    /// How many of the first `count` users by number are this thread's.
    pub fn share_of(&self, count: u64) -> u64 {
        (count + self.share_count - 1).saturating_sub(self.share) / self.share_count
    }

    /// This thread's share of all users.
    pub fn target(&self) -> u64 {
        self.share_of(self.load.users.load(Ordering::Relaxed))
    }

    /// Who is due at a time.
    pub fn due(&mut self, now_us: u64) -> Due {
        let rate_milli = self.load.spawn_rate_milli.load(Ordering::Relaxed);
        let (paced, next_us) = self.pace(rate_milli, now_us);
        Due {
            rate_milli,
            now_us,
            paced,
            next_us,
            allowed: self.target().min(paced),
        }
    }

    /// Starts the next user who is due: the time it was meant to start at. `None` when nobody is left.
    pub fn start_next(&mut self, due: &Due) -> Option<u64> {
        if self.started >= due.allowed {
            return None;
        }
        let intended_us = match due.next_us {
            // The intended start of this very user, not of the batch.
            Some(next_us) => {
                let behind = u128::from(due.paced - self.started)
                    * u128::from(self.share_count)
                    * 1_000_000_000;
                next_us.saturating_sub((behind / u128::from(due.rate_milli.max(1))) as u64)
            }
            None => due.now_us,
        };
        self.started += 1;
        Some(intended_us)
    }

    /// When the next user is due, if one is left.
    pub fn next_us(&self, due: &Due) -> Option<u64> {
        (self.started < self.target()).then(|| due.next_us.unwrap_or(due.now_us))
    }

    /// How many users may have been started by now, and when the next one is due.
    fn pace(&mut self, rate_milli: u64, now_us: u64) -> (u64, Option<u64>) {
        if rate_milli == Load::MAX {
            return (u64::MAX, None);
        }
        let (from_us, from_count) = match self.pace_from {
            Some((rate, from_us, from_count)) if rate == rate_milli => (from_us, from_count),
            _ => {
                self.pace_from = Some((rate_milli, now_us, self.started));
                (now_us, self.started)
            }
        };
        // User k of this thread is due at from + (k * threads + share) / rate, so that threads take turns.
        let due_us = |k: u64| {
            let place =
                u128::from(k - from_count) * u128::from(self.share_count) + u128::from(self.share);
            from_us + (place * 1_000_000_000 / u128::from(rate_milli.max(1))) as u64
        };
        let elapsed = u128::from(now_us - from_us) * u128::from(rate_milli);
        let places = elapsed / 1_000_000_000;
        let mut count = from_count;
        if places >= u128::from(self.share) {
            count += ((places - u128::from(self.share)) / u128::from(self.share_count)) as u64 + 1;
        }
        (count, Some(due_us(count)))
    }
}

/// A load for tests of what runs under it.
#[cfg(test)]
pub fn fixed(users: u64, spawn_rate_milli: u64) -> Arc<Load> {
    Arc::new(Load {
        users: AtomicU64::new(users),
        spawn_rate_milli: AtomicU64::new(spawn_rate_milli),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(spawn: &mut Spawn, now_us: u64) -> Vec<u64> {
        let due = spawn.due(now_us);
        std::iter::from_fn(|| spawn.start_next(&due)).collect()
    }

    #[test]
    fn pacing_is_smooth_inside_the_second() {
        let mut spawn = Spawn::new(fixed(1_000, 100_000), 0, 1);
        let mut total = 0;
        for ms in 0..=1_000 {
            let new = started(&mut spawn, ms * 1_000).len();
            assert!(new <= 1, "a batch of {new} at {ms} ms");
            total += new;
        }
        assert_eq!(total, 101, "one at 0 and one every 10 ms");
    }

    #[test]
    fn a_late_turn_starts_everybody_due_with_their_own_intended_time() {
        let mut spawn = Spawn::new(fixed(1_000, 100_000), 0, 1);
        started(&mut spawn, 0);
        assert_eq!(
            started(&mut spawn, 50_000),
            [10_000, 20_000, 30_000, 40_000, 50_000]
        );
    }

    #[test]
    fn threads_share_all_users_and_nobody_comes_twice() {
        let load = fixed(10, Load::MAX);
        let counts: Vec<_> = (0..3)
            .map(|share| started(&mut Spawn::new(Arc::clone(&load), share, 3), 0).len())
            .collect();
        assert_eq!(counts, [4, 3, 3]);
    }
}
