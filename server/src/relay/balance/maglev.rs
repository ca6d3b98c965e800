//! The lookup table of Maglev (Eisenbud and others, NSDI 2016, section 3.4).
//!
//! Every candidate has an own order of the table's places, from two hashes of its name. In turn, each
//! takes the first place of its order that is still free, more often the larger its weight, until none
//! is free. Each gets its share to within a place or so, and when a candidate leaves, few places of
//! others change hands.
//!
//! Invariants: the table depends on names and weights only, not on their order, the process or the
//! machine.
//! Must not depend on: what is looked up.

use super::hash::hash;

/// Places of a table: a prime, and at least 100 for each candidate (the paper's rule for shares equal to
/// within 1%) up to 655 of them. The same for all smaller pools: a table of another size would move
/// every source.
const SIZE: usize = 65_537;

/// Places of a table for more candidates than that.
const SIZE_LARGE: usize = 655_373;

/// See the file's head.
#[derive(Debug, PartialEq, Eq)]
pub struct Table(Box<[u16]>);

const FREE: u16 = u16::MAX;

/// One candidate's order of places.
struct Order {
    candidate: u16,
    place: usize,
    step: usize,
    /// Gains `weight` each round; a full `weight` of the heaviest is a turn.
    gained: u64,
    weight: u32,
}

impl Table {
    /// The table of candidates with these names and weights. There is at least one, and no weight is 0.
    pub fn new(weighted: &[(&str, u32)]) -> Self {
        let size = match weighted.len() * 100 <= SIZE {
            true => SIZE,
            false => SIZE_LARGE,
        };
        let heaviest = weighted.iter().map(|(_, weight)| *weight).max();
        let heaviest = u64::from(heaviest.expect("at least one candidate"));
        let mut by_name: Vec<usize> = (0..weighted.len()).collect();
        by_name.sort_by_key(|i| weighted[*i].0);
        let order = |i: usize| {
            let (name, weight) = weighted[i];
            Order {
                candidate: u16::try_from(i).expect("ids of backends are u16"),
                place: (hash(name.as_bytes(), 0) % size as u64) as usize,
                step: (hash(name.as_bytes(), 1) % (size as u64 - 1)) as usize + 1,
                gained: 0,
                weight,
            }
        };
        let mut orders: Vec<Order> = by_name.into_iter().map(order).collect();
        let mut table = vec![FREE; size].into_boxed_slice();
        let mut left = size;
        'all: loop {
            for order in &mut orders {
                order.gained += u64::from(order.weight);
                if order.gained < heaviest {
                    continue;
                }
                order.gained -= heaviest;
                // The step and the prime have no common factor: every place comes up.
                while table[order.place] != FREE {
                    order.place = (order.place + order.step) % size;
                }
                table[order.place] = order.candidate;
                left -= 1;
                if left == 0 {
                    break 'all;
                }
            }
        }
        Table(table)
    }

    /// The candidate that `hash` belongs to.
    pub fn owner_of(&self, hash: u64) -> usize {
        usize::from(self.0[(hash % self.0.len() as u64) as usize])
    }

    /// How many places each of `count` candidates has.
    #[cfg(test)]
    pub fn shares(&self, count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        for owner in &self.0 {
            shares[usize::from(*owner)] += 1;
        }
        shares
    }

    /// The owner of each place.
    #[cfg(test)]
    pub fn owners(&self) -> &[u16] {
        &self.0
    }
}
