//! Plans, changes and settings as tables in a terminal.
//!
//! Invariants: on a pipe nothing is wrapped or coloured, so that lines can be searched; NO_COLOR is
//! respected.
//! Must not depend on: how anything was calculated.

use std::fmt::Write;
use std::io::IsTerminal;

use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, presets};
use holdfast_sysctl::apply::{Outcome, to_write};
use holdfast_sysctl::persist::Written;
use holdfast_sysctl::plan::{Limit, Plan, Row, Verdict, command};
use holdfast_sysctl::{Machine, Role, grouped};
use holdfast_units::bytes;

/// Widest line.
const WIDTH_MAX: u16 = 160;

fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let is_terminal = std::io::stdout().is_terminal();
    if is_terminal {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        if table.width().is_none_or(|width| width > WIDTH_MAX) {
            table.set_width(WIDTH_MAX);
        }
    }
    if !is_terminal || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        table.force_no_tty();
    }
    table.set_header(
        heads
            .iter()
            .map(|head| Cell::new(head).add_attribute(Attribute::Dim)),
    );
    table
}

fn render(table: &mut Table, why: usize) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if let Some(column) = table.column_mut(0) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    if let Some(column) = table.column_mut(why) {
        column.set_constraint(ColumnConstraint::LowerBoundary(comfy_table::Width::Fixed(
            24,
        )));
    }
    let text = table.to_string();
    text.lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

fn verdict(verdict: Verdict) -> Cell {
    let cell = Cell::new(verdict.word());
    match verdict {
        Verdict::Ok => cell.fg(Color::Green),
        Verdict::Change | Verdict::ByHand | Verdict::Missing => cell.fg(Color::Yellow),
        Verdict::Stops => cell.fg(Color::Red).add_attribute(Attribute::Bold),
        Verdict::Absent | Verdict::Locked => cell.add_attribute(Attribute::Dim),
    }
}

/// A value. A missing one differs from an empty one, such as an empty list of ports.
fn value(value: Option<&str>) -> Cell {
    Cell::new(match value {
        None => "-",
        Some("") => "(empty)",
        Some(value) => value,
    })
}

/// Key, now, wanted, verdict, why.
pub fn rows<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let mut table = table(&["key", "now", "wanted", "verdict", "why"]);
    for row in rows {
        table.add_row([
            Cell::new(&row.key),
            value(row.now.as_deref()),
            Cell::new(row.write.as_deref().unwrap_or(&row.wanted)),
            verdict(row.verdict),
            Cell::new(&row.why),
        ]);
    }
    render(&mut table, 4)
}

fn count(count: Option<u64>) -> String {
    count.map_or_else(|| "any number".into(), grouped)
}

/// What bounds the number of connections.
pub fn limits(limits: &[Limit]) -> String {
    let mut table = table(&["limit", "holds now", "after apply", "why"]);
    for limit in limits.iter().filter(|limit| limit.now.is_some()) {
        table.add_row([
            limit.name.clone(),
            count(limit.now),
            count(limit.tuned),
            limit.why.clone(),
        ]);
    }
    render(&mut table, 3)
}

/// The name of the tightest limit.
fn tightest(limits: &[Limit], of: fn(&Limit) -> Option<u64>) -> &str {
    let bounded = limits.iter().filter(|limit| of(limit).is_some());
    bounded
        .min_by_key(|limit| of(limit))
        .map_or("nothing", |limit| &limit.name)
}

/// How many connections this machine can hold, and the limit that decides.
pub fn holds(plan: &Plan) -> String {
    let mut text = String::new();
    let mut line = |when: &str, holds: Option<u64>, limit: &str| {
        let _ = match holds {
            Some(holds) => writeln!(
                text,
                "{when:<12} {} connections, limited by {limit}",
                grouped(holds)
            ),
            None => writeln!(text, "{when:<12} any number of connections"),
        };
    };
    line("now", plan.holds_now, tightest(&plan.limits, |l| l.now));
    line(
        "after apply",
        plan.holds_tuned,
        tightest(&plan.limits, |l| l.tuned),
    );
    text
}

/// The whole plan.
pub fn plan(plan: &Plan, machine: &Machine) -> String {
    let asked = &plan.asked;
    let ends = match asked.role {
        Role::Server => "accepted by this machine",
        Role::Client => "opened by this machine",
        Role::Both => "with both ends on this machine",
        Role::Host => "forwarded by this machine",
    };
    let mut text = format!(
        "{} connections {ends} (role {})\nLinux {}, {} cores, {} of {} available, descriptor limit {}\n\n",
        grouped(asked.connections),
        asked.role.name(),
        machine.kernel_release,
        machine.core_count,
        bytes(machine.memory_available_bytes),
        bytes(machine.memory_bytes),
        machine.nofile_hard,
    );
    if asked.role != Role::Host {
        text += &holds(plan);
        let memory = plan.memory;
        let _ = write!(
            text,
            "\nmemory       {} for {} connections, {} B each: sockets {}, descriptors {}, polls {}, bind buckets {}, closing {}, our own {}\n\
             rings        about {} of up to {} direct descriptors at each end\n",
            bytes(memory.total_bytes),
            grouped(asked.connections),
            grouped(memory.per_connection_bytes),
            bytes(memory.sockets_bytes),
            bytes(memory.descriptors_bytes),
            bytes(memory.polls_bytes),
            bytes(memory.bind_buckets_bytes),
            bytes(memory.closing_bytes),
            bytes(memory.own_bytes),
            grouped(plan.rings),
            grouped(plan.ring_slots),
        );
    }
    if let Some(sources) = &plan.sources {
        let _ = writeln!(
            text,
            "sources      {} address{} of {} connections each; {}",
            grouped(sources.needed),
            if sources.needed == 1 { "" } else { "es" },
            grouped(sources.per_address),
            sources.next
        );
    }
    text += "\n";
    text += &limits(&plan.limits);
    let other: Vec<&Row> = plan
        .rows
        .iter()
        .filter(|row| row.verdict != Verdict::Ok)
        .collect();
    let _ = writeln!(
        text,
        "\n{} of {} settings are sufficient; the others:",
        plan.rows.len() - other.len(),
        plan.rows.len()
    );
    text += &rows(other.into_iter());
    text + &closing(plan)
}

/// Notes, the limits that are too low, and the next command.
pub fn closing(plan: &Plan) -> String {
    let mut text = String::from("\n");
    for note in &plan.notes {
        let _ = writeln!(text, "note: {note}");
    }
    for limit in plan.exceeded_limits() {
        let _ = writeln!(text, "STOPS: {}; next: {}", limit.why, limit.next);
    }
    let change_count = to_write(plan).count();
    if change_count > 0 {
        let _ = writeln!(
            text,
            "{change_count} setting{} would be changed; next: {}",
            if change_count == 1 { "" } else { "s" },
            command("apply", &plan.asked)
        );
    }
    let failed: Vec<&str> = plan
        .rows
        .iter()
        .filter(|row| row.is_failure)
        .map(|row| row.key.as_str())
        .collect();
    if !failed.is_empty() {
        let _ = writeln!(text, "cannot be set from here: {}", failed.join(", "));
    } else if change_count == 0 && plan.is_met() {
        let _ = writeln!(text, "nothing to change");
    }
    text
}

/// The keys that were written or restored.
pub fn outcome(outcome: &Outcome, is_dry: bool) -> String {
    let mut text = String::new();
    if !outcome.changes.is_empty() {
        let mut table = table(&["key", "before", "after", "result"]);
        for change in &outcome.changes {
            let result = match (&change.error, &change.note) {
                (Some(error), _) => Cell::new(format!("FAILED: {error}")).fg(Color::Red),
                (None, Some(note)) => Cell::new(note).fg(Color::Yellow),
                (None, None) if is_dry => Cell::new("would be set"),
                (None, None) => Cell::new("set").fg(Color::Green),
            };
            let after = match (is_dry, &change.after) {
                (true, _) => Some(change.wanted.as_str()),
                (false, after) => after.as_deref(),
            };
            table.add_row([
                Cell::new(&change.key),
                value(Some(&change.before)),
                value(after),
                result,
            ]);
        }
        text += &render(&mut table, 3);
    }
    if let Some(note) = &outcome.note {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

/// The files that survive a reboot.
pub fn files(files: &[Written], is_dry: bool) -> String {
    let mut text = String::new();
    for file in files {
        let did = match (&file.text, file.is_changed, is_dry) {
            (Some(_), _, true) => "would be written",
            (Some(_), _, false) => "written",
            (None, true, true) => "would be removed",
            (None, true, false) => "removed",
            (None, false, _) => "does not exist",
        };
        let _ = match &file.error {
            Some(error) => writeln!(text, "{}: FAILED: {error}", file.file),
            None => writeln!(text, "{}: {did}", file.file),
        };
        if let (Some(content), true) = (&file.text, is_dry) {
            text.extend(content.lines().map(|line| format!("    {line}\n")));
        }
    }
    text
}
