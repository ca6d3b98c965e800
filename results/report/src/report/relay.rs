//! The report of a run of `relay`.
//!
//! Purpose: from its record to tiles, a table of targets, and for each scenario the bars of its
//! figures.
//! Invariants: no figure here is measured or judged anew; a relay has the same colour in every
//! chart.
//! Must not depend on: how anything is drawn.

use super::chart::{Bar, Bars, Caption, Chart, spread};
use super::document::{Document, Section, Table, Tile};
use super::units::{decimal, known, span};
use crate::relay::figures::{Aim, KINDS, Kind, short};
use crate::relay::record::{Entry, Goal, OURS, RelayRun, Standing};

use holdfast_telemetry::units::{count, total};

/// Those with colours of their own, in order.
const SUBJECTS: [&str; 6] = [
    OURS,
    "floor",
    "nginx",
    "haproxy",
    "haproxy-splice",
    "direct",
];

/// Fills `document`.
pub fn describe(document: &mut Document, run: &RelayRun) {
    document.notes.extend(run.notes.iter().cloned());
    let scenarios = run.scenarios();
    let (met, known_count) = run.met();
    document.sentence = format!(
        "{} scenarios, {} relays, {} rounds of {} each: {met} of {known_count} targets met.",
        scenarios.len(),
        run.asked.subjects.len(),
        run.asked.rounds,
        span(run.asked.slice_seconds),
    );
    document.tiles = tiles(run);
    document.overview.push(targets(&run.goals));
    document.sections = scenarios.iter().map(|name| section(name, run)).collect();
    document.tables.push(figures(&run.entries));
    let commands = run.commands.iter();
    let commands = commands.map(|(name, command)| vec![name.clone(), command.clone()]);
    document.tables.push(Table::new(
        "Relays, as they were started",
        &["Relay", "Command"],
        2,
        commands.collect(),
    ));
    let programs = run.programs.iter().map(|(name, says)| {
        vec![
            name.clone(),
            says.clone().unwrap_or_else(|| "not here".into()),
        ]
    });
    document.tables.push(Table::new(
        "Programs",
        &["Program", "Version"],
        2,
        programs.collect(),
    ));
}

fn tiles(run: &RelayRun) -> Vec<Tile> {
    let ours = run.entries.iter().filter(|e| e.subject == OURS);
    let failed = ours.clone().map(|e| total(&e.failures));
    let failed = failed.fold(0_u64, u64::saturating_add);
    let (met, known_count) = run.met();
    let mut tiles = vec![
        Tile::new("Failures of ours", count(failed), "in all scenarios").bad_if(failed > 0),
        Tile::new(
            "Targets met",
            format!("{met} of {known_count}"),
            "of those measured",
        ),
    ];
    for (key, title) in [("held", "Pairs held"), ("own_bytes", "Own memory per pair")] {
        let found = ours.clone().filter(|e| e.scenario.starts_with("pairs-"));
        let found = found.filter_map(|e| Some((e.value(key)?, e)));
        if let Some((value, entry)) = found.max_by(|a, b| a.1.connections.cmp(&b.1.connections)) {
            let unit = Kind::of(key).map_or_else(|| decimal(value), |k| k.unit.full(value));
            tiles.push(Tile::new(title, unit, entry.scenario.clone()));
        }
    }
    for goal in run.goals.iter().filter(|g| g.figure == "cpu_us") {
        if let Some(ratio) = goal.ours_over_best {
            let note = format!("{}, ours over {}", goal.scenario, goal.best_subject);
            tiles.push(Tile::new("Relay CPU", format!("{ratio:.2}×"), note));
        }
    }
    tiles
}

fn targets(goals: &[Goal]) -> Table {
    let rows = goals.iter().map(|goal| {
        let figure = |v: Option<f64>| known(v, |v| short(&goal.figure, v));
        let ratio = |v: Option<f64>| known(v, |v| format!("{v:.2}×"));
        let name = Kind::of(&goal.figure).map_or(goal.figure.as_str(), |kind| kind.title);
        vec![
            goal.scenario.clone(),
            name.into(),
            match goal.standing {
                Standing::Missed => "missed".into(),
                other => other.label().into(),
            },
            goal.target
                .replace("<=", "≤")
                .replace(">=", "≥")
                .replace(" x ", " × "),
            goal.best_subject.clone(),
            figure(goal.ours),
            figure(goal.floor),
            figure(goal.best),
            ratio(goal.ours_over_floor),
            ratio(goal.ours_over_best),
        ]
    });
    let head = [
        "Scenario",
        "Figure",
        "Verdict",
        "Target",
        "Best other",
        "Ours",
        "Bare loop",
        "Best other's",
        "ours / bare loop",
        "ours / best other",
    ];
    Table::new("Targets", &head, 5, rows.collect())
}

fn section(scenario: &str, run: &RelayRun) -> Section {
    let of_it: Vec<&Entry> = run
        .entries
        .iter()
        .filter(|e| e.scenario == scenario)
        .collect();
    let connections = of_it.iter().map(|e| e.connections).max().unwrap_or(0);
    let mut told = vec![format!("{} connections.", count(connections))];
    if let Some(rate) = run.half_load_per_second.filter(|_| scenario == "half-load") {
        told.push(format!(
            "{} requests a second, the same for all.",
            decimal(rate)
        ));
    }
    for entry in &of_it {
        if let Some(error) = entry.error() {
            told.push(format!("{}: {error}", entry.subject));
        }
        if let Some(limit) = &entry.limit {
            told.push(format!(
                "{} stopped at {}: {}",
                entry.subject,
                known(limit.connections, count),
                limit.evidence
            ));
        }
    }
    let charts = KINDS.iter().map(|kind| {
        let bars = of_it.iter().filter_map(|entry| {
            Some(Bar {
                name: entry.subject.clone(),
                colour: colour_of(&entry.subject),
                // A bar has no length below nothing; the table has the figure.
                value: entry.value(kind.key)?.max(0.0),
                inner: None,
                spread: spread(&entry.each(kind.key)),
            })
        });
        let guidance = match kind.aim {
            Aim::More => "Longer is better.",
            Aim::Less => "Shorter is better.",
            Aim::Tells => "Neither way is better.",
        };
        let words = Caption::new(
            format!("{scenario}-{}", kind.key.replace('_', "-")),
            kind.title,
            format!("{guidance} The thin line shows minimum and maximum of the rounds."),
        );
        Bars::new(words, kind.unit, ("median", None), bars.collect()).map(Chart::Bars)
    });
    Section::new(scenario, told, charts)
}

fn colour_of(subject: &str) -> usize {
    let known = SUBJECTS.iter().position(|s| *s == subject);
    known.unwrap_or(SUBJECTS.len())
}

fn figures(entries: &[Entry]) -> Table {
    let rows = entries.iter().flat_map(|entry| {
        KINDS.iter().filter_map(|kind| {
            let figure = entry.figures.get(kind.key)?;
            Some(vec![
                entry.scenario.clone(),
                entry.subject.clone(),
                kind.title.into(),
                short(kind.key, figure.median),
                format!(
                    "{}–{}",
                    short(kind.key, figure.min),
                    short(kind.key, figure.max)
                ),
                count(entry.rounds as u64),
                count(total(&entry.failures)),
            ])
        })
    });
    let head = [
        "Scenario",
        "Relay",
        "Figure",
        "Median",
        "of the rounds",
        "Rounds",
        "Failures",
    ];
    Table::new("Figures", &head, 3, rows.collect())
}
