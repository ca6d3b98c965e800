//! What a network namespace of the testbed is like, as records say it.
//!
//! Invariants: keys are part of `run.json`: they keep their names.
//! Must not depend on: how a namespace is made, what runs in it.

use holdfast_units::count;
use serde::{Deserialize, Serialize};

/// The network the run had.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceRecord {
    /// `private`, `private (user namespace)`, or `host`.
    pub namespace: String,
    /// Buckets of the table of established connections; negative: shared with the host; `null`:
    /// unknown.
    pub connection_hash_buckets: Option<i64>,
    /// Buckets asked for.
    pub connection_hash_buckets_wanted: u64,
    /// What was set, and to what.
    pub settings: Vec<SettingRecord>,
    /// What did not go as planned.
    pub notes: Vec<String>,
}

impl NamespaceRecord {
    /// Whether the network is one of its own, not the host's.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.namespace != "host"
    }

    /// A warning if `entries`, sockets and connections in TIME_WAIT, were more than the table of
    /// connections has buckets: every look-up then walks a chain, and every program is slower the
    /// longer the run has lasted.
    #[must_use]
    pub fn long_chains(&self, entries: u64) -> Option<String> {
        let buckets = self.connection_hash_buckets?;
        let is_shared = buckets < 0;
        let buckets = buckets.unsigned_abs();
        if buckets == 0 || entries <= buckets {
            return None;
        }
        let (owner, next) = if is_shared {
            let wanted = entries.next_power_of_two();
            let next = format!("leave --no-namespace out, or boot with thash_entries={wanted}");
            (" of the host", next)
        } else {
            ("", "leave --no-profile and --sysctl out".to_owned())
        };
        Some(format!(
            "the table of connections{owner} had {} buckets for {} entries: chains of {:.1} slowed every look-up, more the longer the \
             run lasted; next: {next}",
            count(buckets),
            count(entries),
            entries as f64 / buckets as f64
        ))
    }
}

/// One setting before and after.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SettingRecord {
    /// Name as `sysctl` spells it.
    pub key: String,
    /// Value before; `null`: this kernel or namespace has no such setting.
    pub before: Option<String>,
    /// Value asked for.
    pub wanted: String,
    /// Value afterwards.
    pub after: Option<String>,
    /// What it is for.
    pub why: String,
    /// Why it was not set, if it was not.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_entries_than_buckets_are_reported() {
        let with = |buckets| NamespaceRecord {
            connection_hash_buckets: buckets,
            ..NamespaceRecord::default()
        };
        let warning = with(Some(256)).long_chains(131_200).expect("chains of 512");
        assert!(
            warning.contains("256 buckets for 131,200 entries: chains of 512.5"),
            "{warning}"
        );
        let shared = with(Some(-262_144)).long_chains(2_000_000).expect("chains");
        assert!(
            shared.contains("of the host") && shared.contains("thash_entries=2097152"),
            "{shared}"
        );
        assert_eq!(with(Some(262_144)).long_chains(131_200), None);
        assert_eq!(with(None).long_chains(u64::MAX), None);
    }
}
