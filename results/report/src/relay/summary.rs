//! The page after a run of `relay`.
//!
//! Invariants: nothing is computed here that the record does not hold; what is unknown shows as
//! `-`.
//! Must not depend on: how figures came about.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use super::figures::{KINDS, Kind, short};
use super::record::{Entry, RelayRun};
use crate::bottleneck;

use holdfast_telemetry::units::{count, minutes};

/// The page: verdict first, path last.
#[must_use]
pub fn page(run: &RelayRun, folder: &Path) -> String {
    let (met, known) = run.met();
    let mut out = run.header.page(&format!(
        "{} scenarios, medians of up to {} rounds, {met} of {known} targets met, {}",
        run.scenarios().len(),
        run.asked.rounds,
        minutes(Duration::from_secs_f64(run.header.seconds.max(0.0)))
    ));
    for note in &run.notes {
        let _ = writeln!(out, "      note: {note}");
    }
    let mut groups: Vec<Vec<&Entry>> = Vec::new();
    for entry in &run.entries {
        match groups.iter_mut().find(|g| word(g[0]) == word(entry)) {
            Some(group) => group.push(entry),
            None => groups.push(vec![entry]),
        }
    }
    for group in groups {
        let _ = writeln!(out, "\n{}", figures(&group));
    }
    if !run.goals.is_empty() {
        let _ = writeln!(out, "\n{}", goals(run));
    }
    out.push('\n');
    let stopped = run
        .entries
        .iter()
        .filter_map(|e| Some((e, e.limit.as_ref()?)));
    for (entry, limit) in stopped {
        let _ = writeln!(
            out,
            "  {} stopped at {} of {}: {}",
            entry.subject,
            limit.connections.map_or("-".into(), count),
            count(entry.connections),
            limit.evidence
        );
    }
    let limits = bottleneck::lines(&run.header.limits, "              ");
    let _ = writeln!(out, "  limit       {limits}");
    let _ = writeln!(
        out,
        "  network     {}   relay on cores {:?}, load and backend on {:?}",
        run.header.lab.namespace, run.cores.server, run.cores.client
    );
    let _ = writeln!(out, "  run         {}", folder.display());
    out
}

/// The first word of its scenario's name: what is measured.
fn word(entry: &Entry) -> &str {
    entry.scenario.split('-').next().unwrap_or_default()
}

/// Every entry in a row. Only figures that some entry has get a column.
fn figures(entries: &[&Entry]) -> String {
    let kinds: Vec<&Kind> = KINDS
        .iter()
        .filter(|kind| entries.iter().any(|e| e.figures.contains_key(kind.key)))
        .collect();
    let head = ["scenario", "relay"].into_iter();
    let head = head
        .chain(kinds.iter().map(|k| k.short))
        .chain(["failures"]);
    let rows = entries.iter().map(|entry| {
        let failures = entry.failures.iter();
        let failures: Vec<String> = failures
            .map(|(kind, n)| format!("{kind} {}", count(*n)))
            .collect();
        let mut row = vec![entry.scenario.clone(), entry.subject.clone()];
        row.extend(kinds.iter().map(|kind| {
            let value = entry.value(kind.key);
            value.map_or("-".into(), |v| short(kind.key, v))
        }));
        row.push(if failures.is_empty() {
            "0".into()
        } else {
            failures.join(", ")
        });
        row
    });
    table(head, rows, 2)
}

/// Every target in a row.
fn goals(run: &RelayRun) -> String {
    let head = [
        "scenario",
        "figure",
        "verdict",
        "target",
        "best other",
        "ours",
        "floor",
        "best",
        "/ floor",
        "/ best",
    ];
    let rows = run.goals.iter().map(|goal| {
        let figure = |v: Option<f64>| v.map_or("-".into(), |v| short(&goal.figure, v));
        let ratio = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.2}"));
        vec![
            goal.scenario.clone(),
            Kind::of(&goal.figure)
                .map_or(goal.figure.as_str(), |k| k.short)
                .into(),
            goal.standing.label().into(),
            goal.target.clone(),
            goal.best_subject.clone(),
            figure(goal.ours),
            figure(goal.floor),
            figure(goal.best),
            ratio(goal.ours_over_floor),
            ratio(goal.ours_over_best),
        ]
    });
    table(head.into_iter(), rows, 5)
}

/// Words to the left, figures to the right.
fn table<'a>(
    head: impl Iterator<Item = &'a str>,
    rows: impl Iterator<Item = Vec<String>>,
    word_columns: usize,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(word_columns) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::super::record::{DIRECT, Measured, OURS};
    use super::super::{goals, verdict};
    use super::*;

    #[test]
    fn page_has_verdict_first_targets_and_path_last() {
        let entry = |subject: &str, cpu_us| {
            let mut measured = Measured::default();
            measured.add("cpu_us", cpu_us);
            measured.add("per_second", Some(123_456.0));
            Entry {
                scenario: "requests-64".into(),
                subject: subject.into(),
                measured: vec![measured],
                ..Entry::default()
            }
        };
        let mut run = RelayRun {
            entries: vec![
                entry(DIRECT, None),
                entry(OURS, Some(5.2)),
                entry("floor", Some(5.0)),
                entry("nginx", Some(8.0)),
            ],
            ..RelayRun::default()
        };
        run.header.name = "relay".into();
        run.sum_up();
        run.goals = goals::goals(&run);
        verdict::judge(&mut run);
        let page = page(&run, Path::new("/runs/x"));
        assert!(page.starts_with("PASS  relay: 1 scenarios"), "{page}");
        for words in [
            "123,456",
            "1 of 1 targets met",
            "met, stretch too",
            "<= 1.08 x floor and <= 0.9 x best other (stretch 0.75)",
            "0.65",
        ] {
            assert!(page.contains(words), "{words}: {page}");
        }
        assert!(page.trim_end().ends_with("/runs/x"));
    }
}
