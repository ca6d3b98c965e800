//! What a run's folder holds.
//!
//! Purpose: `run.json`, `series.csv` and `histograms.hlog` read for a report, whatever state they are in.
//! Invariants: reads only. What is missing or damaged is a note in words; only a folder with nothing to report on is refused.
//! Must not know: how a report looks.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::histograms::Histograms;
use super::series::Series;
use crate::http::record::{HTTP_RUN_SCHEMA, HttpRun};
use crate::refusal::Refusal;
use crate::run::{LabRecord, Machine, RUN_SCHEMA, Run, Verdict};

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

/// What every record says, whatever was measured: the keys that [`Run`] and [`HttpRun`] share.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Common {
    /// What was measured.
    pub name: String,
    /// `--name`, if given.
    pub label: Option<String>,
    /// Whether nothing fell short.
    pub verdict: Verdict,
    /// Every shortfall in words.
    pub reasons: Vec<String>,
    /// Command line of the bench.
    pub command: String,
    /// Commit it was built from.
    pub commit: String,
    /// Start, RFC 3339.
    pub started_at: String,
    /// The whole run, seconds.
    pub seconds: f64,
    /// Where it ran.
    pub machine: Machine,
    /// The network namespace and its settings.
    pub lab: LabRecord,
    /// Who was the limit.
    #[serde(deserialize_with = "limits")]
    pub limits: Vec<LimitNote>,
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
    /// What it has in common with other records; `None` without it.
    pub common: Option<Common>,
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
        const NEXT: &str = "ls results/runs, then holdfast-bench report FOLDER";
        if !folder.is_dir() {
            let cause = format!("{} is no folder of a run", folder.display());
            return Err(Refusal::new(cause, NEXT));
        }
        let open = |name: &str| File::open(folder.join(name));
        let path = folder.canonicalize().unwrap_or_else(|_| folder.into());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let files = [
            open("run.json"),
            open("series.csv"),
            open("histograms.hlog"),
        ];
        let source = Self::of(name.into_owned(), files)?;
        let has_none = matches!(source.record, Record::Missing)
            && source.series.is_empty()
            && source.histograms.tags.is_empty();
        if has_none {
            let (path, notes) = (folder.display(), source.notes.join(", "));
            let cause = format!("{path} holds nothing to report on: {notes}");
            return Err(Refusal::new(cause, NEXT));
        }
        Ok(source)
    }

    /// Reads the three files of a run, those that are there.
    ///
    /// # Errors
    /// When the record is of a schema that this program does not know.
    pub fn of(name: String, files: [io::Result<impl io::Read>; 3]) -> Result<Self, Refusal> {
        let mut notes = Vec::new();
        let [record, series, histograms] = files;
        let (record, common) = read_record(record, &name, &mut notes)?;
        let mut beside = |name: &str, e: io::Error| {
            // An HTTP run has neither of the two.
            let is_wanted = !matches!(record, Record::Http(_));
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
            common,
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
) -> Result<(Record, Option<Common>), Refusal> {
    const LACKS: &str = "no verdict and no figures of the whole run";
    let mut text = Vec::new();
    let read = file.and_then(|mut file| file.read_to_end(&mut text));
    let parsed = read.map_err(|e| in_words(&e)).and_then(|_| {
        serde_json::from_slice::<Value>(&text).map_err(|e| format!("is not JSON ({e})"))
    });
    let value = match parsed {
        Ok(value) => value,
        Err(why) => {
            notes.push(format!("run.json {why}: {LACKS}"));
            return Ok((Record::Missing, None));
        }
    };
    let common = Common::deserialize(&value).ok();
    let schema = value.get("schema").and_then(Value::as_str);
    let schema = schema.unwrap_or_default().to_string();
    let record = match schema.as_str() {
        RUN_SCHEMA => typed(value).map(Record::Longconn),
        HTTP_RUN_SCHEMA => typed(value).map(Record::Http),
        _ => {
            return Err(Refusal::new(
                format!(
                    "the run.json of {name} has schema {schema:?}; this program knows {RUN_SCHEMA} and {HTTP_RUN_SCHEMA}"
                ),
                "make the report with the holdfast-bench of the commit that the record names",
            ));
        }
    };
    Ok(match record {
        Ok(record) => (record, common),
        Err(why) => {
            notes.push(format!(
                "run.json does not follow {schema} ({why}): {LACKS}"
            ));
            (Record::Missing, None)
        }
    })
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<Box<T>, String> {
    serde_json::from_value(value)
        .map(Box::new)
        .map_err(|e| e.to_string())
}

/// Each limit that has words; the others are left out.
fn limits<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<LimitNote>, D::Error> {
    #[derive(Deserialize)]
    struct Raw {
        what: String,
        #[serde(default)]
        evidence: Value,
        #[serde(default)]
        next: Value,
    }
    let all = Value::deserialize(from)?;
    let raw = all.as_array().into_iter().flatten();
    let raw = raw.filter_map(|limit| Raw::deserialize(limit).ok());
    let notes = raw.map(|raw| LimitNote {
        what: raw.what,
        evidence: words(&raw.evidence),
        next: words(&raw.next),
    });
    Ok(notes.collect())
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

fn in_words(e: &io::Error) -> String {
    match e.kind() {
        ErrorKind::NotFound => "is missing".into(),
        _ => format!("cannot be read ({e})"),
    }
}
