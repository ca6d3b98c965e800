//! When to look for hot connections that have gone silent. What is done with them is in `receive`.
//!
//! Must not depend on: rings, handlers, slots.

/// Finds hot connections that have gone silent.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Hot connections.
    pub hot_count: u32,
    /// When the next sweep begins, or the one under way goes on: engine time.
    pub at_us: u64,
    /// The next slot to look at; 0 between sweeps.
    pub from: u32,
    /// There were hot connections, and none is left: what they used may be given back.
    pub is_trim_due: bool,
}

impl Sweep {
    /// When there is something to do, if there is.
    pub fn next_due_us(&self) -> Option<u64> {
        (self.hot_count > 0 || self.is_trim_due).then_some(self.at_us)
    }
}
