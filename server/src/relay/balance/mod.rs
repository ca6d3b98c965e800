//! Which backend gets the next connection: what the algorithms share.
//!
//! A [`Candidates`] is what may be chosen now: immutable, made by the control plane whenever health,
//! weights or addresses change. A [`Selector`] is what one core thread remembers between two choices.
//! Counts of connections are the only thing that threads share.
//!
//! Invariants: a chosen candidate is already counted as having one connection more; no choice looks at
//! more than [`SCAN_MAX`] counts, or at each candidate once; a candidate never gets more connections
//! than its `maxconn`.
//! Must not depend on: health checks, names, sockets; of the configuration, only on the algorithms' names.

mod counts;
mod hash;
mod least;
mod maglev;
mod random;
mod round_robin;

use std::net::IpAddr;

pub use counts::ActiveCounts;
use hash::hash_address;
use maglev::Table;
pub use random::Random;
use round_robin::RoundRobin;

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
    cumulative: Vec<u64>,
    /// For [`Balance::Consistent`].
    table: Option<Table>,
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
    fn owner_of(&self, point: u64) -> usize {
        self.cumulative.partition_point(|sum| *sum <= point)
    }

    fn total_weight(&self) -> u64 {
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

/// What a core thread remembers between two choices of a pool.
#[derive(Debug)]
pub struct Selector {
    balance: Balance,
    turns: RoundRobin,
    random: Random,
    /// Where the next window of a large pool begins.
    window: usize,
    /// Counts as seen in one choice.
    seen: Vec<u32>,
}

impl Selector {
    /// A selector of core thread `thread`. Threads begin at different turns, so that they do not all
    /// choose the same backend first.
    pub fn new(balance: Balance, thread: usize, candidates: &Candidates) -> Self {
        let mut turns = RoundRobin::default();
        turns.adopt(&[], candidates.all());
        for _ in 0..thread {
            turns.skip_turn(candidates.all());
        }
        Selector {
            balance,
            turns,
            random: Random::new(thread as u64),
            window: 0,
            seen: Vec::new(),
        }
    }

    /// Goes on with other candidates. Those that stay keep their turn.
    pub fn adopt(&mut self, balance: Balance, old: &Candidates, new: &Candidates) {
        self.balance = balance;
        self.turns.adopt(old.all(), new.all());
        self.window = 0;
    }

    /// Chooses for a connection from `source`, and counts it.
    pub fn select(
        &mut self,
        candidates: &Candidates,
        counts: &ActiveCounts,
        source: IpAddr,
    ) -> Selected {
        let all = candidates.all();
        if all.is_empty() {
            return Selected::Nobody;
        }
        let keyed = |place: usize| match counts.try_acquire(all[place].id, all[place].maxconn) {
            true => Selected::One(place),
            false => Selected::AllFull,
        };
        match self.balance {
            Balance::Roundrobin => self.turns.select(all, counts),
            Balance::Leastconn => self.least(all, counts),
            Balance::Source => {
                let point = hash_address(source) % candidates.total_weight();
                keyed(candidates.owner_of(point))
            }
            Balance::Consistent => {
                let table = candidates.table.as_ref();
                let table = table.expect("made for this algorithm");
                keyed(table.owner_of(hash_address(source)))
            }
            Balance::Random => self.less_loaded_of_two(candidates, counts),
        }
    }
}

#[cfg(test)]
mod tests;
