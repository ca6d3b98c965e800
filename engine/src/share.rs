//! The share of a turn that each kind of work gets.
//!
//! A thread that has more to do than it can must still do some of everything, so no kind may take a
//! whole turn. Timers and completions have a fixed share, split evenly over the rings of the
//! thread: together they bound a turn to some tens of milliseconds. New connections come last:
//! accepts and dials get what long turns leave, down to a least share, so a ramp slows down before
//! messages are late, and never stands still.
//! Invariants: no share is zero, so every kind makes progress.
//! Must not depend on: rings, slots, clocks.

/// Events between two looks at the clock. Also the least share of a ring, so that rings work in
/// batches.
pub(crate) const EVENTS_PER_CLOCK: u32 = 64;
/// A turn that takes longer than this has too many new connections in it, microseconds.
const LONG_TURN_US: u64 = 20_000;
/// A listener with so many waiting connections is about to overflow, if its backlog is the
/// kernel's default of 4,096: it is emptied at the full share, whatever waits behind it.
const ACCEPT_QUEUE_LONG: u32 = 2_048;

/// How much of each kind of work a thread does in one turn.
#[derive(Debug, Clone, Copy)]
pub struct Shares {
    /// Timers, and as many completions.
    pub events: u32,
    /// Connections accepted from one listener, least and most.
    pub accepts: (u32, u32),
    /// Attempts to connect that start, least and most.
    pub dials: (u32, u32),
}

impl Default for Shares {
    /// 10 to 25 ms of timers and of completions at the prices of a loaded machine; the least number
    /// of new connections is a tenth of a long turn, the most makes large batches of a pure ramp.
    fn default() -> Self {
        Shares {
            events: 4_096,
            accepts: (256, 1_024),
            dials: (128, 1_024),
        }
    }
}

impl Shares {
    /// The timers, and the completions, that each ring of a thread that has `ring_count` handles.
    pub(crate) fn events_per_ring(&self, ring_count: usize) -> usize {
        let even = self.events / ring_count as u32;
        match even {
            EVENTS_PER_CLOCK.. => (even - even % EVENTS_PER_CLOCK) as usize,
            _ => self.events.min(EVENTS_PER_CLOCK) as usize,
        }
    }
}

/// How many new connections a turn may start: fewer after long turns, more when that was too few.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RampShare {
    now: u32,
    least: u32,
    most: u32,
}

impl RampShare {
    /// Between these, beginning with the least.
    pub fn new((least, most): (u32, u32)) -> Self {
        let now = least;
        RampShare { now, least, most }
    }

    /// Connections this turn may start.
    pub fn now(&self) -> u32 {
        self.now
    }

    /// Connections this turn may accept from a listener where `waiting` wait.
    pub fn of_queue(&self, waiting: u32) -> u32 {
        match waiting {
            ACCEPT_QUEUE_LONG.. => self.most,
            _ => self.now,
        }
    }

    /// Gives the full share, until a turn is long again.
    pub fn restore(&mut self) {
        self.now = self.most;
    }

    /// After a turn that took `turn_us`.
    pub fn adapt(&mut self, turn_us: u64) {
        self.now = match turn_us {
            ..=LONG_TURN_US => (self.now * 2).min(self.most),
            _ => (self.now / 2).max(self.least),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_rings_are_bounded_both_ways() {
        let shares = Shares::default();
        for rings in [1, 2, 27, 53, 64, 100, 10_000] {
            let share = shares.events_per_ring(rings);
            assert!(share >= 64 && share.is_multiple_of(64), "{share}");
            assert!(share == 64 || share * rings <= 4_096);
        }
        let few = Shares {
            events: 3,
            ..shares
        };
        assert_eq!([1, 2, 9].map(|rings| few.events_per_ring(rings)), [3; 3]);
    }

    #[test]
    fn ramp_share_shrinks_to_its_least_and_recovers() {
        let mut share = RampShare::new((128, 1_024));
        assert_eq!(share.now(), 128);
        for expected in [256, 512, 1_024, 1_024] {
            share.adapt(1_000);
            assert_eq!(share.now(), expected);
        }
        for expected in [512, 256, 128, 128] {
            share.adapt(LONG_TURN_US + 1);
            assert_eq!(share.now(), expected);
        }
        assert_eq!(share.of_queue(100), 128);
        assert_eq!(share.of_queue(5_000), 1_024, "about to overflow");
        share.restore();
        assert_eq!(share.now(), 1_024);
    }
}
