//! Runs of `holdfast-bench proxy`: the record and what follows from it.

pub mod record;
pub mod rounds;
pub mod summary;
pub mod verdict;
