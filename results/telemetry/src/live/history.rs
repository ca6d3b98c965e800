//! From snapshots to rates, and to curves of the whole run.
//!
//! Invariants: memory is bounded: a curve has at most [`POINTS_MAX`] points, and when these are
//! used up each two become one; all curves have the same points in time. A counter that went back
//! (another process counts now) has no rate.
//! Must not depend on: what is counted, how it is shown.

use std::collections::BTreeMap;

use super::snapshot::Snapshot;

/// Points of a curve. Even, and more than a terminal has columns.
pub const POINTS_MAX: usize = 1_024;

/// Counters that have a curve: of the opening, and of the work done.
const CURVED: usize = 2;

/// What has been so far.
#[derive(Debug, Default)]
pub struct History {
    before: Option<Snapshot>,
    rates: BTreeMap<&'static str, f64>,
    grown: BTreeMap<(&'static str, String), u64>,
    curves: Vec<(&'static str, Vec<f64>)>,
    /// Snapshots in a whole point, and in the last one.
    whole: u32,
    last: u32,
}

impl History {
    /// Takes note of the next snapshot.
    pub fn add(&mut self, now: &Snapshot) {
        let before = self.before.replace(now.clone()).unwrap_or_default();
        self.grown.clear();
        for counter in &now.counters {
            let earlier = before.counters.iter().find(|c| c.name == counter.name);
            let grown = earlier.and_then(|c| counter.total.checked_sub(c.total));
            let seconds = earlier.map_or(0.0, |c| counter.at_seconds - c.at_seconds);
            match grown {
                Some(grown) if seconds > 0.0 => {
                    self.rates.insert(counter.name, grown as f64 / seconds);
                }
                // Nothing new was said: what was true is the best there is.
                Some(_) if seconds == 0.0 => {}
                _ => {
                    self.rates.remove(counter.name);
                }
            }
        }
        for group in &now.groups {
            let earlier = before.groups.iter().find(|g| g.name == group.name);
            for (kind, total) in &group.counts {
                let earlier = earlier.and_then(|g| g.counts.get(kind)).unwrap_or(&0);
                self.grown
                    .insert((group.name, kind.clone()), total.saturating_sub(*earlier));
            }
        }
        let open = now.open.map(|open| ("open", open as f64));
        let mut values: Vec<_> = open.into_iter().collect();
        values.extend(
            now.counters
                .iter()
                .take(CURVED)
                .map(|c| (c.name, self.rate(c.name).unwrap_or(0.0))),
        );
        values.extend(now.groups.iter().filter(|g| g.is_bad).map(|group| {
            let kinds = group.counts.keys();
            let grown = kinds.map(|kind| self.grown(group.name, kind)).sum::<u64>();
            (group.name, grown as f64)
        }));
        self.push(&values);
    }

    /// Growth a second of a counter between the last two snapshots.
    #[must_use]
    pub fn rate(&self, counter: &str) -> Option<f64> {
        self.rates.get(counter).copied()
    }

    /// Growth of one kind of a group between the last two snapshots.
    #[must_use]
    pub fn grown(&self, group: &'static str, kind: &str) -> u64 {
        let key = (group, kind.to_owned());
        self.grown.get(&key).copied().unwrap_or(0)
    }

    /// Names of the curves worth a look: the connections open, then the rates that were not always
    /// zero.
    #[must_use]
    pub fn curves(&self) -> Vec<&'static str> {
        let all = self.curves.iter();
        all.filter(|(name, points)| *name == "open" || points.iter().any(|p| *p > 0.0))
            .map(|(name, _)| *name)
            .collect()
    }

    /// The whole run of one curve in at most `columns` columns, each the mean of its time.
    #[must_use]
    pub fn curve(&self, name: &str, columns: usize) -> Vec<f64> {
        let Some((_, points)) = self.curves.iter().find(|(n, _)| *n == name) else {
            return Vec::new();
        };
        let columns = columns.min(points.len());
        (0..columns)
            .map(|i| {
                let part = &points[i * points.len() / columns..(i + 1) * points.len() / columns];
                part.iter().sum::<f64>() / part.len() as f64
            })
            .collect()
    }

    fn push(&mut self, values: &[(&'static str, f64)]) {
        let point_count = self.curves.first().map_or(0, |(_, points)| points.len());
        for (name, _) in values {
            if self.curves.iter().all(|(known, _)| known != name) {
                self.curves.push((name, vec![0.0; point_count]));
            }
        }
        let is_new = self.last == self.whole;
        if is_new && point_count == POINTS_MAX {
            for (_, points) in &mut self.curves {
                *points = points
                    .chunks(2)
                    .map(|two| (two[0] + two[1]) / 2.0)
                    .collect();
            }
        }
        if is_new {
            self.whole = if point_count == POINTS_MAX {
                self.whole * 2
            } else {
                self.whole.max(1)
            };
            self.last = 0;
        }
        for (name, points) in &mut self.curves {
            let value = values
                .iter()
                .find(|(n, _)| n == name)
                .map_or(0.0, |(_, v)| *v);
            match points.last_mut() {
                Some(mean) if !is_new => {
                    *mean += (value - *mean) / f64::from(self.last + 1);
                }
                _ => points.push(value),
            }
        }
        self.last += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{Counter, Group};
    use super::*;

    fn at(seconds: f64, open: u64, opened: u64) -> Snapshot {
        Snapshot {
            seconds,
            open: Some(open),
            counters: vec![Counter::new("opened", opened, seconds)],
            ..Snapshot::default()
        }
    }

    #[test]
    fn rates_use_the_counters_clock_and_are_unknown_after_a_restart() {
        let mut history = History::default();
        history.add(&at(1.0, 0, 100));
        assert_eq!(history.rate("opened"), None);
        history.add(&at(3.0, 0, 500));
        assert_eq!(history.rate("opened"), Some(200.0));
        history.add(&Snapshot {
            seconds: 3.9,
            ..at(3.0, 0, 500)
        });
        assert_eq!(history.rate("opened"), Some(200.0), "the same report again");
        history.add(&at(4.0, 0, 10));
        assert_eq!(history.rate("opened"), None);
        assert_eq!(history.rate("messages"), None);
    }

    #[test]
    fn recent_failures_are_separate_from_earlier_ones() {
        let failed = |n| Snapshot {
            groups: vec![Group::bad("failed", [("refused".to_owned(), n)].into())],
            ..at(n as f64, 0, 0)
        };
        let mut history = History::default();
        history.add(&failed(3));
        assert_eq!(history.grown("failed", "refused"), 3);
        history.add(&failed(8));
        assert_eq!(history.grown("failed", "refused"), 5);
        assert_eq!(history.curve("failed", 10), [3.0, 5.0]);
    }

    #[test]
    fn history_has_bounded_memory_and_keeps_its_shape() {
        let mut history = History::default();
        let last = 10 * POINTS_MAX as u64;
        for second in 0..last {
            history.add(&at(second as f64, second, 0));
        }
        let curve = history.curve("open", usize::MAX);
        assert!(curve.len() <= POINTS_MAX && curve.len() > POINTS_MAX / 2);
        assert!(curve.windows(2).all(|two| two[0] < two[1]), "it only grew");
        let four = history.curve("open", 4);
        for (i, value) in four.iter().enumerate() {
            let middle = (i as f64 + 0.5) * last as f64 / 4.0;
            assert!((value - middle).abs() < last as f64 / 50.0, "{four:?}");
        }
    }

    #[test]
    fn late_curve_shares_the_time_axis() {
        let mut history = History::default();
        for second in 0..5 {
            history.add(&Snapshot {
                seconds: second.into(),
                open: Some(7),
                ..Snapshot::default()
            });
        }
        history.add(&at(5.0, 7, 0));
        assert_eq!(history.curve("opened", 100).len(), 6);
        assert_eq!(history.curve("open", 100), [7.0; 6]);
        assert!(history.curve("nothing", 100).is_empty());
    }
}
