//! The state of one connection, and the table of them.
//!
//! ```text
//!              dial                   connected
//!   Free ──────────────► Connecting ─────────────► Open ──────────► Draining
//!    ▲ │    accepted                                │ │   we end it     │
//!    │ └────────────────────────────────────────────┘ │ (FIN sent,      │
//!    │                    │ failed                    │  still reading) │ peer's end, or cut
//!    │                    ▼                           ▼                 ▼
//!    └───────────────── (released: close submitted, generation + 1) ◄── Closing (await what is in flight)
//! ```
//!
//! Invariants: the slot index *is* the index in the ring's direct-descriptor table; every transition asserts where it comes
//! from; a slot is free exactly when it is on the free list or was never used; a release makes a new generation, so that
//! what is still on its way for the old one is recognised.
//! Must not know: rings, sockets, time.

use crate::error::OpenFailure;

/// No slot: the end of a list.
pub const NONE: u32 = u32::MAX;

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Phase {
    /// No connection.
    #[default]
    Free,
    /// Asked for, not open yet.
    Connecting,
    /// Open both ways.
    Open,
    /// We said our end; the peer's is awaited and its bytes still count.
    Draining,
    /// Over; requests in flight are cancelled and awaited.
    Closing,
}

/// Bits of [`Slot::flags`].
pub mod flag {
    /// A poll is in flight.
    pub const POLL: u16 = 1;
    /// A receive is in flight or queued.
    pub const RECV: u16 = 2;
    /// On the wheel.
    pub const TIMED: u16 = 4;
    /// Has an entry in the shard's carry map.
    pub const CARRY: u16 = 8;
    /// Was taken from a listener.
    pub const ACCEPTED: u16 = 16;
    /// A send was submitted and may still fail.
    pub const SENDING: u16 = 32;
    /// A poll for room to send is in flight.
    pub const WRITABLE: u16 = 64;
    /// The receive in flight waits in the kernel for bytes (the connection is hot).
    pub const HOT: u16 = 128;
    /// Received before, so that it is worth a stream.
    pub const WARM: u16 = 256;
    /// Received since the last sweep.
    pub const HEARD: u16 = 512;
    /// Was silent for longer than a hot connection may be: its next wait is a poll.
    pub const COLD: u16 = 1024;
    /// The receive in flight is being cancelled.
    pub const CANCELLED: u16 = 2048;
    /// To be ended in order once what was sent is with the kernel.
    pub const END_IN_ORDER: u16 = 4096;
    /// To be ended at once when what was sent is with the kernel.
    pub const END_AFTER_SENT: u16 = 8192;
    /// The peer sends no more, and is still owed something.
    pub const PEER_ENDED: u16 = 16384;
    /// A shutdown is in flight.
    pub const SHUTTING: u16 = 32768;
    /// Any request that must end before the descriptor is closed.
    pub const IN_FLIGHT: u16 = POLL | RECV | WRITABLE | SHUTTING;
    /// Waits for sends to be settled before it ends.
    pub const ENDING: u16 = END_IN_ORDER | END_AFTER_SENT;
}

/// One connection: 24 bytes of the engine and the handler's state.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Slot<S> {
    /// Which life of the slot this is.
    pub generation: u32,
    /// Next on the wheel, or on the free list.
    pub next: u32,
    /// Previous on the wheel.
    pub prev: u32,
    /// When its timer is due, in ticks.
    pub deadline: u32,
    /// The source and destination it dialled from the plan.
    pub tuple: u32,
    /// Where it is in its life.
    pub phase: Phase,
    /// The first error of a dial, or the number of the reason it is closing for.
    pub errno: u8,
    /// See [`flag`].
    pub flags: u16,
    /// The handler's part.
    pub state: S,
}

const _: () = assert!(size_of::<Slot<()>>() == 24);
const _: () = assert!(size_of::<Slot<[u32; 2]>>() == 32);

impl<S: Copy + Default> Slot<S> {
    fn empty() -> Self {
        Slot {
            generation: 0,
            next: NONE,
            prev: NONE,
            deadline: 0,
            tuple: NONE,
            phase: Phase::Free,
            errno: 0,
            flags: 0,
            state: S::default(),
        }
    }

    /// True if all of `bits` are set.
    #[inline]
    pub fn has(&self, bits: u16) -> bool {
        self.flags & bits == bits
    }

    /// Sets `bits`.
    #[inline]
    pub fn set(&mut self, bits: u16) {
        self.flags |= bits;
    }

    /// Clears `bits`.
    #[inline]
    pub fn clear(&mut self, bits: u16) {
        self.flags &= !bits;
    }

    /// Free to Connecting.
    pub fn start_connecting(&mut self, state: S, tuple: u32) {
        assert_eq!(self.phase, Phase::Free);
        self.phase = Phase::Connecting;
        self.flags = 0;
        self.errno = 0;
        self.tuple = tuple;
        self.state = state;
    }

    /// Connecting to Open.
    pub fn connected(&mut self) {
        assert_eq!(self.phase, Phase::Connecting);
        self.phase = Phase::Open;
    }

    /// Free to Open.
    pub fn accepted(&mut self) {
        assert_eq!(self.phase, Phase::Free);
        self.phase = Phase::Open;
        self.flags = flag::ACCEPTED;
        self.errno = 0;
        self.state = S::default();
    }

    /// Open to Draining.
    pub fn start_draining(&mut self) {
        assert_eq!(self.phase, Phase::Open);
        self.phase = Phase::Draining;
    }

    /// Open or Draining to Closing.
    pub fn start_closing(&mut self, reason: u8) {
        assert!(matches!(self.phase, Phase::Open | Phase::Draining));
        self.phase = Phase::Closing;
        self.errno = reason;
    }

    /// The first error of a dial, if one was met.
    pub fn dial_failure(&self) -> Option<OpenFailure> {
        (self.errno != 0).then(|| OpenFailure::from_errno(i32::from(self.errno)))
    }
}

/// The slots of one shard. Slots are touched in index order first, so memory follows what is really held.
#[derive(Debug)]
pub struct Slots<S> {
    slots: Vec<Slot<S>>,
    capacity: u32,
    free: u32,
    used_count: u32,
}

impl<S: Copy + Default> Slots<S> {
    /// A table for `capacity` connections; memory is taken now and touched as it is used.
    pub fn new(capacity: u32) -> Self {
        Slots {
            slots: Vec::with_capacity(capacity as usize),
            capacity,
            free: NONE,
            used_count: 0,
        }
    }

    /// Slots not free.
    pub fn used_count(&self) -> u32 {
        self.used_count
    }

    /// Slots free.
    pub fn room(&self) -> u32 {
        self.capacity - self.used_count
    }

    /// Slots that were ever used; higher indices are free.
    pub fn touched_count(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Takes a free slot off the list; its phase stays Free until a transition. `None` when full.
    pub fn take(&mut self) -> Option<u32> {
        let index = if self.free != NONE {
            let index = self.free;
            self.free = self[index].next;
            self[index].next = NONE;
            index
        } else if (self.slots.len() as u32) < self.capacity {
            self.slots.push(Slot::empty());
            self.slots.len() as u32 - 1
        } else {
            return None;
        };
        self.used_count += 1;
        Some(index)
    }

    /// Gives a slot back and begins its next generation. It must be off the wheel.
    pub fn release(&mut self, index: u32) {
        let free = self.free;
        let slot = &mut self[index];
        assert!(!slot.has(flag::TIMED) && !slot.has(flag::CARRY));
        slot.phase = Phase::Free;
        slot.flags = 0;
        slot.tuple = NONE;
        slot.generation = slot.generation.wrapping_add(1);
        slot.next = free;
        self.free = index;
        self.used_count -= 1;
    }

    /// The slot at `index`, if it was ever used.
    pub fn at(&self, index: u32) -> Option<&Slot<S>> {
        self.slots.get(index as usize)
    }
}

impl<S> std::ops::Index<u32> for Slots<S> {
    type Output = Slot<S>;
    #[inline]
    fn index(&self, index: u32) -> &Slot<S> {
        &self.slots[index as usize]
    }
}

impl<S> std::ops::IndexMut<u32> for Slots<S> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut Slot<S> {
        &mut self.slots[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_in_order_then_last_released_first_then_none() {
        let mut slots = Slots::<u64>::new(3);
        assert_eq!(
            (slots.take(), slots.take(), slots.take(), slots.take()),
            (Some(0), Some(1), Some(2), None)
        );
        slots.release(1);
        slots.release(0);
        assert_eq!(
            (slots.room(), slots.take(), slots.take(), slots.take()),
            (2, Some(0), Some(1), None)
        );
    }

    #[test]
    fn a_release_starts_a_new_generation() {
        let mut slots = Slots::<u64>::new(1);
        let index = slots.take().unwrap();
        slots[index].accepted();
        let before = slots[index].generation;
        slots.release(index);
        assert_eq!(slots[index].generation, before + 1);
        assert_eq!(slots[index].phase, Phase::Free);
    }

    #[test]
    #[should_panic]
    fn a_free_slot_cannot_drain() {
        let mut slots = Slots::<u64>::new(1);
        let index = slots.take().unwrap();
        slots[index].start_draining();
    }
}
