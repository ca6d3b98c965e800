//! What a run's folder holds.
//!
//! Purpose: `run.json`, `series.csv` and `histograms.hlog` read for a report, whatever state they
//! are in.
//! Invariants: reads only. What is missing or damaged is a note in words; only a folder with
//! nothing to report on is refused.
//! Must not depend on: how a report looks.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::histograms::Histograms;
use super::series::Series;
use crate::folder::RunFolder;
use crate::header::Header;
use crate::record::{ReadError, Record};

use holdfast_engine::{SetupError, SetupErrorKind};

/// A run's folder, read.
#[derive(Debug)]
pub struct Source {
    /// The folder's name.
    pub name: String,
    /// `run.json`; `None`: it is not there, or is no record.
    pub record: Option<Record>,
    /// Its header, which may be sound where the rest is not.
    pub header: Option<Header>,
    /// `series.csv`; empty without it.
    pub series: Series,
    /// `histograms.hlog`; empty without it.
    pub histograms: Histograms,
    /// What is missing or damaged.
    pub notes: Vec<String>,
}

impl Source {
    /// Reads the folder.
    ///
    /// # Errors
    /// When there is nothing in it to report on, or the record is of a schema that this program
    /// does not know.
    pub fn read(folder: &Path) -> Result<Self, SetupError> {
        const NEXT: &str = "ls results/runs, then holdfast-bench report FOLDER";
        if !folder.is_dir() {
            let cause = format!("{} is no folder of a run", folder.display());
            return Err(SetupError::new(SetupErrorKind::InvalidInput, cause, NEXT));
        }
        let open = |name: &str| RunFolder::open_file(folder, name);
        let path = folder.canonicalize().unwrap_or_else(|_| folder.into());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let files = [
            open("run.json"),
            open("series.csv"),
            open("histograms.hlog"),
        ];
        let source = Self::of(name.into_owned(), files)?;
        let has_none = source.record.is_none()
            && source.series.is_empty()
            && source.histograms.tags.is_empty();
        if has_none {
            let (path, notes) = (folder.display(), source.notes.join(", "));
            let cause = format!("{path} holds nothing to report on: {notes}");
            return Err(SetupError::new(SetupErrorKind::InvalidInput, cause, NEXT));
        }
        Ok(source)
    }

    /// Reads the three files of a run, those that are there.
    ///
    /// # Errors
    /// When the record is of a schema that this program does not know.
    pub fn of(name: String, files: [io::Result<impl io::Read>; 3]) -> Result<Self, SetupError> {
        let mut notes = Vec::new();
        let [record, series, histograms] = files;
        let (record, header) = read_record(record, &name, &mut notes)?;
        let mut beside = |name: &str, e: io::Error| {
            // Only long connections have them.
            let is_wanted = matches!(record, Some(Record::Longconn(_)) | None);
            if is_wanted || e.kind() != ErrorKind::NotFound {
                notes.push(format!("{name} {}: its charts are left out", in_words(&e)));
            }
        };
        let series = series.and_then(Series::read);
        let series = series.map_err(|e| beside("series.csv", e));
        let histograms = histograms.and_then(Histograms::read);
        let histograms = histograms.map_err(|e| beside("histograms.hlog", e));
        let histograms = histograms.unwrap_or_default();
        let unread = histograms.unread_lines;
        if unread > 0 {
            notes.push(format!("histograms.hlog: {unread} lines could not be read"));
        }
        Ok(Self {
            name,
            record,
            header,
            series: series.unwrap_or_default(),
            histograms,
            notes,
        })
    }
}

fn read_record(
    file: io::Result<impl io::Read>,
    name: &str,
    notes: &mut Vec<String>,
) -> Result<(Option<Record>, Option<Header>), SetupError> {
    let mut text = Vec::new();
    let read = file.and_then(|mut file| file.read_to_end(&mut text));
    let (why, header) = match read.map(|_| Record::parse(&text)) {
        Ok(Ok(record)) => {
            let header = record.header().clone();
            return Ok((Some(record), Some(header)));
        }
        Ok(Err(unknown @ ReadError::UnknownSchema(_))) => {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!("{name}: {unknown}"),
                "make the report with the holdfast-bench of the commit that the record names",
            ));
        }
        Ok(Err(ReadError::Damaged { why, header })) => (format!("is damaged ({why})"), header),
        Err(e) => (in_words(&e), None),
    };
    notes.push(format!(
        "run.json {why}: no verdict and no figures of the whole run"
    ));
    Ok((None, header.map(|header| *header)))
}

fn in_words(e: &io::Error) -> String {
    match e.kind() {
        ErrorKind::NotFound => "is missing".into(),
        _ => format!("cannot be read ({e})"),
    }
}
