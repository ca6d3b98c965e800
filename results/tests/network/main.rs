//! The lab's network and what is measured in it, with the real programs.
#![forbid(unsafe_code)]

#[allow(
    dead_code,
    reason = "stages with scripts for programs are for the other benchmarks"
)]
#[path = "../common/mod.rs"]
mod common;
mod lab;
mod locust;
mod proxy;
mod runs;
