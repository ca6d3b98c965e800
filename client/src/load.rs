//! The load: how many users run, and how fast their number changes; and one thread's share of it.
//!
//! Users are numbered over all threads, and the first ones always stay. A target moves the number
//! of users from one value to another at a rate; user k starts, or stops, when the number passes k.
//! Invariants: each user has a due time of its own, evenly spread inside each second and over the
//! threads; a late turn starts every user that is due, each with its intended start time; changes
//! of the target restart no user.
//! Must not depend on: what a user does, connections.

/// Target number of users and the rate of change. Sent as a command while users run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Number of users at the start of the change.
    from: u64,
    /// Start of the change, microseconds of engine time; `None`: when a thread first calls
    /// [`Spawn::due`].
    since_us: Option<u64>,
    /// Target number of users over all threads.
    users: u64,
    /// Users to start or to stop per second over all threads, in thousandths; [`Load::MAX`]: as
    /// fast as possible.
    rate_milli: u64,
}

impl Load {
    /// As fast as possible.
    pub const MAX: u64 = u64::MAX;

    /// Starts at no users and goes to `users`, `rate_milli` thousandths per second.
    pub fn new(users: u64, rate_milli: u64) -> Self {
        Load {
            from: 0,
            since_us: None,
            users,
            rate_milli,
        }
    }

    /// Moves the number of users from `from`, about the current number, to `users`. The change
    /// starts at `since_us`, microseconds of engine time, which may be slightly in the future.
    pub fn change(from: u64, users: u64, rate_milli: u64, since_us: u64) -> Self {
        Load {
            from,
            since_us: Some(since_us),
            users,
            rate_milli,
        }
    }

    /// Users to start per second, over all threads; `None`: as fast as possible.
    pub fn spawn_rate(&self) -> Option<f64> {
        match self.rate_milli {
            Self::MAX => None,
            milli => Some(milli as f64 / 1e3),
        }
    }
}

/// Delay before another attempt to stop users that could not be stopped yet, microseconds.
const LATER_US: u64 = 1_000;

/// One thread's share of a load: which user starts or stops when.
#[derive(Debug)]
pub struct Spawn {
    load: Load,
    share: u64,
    share_count: u64,
    /// Users started and not stopped.
    present: u64,
    /// Engine time of the first call of [`Spawn::due`].
    first_us: Option<u64>,
    /// Users that should run now, as of the last call of [`Spawn::due`].
    allowed: u64,
}

/// What is due now, from [`Spawn::due`].
#[derive(Debug, Clone, Copy)]
pub struct Due {
    /// Engine time of this thread's first call of [`Spawn::due`].
    first_us: u64,
    rate_milli: u64,
    now_us: u64,
    since_us: u64,
    from: u64,
}

impl Spawn {
    /// The part of thread `share` of `share_count`.
    pub fn new(load: Load, share: usize, share_count: usize) -> Self {
        Spawn {
            load,
            share: share as u64,
            share_count: share_count as u64,
            present: 0,
            first_us: None,
            allowed: 0,
        }
    }

    /// Changes the load.
    pub fn set_load(&mut self, load: Load) {
        self.load = load;
    }

    /// Users started and not stopped.
    pub fn present(&self) -> u64 {
        self.present
    }

    /// The number of the next user among the users of all threads.
    pub fn next_number(&self) -> u64 {
        self.number(self.present)
    }

    fn number(&self, own: u64) -> u64 {
        own * self.share_count + self.share
    }

    /// How many of the first `count` users by number are this thread's.
    pub fn share_of(&self, count: u64) -> u64 {
        (count + self.share_count - 1).saturating_sub(self.share) / self.share_count
    }

    /// This thread's share of all users.
    fn target(&self) -> u64 {
        self.share_of(self.load.users)
    }

    /// True if this thread has as many users as its share of the target.
    pub fn is_settled(&self) -> bool {
        self.present == self.target()
    }

    /// The users due at a time.
    pub fn due(&mut self, now_us: u64) -> Due {
        let Load {
            from,
            since_us,
            users,
            rate_milli,
        } = self.load;
        let first_us = *self.first_us.get_or_insert(now_us);
        let since_us = since_us.unwrap_or(first_us);
        let passed = match (now_us.checked_sub(since_us), rate_milli) {
            (None, _) => 0,
            (_, Load::MAX) => u64::MAX,
            (Some(passed_us), rate) => {
                let passed = u128::from(passed_us) * u128::from(rate) / 1_000_000_000;
                u64::try_from(passed).unwrap_or(u64::MAX).saturating_add(1)
            }
        };
        let count = if users >= from {
            users.min(from.saturating_add(passed))
        } else {
            users.max(from.saturating_sub(passed))
        };
        // `from` is only about this thread's number of users: a rising target stops none, a falling
        // one starts none.
        let target = self.share_of(users);
        let (least, most) = (self.present.min(target), self.present.max(target));
        self.allowed = self.share_of(count).clamp(least, most);
        Due {
            first_us,
            rate_milli,
            now_us,
            since_us,
            from,
        }
    }

    /// Starts the next due user and returns its intended start time; `None` when no user is due.
    pub fn start_next(&mut self, due: &Due) -> Option<u64> {
        if self.present >= self.allowed {
            return None;
        }
        // The intended start of this user, not of the batch.
        let intended_us = due.at_us(self.next_number().saturating_sub(due.from));
        self.present += 1;
        Some(intended_us)
    }

    /// Users to stop now.
    pub fn excess(&self) -> u64 {
        self.present.saturating_sub(self.allowed)
    }

    /// Counts a user that stopped because the target fell.
    pub fn leave(&mut self) {
        assert!(self.excess() > 0, "only users over the target stop");
        self.present -= 1;
    }

    /// When to look again: the next user is due to start or to end.
    pub fn next_us(&self, due: &Due) -> Option<u64> {
        let target = self.target();
        if self.present < target {
            return Some(due.at_us(self.next_number().saturating_sub(due.from)));
        }
        if self.present > target {
            // Users over the target that could not be stopped yet are retried shortly.
            let last = self.number(self.present - 1);
            let due_us = due.at_us(due.from.saturating_sub(last + 1));
            return Some(due_us.max(due.now_us + LATER_US));
        }
        None
    }
}

impl Due {
    /// When this thread first looked at the load, engine time.
    pub fn started_us(&self) -> u64 {
        self.first_us
    }

    /// When the number of users has changed by `place`.
    fn at_us(&self, place: u64) -> u64 {
        if self.rate_milli == Load::MAX {
            return self.now_us.max(self.since_us);
        }
        let after_us = u128::from(place) * 1_000_000_000 / u128::from(self.rate_milli.max(1));
        self.since_us + after_us as u64
    }
}

/// A load for tests of what runs under it.
#[cfg(test)]
pub fn fixed(users: u64, spawn_rate_milli: u64) -> Load {
    Load::new(users, spawn_rate_milli)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(spawn: &mut Spawn, now_us: u64) -> Vec<u64> {
        let due = spawn.due(now_us);
        std::iter::from_fn(|| spawn.start_next(&due)).collect()
    }

    #[test]
    fn users_start_evenly_inside_a_second() {
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
    fn late_turn_starts_all_due_users_at_their_intended_times() {
        let mut spawn = Spawn::new(fixed(1_000, 100_000), 0, 1);
        started(&mut spawn, 0);
        assert_eq!(
            started(&mut spawn, 50_000),
            [10_000, 20_000, 30_000, 40_000, 50_000]
        );
    }

    #[test]
    fn threads_share_the_users_without_overlap() {
        let load = fixed(10, Load::MAX);
        let counts: Vec<_> = (0..3)
            .map(|share| started(&mut Spawn::new(load, share, 3), 0).len())
            .collect();
        assert_eq!(counts, [4, 3, 3]);
    }

    #[test]
    fn falling_target_stops_the_newest_one_by_one_then_rising_starts_more() {
        let load = fixed(100, Load::MAX);
        let mut spawns = [0, 1].map(|share| Spawn::new(load, share, 2));
        assert_eq!(spawns.each_mut().map(|s| started(s, 0).len()), [50, 50]);
        let fewer = Load::change(100, 90, 10_000, 1_000_000);
        spawns.iter_mut().for_each(|spawn| spawn.set_load(fewer));
        let mut left = Vec::new();
        for ms in 0..=1_000 {
            for spawn in &mut spawns {
                spawn.due(1_000_000 + ms * 1_000);
                assert!(spawn.excess() <= 1, "a batch at {ms} ms");
                while spawn.excess() > 0 {
                    left.push(spawn.number(spawn.present - 1));
                    spawn.leave();
                }
            }
        }
        assert_eq!(
            left,
            (90..100).rev().collect::<Vec<_>>(),
            "the newest first"
        );
        let more = Load::change(90, 94, 4_000, 3_000_000);
        spawns.iter_mut().for_each(|spawn| spawn.set_load(more));
        let [even, odd] = &mut spawns;
        assert_eq!(started(even, 3_000_000), [3_000_000]);
        assert!(started(odd, 3_000_000).is_empty());
        assert_eq!(started(odd, 3_300_000), [3_250_000]);
        assert_eq!(started(even, 4_000_000), [3_500_000]);
        assert!(even.is_settled() && !odd.is_settled());
    }

    #[test]
    fn rising_target_stops_no_user_and_falling_target_starts_none() {
        let load = fixed(100, Load::MAX);
        let mut spawn = Spawn::new(load, 0, 1);
        started(&mut spawn, 0);
        // The targets' start values are slightly behind, or ahead.
        spawn.set_load(Load::change(97, 200, 100_000, 1_000_000));
        assert!(started(&mut spawn, 1_000_000).is_empty());
        assert_eq!(spawn.excess(), 0);
        spawn.set_load(Load::change(120, 90, 30_000, 2_000_000));
        assert!(started(&mut spawn, 2_000_000).is_empty());
        assert_eq!(spawn.excess(), 0);
    }

    #[test]
    fn change_may_start_later_and_is_the_same_for_all_threads() {
        let load = fixed(0, Load::MAX);
        let mut spawns = [0, 1].map(|share| Spawn::new(load, share, 2));
        for spawn in &mut spawns {
            started(spawn, 0);
        }
        let more = Load::change(0, 100, 100_000, 1_300_000);
        spawns.iter_mut().for_each(|spawn| spawn.set_load(more));
        let [even, odd] = &mut spawns;
        assert!(started(even, 1_299_999).is_empty());
        let due = even.due(1_299_999);
        assert_eq!(even.next_us(&due), Some(1_300_000));
        assert_eq!(started(even, 1_301_000), [1_300_000]);
        // A thread that reads it late still starts users at their intended times.
        assert_eq!(started(odd, 1_330_000), [1_310_000, 1_330_000]);
        assert_eq!(started(even, 1_330_000), [1_320_000]);
    }

    #[test]
    fn target_set_after_a_long_rest_causes_no_burst() {
        let load = fixed(10, 1_000_000);
        let mut spawn = Spawn::new(load, 0, 1);
        started(&mut spawn, 0);
        assert_eq!(started(&mut spawn, 60_000_000).len(), 9);
        spawn.set_load(Load::change(10, 1_000, 1_000_000, 120_000_000));
        assert_eq!(started(&mut spawn, 120_000_000).len(), 1);
        assert_eq!(started(&mut spawn, 120_005_000).len(), 5);
    }
}
