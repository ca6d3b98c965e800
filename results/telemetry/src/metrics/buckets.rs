//! Buckets of a duration, summed from the HdrHistograms of each second.
//!
//! Invariants: counts only grow. A recorded value is in whole microseconds; a bound's count holds
//! no value above the bound, and what it lacks are only values so near below it that the
//! HdrHistogram (3 significant digits) does not tell them from the bound: 0.1% of it.
//! Must not depend on: what is timed, how it is shown.

use hdrhistogram::Histogram;

/// Upper bounds, microseconds.
const BOUNDS_US: [u64; 19] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
];

/// How often what took how long.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Buckets {
    /// Values in each bucket and no lower one; the last is of those above all bounds.
    counts: [u64; BOUNDS_US.len() + 1],
    sum_us: u64,
}

impl Buckets {
    /// Adds what a histogram of microseconds has recorded.
    pub fn add(&mut self, histogram: &Histogram<u64>) {
        for value in histogram.iter_recorded() {
            let highest_us = value.value_iterated_to();
            let count = value.count_since_last_iteration();
            self.counts[BOUNDS_US.partition_point(|bound| *bound < highest_us)] += count;
            self.sum_us += histogram.median_equivalent(highest_us) * count;
        }
    }

    /// Values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all values, seconds; as precise as the histograms were.
    #[must_use]
    pub fn sum_seconds(&self) -> f64 {
        self.sum_us as f64 / 1e6
    }

    /// Upper bound and count of each bucket, seconds; the last one's bound stands for infinity.
    #[must_use]
    pub fn counts(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
        bounds.chain([f64::MAX]).zip(self.counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values recorded up to each bound, as the text shows them.
    fn up_to(buckets: &Buckets, bound_us: u64) -> u64 {
        let counts = buckets.counts().into_iter();
        counts
            .take_while(|(bound, _)| *bound <= bound_us as f64 / 1e6)
            .map(|(_, n)| n)
            .sum()
    }

    #[test]
    fn every_value_is_in_the_bucket_of_the_first_bound_above_it() {
        let mut buckets = Buckets::default();
        let values_us = [
            0,
            1,
            99,
            100,
            101,
            1_000,
            1_001,
            2_499,
            2_600,
            99_000,
            101_000,
            99_000_000,
            3_600_000_000,
        ];
        for value_us in values_us {
            let mut second = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("valid bounds");
            second.record(value_us).expect("in bounds");
            buckets.add(&second);
        }
        assert_eq!(buckets.count(), 13);
        for (bound_us, expected) in [
            (100, 4),
            (250, 5),
            (1_000, 6),
            (2_500, 8),
            (5_000, 9),
            (50_000, 9),
            (100_000, 10),
            (250_000, 11),
            (100_000_000, 12),
        ] {
            assert_eq!(up_to(&buckets, bound_us), expected, "up to {bound_us} us");
        }
        let sum: u64 = values_us.iter().sum();
        assert!((buckets.sum_seconds() / (sum as f64 / 1e6) - 1.0).abs() < 0.001);
    }

    #[test]
    fn value_indistinguishable_from_a_bound_is_not_counted_below_it() {
        let mut second = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("valid bounds");
        // 100,000 us shares a counter with 99,968 to 100,031.
        second.record_n(100_020, 7).expect("in bounds");
        second.record_n(99_900, 1).expect("in bounds");
        let mut buckets = Buckets::default();
        buckets.add(&second);
        assert_eq!((up_to(&buckets, 100_000), up_to(&buckets, 250_000)), (1, 8));
    }
}
