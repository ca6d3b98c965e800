//! Latencies by percentile, of records that know no more of them than four points.
//!
//! Invariants: the points are those of the record; between them a line is no measurement.
//! Must not depend on: what was measured.

use super::chart::{Axis, Caption, Chart, Lines, Row, Style};
use super::units::Unit;

use holdfast_telemetry::wire::Latency;

/// One line.
#[derive(Debug, Clone)]
pub struct Curve<'a> {
    /// Its name in the legend.
    pub name: String,
    /// How it looks.
    pub style: Style,
    /// Which colour.
    pub colour: usize,
    /// Its points.
    pub latency: &'a Latency,
}

/// A chart of `curves` at p50, p99, p99.9 and the largest; `None` without any.
pub fn chart(caption: Caption, curves: &[Curve<'_>]) -> Option<Chart> {
    let of_all = |x, figure: fn(&Latency) -> u64| Row {
        x,
        values: curves
            .iter()
            .map(|c| Some(figure(c.latency) as f64))
            .collect(),
    };
    let largest = curves.iter().enumerate().map(|(line, c)| {
        let mut values = vec![None; curves.len()];
        values[line] = Some(c.latency.max as f64);
        Row {
            x: (c.latency.count as f64).max(1_000.0),
            values,
        }
    });
    let quantiles = [
        of_all(2.0, |l| l.p50),
        of_all(100.0, |l| l.p99),
        of_all(1_000.0, |l| l.p999),
    ];
    let rows = quantiles.into_iter().chain(largest).collect();
    let lines = curves
        .iter()
        .map(|c| (c.name.as_str(), c.style, c.colour))
        .collect();
    Lines::new(caption, Unit::Micros, Axis::Tail, lines, rows).map(Chart::Lines)
}
