//! What this machine is, and what would stop a server, client or benchmark before it starts.
//!
//! [`Machine`] reads the facts once; each function of [`preflight`] compares one of them with what is asked and
//! answers with a [`Shortfall`]: one line naming the cause and the next command. [`cost`] holds the bytes the kernel
//! takes for a connection.
//!
//! Invariants: nothing here changes the machine except [`preflight::raise_nofile`], which changes this process only.
//! Must not know: engine, server, client or results, nor how any of them spells its options beyond `--source`.
#![forbid(unsafe_code)]

pub mod cost;
pub mod machine;
pub mod preflight;
mod shortfall;

pub use machine::Machine;
pub use shortfall::{Shortfall, gibibytes, grouped};
