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
        failed_by_target: stats
            .failed_by_target_and_label()
            .map(|(target, counts)| (target.to_string(), counts_by_name(counts)))
            .collect(),
        open_now: stats.open_now,
        connecting_now: stats.connecting_now,
        users_now,
        ..base.clone()
    }
}

/// Most targets that a summary has a line for.
const TARGET_LINES_MAX: usize = 16;

/// Appends lines that name the targets of failed attempts: the first of each kind, and, of several
/// targets, what failed to each.
pub fn write_failed_targets(text: &mut String, head: &ClientHead) {
    for (kind, target) in &head.failed_targets {
        *text += &format!("\nconnecting failed: first {kind} by {target}");
    }
    if head.failed_by_target.len() > 1 {
        write_target_rows(text, "connecting failed", &head.failed_by_target);
    }
}

/// Appends a line for each target, with its counts by name.
pub fn write_target_rows(
    text: &mut String,
    what: &str,
    targets: &BTreeMap<String, BTreeMap<String, u64>>,
) {
    for (target, counts) in targets.iter().take(TARGET_LINES_MAX) {
        let counts = counts
            .iter()
            .map(|(name, n)| format!("{name} {}", grouped(*n)));
        let counts = counts.collect::<Vec<_>>().join(", ");
        *text += &format!("\n{what}: {target}: {counts}");
    }
    if let more @ 1.. = targets.len().saturating_sub(TARGET_LINES_MAX) {
        *text += &format!("\n{what}: {more} more targets; next: see --json FILE");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_lines_of_bounded_number() {
        let counts = |n| BTreeMap::from([("refused".to_owned(), n), ("timed_out".to_owned(), 1)]);
        let mut failed = head("", 1, 1);
        failed
            .failed_targets
            .insert("refused".to_owned(), "t10".to_owned());
        failed
            .failed_by_target
            .insert("t10".to_owned(), counts(2_000));
        let text = |head: &ClientHead| {
            let mut text = String::new();
            write_failed_targets(&mut text, head);
            text
        };
        let first = "\nconnecting failed: first refused by t10";
        assert_eq!(text(&failed), first);
        failed.failed_by_target.insert("t11".to_owned(), counts(3));
        assert_eq!(
            text(&failed),
            format!(
                "{first}\nconnecting failed: t10: refused 2,000, timed_out 1\nconnecting failed: t11: refused 3, timed_out 1"
            )
        );
        for number in 12..40 {
            failed
                .failed_by_target
                .insert(format!("t{number}"), counts(1));
        }
        let text = text(&failed);
        assert_eq!(text.lines().count(), 1 + 1 + TARGET_LINES_MAX + 1);
        assert!(text.ends_with("\nconnecting failed: 14 more targets; next: see --json FILE"));
    }
}
