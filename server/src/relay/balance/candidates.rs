//! The backends that may be chosen now.
//!
//! Invariant: none has the weight 0.
//! Must not depend on: what a core thread remembers.

use super::maglev::Table;
use crate::relay::config::Balance;

/// How many counts one choice by least connections looks at. A pool with more backends is looked at in
/// windows of this size, one after the other.
pub const SCAN_MAX: usize = 256;

/// A backend that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Where its connections are counted.
    pub id: u16,
    /// Its share, more than 0. Only the ratio to others' matters.
    pub weight: u32,
    /// Connections at most, `u32::MAX`: no limit.
    pub maxconn: u32,
}

/// What may be chosen now.
#[derive(Debug, Default)]
pub struct Candidates {
    all: Vec<Candidate>,
    /// For each candidate the weights up to and including its own.
    pub(super) cumulative: Vec<u64>,
    /// For [`Balance::Consistent`].
    pub(super) table: Option<Table>,
}

impl Candidates {
    /// Candidates with their names, none of which has the weight 0. Takes milliseconds for
    /// [`Balance::Consistent`]: not for a core thread.
    pub fn new(balance: Balance, named: &[(Candidate, &str)]) -> Self {
        let all: Vec<Candidate> = named.iter().map(|(candidate, _)| *candidate).collect();
        assert!(all.iter().all(|c| c.weight > 0), "weight 0 is no candidate");
        let mut sum = 0;
        let cumulative = all.iter().map(|c| {
            sum += u64::from(c.weight);
            sum
        });
        let cumulative = cumulative.collect();
        let table = (balance == Balance::Consistent && !all.is_empty()).then(|| {
            let weighted: Vec<_> = named.iter().map(|(c, name)| (*name, c.weight)).collect();
            Table::new(&weighted)
        });
        Candidates {
            all,
            cumulative,
            table,
        }
    }

    /// The candidates, in the order they were given.
    pub fn all(&self) -> &[Candidate] {
        &self.all
    }

    /// The candidate that owns `point`, one of the numbers below the sum of the weights.
    pub(super) fn owner_of(&self, point: u64) -> usize {
        self.cumulative.partition_point(|sum| *sum <= point)
    }

    pub(super) fn total_weight(&self) -> u64 {
        self.cumulative.last().copied().unwrap_or(0)
    }
}

/// What came of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selected {
    /// The candidate at this place, already counted.
    One(usize),
    /// Whoever could be chosen has its `maxconn`. With the hashing algorithms that is the one backend
    /// that the source belongs to.
    AllFull,
    /// There is no candidate.
    Nobody,
}
