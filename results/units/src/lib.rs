//! Counts, rates, sizes and times: how every program prints them ([`mod@format`]) and reads them on
//! its command line ([`parse`]).
//!
//! Invariants: no dependencies, so that every other crate can use it. Nothing here panics, however
//! odd the number or text.
//! Must not depend on: what is counted or measured.
#![forbid(unsafe_code)]

pub mod format;
pub mod parse;

pub use format::*;
