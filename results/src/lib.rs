//! `holdfast-bench`: the benchmark driver.
//!
//! Purpose: `plan -> testbed -> server and client -> samples -> record -> verdict -> report`, for long connections
//! ([`longconn`]), HTTP ([`http`]), Locust ([`locust`]) and a system between client and server ([`proxy`]).
//! Invariants: `run.json` is the only interface between this crate and the reports made of it.
//! Must not know: rings, slots, or how a server or client does its work. It reads their lines and the kernel's.
#![forbid(unsafe_code)]

pub mod frame;
pub mod http;
pub mod locust;
pub mod longconn;
pub mod mark;
pub mod network_record;
pub mod origin;
pub mod proxy;
pub mod record;
pub mod series;
pub mod under_load;
pub mod warm;
