//! What a run's folder holds.
//!
//! Purpose: `run.json`, `series.csv` and `histograms.hlog` read for a report, whatever state they are in.
//! Invariants: reads only. What is missing or damaged is a note in words; only a folder with nothing to report on is refused.
//! Must not know: how a report looks.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::histograms::Histograms;
use super::series::Series;
use crate::http::record::{HTTP_RUN_SCHEMA, HttpRun};
use crate::refusal::Refusal;
use crate::run::{RUN_SCHEMA, Run};

/// The record of a run.
#[derive(Debug)]
pub enum Record {
    /// Of `holdfast-bench longconn`.
    Longconn(Box<Run>),
    /// Of `holdfast-bench http`.
    Http(Box<HttpRun>),
    /// It is not there, or is none.
    Missing,
}

/// Who kept the run from going faster or higher, and by what that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitNote {
    /// The limit.
    pub what: String,
    /// What shows it.
    pub evidence: String,
    /// What moves it.
    pub next: String,
}

/// A run's folder, read.
#[derive(Debug)]
pub struct Source {
    /// The folder's name.
    pub name: String,
    /// `run.json`.
    pub record: Record,
    /// Its `limits`.
    pub limits: Vec<LimitNote>,
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
    /// When there is nothing in it to report on, or the record is of a schema that this program does not know.
    pub fn read(folder: &Path) -> Result<Self, Refusal> {
        if !folder.is_dir() {
            return Err(Refusal::new(
                format!("{} is no folder of a run", folder.display()),
                "ls results/runs, then holdfast-bench report FOLDER",
            ));
        }
        let mut notes = Vec::new();
        let (record, limits) = read_record(&folder.join("run.json"), &mut notes)?;
        // An HTTP run has neither of the other two.
        let is_wanted = !matches!(record, Record::Http(_));
        let series = read_beside(folder, "series.csv", is_wanted, Series::read, &mut notes);
        let histograms = read_beside(
            folder,
            "histograms.hlog",
            is_wanted,
            Histograms::read,
            &mut notes,
        );
        if histograms.unread_lines > 0 {
            notes.push(format!(
                "histograms.hlog: {} lines could not be read",
                histograms.unread_lines
            ));
        }
        if matches!(record, Record::Missing) && series.is_empty() && histograms.tags.is_empty() {
            return Err(Refusal::new(
                format!(
                    "{} holds nothing to report on: {}",
                    folder.display(),
                    notes.join(", ")
                ),
                "ls results/runs, then holdfast-bench report FOLDER",
            ));
        }
        let name = folder
            .canonicalize()
            .unwrap_or_else(|_| folder.to_path_buf());
        Ok(Self {
            name: name
                .file_name()
                .map_or_else(String::new, |n| n.to_string_lossy().into_owned()),
            record,
            limits,
            series,
            histograms,
            notes,
        })
    }
}

fn read_record(
    path: &PathBuf,
    notes: &mut Vec<String>,
) -> Result<(Record, Vec<LimitNote>), Refusal> {
    let value: Value = match fs::read(path)
        .map_err(|e| in_words(&e))
        .and_then(|text| serde_json::from_slice(&text).map_err(|e| format!("is not JSON ({e})")))
    {
        Ok(value) => value,
        Err(why) => {
            notes.push(format!(
                "run.json {why}: no verdict and no figures of the whole run"
            ));
            return Ok((Record::Missing, Vec::new()));
        }
    };
    let limits = value.get("limits").map(limits).unwrap_or_default();
    let schema = value
        .get("schema")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_string();
    let record = match schema.as_str() {
        RUN_SCHEMA => typed(value).map(Record::Longconn),
        HTTP_RUN_SCHEMA => typed(value).map(Record::Http),
        _ => {
            return Err(Refusal::new(
                format!(
                    "{} has schema {schema:?}; this program knows {RUN_SCHEMA} and {HTTP_RUN_SCHEMA}",
                    path.display()
                ),
                "make the report with the holdfast-bench of the commit that the record names",
            ));
        }
    };
    Ok(match record {
        Ok(record) => (record, limits),
        Err(why) => {
            notes.push(format!("run.json does not follow {schema} ({why}): no verdict and no figures of the whole run"));
            (Record::Missing, limits)
        }
    })
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<Box<T>, String> {
    serde_json::from_value(value)
        .map(Box::new)
        .map_err(|e| e.to_string())
}

/// Each limit that has words; the others are left out.
fn limits(value: &Value) -> Vec<LimitNote> {
    #[derive(Deserialize)]
    struct Raw {
        what: String,
        #[serde(default)]
        evidence: Value,
        #[serde(default)]
        next: Value,
    }
    let raw = value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| Raw::deserialize(v).ok());
    raw.map(|raw| LimitNote {
        what: raw.what,
        evidence: words(&raw.evidence),
        next: words(&raw.next),
    })
    .collect()
}

/// A text, or a list of texts, as one text.
fn words(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(words).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    }
}

fn read_beside<T: Default>(
    folder: &Path,
    name: &str,
    is_wanted: bool,
    read: fn(&Path) -> std::io::Result<T>,
    notes: &mut Vec<String>,
) -> T {
    match read(&folder.join(name)) {
        Ok(found) => found,
        Err(e) => {
            if is_wanted || e.kind() != ErrorKind::NotFound {
                notes.push(format!("{name} {}: its charts are left out", in_words(&e)));
            }
            T::default()
        }
    }
}

fn in_words(e: &std::io::Error) -> String {
    match e.kind() {
        ErrorKind::NotFound => "is missing".into(),
        _ => format!("cannot be read ({e})"),
    }
}
