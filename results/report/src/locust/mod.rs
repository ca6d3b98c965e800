//! Runs of `holdfast-bench locust`: the part of the record that is Locust's, and its page.

pub mod record;
pub mod summary;
