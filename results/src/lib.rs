//! Runs, schema, lab.
pub mod wire;
