//! Runs of `holdfast-bench relay`: the record and what follows from it.

pub mod figures;
pub mod goals;
pub mod record;
pub mod summary;
pub mod verdict;
