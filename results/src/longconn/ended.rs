//! How the loaded part of a run ended.
//!
//! Must not know: what is done about it.

use holdfast_telemetry::refusal::Refusal;
use holdfast_telemetry::report_line::Report;
use holdfast_testbed::child::Child;

/// How the loaded part ended; the reasons are among the incidents.
pub(super) enum Ended {
    /// All phases went through.
    Whole,
    /// Something ended it before.
    Short,
    /// A process would not start and said why.
    Refused(Refusal),
}

/// A process that exits with 2 before its first report was asked for something it cannot do: its words stand.
pub(super) fn refused_start<R: Report>(child: Option<&Child<R>>) -> Option<Ended> {
    let child = child?;
    let is_refusal =
        child.is_done() && child.exit()?.code() == Some(2) && child.heard().latest.is_none();
    if !is_refusal {
        return None;
    }
    let lines = child.stderr_tail(20);
    let line = lines
        .iter()
        .find(|line| line.starts_with("error"))
        .or(lines.last());
    Some(Ended::Refused(match line {
        Some(line) => Refusal::passed_on(line),
        None => Refusal::new(
            format!("the {} would not start and did not say why", child.name),
            &child.command,
        ),
    }))
}

pub(super) fn ended_early<R: Report>(child: Option<&Child<R>>, phase: &str) -> Option<String> {
    let child = child.filter(|c| c.is_done())?;
    let tail = child
        .stderr_tail(1)
        .pop()
        .map_or(String::new(), |line| format!(": {line}"));
    Some(format!(
        "the {} {} during {phase}{tail}",
        child.name,
        child.end_in_words()
    ))
}

pub(super) fn cannot_start(program: &std::path::Path, e: &std::io::Error) -> Refusal {
    Refusal::new(
        format!("{} cannot be started: {e}", program.display()),
        "cargo build --release",
    )
}
