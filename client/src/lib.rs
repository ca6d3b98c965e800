//! The protocols of `holdfast-client`, as a library: the program is one user, the simulator and the
//! fuzz targets are others.
//!
//! Must not depend on: how it is started; the table of subcommands is `main.rs`.
#![forbid(unsafe_code)]

mod aggregate;
#[cfg(test)]
mod callbacks;
pub mod http;
mod interned;
mod launch;
pub mod load;
pub mod locust;
pub mod longconn;
pub mod reconnect;
pub mod source;
pub mod target;
pub mod turns;
