//! The figures of a layer-4 relay: their keys in a record, what they are called, and which way they
//! should go.
//!
//! Invariants: a key never changes its meaning. Whatever shows or compares figures goes through
//! this table, so a new figure is one more line here.
//! Must not depend on: how a figure is measured, what a good one is.

use crate::report::units::Unit;

/// Which way a figure should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// Up.
    More,
    /// Down.
    Less,
    /// It only explains the others.
    Tells,
}

/// One kind of figure.
#[derive(Debug, PartialEq)]
pub struct Kind {
    /// Key in a record.
    pub key: &'static str,
    /// As a title.
    pub title: &'static str,
    /// As the head of a column.
    pub short: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// Which way it should go.
    pub aim: Aim,
    /// A smaller difference is none: the measurement cannot tell it.
    pub grain: f64,
}

const fn kind(
    key: &'static str,
    title: &'static str,
    short: &'static str,
    unit: Unit,
    aim: Aim,
    grain: f64,
) -> Kind {
    Kind {
        key,
        title,
        short,
        unit,
        aim,
        grain,
    }
}

/// Every figure, in the order of columns.
pub const KINDS: &[Kind] = &[
    kind(
        "cpu_us",
        "Relay CPU time for one",
        "CPU us",
        Unit::CpuMicros,
        Aim::Less,
        0.01,
    ),
    kind(
        "per_second",
        "A second",
        "a second",
        Unit::PerSecond,
        Aim::More,
        0.0,
    ),
    kind(
        "mb_per_cpu_second",
        "MB per CPU second of the relay",
        "MB/CPU s",
        Unit::Megabytes,
        Aim::More,
        0.0,
    ),
    kind(
        "mb_per_second",
        "MB a second",
        "MB/s",
        Unit::Megabytes,
        Aim::Tells,
        0.0,
    ),
    kind(
        "p50_us",
        "Latency, p50",
        "p50",
        Unit::Micros,
        Aim::Less,
        10.0,
    ),
    kind(
        "p99_us",
        "Latency, p99",
        "p99",
        Unit::Micros,
        Aim::Less,
        10.0,
    ),
    kind(
        "added_p50_us",
        "Added latency, p50",
        "+p50",
        Unit::Micros,
        Aim::Less,
        10.0,
    ),
    kind(
        "added_p99_us",
        "Added latency, p99",
        "+p99",
        Unit::Micros,
        Aim::Less,
        10.0,
    ),
    kind(
        "own_bytes",
        "Own memory per pair",
        "own B",
        Unit::Bytes,
        Aim::Less,
        1.0,
    ),
    kind(
        "kernel_bytes",
        "Kernel memory per pair beyond that of a direct connection",
        "kernel B",
        Unit::Bytes,
        Aim::Less,
        10.0,
    ),
    kind(
        "slab_bytes",
        "Kernel memory per pair, all four sockets",
        "slab B",
        Unit::Bytes,
        Aim::Tells,
        10.0,
    ),
    kind("held", "Pairs held", "held", Unit::Count, Aim::More, 0.0),
    kind(
        "spread_percent",
        "Spread over the backends, percent of their mean",
        "spread %",
        Unit::Count,
        Aim::Less,
        0.01,
    ),
    kind(
        "lost",
        "Connections lost",
        "lost",
        Unit::Count,
        Aim::Less,
        0.0,
    ),
    kind(
        "rss_growth_bytes",
        "Growth of the relay's memory",
        "growth B",
        Unit::Count,
        Aim::Tells,
        0.0,
    ),
    kind(
        "relay_busy_percent",
        "Relay's core in use by it, percent",
        "relay %",
        Unit::Count,
        Aim::Tells,
        0.0,
    ),
    kind(
        "load_cpu_us",
        "CPU time of load and backend for one",
        "load us",
        Unit::CpuMicros,
        Aim::Tells,
        0.0,
    ),
];

impl Kind {
    /// The figure of this key.
    #[must_use]
    pub fn of(key: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.key == key)
    }
}

/// A figure in few letters, for a column of text.
#[must_use]
pub fn short(key: &str, value: f64) -> String {
    match Kind::of(key).map(|kind| kind.unit) {
        Some(Unit::Micros) if value < 0.0 => {
            format!("-{}", crate::report::units::micros(-value))
        }
        Some(Unit::Micros) => crate::report::units::micros(value),
        _ => crate::report::units::decimal(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique() {
        for kind in KINDS {
            assert_eq!(Kind::of(kind.key), Some(kind));
        }
        assert_eq!(Kind::of("cpu"), None);
        assert_eq!(short("added_p99_us", -1_500.0), "-1.5 ms");
    }
}
