//! What this machine is, what would stop a server, client or benchmark on it, and the kernel settings that change that.
//!
//! [`Machine`] reads the facts once; [`preflight`] compares one of them with what is asked and answers with a [`Shortfall`]: one line
//! naming the cause and the next command. [`profile`]s say which [`setting`]s so many connections want; a [`plan`] compares
//! them with the present [`values`]; [`apply`] writes them and [`state`] remembers what was there. [`cost`] holds the bytes the
//! kernel takes for a connection. [`cli_docs`] generates completions and manual pages for every program.
//!
//! Invariants: nothing here changes the machine except [`apply`], [`state`] and [`persist`], which are asked to, and
//! [`preflight::raise_nofile`], which changes this process only.
//! Must not know: engine, server, client or results, nor how any of them spells its options beyond `--source`.
#![forbid(unsafe_code)]

pub mod apply;
pub mod cli_docs;
pub mod cost;
pub mod machine;
pub mod persist;
pub mod plan;
pub mod ports;
pub mod preflight;
pub mod profile;
pub mod routes;
pub mod setting;
mod shortfall;
pub mod state;
pub mod tables;
pub mod values;

pub use holdfast_units::count as grouped;
pub use machine::Machine;
pub use plan::Plan;
pub use profile::{Profile, Role};
pub use shortfall::{Shortfall, gibibytes};
