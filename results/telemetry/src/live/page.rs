//! A moment of a run on a whole terminal.
//!
//! Invariants: everything is drawn inside the area, whatever its size; what finds no room is left
//! out from the bottom of the figures, the least important first, never the first and the last
//! line. Colours only where they are wanted.
//! Must not depend on: terminals, keys, how figures came about.

use holdfast_sysctl::grouped;
use ratatui::Frame;
use ratatui::layout::{Alignment, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::bar;
use ratatui::text::{Line, Span as Piece};
use ratatui::widgets::{Paragraph, Sparkline};

use super::format::{Glyphs, clock, maybe_micros, per_connection};
use super::history::History;
use super::machine::MachineSample;
use super::snapshot::{Group, Snapshot, Span};
use crate::units::bytes;

/// The least area a page makes sense in, columns and rows.
pub const LEAST: (u16, u16) = (40, 10);

/// Columns of the names on the left.
const NAMES: u16 = 13;
/// Rows kept for curves where there are more figures than rows.
const CURVES_LEAST: u16 = 3;
/// Lines one name may take.
const FOLDS_MAX: usize = 3;
/// A curve is no taller than this.
const CURVE_ROWS_MAX: u16 = 8;
/// A core this busy has nothing left, percent.
const FULL: f64 = 92.0;

/// Everything on a page.
#[derive(Debug)]
pub struct Page<'a> {
    /// The figures now.
    pub now: &'a Snapshot,
    /// Those before.
    pub history: &'a History,
    /// The machine.
    pub machine: &'a MachineSample,
    /// The last remark, if there was one.
    pub note: Option<&'a str>,
    /// What curves are made of.
    pub glyphs: Glyphs,
    /// Whether colours are wanted.
    pub is_coloured: bool,
}

impl Page<'_> {
    /// Draws it.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let row = |y: u16, height: u16| Rect::new(area.x, area.y + y, area.width, height);
        self.draw_head(frame, row(0, 1));
        let body_rows = area.height.saturating_sub(2);
        let curves = self.history.curves();
        let mut figures = self.figures(area.width);
        let kept = CURVES_LEAST.min(curves.len() as u16);
        let figure_rows = (figures.len() as u16).min(body_rows.saturating_sub(kept));
        figures.truncate(figure_rows.into());
        frame.render_widget(Paragraph::new(figures), row(1, figure_rows));
        let mut y = 1 + figure_rows;
        let mut left = body_rows - figure_rows;
        for (i, name) in curves.iter().enumerate() {
            let height =
                (left / (curves.len() - i).min(left.max(1).into()) as u16).min(CURVE_ROWS_MAX);
            if height == 0 {
                break;
            }
            self.draw_curve(frame, name, row(y, height));
            (y, left) = (y + height, left - height);
        }
        let keys = Line::from(" l: one line   q, Ctrl-C: end in order".dim());
        frame.render_widget(keys, row(area.height - 1, 1));
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let now = self.now;
        let mut right = format!("{}  {}", now.phase, clock(now.seconds));
        if let Some(left) = now.left_seconds {
            right += &format!("  {} left", clock(left));
        }
        let right_columns = (right.len() as u16).min(area.width);
        let columns = usize::from(area.width - right_columns).saturating_sub(2);
        let title: String = now.title.chars().take(columns).collect();
        frame.render_widget(Line::from(title.bold()), area);
        frame.render_widget(Line::from(right.bold()).alignment(Alignment::Right), area);
    }

    /// The figures, the most important first.
    fn figures(&self, width: u16) -> Vec<Line<'static>> {
        let mut lines = Vec::new();
        if !self.now.part.is_empty() {
            lines.push(named("part", vec![self.now.part.clone().into()]));
        }
        lines.extend(self.now.open.map(|open| self.connections(open, width)));
        lines.extend(self.counters(width));
        let groups = self.now.groups.iter().enumerate();
        // The first of them also says that there is nothing bad; the others wait at the end while
        // they are empty.
        let (full, empty): (Vec<_>, Vec<_>) = groups.partition(|(i, g)| *i == 0 || g.total() > 0);
        let folded_group =
            |(_, group): (usize, &Group)| folded(group.name, self.kinds(group), width);
        lines.extend(full.into_iter().flat_map(folded_group));
        lines.extend(self.times());
        lines.extend(self.memory());
        lines.extend(folded("cores", self.cores(), width));
        lines.extend(folded("sockets", self.sockets(), width));
        lines.extend(empty.into_iter().flat_map(folded_group));
        if let Some(note) = self.note {
            lines.push(named("note", vec![note.to_owned().into()]));
        }
        lines
    }

    fn connections(&self, open: u64, width: u16) -> Line<'static> {
        let Some(target) = self.now.target else {
            return named(
                "connections",
                vec![format!("{} open", grouped(open)).into()],
            );
        };
        let share = open as f64 / target.max(1) as f64;
        let text = format!(
            "{} of {} open  {:>3.0}%  ",
            grouped(open),
            grouped(target),
            share * 100.0
        );
        let columns = usize::from(width).saturating_sub(usize::from(NAMES) + text.len() + 1);
        let bar = Piece::raw(self.glyphs.bar(share, columns.min(60)));
        named(
            "connections",
            vec![text.into(), self.coloured(bar, Color::Green)],
        )
    }

    fn counters(&self, width: u16) -> impl Iterator<Item = Line<'static>> + '_ {
        let (totals, rates) = if width < 60 { (11, 9) } else { (14, 11) };
        self.now.counters.iter().map(move |counter| {
            let mut text = format!("{:>totals$}", grouped(counter.total));
            if let Some(rate) = self.history.rate(counter.name) {
                text += &format!("  {:>rates$}/s", holdfast_units::rate(rate));
            }
            if let Some(asked) = counter.target_per_second {
                text += &format!(" of {}/s asked", holdfast_units::rate(asked));
            }
            named(counter.name, vec![text.into()])
        })
    }

    fn kinds(&self, group: &Group) -> Vec<Piece<'static>> {
        let total = group.total();
        let mut sum = Piece::raw(format!("{:>14}", grouped(total)));
        if group.is_bad && total > 0 {
            sum = self.coloured(sum.bold(), Color::Red);
        }
        let kinds = group.counts.iter().filter(|(_, count)| **count > 0);
        let kinds = kinds.map(|(kind, count)| {
            let grown = match self.history.grown(group.name, kind) {
                0 => String::new(),
                grown => format!(" (+{})", grouped(grown)),
            };
            format!("{kind} {}{grown}", grouped(*count)).into()
        });
        std::iter::once(sum).chain(kinds).collect()
    }

    fn times(&self) -> impl Iterator<Item = Line<'static>> + '_ {
        self.now.times.iter().map(|times| {
            let span = match times.span {
                Span::Second => "of the last second",
                Span::Run => "of the run so far",
            };
            let text = format!(
                "p50 {:>10}  p99 {:>10}  {span}",
                maybe_micros(times.p50_us),
                maybe_micros(times.p99_us)
            );
            named(times.name, vec![text.into()])
        })
    }

    fn memory(&self) -> Vec<Line<'static>> {
        let open = self.now.open;
        let mut lines = Vec::new();
        for process in &self.machine.processes {
            let mut text = format!(
                "memory {}, {} a connection",
                bytes(process.rss_bytes),
                per_connection(process.rss_bytes, open)
            );
            if let Some(cpu) = process.cpu_percent {
                text += &format!("  cpu {cpu:.0}% of a core");
            }
            lines.push(named(process.name, vec![text.into()]));
        }
        let kernel = &self.machine.kernel;
        let slab = self.machine.slab_growth_bytes;
        let text = format!(
            "slab +{}, {} a connection  free {}",
            bytes(slab),
            per_connection(slab, open),
            bytes(kernel.mem_available_bytes)
        );
        lines.push(named("machine", vec![text.into()]));
        lines
    }

    fn cores(&self) -> Vec<Piece<'static>> {
        let cores = self.machine.cores.iter().map(|(core, busy)| {
            let text = Piece::raw(format!("{core}: {busy:.0}%"));
            match *busy >= FULL {
                true => self.coloured(text, Color::Yellow),
                false => text,
            }
        });
        cores.collect()
    }

    /// What `ss -s` counts.
    fn sockets(&self) -> Vec<Piece<'static>> {
        let kernel = &self.machine.kernel;
        [
            ("established", kernel.established),
            ("TIME_WAIT", kernel.tcp_tw),
            ("orphan", kernel.tcp_orphan),
            ("in use, IPv4", kernel.tcp_inuse),
            ("IPv6", self.machine.kernel.tcp6_inuse),
            ("allocated", kernel.tcp_alloc),
            ("memory pages", kernel.tcp_mem_pages),
        ]
        .map(|(name, count)| format!("{name} {}", grouped(count)).into())
        .into()
    }

    fn draw_curve(&self, frame: &mut Frame<'_>, name: &str, area: Rect) {
        let names = NAMES.min(area.width);
        let label = Rect {
            width: names,
            height: 1,
            ..area
        };
        let curve = Rect {
            x: area.x + names,
            width: area.width - names,
            ..area
        };
        let values = self.history.curve(name, curve.width.into());
        let largest = values.iter().copied().fold(0.0, f64::max);
        let unit = if name == "open" { "" } else { "/s" };
        frame.render_widget(Line::from(format!("{name}{unit}").dim()), label);
        if area.height > 1 {
            let top = Rect {
                y: area.y + 1,
                ..label
            };
            let text = format!("max {}", grouped(largest.round() as u64));
            frame.render_widget(Line::from(text.dim()), top);
        }
        let levels = self.glyphs.levels();
        let scaled = values.iter().map(|value| match largest > 0.0 {
            true => (value / largest * 1_000.0).ceil() as u64,
            false => 0,
        });
        let style = match self.is_coloured {
            true => Style::new().fg(Color::Cyan),
            false => Style::new(),
        };
        let sparkline = Sparkline::default()
            .data(scaled.collect::<Vec<u64>>())
            .max(1_000)
            .style(style)
            .bar_set(bar::Set {
                empty: levels[0],
                one_eighth: levels[1],
                one_quarter: levels[2],
                three_eighths: levels[3],
                half: levels[4],
                five_eighths: levels[5],
                three_quarters: levels[6],
                seven_eighths: levels[7],
                full: levels[8],
            });
        frame.render_widget(sparkline, curve);
    }

    fn coloured(&self, piece: Piece<'static>, colour: Color) -> Piece<'static> {
        if self.is_coloured {
            piece.fg(colour)
        } else {
            piece
        }
    }
}

/// Pieces in as many lines as they take, a few at most: none is cut in two.
fn folded(name: &str, pieces: Vec<Piece<'static>>, width: u16) -> Vec<Line<'static>> {
    let columns = usize::from(width.saturating_sub(NAMES));
    let mut rows: Vec<(usize, Vec<Piece<'static>>)> = vec![(0, Vec::new())];
    for piece in pieces {
        let size = piece.width() + 2;
        let row_count = rows.len();
        match rows.last_mut() {
            Some((used, row)) if *used == 0 || *used + size <= columns + 2 => {
                *used += size;
                row.extend([piece, "  ".into()]);
            }
            Some((_, row)) if row_count == FOLDS_MAX => {
                row.push("...".into());
                break;
            }
            _ => rows.push((size, vec![piece, "  ".into()])),
        }
    }
    let names = std::iter::once(name).chain(std::iter::repeat(""));
    let lines = names.zip(rows).map(|(name, (_, row))| named(name, row));
    lines.collect()
}

/// A line with its name on the left.
fn named(name: &str, mut pieces: Vec<Piece<'static>>) -> Line<'static> {
    let width = usize::from(NAMES);
    pieces.insert(0, format!("{name:<width$}").dim());
    Line::from(pieces)
}
