//! Two sides of runs compared: `holdfast-bench compare BEFORE AFTER`.
//!
//! Purpose: `words -> runs -> are they alike -> figures -> judged, against a gate if there is one
//! -> table, page, exit code`.
//! Invariants: reads the runs' files and writes nothing but the page. Exit codes: 0 nothing became
//! worse as far as one can tell, 1 something did, 2 not comparable or not asked rightly.
//! Must not depend on: how a run is made.

pub mod comparability;
mod comparison;
pub mod gate;
pub mod judge;
pub mod metric;
pub mod noise;
mod page;
pub mod side;
mod table;

use std::path::PathBuf;

use crate::print::print_result;

use gate::{Gate, Rule};
use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_telemetry::output;
use judge::Figure;
use metric::Better;
use side::Sample;

pub use comparison::{COMPARE_SCHEMA, Checked, Comparison, Outcome};

/// A change below this, percent, fails nothing.
pub const TOLERANCE_PERCENT: f64 = 3.0;

/// The flags of `holdfast-bench compare`; each is explained by `--help`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Options {
    pub before: String,
    pub after: String,
    pub runs: Option<PathBuf>,
    pub gate: Option<PathBuf>,
    pub tolerance_percent: f64,
    pub is_forced: bool,
    pub html: Option<PathBuf>,
}

/// Compares, prints the table or JSON, writes the page. Returns the exit code.
///
/// # Errors
/// When a run or the gate cannot be read, or the runs are not comparable.
pub fn compare(options: &Options, is_json: bool) -> Result<u8, SetupError> {
    const REGRESSION: u8 = 1;
    const NOT_COMPARABLE: u8 = 2;
    if !(0.0..=1_000.0).contains(&options.tolerance_percent) {
        let cause = format!("a tolerance of {} percent", options.tolerance_percent);
        return Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            cause,
            "give 0 to 1000 with --tolerance",
        ));
    }
    let gate = options.gate.as_deref().map(Gate::read).transpose()?;
    let mut notes = Vec::new();
    let runs = options.runs.as_deref();
    let before = side::read(&options.before, runs, &mut notes)?;
    let after = side::read(&options.after, runs, &mut notes)?;
    if let Some(both) = before
        .iter()
        .find(|a| after.iter().any(|b| a.folder == b.folder))
    {
        let cause = format!("{} is on both sides", both.name);
        return Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            cause,
            "name other runs, see holdfast-bench list",
        ));
    }
    let (kind, other) = (
        &before[0].record.header().name,
        &after[0].record.header().name,
    );
    if kind != other {
        let cause = format!("{kind} cannot be compared with {other}");
        return Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            cause,
            "name runs of one kind, see holdfast-bench list",
        ));
    }
    let names = |samples: &[Sample]| samples.iter().map(|s| s.name.clone()).collect();
    let mut comparison = Comparison {
        schema: COMPARE_SCHEMA,
        outcome: Outcome::NotComparable,
        before: names(&before),
        after: names(&after),
        differences: comparability::differences(before.iter().chain(&after)),
        notes,
        tolerance_percent: options.tolerance_percent,
        gates: Vec::new(),
        figures: Vec::new(),
    };
    if !comparison.differences.is_empty() && !options.is_forced {
        if is_json {
            // The exit code says the same if this cannot be printed.
            let _ = print_result(&comparison, true, String::new);
            return Ok(NOT_COMPARABLE);
        }
        let cause = format!(
            "these runs are not comparable: {}",
            comparison.differences.join("; ")
        );
        return Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            cause,
            "compare runs of the same machine and settings, or add --force",
        ));
    }
    comparison.figures = judge::figures(&before, &after, options.tolerance_percent);
    if let (Some(gate), Some(path)) = (&gate, &options.gate) {
        let names: Vec<&str> = comparison.figures.iter().map(|f| f.name.as_str()).collect();
        gate.check_names(path, &names)?;
        comparison.gates = checked(gate, &comparison.figures)?;
    }
    comparison.settle(before.len() + after.len());
    let is_printed = print_result(&comparison, is_json, || table::page(&comparison));
    write_page(options, &comparison, &before, &after)?;
    Ok(match comparison.outcome {
        Outcome::Regression => REGRESSION,
        _ => u8::from(!is_printed),
    })
}

fn checked(gate: &Gate, figures: &[Figure]) -> Result<Vec<Checked>, SetupError> {
    let mut all = Vec::new();
    for figure in figures {
        for rule in gate.rules(&figure.name) {
            let (is_met, found) = check(rule, figure)?;
            all.push(Checked {
                name: figure.name.clone(),
                rule: rule.clone(),
                is_met,
                found,
            });
        }
    }
    Ok(all)
}

fn check(rule: &Rule, figure: &Figure) -> Result<(bool, String), SetupError> {
    let mut said = Vec::new();
    let value = figure.after.median;
    if let Some(min) = rule.min.filter(|min| value < *min) {
        said.push(format!("{value} is below {min}"));
    }
    if let Some(max) = rule.max.filter(|max| value > *max) {
        said.push(format!("{value} is above {max}"));
    }
    if let Some(allowed) = rule.worse_percent_max {
        let better = rule.better.unwrap_or(figure.better);
        if better == Better::Neither {
            let cause = format!(
                "the gate's {}: it is not known which way is better",
                rule.name
            );
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                cause,
                "say better = \"higher\" or \"lower\" there",
            ));
        }
        let worse = figure.worse_percent(better);
        if worse > allowed && figure.is_beyond_noise() {
            said.push(format!("{worse:.1}% worse, {allowed}% allowed"));
        }
    }
    Ok((said.is_empty(), said.join("; ")))
}

/// Writes the page beside the last run after, or to --html FILE; only the latter must succeed.
fn write_page(
    options: &Options,
    comparison: &Comparison,
    before: &[Sample],
    after: &[Sample],
) -> Result<(), SetupError> {
    let Some(path) = options
        .html
        .clone()
        .or_else(|| Some(after.last()?.folder.join("compare.html")))
    else {
        return Ok(());
    };
    let made = page::render(comparison, before, after);
    match made.and_then(|html| std::fs::write(&path, html).map_err(|e| e.to_string())) {
        Ok(()) => output::log(format_args!("{}", path.display())),
        Err(why) if options.html.is_some() => {
            let cause = format!("{} cannot be written: {why}", path.display());
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                cause,
                "name another file with --html FILE",
            ));
        }
        Err(why) => output::log(format_args!("warning: no page: {}: {why}", path.display())),
    }
    Ok(())
}
