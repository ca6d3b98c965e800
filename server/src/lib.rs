//! The protocols of `holdfast-server`, as a library: the program is one user, the simulator and the
//! fuzz targets are others.
//!
//! Must not depend on: how it is started; the table of subcommands is `main.rs`.
#![forbid(unsafe_code)]

pub mod access;
pub mod http;
mod launch;
pub mod longconn;
mod port;
pub mod relay;
