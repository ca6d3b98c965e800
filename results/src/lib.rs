//! `holdfast-bench`: the benchmark driver.
//!
//! Purpose: `flags -> testbed -> server and client -> samples -> record -> verdict -> report`, for
//! each [`scenario`]: long connections ([`longconn`]), HTTP ([`http`]), chat ([`chat`]), Locust
//! ([`locust`]), a system between client and server ([`proxy`]) and layer-4 relays beside each
//! other ([`relay`]).
//! Invariants: `run.json` is the only interface between this crate and the reports made of it.
//! Must not depend on: rings, slots, how a server or client does its work. It reads their lines and
//! the kernel's figures.
#![forbid(unsafe_code)]

pub mod chat;
mod competitors;
pub mod held_load;
pub mod http;
pub mod locust;
pub mod longconn;
pub mod network_record;
pub mod observations;
pub mod prefault;
pub mod processes;
pub mod progress;
pub mod provenance;
pub mod proxy;
pub mod relay;
pub mod run_control;
pub mod run_harness;
pub mod sample;
pub mod scenario;
pub mod series;
mod shutdown;
pub mod under_load;
