//! A comparison as text.
//!
//! Invariants: the outcome first; nothing is computed here that the comparison does not hold; what
//! is unknown shows as `-`.
//! Must not depend on: where figures come from.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use super::comparison::{Comparison, Outcome};
use super::judge::{Figure, Judgement};
use crate::report::units::known;

/// The figures side by side.
#[must_use]
pub fn page(comparison: &Comparison) -> String {
    let mut out = String::new();
    let word = match comparison.outcome {
        Outcome::Ok => "OK",
        Outcome::Regression => "REGRESSION",
        Outcome::Undecided => "UNDECIDED",
        Outcome::NotComparable => "NOT COMPARABLE",
    };
    let _ = writeln!(out, "{word}  {}", sentence(comparison));
    for checked in comparison.gates.iter().filter(|g| !g.is_met) {
        let _ = writeln!(out, "      - {}: {}", checked.name, checked.found);
    }
    for (side, names) in [("before", &comparison.before), ("after", &comparison.after)] {
        let _ = writeln!(out, "  {side:<8}{}", names.join(", "));
    }
    for difference in &comparison.differences {
        let _ = writeln!(out, "  differs {difference}");
    }
    for note in &comparison.notes {
        let _ = writeln!(out, "  note    {note}");
    }
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(["figure", "before", "after", "change", "noise", ""]);
    for figure in &comparison.figures {
        table.add_row(cells(figure));
    }
    for column in 1..5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let _ = writeln!(out, "\n{table}");
    out
}

/// The outcome in one sentence.
#[must_use]
pub fn sentence(comparison: &Comparison) -> String {
    let met = comparison.gates.iter().filter(|g| g.is_met).count();
    let what = match (comparison.gates.len(), comparison.worse()) {
        _ if comparison.outcome == Outcome::Undecided => {
            "too few runs to tell what became worse".into()
        }
        (0, 0) => "nothing became worse beyond noise".into(),
        (0, n) => format!(
            "{n} of {} figures became worse beyond noise by {}% or more",
            comparison.figures.len(),
            comparison.tolerance_percent
        ),
        (all, _) => format!("{met} of {all} gates met"),
    };
    format!(
        "{} before, {} after: {what}",
        runs(comparison.before.len()),
        runs(comparison.after.len())
    )
}

fn runs(count: usize) -> String {
    format!("{count} run{}", if count == 1 { "" } else { "s" })
}

/// Name, both medians, change, noise, judgement.
#[must_use]
pub fn cells(figure: &Figure) -> [String; 6] {
    [
        figure.name.clone(),
        figure.unit.full(figure.before.median),
        figure.unit.full(figure.after.median),
        known(figure.change_percent, |p| format!("{p:+.1}%")),
        match figure.judgement {
            Judgement::Told => String::new(),
            _ => known(figure.noise_percent, |p| format!("±{p:.1}%")),
        },
        figure.judgement.label().into(),
    ]
}
