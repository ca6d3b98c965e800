//! The simulator: a kernel, a network and peers in memory, whose whole behaviour follows from one number.
//!
//! A [`World`] holds the time, the sockets and what is on its way between them. A [`SimRing`] is a `Ring` on it:
//! it does what io_uring may do, in any order io_uring may do it in. A [`Node`] is one core thread of an engine on such rings, the
//! same `Core`, shards, slots, wheel and handlers as on the kernel; after each turn it is audited. [`drive`] lets nodes take
//! turns until all have ended. Nothing here looks at a clock, a thread or the order of a hash map, so a seed replays identically.
//!
//! A broken invariant is a panic; who runs seeds says which seed it was.
//! Must not depend on: protocols.

mod addressed;
mod audit;
mod broken;
mod connect;
mod fault;
mod ledger;
mod link;
mod listener;
mod memory;
mod net;
mod node;
mod outside;
mod page;
mod random;
mod raw;
mod request;
mod ring;
mod script;
mod socket;
mod waiting;
mod waker;
mod watch;
mod world;

pub use crate::core::CoreListener;
pub use crate::limiter::ConnectionLimiter;
pub use crate::share::Shares;
pub use broken::{Broken, Canary};
pub use fault::{Fault, Faults};
pub use node::{Node, Steps, drive};
pub use outside::{Orders, Outside, mailboxes};
pub use random::Random;
pub use ring::SimRing;
pub use script::{Reading, Script, Step};
pub use watch::{Watched, WatchedState};
pub use world::{Shared, World};
