//! Which backend gets the next connection.
//!
//! `candidates` is what may be chosen now: immutable, made by the control plane whenever health, weights
//! or addresses change. `selector` is what one core thread remembers between two choices. Each algorithm
//! has its file. Counts of connections are the only thing that threads share.
//!
//! Invariants: a chosen candidate is already counted as having one connection more; no choice looks at
//! more than [`SCAN_MAX`] counts, or at each candidate once; a candidate never gets more connections
//! than its `maxconn`.
//! Must not depend on: health checks, names, sockets; of the configuration, only on the algorithms' names.

mod candidates;
mod counts;
mod generator;
mod hash;
mod least;
mod maglev;
mod random;
mod round_robin;
mod selector;

pub use candidates::{Candidate, Candidates, SCAN_MAX, Selected};
pub use counts::ActiveCounts;
pub use generator::Random;
pub use selector::Selector;

#[cfg(test)]
mod tests;
