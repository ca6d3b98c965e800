//! What a chart shows: its numbers and the words around them.
//!
//! Purpose: charts as data, so that the drawing, the table under it and the text for people who do
//! not see it are made of the same numbers, and a test can compare all three with the run.
//! Invariants: every value is finite; there are no more than [`ROWS_MAX`] rows, and thinning keeps
//! the least and the largest value of every stretch. A chart without a single value is not made.
//! Must not depend on: pixels, colours, HTML.

use super::units::Unit;

/// No chart keeps more rows: a run of an hour stays a page of under a megabyte.
pub const ROWS_MAX: usize = 600;

/// Either kind of chart.
#[derive(Debug, Clone, PartialEq)]
pub enum Chart {
    /// Values over time or over quantiles.
    Lines(Lines),
    /// Values side by side.
    Bars(Bars),
}

/// What a chart says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caption {
    /// Names it within the page.
    pub id: String,
    /// Its heading.
    pub title: String,
    /// One sentence: what to look for.
    pub guidance: String,
}

impl Caption {
    /// From texts.
    pub fn new(
        id: impl Into<String>,
        title: impl Into<String>,
        guidance: impl Into<String>,
    ) -> Self {
        Self {
            id: id.into(),
            title: title.into(),
            guidance: guidance.into(),
        }
    }
}

/// What the horizontal axis is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Seconds since the start of the run.
    Seconds,
    /// 1 / (1 - quantile), logarithmic, as HdrHistogram draws it.
    Tail,
}

/// How a line looks; also its rank when lines lie on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// The usual one.
    Plain,
    /// Broad, so that another one on top of it leaves both to be seen.
    Broad,
    /// Between the two.
    Middle,
    /// Dashed and grey: what was asked.
    Asked,
    /// Dashed.
    Dashed,
    /// An area on top of those before it.
    Stacked,
}

/// One line of a chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// How it looks.
    pub style: Style,
    /// Which colour.
    pub colour: usize,
}

/// Values that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where on the horizontal axis.
    pub x: f64,
    /// One for each line; `None`: not known there.
    pub values: Vec<Option<f64>>,
}

/// A chart of lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    /// Its words.
    pub caption: Caption,
    /// Unit of the values.
    pub unit: Unit,
    /// The horizontal axis.
    pub axis: Axis,
    /// The lines, the lowest first.
    pub lines: Vec<Line>,
    /// The values, by rising x.
    pub rows: Vec<Row>,
    /// Names and begins of phases on the horizontal axis.
    pub phases: Vec<(f64, String)>,
    /// The vertical axis reaches at least to here.
    pub reach: f64,
}

impl Lines {
    /// A chart of `rows`, thinned, without lines that have no value; `None` if no value is known.
    #[must_use]
    pub fn new(
        caption: Caption,
        unit: Unit,
        axis: Axis,
        lines: Vec<(&str, Style, usize)>,
        mut rows: Vec<Row>,
    ) -> Option<Self> {
        for value in rows.iter_mut().flat_map(|row| &mut row.values) {
            // Larger than any figure of a run, small enough for every computation with it.
            *value = value.filter(|v| v.is_finite()).map(|v| v.clamp(0.0, 1e18));
        }
        rows.retain(|row| row.x.is_finite() && row.x.abs() < 1e12);
        rows.sort_by(|a, b| a.x.total_cmp(&b.x));
        let is_known: Vec<bool> = (0..lines.len())
            .map(|line| {
                rows.iter()
                    .any(|row| row.values.get(line).is_some_and(Option::is_some))
            })
            .collect();
        if !is_known.contains(&true) {
            return None;
        }
        for row in &mut rows {
            let mut is_known = is_known.iter();
            row.values.retain(|_| is_known.next() == Some(&true));
        }
        let mut is_line = is_known.iter();
        let lines = lines.into_iter().filter(|_| is_line.next() == Some(&true));
        let lines = lines.map(|(name, style, colour)| Line {
            name: name.into(),
            style,
            colour,
        });
        Some(Self {
            caption,
            unit,
            axis,
            lines: lines.collect(),
            rows: thinned(rows),
            phases: Vec::new(),
            reach: 0.0,
        })
    }

    /// Least, largest and last value of a line.
    #[must_use]
    pub fn extremes(&self, line: usize) -> Option<Extremes> {
        let mut values = self.rows.iter().filter_map(|row| *row.values.get(line)?);
        let first = values.next()?;
        let start = Extremes {
            min: first,
            max: first,
            last: first,
        };
        Some(values.fold(start, |e, v| Extremes {
            min: e.min.min(v),
            max: e.max.max(v),
            last: v,
        }))
    }

    /// The largest value drawn: of a line, or of what is stacked.
    #[must_use]
    pub fn top(&self) -> f64 {
        let is_stack = self.lines.iter().any(|l| l.style == Style::Stacked);
        let of_row = |row: &Row| {
            let known = row.values.iter().flatten();
            if is_stack {
                known.sum()
            } else {
                known.copied().fold(0.0, f64::max)
            }
        };
        self.rows.iter().map(of_row).fold(self.reach, f64::max)
    }
}

/// Of one line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extremes {
    /// Least.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Last.
    pub last: f64,
}

/// Bars side by side, each with its spread.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    /// Its words.
    pub caption: Caption,
    /// Unit of the values.
    pub unit: Unit,
    /// What the bar's length is.
    pub value_name: &'static str,
    /// What the inner value is, if bars have one.
    pub inner_name: Option<&'static str>,
    /// The bars, the first on top.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bar {
    /// What it stands for.
    pub name: String,
    /// Which colour: the same name has the same one in all charts of a page.
    pub colour: usize,
    /// Its length.
    pub value: f64,
    /// A mark within it: a lower percentile.
    pub inner: Option<f64>,
    /// Least and most of the rounds.
    pub spread: Option<(f64, f64)>,
}

/// The least and the most of several rounds; `None` for one.
#[must_use]
pub fn spread(rounds: &[f64]) -> Option<(f64, f64)> {
    let least = rounds.iter().copied().reduce(f64::min)?;
    let most = rounds.iter().copied().reduce(f64::max)?;
    (rounds.len() > 1).then_some((least, most))
}

impl Bars {
    /// A chart of `bars`; `None` if there are none. Bars that are no number are left out.
    #[must_use]
    pub fn new(
        caption: Caption,
        unit: Unit,
        names: (&'static str, Option<&'static str>),
        mut bars: Vec<Bar>,
    ) -> Option<Self> {
        let is_figure = |v: f64| v.is_finite() && (0.0..1e18).contains(&v);
        bars.retain(|bar| is_figure(bar.value));
        for bar in &mut bars {
            bar.inner = bar.inner.filter(|v| is_figure(*v));
            bar.spread = bar.spread.filter(|(a, b)| is_figure(*a) && is_figure(*b));
        }
        (!bars.is_empty()).then_some(Self {
            caption,
            unit,
            value_name: names.0,
            inner_name: names.1,
            bars,
        })
    }

    /// A bar's figures in words.
    #[must_use]
    pub fn label(&self, bar: &Bar) -> String {
        let value = self.unit.full(bar.value);
        match bar.inner {
            Some(inner) => format!("{} / {value}", self.unit.full(inner)),
            None => value,
        }
    }

    /// The largest value drawn.
    #[must_use]
    pub fn top(&self) -> f64 {
        let reach = |bar: &Bar| {
            bar.spread
                .map_or(bar.value, |(_, most)| most.max(bar.value))
        };
        self.bars.iter().map(reach).fold(0.0, f64::max)
    }
}

/// At most [`ROWS_MAX`] rows: of every stretch those with the least and the largest value of each
/// line, and the ends.
fn thinned(rows: Vec<Row>) -> Vec<Row> {
    if rows.len() <= ROWS_MAX {
        return rows;
    }
    let line_count = rows[0].values.len().max(1);
    let stretches = (ROWS_MAX - 2) / (2 * line_count);
    let length = rows.len().div_ceil(stretches.max(1));
    let mut kept = vec![0, rows.len() - 1];
    for start in (0..rows.len()).step_by(length) {
        let stretch = start..rows.len().min(start + length);
        for line in 0..line_count {
            let known = || {
                stretch
                    .clone()
                    .filter_map(|i| Some((i, (*rows[i].values.get(line)?)?)))
            };
            kept.extend(known().min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i));
            kept.extend(known().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i));
        }
    }
    kept.sort_unstable();
    kept.dedup();
    kept.into_iter().map(|i| rows[i].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(rows: Vec<Row>) -> Option<Lines> {
        let lines = vec![("a", Style::Plain, 0), ("b", Style::Plain, 1)];
        Lines::new(Caption::default(), Unit::Count, Axis::Seconds, lines, rows)
    }

    #[test]
    fn thinning_is_bounded_and_keeps_extremes() {
        let mut rows: Vec<Row> = (0..100_000)
            .map(|i| Row {
                x: f64::from(i),
                values: vec![Some(5.0), (i % 3 == 0).then_some(f64::from(i))],
            })
            .collect();
        rows[54_321].values[0] = Some(1e9);
        rows[54_322].values[0] = Some(0.0);
        let chart = chart(rows.clone()).expect("a chart");
        assert!(chart.rows.len() <= ROWS_MAX, "{}", chart.rows.len());
        assert_eq!(
            chart.extremes(0),
            Some(Extremes {
                min: 0.0,
                max: 1e9,
                last: 5.0
            })
        );
        assert_eq!(
            chart.extremes(1),
            Some(Extremes {
                min: 0.0,
                max: 99_999.0,
                last: 99_999.0
            })
        );
        assert!(
            chart.rows.iter().all(|row| rows[row.x as usize] == *row),
            "rows stay whole"
        );
        assert!(chart.rows.windows(2).all(|w| w[0].x < w[1].x));
    }

    #[test]
    fn non_numbers_are_unknown() {
        let row = |x, v| Row {
            x,
            values: vec![Some(v), None],
        };
        assert_eq!(chart(vec![row(0.0, f64::NAN), row(f64::NAN, 1.0)]), None);
        let odd = chart(vec![
            row(1.0, f64::INFINITY),
            row(0.0, -3.0),
            row(2.0, 1e300),
        ])
        .expect("a chart");
        assert_eq!(
            odd.extremes(0),
            Some(Extremes {
                min: 0.0,
                max: 1e18,
                last: 1e18
            })
        );
        assert_eq!(
            (odd.lines.len(), odd.rows[0].values.len()),
            (1, 1),
            "no line without a value"
        );
    }
}
