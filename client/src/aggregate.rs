//! Histograms and counts of a run: merge them, put them into reports, write them as text.
//!
//! Invariants: all histograms here have the same bounds, so any two can be added.
//! Must not depend on: what is measured.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use holdfast_engine::Stats;
use holdfast_sysctl::grouped;
use holdfast_telemetry::wire::{ClientHead, Latency};

/// Largest latency a histogram distinguishes: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// An empty histogram of microseconds up to an hour, 3 significant digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("constant bounds are valid")
}

/// Adds the values of one histogram to another.
pub fn add(into: &mut Histogram<u64>, from: &Histogram<u64>) {
    into.add(from).expect("all have the same bounds");
}

/// Moves the values of one histogram into another.
pub fn drain_into(from: &mut Histogram<u64>, into: &mut Histogram<u64>) {
    if !from.is_empty() {
        add(into, from);
        from.reset();
    }
}

/// The percentiles that are reported.
pub fn latency(histogram: &Histogram<u64>) -> Latency {
    Latency {
        count: histogram.len(),
        p50: histogram.value_at_quantile(0.5),
        p99: histogram.value_at_quantile(0.99),
        p999: histogram.value_at_quantile(0.999),
        max: histogram.max(),
    }
}

/// Percentiles as text.
fn percentiles(l: &Latency) -> String {
    format!(
        "p50 {} us, p99 {} us, p99.9 {} us, max {} us",
        grouped(l.p50),
        grouped(l.p99),
        grouped(l.p999),
        grouped(l.max)
    )
}

/// Counts by name, without zeros.
pub fn named<C: FromIterator<(String, u64)>>(
    pairs: impl IntoIterator<Item = (&'static str, u64)>,
) -> C {
    counts_by_name(pairs.into_iter().filter(|(_, n)| *n > 0))
}

/// Counts by name, zeros included.
pub fn counts_by_name<C: FromIterator<(String, u64)>>(
    pairs: impl IntoIterator<Item = (&'static str, u64)>,
) -> C {
    let pairs = pairs.into_iter();
    pairs.map(|(name, n)| (name.to_owned(), n)).collect()
}

/// Appends a line for each latency that was measured.
pub fn write_latencies(text: &mut String, latencies: &[(&str, Latency)]) {
    for (what, latency) in latencies.iter().filter(|(_, l)| l.count > 0) {
        *text += &format!("\n{what}: {}", percentiles(latency));
    }
}

/// Seconds from the first attempt to the last opening.
pub fn ramp_seconds(ramp_us: Option<(u64, u64)>) -> f64 {
    ramp_us.map_or(0.0, |(first, last)| (last - first) as f64 / 1e6)
}

/// The first attempt and the last opening of several threads together.
pub fn merge_spans(a: Option<(u64, u64)>, b: Option<(u64, u64)>) -> Option<(u64, u64)> {
    match (a, b) {
        (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
        (a, b) => a.or(b),
    }
}

/// The head of a client's reports before the run.
pub fn head(schema: &str, thread_count: usize, users_asked: u64) -> ClientHead {
    ClientHead {
        schema: schema.to_owned(),
        thread_count,
        users_asked,
        ..ClientHead::default()
    }
}

/// The head during the run: the constant fields of `base` and the engine's counts.
pub fn head_now(
    base: &ClientHead,
    is_final: bool,
    at_us: u64,
    stats: &Stats,
    users_now: u64,
) -> ClientHead {
    // The target of the first failed attempt of each kind.
    let targets = stats.failed_target_by_label();
    let targets = targets.map(|(kind, target)| (kind.to_owned(), target.to_string()));
    ClientHead {
        is_final,
        at_us,
        shard_count: stats.shard_count as usize,
        attempts: stats.attempts,
        opened: stats.opened,
        failed: named(stats.failed_by_label()),
        failed_targets: targets.collect(),
        open_now: stats.open_now,
        connecting_now: stats.connecting_now,
        users_now,
        ..base.clone()
    }
}

/// Appends a line for each of these targets.
pub fn write_first_targets(text: &mut String, targets: &BTreeMap<String, String>) {
    for (kind, target) in targets {
        *text += &format!("\nconnecting failed: first {kind} by {target}");
    }
}
