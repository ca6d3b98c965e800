//! Runs of the simulator: the engine with handlers of its own, of `holdfast-server` and of `holdfast-client`, one run a seed.
//!
//! Invariants: a run depends on nothing but its scenario, its seed and its canary.
//! Must not know: how the simulator works; that is `holdfast_engine::sim`.
#![forbid(unsafe_code)]

pub mod campaign;
pub mod coverage;
pub mod scenario;

pub use coverage::Coverage;
pub use scenario::Scenario;

use holdfast_engine::sim::Canary;

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// What runs.
    pub scenario: Scenario,
    /// How.
    pub seed: u64,
    /// With which mistake.
    pub canary: Option<Canary>,
    /// Print all that happens.
    pub is_told: bool,
}

/// What a run gave.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// A digest of all that happened.
    pub trace: u64,
    /// What was met.
    pub coverage: Coverage,
}

impl Run {
    /// Runs it.
    ///
    /// # Panics
    /// When an invariant is broken.
    pub fn run(self) -> Outcome {
        self.scenario.run(self)
    }

    /// The command that runs it again.
    pub fn command(&self) -> String {
        let mut text = format!(
            "cargo run --release -p holdfast-sim -- --scenario {} --seed {}",
            self.scenario.label(),
            self.seed
        );
        if let Some(canary) = self.canary {
            text += &format!(" --canary {}", canary.label());
        }
        text
    }
}
