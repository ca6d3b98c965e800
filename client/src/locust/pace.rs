//! How fast a master's orders are carried out: a line from one number of users to the next.
//!
//! A master that ramps orders about once a second, some tens of milliseconds early or late. Carried out each by itself, every
//! late order would leave a gap and every early one a rush. So a ramp begins a little after its first order: what is left to do
//! when the next one comes is a cushion, and users go on coming at the ramp's own rate.
//! Invariants: an order alone is carried out evenly within [`STEP_SECONDS`] and the cushion; the line never passes what was ordered,
//! and goes on from where it is.
//! Must not know: the master's messages, threads, clocks.

/// In which time an order is carried out, and how often a master orders, seconds.
const STEP_SECONDS: f64 = 1.0;
/// How late an order may come without leaving a gap, seconds.
const CUSHION_SECONDS: f64 = 0.4;
/// Orders nearer than this to each other are parts of one: a process that is several workers hears one for each.
const PART_SECONDS: f64 = 0.2;
/// How long after an order for fewer users the first one goes, seconds: a stop comes to each part of a process by itself, and those
/// it stops last are not to be fewer before.
const FEWER_SECONDS: f64 = 0.1;
/// An order that comes later than this after the one before begins a ramp of its own.
const RAMP_SECONDS: f64 = 2.5;
/// In which time a cushion that is too large or too small is made good, seconds.
const MEND_SECONDS: f64 = 4.0;
/// By how much of the rate at most that is done.
const MEND_SHARE: f64 = 0.005;
/// How much of its interval an order that came early or late is believed to show of the ramp's, and how far off at most, seconds.
const BELIEF: f64 = 0.125;
const BELIEF_MOST: f64 = 0.05;
/// What was ordered is carried out within this time, whatever rates were before, seconds.
const LATEST_SECONDS: f64 = 2.0;

/// The line that is being followed, and the ramp it is part of. Times are seconds of any clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    from: f64,
    to: u64,
    /// When the line leaves `from`.
    since: f64,
    /// Users a second, up or down.
    rate: f64,
    ramp: Option<Ramp>,
}

/// How users come or go from an order on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// How many there are.
    pub from: u64,
    /// When the number begins to change.
    pub since: f64,
    /// Users a second.
    pub rate: f64,
}

/// Orders for more users, one after another.
#[derive(Debug, Clone, Copy)]
struct Ramp {
    /// When the last order came.
    last: f64,
    /// Seconds between orders.
    interval: f64,
    /// Users there were to be before the last order.
    base: u64,
    /// How many more users that order was for, and the one before it.
    steps: (u64, u64),
    is_begun: bool,
}

impl Pace {
    /// Users the last order was for.
    pub fn ordered(&self) -> u64 {
        self.to
    }

    /// Where the line is.
    fn position(&self, now: f64) -> f64 {
        let way = self.rate * (now - self.since).max(0.0);
        if self.to as f64 >= self.from {
            (self.from + way).min(self.to as f64)
        } else {
            (self.from - way).max(self.to as f64)
        }
    }

    /// There are to be `users` from `now` on: the line from here.
    pub fn order(&mut self, users: u64, now: f64) -> Line {
        let position = self.position(now);
        if users > self.to {
            self.rise(users, position, now);
        } else {
            *self = Pace {
                from: position,
                to: users,
                since: now + FEWER_SECONDS,
                rate: (position - users as f64).abs() / STEP_SECONDS,
                ramp: None,
            };
        }
        Line {
            from: self.from.round() as u64,
            since: self.since,
            rate: self.rate,
        }
    }

    fn rise(&mut self, users: u64, position: f64, now: f64) {
        let ramp = match self.ramp {
            Some(ramp) if now - ramp.last < PART_SECONDS => Ramp {
                steps: (users - ramp.base, ramp.steps.1),
                ..ramp
            },
            Some(ramp) if now - ramp.last < RAMP_SECONDS => {
                let late = (now - ramp.last - ramp.interval).clamp(-BELIEF_MOST, BELIEF_MOST);
                Ramp {
                    last: now,
                    interval: ramp.interval + late * BELIEF,
                    base: self.to,
                    steps: (users - self.to, ramp.steps.0),
                    is_begun: true,
                }
            }
            _ => Ramp {
                last: now,
                interval: STEP_SECONDS,
                base: self.to,
                steps: (users - self.to, 0),
                is_begun: false,
            },
        };
        let left = users as f64 - position;
        (self.since, self.rate) = if ramp.is_begun {
            // A ramp's last order may be for fewer; a ramp that is to be slower shows in the second one.
            let rate = ramp.steps.0.max(ramp.steps.1) as f64 / ramp.interval;
            let cushion = left - rate * (ramp.last + ramp.interval - now);
            let mend = (cushion - rate * CUSHION_SECONDS) / MEND_SECONDS;
            let most = rate * MEND_SHARE;
            let least = left / LATEST_SECONDS;
            (now, (rate + mend.clamp(-most, most)).max(least))
        } else {
            (ramp.last + CUSHION_SECONDS, left / STEP_SECONDS)
        };
        self.from = position;
        self.to = users;
        self.ramp = Some(ramp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Users over time, every 10 ms, under orders of (time, users).
    fn follow(orders: &[(f64, u64)], until: f64) -> Vec<(f64, f64)> {
        let mut pace = Pace::default();
        let mut orders = orders.iter().peekable();
        let mut places = Vec::new();
        for tick in 0..(until * 100.0) as u32 {
            let now = f64::from(tick) / 100.0;
            while let Some((_, users)) = orders.next_if(|(at, _)| *at <= now) {
                pace.order(*users, now);
            }
            places.push((now, pace.position(now)));
        }
        places
    }

    fn per_second(places: &[(f64, f64)]) -> Vec<f64> {
        let whole: Vec<f64> = places.iter().step_by(100).map(|(_, n)| *n).collect();
        whole.windows(2).map(|w| w[1] - w[0]).collect()
    }

    #[test]
    fn an_order_alone_is_carried_out_evenly() {
        let mut pace = Pace::default();
        let line = pace.order(1_000, 5.0);
        assert_eq!((line.from, line.rate), (0, 1_000.0));
        assert_eq!(line.since, 5.0 + CUSHION_SECONDS);
        assert_eq!(pace.position(line.since), 0.0);
        assert_eq!(pace.position(5.5 + CUSHION_SECONDS).round(), 500.0);
        assert_eq!(pace.position(6.0 + CUSHION_SECONDS), 1_000.0);
        assert_eq!(pace.position(60.0), 1_000.0);
    }

    #[test]
    fn late_and_early_orders_leave_no_gap_and_no_rush() {
        let late = [0.0, 0.05, -0.04, 0.12, 0.0, 0.2, -0.05, 0.08, 0.01, 0.15];
        let orders: Vec<(f64, u64)> = (0..40u32)
            .map(|k| {
                (
                    1.01 * f64::from(k) + late[k as usize % 10],
                    u64::from(k + 1) * 20_000,
                )
            })
            .map(|(at, users)| (at.max(0.0), users))
            .collect();
        let places = follow(&orders, 39.0);
        for (second, n) in per_second(&places[100..]).into_iter().enumerate() {
            assert!((n - 20_000.0).abs() < 400.0, "{n} in second {second}");
        }
    }

    #[test]
    fn nothing_is_passed_and_all_is_carried_out() {
        // A ramp with a small last order, a faster and a slower one, orders that stay away.
        let orders = [
            (0.0, 20_000),
            (1.0, 40_000),
            (2.1, 40_500),
            (9.0, 40_510),
            (10.0, 90_510),
            (11.0, 91_510),
            (12.0, 92_510),
        ];
        let places = follow(&orders, 20.0);
        for (now, place) in &places {
            let most = orders
                .iter()
                .rfind(|(at, _)| at <= now)
                .expect("an order")
                .1;
            assert!(*place <= most as f64, "{place} of {most} at {now}");
            let due = orders.iter().rfind(|(at, _)| *at + LATEST_SECONDS <= *now);
            assert!(
                *place >= due.map_or(0.0, |(_, users)| *users as f64),
                "{place} at {now}"
            );
        }
        assert!(
            places.windows(2).all(|w| w[1].1 >= w[0].1),
            "nobody ends for more"
        );
    }

    #[test]
    fn parts_of_an_order_are_one() {
        let mut pace = Pace::default();
        let line = (1..=4)
            .map(|part| pace.order(part * 5_000, 10.0 + part as f64 / 1_000.0))
            .last()
            .expect("the last part");
        assert_eq!((line.from, line.rate), (0, 20_000.0));
        assert_eq!(line.since, 10.001 + CUSHION_SECONDS);
        assert_eq!(pace.position(line.since + 1.0), 20_000.0);
        for part in 5..=8 {
            pace.order(part * 5_000, 11.0 + part as f64 / 1_000.0);
        }
        assert!((pace.position(line.since + 1.5) - 30_000.0).abs() < 300.0);
    }

    #[test]
    fn fewer_are_one_order_too_however_many_parts_it_has() {
        let mut pace = Pace::default();
        pace.order(1_000, 0.0);
        pace.order(750, 10.0);
        let line = pace.order(500, 10.0 + FEWER_SECONDS / 2.0);
        assert_eq!((line.from, line.rate), (1_000, 500.0));
        assert_eq!(pace.position(line.since), 1_000.0);
        assert_eq!(pace.position(line.since + 0.5), 750.0);
        assert_eq!(pace.order(0, line.since + 0.5).from, 750);
        assert_eq!(pace.position(20.0), 0.0);
        // From the middle of a way down up again.
        pace.order(1_000, 20.0);
        let line = pace.order(400, 30.0);
        assert_eq!(pace.order(900, line.since + 0.5).from, 700);
        assert_eq!(pace.position(32.5), 900.0);
    }
}
