//! What one core thread remembers between two choices of a pool, and the choice of the algorithm.
//!
//! Must not depend on: how candidates came about.

use std::net::IpAddr;

use super::candidates::{Candidates, Selected};
use super::counts::ActiveCounts;
use super::generator::Random;
use super::hash::hash_address;
use super::round_robin::RoundRobin;
use crate::relay::config::Balance;

/// What a core thread remembers between two choices of a pool.
#[derive(Debug)]
pub struct Selector {
    balance: Balance,
    pub(super) turns: RoundRobin,
    pub(super) random: Random,
    /// Where the next window of a large pool begins.
    pub(super) window: usize,
    /// Counts as seen in one choice.
    pub(super) seen: Vec<u32>,
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
