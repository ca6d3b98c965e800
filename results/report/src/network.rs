//! What a record says of the lab's network, and of counts that must agree in it.
//!
//! Invariants: units end the names; whether counts agree follows from the record alone.
//! Must not depend on: how hosts are made, how anything was counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use holdfast_telemetry::namespace::SettingRecord;
use holdfast_telemetry::units::count;

/// The hosts of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkRecord {
    /// All addresses are of it.
    pub subnet: String,
    /// Every host.
    pub hosts: Vec<HostRecord>,
}

/// One host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostRecord {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Buckets of its table of established connections; negative: shared with the machine; `null`:
    /// unknown.
    pub connection_hash_buckets: Option<i64>,
    /// Settings of its profile that could not be set.
    pub settings_failed: Vec<SettingRecord>,
    /// What did not go as planned.
    pub notes: Vec<String>,
}

/// One thing that several have counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Agreement {
    /// What was counted.
    pub what: String,
    /// Counts by observer.
    pub by: BTreeMap<String, u64>,
    /// How far apart they may be: what was under way when they counted.
    pub slack: u64,
}

impl Agreement {
    /// Counts of `what` that must be the same.
    pub fn exact<'a>(what: &str, by: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        Self {
            what: what.into(),
            by: by
                .into_iter()
                .map(|(name, n)| (name.to_owned(), n))
                .collect(),
            slack: 0,
        }
    }

    /// One more count.
    pub fn add(&mut self, name: &str, n: u64) {
        self.by.insert(name.into(), n);
    }

    /// Why they do not agree, if they do not.
    #[must_use]
    pub fn shortfall(&self) -> Option<String> {
        let (least, most) = (self.by.values().min()?, self.by.values().max()?);
        if most - least <= self.slack {
            return None;
        }
        let counts: Vec<_> = self
            .by
            .iter()
            .map(|(name, n)| format!("{name} {}", count(*n)))
            .collect();
        let slack = if self.slack > 0 {
            format!(", more than {} apart", count(self.slack))
        } else {
            String::new()
        };
        Some(format!("{}: {}{slack}", self.what, counts.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_agree_within_their_slack() {
        let mut agreement = Agreement::exact("open", [("client", 1_000), ("server", 1_000)]);
        assert_eq!(agreement.shortfall(), None);
        agreement.add("haproxy", 998);
        assert_eq!(
            agreement.shortfall().as_deref(),
            Some("open: client 1,000, haproxy 998, server 1,000")
        );
        agreement.slack = 2;
        assert_eq!(agreement.shortfall(), None);
    }
}
