//! `histograms.hlog`, read back.
//!
//! Purpose: HdrHistogram's interval log as percentiles over time and one whole histogram for each
//! tag.
//! Invariants: read line by line, so a day's log takes no more memory than its longest line; a line
//! that cannot be read is counted and left out.
//! Must not depend on: what a tag means.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

/// Everything of one tag.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Percentiles of each interval that has values.
    pub intervals: Vec<Interval>,
    /// All values together.
    pub whole: Histogram<u64>,
}

/// Percentiles of one interval, in the log's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// Begin, milliseconds since the log's.
    pub start_ms: u64,
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Largest value.
    pub max: u64,
}

/// The file.
#[derive(Debug, Clone, Default)]
pub struct Histograms {
    /// By tag.
    pub tags: BTreeMap<String, Recorded>,
    /// Lines that could not be read.
    pub unread_lines: u64,
}

impl Histograms {
    /// Reads all lines that can be read.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(file: impl io::Read) -> io::Result<Self> {
        let mut found = Self::default();
        let mut deserializer = Deserializer::new();
        let mut file = BufReader::new(file);
        let mut line = Vec::new();
        while file.read_until(b'\n', &mut line)? > 0 {
            for entry in IntervalLogIterator::new(&line) {
                let is_read = match entry {
                    Ok(LogEntry::Interval(interval)) => {
                        let tag = interval.tag().map_or("", |tag| tag.as_str()).to_string();
                        let start = interval.start_timestamp().as_millis();
                        STANDARD
                            .decode(interval.encoded_histogram())
                            .ok()
                            .and_then(|bytes| deserializer.deserialize(&mut bytes.as_slice()).ok())
                            .is_some_and(|histogram| found.add(tag, start as u64, &histogram))
                    }
                    Ok(_) => true,
                    Err(_) => false,
                };
                found.unread_lines += u64::from(!is_read);
            }
            line.clear();
        }
        Ok(found)
    }

    /// False if it cannot be added to what is there.
    fn add(&mut self, tag: String, start_ms: u64, of: &Histogram<u64>) -> bool {
        let recorded = self.tags.entry(tag).or_insert_with(|| Recorded {
            intervals: Vec::new(),
            whole: Histogram::new_from(of),
        });
        if recorded.whole.add(of).is_err() {
            return false;
        }
        if !of.is_empty() {
            recorded.intervals.push(Interval {
                start_ms,
                p50: of.value_at_quantile(0.5),
                p99: of.value_at_quantile(0.99),
                p999: of.value_at_quantile(0.999),
                max: of.max(),
            });
        }
        true
    }
}

/// The percentile curve: 1 / (1 - quantile) and the value there, ten points a decade, the largest
/// value last. Half, 99% and 99.9% are among them, so that the figures of `run.json` can be found
/// in it.
#[must_use]
pub fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    const STEPS: [f64; 10] = [1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.3, 8.0];
    let count = histogram.len() as f64;
    let all = (0..18).flat_map(|decade| STEPS.map(|step| step * 10_f64.powi(decade)));
    let mut points: Vec<(f64, f64)> = all
        .take_while(|x| *x < count)
        .map(|x| (x, histogram.value_at_quantile(1.0 - 1.0 / x) as f64))
        .collect();
    if !histogram.is_empty() {
        points.push((count, histogram.max() as f64));
    }
    points
}
