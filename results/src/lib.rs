//! What a load test leaves behind, and the lab it runs in.
//!
//! Purpose: the schema of a run ([`run`]), the lines that server and client print ([`wire`]), and everything
//! `holdfast-bench` does: a private network namespace ([`lab`]), two child processes ([`child`]), figures of the
//! kernel once a second ([`sample`]), a verdict ([`verdict`]), a page of text ([`summary`]) and a report to look at ([`report`]).
//! Invariants: a verdict depends on nothing but the record it stands in, so anybody can repeat it from `run.json`.
//! Must not know: rings, slots, or how a server or client does its work. It reads their lines and the kernel's.
#![forbid(unsafe_code)]

pub mod archive;
pub mod child;
pub mod compare;
pub mod console;
pub mod enclosure;
pub mod folder;
pub mod frame;
pub mod head;
pub mod http;
pub mod lab;
pub mod limit;
pub mod list;
pub mod live;
pub mod locust;
pub mod longconn;
pub mod metrics;
pub mod network;
pub mod origin;
pub mod pressure;
pub mod programs;
pub mod proxy;
pub mod record;
pub mod refusal;
pub mod report;
pub mod run;
pub mod sample;
pub mod series;
pub mod shown;
pub mod signals;
pub mod summary;
pub mod threads;
pub mod under_load;
pub mod verdict;
pub mod warm;
pub mod wire;
