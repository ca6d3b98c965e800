//! How the end of a process is judged while a run goes on.
//!
//! Must not depend on: any scenario.

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_report::folder::RunFolder;
use holdfast_telemetry::output;
use holdfast_telemetry::report_line::Report;
use holdfast_telemetry::report_line::passed_on;
use holdfast_testbed::child::Child;

use crate::run_control::Aborted;
use crate::run_harness::write_final_report;

/// Looks that `child` still runs. One that exits with 2 before its first report was asked for
/// something it cannot do: its words stand.
///
/// # Errors
/// How it ended during `phase`, and its last words.
pub fn still_runs<R: Report>(child: Option<&Child<R>>, phase: &str) -> Result<(), Aborted> {
    let Some(child) = child.filter(|c| c.is_done()) else {
        return Ok(());
    };
    let is_refusal =
        child.exit().and_then(|e| e.code()) == Some(2) && child.heard().latest.is_none();
    if !is_refusal {
        let last = child.stderr_tail(1).pop();
        let last = last.map_or(String::new(), |line| format!(": {line}"));
        let end = child.end_in_words();
        let why = format!("the {} {end} during {phase}{last}", child.name);
        return Err(Aborted::failed("died", why));
    }
    let lines = child.stderr_tail(20);
    let is_error = |line: &&String| line.starts_with("error");
    let line = lines.iter().find(is_error).or(lines.last());
    Err(Aborted::Refused(match line {
        Some(line) => passed_on(line),
        None => SetupError::new(
            SetupErrorKind::Other,
            format!("the {} would not start and did not say why", child.name),
            &child.command,
        ),
    }))
}

/// Writes the final report of `child` beside the record, logs the last lines of one that failed,
/// and removes an empty log.
pub fn write_final_report_of<R: Report>(child: Option<&Child<R>>, folder: &RunFolder, file: &str) {
    let Some(child) = child else { return };
    write_final_report(child, folder, file);
    if child.exit().is_none_or(|status| !status.success()) {
        for line in child.stderr_tail(10) {
            output::log(format_args!("{}: {line}", child.name));
        }
    }
    child.tidy();
}
