//! `holdfast-server longconn` through its public doors: the real program, real sockets, peers of
//! the test's own.
#![forbid(unsafe_code)]

#[path = "../common/mod.rs"]
mod common;

mod access;
mod capacity;
mod clients;
mod faults;
mod holding;
mod output;
mod pressure;
mod refusals;
mod upgrade;

/// The program this package makes.
const OWN_PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-server");
