//! The head of every record: what a run says of itself, whatever was measured.
//!
//! Purpose: one definition of the keys that all kinds of `run.json` begin with; each kind puts its
//! own behind them.
//! Invariants: those of [`crate::run`]. A verdict has its reasons beside it: both are settled
//! together.
//! Must not depend on: what was measured.

use std::fmt::Write as _;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::bottleneck::Bottleneck;

use holdfast_telemetry::namespace::NamespaceRecord;

/// What every record begins with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Header {
    /// Which keys follow.
    pub schema: String,
    /// What was measured: `longconn`, `http`, `chat`, `locust`, `proxy` or `relay`.
    pub name: String,
    /// `--name`, if given.
    pub label: Option<String>,
    /// Whether nothing fell short.
    pub verdict: Verdict,
    /// Every shortfall in words, with its numbers; empty for a pass.
    pub reasons: Vec<String>,
    /// What stopped the run from going faster or higher, first things first; empty only in records
    /// of before there were limits.
    #[serde(deserialize_with = "known_limits")]
    pub limits: Vec<Bottleneck>,
    /// What went wrong on the way that no figure shows (interrupted, timed out, ...); part of
    /// `reasons`.
    pub incidents: Vec<String>,
    /// The command line of the bench.
    pub command: String,
    /// Commit of the working tree the bench was started in, `-dirty` when files differ from it.
    pub commit: String,
    /// Start of the run, RFC 3339, UTC.
    pub started_at: String,
    /// The whole run, from the start of the first process to the end of the last, seconds.
    pub seconds: f64,
    /// Where it ran.
    pub machine: Machine,
    /// The network namespace of the server and its settings.
    pub lab: NamespaceRecord,
}

impl Header {
    /// Settles the verdict: a pass has no reasons.
    pub fn settle(&mut self, reasons: Vec<String>) {
        self.verdict = if reasons.is_empty() {
            Verdict::Pass
        } else {
            Verdict::Fail
        };
        self.reasons = reasons;
    }

    /// The begin of the page after a run: verdict, result, and why it fell short.
    #[must_use]
    pub fn page(&self, result: &str) -> String {
        let mut out = format!("{}  {}: {result}\n", self.verdict.label(), self.name);
        for reason in &self.reasons {
            let _ = writeln!(out, "      - {reason}");
        }
        out
    }
}

/// The limits that this program knows; another one may have found others.
fn known_limits<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Bottleneck>, D::Error> {
    let all = Vec::<Value>::deserialize(from)?;
    let known = all
        .iter()
        .filter_map(|limit| Bottleneck::deserialize(limit).ok());
    Ok(known.collect())
}

/// Did the run do all it was asked?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing fell short.
    Pass,
    /// Something did; `reasons` says what.
    #[default]
    Fail,
}

impl Verdict {
    /// As people read it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
        }
    }
}

/// The machine a run was measured on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Model name of the CPU.
    pub cpu: String,
    /// Cores this process may use.
    pub core_count: usize,
    /// All memory.
    pub memory_bytes: u64,
    /// Limits on open descriptors the children were started with.
    pub rlimit_nofile: Rlimit,
    /// `net.ipv4.tcp_mem`: pages of socket memory that are low, pressure, and the most; it belongs
    /// to the whole machine.
    pub tcp_mem_pages: Option<[u64; 3]>,
}

/// A soft and a hard limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// In force.
    pub soft: u64,
    /// What soft may be raised to.
    pub hard: u64,
}
