//! A request that waits in the simulated kernel, and for what.
//!
//! Must not depend on: rings, the world.

use crate::token::Token;

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    Listener(u32),
    Waker(u32),
    Readable(u32),
    Writable(u32),
    /// To tell of room, errors and ends, for ever.
    Watch(u32),
    /// To receive once.
    Bytes(u32),
    /// To receive for ever.
    Stream(u32),
    Connected(u32),
}

impl For {
    pub fn socket(self) -> Option<u32> {
        match self {
            For::Listener(_) | For::Waker(_) => None,
            For::Readable(s)
            | For::Writable(s)
            | For::Watch(s)
            | For::Bytes(s)
            | For::Stream(s)
            | For::Connected(s) => Some(s),
        }
    }
}

/// A request in the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub token: Token,
    pub what: For,
}
