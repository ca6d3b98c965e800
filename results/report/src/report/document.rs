//! What a report says, before anybody decides how it looks.
//!
//! Purpose: one document that the page and the Markdown are both made of, so that their figures
//! cannot differ.
//! Invariants: texts are as they came, escaped by nobody yet.
//! Must not depend on: HTML, Markdown, files.

use super::chart::Chart;
use super::units::{known, span};
use crate::bottleneck::Bottleneck;
use crate::header::{Header, Verdict};

use holdfast_telemetry::units::{bytes, count};

/// The report of one run.
#[derive(Debug, Clone, Default)]
pub struct Document {
    /// Name of the run.
    pub title: String,
    /// When, how long, at which commit.
    pub subtitle: Vec<String>,
    /// `None`: the record is not there to say.
    pub verdict: Option<Verdict>,
    /// The result in one sentence.
    pub sentence: String,
    /// Why the run fell short.
    pub reasons: Vec<String>,
    /// What stopped it from going faster or higher.
    pub limits: Vec<Bottleneck>,
    /// What a reader must know besides.
    pub notes: Vec<String>,
    /// Headline figures.
    pub tiles: Vec<Tile>,
    /// Tables that say the most, to be read first.
    pub overview: Vec<Table>,
    /// Charts by subject.
    pub sections: Vec<Section>,
    /// All other figures.
    pub tables: Vec<Table>,
    /// What a command is for, and the command.
    pub commands: Vec<(String, String)>,
}

/// A headline figure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tile {
    /// What it is.
    pub label: String,
    /// The figure with its unit.
    pub value: String,
    /// What to know about it.
    pub note: String,
    /// It is one that makes a run fall short.
    pub is_bad: bool,
}

impl Tile {
    /// From texts.
    pub fn new(label: &str, value: impl Into<String>, note: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            value: value.into(),
            note: note.into(),
            is_bad: false,
        }
    }

    /// The same, marked if `is_bad`.
    #[must_use]
    pub fn bad_if(self, is_bad: bool) -> Self {
        Self { is_bad, ..self }
    }
}

/// Charts that belong together.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// Heading.
    pub title: String,
    /// What holds for all of its charts, or what there is to say instead of a chart.
    pub paragraphs: Vec<String>,
    /// The charts.
    pub charts: Vec<Chart>,
}

impl Section {
    /// A section of those charts that could be made.
    pub fn new(
        title: &str,
        paragraphs: Vec<String>,
        charts: impl IntoIterator<Item = Option<Chart>>,
    ) -> Self {
        Self {
            title: title.into(),
            paragraphs,
            charts: charts.into_iter().flatten().collect(),
        }
    }

    /// There is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paragraphs.is_empty() && self.charts.is_empty()
    }
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Heading.
    pub title: String,
    /// Heads of the columns.
    pub head: Vec<String>,
    /// How many columns, from the left, hold words; the others hold figures.
    pub word_columns: usize,
    /// Rows of as many fields.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table; short rows are filled up.
    #[must_use]
    pub fn new(
        title: &str,
        head: &[&str],
        word_columns: usize,
        mut rows: Vec<Vec<String>>,
    ) -> Self {
        for row in &mut rows {
            row.resize(head.len(), String::new());
        }
        Self {
            title: title.into(),
            head: head.iter().map(ToString::to_string).collect(),
            word_columns,
            rows,
        }
    }
}

impl Document {
    /// Takes what stands above everything else: the verdict, where it comes from, and the command
    /// to repeat it.
    pub fn describe(&mut self, head: &Header) {
        let Header { name, commit, .. } = head;
        self.title = match &head.label {
            Some(label) => format!("{name} · {label}"),
            None => name.clone(),
        };
        self.subtitle = vec![head.started_at.clone(), span(head.seconds)];
        let is_dirty = commit.ends_with("-dirty");
        if !commit.is_empty() {
            let short: String = commit.chars().take(12).collect();
            let changes = if is_dirty { " with changes" } else { "" };
            self.subtitle.push(format!("commit {short}{changes}"));
        }
        self.verdict = Some(head.verdict);
        self.reasons = head.reasons.clone();
        self.limits = head.limits.clone();
        let checkout = if commit.is_empty() || is_dirty {
            String::new()
        } else {
            format!("git checkout {commit} && make build && ")
        };
        let command = format!("{checkout}{}", head.command);
        self.commands.push(("Repeat this run".into(), command));
    }

    /// Adds the machine and the settings that were not the kernel's own.
    pub fn add_ground(&mut self, head: &Header) {
        let Header { machine, lab, .. } = head;
        let limit = machine.rlimit_nofile;
        let hash = known(lab.connection_hash_buckets, |n| {
            let shared = if n < 0 { ", shared with the host" } else { "" };
            format!("{}{shared}", count(n.unsigned_abs()))
        });
        let rows = [
            ("Kernel", machine.kernel.clone()),
            ("Processor", machine.cpu.clone()),
            ("Cores", machine.core_count.to_string()),
            ("Memory", bytes(machine.memory_bytes)),
            (
                "Descriptors, soft / hard limit",
                format!("{} / {}", count(limit.soft), count(limit.hard)),
            ),
            ("Network namespace", lab.namespace.clone()),
            ("Buckets of the connection table", hash),
        ];
        let rows = rows
            .into_iter()
            .map(|(name, value)| vec![name.into(), value])
            .collect();
        self.tables.push(Table::new("Machine", &["", ""], 2, rows));

        let (differ, same): (Vec<_>, Vec<_>) = lab
            .settings
            .iter()
            .partition(|s| s.before != s.after || s.error.is_some());
        let value = |v: &Option<String>| v.clone().unwrap_or_else(|| "-".into());
        let rows: Vec<Vec<String>> = differ
            .iter()
            .map(|s| {
                let why = s
                    .error
                    .as_ref()
                    .map_or_else(|| s.why.clone(), |e| format!("not set: {e}"));
                vec![s.key.clone(), value(&s.before), value(&s.after), why]
            })
            .collect();
        if !rows.is_empty() {
            let head = ["Setting", "Kernel's default", "In this run", "Why"];
            self.tables.push(Table::new(
                "Settings that differ from the kernel's default",
                &head,
                4,
                rows,
            ));
        } else {
            self.notes
                .push("no kernel setting differs from its default".into());
        }
        if !same.is_empty() {
            let names: Vec<&str> = same.iter().map(|s| s.key.as_str()).collect();
            self.notes
                .push(format!("as the kernel has it anyway: {}", names.join(", ")));
        }
        self.notes.extend(lab.notes.iter().cloned());
    }
}
