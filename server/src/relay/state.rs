//! What the relay keeps of each socket: 8 bytes.
//!
//! Invariants: a client that is not linked has an entry in `Waiting`, whose
//! number its state holds; a linked socket holds the time of its last traffic instead.
//! Must not depend on: rings, backends.

/// The state of a client or of its backend's connection.
///
/// The times of its pool are a profile, a number: connections keep the times they began with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PairState {
    /// Not linked: number of the waiting entry. Linked: when traffic passed last, engine
    /// milliseconds, 0 if none did. Classified: the class.
    pub tick: u32,
    /// Of a backend's connection, the backend. Of a client, when it must end, in units of its profile.
    pub number: u16,
    flags: u16,
}

const _: () = assert!(size_of::<PairState>() == 8);

/// Profiles there can be at once.
pub const PROFILE_COUNT_MAX: usize = 1 << PROFILE_BITS;
const PROFILE_BITS: u32 = 9;
const PROFILE: u16 = (1 << PROFILE_BITS) - 1;
/// It is the backend's side.
const BACKEND: u16 = 1 << 9;
/// It has a partner, or had one.
const LINKED: u16 = 1 << 10;
/// It is known what becomes of the client.
const CLASSIFIED: u16 = 1 << 11;
/// A side has ended its direction.
const HALF_CLOSED: u16 = 1 << 12;
/// The pair's idle timer is this side's.
const IDLE_TIMER: u16 = 1 << 13;

impl PairState {
    /// A client that has no backend yet, with its entry.
    pub fn waiting(entry: u32, profile: u16) -> Self {
        PairState {
            tick: entry,
            number: 0,
            flags: profile & PROFILE,
        }
    }

    /// A connection to a backend for the client of an entry.
    pub fn connecting(entry: u32, backend: u16, profile: u16) -> Self {
        PairState {
            tick: entry,
            number: backend,
            flags: profile & PROFILE | BACKEND,
        }
    }

    /// Its times.
    pub fn profile(&self) -> u16 {
        self.flags & PROFILE
    }

    /// True on the backend's side.
    pub fn is_backend(&self) -> bool {
        self.flags & BACKEND != 0
    }

    /// True once it has had a partner.
    pub fn is_linked(&self) -> bool {
        self.flags & LINKED != 0
    }

    /// It has a partner from now on.
    pub fn link(&mut self, tick: u32) {
        self.flags |= LINKED;
        self.tick = tick;
    }

    /// Traffic passed. Nothing may pass once the client has a class.
    #[inline]
    pub fn stamp(&mut self, tick: u32) {
        if self.flags & CLASSIFIED == 0 {
            self.tick = tick;
        }
    }

    /// What became of the client, if that is known.
    pub fn class(&self) -> Option<u32> {
        (self.flags & CLASSIFIED != 0).then_some(self.tick)
    }

    /// Says what becomes of a linked client, unless that was said.
    pub fn classify(&mut self, class: u32) {
        if self.flags & CLASSIFIED == 0 {
            self.flags |= CLASSIFIED;
            self.tick = class;
        }
    }

    /// True once a side has ended its direction.
    pub fn is_half_closed(&self) -> bool {
        self.flags & HALF_CLOSED != 0
    }

    /// A side has ended its direction.
    pub fn half_close(&mut self) {
        self.flags |= HALF_CLOSED;
    }

    /// True if the pair's idle timer is this side's.
    pub fn has_idle_timer(&self) -> bool {
        self.flags & IDLE_TIMER != 0
    }

    /// Says whether it is.
    pub fn set_idle_timer(&mut self, has: bool) {
        match has {
            true => self.flags |= IDLE_TIMER,
            false => self.flags &= !IDLE_TIMER,
        }
    }
}
