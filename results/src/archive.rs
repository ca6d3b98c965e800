//! Runs that are over: their folders and records, read back.
//!
//! Purpose: one way in for everything that looks at runs later: `list`, `show`, `compare`.
//! Invariants: reads only. A folder that holds no sound record is said in words, and never more than that.
//! Must not know: what records are compared or shown for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::http::record::{HTTP_RUN_SCHEMA, HttpRun};
use crate::run::{LabRecord, Machine, RUN_SCHEMA, Run, Verdict, total};
use crate::summary::count;

/// The record of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// Of `holdfast-bench longconn`.
    Longconn(Box<Run>),
    /// Of `holdfast-bench http`.
    Http(Box<HttpRun>),
}

/// The part of a record that does not depend on what was measured; `run.json` in the README explains each.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Head<'a> {
    pub name: &'a str,
    pub verdict: Verdict,
    pub started_at: &'a str,
    pub commit: &'a str,
    pub command: &'a str,
    pub machine: &'a Machine,
    pub lab: &'a LabRecord,
    pub incidents: &'a [String],
}

impl Record {
    /// Reads `run.json` in `folder`.
    ///
    /// # Errors
    /// Why there is no record, in words.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let text = fs::read(folder.join("run.json")).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                "no run.json: still running, or it died before its end".to_string()
            }
            _ => format!("run.json cannot be read: {e}"),
        })?;
        let value: Value =
            serde_json::from_slice(&text).map_err(|e| format!("run.json is damaged: {e}"))?;
        let schema = value.get("schema").and_then(Value::as_str).unwrap_or("");
        let damaged = |e: serde_json::Error| format!("run.json is damaged: {e}");
        match schema {
            RUN_SCHEMA => serde_json::from_value(value)
                .map(|run| Self::Longconn(Box::new(run)))
                .map_err(damaged),
            HTTP_RUN_SCHEMA => serde_json::from_value(value)
                .map(|run| Self::Http(Box::new(run)))
                .map_err(damaged),
            other => Err(format!(
                "run.json has schema {other:?}; known are {RUN_SCHEMA} and {HTTP_RUN_SCHEMA}"
            )),
        }
    }

    /// What both kinds have.
    #[must_use]
    pub fn head(&self) -> Head<'_> {
        macro_rules! head {
            ($run:expr) => {
                Head {
                    name: &$run.name,
                    verdict: $run.verdict,
                    started_at: &$run.started_at,
                    commit: &$run.commit,
                    command: &$run.command,
                    machine: &$run.machine,
                    lab: &$run.lab,
                    incidents: &$run.incidents,
                }
            };
        }
        match self {
            Self::Longconn(run) => head!(run),
            Self::Http(run) => head!(run),
        }
    }

    /// Its result in a few words.
    #[must_use]
    pub fn headline(&self) -> String {
        match self {
            Self::Longconn(run) => format!(
                "{} of {} users held, {} failed, {} lost; {}/s",
                count(run.connections.held_at_end),
                count(run.connections.asked),
                count(total(&run.connections.failed)),
                count(run.connections.lost),
                count(run.ramp.per_second.max(0.0).round() as u64)
            ),
            Self::Http(run) => {
                let ours = run.scenarios.iter().filter(|e| e.subject == "holdfast");
                let best = ours.filter_map(|e| e.requests_per_second).reduce(f64::max);
                format!(
                    "{} scenarios, {} rounds; {} requests/s at best",
                    run.asked.scenarios.len(),
                    run.asked.rounds,
                    best.map_or("-".into(), |rate| count(rate.max(0.0).round() as u64))
                )
            }
        }
    }
}

/// The folders in `runs`, links left out, by name.
///
/// # Errors
/// When `runs` cannot be read.
pub fn folders(runs: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders: Vec<PathBuf> = fs::read_dir(runs)?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    folders.sort();
    Ok(folders)
}

/// The last part of a folder's path, links followed.
#[must_use]
pub fn folder_name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let name = whole.file_name().unwrap_or(folder.as_os_str());
    name.to_string_lossy().into_owned()
}
