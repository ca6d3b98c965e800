//! What runs have met: each fault, close reason, open failure and event, to prove that none is dead
//! code.
//!
//! Must not depend on: scenarios.

use std::fmt::Write;

use holdfast_engine::sim::{Fault, World};
use holdfast_engine::{CloseReason, OpenFailure, Stats};
use holdfast_sysctl::grouped;

/// Counts over any number of runs.
#[derive(Debug, Clone)]
pub struct Coverage {
    /// By [`Fault`] number.
    pub faults: [u64; Fault::ALL.len()],
    /// The engines' own counters.
    pub stats: Stats,
    /// Other events by name, in the order they were first met.
    pub events: Vec<(&'static str, u64)>,
    /// Runs.
    pub runs: u64,
}

impl Default for Coverage {
    fn default() -> Self {
        Coverage {
            faults: [0; Fault::ALL.len()],
            stats: Stats::default(),
            events: Vec::new(),
            runs: 0,
        }
    }
}

impl Coverage {
    /// What one world met.
    pub fn of(world: &World) -> Self {
        Coverage {
            faults: *world.faults().counts(),
            runs: 1,
            ..Coverage::default()
        }
    }

    /// Counts an event.
    pub fn count(&mut self, name: &'static str, count: u64) {
        match self.events.iter_mut().find(|(n, _)| *n == name) {
            Some((_, sum)) => *sum += count,
            None => self.events.push((name, count)),
        }
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Coverage) {
        for (sum, part) in self.faults.iter_mut().zip(other.faults) {
            *sum += part;
        }
        self.stats.merge(&other.stats);
        for (name, count) in &other.events {
            self.count(name, *count);
        }
        self.runs += other.runs;
    }

    /// Everything with its count, by section.
    pub fn sections(&self) -> Vec<(&'static str, Vec<(&'static str, u64)>)> {
        let faults = Fault::ALL.iter().zip(self.faults);
        let closed = CloseReason::ALL.iter().zip(self.stats.closed);
        let failed = OpenFailure::ALL.iter().zip(self.stats.failed);
        let refused = OpenFailure::ALL.iter().zip(self.stats.accept_failed);
        let stats = &self.stats;
        let mut events = vec![
            ("rings", stats.shard_count),
            ("accepted", stats.accepted),
            ("refused_full", stats.refused_full),
            ("attempts", stats.attempts),
            ("opened", stats.opened),
            ("sends", stats.sends),
            ("sends_short", stats.sends_short),
            ("bytes_received", stats.bytes_received),
            ("commands", stats.commands),
        ];
        events.extend(stats.anomalies());
        events.extend(self.events.iter().copied());
        vec![
            ("faults", faults.map(|(f, n)| (f.label(), n)).collect()),
            (
                "connections ended",
                closed.map(|(r, n)| (r.label(), n)).collect(),
            ),
            (
                "attempts failed",
                failed.map(|(f, n)| (f.label(), n)).collect(),
            ),
            (
                "accepts failed",
                refused.map(|(f, n)| (f.label(), n)).collect(),
            ),
            ("events", events),
        ]
    }

    /// As text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (section, counts) in self.sections() {
            let _ = write!(text, "{section}:");
            for (place, (name, count)) in counts.into_iter().enumerate() {
                let lead = if place % 4 == 0 { "\n " } else { "" };
                let _ = write!(text, "{lead} {name:<22} {:>14}", grouped(count));
            }
            text.push('\n');
        }
        text
    }
}
