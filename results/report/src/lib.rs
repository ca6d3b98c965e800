//! Records of runs, and everything that follows from them.
//!
//! Purpose: the schemas of `run.json` ([`run`], [`http`], [`locust`], [`proxy`], [`relay`]), verdicts
//! ([`verdict`]), what kept a run from going faster or higher ([`bottleneck`]), summaries as text
//! ([`summary`]), reports with charts ([`report`]) and comparisons ([`compare`]).
//! Invariants: pure functions of files: whoever has a run's folder can repeat them. A verdict
//! follows from the record alone.
//! Must not depend on: the testbed, the benchmark driver, how anything was measured.
#![forbid(unsafe_code)]

pub mod bottleneck;
pub mod compare;
pub mod folder;
pub mod header;
pub mod http;
pub mod list;
pub mod locust;
pub mod network;
pub mod print;
pub mod proxy;
pub mod record;
pub mod relay;
pub mod report;
pub mod run;
pub mod summary;
pub mod verdict;
