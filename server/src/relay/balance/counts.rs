//! How many connections each backend of the process has.
//!
//! The counts lie side by side, 16 in a cache line. A choice by least connections reads all of them and
//! writes one, so lines that hold many are fetched less often than a line for each would be.
//!
//! Invariants: an id belongs to one backend at a time; a count is 0 when its id is taken; every
//! acquired connection is released once.
//! Must not depend on: how a backend is chosen.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Ids of backends: what fits into the state of a connection, except for `u16::MAX`, which is nobody's.
const IDS: usize = u16::MAX as usize;

/// See the file's head.
#[derive(Debug)]
pub struct ActiveCounts {
    counts: Box<[AtomicU32]>,
    ids: Mutex<Ids>,
}

#[derive(Debug, Default)]
struct Ids {
    /// All below were given out before.
    next: u16,
    /// Of those, the ones given back.
    free: Vec<u16>,
}

impl Default for ActiveCounts {
    fn default() -> Self {
        ActiveCounts {
            counts: std::iter::repeat_with(AtomicU32::default)
                .take(IDS)
                .collect(),
            ids: Mutex::default(),
        }
    }
}

impl ActiveCounts {
    /// Takes an id with the count 0; `None`: all 65,535 are in use.
    pub fn take_id(&self) -> Option<u16> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        // The lowest free one: backends that are chosen from together lie in the same lines.
        if let Some(lowest) = (0..ids.free.len()).min_by_key(|i| ids.free[*i]) {
            return Some(ids.free.swap_remove(lowest));
        }
        let id = ids.next;
        ids.next = id.checked_add(1)?;
        Some(id)
    }

    /// Gives an id back. One that still has connections, as when a process ends with some, stays taken.
    pub fn give_back_id(&self, id: u16) {
        if self.get(id) > 0 {
            return;
        }
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.free.push(id);
    }

    /// The connections of `id` now.
    pub fn get(&self, id: u16) -> u32 {
        self.counts[usize::from(id)].load(Ordering::Relaxed)
    }

    /// Counts one connection more, unless there are `maxconn`. Exact whatever other threads do.
    pub fn try_acquire(&self, id: u16, maxconn: u32) -> bool {
        let count = &self.counts[usize::from(id)];
        if maxconn == u32::MAX {
            count.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let more = |active| (active < maxconn).then_some(active + 1);
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// Counts one connection more if there are `seen`.
    pub fn try_acquire_seen(&self, id: u16, seen: u32) -> bool {
        self.counts[usize::from(id)]
            .compare_exchange(seen, seen + 1, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Counts one connection less.
    pub fn release(&self, id: u16) {
        let before = self.counts[usize::from(id)].fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "connection released twice");
    }
}
