//! What the master is told of the users: how many there are, what they did, what went wrong.
//!
//! Invariants: several workers share the users: each tells its part, and the first that is known tells what requests did.
//! Must not know: orders.

use std::time::{Duration, Instant};

use rmpv::Value;

use super::class::Class;
use super::link::Wish;
use super::message::{self, map};
use super::process::Process;
use super::share;
use super::stats::Stats;
use super::worker::State;

/// How often new lines of the log are reported.
const LOGS: Duration = Duration::from_secs(10);
/// How long the last messages may take to be sent.
const LAST_SEND: Duration = Duration::from_secs(1);

impl Process {
    /// Tells the master what has come about: all users there, or all gone.
    pub(super) fn settle(&mut self) {
        if self.fleet.is_settled() {
            let counts = self.counts();
            for (seat, counts) in self.seats.iter_mut().zip(counts) {
                if seat.worker.state == State::Spawning && seat.worker.is_known() {
                    seat.send(message::spawning_complete(&counts));
                    seat.worker.state = State::Running;
                }
            }
        }
        let has_ended = self.fleet.is_idle() || self.fleet.is_settled();
        if has_ended
            && self
                .seats
                .iter()
                .any(|seat| seat.worker.state == State::Cleanup)
        {
            self.report_stats();
            for seat in &mut self.seats {
                if seat.worker.state == State::Cleanup {
                    seat.worker.state = State::Ready;
                    if seat.worker.is_known() {
                        seat.send(("client_stopped", Value::Nil));
                        seat.send(message::client_ready());
                    }
                }
            }
        }
    }

    /// Users of each worker.
    fn counts(&self) -> Vec<Vec<(&'static str, u64)>> {
        self.shared_out(|class| self.fleet.present(class))
    }

    /// What there is of each class, in parts for the workers.
    pub(super) fn shared_out(&self, whole: impl Fn(Class) -> u64) -> Vec<Vec<(&'static str, u64)>> {
        let mut counts = vec![Vec::new(); self.seats.len()];
        for class in Class::ALL {
            let wanted: Vec<u64> = self
                .seats
                .iter()
                .map(|seat| seat.worker.wanted.get(&class).copied().unwrap_or(0))
                .collect();
            let is_named = self
                .seats
                .iter()
                .any(|seat| seat.worker.wanted.contains_key(&class));
            let present = whole(class);
            if is_named || present > 0 {
                let parts = share::parts(present, &wanted);
                counts
                    .iter_mut()
                    .zip(parts)
                    .for_each(|(counts, part)| counts.push((class.name(), part)));
            }
        }
        counts
    }

    pub(super) fn report_stats(&mut self) {
        let now = self.clock.now();
        let is_running = !self.fleet.is_idle();
        let reporter = self.seats.iter().position(|seat| seat.worker.is_known());
        for (number, counts) in self.counts().into_iter().enumerate() {
            let seat = &self.seats[number];
            if !seat.worker.is_known() {
                continue;
            }
            let [entries, total, errors] = match Some(number) == reporter {
                true => self.fleet.stats.take(now, is_running),
                false => Stats::new(now).take(now, is_running),
            };
            let [classes, users] = message::user_counts(&counts);
            seat.send(("stats", map([entries, total, errors, classes, users])));
        }
    }

    /// Tells the master what went wrong, and what is new in the log.
    pub(super) fn tell(&mut self) {
        let Some(number) = self.seats.iter().position(|seat| seat.worker.is_known()) else {
            return;
        };
        for text in self.fleet.journal.take_exceptions() {
            self.seats[number].send(message::exception(&text, ""));
        }
        if self.logged.is_none_or(|at| at.elapsed() >= LOGS) {
            self.logged = Some(Instant::now());
            if let Some(lines) = self.fleet.journal.take_lines() {
                let logs = message::logs(&self.seats[number].worker.id, lines);
                self.seats[number].send(logs);
            }
        }
    }

    /// Waits for the last messages to be with the kernel, not for long.
    pub(super) async fn flush(&mut self) {
        for seat in &self.seats {
            let (done, is_done) = tokio::sync::oneshot::channel();
            if seat.worker.is_known() && seat.wishes.try_send(Wish::Flush(done)).is_ok() {
                let _ = tokio::time::timeout(LAST_SEND, is_done).await;
            }
        }
    }
}
