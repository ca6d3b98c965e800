//! The report of a run of `longconn`.
//!
//! Purpose: from its record to headline figures and tables; the charts are those of [`timeline`].
//! Invariants: no figure here is measured or judged anew.
//! Must not depend on: how anything is drawn.

use super::document::{Document, Table, Tile};
use super::source::Source;
use super::timeline;
use super::units::{bytes_each, decimal, known, micros, span, trimmed};
use crate::run::{CpuPhase, Run};

use holdfast_telemetry::units::{bytes, count, total};
use holdfast_telemetry::wire::Latency;

/// Fills `document`.
pub fn describe(document: &mut Document, source: &Source, run: Option<&Run>) {
    if let Some(run) = run {
        headline(document, run);
    }
    document.sections = timeline::sections(source, run);
    if let Some(run) = run {
        tables(document, run);
        for (name, process) in [
            ("Server", &run.processes.server),
            ("Client", &run.processes.client),
        ] {
            document.commands.push((
                format!("{name}, as the run started it"),
                process.command.clone(),
            ));
        }
    }
}

fn headline(document: &mut Document, run: &Run) {
    let (c, m, memory) = (&run.connections, &run.messages, &run.memory);
    let failed = total(&c.failed);
    let held = run.hold.seconds.map_or_else(
        || "open when it was cut short".into(),
        |s| format!("held for {}", span(s.round())),
    );
    document.sentence = format!(
        "{} of {} users {held}, {} failed, {} lost.",
        count(c.held_at_end),
        count(c.asked),
        count(failed),
        count(c.lost)
    );
    let agree = c.held_at_end == c.server_open && c.server_open == c.kernel_established;
    let counts = if agree {
        "client, server and kernel agree".into()
    } else {
        format!(
            "client {}, server {}, kernel {}",
            count(c.held_at_end),
            count(c.server_open),
            count(c.kernel_established)
        )
    };
    let rate = known(run.asked.spawn_rate_per_second, |r| {
        format!("{}/s asked", decimal(r))
    });
    let rate = if rate == "-" {
        "as fast as it goes".into()
    } else {
        rate
    };
    let lateness = &run.latency_us.lateness;
    let has_lateness = (lateness.count > 0).then_some(lateness);
    let each = |v: Option<f64>| known(v, bytes_each);
    document.tiles = vec![
        Tile::new("Connections held", count(c.held_at_end), counts)
            .bad_if(!agree || c.held_at_end != c.asked),
        Tile::new(
            "Failed and lost",
            format!("{} and {}", count(failed), count(c.lost)),
            format!("of {} attempts", count(c.asked)),
        )
        .bad_if(failed > 0 || c.lost > 0),
        Tile::new(
            "Opened",
            format!("{}/s", decimal(run.ramp.per_second)),
            format!("{} of ramp, {rate}", span(run.ramp.seconds.round())),
        ),
        Tile::new(
            "Messages",
            known(m.per_second, |r| format!("{}/s", decimal(r))),
            format!(
                "{}/s due, {} missed, {} wrong",
                decimal(m.due_per_second),
                count(m.missed),
                count(m.wrong)
            ),
        )
        .bad_if(m.missed > 0 || m.wrong > 0),
        Tile::new(
            "Lateness, p99",
            known(has_lateness, |l| micros(l.p99 as f64)),
            known(has_lateness, |l| {
                format!(
                    "p50 {}, p99.9 {}",
                    micros(l.p50 as f64),
                    micros(l.p999 as f64)
                )
            }),
        ),
        Tile::new(
            "Server memory per connection",
            each(memory.server_rss_bytes_per_connection),
            "all resident memory, at the hold's end",
        ),
        Tile::new(
            "Client memory per connection",
            each(memory.client_rss_bytes_per_connection),
            "all resident memory, at the hold's end",
        ),
        Tile::new(
            "Kernel, a pair",
            each(memory.slab_bytes_per_pair),
            "growth of all slabs, both ends",
        ),
    ];
}

fn tables(document: &mut Document, run: &Run) {
    let latency = |name: &str, l: &Latency| {
        let of = |us: u64| {
            if l.count > 0 {
                micros(us as f64)
            } else {
                "-".into()
            }
        };
        vec![
            name.into(),
            of(l.p50),
            of(l.p99),
            of(l.p999),
            of(l.max),
            count(l.count),
        ]
    };
    let rows = vec![
        latency("Connect, from the intended start", &run.latency_us.connect),
        latency(
            "Lateness of a message, from its due time",
            &run.latency_us.lateness,
        ),
    ];
    let head = [
        "Latency, both corrected",
        "p50",
        "p99",
        "p99.9",
        "max",
        "values",
    ];
    document.tables.push(Table::new("Latency", &head, 1, rows));

    let m = &run.memory;
    let each = |v: Option<f64>| known(v, bytes_each);
    let all = |v: Option<u64>| known(v, bytes);
    let row = |name: &str, a, b, c| vec![name.to_string(), a, b, c];
    let rows = vec![
        row(
            "Server memory per connection",
            all(m.server_rss_bytes),
            each(m.server_rss_bytes_per_connection),
            each(m.server_rss_growth_bytes_per_connection),
        ),
        row(
            "Client memory per connection",
            all(m.client_rss_bytes),
            each(m.client_rss_bytes_per_connection),
            each(m.client_rss_growth_bytes_per_connection),
        ),
        row(
            "Kernel slabs per pair",
            all(m.slab_bytes),
            "-".into(),
            each(m.slab_bytes_per_pair),
        ),
        row(
            "Machine, a pair",
            "-".into(),
            "-".into(),
            each(m.machine_bytes_per_pair),
        ),
        row(
            "Least available",
            all(m.available_bytes_min),
            "-".into(),
            "-".into(),
        ),
    ];
    document.tables.push(Table::new(
        "Memory at the end of the hold",
        &["Of", "All", "All, each", "Growth, each"],
        1,
        rows,
    ));

    let phase = |name: &str, cpu: &Option<CpuPhase>| {
        let of = |text: fn(&CpuPhase) -> String| known(cpu.as_ref(), text);
        vec![
            name.to_string(),
            of(|c| format!("{} s", decimal(c.seconds))),
            of(|c| format!("{} s", decimal(c.server_seconds))),
            of(|c| format!("{} s", decimal(c.client_seconds))),
            of(|c| format!("{}%", trimmed(c.machine_busy_percent, 1))),
        ]
    };
    let whole = vec![
        "Whole life".into(),
        format!("{} s", decimal(run.header.seconds)),
        format!("{} s", decimal(run.cpu.server_seconds)),
        format!("{} s", decimal(run.cpu.client_seconds)),
        "-".into(),
    ];
    let rows = vec![
        phase("Ramp", &run.cpu.ramp),
        phase("Hold", &run.cpu.hold),
        whole,
    ];
    document.tables.push(Table::new(
        "Time on cores",
        &["Phase", "Clock", "Server", "Client", "Machine busy"],
        1,
        rows,
    ));

    let grown: Vec<Vec<String>> = run
        .kernel
        .counters
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(name, n)| vec![name.clone(), count(*n)])
        .collect();
    if !grown.is_empty() {
        document.tables.push(Table::new(
            "The kernel's counters that grew",
            &["Counter", "Growth"],
            1,
            grown,
        ));
    }
}
