//! The testbed: network namespaces, hosts on a bridge, and the processes that run in them.
//!
//! Purpose: a private network namespace for one load ([`namespace`]), a network of hosts on this
//! machine ([`network`]) inside an [`sandbox`] that ends with it, and child processes that are
//! followed and always end: [`child`] for the driver, [`running`] for tests.
//! Invariants: nothing outlives the process that asked for it, and no setting of the host is
//! changed.
//! Must not depend on: records and reports, what is measured.
#![forbid(unsafe_code)]

pub mod child;
pub mod child_signals;
pub mod namespace;
pub mod network;
pub mod programs;
pub mod running;
pub mod sandbox;
