//! Smooths the steps of a master's ramp: the number of users follows a straight line, not stairs.
//!
//! A master that ramps sends a new target about once a second, some tens of milliseconds early or
//! late. Followed one by one, each late target would leave a gap and each early one a burst. So, as
//! a player of streamed audio does, a ramp begins a playout delay after its first target, users go
//! on starting at the ramp's own rate, and a small correction of the rate keeps the delay constant.
//! Invariants: a single target is reached evenly within [`STEP_SECONDS`] after the playout delay;
//! the line never passes the target, and has no jumps.
//! Must not depend on: the master's messages, threads, clocks.

/// The time in which a single target is reached, and between two targets of a master, seconds.
const STEP_SECONDS: f64 = 1.0;
/// How late a target may be without leaving a gap, seconds.
const PLAYOUT_DELAY_SECONDS: f64 = 0.4;
/// Targets closer together than this belong to the same step: a process that is several workers
/// gets one for each.
const SAME_STEP_SECONDS: f64 = 0.2;
/// Delay before the first user stops, seconds: a stop reaches each worker of a process by itself,
/// and until the last one has it, none of their users may go.
const STOP_DELAY_SECONDS: f64 = 0.1;
/// A target later than this after the one before begins a new ramp.
const RAMP_GAP_SECONDS: f64 = 2.5;
/// The time in which the rate corrects a playout delay that is too long or too short, seconds.
const CORRECTION_SECONDS: f64 = 4.0;
/// The largest correction, as a share of the rate.
const CORRECTION_SHARE_MAX: f64 = 0.005;
/// The weight of one interval in the average of the ramp's interval, and the largest deviation
/// counted, seconds.
const INTERVAL_WEIGHT: f64 = 0.125;
const INTERVAL_DEVIATION_MAX: f64 = 0.05;
/// A target is reached within this time, whatever the rate was before, seconds.
const REACH_SECONDS_MAX: f64 = 2.0;

/// The line being followed, and the ramp it is part of. Times are seconds of any clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct RampSmoother {
    from: f64,
    to: u64,
    /// When the number begins to change.
    since: f64,
    /// Users per second, up or down.
    rate: f64,
    ramp: Option<Ramp>,
}

/// How the number of users changes from now on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    /// The number now.
    pub from: u64,
    /// When it begins to change.
    pub since: f64,
    /// Users per second.
    pub rate: f64,
}

/// Rising targets, one after another.
#[derive(Debug, Clone, Copy)]
struct Ramp {
    /// When the last step came.
    last: f64,
    /// Seconds between steps.
    interval: f64,
    /// The target before the last step.
    base: u64,
    /// Users added by the last step, and by the one before it.
    steps: (u64, u64),
    /// A second step has come.
    has_rate: bool,
}

impl RampSmoother {
    /// The last target.
    pub fn target(&self) -> u64 {
        self.to
    }

    /// The number of users on the line.
    fn position(&self, now: f64) -> f64 {
        let change = self.rate * (now - self.since).max(0.0);
        if self.to as f64 >= self.from {
            (self.from + change).min(self.to as f64)
        } else {
            (self.from - change).max(self.to as f64)
        }
    }

    /// Sets a target at `now`, and gives the line to it.
    pub fn set_target(&mut self, users: u64, now: f64) -> Segment {
        let position = self.position(now);
        if users > self.to {
            self.rise(users, position, now);
        } else {
            *self = RampSmoother {
                from: position,
                to: users,
                since: now + STOP_DELAY_SECONDS,
                rate: (position - users as f64).abs() / STEP_SECONDS,
                ramp: None,
            };
        }
        Segment {
            from: self.from.round() as u64,
            since: self.since,
            rate: self.rate,
        }
    }

    fn rise(&mut self, users: u64, position: f64, now: f64) {
        let ramp = match self.ramp {
            Some(ramp) if now - ramp.last < SAME_STEP_SECONDS => Ramp {
                steps: (users - ramp.base, ramp.steps.1),
                ..ramp
            },
            Some(ramp) if now - ramp.last < RAMP_GAP_SECONDS => {
                let deviation = (now - ramp.last - ramp.interval)
                    .clamp(-INTERVAL_DEVIATION_MAX, INTERVAL_DEVIATION_MAX);
                Ramp {
                    last: now,
                    interval: ramp.interval + deviation * INTERVAL_WEIGHT,
                    base: self.to,
                    steps: (users - self.to, ramp.steps.0),
                    has_rate: true,
                }
            }
            _ => Ramp {
                last: now,
                interval: STEP_SECONDS,
                base: self.to,
                steps: (users - self.to, 0),
                has_rate: false,
            },
        };
        let left = users as f64 - position;
        (self.since, self.rate) = if ramp.has_rate {
            // The last step of a ramp may be smaller. A ramp that becomes slower shows in its
            // second smaller step.
            let rate = ramp.steps.0.max(ramp.steps.1) as f64 / ramp.interval;
            // Users still to be started when the next step comes.
            let buffered = left - rate * (ramp.last + ramp.interval - now);
            let correction = (buffered - rate * PLAYOUT_DELAY_SECONDS) / CORRECTION_SECONDS;
            let correction_max = rate * CORRECTION_SHARE_MAX;
            let rate_min = left / REACH_SECONDS_MAX;
            let rate = rate + correction.clamp(-correction_max, correction_max);
            (now, rate.max(rate_min))
        } else {
            (ramp.last + PLAYOUT_DELAY_SECONDS, left / STEP_SECONDS)
        };
        self.from = position;
        self.to = users;
        self.ramp = Some(ramp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Users over time, every 10 ms, with targets of (time, users).
    fn follow(targets: &[(f64, u64)], until: f64) -> Vec<(f64, f64)> {
        let mut ramp = RampSmoother::default();
        let mut targets = targets.iter().peekable();
        let mut places = Vec::new();
        for tick in 0..(until * 100.0) as u32 {
            let now = f64::from(tick) / 100.0;
            while let Some((_, users)) = targets.next_if(|(at, _)| *at <= now) {
                ramp.set_target(*users, now);
            }
            places.push((now, ramp.position(now)));
        }
        places
    }

    fn per_second(places: &[(f64, f64)]) -> Vec<f64> {
        let whole: Vec<f64> = places.iter().step_by(100).map(|(_, n)| *n).collect();
        whole.windows(2).map(|w| w[1] - w[0]).collect()
    }

    #[test]
    fn single_target_is_reached_evenly() {
        let mut ramp = RampSmoother::default();
        let segment = ramp.set_target(1_000, 5.0);
        assert_eq!((segment.from, segment.rate), (0, 1_000.0));
        assert_eq!(segment.since, 5.0 + PLAYOUT_DELAY_SECONDS);
        assert_eq!(ramp.position(segment.since), 0.0);
        assert_eq!(ramp.position(5.5 + PLAYOUT_DELAY_SECONDS).round(), 500.0);
        assert_eq!(ramp.position(6.0 + PLAYOUT_DELAY_SECONDS), 1_000.0);
        assert_eq!(ramp.position(60.0), 1_000.0);
    }

    #[test]
    fn late_and_early_targets_leave_no_gap_and_no_burst() {
        let late = [0.0, 0.05, -0.04, 0.12, 0.0, 0.2, -0.05, 0.08, 0.01, 0.15];
        let targets: Vec<(f64, u64)> = (0..40u32)
            .map(|k| {
                (
                    1.01 * f64::from(k) + late[k as usize % 10],
                    u64::from(k + 1) * 20_000,
                )
            })
            .map(|(at, users)| (at.max(0.0), users))
            .collect();
        let places = follow(&targets, 39.0);
        for (second, n) in per_second(&places[100..]).into_iter().enumerate() {
            assert!((n - 20_000.0).abs() < 400.0, "{n} in second {second}");
        }
    }

    #[test]
    fn no_target_is_passed_and_all_are_reached() {
        // A ramp with a small last step, a faster and a slower one, and pauses.
        let targets = [
            (0.0, 20_000),
            (1.0, 40_000),
            (2.1, 40_500),
            (9.0, 40_510),
            (10.0, 90_510),
            (11.0, 91_510),
            (12.0, 92_510),
        ];
        let places = follow(&targets, 20.0);
        for (now, place) in &places {
            let most = targets
                .iter()
                .rfind(|(at, _)| at <= now)
                .expect("a target")
                .1;
            assert!(*place <= most as f64, "{place} of {most} at {now}");
            let due = targets
                .iter()
                .rfind(|(at, _)| *at + REACH_SECONDS_MAX <= *now);
            assert!(
                *place >= due.map_or(0.0, |(_, users)| *users as f64),
                "{place} at {now}"
            );
        }
        assert!(
            places.windows(2).all(|w| w[1].1 >= w[0].1),
            "no user stops while the target rises"
        );
    }

    #[test]
    fn targets_of_several_workers_are_one_step() {
        let mut ramp = RampSmoother::default();
        let segment = (1..=4)
            .map(|part| ramp.set_target(part * 5_000, 10.0 + part as f64 / 1_000.0))
            .last()
            .expect("the last part");
        assert_eq!((segment.from, segment.rate), (0, 20_000.0));
        assert_eq!(segment.since, 10.001 + PLAYOUT_DELAY_SECONDS);
        assert_eq!(ramp.position(segment.since + 1.0), 20_000.0);
        for part in 5..=8 {
            ramp.set_target(part * 5_000, 11.0 + part as f64 / 1_000.0);
        }
        assert!((ramp.position(segment.since + 1.5) - 30_000.0).abs() < 300.0);
    }

    #[test]
    fn falling_targets_of_several_workers_are_one_step() {
        let mut ramp = RampSmoother::default();
        ramp.set_target(1_000, 0.0);
        ramp.set_target(750, 10.0);
        let segment = ramp.set_target(500, 10.0 + STOP_DELAY_SECONDS / 2.0);
        assert_eq!((segment.from, segment.rate), (1_000, 500.0));
        assert_eq!(ramp.position(segment.since), 1_000.0);
        assert_eq!(ramp.position(segment.since + 0.5), 750.0);
        assert_eq!(ramp.set_target(0, segment.since + 0.5).from, 750);
        assert_eq!(ramp.position(20.0), 0.0);
        // Up again halfway down.
        ramp.set_target(1_000, 20.0);
        let segment = ramp.set_target(400, 30.0);
        assert_eq!(ramp.set_target(900, segment.since + 0.5).from, 700);
        assert_eq!(ramp.position(32.5), 900.0);
    }
}
