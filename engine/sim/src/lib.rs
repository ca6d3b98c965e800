//! Runs of the simulator: the engine with test handlers and with those of `holdfast-server` and
//! `holdfast-client`, one run per seed.
//!
//! Invariants: a run depends on nothing but its scenario, its seed and its canary.
//! Must not depend on: how the simulator works; that is `holdfast_engine::sim`.
#![forbid(unsafe_code)]

pub mod campaign;
pub mod coverage;
mod run;
pub mod scenario;

pub use coverage::Coverage;
pub use run::{Outcome, Run, Scenario};
