//! All that is unsafe: the real ring, the memory the kernel reads and writes, and a few calls to
//! the system.
//!
//! Invariants: the kernel is only ever given addresses that are `'static`, inside a
//! [`buffers::Region`] owned by the ring, mapped before the ring was made and unmapped after it is
//! closed, or inside a shared buffer that the ring owns until the request that reads it is done.
//! Must not depend on: slots, handlers, protocols.

#![allow(unsafe_code)]

mod buffers;
pub mod os;
mod peers;
mod uring;

pub use uring::KernelRing;
