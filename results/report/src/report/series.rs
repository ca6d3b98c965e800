//! `series.csv`, read back.
//!
//! Purpose: one-second rows by the names of their columns, and the rates between them.
//! Invariants: a column that is not there, a field that is empty or no number, a row cut short by
//! the writer's death: each is a value that is not known, never an error.
//! Must not depend on: what the columns mean.

use std::collections::BTreeMap;
use std::io;

/// The file; empty if it had no row.
#[derive(Debug, Clone, Default)]
pub struct Series {
    columns: BTreeMap<String, usize>,
    rows: Vec<csv::StringRecord>,
}

impl Series {
    /// Reads all rows that can be read.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(file: impl io::Read) -> io::Result<Self> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file);
        let heads = reader.headers()?.clone();
        Ok(Self {
            columns: heads
                .iter()
                .enumerate()
                .map(|(i, name)| (name.to_string(), i))
                .collect(),
            rows: reader.records().filter_map(Result::ok).collect(),
        })
    }

    /// Rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// A field as it is; empty if it is not there.
    #[must_use]
    pub fn text(&self, row: usize, column: &str) -> &str {
        let field = self
            .columns
            .get(column)
            .and_then(|i| self.rows.get(row)?.get(*i));
        field.unwrap_or_default()
    }

    /// A field as a number.
    #[must_use]
    pub fn number(&self, row: usize, column: &str) -> Option<f64> {
        self.text(row, column)
            .parse()
            .ok()
            .filter(|v: &f64| v.is_finite())
    }

    /// Seconds since the start of the run.
    #[must_use]
    pub fn at(&self, row: usize) -> f64 {
        self.number(row, "at_seconds").unwrap_or(f64::NAN)
    }

    /// The time of the last row.
    #[must_use]
    pub fn end(&self) -> f64 {
        (0..self.len()).map(|row| self.at(row)).fold(0.0, f64::max)
    }

    /// The name of each phase and the time of its first row.
    #[must_use]
    pub fn phases(&self) -> Vec<(f64, String)> {
        let mut phases: Vec<(f64, String)> = Vec::new();
        for row in 0..self.len() {
            let name = self.text(row, "phase");
            if !name.is_empty() && phases.last().is_none_or(|(_, last)| last != name) {
                phases.push((self.at(row), name.to_string()));
            }
        }
        phases
    }

    /// How much `counter` grew a second up to each row, by the bench's clock.
    #[must_use]
    pub fn rate(&self, counter: &str) -> Vec<Option<f64>> {
        self.rate_by(counter, |row| self.number(row, "at_seconds"))
    }

    /// The same for a counter of the client, by the client's clock: rows between two of its reports
    /// say nothing new and have no rate. A record without that clock (before `client_at_us`) is
    /// taken to be new wherever any count of the client is.
    #[must_use]
    pub fn client_rate(&self, counter: &str) -> Vec<Option<f64>> {
        if self.columns.contains_key("client_at_us") {
            return self.rate_by(counter, |row| Some(self.number(row, "client_at_us")? / 1e6));
        }
        const COUNTS: [&str; 4] = [
            "client_attempts",
            "client_opened",
            "client_open",
            "messages_received",
        ];
        let counts = |row| COUNTS.map(|column| self.text(row, column));
        let mut clock = None;
        let clocks: Vec<Option<f64>> = (0..self.len())
            .map(|row| {
                if row == 0 || counts(row) != counts(row - 1) {
                    clock = self.number(row, "at_seconds");
                }
                clock
            })
            .collect();
        self.rate_by(counter, |row| clocks[row])
    }

    fn rate_by(&self, counter: &str, clock: impl Fn(usize) -> Option<f64>) -> Vec<Option<f64>> {
        let mut before: Option<(f64, f64)> = None;
        (0..self.len())
            .map(|row| {
                let now = (clock(row)?, self.number(row, counter)?);
                let (at, count) = *before.get_or_insert(now);
                let seconds = now.0 - at;
                (seconds > 0.0).then(|| {
                    before = Some(now);
                    (now.1 - count).max(0.0) / seconds
                })
            })
            .collect()
    }

    /// The counts in a field of the form `refused:3 timed_out:1`.
    #[must_use]
    pub fn named_counts(&self, row: usize, column: &str) -> BTreeMap<String, f64> {
        let pairs = self.text(row, column).split_whitespace();
        pairs
            .filter_map(|pair| {
                let (name, count) = pair.rsplit_once(':')?;
                Some((name.to_string(), count.parse().ok()?))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(text: &str) -> Series {
        Series::read(text.as_bytes()).expect("reads")
    }

    #[test]
    fn rates_use_the_clock_of_the_counter() {
        let rounded = |rates: Vec<Option<f64>>| -> Vec<Option<f64>> {
            rates.into_iter().map(|rate| rate.map(f64::round)).collect()
        };
        let new = series(
            "at_seconds,client_at_us,client_opened\n1,100000,0\n2,1200000,110\n3,1200000,110\n4,3200000,310\n",
        );
        assert_eq!(
            rounded(new.client_rate("client_opened")),
            [None, Some(100.0), None, Some(100.0)]
        );
        assert_eq!(
            rounded(new.rate("client_opened")),
            [None, Some(110.0), Some(0.0), Some(200.0)]
        );
        let old = series("at_seconds,client_opened\n1,0\n2,110\n3,110\n4,310\n");
        assert_eq!(
            rounded(old.client_rate("client_opened")),
            [None, Some(110.0), None, Some(100.0)]
        );
    }

    #[test]
    fn unreadable_fields_are_unknown() {
        let odd =
            series("at_seconds,phase,n,kinds\n1.5,ramp,x,a:1 b:c d\n2,hold\nnan,hold,7,\n\u{0}\n");
        assert_eq!(
            (odd.number(0, "n"), odd.number(1, "n"), odd.number(2, "n")),
            (None, None, Some(7.0))
        );
        assert_eq!(
            odd.named_counts(0, "kinds"),
            BTreeMap::from([("a".into(), 1.0)])
        );
        assert_eq!(
            (odd.end(), odd.text(9, "n"), odd.number(0, "no such column")),
            (2.0, "", None)
        );
        assert_eq!(odd.phases().len(), 2);
        assert!(series("").is_empty());
    }
}
