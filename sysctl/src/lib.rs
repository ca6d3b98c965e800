//! Facts about this machine, checks before a program starts, and the kernel settings that many
//! connections need.
//!
//! [`Machine`] reads the facts once; [`preflight`] compares them with what is asked for and returns
//! a [`SetupError`](holdfast_engine::SetupError) that names the cause and the next command.
//! [`profile`]s define the [`setting`]s for a number of connections; a [`plan`] compares them with
//! the present [`values`]; [`apply`] writes them and [`state`] remembers the previous values.
//! [`cost`] has the bytes the kernel takes for a connection, [`ports`] and [`routes`] the source
//! ports and addresses a client can use, [`tables`] the sizes of the kernel's connection tables.
//! [`cli`] parses command lines, [`cli_docs`] generates their completions and manual pages.
//!
//! Invariants: nothing here changes the machine except [`apply`], [`state`] and [`persist`], when
//! they are called, and [`preflight::raise_nofile`], which changes this process only.
//! Must not depend on: server, client or results, nor on how they spell their options beyond
//! `--source`.
#![forbid(unsafe_code)]

pub mod apply;
pub mod cli;
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
pub mod state;
pub mod tables;
pub mod values;

pub use holdfast_units::count as grouped;
pub use machine::Machine;
pub use plan::Plan;
pub use profile::{Profile, Role};
