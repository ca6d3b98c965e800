//! Runs that are over: their folders and records, read back.
//!
//! Purpose: one way in for everything that looks at runs later: `list`, `show`, `compare`.
//! Invariants: reads only. A folder that holds no sound record is said in words, and never more
//! than that.
//! Must not depend on: what records are compared or shown for.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::bottleneck;
use crate::folder::RunFolder;
use crate::header::Header;
use crate::http::record::{CHAT_RUN_SCHEMA, HTTP_RUN_SCHEMA, HttpRun};
use crate::proxy::record::{PROXY_RUN_SCHEMA, PROXY_RUN_SCHEMA_1, ProxyRun};
use crate::relay::record::{OURS, RELAY_RUN_SCHEMA, RelayRun};
use crate::relay::verdict::limits;
use crate::run::{RUN_SCHEMA, Run};

use holdfast_telemetry::units::{count, total};

/// The record of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// Of `holdfast-bench longconn`.
    Longconn(Box<Run>),
    /// Of `holdfast-bench http`, or `chat`.
    Http(Box<HttpRun>),
    /// Of `holdfast-bench proxy`.
    Proxy(Box<ProxyRun>),
    /// Of `holdfast-bench relay`.
    Relay(Box<RelayRun>),
}

/// Why a `run.json` is no record.
#[derive(Debug, Clone, PartialEq)]
pub enum ReadError {
    /// Its schema is not known here.
    UnknownSchema(String),
    /// It does not follow its schema, or is not even JSON.
    Damaged {
        /// How that shows.
        why: String,
        /// Its head, where that is sound.
        header: Option<Box<Header>>,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownSchema(schema) => write!(
                f,
                "run.json has schema {schema:?}; known are {RUN_SCHEMA}, {HTTP_RUN_SCHEMA}, {CHAT_RUN_SCHEMA}, {PROXY_RUN_SCHEMA} and {RELAY_RUN_SCHEMA}"
            ),
            Self::Damaged { why, .. } => write!(f, "run.json is damaged: {why}"),
        }
    }
}

impl Record {
    /// Reads `run.json` in `folder`.
    ///
    /// # Errors
    /// Why there is no record, in words.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let mut text = Vec::new();
        RunFolder::open_file(folder, "run.json")
            .and_then(|mut file| file.read_to_end(&mut text))
            .map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => {
                    "no run.json: still running, or it died before its end".to_string()
                }
                _ => format!("run.json cannot be read: {e}"),
            })?;
        Self::parse(&text).map_err(|why| why.to_string())
    }

    /// Reads the text of a `run.json`.
    ///
    /// # Errors
    /// Why it is no record.
    pub fn parse(text: &[u8]) -> Result<Self, ReadError> {
        fn typed<R: DeserializeOwned>(value: &Value) -> Result<Box<R>, ReadError> {
            R::deserialize(value)
                .map(Box::new)
                .map_err(|e| ReadError::Damaged {
                    why: e.to_string(),
                    header: Header::deserialize(value).ok().map(Box::new),
                })
        }
        let value: Value = serde_json::from_slice(text).map_err(|e| ReadError::Damaged {
            why: e.to_string(),
            header: None,
        })?;
        let mut record = match value["schema"].as_str().unwrap_or_default() {
            RUN_SCHEMA => typed(&value).map(Self::Longconn),
            HTTP_RUN_SCHEMA | CHAT_RUN_SCHEMA => typed(&value).map(Self::Http),
            PROXY_RUN_SCHEMA | PROXY_RUN_SCHEMA_1 => typed(&value).map(Self::Proxy),
            RELAY_RUN_SCHEMA => typed(&value).map(Self::Relay),
            other => Err(ReadError::UnknownSchema(other.into())),
        }?;
        record.add_limits();
        Ok(record)
    }

    /// Gives a record of before there were limits, or modes, those that follow from it, as from any
    /// other.
    fn add_limits(&mut self) {
        if let Self::Proxy(run) = self {
            run.name_modes();
        }
        if let Self::Http(run) = self {
            for entry in run.scenarios.iter_mut().filter(|e| e.limits.is_empty()) {
                entry.limits = bottleneck::of_entry(entry);
            }
        }
        if !self.header().limits.is_empty() {
            return;
        }
        match self {
            Self::Longconn(run) => run.header.limits = bottleneck::of_longconn(run),
            Self::Http(run) => run.header.limits = bottleneck::of_http(run),
            Self::Proxy(run) => run.header.limits = bottleneck::of_proxy(run),
            Self::Relay(run) => run.header.limits = limits(run),
        }
    }

    /// What all kinds have.
    #[must_use]
    pub fn header(&self) -> &Header {
        match self {
            Self::Longconn(run) => &run.header,
            Self::Http(run) => &run.header,
            Self::Proxy(run) => &run.header,
            Self::Relay(run) => &run.header,
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
                    "{} scenarios, {} rounds; {} {}/s at best",
                    run.asked.scenarios.len(),
                    run.asked.rounds,
                    best.map_or("-".into(), |rate| count(rate.max(0.0).round() as u64)),
                    run.things()
                )
            }
            Self::Proxy(run) => {
                let stopped = run.stopped().map_or_else(String::new, |(trial, limit)| {
                    let held = limit.connections.map_or("-".into(), count);
                    let what = limit.what.label();
                    format!("; {}: stopped at {held} ({what})", trial.scenario)
                });
                format!(
                    "{} direct and between: {} scenarios{stopped}",
                    run.asked.system,
                    run.asked.scenarios.len()
                )
            }
            Self::Relay(run) => {
                let held = run.entries.iter().filter(|e| e.subject == OURS);
                let held = held.filter_map(|e| e.value("held")).reduce(f64::max);
                let (met, known) = run.met();
                format!(
                    "{} scenarios, {} rounds; {met} of {known} targets met; {} pairs held at most",
                    run.scenarios().len(),
                    run.asked.rounds,
                    held.map_or("-".into(), |n| count(n.max(0.0) as u64))
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
