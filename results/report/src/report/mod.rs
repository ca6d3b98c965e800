//! `report.html` and `report.md` in a run's folder.
//!
//! Purpose: `folder -> source -> document -> page and Markdown -> folder`, at the end of a run and
//! by `holdfast-bench report`.
//! Invariants: a pure function of the folder's files: no clock, no kernel, nothing of the run that
//! is not on disk, so anybody can make it again. It is made after the verdict and never changes
//! one.
//! Must not depend on: how a run is made or judged.

pub mod chart;
pub mod document;
pub mod histograms;
pub(crate) mod html;
mod http;
mod longconn;
mod markdown;
mod pair;
mod percentiles;
mod proxy;
pub mod readme_charts;
mod relay;
pub mod series;
pub mod source;
pub mod svg;
mod timeline;
pub mod units;

use std::path::{Path, PathBuf};

use crate::folder::{self, RunFolder};
use crate::print::print_page;
use crate::record::Record;

use document::Document;
use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_telemetry::output;
use source::Source;

/// The page.
pub const HTML: &str = "report.html";
/// The text.
pub const MARKDOWN: &str = "report.md";

/// Both reports as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// [`HTML`].
    pub html: String,
    /// [`MARKDOWN`].
    pub markdown: String,
}

/// Makes both reports of what `folder` holds.
///
/// # Errors
/// When there is nothing to report on, or a schema that this program does not know.
pub fn make(folder: &Path) -> Result<Report, SetupError> {
    let source = Source::read(folder)?;
    render(&source).map_err(|why| {
        SetupError::new(
            SetupErrorKind::Io,
            format!("the report of {} cannot be made: {why}", source.name),
            "holdfast-bench report --help",
        )
    })
}

/// Makes both reports of what was read.
///
/// # Errors
/// When one cannot be drawn or written, in words.
pub fn render(source: &Source) -> Result<Report, String> {
    let mut document = Document {
        title: source.name.clone(),
        sentence: "The run left no record; this report shows its other files.".into(),
        notes: source.notes.clone(),
        ..Document::default()
    };
    if let Some(head) = &source.header {
        document.describe(head);
    }
    match &source.record {
        Some(Record::Longconn(run)) => longconn::describe(&mut document, source, Some(run)),
        Some(Record::Http(run)) => http::describe(&mut document, run),
        Some(Record::Proxy(run)) => proxy::describe(&mut document, run),
        Some(Record::Relay(run)) => relay::describe(&mut document, run),
        None => longconn::describe(&mut document, source, None),
    }
    if let Some(head) = &source.header {
        document.add_ground(head);
    }
    Ok(Report {
        html: html::render(&document)?,
        markdown: markdown::render(&document),
    })
}

/// Makes both reports and writes them into `folder`; returns where.
///
/// # Errors
/// Those of [`make`], and when a file cannot be written.
pub fn write(folder: &Path) -> Result<[PathBuf; 2], SetupError> {
    let report = make(folder)?;
    let into = RunFolder::at(folder);
    for (name, text) in [(HTML, &report.html), (MARKDOWN, &report.markdown)] {
        into.write(name, text.as_bytes()).map_err(|e| {
            SetupError::new(
                SetupErrorKind::Io,
                format!("{} cannot be written: {e}", folder.join(name).display()),
                "free space there, or change its owner, then holdfast-bench report again",
            )
        })?;
    }
    Ok([folder.join(HTML), folder.join(MARKDOWN)])
}

/// Writes the reports of a run that just ended and logs where; a failure is a warning and leaves
/// the verdict as it is.
pub fn write_or_warn(folder: &Path) {
    match write(folder) {
        Ok([page, _]) => output::log(format_args!("report: {}", page.display())),
        Err(error) => output::log(format_args!("warning: no report: {error}")),
    }
}

/// `holdfast-bench report RUN`: writes both again and prints their paths.
///
/// # Errors
/// Those of [`write()`], and when there is no such run.
pub fn rebuild(run: &str, runs: Option<&Path>) -> Result<u8, SetupError> {
    let [page, text] = write(&folder::find(run, runs)?)?;
    let is_printed = print_page(&format!("{}\n{}\n", page.display(), text.display()));
    Ok(u8::from(!is_printed))
}
