//! Runs of `holdfast-bench http`: the record and what follows from it.

pub mod ratios;
pub mod record;
pub mod summary;
pub mod verdict;
