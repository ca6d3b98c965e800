//! What Holdfast's programs report of themselves, and what the kernel says of them.
//!
//! Purpose: the lines that server and client print ([`wire`]), what they show people ([`console`], [`live`]) and monitoring
//! ([`metrics`]), and the readers of `/proc` that all programs share ([`sample`], [`pressure`], [`threads`], [`usage`]).
//! Invariants: whatever links this crate links no chart, page or table writer: server and client depend on it alone.
//! Must not depend on: records, reports, the testbed, the benchmark driver, the engine's internals.
#![forbid(unsafe_code)]

pub mod console;
pub mod hosts;
pub mod line;
pub mod live;
pub mod metrics;
pub mod namespace;
pub mod pressure;
pub mod refusal;
pub mod sample;
pub mod shown;
pub mod signals;
pub mod threads;
pub mod units;
pub mod usage;
pub mod wire;
