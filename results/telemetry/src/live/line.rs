//! A moment of a run in one line.
//!
//! Invariants: what matters most comes first, and a line is made of whole parts: what does not fit
//! into its width is left out.
//! Must not depend on: terminals, when a line is shown.

use holdfast_sysctl::grouped;

use super::format::{Glyphs, clock, maybe_micros, per_connection};
use super::history::History;
use super::machine::MachineSample;
use super::snapshot::{Counter, Snapshot, Span};

/// Columns the curve takes at most.
const CURVE_COLUMNS_MAX: usize = 24;
/// A curve shorter than this says nothing.
const CURVE_COLUMNS_MIN: usize = 6;

/// The line for people who read a file or a pipe: all of it, plain.
#[must_use]
pub fn plain(now: &Snapshot, history: &History) -> String {
    parts(now, history, false).join("  ")
}

/// The line for a terminal of so many columns.
#[must_use]
pub fn fitted(
    now: &Snapshot,
    history: &History,
    machine: &MachineSample,
    glyphs: Glyphs,
    hint: &str,
    columns: usize,
) -> String {
    let mut parts = parts(now, history, true);
    if let Some(ours) = machine.processes.first() {
        parts.push(per_connection(ours.rss_bytes, now.open) + "/conn");
        parts.extend(ours.cpu_percent.map(|cpu| format!("cpu {cpu:.0}%")));
    }
    let mut line = String::new();
    for part in parts {
        let gap = if line.is_empty() { 0 } else { 2 };
        if width(&line) + gap + width(&part) <= columns {
            line += &" ".repeat(gap);
            line += &part;
        }
    }
    let hint = format!("  {hint}");
    let left = columns.saturating_sub(width(&line));
    let curve_columns = left.saturating_sub(width(&hint) + 2).min(CURVE_COLUMNS_MAX);
    if curve_columns >= CURVE_COLUMNS_MIN {
        line += "  ";
        line += &glyphs.curve(&history.curve(main_curve(now), curve_columns));
    }
    if width(&line) + width(&hint) <= columns {
        line += &hint;
    }
    // A part can only be too wide where even the first one is.
    line.chars().take(columns).collect()
}

/// What is worth a curve of its own: connections while they come, then the work done on them.
fn main_curve(now: &Snapshot) -> &'static str {
    let work = now.counters.get(1).filter(|work| work.total > 0);
    work.map_or("open", |work| work.name)
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Everything, in the order of its importance; of counters with a rate only that, where it has to
/// be short.
fn parts(now: &Snapshot, history: &History, is_short: bool) -> Vec<String> {
    let mut parts = vec![format!("{} {}", clock(now.seconds), now.phase)];
    parts.extend(now.left_seconds.map(|left| format!("{} left", clock(left))));
    if let Some(open) = now.open {
        let of = now.target.map(|target| format!(" of {}", grouped(target)));
        parts.push(format!("open {}{}", grouped(open), of.unwrap_or_default()));
    }
    if !now.part.is_empty() {
        parts.push(now.part.clone());
    }
    let bad = now.groups.iter().filter(|group| group.is_bad).enumerate();
    // The first of them also says that there is nothing bad.
    for (_, group) in bad.filter(|(i, group)| *i == 0 || group.total() > 0) {
        parts.push(format!("{} {}", group.name, grouped(group.total())));
    }
    let mut counters: Vec<_> = now.counters.iter().collect();
    let is_opening = |c: &&Counter| history.rate(c.name).is_some_and(|rate| rate >= 0.5);
    if counters.len() > 1 && !counters.first().is_some_and(is_opening) {
        counters.swap(0, 1);
    }
    for Counter { name, total, .. } in counters {
        let rate = history.rate(name).map(holdfast_units::rate);
        parts.push(match rate {
            Some(rate) if is_short => format!("{name} {rate}/s"),
            Some(rate) => format!("{name} {} ({rate}/s)", grouped(*total)),
            None => format!("{name} {}", grouped(*total)),
        });
    }
    for times in now.times.iter().filter(|times| times.p99_us.is_some()) {
        let span = match times.span {
            Span::Second => "",
            Span::Run => " so far",
        };
        let (p50, p99) = (maybe_micros(times.p50_us), maybe_micros(times.p99_us));
        parts.push(format!("{} p50 {p50} p99 {p99}{span}", times.name));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::Group;
    use super::*;

    fn run() -> (Snapshot, History) {
        let mut history = History::default();
        let mut now = Snapshot::default();
        for second in 1..=30_u32 {
            now = Snapshot {
                phase: "hold",
                seconds: second.into(),
                open: Some(2_000),
                target: Some(2_000),
                counters: vec![
                    Counter::new("opened", 2_000, second.into()),
                    Counter::new("messages", u64::from(second) * 1_000, second.into()),
                ],
                groups: vec![Group::bad("failed", [("refused".to_owned(), 3)].into())],
                left_seconds: Some(61.0),
                ..Snapshot::default()
            };
            history.add(&now);
        }
        (now, history)
    }

    #[test]
    fn plain_line_has_all_figures() {
        let (now, history) = run();
        assert_eq!(
            plain(&now, &history),
            "0:30 hold  1:01 left  open 2,000 of 2,000  failed 3  messages 30,000 (1,000/s)  opened 2,000 (0/s)"
        );
    }

    #[test]
    fn line_fits_its_width_and_keeps_the_important_parts() {
        let (now, history) = run();
        for columns in 0..250 {
            let line = fitted(
                &now,
                &history,
                &MachineSample::default(),
                Glyphs::Blocks,
                "l: all",
                columns,
            );
            assert!(width(&line) <= columns, "{columns}: {line}");
            assert_eq!(
                columns >= 41,
                line.contains("open 2,000 of 2,000"),
                "{columns}: {line}"
            );
        }
    }
}
