//! `holdfast-server relay`: passes connections on to backends.

pub mod config;
