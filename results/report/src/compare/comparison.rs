//! The result of a comparison, as it is printed and shown.
//!
//! Must not depend on: how it is shown.

use serde::Serialize;

use super::gate::Rule;
use super::judge::{Figure, Judgement};

/// [`Comparison::schema`].
pub const COMPARE_SCHEMA: &str = "holdfast.compare/1";
/// What came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing became worse.
    Ok,
    /// Something did, or a gate is not met.
    Regression,
    /// There are too few runs to tell, and no gate that decides.
    Undecided,
    /// The runs differ in more than what is compared.
    NotComparable,
}

/// Everything that is shown.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Always [`COMPARE_SCHEMA`].
    pub schema: &'static str,
    /// What came out.
    pub outcome: Outcome,
    /// Folders of the runs before.
    pub before: Vec<String>,
    /// Folders of the runs after.
    pub after: Vec<String>,
    /// What differs besides, each with its values.
    pub differences: Vec<String>,
    /// What was left out, and what the figures cannot tell.
    pub notes: Vec<String>,
    /// A change below this fails nothing.
    pub tolerance_percent: f64,
    /// What the gate asks, and whether it is met; empty without one.
    pub gates: Vec<Checked>,
    /// The figures.
    pub figures: Vec<Figure>,
}

/// A rule of the gate for one figure.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    /// The figure.
    pub name: String,
    /// What is asked of it.
    pub rule: Rule,
    /// Whether it is met.
    pub is_met: bool,
    /// What was found, in words.
    pub found: String,
}

impl Comparison {
    /// Settles the outcome from gates or figures of `run_count` runs.
    pub(super) fn settle(&mut self, run_count: usize) {
        let is_worse = if self.gates.is_empty() {
            self.figures.iter().any(|f| f.judgement == Judgement::Worse)
        } else {
            self.gates.iter().any(|g| !g.is_met)
        };
        let is_untold = self
            .figures
            .iter()
            .any(|f| f.judgement == Judgement::Unknown);
        self.outcome = match (is_worse, is_untold && self.gates.is_empty()) {
            (true, _) => Outcome::Regression,
            (false, true) => Outcome::Undecided,
            (false, false) => Outcome::Ok,
        };
        if is_untold {
            self.notes.push(
                "too few runs to tell a change from noise: give at least two on each side, better five (compare A1,A2,A3 B1,B2,B3)".into(),
            );
        } else if run_count == 2 {
            self.notes.push("noise is that of the rounds within one run each: runs of another hour may differ by more".into());
        }
    }

    /// Figures that became worse.
    pub(super) fn worse(&self) -> usize {
        self.figures
            .iter()
            .filter(|f| f.judgement == Judgement::Worse)
            .count()
    }
}
