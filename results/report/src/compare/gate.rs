//! Thresholds in a file, for continuous integration.
//!
//! Purpose: which figures may become how much worse, and within which bounds they have to be.
//! Invariants: with a gate nothing else decides. A gate that cannot be read, or names a figure that
//! no run has, is refused: a misspelt name must not pass.
//! Must not depend on: where the figures come from.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::metric::Better;

use holdfast_engine::{SetupError, SetupErrorKind};

/// A gate file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// One for each figure, or each pattern of names.
    metric: Vec<Rule>,
}

/// What is allowed of a figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name; `*` stands for any one part between dots.
    pub name: String,
    /// Which way it should go, where that is not known or meant otherwise.
    #[serde(default)]
    pub better: Option<Better>,
    /// How much worse the median may become, percent.
    #[serde(default)]
    pub worse_percent_max: Option<f64>,
    /// The least that the median afterwards may be.
    #[serde(default)]
    pub min: Option<f64>,
    /// The most.
    #[serde(default)]
    pub max: Option<f64>,
}

const EXAMPLE: &str = "[[metric]] with name = \"ramp.per_second\", worse_percent_max = 5, min, max or better = \"higher\" (results/README.md)";

impl Gate {
    /// Reads a gate file.
    ///
    /// # Errors
    /// When it cannot be read or is no gate.
    pub fn read(path: &Path) -> Result<Self, SetupError> {
        let refuse = |why: String| {
            let cause = format!("the gate {}: {why}", path.display());
            SetupError::new(SetupErrorKind::InvalidInput, cause, EXAMPLE)
        };
        let text = std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
        let gate: Self = toml::from_str(&text).map_err(|e| refuse(e.to_string()))?;
        if gate.metric.is_empty() {
            return Err(refuse("no [[metric]] in it".into()));
        }
        for rule in &gate.metric {
            rule.check()
                .map_err(|why| refuse(format!("{}: {why}", rule.name)))?;
        }
        Ok(gate)
    }

    /// The rules for a figure.
    pub fn rules<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.metric.iter().filter(move |rule| rule.is_for(name))
    }

    /// Refuses a gate with a rule for no figure at all.
    ///
    /// # Errors
    /// Naming the rule.
    pub fn check_names(&self, path: &Path, names: &[&str]) -> Result<(), SetupError> {
        let unknown = self
            .metric
            .iter()
            .find(|rule| !names.iter().any(|name| rule.is_for(name)));
        unknown.map_or(Ok(()), |rule| {
            let cause = format!(
                "the gate {}: no figure of these runs is called {:?}",
                path.display(),
                rule.name
            );
            Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                cause,
                "the table of holdfast-bench compare without --gate has their names",
            ))
        })
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        let numbers = [self.worse_percent_max, self.min, self.max];
        if numbers.iter().all(Option::is_none) {
            return Err("neither worse_percent_max nor min nor max".into());
        }
        if numbers.iter().flatten().any(|n| !n.is_finite())
            || self.worse_percent_max.is_some_and(|n| n < 0.0)
        {
            return Err("a threshold that is no number, or a negative percentage".into());
        }
        Ok(())
    }

    fn is_for(&self, name: &str) -> bool {
        let (mut pattern, mut parts) = (self.name.split('.'), name.split('.'));
        loop {
            match (pattern.next(), parts.next()) {
                (None, None) => return true,
                (Some(p), Some(part)) if p == "*" || p == part => {}
                _ => return false,
            }
        }
    }
}
