//! The runs of one side of a comparison.
//!
//! Purpose: from words on the command line to records: runs, `latest`, folders of runs, several of
//! each separated by commas.
//! Invariants: no run is in a side twice. A folder of runs counts as its runs; those among them
//! without a record are named.
//! Must not depend on: the other side.

use std::path::{Path, PathBuf};

use crate::folder::find;
use crate::record::{Record, folder_name, folders};

use holdfast_engine::{SetupError, SetupErrorKind};

/// One run.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its folder's name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its record.
    pub record: Record,
}

/// Reads the runs that `words` name; `notes` receives what was left out.
///
/// # Errors
/// When one of them is not there or has no record.
pub fn read(
    words: &str,
    runs: Option<&Path>,
    notes: &mut Vec<String>,
) -> Result<Vec<Sample>, SetupError> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut add = |folder: PathBuf, record| {
        let folder = folder.canonicalize().unwrap_or(folder);
        if samples.iter().all(|seen| seen.folder != folder) {
            samples.push(Sample {
                name: folder_name(&folder),
                folder,
                record,
            });
        }
    };
    for word in words.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        let folder = find(word, runs)?;
        let why = match Record::read(&folder) {
            Ok(record) => {
                add(folder, record);
                continue;
            }
            Err(why) => why,
        };
        let mut is_empty = true;
        for inner in folders(&folder).unwrap_or_default() {
            match Record::read(&inner) {
                Ok(record) => {
                    add(inner, record);
                    is_empty = false;
                }
                Err(why) => notes.push(format!("{} is left out: {why}", inner.display())),
            }
        }
        if is_empty {
            let cause = format!(
                "{} is neither a run nor a folder of runs: {why}",
                folder.display()
            );
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                cause,
                "holdfast-bench list shows the runs there are",
            ));
        }
    }
    if samples.is_empty() {
        return Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            format!("{words:?} names no run"),
            "holdfast-bench compare BEFORE AFTER, each a run, a folder of runs, or several separated by commas",
        ));
    }
    Ok(samples)
}
