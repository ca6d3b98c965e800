//! What a core thread counts: plain numbers of its own, merged by whoever reads them.
//!
//! Invariants: only the owning thread writes; every accepted or opened connection is in exactly one of `open_now` and
//! `closed`; every attempt is in exactly one of `opened`, `failed` and `connecting_now`.
//! Must not know: threads, locks, output formats.

use std::net::SocketAddr;

use crate::error::{CloseReason, OpenFailure};

/// Counters since the start, and gauges ending in `_now` or `_max`.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Rings made.
    pub shard_count: u64,
    /// Connections open.
    pub open_now: u64,
    /// Most connections open at once.
    pub open_max: u64,
    /// Connections taken from listeners and kept.
    pub accepted: u64,
    /// Connections taken from listeners and turned away because the capacity was reached.
    pub refused_full: u64,
    /// Accepts that failed, by [`OpenFailure`] number.
    pub accept_failed: [u64; OpenFailure::ALL.len()],
    /// Attempts begun.
    pub attempts: u64,
    /// Attempts under way.
    pub connecting_now: u64,
    /// Attempts that opened.
    pub opened: u64,
    /// Attempts that did not, by [`OpenFailure`] number.
    pub failed: [u64; OpenFailure::ALL.len()],
    /// The target of the first of these, by [`OpenFailure`] number.
    pub failed_target: [Option<SocketAddr>; OpenFailure::ALL.len()],
    /// Source addresses found taken and passed over; the attempt went on with another.
    pub address_in_use: u64,
    /// Connections that ended, by [`CloseReason`] number.
    pub closed: [u64; CloseReason::ALL.len()],
    /// Sends handed to the kernel whole.
    pub sends: u64,
    /// Sends the kernel did not take whole at once.
    pub sends_short: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Completions for an earlier life of their slot, dropped.
    pub stale_completions: u64,
    /// Times the completion queue overflowed into the kernel's list.
    pub queue_overflows: u64,
    /// Receives that found no buffer and were tried again.
    pub buffer_shortages: u64,
    /// Requests that failed although they cannot.
    pub unexpected: u64,
}

impl Stats {
    /// Adds another thread's numbers to these. `open_max` becomes the sum, which is exact only if both peaked together.
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
        self.sends += other.sends;
        self.sends_short += other.sends_short;
        self.bytes_received += other.bytes_received;
        self.stale_completions += other.stale_completions;
        self.queue_overflows += other.queue_overflows;
        self.buffer_shortages += other.buffer_shortages;
        self.unexpected += other.unexpected;
        add_all(&mut self.accept_failed, &other.accept_failed);
        add_all(&mut self.failed, &other.failed);
        for (own, other) in self.failed_target.iter_mut().zip(other.failed_target) {
            *own = own.or(other);
        }
        add_all(&mut self.closed, &other.closed);
    }

    /// The counters that stay 0 while all is well, by name.
    pub fn anomalies(&self) -> [(&'static str, u64); 5] {
        [
            ("address_in_use", self.address_in_use),
            ("stale_completions", self.stale_completions),
            ("queue_overflows", self.queue_overflows),
            ("buffer_shortages", self.buffer_shortages),
            ("unexpected", self.unexpected),
        ]
    }

    /// Ended connections by label, those that occurred.
    pub fn closed_by_label(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        CloseReason::ALL
            .iter()
            .map(|r| (r.label(), self.closed[*r as usize]))
            .filter(|(_, n)| *n > 0)
    }

    /// Failed attempts by label, those that occurred.
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
    }

    /// The target of the first failed attempt of each kind that occurred, by label.
    pub fn failed_target_by_label(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> + '_ {
        OpenFailure::ALL
            .iter()
            .filter_map(|f| Some((f.label(), self.failed_target[*f as usize]?)))
    }

    /// Failed accepts by label, those that occurred.
    pub fn accept_failed_by_label(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        OpenFailure::ALL
            .iter()
            .map(|f| (f.label(), self.accept_failed[*f as usize]))
            .filter(|(_, n)| *n > 0)
    }
}

fn add_all(into: &mut [u64], from: &[u64]) {
    for (a, b) in into.iter_mut().zip(from) {
        *a += b;
    }
}
