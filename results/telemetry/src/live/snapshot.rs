//! What a program tells about itself once a second: plain figures, no text.
//!
//! Invariants: counters only grow while one process lives; what is not known is left out, never
//! zero.
//! Must not depend on: where figures come from, how they are shown.

use std::collections::BTreeMap;

/// One moment of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// What runs, and on what: `client longconn 127.0.0.1:7070`.
    pub title: String,
    /// What it is about to do: `ramp`, `hold`, `drain`.
    pub phase: &'static str,
    /// Since the start, seconds.
    pub seconds: f64,
    /// Until the end, seconds; `None`: not known.
    pub left_seconds: Option<f64>,
    /// Part of the work done, in words such as `3 of 42: keepalive-64 nginx`; empty where a run has
    /// no parts.
    pub part: String,
    /// Connections open now.
    pub open: Option<u64>,
    /// Connections there are to be, or may be.
    pub target: Option<u64>,
    /// Counters: the opening of connections first, then the work done on them.
    pub counters: Vec<Counter>,
    /// What went wrong, and how connections ended.
    pub groups: Vec<Group>,
    /// Percentiles, where something measures them.
    pub times: Vec<Percentiles>,
    /// Processes whose memory and time on cores are shown: name and id.
    pub processes: Vec<(&'static str, u32)>,
}

impl Snapshot {
    /// The same, with what is asked for a second of one of its counters.
    #[must_use]
    pub fn with_target_rate(mut self, counter: &str, per_second: Option<f64>) -> Self {
        for asked in self.counters.iter_mut().filter(|c| c.name == counter) {
            asked.target_per_second = per_second;
        }
        self
    }
}

/// A cumulative counter.
#[derive(Debug, Clone, PartialEq)]
pub struct Counter {
    /// Its name: `opened`, `messages`.
    pub name: &'static str,
    /// Counted so far.
    pub total: u64,
    /// When it was, by the clock of whoever counted, seconds.
    pub at_seconds: f64,
    /// What is asked for a second, if anything is.
    pub target_per_second: Option<f64>,
}

impl Counter {
    /// One of which nothing particular is asked.
    #[must_use]
    pub fn new(name: &'static str, total: u64, at_seconds: f64) -> Self {
        Self {
            name,
            total,
            at_seconds,
            target_per_second: None,
        }
    }
}

/// Cumulative counts by kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Its name: `failed`, `lost`, `ended`.
    pub name: &'static str,
    /// Whether none of it should happen.
    pub is_bad: bool,
    /// The counts, those that occurred.
    pub counts: BTreeMap<String, u64>,
}

impl Group {
    /// What should not happen.
    #[must_use]
    pub fn bad(name: &'static str, counts: BTreeMap<String, u64>) -> Self {
        Self {
            name,
            is_bad: true,
            counts,
        }
    }

    /// What may happen.
    #[must_use]
    pub fn neutral(name: &'static str, counts: BTreeMap<String, u64>) -> Self {
        Self {
            name,
            is_bad: false,
            counts,
        }
    }

    /// All of it together.
    #[must_use]
    pub fn total(&self) -> u64 {
        crate::units::total(&self.counts)
    }
}

/// What a histogram says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentiles {
    /// What was timed: `connect`, `lateness`.
    pub name: &'static str,
    /// What it covers.
    pub span: Span,
    /// Median, microseconds; `None`: nothing was recorded.
    pub p50_us: Option<u64>,
    /// 99th percentile, microseconds.
    pub p99_us: Option<u64>,
}

/// What a histogram covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// The second before the snapshot.
    Second,
    /// The run so far.
    Run,
}
