//! How many connections an engine holds, against how many it may.
//!
//! A connection is admitted by the [`ConnectionLimiter`] before it is accepted: a place is acquired
//! before the accept, and committed or cancelled when its result is known.
//! Invariants: never more than the capacity is held; "full" is said only when connections hold
//! every place.
//! Must not depend on: rings, shards, threads. Core threads share this and nothing else on the data
//! plane.

#[cfg(not(loom))]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

// `make loom` tries every order in which threads may use a limiter.
#[cfg(loom)]
use loom::sync::atomic::AtomicU64;

/// Counts places taken and places held. Whether it is full is decided by one number alone, `held`:
/// two numbers read one after the other need not belong together.
#[derive(Debug)]
pub struct ConnectionLimiter {
    capacity: u64,
    /// Places taken, those of accepts under way included. Never less than `held`.
    taken: AtomicU64,
    /// Places of connections.
    held: AtomicU64,
}

/// What a limiter answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// So many may be accepted now.
    Granted(u32),
    /// None now, but accepts under way may be cancelled.
    Later,
    /// Every place is held by a connection.
    Full,
}

impl ConnectionLimiter {
    /// A limiter for `capacity` connections.
    pub fn new(capacity: u64) -> Self {
        ConnectionLimiter {
            capacity,
            taken: AtomicU64::new(0),
            held: AtomicU64::new(0),
        }
    }

    /// Places taken, and how many of these belong to connections.
    #[cfg(feature = "sim")]
    pub(crate) fn counts(&self) -> (u64, u64) {
        let held = self.held.load(Ordering::Acquire);
        (self.taken.load(Ordering::Acquire), held)
    }

    /// Takes up to `wanted` places for accepts about to be submitted.
    pub(crate) fn try_acquire(&self, wanted: u32) -> Admission {
        let mut granted = 0;
        let _ = self
            .taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
                granted = u64::from(wanted).min(self.capacity.saturating_sub(taken)) as u32;
                (granted > 0).then_some(taken + u64::from(granted))
            });
        match granted {
            0 if self.held.load(Ordering::Acquire) >= self.capacity => Admission::Full,
            0 => Admission::Later,
            _ => Admission::Granted(granted),
        }
    }

    /// An accept succeeded: its place belongs to a connection now.
    pub(crate) fn commit(&self) {
        self.held.fetch_add(1, Ordering::AcqRel);
    }

    /// `count` accepts failed: gives their places back.
    pub(crate) fn cancel(&self, count: u32) {
        self.taken.fetch_sub(u64::from(count), Ordering::AcqRel);
    }

    /// A connection has ended: gives its place back.
    pub(crate) fn release(&self) {
        let before = self.held.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "a connection is released once");
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_connections_make_a_limiter_full() {
        let limiter = ConnectionLimiter::new(10);
        assert_eq!(limiter.try_acquire(8), Admission::Granted(8));
        assert_eq!(limiter.try_acquire(8), Admission::Granted(2));
        assert_eq!(
            limiter.try_acquire(8),
            Admission::Later,
            "accepts under way may be cancelled"
        );
        (0..8).for_each(|_| limiter.commit());
        limiter.cancel(2);
        assert_eq!(limiter.try_acquire(8), Admission::Granted(2));
        (0..2).for_each(|_| limiter.commit());
        assert_eq!(limiter.try_acquire(8), Admission::Full);
        limiter.release();
        assert_eq!(limiter.try_acquire(8), Admission::Granted(1));
    }

    #[test]
    fn limiter_with_room_never_refuses_under_contention() {
        for _ in 0..5_000 {
            let limiter = ConnectionLimiter::new(8);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        // Each thread opens 2 connections, so that all fit, and acquires 8 places
                        // for each.
                        let mut waiting = 2;
                        while waiting > 0 {
                            match limiter.try_acquire(8) {
                                Admission::Granted(count) => {
                                    limiter.commit();
                                    (1..count).for_each(|_| limiter.cancel(1));
                                    waiting -= 1;
                                }
                                Admission::Later => {}
                                Admission::Full => {
                                    panic!("refused with {waiting} of 8 not accepted yet")
                                }
                            }
                        }
                    });
                }
            });
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    /// Acquires more than there is, commits one place and cancels the others. True if there was
    /// one.
    fn open(limiter: &ConnectionLimiter) -> bool {
        let Admission::Granted(count) = limiter.try_acquire(8) else {
            return false;
        };
        limiter.commit();
        (1..count).for_each(|_| limiter.cancel(1));
        true
    }

    /// In every order: a connection is refused only when connections hold every place, none is held
    /// above the capacity, and the counts balance.
    #[test]
    fn acquiring_is_exact_in_every_order_of_threads() {
        for capacity in [1, 2, 3] {
            loom::model(move || {
                let limiter = Arc::new(ConnectionLimiter::new(capacity));
                let threads: Vec<_> = (0..2)
                    .map(|_| {
                        let limiter = Arc::clone(&limiter);
                        loom::thread::spawn(move || {
                            let has_opened = open(&limiter);
                            // At most two connections can exist: with room for three the limiter is
                            // never full.
                            if capacity == 3 {
                                assert_ne!(limiter.try_acquire(0), Admission::Full);
                            }
                            u64::from(has_opened)
                        })
                    })
                    .collect();
                let held: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
                assert!((1..=capacity).contains(&held), "{held} of {capacity}");
                assert_eq!(limiter.held.load(Ordering::Relaxed), held);
                assert_eq!(limiter.taken.load(Ordering::Relaxed), held);
            });
        }
    }

    /// One connection opens while another ends: the place is taken once afterwards, never twice.
    #[test]
    fn released_place_is_acquired_once_in_every_order() {
        loom::model(|| {
            let limiter = Arc::new(ConnectionLimiter::new(1));
            assert!(open(&limiter));
            let other = Arc::clone(&limiter);
            let opening = loom::thread::spawn(move || open(&other) || open(&other));
            limiter.release();
            let has_opened = opening.join().unwrap();
            assert_eq!(limiter.held.load(Ordering::Relaxed), u64::from(has_opened));
            assert_eq!(limiter.taken.load(Ordering::Relaxed), u64::from(has_opened));
            assert_eq!(has_opened, !open(&limiter));
        });
    }
}
