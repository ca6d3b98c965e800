//! The workers' histograms as one: added bucket by bucket, so that percentiles are those of all
//! users together.
//!
//! Invariants: what can be read is merged exactly; a log that cannot be read is an error, never a
//! gap.
//! Must not depend on: what is measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use holdfast_report::report::histograms::Histograms;
use holdfast_telemetry::wire::Latency;

/// One histogram for each tag.
#[derive(Debug, Default)]
pub struct Merged(BTreeMap<String, Histogram<u64>>);

/// Reads `logs` in HdrHistogram's log format and adds up what has the same tag.
///
/// # Errors
/// The log that cannot be read, and why.
pub fn merge(logs: &[PathBuf]) -> Result<Merged, String> {
    let mut merged = Merged::default();
    for path in logs {
        let say = |what: &dyn std::fmt::Debug| format!("{}: {what:?}", path.display());
        let file = fs::File::open(path).map_err(|e| say(&e))?;
        let log = Histograms::read(file).map_err(|e| say(&e))?;
        if log.unread_lines > 0 {
            return Err(format!(
                "{}: {} lines cannot be read",
                path.display(),
                log.unread_lines
            ));
        }
        for (tag, recorded) in log.tags {
            match merged.0.get_mut(&tag) {
                Some(sum) => sum.add(&recorded.whole).map_err(|e| say(&e))?,
                None => drop(merged.0.insert(tag, recorded.whole)),
            }
        }
    }
    Ok(merged)
}

impl Merged {
    /// Percentiles of a tag; nothing if it has none.
    #[must_use]
    pub fn latency(&self, tag: &str) -> Latency {
        self.0.get(tag).map_or(Latency::default(), |h| Latency {
            count: h.len(),
            p50: h.value_at_quantile(0.5),
            p99: h.value_at_quantile(0.99),
            p999: h.value_at_quantile(0.999),
            max: h.max(),
        })
    }

    /// Writes one line for each tag, over the whole run.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path, length: Duration) -> Result<(), String> {
        let say = |what: &dyn std::fmt::Debug| format!("{}: {what:?}", path.display());
        let mut out = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("all workers, merged; microseconds")
            .with_max_value_divisor(1.0)
            .begin_log_with(&mut out, &mut serializer)
            .map_err(|e| say(&e))?;
        for (tag, histogram) in &self.0 {
            log.write_histogram(histogram, Duration::ZERO, length, Tag::new(tag))
                .map_err(|e| say(&e))?;
        }
        fs::write(path, out).map_err(|e| say(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str, values: impl IntoIterator<Item = u64>) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("holdfast-hlog-{}-{name}", std::process::id()));
        let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("bounds");
        for value in values {
            histogram.record(value).expect("within bounds");
        }
        Merged([("connect".to_string(), histogram)].into())
            .write(&path, Duration::from_secs(1))
            .expect("writes");
        path
    }

    #[test]
    fn percentiles_are_of_all_values_and_no_average() {
        // 990 fast ones here, 10 slow ones there: the median of both is fast, the largest slow.
        let logs = [
            log("fast", 1..=990),
            log("slow", (1..=10).map(|n| n * 1_000_000)),
        ];
        let merged = merge(&logs).expect("reads");
        let all = merged.latency("connect");
        assert_eq!((all.count, all.p50), (1_000, 500));
        assert!((989..=990).contains(&all.p99), "{all:?}");
        assert!((9_990_000..=10_010_000).contains(&all.max), "{all:?}");
        assert_eq!(merged.latency("other"), Latency::default());
        fs::write(&logs[0], "#[StartTime: x\nnonsense\n").expect("writes");
        assert!(merge(&logs).is_err());
        logs.iter().for_each(|path| drop(fs::remove_file(path)));
    }
}
