//! `holdfast-server relay`: passes connections on to backends.

pub mod backends;
pub mod balance;
pub mod config;
