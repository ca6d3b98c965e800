//! Records of runs, and everything that follows from them.
//!
//! Purpose: the schemas of `run.json` ([`run`], [`http`], [`locust`], [`proxy`]), verdicts ([`verdict`]), what stopped a run
//! ([`limit`]), pages of text ([`summary`]), reports with charts ([`report`]) and comparisons ([`compare`]).
//! Invariants: pure functions of files: whoever has a run's folder can repeat them. A verdict follows from the record alone.
//! Must not depend on: the testbed, the benchmark driver, how anything was measured.
#![forbid(unsafe_code)]

pub mod archive;
pub mod compare;
pub mod folder;
pub mod head;
pub mod http;
pub mod limit;
pub mod list;
pub mod locust;
pub mod network;
pub mod print;
pub mod proxy;
pub mod report;
pub mod run;
pub mod summary;
pub mod verdict;
