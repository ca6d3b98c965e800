//! The report of a run of `longconn`.
//!
//! Purpose: from its record, series and histograms to tiles, charts and tables.
//! Invariants: no figure here is measured or judged anew; a record that is missing leaves the charts that do not need it.
//! Must not know: how anything is drawn.

use std::collections::BTreeMap;

use super::chart::{Axis, Chart, Lines, Row, Style, Words};
use super::document::{Document, Section, Table, Tile};
use super::histograms::{Interval, curve};
use super::source::Source;
use super::units::{Unit, bytes_each, decimal, known, micros, span, trimmed};
use crate::run::{CpuPhase, Run, total};
use crate::summary::{bytes, count};
use crate::wire::Latency;

/// Memory is divided by connections from this share of the most there were: before, what a process has anyway would be all of it.
const SHARE_MIN: f64 = 0.05;

/// Who has which colour in every chart.
const CLIENT: usize = 0;
const SERVER: usize = 1;
const KERNEL: usize = 2;
const OTHERS: usize = 7;
/// Percentiles; the lowest is drawn last, on top.
const PERCENTILES: [(&str, Style, usize); 4] = [
    ("max", Style::Plain, OTHERS),
    ("p99.9", Style::Plain, 3),
    ("p99", Style::Plain, 1),
    ("p50", Style::Plain, 0),
];
/// Failures begin with red.
const FAILURE: usize = 4;

/// Fills `document`.
pub fn describe(document: &mut Document, source: &Source, run: Option<&Run>) {
    if let Some(run) = run {
        headline(document, run);
    }
    let charts = Charts { source, run };
    let sections = [
        Section::new(
            "The run",
            vec![],
            [
                charts.connections(),
                charts.opening(),
                charts.messages(),
                charts.cpu(),
            ],
        ),
        charts.failures(),
        Section::new(
            "Latency",
            vec![],
            [
                charts.connect_over_time(),
                charts.lateness_over_time(),
                charts.curve("connect"),
                charts.curve("lateness"),
            ],
        ),
        Section::new(
            "Memory",
            vec![],
            [charts.memory_of_ours(), charts.memory_of_kernel()],
        ),
    ];
    document.sections = sections.into_iter().filter(|s| !s.is_empty()).collect();
    if let Some(run) = run {
        tables(document, run);
        document.repeat_by(&run.command, &run.commit);
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
    document.describe(
        &run.name,
        run.label.as_deref(),
        &run.started_at,
        run.seconds,
        &run.commit,
    );
    document.verdict = Some(run.verdict);
    document.reasons = run.reasons.clone();
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
            "Server, a connection",
            each(memory.server_rss_bytes_per_connection),
            "all resident memory, at the hold's end",
        ),
        Tile::new(
            "Client, a connection",
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
            "Server, a connection",
            all(m.server_rss_bytes),
            each(m.server_rss_bytes_per_connection),
            each(m.server_rss_growth_bytes_per_connection),
        ),
        row(
            "Client, a connection",
            all(m.client_rss_bytes),
            each(m.client_rss_bytes_per_connection),
            each(m.client_rss_growth_bytes_per_connection),
        ),
        row(
            "Kernel slabs, a pair",
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
        format!("{} s", decimal(run.seconds)),
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
    document.add_ground(&run.machine, &run.lab);
}

struct Charts<'a> {
    source: &'a Source,
    run: Option<&'a Run>,
}

impl Charts<'_> {
    /// A chart over time of what `values` says about each row of the series.
    fn over(
        &self,
        words: Words,
        unit: Unit,
        lines: Vec<(&str, Style, usize)>,
        values: impl Fn(usize) -> Option<Vec<Option<f64>>>,
    ) -> Option<Lines> {
        let series = &self.source.series;
        let rows = (0..series.len()).filter_map(|row| {
            Some(Row {
                x: series.at(row),
                values: values(row)?,
            })
        });
        let mut chart = Lines::new(words, unit, Axis::Seconds, lines, rows.collect())?;
        chart.phases = self.phases_of(&chart)?;
        Some(chart)
    }

    /// The phases that begin where `chart` shows something.
    fn phases_of(&self, chart: &Lines) -> Option<Vec<(f64, String)>> {
        let (first, last) = (chart.rows.first()?.x, chart.rows.last()?.x);
        let phases = self.source.series.phases().into_iter();
        Some(
            phases
                .filter(|(at, _)| (first..last).contains(at))
                .collect(),
        )
    }

    fn is_in(&self, row: usize, phases: &[&str]) -> bool {
        phases.contains(&self.source.series.text(row, "phase"))
    }

    fn asked(&self) -> Option<f64> {
        self.run.map(|run| run.asked.users as f64)
    }

    fn connections(&self) -> Option<Chart> {
        let words = Words::new(
            "connections",
            "Open connections",
            "Client, server and kernel lie on each other and reach the target; a gap between them is a connection that one of them does not know of.",
        );
        let lines = vec![
            ("target", Style::Asked, OTHERS),
            ("kernel, pairs", Style::Broad, KERNEL),
            ("server", Style::Middle, SERVER),
            ("client", Style::Plain, CLIENT),
        ];
        let series = &self.source.series;
        self.over(words, Unit::Count, lines, |row| {
            Some(vec![
                self.asked(),
                self.pairs(row),
                series.number(row, "server_open"),
                series.number(row, "client_open"),
            ])
        })
        .map(Chart::Lines)
    }

    /// Established pairs, without what was there before the client.
    fn pairs(&self, row: usize) -> Option<f64> {
        let base = self.run.map_or(0, |run| run.kernel.established_base) as f64;
        let sockets = self
            .source
            .series
            .number(row, "kernel_established_sockets")?;
        Some((sockets - base).max(0.0) / 2.0)
    }

    fn opening(&self) -> Option<Chart> {
        let words = Words::new(
            "opening",
            "Opened a second, in the ramp",
            "A level line is a steady ramp; it should lie on the asked rate if there is one, and sag only when a limit is met.",
        );
        let asked = self.run.and_then(|run| run.asked.spawn_rate_per_second);
        let rate = self.source.series.client_rate("client_opened");
        let lines = vec![
            ("asked", Style::Asked, OTHERS),
            ("opened", Style::Plain, CLIENT),
        ];
        self.over(words, Unit::PerSecond, lines, |row| {
            self.is_in(row, &["ramp"]).then(|| vec![asked, rate[row]])
        })
        .map(Chart::Lines)
    }

    fn messages(&self) -> Option<Chart> {
        let words = Words::new(
            "messages",
            "Messages received a second",
            "From the end of the ramp on, received and due are the same; less than due for long is a backlog that grows.",
        );
        let every = self
            .run
            .map(|run| run.asked.every_seconds)
            .filter(|every| *every > 0.0);
        let series = &self.source.series;
        let rate = series.client_rate("messages_received");
        let lines = vec![
            ("due", Style::Asked, OTHERS),
            ("received", Style::Plain, CLIENT),
        ];
        self.over(words, Unit::PerSecond, lines, |row| {
            let due = every.and_then(|every| Some(series.number(row, "client_open")? / every));
            self.is_in(row, &["ramp", "hold"])
                .then(|| vec![due, rate[row]])
        })
        .map(Chart::Lines)
    }

    fn connect_over_time(&self) -> Option<Chart> {
        let words = Words::new(
            "connect-time",
            "Connect time",
            "Of each second, from the intended start of an attempt: what a slow accept costs shows here first.",
        );
        self.percentiles("connect", words)
    }

    fn lateness_over_time(&self) -> Option<Chart> {
        let words = Words::new(
            "lateness-time",
            "Lateness of messages",
            "Of each second, from the due time: it should fall back to nothing when the ramp ends; one that rises is a server or client that cannot keep up.",
        );
        self.percentiles("lateness", words)
    }

    /// Percentiles over time. The log's clock begins with the client, which is about the first row of the ramp: within a second.
    fn percentiles(&self, tag: &str, words: Words) -> Option<Chart> {
        let phases = self.source.series.phases();
        let begin = phases
            .iter()
            .find(|(_, name)| name == "ramp")
            .map_or(0.0, |(at, _)| *at);
        let figures: [fn(&Interval) -> u64; 4] = [|i| i.max, |i| i.p999, |i| i.p99, |i| i.p50];
        let rows = self
            .source
            .histograms
            .tags
            .get(tag)?
            .intervals
            .iter()
            .map(|interval| Row {
                x: begin + interval.start_ms as f64 / 1e3,
                values: figures
                    .iter()
                    .map(|figure| Some(figure(interval) as f64))
                    .collect(),
            });
        let mut chart = Lines::new(
            words,
            Unit::Micros,
            Axis::Seconds,
            PERCENTILES.to_vec(),
            rows.collect(),
        )?;
        chart.phases = self.phases_of(&chart)?;
        Some(Chart::Lines(chart))
    }

    fn curve(&self, tag: &str) -> Option<Chart> {
        let words = match tag {
            "connect" => Words::new(
                "connect-curve",
                "Connect time by percentile",
                "Corrected: from the intended start of an attempt. A step is a pause that all attempts of that moment shared.",
            ),
            _ => Words::new(
                "lateness-curve",
                "Lateness by percentile",
                "Corrected: from the due time of a message. The further right it stays low, the rarer the late ones are.",
            ),
        };
        let points = curve(&self.source.histograms.tags.get(tag)?.whole);
        let rows = points.into_iter().map(|(x, us)| Row {
            x,
            values: vec![Some(us)],
        });
        Lines::new(
            words,
            Unit::Micros,
            Axis::Tail,
            vec![(tag, Style::Plain, CLIENT)],
            rows.collect(),
        )
        .map(Chart::Lines)
    }

    fn memory_of_ours(&self) -> Option<Chart> {
        let words = Words::new(
            "memory-ours",
            "Memory of ours, a connection",
            "All resident memory of each process over its open connections: it falls to a level that does not depend on how many there are.",
        );
        let series = &self.source.series;
        let each = |of: &'static str, by: &'static str| {
            self.divided(by, move |row| series.number(row, of))
        };
        let (server, client) = (
            each("server_rss_bytes", "server_open"),
            each("client_rss_bytes", "client_open"),
        );
        let lines = vec![
            ("server", Style::Plain, SERVER),
            ("client", Style::Plain, CLIENT),
        ];
        self.over(words, Unit::Bytes, lines, |row| {
            Some(vec![server(row), client(row)]).filter(|v| v.iter().any(Option::is_some))
        })
        .map(Chart::Lines)
    }

    fn memory_of_kernel(&self) -> Option<Chart> {
        let words = Words::new(
            "memory-kernel",
            "Memory of the kernel, a pair",
            "Growth of all slabs over the established pairs, both ends: sockets cost the same whoever holds them.",
        );
        let series = &self.source.series;
        let first = (0..series.len()).find(|row| self.is_in(*row, &["ramp"]));
        let base = self
            .run
            .and_then(|run| run.memory.slab_base_bytes)
            .map(|b| b as f64);
        let base = base.or_else(|| series.number(first?, "slab_bytes"))?;
        let slab = self.divided("kernel_established_sockets", |row| {
            Some(series.number(row, "slab_bytes")? - base)
        });
        self.over(
            words,
            Unit::Bytes,
            vec![("slabs", Style::Plain, KERNEL)],
            |row| Some(vec![Some(2.0 * slab(row)?)]),
        )
        .map(Chart::Lines)
    }

    /// What `of` says over `by`, in ramp and hold, from [`SHARE_MIN`] of its largest value on.
    fn divided<'b>(
        &'b self,
        by: &'b str,
        of: impl Fn(usize) -> Option<f64> + 'b,
    ) -> impl Fn(usize) -> Option<f64> + 'b {
        let series = &self.source.series;
        let most = (0..series.len())
            .filter_map(|row| series.number(row, by))
            .fold(0.0, f64::max);
        move |row| {
            let count = series
                .number(row, by)
                .filter(|n| *n > 0.0 && *n >= SHARE_MIN * most)?;
            self.is_in(row, &["ramp", "hold"])
                .then_some(of(row)? / count)
        }
    }

    fn cpu(&self) -> Option<Chart> {
        let words = Words::new(
            "cpu",
            "Cores in use",
            "When the machine's line is at the top, the processor is the limit. What is between it and the two processes is work of the kernel that no process is charged for.",
        );
        let series = &self.source.series;
        let cores = self.run.map(|run| run.machine.core_count as f64);
        let (server, client) = (
            series.rate("server_cpu_seconds"),
            series.rate("client_cpu_seconds"),
        );
        let lines = vec![
            ("machine", Style::Plain, OTHERS),
            ("server", Style::Plain, SERVER),
            ("client", Style::Plain, CLIENT),
        ];
        let mut chart = self.over(words, Unit::Cores, lines, |row| {
            // The first row's share is of the moments since the bench's own start.
            let busy = series
                .number(row, "machine_busy_percent")
                .filter(|_| row > 0);
            Some(vec![
                busy.and_then(|b| Some(b / 100.0 * cores?)),
                server[row],
                client[row],
            ])
        })?;
        chart.reach = cores.unwrap_or(0.0).clamp(0.0, 1e6);
        Some(Chart::Lines(chart))
    }

    /// Failures so far, by kind; a sentence if there was none.
    fn failures(&self) -> Section {
        let series = &self.source.series;
        let of_row = |row: usize| {
            let mut kinds: BTreeMap<String, f64> = BTreeMap::new();
            let mut add = |kind: String, n: f64| *kinds.entry(kind).or_default() += n;
            let (failed, lost) = (
                series.named_counts(row, "client_failed_by_kind"),
                series.named_counts(row, "client_lost_by_class"),
            );
            let named: f64 = failed.values().sum();
            failed
                .into_iter()
                .for_each(|(kind, n)| add(format!("failed: {kind}"), n));
            lost.into_iter()
                .for_each(|(class, n)| add(format!("lost: {class}"), n));
            // Records without kinds have the sum.
            add(
                "failed".into(),
                series.number(row, "client_failed").unwrap_or(0.0) - named,
            );
            for (kind, column) in [
                ("messages missed", "messages_missed"),
                ("messages wrong", "messages_wrong"),
            ] {
                add(kind.into(), series.number(row, column).unwrap_or(0.0));
            }
            kinds.retain(|_, n| *n > 0.0);
            kinds
        };
        let by_row: Vec<BTreeMap<String, f64>> = (0..series.len()).map(of_row).collect();
        let mut kinds: Vec<&String> = by_row.iter().flat_map(BTreeMap::keys).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let words = Words::new(
            "failures",
            "Failures so far, by kind",
            "Each colour is a kind, on top of the others: when it began tells what it belongs to.",
        );
        let lines = kinds
            .iter()
            .enumerate()
            .map(|(number, kind)| (kind.as_str(), Style::Stacked, FAILURE + number))
            .collect();
        let chart = if kinds.is_empty() {
            None
        } else {
            self.over(words, Unit::Count, lines, |row| {
                Some(
                    kinds
                        .iter()
                        .map(|kind| Some(by_row[row].get(*kind).copied().unwrap_or(0.0)))
                        .collect(),
                )
            })
            .map(Chart::Lines)
        };
        let words = self
            .run
            .map_or_else(Vec::new, |run| self.failures_in_words(run));
        Section::new("Failures", words, [chart])
    }

    fn failures_in_words(&self, run: &Run) -> Vec<String> {
        let (c, m) = (&run.connections, &run.messages);
        let lost = c.ended.iter().filter(|(class, _)| *class != "held");
        let told: Vec<String> =
            c.failed
                .iter()
                .map(|(kind, n)| format!("{} attempts failed: {kind}", count(*n)))
                .chain(lost.map(|(class, n)| {
                    format!("{} opened connections were lost: {class}", count(*n))
                }))
                .chain(
                    [(m.missed, "missed"), (m.wrong, "wrong")]
                        .into_iter()
                        .filter(|(n, _)| *n > 0)
                        .map(|(n, what)| format!("{} messages {what}", count(n))),
                )
                .collect();
        if told.is_empty() {
            return vec![format!(
                "None: {} attempts, no connection that failed or was lost, no message that was missed or wrong.",
                count(c.opened)
            )];
        }
        told
    }
}
