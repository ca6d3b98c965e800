//! What a network namespace of the testbed is like, as records say it.
//!
//! Invariants: keys are part of `run.json`: they keep their names.
//! Must not know: how a namespace is made, what runs in it.

use serde::{Deserialize, Serialize};

/// The network the run had.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceRecord {
    /// `private`, `private (user namespace)`, or `host`.
    pub namespace: String,
    /// Buckets of the table of established connections; negative: shared with the host; `null`: unknown.
    pub connection_hash_buckets: Option<i64>,
    /// Buckets asked for.
    pub connection_hash_buckets_wanted: u64,
    /// What was set, and to what.
    pub settings: Vec<SettingRecord>,
    /// What did not go as planned.
    pub notes: Vec<String>,
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
