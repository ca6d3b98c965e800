//! The URLs that users request, and in which order: those of `--target` or `--targets-file`.
//!
//! Each request has the next URL in turn, whichever user sends it; of URLs with weights, each has its share of the turns, spread evenly
//! (smooth weighted round robin). Each thread takes turns of its own.
//! Invariants: a turn's URL is found in constant time; every URL has a turn.
//! Must not depend on: connections, addresses.

use std::sync::Arc;

use super::request::Batch;
use super::url::{self, Url};

/// Most URLs.
pub const URL_COUNT_MAX: usize = 10_000;
/// Most turns of all URLs together, after which they repeat.
const TURN_COUNT_MAX: u64 = 1 << 20;

/// What is requested, in turns.
#[derive(Debug, Clone)]
pub struct Mix {
    batches: Arc<[Batch]>,
    /// Numbers of batches.
    turns: Arc<[u16]>,
    next: usize,
}

impl Mix {
    /// All requests are the same.
    pub fn one(batch: Batch) -> Self {
        Mix {
            batches: [batch].into(),
            turns: [0].into(),
            next: 0,
        }
    }

    /// Batches of equal counts by weight.
    ///
    /// # Errors
    /// One line when there are none or too many, or the turns they share are too many.
    pub fn new(batches: Vec<(Batch, u64)>) -> Result<Self, anyhow::Error> {
        if batches.is_empty() || batches.len() > URL_COUNT_MAX {
            anyhow::bail!(
                "{} URLs are given; next: give 1 to {URL_COUNT_MAX}",
                batches.len()
            );
        }
        let divisor = batches.iter().fold(0, |a, (_, weight)| gcd(a, *weight));
        let weights: Vec<u64> = batches.iter().map(|(_, w)| w / divisor.max(1)).collect();
        let turn_count = weights.iter().try_fold(0_u64, |sum, w| sum.checked_add(*w));
        let Some(turn_count) = turn_count.filter(|count| *count <= TURN_COUNT_MAX) else {
            anyhow::bail!(
                "the weights of the URLs add up to more than {TURN_COUNT_MAX}; next: give smaller ones in the same proportion"
            );
        };
        Ok(Mix {
            batches: batches.into_iter().map(|(batch, _)| batch).collect(),
            turns: turns(&weights, turn_count).into(),
            next: 0,
        })
    }

    /// Begins where thread `share` of `share_count` does, so that few requests are not all the first URL's.
    pub fn start_at(&mut self, share: usize, share_count: usize) {
        self.next = self.turns.len() * share / share_count;
    }

    /// The number of the batch whose turn it is.
    #[inline]
    pub fn take_turn(&mut self) -> u16 {
        let number = self.turns[self.next];
        self.next += 1;
        if self.next == self.turns.len() {
            self.next = 0;
        }
        number
    }

    /// The batch of a turn.
    #[inline]
    pub fn batch(&self, number: u16) -> &Batch {
        &self.batches[usize::from(number)]
    }

    /// Requests of a batch.
    #[inline]
    pub fn count(&self) -> u8 {
        self.batches[0].count()
    }

    /// Different batches.
    pub fn batch_count(&self) -> usize {
        self.batches.len()
    }
}

/// Turns of URLs with these weights, each as evenly spread as the others allow: turn k of n of a URL belongs at (k + 1/2) / n.
fn turns(weights: &[u64], turn_count: u64) -> Vec<u16> {
    let mut due: Vec<(u64, u16)> = Vec::with_capacity(turn_count as usize);
    for (number, weight) in weights.iter().enumerate() {
        // Twice as fine as a turn, and both factors are below 2^21.
        due.extend((0..*weight).map(|k| ((2 * k + 1) * turn_count / weight, number as u16)));
    }
    due.sort_unstable();
    due.into_iter().map(|(_, number)| number).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Parses a file of `URL [WEIGHT]` lines. Empty lines and those that begin with `#` say nothing.
///
/// # Errors
/// The number of the first bad line, and what is wrong with it.
pub fn parse_targets(text: &str) -> Result<Vec<(Url, u64)>, String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (url, weight) = line.split_once([' ', '\t']).unwrap_or((line, "1"));
        let weight = holdfast_units::parse::count_in::<u64>(1..=TURN_COUNT_MAX)(weight.trim());
        let target = url::parse(url).and_then(|url| Ok((url, weight?)));
        found.push(target.map_err(|e| format!("line {number}: {e}"))?);
    }
    match found.is_empty() {
        true => Err("no line has a URL; next: give one as http://192.0.2.1:8080/path".to_owned()),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::{Parts, render};

    fn mix(weights: &[u64]) -> Result<Mix, anyhow::Error> {
        let url = url::parse("http://a/").unwrap();
        let parts = Parts {
            method: "GET".to_owned(),
            count: 1,
            ..Parts::default()
        };
        let batch = render(&url, &parts).unwrap();
        Mix::new(weights.iter().map(|weight| (batch, *weight)).collect())
    }

    fn taken(weights: &[u64], count: usize) -> Vec<u16> {
        let mut mix = mix(weights).unwrap();
        (0..count).map(|_| mix.take_turn()).collect()
    }

    #[test]
    fn urls_take_turns_by_weight_and_evenly() {
        assert_eq!(taken(&[1], 3), [0, 0, 0]);
        assert_eq!(taken(&[1, 1, 1], 7), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(taken(&[300, 100], 8), [0, 0, 1, 0, 0, 0, 1, 0]);
        let many = taken(&[50, 30, 20, 1], 1_010);
        for (number, count) in [(0, 500), (1, 300), (2, 200), (3, 10)] {
            assert_eq!(many.iter().filter(|n| **n == number).count(), count);
        }
        assert!(mix(&[]).is_err());
        assert!(mix(&[TURN_COUNT_MAX, 1]).is_err());
        assert!(mix(&[u64::MAX, u64::MAX - 1]).is_err());
        assert_eq!(taken(&[1 << 40, 1 << 40], 2), [0, 1], "in proportion");
    }

    #[test]
    fn files_of_urls_are_read_and_bad_lines_named() {
        let text = "# mix\nhttp://a/x\n\n  http://a/y\t3 \r\na:80/z 1k\n";
        let found = parse_targets(text).unwrap();
        let found: Vec<_> = found.iter().map(|(url, w)| (&*url.path, *w)).collect();
        assert_eq!(found, [("/x", 1), ("/y", 3), ("/z", 1_000)]);
        for (text, words) in [
            ("", "no line"),
            ("# only\n\n", "no line"),
            ("http://a/\nhttps://a/\n", "line 2: https"),
            ("http://a/ 0", "line 1: 0 is out of range"),
            ("http://a/ many", "line 1: 'many' is not a count"),
            ("http://a/ 1 2", "line 1: '1 2' is not a count"),
            ("http://a/\n\n\nnot a url\n", "line 4: "),
        ] {
            let error = parse_targets(text).unwrap_err();
            assert!(
                error.starts_with(words) && error.contains("; next: "),
                "{text:?}: {error}"
            );
        }
    }
}
