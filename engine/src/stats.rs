//! The counters of a core thread, merged by their readers.
//!
//! Invariants: only the owning thread writes; every accepted or opened connection is in exactly one of `open_now` and
//! `closed`; every attempt is in exactly one of `opened`, `failed` and `connecting_now`.
//! Must not depend on: threads, locks, output formats.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::error::{CloseReason, OpenFailure};

/// A kind of work that has a share of each turn of a core thread: what exceeds it is postponed to
/// the next turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Work {
    /// Timers that are due: heartbeats, timeouts.
    Timers,
    /// Completions: bytes, FINs and errors of peers, connections that opened.
    Receives,
    /// Connections that wait at a listener.
    Accepts,
    /// Connections that the handler dials.
    Dials,
}

impl Work {
    /// Every kind, in the order of their numbers.
    pub const ALL: &'static [Work] = &[Work::Timers, Work::Receives, Work::Accepts, Work::Dials];
}

/// Most targets whose failed attempts are counted apart.
const FAILED_TARGETS_MAX: usize = 64;

/// Failed attempts by [`OpenFailure`], for each target.
type FailedByTarget = BTreeMap<SocketAddr, [u64; OpenFailure::ALL.len()]>;

/// Counters since the start, and gauges ending in `_now` or `_max`. Arrays are indexed by the number of an [`OpenFailure`] or
/// [`CloseReason`].
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Rings made.
    pub shard_count: u64,
    /// Connections open.
    pub open_now: u64,
    /// Most connections open at once.
    pub open_max: u64,
    /// Connections accepted and admitted.
    pub accepted: u64,
    /// Connections accepted and reset because the capacity was reached.
    pub refused_full: u64,
    /// Accepts that failed, by [`OpenFailure`].
    pub accept_failed: [u64; OpenFailure::ALL.len()],
    /// Attempts to connect that started.
    pub attempts: u64,
    /// Attempts under way.
    pub connecting_now: u64,
    /// Attempts that opened.
    pub opened: u64,
    /// Attempts that failed, by [`OpenFailure`].
    pub failed: [u64; OpenFailure::ALL.len()],
    /// The target of the first of these, by [`OpenFailure`].
    pub failed_target: [Option<SocketAddr>; OpenFailure::ALL.len()],
    /// Failed attempts for each target, of the first 64 targets that attempts failed to.
    pub failed_by_target: FailedByTarget,
    /// Source addresses that were in use; the attempt continued with another.
    pub address_in_use: u64,
    /// Options of dialled sockets that the kernel refused: the connection goes on without.
    pub options_refused: u64,
    /// Connections that closed, by [`CloseReason`].
    pub closed: [u64; CloseReason::ALL.len()],
    /// Sends that the kernel accepted completely at once.
    pub sends: u64,
    /// Sends that would block or were short.
    pub sends_short: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Commands given to the handler.
    pub commands: u64,
    /// Bytes that linked connections forwarded to their partners.
    pub bytes_forwarded: u64,
    /// Those of them that had to be copied, because the partner was being sent something or did not take them.
    pub bytes_forwarded_copied: u64,
    /// Connections reset before the peer had acknowledged everything sent: it took too long, or the kernel does not tell (before
    /// Linux 6.7).
    pub resets_unacknowledged: u64,
    /// Completions for an earlier connection of their slot, dropped.
    pub stale_completions: u64,
    /// Actions by id, as [`Context::send`](crate::Context::send), whose connection had closed; dropped.
    pub stale_ids: u64,
    /// Times a completion queue overflowed into the kernel's list.
    pub queue_overflows: u64,
    /// Receives that found no buffer and were repeated.
    pub buffer_shortages: u64,
    /// Turns that postponed work to the next one because its share was used up, by [`Work`].
    pub postponed: [u64; Work::ALL.len()],
    /// The longest turn, microseconds.
    pub turn_us_max: u64,
    /// The latest timer, microseconds from its deadline; up to one tick (1 ms) is normal.
    pub timer_late_us_max: u64,
    /// Most connections that waited at one listener.
    pub accept_queue_max: u64,
    /// io_uring requests that failed although they cannot: internal errors.
    pub unexpected: u64,
}

impl Stats {
    /// Adds another thread's numbers to these. `open_max` becomes the sum, which is exact only if both peaked together; of the other
    /// greatest values, the greater one.
    pub fn merge(&mut self, other: &Stats) {
        self.shard_count += other.shard_count;
        self.open_now += other.open_now;
        self.open_max += other.open_max;
        self.accepted += other.accepted;
        self.refused_full += other.refused_full;
        self.attempts += other.attempts;
        self.connecting_now += other.connecting_now;
        self.opened += other.opened;
        self.address_in_use += other.address_in_use;
        self.options_refused += other.options_refused;
        self.sends += other.sends;
        self.sends_short += other.sends_short;
        self.bytes_received += other.bytes_received;
        self.commands += other.commands;
        self.bytes_forwarded += other.bytes_forwarded;
        self.bytes_forwarded_copied += other.bytes_forwarded_copied;
        self.resets_unacknowledged += other.resets_unacknowledged;
        self.stale_completions += other.stale_completions;
        self.stale_ids += other.stale_ids;
        self.queue_overflows += other.queue_overflows;
        self.buffer_shortages += other.buffer_shortages;
        self.unexpected += other.unexpected;
        self.turn_us_max = self.turn_us_max.max(other.turn_us_max);
        self.timer_late_us_max = self.timer_late_us_max.max(other.timer_late_us_max);
        self.accept_queue_max = self.accept_queue_max.max(other.accept_queue_max);
        add_all(&mut self.postponed, &other.postponed);
        add_all(&mut self.accept_failed, &other.accept_failed);
        add_all(&mut self.failed, &other.failed);
        for (own, other) in self.failed_target.iter_mut().zip(other.failed_target) {
            *own = own.or(other);
        }
        for (target, counts) in &other.failed_by_target {
            if let Some(sums) = counts_of(&mut self.failed_by_target, *target) {
                add_all(sums, counts);
            }
        }
        add_all(&mut self.closed, &other.closed);
    }

    /// The counters that stay 0 in normal operation, by name.
    pub fn anomalies(&self) -> [(&'static str, u64); 5] {
        [
            ("address_in_use", self.address_in_use),
            ("stale_completions", self.stale_completions),
            ("queue_overflows", self.queue_overflows),
            ("buffer_shortages", self.buffer_shortages),
            ("unexpected", self.unexpected),
        ]
    }

    /// What turns were like, by name: in how many of them work of each kind was postponed because its share was used up, and the greatest
    /// values. Where these are small, the thread had time for everything.
    pub fn turns(&self) -> [(&'static str, u64); Work::ALL.len() + 3] {
        let postponed = |work: Work| self.postponed[work as usize];
        [
            ("timers_postponed", postponed(Work::Timers)),
            ("receives_postponed", postponed(Work::Receives)),
            ("accepts_postponed", postponed(Work::Accepts)),
            ("dials_postponed", postponed(Work::Dials)),
            ("longest_us", self.turn_us_max),
            ("timer_late_us_max", self.timer_late_us_max),
            ("accept_queue_max", self.accept_queue_max),
        ]
    }

    /// Closed connections by label, without zeros.
    pub fn closed_by_label(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        CloseReason::ALL
            .iter()
            .map(|r| (r.label(), self.closed[*r as usize]))
            .filter(|(_, n)| *n > 0)
    }

    /// Failed attempts by label, without zeros.
    pub fn failed_by_label(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        OpenFailure::ALL
            .iter()
            .map(|f| (f.label(), self.failed[*f as usize]))
            .filter(|(_, n)| *n > 0)
    }

    /// Counts a failed attempt to connect to `target`, where one was chosen.
    pub(crate) fn count_failed(&mut self, failure: OpenFailure, target: Option<SocketAddr>) {
        self.failed[failure as usize] += 1;
        let first = &mut self.failed_target[failure as usize];
        *first = first.or(target);
        let counts = target.and_then(|target| counts_of(&mut self.failed_by_target, target));
        if let Some(counts) = counts {
            counts[failure as usize] += 1;
        }
    }

    /// The targets that attempts failed to, each with the failures of it by label, without zeros.
    pub fn failed_by_target_and_label(
        &self,
    ) -> impl Iterator<Item = (SocketAddr, impl Iterator<Item = (&'static str, u64)> + '_)> + '_
    {
        let targets = self.failed_by_target.iter();
        targets.map(|(target, counts)| {
            let counts = OpenFailure::ALL
                .iter()
                .map(|f| (f.label(), counts[*f as usize]));
            (*target, counts.filter(|(_, n)| *n > 0))
        })
    }

    /// The target of the first failed attempt of each kind that occurred, by label.
    pub fn failed_target_by_label(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> + '_ {
        OpenFailure::ALL
            .iter()
            .filter_map(|f| Some((f.label(), self.failed_target[*f as usize]?)))
    }

    /// Failed accepts by label, without zeros.
    pub fn accept_failed_by_label(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        OpenFailure::ALL
            .iter()
            .map(|f| (f.label(), self.accept_failed[*f as usize]))
            .filter(|(_, n)| *n > 0)
    }
}

/// The counts of a target; `None` if there are those of many others.
fn counts_of(
    all: &mut FailedByTarget,
    target: SocketAddr,
) -> Option<&mut [u64; OpenFailure::ALL.len()]> {
    if all.len() >= FAILED_TARGETS_MAX && !all.contains_key(&target) {
        return None;
    }
    Some(all.entry(target).or_default())
}

fn add_all(into: &mut [u64], from: &[u64]) {
    for (a, b) in into.iter_mut().zip(from) {
        *a += b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_for_each_of_a_bounded_number_of_targets() {
        let target = |number: u8| SocketAddr::from(([127, 0, 0, number], 80));
        let mut threads = [Stats::default(), Stats::default()];
        for number in 0..=200 {
            threads[0].count_failed(OpenFailure::Refused, Some(target(number)));
        }
        threads[1].count_failed(OpenFailure::TimedOut, Some(target(3)));
        threads[1].count_failed(OpenFailure::AddrExhausted, None);
        threads[1].count_failed(OpenFailure::Refused, Some(target(250)));
        let mut all = Stats::default();
        threads.iter().for_each(|thread| all.merge(thread));
        assert_eq!(all.failed.iter().sum::<u64>(), 204);
        assert_eq!(all.failed_by_target.len(), FAILED_TARGETS_MAX);
        let (_, counts) = all
            .failed_by_target_and_label()
            .find(|(t, _)| *t == target(3))
            .unwrap();
        assert_eq!(
            counts.collect::<Vec<_>>(),
            [("refused", 1), ("timed_out", 1)]
        );
    }
}
