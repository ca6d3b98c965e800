//! `compare.html`: both sides over each other.
//!
//! Purpose: a document of the report's kind: the outcome, the figures side by side, charts with a
//! line or bar for each side.
//! Invariants: charts show runs as they were, moved so that their ramps begin together; at most
//! [`RUNS_MAX`] of each side, those named first. A run without its series is in the figures only.
//! Must not depend on: how a chart is drawn.

use std::fs::File;

use super::comparison::{Comparison, Outcome};
use super::judge::Judgement;
use super::side::Sample;
use super::table::{cells, sentence};
use crate::header::Verdict;
use crate::record::Record;
use crate::relay::record::OURS;
use crate::report::chart::{Axis, Bar, Bars, Caption, Chart, Lines, Row, Style};
use crate::report::document::{Document, Section, Table, Tile};
use crate::report::html;
use crate::report::series::Series;
use crate::report::units::Unit;

/// Lines of one side in a chart.
const RUNS_MAX: usize = 3;
/// Headline figures.
const TILES_MAX: usize = 8;
/// Colours of the sides.
const BEFORE: usize = 0;
const AFTER: usize = 1;

/// The page.
///
/// # Errors
/// When a chart cannot be drawn.
pub fn render(
    comparison: &Comparison,
    before: &[Sample],
    after: &[Sample],
) -> Result<String, String> {
    let verdict = match comparison.outcome {
        Outcome::Ok => Some(Verdict::Pass),
        Outcome::Regression => Some(Verdict::Fail),
        Outcome::Undecided | Outcome::NotComparable => None,
    };
    let failed = comparison.gates.iter().filter(|g| !g.is_met);
    let rows = comparison
        .figures
        .iter()
        .map(|f| cells(f).to_vec())
        .collect();
    let head = ["figure", "before", "after", "change", "noise", ""];
    let mut document = Document {
        title: format!(
            "{} → {}",
            side_name(&comparison.before),
            side_name(&comparison.after)
        ),
        sentence: format!("{}.", sentence(comparison)),
        verdict,
        reasons: failed.map(|g| format!("{}: {}", g.name, g.found)).collect(),
        notes: comparison
            .differences
            .iter()
            .map(|d| format!("differs: {d}"))
            .chain(comparison.notes.clone())
            .collect(),
        tiles: tiles(comparison),
        overview: vec![Table::new("Figures", &head, 1, rows)],
        sections: vec![overlay(before, after)],
        ..Document::default()
    };
    document.sections.extend(scenarios(before, after));
    document
        .sections
        .retain(|section| !section.charts.is_empty());
    html::render(&document)
}

fn side_name(names: &[String]) -> String {
    match names {
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        [] => String::new(),
    }
}

/// What changed most, the worse first.
fn tiles(comparison: &Comparison) -> Vec<Tile> {
    let rank = |judgement| match judgement {
        Judgement::Worse => 0,
        Judgement::Better => 1,
        Judgement::Unknown => 2,
        _ => 3,
    };
    let mut figures: Vec<_> = comparison
        .figures
        .iter()
        .filter(|f| {
            f.judgement != Judgement::Told && !(f.is_fault && f.judgement == Judgement::Same)
        })
        .collect();
    figures.sort_by_key(|f| rank(f.judgement));
    figures
        .into_iter()
        .take(TILES_MAX)
        .map(|f| {
            let [_, before, after, change, noise, words] = cells(f);
            let note = format!("{before} → {after}, noise {noise}: {words}");
            Tile::new(&f.name, change, note).bad_if(f.judgement == Judgement::Worse)
        })
        .collect()
}

/// One run's series and how it is drawn.
struct Drawn {
    name: String,
    style: Style,
    colour: usize,
    series: Series,
    /// When its ramp began, seconds.
    start: f64,
}

fn overlay(before: &[Sample], after: &[Sample]) -> Section {
    let side = |samples: &[Sample], name: &str, style, colour| -> Vec<Drawn> {
        let is_single = samples.len() == 1;
        let few = samples.iter().take(RUNS_MAX).enumerate();
        few.filter_map(|(number, sample)| {
            let file = File::open(sample.folder.join("series.csv")).ok()?;
            let series = Series::read(file).ok()?;
            let start = series
                .phases()
                .into_iter()
                .find(|(_, phase)| phase == "ramp")?
                .0;
            let name = if is_single {
                name.to_string()
            } else {
                format!("{name} {}", number + 1)
            };
            Some(Drawn {
                name,
                style,
                colour,
                series,
                start,
            })
        })
        .collect()
    };
    let mut drawn = side(before, "before", Style::Dashed, BEFORE);
    drawn.extend(side(after, "after", Style::Plain, AFTER));
    let chart = |id: &str, title: &str, unit, values: &dyn Fn(&Series) -> Vec<Option<f64>>| {
        let words = Caption::new(
            id,
            title,
            "Both sides from the start of the ramp; the side before is dashed.",
        );
        let mut rows = Vec::new();
        for (number, run) in drawn.iter().enumerate() {
            for (row, value) in values(&run.series).into_iter().enumerate() {
                let mut cells = vec![None; drawn.len()];
                cells[number] = value;
                let x = run.series.at(row) - run.start;
                if x >= 0.0 {
                    rows.push(Row { x, values: cells });
                }
            }
        }
        let lines = drawn
            .iter()
            .map(|d| (d.name.as_str(), d.style, d.colour))
            .collect();
        Lines::new(words, unit, Axis::Seconds, lines, rows).map(Chart::Lines)
    };
    let column = |name: &'static str| {
        move |series: &Series| {
            (0..series.len())
                .map(|row| series.number(row, name))
                .collect()
        }
    };
    Section::new(
        "Over time",
        vec![],
        [
            chart(
                "open",
                "Connections open",
                Unit::Count,
                &column("client_open"),
            ),
            chart("opened", "Opened a second", Unit::PerSecond, &|s| {
                s.client_rate("client_opened")
            }),
            chart("messages", "Messages a second", Unit::PerSecond, &|s| {
                s.client_rate("messages_received")
            }),
            chart(
                "connect",
                "Connect time, p99 so far",
                Unit::Micros,
                &column("connect_p99_us"),
            ),
            chart(
                "lateness",
                "Lateness of messages, p99 so far",
                Unit::Micros,
                &column("lateness_p99_us"),
            ),
            chart("server-cpu", "Server, cores in use", Unit::Cores, &|s| {
                s.rate("server_cpu_seconds")
            }),
            chart("client-cpu", "Client, cores in use", Unit::Cores, &|s| {
                s.rate("client_cpu_seconds")
            }),
        ],
    )
}

/// What bars are drawn of: one scenario, measured in one way.
struct Measured {
    scenario: String,
    way: String,
    /// Requests or heartbeats a second.
    per_second: Option<f64>,
    /// Microseconds of the server's time on cores for each.
    server_cpu_us: Option<f64>,
    /// Their latency, microseconds.
    p99_us: Option<f64>,
}

fn measured(record: &Record) -> Vec<Measured> {
    match record {
        Record::Longconn(_) => Vec::new(),
        Record::Http(run) => {
            let ours = run.scenarios.iter().filter(|e| e.subject == "holdfast");
            let measured = ours.map(|e| Measured {
                scenario: e.scenario.clone(),
                way: e.generator.clone(),
                per_second: e.requests_per_second,
                // Seconds of a million are microseconds of one.
                server_cpu_us: e.server_cpu_seconds_per_million,
                p99_us: e.latency_us.map(|l| l.p99 as f64),
            });
            measured.collect()
        }
        Record::Relay(run) => {
            let ours = run.entries.iter().filter(|e| e.subject == OURS);
            let measured = ours.map(|e| Measured {
                scenario: e.scenario.clone(),
                way: e.subject.clone(),
                per_second: e.value("per_second"),
                server_cpu_us: e.value("cpu_us"),
                p99_us: e.value("p99_us"),
            });
            measured.collect()
        }
        Record::Proxy(run) => {
            let sound = run.trials.iter().filter(|t| t.error.is_none());
            let measured = sound.map(|t| Measured {
                scenario: t.scenario.clone(),
                way: t.way().into(),
                per_second: Some(t.per_second),
                server_cpu_us: t.window.and_then(|w| w.us_each(w.server_cpu_seconds)),
                p99_us: (t.latency_us.count > 0).then_some(t.latency_us.p99 as f64),
            });
            measured.collect()
        }
    }
}

/// A section for each scenario of the runs before, their bars beside those after.
fn scenarios(before: &[Sample], after: &[Sample]) -> Vec<Section> {
    let of = |samples: &[Sample]| samples.first().map(|s| measured(&s.record));
    let (before, after) = (
        of(before).unwrap_or_default(),
        of(after).unwrap_or_default(),
    );
    let mut names: Vec<&str> = Vec::new();
    for one in &before {
        if !names.contains(&one.scenario.as_str()) {
            names.push(&one.scenario);
        }
    }
    let sides = [("before", BEFORE, &before), ("after", AFTER, &after)];
    names.iter().map(|name| scenario(name, &sides)).collect()
}

fn scenario(name: &str, sides: &[(&str, usize, &Vec<Measured>); 2]) -> Section {
    let chart = |id: &str, title: &str, unit, figure: fn(&Measured) -> Option<f64>| {
        let mut bars = Vec::new();
        for one in sides[0].2.iter().filter(|m| m.scenario == name) {
            for (side, colour, all) in sides {
                let same = |m: &&Measured| m.scenario == name && m.way == one.way;
                let value = all.iter().find(same).and_then(figure);
                bars.extend(value.map(|value| Bar {
                    name: format!("{}, {side}", one.way),
                    colour: *colour,
                    value,
                    ..Bar::default()
                }));
            }
        }
        let words = Caption::new(
            format!("{name}-{id}"),
            title,
            "The first run of each side, per load generator.",
        );
        Bars::new(words, unit, ("value", None), bars).map(Chart::Bars)
    };
    let charts = [
        chart("rate", "A second", Unit::PerSecond, |m| m.per_second),
        chart("cpu", "Server CPU of each", Unit::CpuMicros, |m| {
            m.server_cpu_us
        }),
        chart("p99", "Latency p99", Unit::Micros, |m| m.p99_us),
    ];
    Section::new(name, vec![], charts)
}
