//! How connections are named.
//!
//! Must not depend on: anything of the engine.

/// Names one connection of an engine. Copy it, keep it, compare it: a slot that is used again gets another generation, so an id of a
/// connection that has closed is recognised as stale and never reaches the slot's next connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ConnId {
    pub(crate) thread: u16,
    pub(crate) shard: u16,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

const _: () = assert!(size_of::<ConnId>() == 12);

impl ConnId {
    /// The core thread that owns the connection.
    pub fn thread(self) -> usize {
        usize::from(self.thread)
    }
}
