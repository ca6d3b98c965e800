//! What is noise.
//!
//! Purpose: the middle and the spread of one side's values, and how far apart two middles may lie
//! when nothing has changed.
//! Invariants: medians, so that one bad run moves little. The spread is the *mean* distance from
//! the median: with three runs the median of the distances is next to nothing every few times, and
//! each of these would be an alarm.
//! Must not depend on: what the values are.

use serde::Serialize;

use crate::http::record::median;

/// The values of one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// The one in the middle.
    pub median: f64,
    /// Mean distance from it; `null` for a single value.
    pub mad: Option<f64>,
    /// All of them.
    pub values: Vec<f64>,
}

impl Side {
    /// `None` without a value.
    #[must_use]
    pub fn of(values: Vec<f64>) -> Option<Self> {
        let median = median(values.clone())?;
        let mad = (values.len() > 1).then(|| distances(&values, median) / values.len() as f64);
        Some(Self {
            median,
            mad,
            values,
        })
    }
}

fn distances(values: &[f64], median: f64) -> f64 {
    values.iter().map(|v| (v - median).abs()).sum()
}

/// How many standard errors apart two medians lie in one of 200 pairs of sides between which
/// nothing has changed, by the number of values less two. Simulated with normal values, 20,000
/// pairs each, sides of equal size; `noise_is_rarely_taken_for_a_change` counts again.
const FACTORS: [(usize, f64); 8] = [
    (2, 12.0),
    (3, 6.6),
    (4, 5.2),
    (5, 4.5),
    (6, 4.1),
    (8, 3.9),
    (12, 3.7),
    (18, 3.5),
];

/// From the mean distance to the standard deviation of normal values.
const DEVIATION_OF_DISTANCE: f64 = 1.2533;

/// How far the medians of two sides may lie apart by chance; `None` with fewer than four values in
/// all, which cannot tell.
#[must_use]
pub fn band(before: &Side, after: &Side) -> Option<f64> {
    let (n, m) = (before.values.len(), after.values.len());
    let free = (n + m).checked_sub(2)?;
    let (_, factor) = FACTORS.iter().rev().find(|(least, _)| free >= *least)?;
    let spread = distances(&before.values, before.median) + distances(&after.values, after.median);
    let deviation = DEVIATION_OF_DISTANCE * spread / free as f64;
    Some(factor * deviation * (1.0 / n as f64 + 1.0 / m as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let side = |values: &[f64]| Side::of(values.to_vec()).expect("values");
        let (a, b) = (side(&[10.0, 12.0, 11.0]), side(&[20.0, 21.0, 19.0]));
        assert_eq!((a.median, a.mad), (11.0, Some(2.0 / 3.0)));
        // Four distances of 1, four values free of six: 5.2 * 1.2533 * 1 * sqrt(2/3)
        assert!((band(&a, &b).expect("six values") - 5.321).abs() < 0.001);
        let single = side(&[10.0]);
        assert_eq!((single.mad, band(&single, &single)), (None, None));
        assert_eq!(band(&single, &side(&[1.0, 2.0])), None);
        assert!(band(&single, &a).is_some());
        assert_eq!(Side::of(vec![]), None);
        assert_eq!(band(&side(&[5.0, 5.0]), &side(&[5.0, 5.0])), Some(0.0));
    }
}
