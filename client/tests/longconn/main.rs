//! `holdfast-client longconn` through its public doors: the real program against peers of the
//! test's own, which misbehave in every way a server can, and against the real server.
#![forbid(unsafe_code)]

#[path = "../../../server/tests/common/mod.rs"]
mod common;

mod ends;
mod faults;
mod hlog;
mod load;
mod peer;
mod refusals;

/// The program this package makes.
const OWN_PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-client");
