//! Counts the connections of each source address.
//!
//! Invariants: no source has more than the limit; a source without connections takes no memory but a free entry.
//! Must not depend on: who is allowed, connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Parts that are locked apart, so that threads rarely wait for each other.
const PARTS: u32 = 64;

/// See the file's head.
#[derive(Debug)]
pub(super) struct Sources {
    max: u32,
    parts: Vec<Mutex<Part>>,
}

/// The sources of one part.
#[derive(Debug, Default)]
struct Part {
    by_address: HashMap<IpAddr, u32>,
    /// Source and connections, by place.
    entries: Vec<(IpAddr, u32)>,
    free: Vec<u32>,
}

impl Sources {
    /// Up to `max` connections for each source.
    pub fn new(max: u32) -> Self {
        Sources {
            max,
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
        }
    }

    fn part(&self, number: u32) -> MutexGuard<'_, Part> {
        let part = &self.parts[number as usize];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a connection of `source`: its number, or `None` if the source has all it may have.
    pub fn try_acquire(&self, source: IpAddr) -> Option<u32> {
        let last = match source {
            IpAddr::V4(v4) => v4.octets()[3],
            // Networks differ in the first half, hosts in the second.
            IpAddr::V6(v6) => v6.octets().iter().fold(0, |sum, byte| sum ^ byte),
        };
        let number = u32::from(last) % PARTS;
        let mut part = self.part(number);
        let part = &mut *part;
        let place = *part.by_address.entry(source).or_insert_with(|| {
            part.free.pop().unwrap_or_else(|| {
                part.entries.push((source, 0));
                part.entries.len() as u32 - 1
            })
        });
        let entry = &mut part.entries[place as usize];
        if entry.1 >= self.max {
            return None;
        }
        *entry = (source, entry.1 + 1);
        Some(place * PARTS + number)
    }

    /// Gives a place back.
    pub fn release(&self, place: u32) {
        let mut part = self.part(place % PARTS);
        let place = place / PARTS;
        let (source, count) = &mut part.entries[place as usize];
        assert!(*count > 0, "a place is given back once");
        *count -= 1;
        if *count == 0 {
            let source = *source;
            part.by_address.remove(&source);
            part.free.push(place);
        }
    }

    /// Connections that have a place.
    pub fn counted(&self) -> u64 {
        let parts = (0..PARTS).map(|number| {
            let part = self.part(number);
            part.entries
                .iter()
                .map(|(_, count)| u64::from(*count))
                .sum::<u64>()
        });
        parts.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_own_places_and_entries_are_used_again() {
        let sources = Sources::new(2);
        let addresses: Vec<IpAddr> = (0..1_000_u32)
            .map(|n| std::net::Ipv4Addr::from(0x0A00_0000 + n).into())
            .chain(["2001:db8::1".parse().unwrap()])
            .collect();
        for _ in 0..3 {
            let acquire = || addresses.iter().map(|a| sources.try_acquire(*a));
            let places: Vec<u32> = acquire().chain(acquire()).flatten().collect();
            assert_eq!(places.len(), 2 * addresses.len());
            assert_eq!(acquire().flatten().count(), 0, "all are taken");
            assert_eq!(sources.counted(), 2 * addresses.len() as u64);
            places.into_iter().for_each(|place| sources.release(place));
            assert_eq!(sources.counted(), 0);
        }
        let entries: usize = (0..PARTS).map(|n| sources.part(n).entries.len()).sum();
        assert_eq!(entries, addresses.len());
    }
}
