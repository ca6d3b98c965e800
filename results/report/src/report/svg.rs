//! From a chart's numbers to SVG.
//!
//! Purpose: the one place that knows plotters. plotters was chosen because it is the best kept of
//! the crates that write plain SVG without a font, a browser or a script; poloto has no logarithmic
//! axis, charming and charts-rs bring a JavaScript engine or fonts.
//! Invariants: colours are names. plotters writes each as an attribute (`INK`, ...), and
//! `style.css` says what it looks like, in light and in dark; so nothing but these may be drawn
//! with. Text stays text. Drawn four times as large as shown, since plotters rounds to whole units.
//! Must not depend on: runs, HTML.

use std::io;
use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::chart::{Axis, Bars, Chart, Lines, Row, Style};
use super::units::trimmed;

/// Text.
const INK: RGBColor = RGBColor(0, 0, 0xf0);
/// Grid and axes.
const GRID: RGBColor = RGBColor(0, 0, 0xf1);
/// What was asked.
const ASKED: RGBColor = RGBColor(0, 0, 0xf2);
/// Begins of phases.
const PHASE: RGBColor = RGBColor(0, 0, 0xf3);
/// Spread and marks on a bar.
const MARK: RGBColor = RGBColor(0, 0, 0xf4);
/// Colours of lines and bars, from 1; `style.css` has as many.
pub const COLOUR_COUNT: usize = 8;

const LINES_SIZE: (u32, u32) = (1600, 880);
const BARS_WIDTH: u32 = 1400;
const BAR_HEIGHT: u32 = 100;
const FONT_SIZE: f64 = 48.0;
/// Of a digit.
const DIGIT_WIDTH: f64 = 0.66 * FONT_SIZE;
/// What plotters divides a font's size by.
const FONT_FACTOR: f64 = 1.24;
/// Of a letter, about; only places are reserved with it.
const LETTER_WIDTH: f64 = 0.6 * FONT_SIZE;

/// A drawing, and where its numbers are.
#[derive(Debug, Clone)]
pub struct Drawing {
    /// The SVG element.
    pub svg: String,
    /// Its width and height.
    pub size: (u32, u32),
    /// Left, top, right, bottom of the frame that values are drawn in.
    pub frame: [i32; 4],
    /// Least x, largest x, least y, largest y of that frame.
    pub range: [f64; 4],
}

type Failed = DrawingAreaErrorKind<io::Error>;

/// Draws a chart.
///
/// # Errors
/// When plotters fails, in its words.
pub fn draw(chart: &Chart) -> Result<Drawing, String> {
    match chart {
        Chart::Lines(lines) => draw_lines(lines),
        Chart::Bars(bars) => draw_bars(bars),
    }
    .map_err(|e| e.to_string())
}

/// The colour of the line or bar with this number, as CSS calls it.
#[must_use]
pub fn colour_name(number: usize) -> String {
    format!("c{}", number % COLOUR_COUNT + 1)
}

fn colour(number: usize) -> RGBColor {
    RGBColor(0, 0, (number % COLOUR_COUNT + 1) as u8)
}

fn font<'a>() -> TextStyle<'a> {
    ("sans-serif", FONT_SIZE * FONT_FACTOR)
        .into_font()
        .color(&INK)
}

/// An axis with round marks of ours; linear, or logarithmic for [`Axis::Tail`].
struct Marked {
    range: (f64, f64),
    is_log: bool,
    marks: Vec<f64>,
}

impl Ranged for Marked {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let place = |v: f64| if self.is_log { v.ln() } else { v };
        let (least, most) = (place(self.range.0), place(self.range.1));
        let share = (place(*value) - least) / (most - least);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.0..self.range.1
    }
}

// The mesh is given the names of marks; plotters asks for a formatter all the same.
impl ValueFormatter<f64> for Marked {}

fn draw_lines(chart: &Lines) -> Result<Drawing, Failed> {
    let first = chart.rows.first().map_or(0.0, |row| row.x);
    let last = chart.rows.last().map_or(0.0, |row| row.x);
    let x = match chart.axis {
        Axis::Seconds => {
            let last = if last > first { last } else { first + 1.0 };
            Marked {
                range: (first, last),
                is_log: false,
                marks: clock_marks(first, last),
            }
        }
        Axis::Tail => {
            let last = last.max(10.0);
            let decades = last.log10().floor() as i32;
            let step = if decades > 4 { 2 } else { 1 };
            let marks = (0..=decades)
                .step_by(step)
                .map(|d| 10_f64.powi(d))
                .collect();
            Marked {
                range: (1.0, last),
                is_log: true,
                marks,
            }
        }
    };
    let marks = marks(chart.top(), if chart.unit.is_whole() { 1.0 } else { 0.0 });
    let y = Marked {
        range: (0.0, marks.last().copied().unwrap_or(1.0)),
        is_log: false,
        marks,
    };
    let range = [x.range.0, x.range.1, y.range.0, y.range.1];
    let mut svg = String::new();
    let frame = lines_into(&mut svg, chart, x, y)?;
    Ok(Drawing {
        svg,
        size: LINES_SIZE,
        frame,
        range,
    })
}

/// Draws axes, phases and lines; returns the frame.
fn lines_into(svg: &mut String, chart: &Lines, x: Marked, y: Marked) -> Result<[i32; 4], Failed> {
    let last = x.range.1;
    let x_name = |x: &f64| match chart.axis {
        Axis::Seconds => clock(*x, last),
        Axis::Tail => quantile(*x),
    };
    let y_names = y
        .marks
        .iter()
        .map(|mark| chart.unit.short(*mark).chars().count());
    let letters = y_names.max().unwrap_or(1);
    let root = SVGBackend::with_string(svg, LINES_SIZE).into_drawing_area();
    let mut context = ChartBuilder::on(&root)
        .margin_top(60)
        .margin_right(if chart.axis == Axis::Tail { 145 } else { 70 })
        .margin_left(8)
        .x_label_area_size(92)
        .y_label_area_size(44 + (letters as f64 * DIGIT_WIDTH) as u32)
        .build_cartesian_2d(x, y)?;
    context
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID.stroke_width(3))
        .axis_style(GRID.stroke_width(3))
        .label_style(font())
        .x_labels(20)
        .x_label_formatter(&x_name)
        .y_labels(20)
        .y_label_formatter(&|y| chart.unit.short(*y))
        .set_all_tick_mark_size(16)
        .draw()?;
    let area = context.plotting_area();
    let (x_frame, y_frame) = area.get_pixel_range();
    let frame = [x_frame.start, y_frame.start, x_frame.end, y_frame.end];

    let mut free_from = f64::from(x_frame.start);
    for (x, name) in &chart.phases {
        let (at, _) = context.backend_coord(&(*x, 0.0));
        let line = vec![(at, y_frame.start), (at, y_frame.end)];
        root.draw(&PathElement::new(line, PHASE.stroke_width(3)))?;
        let width = name.chars().count() as f64 * LETTER_WIDTH;
        // A phase too short for its name goes without.
        if f64::from(at) >= free_from && f64::from(at) + width < f64::from(LINES_SIZE.0) {
            let style = font().pos(Pos::new(HPos::Left, VPos::Bottom));
            root.draw(&Text::new(name.clone(), (at, y_frame.start - 8), style))?;
            free_from = f64::from(at) + width + LETTER_WIDTH / 2.0;
        }
    }
    let mut below = vec![0.0; chart.rows.len()];
    for (number, line) in chart.lines.iter().enumerate() {
        let value = |row: &Row| row.values.get(number).copied().flatten();
        if line.style == Style::Stacked {
            let base: Vec<(f64, f64)> = chart
                .rows
                .iter()
                .zip(&below)
                .map(|(row, b)| (row.x, *b))
                .collect();
            for (sum, row) in below.iter_mut().zip(&chart.rows) {
                *sum += value(row).unwrap_or(0.0);
            }
            let top = chart
                .rows
                .iter()
                .zip(&below)
                .map(|(row, sum)| (row.x, *sum));
            let outline: Vec<(f64, f64)> = top.chain(base.into_iter().rev()).collect();
            area.draw(&Polygon::new(outline, colour(line.colour)))?;
            continue;
        }
        let points: Vec<(f64, f64)> = chart
            .rows
            .iter()
            .filter_map(|row| Some((row.x, value(row)?)))
            .collect();
        if points.is_empty() {
            continue;
        }
        let style = match line.style {
            Style::Broad => colour(line.colour).stroke_width(28),
            Style::Middle => colour(line.colour).stroke_width(16),
            // `style.css` dashes what is this wide.
            Style::Asked => ASKED.stroke_width(6),
            Style::Dashed => colour(line.colour).stroke_width(6),
            Style::Plain | Style::Stacked => colour(line.colour).stroke_width(7),
        };
        area.draw(&PathElement::new(points, style))?;
    }
    root.present()?;
    Ok(frame)
}

fn draw_bars(chart: &Bars) -> Result<Drawing, Failed> {
    let height = BAR_HEIGHT * chart.bars.len() as u32 + 20;
    let width_of = |letters: usize, each: f64| (letters as f64 * each) as i32 + 30;
    let values: Vec<String> = chart.bars.iter().map(|bar| chart.label(bar)).collect();
    let longest = |texts: &mut dyn Iterator<Item = &String>| {
        texts.map(|t| t.chars().count()).max().unwrap_or(1)
    };
    let left = width_of(
        longest(&mut chart.bars.iter().map(|bar| &bar.name)),
        LETTER_WIDTH,
    )
    .min(700);
    let right = BARS_WIDTH as i32 - width_of(longest(&mut values.iter()), DIGIT_WIDTH).min(500);
    let top = chart.top();
    let x_max = if top > 0.0 { top } else { 1.0 };
    let at = |value: f64| left + (value / x_max * f64::from(right - left)).round() as i32;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (BARS_WIDTH, height)).into_drawing_area();
        for (index, (bar, text)) in chart.bars.iter().zip(values).enumerate() {
            let (y, half) = ((index as u32 * BAR_HEIGHT + BAR_HEIGHT / 2 + 10) as i32, 27);
            let colour = colour(bar.colour);
            let rectangle = |to: f64, half: i32| {
                Rectangle::new([(left, y - half), (at(to), y + half)], colour.filled())
            };
            root.draw(&rectangle(bar.value, half))?;
            if let Some(inner) = bar.inner {
                let x = at(inner);
                root.draw(&PathElement::new(
                    vec![(x, y - half), (x, y + half)],
                    MARK.stroke_width(10),
                ))?;
            }
            let mut end = at(bar.value);
            if let Some((least, most)) = bar.spread {
                let (from, to) = (at(least), at(most));
                root.draw(&PathElement::new(
                    vec![(from, y), (to, y)],
                    MARK.stroke_width(5),
                ))?;
                for x in [from, to] {
                    root.draw(&PathElement::new(
                        vec![(x, y - 13), (x, y + 13)],
                        MARK.stroke_width(5),
                    ))?;
                }
                end = end.max(to);
            }
            let middle = |h| font().pos(Pos::new(h, VPos::Center));
            root.draw(&Text::new(
                bar.name.clone(),
                (left - 20, y),
                middle(HPos::Right),
            ))?;
            root.draw(&Text::new(text, (end + 20, y), middle(HPos::Left)))?;
        }
        let axis = vec![(left, 0), (left, height as i32)];
        root.draw(&PathElement::new(axis, GRID.stroke_width(3)))?;
        root.present()?;
    }
    Ok(Drawing {
        svg,
        size: (BARS_WIDTH, height),
        frame: [left, 0, right, height as i32],
        range: [0.0, x_max, 0.0, chart.bars.len() as f64],
    })
}

/// Round values from 0 to at least `top`, at least `step_min` apart.
#[must_use]
pub fn marks(top: f64, step_min: f64) -> Vec<f64> {
    let top = if top > 0.0 { top } else { 1.0 };
    let rough = top / 4.0;
    let decade = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * decade);
    let step = steps
        .into_iter()
        .find(|s| *s >= rough * 0.999)
        .unwrap_or(rough)
        .max(step_min);
    let count = (top / step * 0.999).ceil().clamp(1.0, 20.0) as u32;
    (0..=count).map(|i| f64::from(i) * step).collect()
}

/// Round times from `first` to `last`, seconds.
fn clock_marks(first: f64, last: f64) -> Vec<f64> {
    const STEPS: [f64; 17] = [
        0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0,
        3_600.0, 7_200.0, 14_400.0,
    ];
    let length = last - first;
    let fits = |step: &f64| length / step <= 6.0;
    let step = STEPS
        .into_iter()
        .find(fits)
        .unwrap_or_else(|| (length / 6.0 / 3_600.0).ceil() * 3_600.0);
    // The first second of a run is its start, whatever fraction of it the first sample was taken
    // at.
    let start = ((first - 0.5) / step).ceil() * step;
    (0..=6)
        .map(|i| start + f64::from(i) * step)
        .filter(|x| *x <= last)
        .collect()
}

/// A time on an axis that ends at `top` seconds.
fn clock(x: f64, top: f64) -> String {
    let whole = x.max(0.0).round() as u64;
    match top {
        t if t <= 180.0 => format!("{} s", trimmed(x, 1)),
        t if t <= 7_200.0 => format!("{}:{:02}", whole / 60, whole % 60),
        _ => format!("{} h {:02}", whole / 3_600, whole / 60 % 60),
    }
}

/// The quantile that `x` = 1 / (1 - quantile) stands for.
#[must_use]
pub fn quantile(x: f64) -> String {
    let digits = (x.log10().round() as usize).saturating_sub(2);
    format!("{}%", trimmed(100.0 - 100.0 / x.max(1.0), digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_reach_the_top() {
        assert_eq!(marks(1_000_000.0, 1.0), [0.0, 250e3, 500e3, 750e3, 1e6]);
        assert_eq!(marks(1.0, 1.0), [0.0, 1.0]);
        assert_eq!(marks(0.0, 0.0), [0.0, 0.25, 0.5, 0.75, 1.0]);
        for top in [3.0, 17_423.0, 1e18, 1e-9, 0.37] {
            let found = marks(top, 0.0);
            assert!(
                (4..=7).contains(&found.len()) && *found.last().expect("one") >= top * 0.998,
                "{found:?}"
            );
        }
    }

    #[test]
    fn axes_are_named() {
        assert_eq!(
            [1.0, 10.0, 100.0, 1e3, 1e6].map(quantile),
            ["0%", "90%", "99%", "99.9%", "99.9999%"]
        );
        assert_eq!(
            (
                clock(20.0, 124.0),
                clock(130.0, 600.0),
                clock(7_260.0, 9_000.0)
            ),
            ("20 s".into(), "2:10".into(), "2 h 01".into())
        );
        assert_eq!(clock_marks(0.001, 124.0), [0.0, 30.0, 60.0, 90.0, 120.0]);
        assert_eq!(clock_marks(14.0, 38.0), [15.0, 20.0, 25.0, 30.0, 35.0]);
        assert!(clock_marks(0.0, 1e11).len() > 1);
    }
}
