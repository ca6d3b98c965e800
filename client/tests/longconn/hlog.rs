//! Reading a histogram log, by another program than the one that wrote it: the crate's reader.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

/// The sum of all intervals of each tag. Intervals of a tag do not overlap.
pub fn histograms(text: &str) -> BTreeMap<String, Histogram<u64>> {
    let mut sums = BTreeMap::new();
    for entry in IntervalLogIterator::new(text.as_bytes()) {
        let LogEntry::Interval(interval) = entry.expect("a line of the format") else {
            continue;
        };
        let tag = interval.tag().expect("a tag").as_str().to_owned();
        let (sum, until) = sums
            .entry(tag)
            .or_insert_with(|| (Histogram::new(3).unwrap(), Duration::ZERO));
        let bytes = base64(interval.encoded_histogram());
        let part: Histogram<u64> = Deserializer::new()
            .deserialize(&mut Cursor::new(bytes))
            .expect("a histogram");
        sum.add(part).unwrap();
        assert!(interval.start_timestamp() >= *until);
        *until = interval.start_timestamp();
    }
    let sums = sums.into_iter();
    sums.map(|(tag, (sum, _))| (tag, sum)).collect()
}

/// Bytes of a base64 text (RFC 4648, section 4).
fn base64(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut bit_count) = (Vec::new(), 0u32, 0);
    for letter in text.bytes().filter(|b| *b != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => panic!("no letter of base64: {other}"),
        };
        bits = bits << 6 | u32::from(value);
        bit_count += 6;
        if bit_count >= 8 {
            bit_count -= 8;
            bytes.push((bits >> bit_count) as u8);
        }
    }
    bytes
}
