//! The record of a run of `relay`: `run.json`, schema [`RELAY_RUN_SCHEMA`].
//!
//! Invariants: those of [`crate::run`]: units end the names, what was not measured is left out.
//! Medians, added latency and kernel memory follow from the rounds alone. Adding a key keeps the
//! schema's number.
//! Must not depend on: how figures are taken, what a good one is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bottleneck::Bottleneck;
use crate::header::Header;
use crate::http::record::{Cores, median};

use holdfast_telemetry::units::round;

/// The schema of a [`RelayRun`].
pub const RELAY_RUN_SCHEMA: &str = "holdfast.run.relay/1";

/// Our relay.
pub const OURS: &str = "holdfast";
/// The bare relay loop.
pub const FLOOR: &str = "floor";
/// No relay at all.
pub const DIRECT: &str = "direct";

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RelayRun {
    /// What every record begins with; its schema is [`RELAY_RUN_SCHEMA`].
    #[serde(flatten)]
    pub header: Header,
    /// What a reader must know and what is no shortfall.
    pub notes: Vec<String>,
    /// What was asked for.
    pub asked: RelayAsked,
    /// Cores: `server` is the relay's, `client` that of load and backend together.
    pub cores: Cores,
    /// First line that each foreign program says about its version; `null`: it is not here.
    pub programs: BTreeMap<String, Option<String>>,
    /// The command line of each relay, as it was started first.
    pub commands: BTreeMap<String, String>,
    /// Requests a second of `half-load`, the same for all.
    pub half_load_per_second: Option<f64>,
    /// One entry for each scenario and relay.
    pub entries: Vec<Entry>,
    /// What the figures are to each other and to the project's targets.
    pub goals: Vec<Goal>,
}

/// The request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RelayAsked {
    /// Scenarios, by name.
    pub scenarios: Vec<String>,
    /// Relays, by name.
    pub subjects: Vec<String>,
    /// The program that makes requests.
    pub generator: String,
    /// Rounds.
    pub rounds: u32,
    /// Length of a measurement.
    pub slice_seconds: f64,
    /// Pairs of `messages`.
    pub message_pairs: u64,
    /// Pairs of `pairs-*`.
    pub pairs: Vec<u64>,
    /// Connections opened a second.
    pub spawn_rate_per_second: f64,
    /// Descriptors that a process may have.
    pub descriptors: u64,
}

/// One scenario through one relay: medians over rounds, then the rounds themselves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Scenario.
    pub scenario: String,
    /// Relay, or `direct`.
    pub subject: String,
    /// Connections, or users.
    pub connections: u64,
    /// Rounds that gave figures.
    pub rounds: usize,
    /// Figures, by the keys of [`super::figures`].
    pub figures: BTreeMap<String, Figure>,
    /// What did not go right, by kind, summed over rounds.
    pub failures: BTreeMap<String, u64>,
    /// What kept it from holding more.
    pub limit: Option<Bottleneck>,
    /// The rounds.
    pub measured: Vec<Measured>,
}

/// A figure over all rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The median.
    pub median: f64,
    /// The least of the rounds.
    pub min: f64,
    /// The most of the rounds.
    pub max: f64,
}

/// One measurement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {
    /// Round, from 1.
    pub round: u32,
    /// Figures, by key.
    pub figures: BTreeMap<String, f64>,
    /// What did not go right, by kind.
    pub failures: BTreeMap<String, u64>,
    /// What kept it from holding more.
    pub limit: Option<Bottleneck>,
    /// Why there are no figures, if there are none.
    pub error: Option<String>,
}

/// How a run stands to a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The stretch target too.
    Stretch,
    /// Yes.
    Met,
    /// No.
    Missed,
    /// A figure is missing.
    #[default]
    Unknown,
}

impl Standing {
    /// As people read it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Stretch => "met, stretch too",
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::Unknown => "not measured",
        }
    }
}

/// One figure of ours, what it is to the floor and to the best competitor, and its target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Goal {
    /// Scenario.
    pub scenario: String,
    /// Figure, by its key.
    pub figure: String,
    /// Ours.
    pub ours: Option<f64>,
    /// The bare loop's.
    pub floor: Option<f64>,
    /// The best competitor's.
    pub best: Option<f64>,
    /// Who that is.
    pub best_subject: String,
    /// Ours / the floor's.
    pub ours_over_floor: Option<f64>,
    /// Ours / the best competitor's.
    pub ours_over_best: Option<f64>,
    /// The target in words.
    pub target: String,
    /// Whether it is met.
    pub standing: Standing,
}

impl Measured {
    /// Adds a figure, unless it is unknown.
    pub fn add(&mut self, key: &str, value: Option<f64>) {
        if let Some(value) = value.filter(|v| v.is_finite()) {
            self.figures.insert(key.into(), round(value, 4));
        }
    }

    /// Counts `n` of what did not go right.
    pub fn fail(&mut self, kind: &str, n: u64) {
        if n > 0 {
            *self.failures.entry(kind.into()).or_default() += n;
        }
    }
}

impl Entry {
    /// The median of a figure.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<f64> {
        self.figures.get(key).map(|figure| figure.median)
    }

    /// The first reason why a round has no figures.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.measured.iter().find_map(|m| m.error.as_deref())
    }

    /// The rounds of a figure.
    #[must_use]
    pub fn each(&self, key: &str) -> Vec<f64> {
        let sound = self.measured.iter().filter(|m| m.error.is_none());
        sound.filter_map(|m| m.figures.get(key).copied()).collect()
    }

    fn sum_up(&mut self) {
        let sound = || self.measured.iter().filter(|m| m.error.is_none());
        self.rounds = sound().count();
        let keys: std::collections::BTreeSet<&String> =
            sound().flat_map(|m| m.figures.keys()).collect();
        self.figures = keys
            .into_iter()
            .filter_map(|key| {
                let each = self.each(key);
                let figure = Figure {
                    min: each.iter().copied().reduce(f64::min)?,
                    max: each.iter().copied().reduce(f64::max)?,
                    median: round(median(each)?, 4),
                };
                Some((key.clone(), figure))
            })
            .collect();
        self.failures = BTreeMap::new();
        for (kind, n) in self.measured.iter().flat_map(|m| &m.failures) {
            *self.failures.entry(kind.clone()).or_default() += n;
        }
        self.limit = self.measured.iter().find_map(|m| m.limit.clone());
    }
}

impl RelayRun {
    /// The entry of a scenario and a relay.
    #[must_use]
    pub fn entry(&self, scenario: &str, subject: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|e| e.scenario == scenario && e.subject == subject)
    }

    /// Targets that are met, and those that were measured at all.
    #[must_use]
    pub fn met(&self) -> (usize, usize) {
        let known = self.goals.iter().map(|g| g.standing);
        let known = known.filter(|s| *s != Standing::Unknown);
        let met = known.clone().filter(|s| *s != Standing::Missed);
        (met.count(), known.count())
    }

    /// Scenarios in the order of measurement.
    #[must_use]
    pub fn scenarios(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for entry in &self.entries {
            if !names.contains(&entry.scenario.as_str()) {
                names.push(&entry.scenario);
            }
        }
        names
    }

    /// Fills in what follows from the rounds: latency beyond that of a direct connection in the
    /// same round, kernel memory beyond that of a direct connection, and all medians.
    pub fn sum_up(&mut self) {
        self.entries.iter_mut().for_each(Entry::sum_up);
        let direct: Vec<Entry> = self
            .entries
            .iter()
            .filter(|e| e.subject == DIRECT)
            .cloned()
            .collect();
        let slab = direct.iter().find_map(|e| e.value("slab_bytes"));
        for entry in self.entries.iter_mut().filter(|e| e.subject != DIRECT) {
            let same = direct.iter().find(|e| e.scenario == entry.scenario);
            for measured in &mut entry.measured {
                let mut beyond = Vec::new();
                let in_round = same.and_then(|e| {
                    let mut rounds = e.measured.iter();
                    rounds.find(|m| m.round == measured.round && m.error.is_none())
                });
                for (added, key) in [("added_p50_us", "p50_us"), ("added_p99_us", "p99_us")] {
                    let without = in_round.and_then(|m| m.figures.get(key));
                    beyond.push((added, key, without.copied()));
                }
                beyond.push(("kernel_bytes", "slab_bytes", slab));
                for (added, key, without) in beyond {
                    let with = measured.figures.get(key).copied();
                    measured.add(added, with.zip(without).map(|(a, b)| a - b));
                }
            }
            entry.sum_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(scenario: &str, subject: &str, rounds: &[&[(&str, f64)]]) -> Entry {
        let measured = rounds.iter().zip(1..).map(|(figures, round)| Measured {
            round,
            figures: figures.iter().map(|(k, v)| ((*k).into(), *v)).collect(),
            ..Measured::default()
        });
        Entry {
            scenario: scenario.into(),
            subject: subject.into(),
            measured: measured.collect(),
            ..Entry::default()
        }
    }

    #[test]
    fn differences_are_those_of_a_round_and_medians_of_all() {
        let mut run = RelayRun {
            entries: vec![
                entry(
                    "half-load",
                    DIRECT,
                    &[
                        &[("p99_us", 100.0)],
                        &[("p99_us", 300.0)],
                        &[("p99_us", 120.0)],
                    ],
                ),
                entry(
                    "half-load",
                    OURS,
                    &[
                        &[("p99_us", 150.0)],
                        &[("p99_us", 310.0)],
                        &[("p99_us", 190.0)],
                    ],
                ),
                entry("messages", DIRECT, &[&[("slab_bytes", 8_000.0)]]),
                entry("pairs-1000", OURS, &[&[("slab_bytes", 16_500.0)]]),
            ],
            ..RelayRun::default()
        };
        run.entries[1].measured[2].error = Some("died".into());
        run.entries[1].measured[2].fail("died", 2);
        run.sum_up();
        let ours = run.entry("half-load", OURS).expect("ours");
        // 50 and 10; the third round has no figures.
        assert_eq!(
            (ours.rounds, ours.figures["added_p99_us"]),
            (
                2,
                Figure {
                    median: 30.0,
                    min: 10.0,
                    max: 50.0
                }
            )
        );
        assert_eq!((ours.failures["died"], ours.error()), (2, Some("died")));
        let pairs = run.entry("pairs-1000", OURS).expect("pairs");
        assert_eq!(pairs.value("kernel_bytes"), Some(8_500.0));
        assert_eq!(run.scenarios(), ["half-load", "messages", "pairs-1000"]);
    }
}
