//! The open model's schedule: when each request is due, whatever the server does.
//!
//! Turns are numbered over all users, `rate / batch` per second from engine time 0; user k of N
//! takes turns k, k + N, k + 2N, ... So turns are evenly spaced for each user and for all together.
//! A turn is a batch: all its requests are due together.
//! Invariants: due times lie on the engine's ticks, rounded up, and never drift; due turns are
//! counted without visiting users.
//! Must not depend on: users' connections, what is sent.

use holdfast_engine::config::TICK_US;

/// Thousandths of a request a second, ticks a second: units of rate and time.
const MILLI_TICKS: u64 = 1_000 * 1_000_000 / TICK_US;

/// Requests on a fixed schedule.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Users over all threads.
    pub users: u64,
    /// Requests of a turn.
    pub batch: u64,
    /// Requests per second over all users, in thousandths.
    pub rate_milli: u64,
}

impl Schedule {
    /// When a turn is due, engine time. Exact for the first 18e12 requests.
    pub fn due_us(&self, turn: u64) -> u64 {
        (turn * self.batch * MILLI_TICKS).div_ceil(self.rate_milli) * TICK_US
    }

    /// The first turn of user `number` that is not due before `from_us`.
    pub fn first_turn(&self, number: u64, from_us: u64) -> u64 {
        let first = match from_us.div_ceil(TICK_US) {
            0 => 0,
            tick => self.due_count((tick - 1) * TICK_US),
        };
        number + first.saturating_sub(number).div_ceil(self.users) * self.users
    }

    /// Turns of all users due by `now_us`.
    pub fn due_count(&self, now_us: u64) -> u64 {
        let elapsed = u128::from(now_us / TICK_US) * u128::from(self.rate_milli);
        (elapsed / u128::from(self.batch * MILLI_TICKS)) as u64 + 1
    }

    /// The turns due by `now_us`: complete rounds over all users, and how many users had one more.
    pub fn rounds(&self, now_us: u64) -> (u64, u64) {
        let due = self.due_count(now_us);
        (due / self.users, due % self.users)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: Schedule = Schedule {
        users: 7,
        batch: 3,
        rate_milli: 333_333,
    };

    #[test]
    fn users_take_turns_evenly_on_the_ticks() {
        let schedule = Schedule {
            users: 4,
            batch: 1,
            rate_milli: 1_000_000,
        };
        // 1,000 a second: user 2 is due at 2 ms, 6 ms, ...
        assert_eq!(
            [2, 6, 10].map(|turn| schedule.due_us(turn)),
            [2_000, 6_000, 10_000]
        );
        let fast = Schedule {
            rate_milli: 2_500_000,
            ..schedule
        };
        // Every 400 us, rounded up to the tick.
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(|turn| fast.due_us(turn)),
            [0, 1_000, 1_000, 2_000, 2_000, 2_000]
        );
        assert_eq!(ODD.due_us(333_333), 3_000_000_000, "no drift in 50 minutes");
    }

    #[test]
    fn due_turns_counted_at_once_equal_those_counted_one_by_one() {
        for now_us in (0..500_000).step_by(777) {
            let asked = (0..).take_while(|turn| ODD.due_us(*turn) <= now_us).count() as u64;
            assert_eq!(ODD.due_count(now_us), asked, "{now_us}");
            let (rounds, more) = ODD.rounds(now_us);
            assert_eq!(rounds * ODD.users + more, asked);
            for number in 0..7 {
                let first = (number..)
                    .step_by(7)
                    .find(|turn| ODD.due_us(*turn) >= now_us)
                    .unwrap();
                assert_eq!(
                    ODD.first_turn(number, now_us),
                    first,
                    "user {number} at {now_us}"
                );
            }
        }
    }
}
