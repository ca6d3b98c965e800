//! What wakes a simulated thread: a number in place of an event descriptor.
//!
//! Must not depend on: rings, nodes, what a thread is woken for.

use std::os::fd::RawFd;

use super::world::{Shared, WakerState, World, lock};
use crate::mailbox::Wake;

/// The number of the first waker, as a descriptor: neither a listener's nor one that a process has
/// by accident.
const FIRST_FD: RawFd = 1_000_000;

impl World {
    /// Which waker a descriptor is.
    pub(super) fn waker_index(&self, fd: RawFd) -> u32 {
        let index = fd - FIRST_FD;
        assert!(
            index >= 0 && (index as usize) < self.wakers.len(),
            "{fd} is no waker"
        );
        index as u32
    }
}

/// Wakes a thread of this world.
pub(super) struct SimWaker {
    world: Shared,
    index: u32,
}

impl SimWaker {
    /// A new one.
    pub fn new(world: &Shared) -> Self {
        let mut own = lock(world);
        own.wakers.push(WakerState::default());
        SimWaker {
            index: own.wakers.len() as u32 - 1,
            world: world.clone(),
        }
    }
}

impl Wake for SimWaker {
    fn fd(&self) -> RawFd {
        FIRST_FD + self.index as RawFd
    }

    fn wake(&self) {
        let mut world = lock(&self.world);
        world.note("wake", [i64::from(self.index), 0, 0, 0], None);
        let waker = &mut world.wakers[self.index as usize];
        waker.is_signalled = true;
        if let Some(ring) = waker.ring {
            world.mail[ring as usize].wakers.push(self.index);
        }
    }

    fn clear(&self) {
        lock(&self.world).wakers[self.index as usize].is_signalled = false;
    }
}
