//! `report.html` and `report.md` in a run's folder.
//!
//! Purpose: `folder -> source -> document -> page and Markdown -> folder`, at the end of a run and by `holdfast-bench report`.
//! Invariants: a pure function of the folder's files: no clock, no kernel, nothing of the run that is not on disk, so anybody can make
//! it again. It is made after the verdict and never changes one.
//! Must not know: how a run is made or judged.

pub mod chart;
pub mod document;
pub mod draw;
pub mod histograms;
pub(crate) mod html;
mod http;
mod longconn;
mod markdown;
pub mod series;
pub mod source;
mod timeline;
pub mod units;

use std::path::{Path, PathBuf};

use crate::folder::{self, RunFolder};
use crate::refusal::Refusal;
use document::Document;
use source::{Record, Source};

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
pub fn make(folder: &Path) -> Result<Report, Refusal> {
    let source = Source::read(folder)?;
    let mut document = Document {
        title: source.name.clone(),
        sentence: "The run left no record; this is what its other files say.".into(),
        limits: source.limits.clone(),
        notes: source.notes.clone(),
        ..Document::default()
    };
    match &source.record {
        Record::Longconn(run) => longconn::describe(&mut document, &source, Some(run)),
        Record::Http(run) => http::describe(&mut document, run),
        Record::Missing => longconn::describe(&mut document, &source, None),
    }
    let failed = |why: String| {
        Refusal::new(
            format!("the report of {} cannot be made: {why}", source.name),
            "holdfast-bench report --help",
        )
    };
    Ok(Report {
        html: html::render(&document).map_err(failed)?,
        markdown: markdown::render(&document).map_err(failed)?,
    })
}

/// Makes both reports and writes them into `folder`; returns where.
///
/// # Errors
/// Those of [`make`], and when a file cannot be written.
pub fn write(folder: &Path) -> Result<[PathBuf; 2], Refusal> {
    let report = make(folder)?;
    let into = RunFolder::at(folder);
    for (name, text) in [(HTML, &report.html), (MARKDOWN, &report.markdown)] {
        into.write(name, text.as_bytes()).map_err(|e| {
            Refusal::new(
                format!("{} cannot be written: {e}", folder.join(name).display()),
                "free space there, or change its owner, then holdfast-bench report again",
            )
        })?;
    }
    Ok([folder.join(HTML), folder.join(MARKDOWN)])
}

/// The reports of a run that just ended, and where the page is; one that cannot be made is said, and the verdict stands.
pub fn leave(folder: &Path) {
    match write(folder) {
        Ok([page, _]) => eprintln!("report: {}", page.display()),
        Err(refusal) => eprintln!("warning: no report: {refusal}"),
    }
}

/// `holdfast-bench report RUN`: makes both again and prints where they are.
///
/// # Errors
/// Those of [`write()`], and when there is no such run.
pub fn again(run: &str, runs: Option<&Path>) -> Result<u8, Refusal> {
    for path in write(&folder::find(run, runs)?)? {
        println!("{}", path.display());
    }
    Ok(0)
}
