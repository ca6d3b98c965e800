//! Runs of the simulator: the engine with handlers of its own, of `holdfast-server` and of `holdfast-client`, one run a seed.
//!
//! Invariants: a run depends on nothing but its scenario, its seed and its canary.
//! Must not know: how the simulator works; that is `holdfast_engine::sim`.
#![forbid(unsafe_code)]

pub mod campaign;
pub mod coverage;
mod run;
pub mod scenario;

pub use coverage::Coverage;
pub use run::{Outcome, Run, Scenario};
