//! `holdfast-bench list` and `show`: runs that are over, as a table, and one of them as the page it
//! ended with.
//!
//! Invariants: reads only. A damaged folder is a line that says so, among the others; newest first.
//! Must not depend on: how a run is made or judged.

use std::fs;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::folder::{find, runs_or_default};
use crate::header::Verdict;
use crate::print::{print_bytes, print_page, print_result};
use crate::record::{Record, folder_name, folders};
use crate::{http, proxy, relay, summary};

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_telemetry::units::bytes;

/// One folder.
#[derive(Debug, Serialize)]
struct Line {
    /// The folder's name.
    run: String,
    /// When it started, RFC 3339; empty if unknown.
    started_at: String,
    /// What was measured.
    name: Option<String>,
    /// Pass or fail; `null`: unknown.
    verdict: Option<Verdict>,
    /// Its result in a few words.
    headline: Option<String>,
    /// The commit it was measured at.
    commit: Option<String>,
    /// All files in the folder.
    size_bytes: u64,
    /// Why there is no record.
    damage: Option<String>,
}

impl Line {
    fn of(folder: &Path) -> Self {
        let mut line = Self {
            run: folder_name(folder),
            started_at: String::new(),
            name: None,
            verdict: None,
            headline: None,
            commit: None,
            size_bytes: size_bytes(folder),
            damage: None,
        };
        match Record::read(folder) {
            Ok(record) => {
                let head = record.header();
                line.started_at = head.started_at.clone();
                line.name = Some(head.name.clone());
                line.verdict = Some(head.verdict);
                line.headline = Some(record.headline());
                line.commit = Some(head.commit.clone());
            }
            Err(why) => line.damage = Some(why),
        }
        line
    }

    /// What it is sorted by: the stamp in its name, which a record that is damaged has too.
    fn moment(&self) -> String {
        let stamp: String = self.started_at.replace(['-', ':'], "");
        if stamp.is_empty() {
            self.run.clone()
        } else {
            stamp
        }
    }
}

fn size_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => size_bytes(&entry.path()),
            _ => entry.metadata().map_or(0, |meta| meta.len()),
        })
        .fold(0, u64::saturating_add)
}

/// Prints a table of the runs in `runs`, or JSON.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(runs: Option<&Path>, is_json: bool) -> Result<u8, SetupError> {
    let runs = runs_or_default(runs);
    let folders = folders(&runs).map_err(|e| {
        let cause = format!("the runs in {} cannot be read: {e}", runs.display());
        SetupError::new(
            SetupErrorKind::InvalidInput,
            cause,
            "name their folder with --results-dir DIR",
        )
    })?;
    let mut lines: Vec<Line> = folders.iter().map(|folder| Line::of(folder)).collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.moment()));
    let is_printed = print_result(&lines, is_json, || table(&lines, &runs));
    Ok(u8::from(!is_printed))
}

fn table(lines: &[Line], runs: &Path) -> String {
    if lines.is_empty() {
        return format!("no runs in {}; next: make bench-longconn\n", runs.display());
    }
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(["started", "run", "verdict", "size", "result"]);
    for line in lines {
        let verdict = match line.verdict {
            Some(Verdict::Pass) => "pass",
            Some(Verdict::Fail) => "FAIL",
            None => "-",
        };
        let started = line.started_at.replace('T', " ").replace('Z', "");
        let result = line.headline.as_deref().or(line.damage.as_deref());
        table.add_row([
            if started.is_empty() { "-" } else { &started },
            &line.run,
            verdict,
            &bytes(line.size_bytes),
            result.unwrap_or("-"),
        ]);
    }
    if let Some(size) = table.column_mut(3) {
        size.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

/// Prints the page of a run again, made of its record, or the record itself.
///
/// # Errors
/// When there is no such run, or no sound record in it.
pub fn show(run: &str, runs: Option<&Path>, is_json: bool) -> Result<u8, SetupError> {
    let folder = find(run, runs)?;
    let record = Record::read(&folder).map_err(|why| {
        SetupError::new(
            SetupErrorKind::InvalidInput,
            format!("{}: {why}", folder.display()),
            "holdfast-bench list shows the runs there are",
        )
    })?;
    if is_json {
        // As it is on disk, with keys this version does not know.
        let text = fs::read(folder.join("run.json"));
        let text = text.map_err(|e| {
            SetupError::new(
                SetupErrorKind::Io,
                format!("run.json: {e}"),
                "holdfast-bench list",
            )
        })?;
        return Ok(u8::from(!print_bytes(&text)));
    }
    let path = folder.canonicalize().unwrap_or(folder);
    let page = match record {
        Record::Longconn(run) => summary::page(&run, &path),
        Record::Http(run) => http::summary::page(&run, &path),
        Record::Proxy(run) => proxy::summary::page(&run, &path),
        Record::Relay(run) => relay::summary::page(&run, &path),
    };
    Ok(u8::from(!print_page(&page)))
}
