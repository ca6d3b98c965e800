//! What Holdfast's programs report about themselves, and what the kernel reports about them.
//!
//! Purpose: the lines that server and client print ([`wire`]), what they show people ([`console`],
//! [`live`]) and monitoring ([`metrics`]), and the readers of `/proc` that all programs share
//! ([`proc`](mod@proc)).
//! Invariants: whatever links this crate links no chart, page or table writer: server and client
//! depend on it alone.
//! Must not depend on: records, reports, the testbed, the benchmark driver, the engine's internals.
#![forbid(unsafe_code)]

pub mod console;
pub mod hosts;
pub mod live;
pub mod metrics;
pub mod namespace;
pub mod output;
pub mod proc;
pub mod report_line;
mod report_snapshots;
pub mod run_info;
pub mod signals;
pub mod wire;

pub use holdfast_units as units;
