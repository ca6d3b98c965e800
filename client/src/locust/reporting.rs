//! What the master is told: how many users each worker has, what they did, what went wrong.
//!
//! Several workers of one process share its users. Each reports its part of them; the first
//! registered one reports all requests, log lines and exceptions. The master adds up its workers,
//! so its totals are right.
//! Invariants: the parts add up to the whole, and equal what the master wanted once all users are
//! there; each request is in one report.
//! Must not depend on: the event loop, sockets.

use std::time::{Duration, Instant};

use rmpv::Value;

use super::message::{self, map};
use super::runner::Runner;
use super::session::{State, WorkerSession};
use super::stats::Stats;
use super::user_class::UserClass;

const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Users of one worker, by class.
pub type UserCounts = Vec<(&'static str, u64)>;

/// Reports state changes: all users are there, or all have ended.
pub fn report_states(sessions: &mut [WorkerSession], runner: &mut Runner, now: f64) {
    if runner.has_reached_target() {
        let counts = present_users(sessions, runner);
        for (session, counts) in sessions.iter_mut().zip(counts) {
            if session.state == State::Spawning && session.is_registered() {
                session.send(message::spawning_complete(&counts));
                session.state = State::Running;
            }
        }
    }
    let have_ended = runner.is_idle() || runner.has_reached_target();
    let is_cleanup = |session: &WorkerSession| session.state == State::Cleanup;
    if have_ended && sessions.iter().any(is_cleanup) {
        report_stats(sessions, runner, now);
        for session in sessions.iter_mut().filter(|session| is_cleanup(session)) {
            session.state = State::Ready;
            if session.is_registered() {
                session.send(("client_stopped", Value::Nil));
                session.send(message::client_ready());
            }
        }
    }
}

/// Reports users and statistics since the last report.
pub fn report_stats(sessions: &[WorkerSession], runner: &mut Runner, now: f64) {
    let is_running = !runner.is_idle();
    let counts = present_users(sessions, runner);
    let registered = sessions.iter().zip(counts);
    let registered = registered.filter(|(session, _)| session.is_registered());
    for (i, (session, counts)) in registered.enumerate() {
        let [entries, total, errors] = match i {
            0 => runner.stats.take_report(now, is_running),
            _ => Stats::new(now).take_report(now, is_running),
        };
        let [classes, users] = message::user_counts(&counts);
        session.send(("stats", map([entries, total, errors, classes, users])));
    }
}

/// Reports exceptions at once, and new log lines every ten seconds.
pub fn report_log(
    sessions: &[WorkerSession],
    runner: &mut Runner,
    last_report: &mut Option<Instant>,
) {
    let Some(session) = sessions.iter().find(|session| session.is_registered()) else {
        return;
    };
    for text in runner.log.take_exceptions() {
        session.send(message::exception(&text, ""));
    }
    if last_report.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
        *last_report = Some(Instant::now());
        if let Some(lines) = runner.log.take_lines() {
            session.send(message::logs(&session.id, lines));
        }
    }
}

/// Users each worker has: those of each class divided among the workers, in proportion to what the
/// master wants from each.
pub fn present_users(sessions: &[WorkerSession], runner: &Runner) -> Vec<UserCounts> {
    let mut counts = vec![Vec::new(); sessions.len()];
    for class in UserClass::ALL {
        let targets = sessions.iter().map(|s| s.target_users.get(&class).copied());
        let targets: Vec<Option<u64>> = targets.collect();
        let users = runner.user_count(class);
        if users > 0 || targets.iter().any(Option::is_some) {
            let targets: Vec<u64> = targets.iter().map(|users| users.unwrap_or(0)).collect();
            let parts = divide(users, &targets);
            let parts = counts.iter_mut().zip(parts);
            parts.for_each(|(counts, part)| counts.push((class.name(), part)));
        }
    }
    counts
}

/// `users` divided in proportion to `targets`, evenly if these are all zero.
fn divide(users: u64, targets: &[u64]) -> Vec<u64> {
    let all: u64 = targets.iter().sum();
    let sum_before = |part: usize| {
        let (share, whole) = match all {
            0 => (part as u64, targets.len() as u64),
            _ => (targets[..part].iter().sum(), all),
        };
        (u128::from(users) * u128::from(share) / u128::from(whole)) as u64
    };
    (0..targets.len())
        .map(|part| sum_before(part + 1) - sum_before(part))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_equal_the_targets_when_all_users_are_there() {
        assert_eq!(divide(10, &[3, 3, 4]), [3, 3, 4]);
        assert_eq!(divide(5, &[3, 3, 4]), [1, 2, 2]);
        assert_eq!(divide(7, &[0, 0, 0]), [2, 2, 3]);
        assert_eq!(divide(0, &[0]), [0]);
        assert_eq!(divide(20, &[0, 10]), [0, 20]);
        assert!(divide(3, &[]).is_empty());
    }
}
