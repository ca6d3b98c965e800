//! The times that connections keep: what a pool's timeouts were when they began.
//!
//! Invariants: a profile in use is not changed, except when more are in use than there are numbers.
//! Must not depend on: rings, backends.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use holdfast_engine::ConnId;

use super::config::Timeouts;
use super::state::PROFILE_COUNT_MAX;

/// Units that the longest duration has: half of what 16 bits tell apart, less what a timer is late.
const DEADLINE_UNITS: u64 = 30_000;

/// The times of one pool, microseconds.
#[derive(Debug, Clone)]
pub struct Profile {
    timeouts: Timeouts,
    /// Without traffic in either direction.
    idle_us: Option<u64>,
    /// The same once a side has ended its direction.
    half_closed_us: Option<u64>,
    max_us: Option<u64>,
    /// What deadlines are counted in.
    unit_us: u64,
    /// Connections that have it.
    count: u64,
}

impl Profile {
    fn new(timeouts: Timeouts) -> Self {
        let us = |time: Duration| (!time.is_zero()).then_some(time.as_micros() as u64);
        let shorter = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        let (client, server) = (us(timeouts.client), us(timeouts.server));
        let sides = shorter(client, server);
        let idle_us = us(timeouts.tunnel).or(sides);
        let fins = shorter(
            us(timeouts.client_fin).or(client),
            us(timeouts.server_fin).or(server),
        );
        let max_us = us(timeouts.max_duration);
        let longest_us = max_us.unwrap_or(0) * (100 + u64::from(timeouts.jitter)) / 100;
        Profile {
            timeouts,
            idle_us,
            half_closed_us: fins.or(idle_us),
            max_us,
            unit_us: longest_us.div_ceil(DEADLINE_UNITS).max(1_000),
            count: 0,
        }
    }

    /// The idle timeout of a connection.
    pub fn idle_us(&self, id: ConnId, is_half_closed: bool) -> Option<u64> {
        let time_us = match is_half_closed {
            true => self.half_closed_us,
            false => self.idle_us,
        };
        time_us.map(|us| us + self.jitter_us(us, id))
    }

    /// True if connections have another idle timeout once a side has ended.
    pub fn has_half_closed_timeout(&self) -> bool {
        self.half_closed_us != self.idle_us
    }

    /// When a connection that begins now must end, in units; `None`: never.
    pub fn deadline(&self, id: ConnId, now_us: u64) -> Option<u16> {
        let max_us = self.max_us?;
        let due_us = now_us + max_us + self.jitter_us(max_us, id);
        Some((due_us / self.unit_us + 1) as u16)
    }

    /// How long until a deadline, 0 if it has passed; `None` without deadlines.
    pub fn until_us(&self, deadline: u16, now_us: u64) -> Option<u64> {
        self.max_us?;
        let now = now_us / self.unit_us;
        let units = deadline.wrapping_sub(now as u16) as i16;
        Some(match units {
            ..=0 => 0,
            _ => (now + units as u64) * self.unit_us - now_us,
        })
    }

    /// The part of a time that is a connection's own.
    fn jitter_us(&self, time_us: u64, id: ConnId) -> u64 {
        if self.timeouts.jitter == 0 {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let most_us = time_us * u64::from(self.timeouts.jitter) / 100;
        ((u128::from(hasher.finish()) * u128::from(most_us)) >> 64) as u64
    }
}

/// The profiles of a core thread.
#[derive(Debug, Default)]
pub struct Profiles(Vec<Profile>);

impl Profiles {
    /// The number of the profile with these times.
    pub fn number(&mut self, timeouts: Timeouts) -> u16 {
        let profiles = &mut self.0;
        if let Some(number) = profiles.iter().position(|p| p.timeouts == timeouts) {
            return number as u16;
        }
        let profile = Profile::new(timeouts);
        if let Some(number) = profiles.iter().position(|p| p.count == 0) {
            profiles[number] = profile;
            return number as u16;
        }
        if profiles.len() < PROFILE_COUNT_MAX {
            profiles.push(profile);
            return profiles.len() as u16 - 1;
        }
        // The connections of one profile get these times too.
        let count = profiles[PROFILE_COUNT_MAX - 1].count;
        profiles[PROFILE_COUNT_MAX - 1] = Profile { count, ..profile };
        PROFILE_COUNT_MAX as u16 - 1
    }

    /// The profile of a number.
    pub fn get(&self, number: u16) -> &Profile {
        &self.0[usize::from(number)]
    }

    /// One more connection has it.
    pub fn take(&mut self, number: u16) {
        self.0[usize::from(number)].count += 1;
    }

    /// One fewer does.
    pub fn release(&mut self, number: u16) {
        self.0[usize::from(number)].count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_never_early_and_jitter_spreads_them() {
        for seconds in [1, 60, 86_400] {
            let max = Duration::from_secs(seconds);
            let timeouts = Timeouts {
                max_duration: max,
                jitter: 50,
                ..Timeouts::default()
            };
            let profile = Profile::new(timeouts);
            let max_us = max.as_micros() as u64;
            for now_us in [0, 1, 123_456_789, 86_400_000_000 * 400] {
                let deadline = profile.deadline(ConnId::default(), now_us).unwrap();
                let until_us = profile.until_us(deadline, now_us).unwrap();
                assert!(until_us >= max_us && until_us <= max_us * 3 / 2 + profile.unit_us);
                let due_us = now_us + until_us;
                assert_eq!(profile.until_us(deadline, due_us), Some(0));
                assert!(profile.until_us(deadline, due_us - 1) > Some(0));
                assert_eq!(profile.until_us(deadline, due_us + max_us / 20), Some(0));
            }
        }
    }

    #[test]
    fn idle_times_follow_haproxy() {
        let seconds = Duration::from_secs;
        let timeouts = Timeouts {
            client: seconds(30),
            server: seconds(20),
            client_fin: seconds(5),
            server_fin: Duration::ZERO,
            ..Timeouts::default()
        };
        let idle = |timeouts: Timeouts| {
            let profile = Profile::new(timeouts);
            [false, true].map(|half| profile.idle_us(ConnId::default(), half).unwrap() / 1_000_000)
        };
        assert_eq!(idle(timeouts), [20, 5]);
        let tunnel = Timeouts {
            tunnel: seconds(600),
            ..timeouts
        };
        assert_eq!(idle(tunnel), [600, 5]);
        let only_tunnel = Timeouts {
            client: Duration::ZERO,
            server: Duration::ZERO,
            client_fin: Duration::ZERO,
            ..tunnel
        };
        assert_eq!(idle(only_tunnel), [600, 600]);
    }

    #[test]
    fn numbers_are_used_again_when_nobody_has_them() {
        let of = |ms| Timeouts {
            tunnel: Duration::from_millis(ms),
            ..Timeouts::default()
        };
        let mut profiles = Profiles::default();
        for ms in 1..1_000 {
            assert_eq!(profiles.number(of(ms)), 0);
        }
        profiles.take(0);
        assert_eq!(profiles.number(of(1)), 1);
        assert_eq!(profiles.number(of(999)), 0);
        for ms in 1_000..3_000 {
            let number = profiles.number(of(ms));
            profiles.take(number);
        }
        assert_eq!(profiles.0.len(), PROFILE_COUNT_MAX);
    }
}
