//! A document as one page of HTML.
//!
//! Purpose: verdict and headline figures, then charts, then tables; all in one file that needs
//! nothing else.
//! Invariants: no script, nothing fetched, and the page's own policy forbids both. maud escapes
//! every text; only the drawings and the style, which hold no text from outside but what plotters
//! escaped, go in as they are. Each chart carries its numbers in a table and its extremes in words.
//! Must not depend on: where figures come from.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{Axis, Bars, Caption, Chart, Lines, Style};
use super::document::{Document, Section, Table, Tile};
use super::svg::{Drawing, colour_name, draw, quantile};
use super::units::{known, trimmed};
use crate::bottleneck::Bottleneck;
use crate::header::Verdict;

const STYLE: &str = include_str!("style.css");

/// Renders it.
///
/// # Errors
/// When a chart cannot be drawn, in plotters' words.
pub fn render(document: &Document) -> Result<String, String> {
    let mut sections = Vec::new();
    for (number, part) in document.sections.iter().enumerate() {
        let charts = part
            .charts
            .iter()
            .map(figure)
            .collect::<Result<Vec<_>, _>>()?;
        sections.push(section(number, part, &charts));
    }
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:";
                title { (verdict_label(document.verdict)) ": " (document.title) }
                // Without one a browser asks the server for it.
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (head(document))
                    @if !document.overview.is_empty() {
                        section.overview { @for part in &document.overview { (table(part)) } }
                    }
                    @if document.sections.len() > 5 {
                        nav { @for (number, part) in document.sections.iter().enumerate() {
                            a href=(format!("#part-{number}")) { (part.title) }
                        } }
                    }
                    @for part in sections { (part) }
                    @if !document.tables.is_empty() {
                        section.tables { @for part in &document.tables { (table(part)) } }
                    }
                    (footer(document))
                }
            }
        }
    };
    Ok(page.into_string())
}

/// The verdict in one word.
#[must_use]
pub fn verdict_label(verdict: Option<Verdict>) -> &'static str {
    verdict.map_or("NO VERDICT", Verdict::label)
}

fn head(document: &Document) -> Markup {
    let class = match document.verdict {
        Some(Verdict::Pass) => "pass",
        Some(Verdict::Fail) => "fail",
        None => "unknown",
    };
    html! {
        header {
            p.verdict.(class) { (verdict_label(document.verdict)) }
            h1 { (document.title) }
            p.sentence { (document.sentence) }
            p.meta { @for part in &document.subtitle { span { (part) } } }
            @if !document.reasons.is_empty() {
                div.reasons {
                    h2 { "Why the run fell short" }
                    ul { @for reason in &document.reasons { li { (reason) } } }
                }
            }
        }
        @if !document.tiles.is_empty() { div.tiles { @for part in &document.tiles { (tile(part)) } } }
        @if !document.limits.is_empty() {
            section.limits {
                h2 { "Bottlenecks" }
                @for part in &document.limits { (limit(part)) }
            }
        }
    }
}

fn tile(tile: &Tile) -> Markup {
    html! {
        div.tile.bad[tile.is_bad] {
            p.label { (tile.label) }
            p.value { (tile.value) }
            p.note { (tile.note) }
        }
    }
}

fn limit(limit: &Bottleneck) -> Markup {
    html! {
        div.limit {
            p { strong { (limit.what.label()) } " " (limit.evidence) }
            @if !limit.next.is_empty() { pre { code { (limit.next) } } }
        }
    }
}

fn section(number: usize, section: &Section, figures: &[Markup]) -> Markup {
    html! {
        section id=(format!("part-{number}")) {
            h2 { (section.title) }
            @for text in &section.paragraphs { p.words { (text) } }
            div.charts { @for part in figures { (part) } }
        }
    }
}

fn figure(chart: &Chart) -> Result<Markup, String> {
    let drawing = draw(chart)?;
    let (caption, kind, says, legend, numbers) = match chart {
        Chart::Lines(lines) => (
            &lines.caption,
            "lines",
            in_words(lines),
            legend(lines),
            numbers(lines),
        ),
        Chart::Bars(bars) => (
            &bars.caption,
            "bars",
            bars_in_words(bars),
            html! {},
            bar_numbers(bars),
        ),
    };
    Ok(html! {
        figure id=(caption.id) data-kind=(kind) {
            figcaption {
                h3 { (caption.title) }
                p { (caption.guidance) }
            }
            (legend)
            (plot(caption, &says, &drawing))
            details {
                summary { "Numbers" }
                p { (says) }
                div.scroll { (numbers) }
            }
        }
    })
}

fn plot(caption: &Caption, says: &str, drawing: &Drawing) -> Markup {
    let join = |numbers: &[String]| numbers.join(" ");
    let frame = join(&drawing.frame.map(|v| v.to_string()));
    let range = join(&drawing.range.map(|v| v.to_string()));
    let (title, desc) = (
        format!("{}-title", caption.id),
        format!("{}-desc", caption.id),
    );
    html! {
        svg.plot role="img" viewBox=(format!("0 0 {} {}", drawing.size.0, drawing.size.1))
            aria-labelledby=(format!("{title} {desc}")) data-frame=(frame) data-range=(range) {
            title id=(title) { (caption.title) }
            desc id=(desc) { (says) }
            (PreEscaped(&drawing.svg))
        }
    }
}

fn legend(chart: &Lines) -> Markup {
    html! {
        ul.legend {
            @for line in &chart.lines {
                @let colour = if line.style == Style::Asked { "asked".into() } else { colour_name(line.colour) };
                li { i.(colour).dashed[matches!(line.style, Style::Asked | Style::Dashed)] {} (line.name) }
            }
        }
    }
}

/// The chart for who does not see it.
fn in_words(chart: &Lines) -> String {
    let lines = chart.lines.iter().enumerate().filter_map(|(number, line)| {
        let e = chart.extremes(number)?;
        let [min, max, last] = [e.min, e.max, e.last].map(|v| chart.unit.full(v));
        Some(format!("{}: min {min}, max {max}, last {last}.", line.name))
    });
    let lines = lines.collect::<Vec<_>>().join(" ");
    let from_to = chart
        .rows
        .first()
        .zip(chart.rows.last())
        .map_or_else(String::new, |(a, b)| match chart.axis {
            Axis::Seconds => format!(" From second {} to {}.", trimmed(a.x, 0), trimmed(b.x, 0)),
            Axis::Tail => format!(" From quantile {} to {}.", quantile(a.x), quantile(b.x)),
        });
    lines + &from_to
}

fn bars_in_words(chart: &Bars) -> String {
    let bars = chart
        .bars
        .iter()
        .map(|bar| format!("{}: {}.", bar.name, chart.label(bar)));
    bars.collect::<Vec<_>>().join(" ")
}

fn numbers(chart: &Lines) -> Markup {
    let (x_name, digits) = match chart.axis {
        Axis::Seconds => ("second", 3),
        Axis::Tail => ("1 / (1 − quantile)", 3),
    };
    html! {
        table {
            thead { tr { th { (x_name) } @for line in &chart.lines { th { (line.name) } } } }
            tbody {
                @for row in &chart.rows {
                    tr {
                        td { (trimmed(row.x, digits)) }
                        @for value in &row.values { td { (number(*value)) } }
                    }
                }
            }
        }
        p.unit { (chart.unit.name()) }
    }
}

fn bar_numbers(chart: &Bars) -> Markup {
    html! {
        table {
            thead { tr {
                th { "" }
                th { (chart.value_name) }
                @if let Some(inner) = chart.inner_name { th { (inner) } }
                th { "least" }
                th { "most" }
            } }
            tbody {
                @for bar in &chart.bars {
                    tr {
                        td { (bar.name) }
                        td { (number(Some(bar.value))) }
                        @if chart.inner_name.is_some() { td { (number(bar.inner)) } }
                        td { (number(bar.spread.map(|s| s.0))) }
                        td { (number(bar.spread.map(|s| s.1))) }
                    }
                }
            }
        }
        p.unit { (chart.unit.name()) }
    }
}

/// As a program reads it: no groups, no unit.
fn number(value: Option<f64>) -> String {
    known(value, |v| trimmed(v, 4))
}

fn table(table: &Table) -> Markup {
    let class = |column: usize| {
        if column < table.word_columns {
            "word"
        } else {
            "figure"
        }
    };
    let is_wide = table.head.len() > 6 || table.word_columns > 2;
    html! {
        div.table.wide[is_wide] {
            h2 { (table.title) }
            div.scroll {
                table {
                    @if table.head.iter().any(|name| !name.is_empty()) {
                        thead { tr { @for (column, name) in table.head.iter().enumerate() { th class=(class(column)) { (name) } } } }
                    }
                    tbody {
                        @for row in &table.rows {
                            tr { @for (column, text) in row.iter().enumerate() { td class=(class(column)) { (text) } } }
                        }
                    }
                }
            }
        }
    }
}

fn footer(document: &Document) -> Markup {
    html! {
        footer {
            @for (name, command) in document.commands.iter().filter(|(_, command)| !command.is_empty()) {
                h2 { (name) }
                pre { code { (command) } }
            }
            @if !document.notes.is_empty() {
                h2 { "Notes" }
                ul { @for note in &document.notes { li { (note) } } }
            }
        }
    }
}
