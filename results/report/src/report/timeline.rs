//! The charts of a run of `longconn`: what its series and histograms say over time.
//!
//! Purpose: from `series.csv`, `histograms.hlog` and what was asked to sections of charts.
//! Invariants: a record that is missing leaves the charts that do not need it; client, server and
//! kernel have one colour each.
//! Must not depend on: how anything is drawn, what stands above and below the charts.

use std::collections::BTreeMap;

use super::chart::{Axis, Caption, Chart, Lines, Row, Style};
use super::document::Section;
use super::histograms::{Interval, curve};
use super::source::Source;
use super::units::Unit;
use crate::run::Run;

use holdfast_telemetry::units::count;

/// Memory is divided by connections from this share of the most there were: before, what a process
/// has anyway would be all of it.
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

/// All sections that have anything in them.
#[must_use]
pub fn sections(source: &Source, run: Option<&Run>) -> Vec<Section> {
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
    sections.into_iter().filter(|s| !s.is_empty()).collect()
}

struct Charts<'a> {
    source: &'a Source,
    run: Option<&'a Run>,
}

impl Charts<'_> {
    /// A chart over time of what `values` says about each row of the series.
    fn over(
        &self,
        caption: Caption,
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
        let mut chart = Lines::new(caption, unit, Axis::Seconds, lines, rows.collect())?;
        chart.phases = self.phases_of(&chart)?;
        Some(chart)
    }

    /// The phases that begin where `chart` shows something. What is before the ramp needs no name.
    fn phases_of(&self, chart: &Lines) -> Option<Vec<(f64, String)>> {
        let (first, last) = (chart.rows.first()?.x, chart.rows.last()?.x);
        let is_shown = |(at, name): &(f64, String)| name != "start" && (first..last).contains(at);
        let phases = self.source.series.phases().into_iter();
        Some(phases.filter(is_shown).collect())
    }

    fn is_in(&self, row: usize, phases: &[&str]) -> bool {
        phases.contains(&self.source.series.text(row, "phase"))
    }

    fn asked(&self) -> Option<f64> {
        self.run.map(|run| run.asked.users as f64)
    }

    fn connections(&self) -> Option<Chart> {
        let caption = Caption::new(
            "connections",
            "Open connections",
            "Client, server and kernel agree and reach the target. A gap between them is a connection that one of them does not count.",
        );
        let lines = vec![
            ("target", Style::Asked, OTHERS),
            ("kernel, pairs", Style::Broad, KERNEL),
            ("server", Style::Middle, SERVER),
            ("client", Style::Plain, CLIENT),
        ];
        let series = &self.source.series;
        self.over(caption, Unit::Count, lines, |row| {
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
        let caption = Caption::new(
            "opening",
            "Connections opened per second, during the ramp",
            "A flat line is a steady ramp. It should match the requested rate, if there is one, and drop only at a bottleneck.",
        );
        let asked = self.run.and_then(|run| run.asked.spawn_rate_per_second);
        let rate = self.source.series.client_rate("client_opened");
        let lines = vec![
            ("asked", Style::Asked, OTHERS),
            ("opened", Style::Plain, CLIENT),
        ];
        self.over(caption, Unit::PerSecond, lines, |row| {
            self.is_in(row, &["ramp"]).then(|| vec![asked, rate[row]])
        })
        .map(Chart::Lines)
    }

    fn messages(&self) -> Option<Chart> {
        let caption = Caption::new(
            "messages",
            "Messages received per second",
            "After the ramp, received equals due. Less than due for long is a growing backlog.",
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
        self.over(caption, Unit::PerSecond, lines, |row| {
            let due = every.and_then(|every| Some(series.number(row, "client_open")? / every));
            self.is_in(row, &["ramp", "hold"])
                .then(|| vec![due, rate[row]])
        })
        .map(Chart::Lines)
    }

    fn connect_over_time(&self) -> Option<Chart> {
        let caption = Caption::new(
            "connect-time",
            "Connect time",
            "Per second, from the intended start of an attempt. Slow accepts show here first.",
        );
        self.percentiles("connect", caption)
    }

    fn lateness_over_time(&self) -> Option<Chart> {
        let caption = Caption::new(
            "lateness-time",
            "Lateness of messages",
            "Per second, from the due time. It should fall to nothing when the ramp ends; a rising line is a server or client that cannot keep up.",
        );
        self.percentiles("lateness", caption)
    }

    /// Percentiles over time. The log's clock begins with the client, which is about the first row
    /// of the ramp: within a second.
    fn percentiles(&self, tag: &str, caption: Caption) -> Option<Chart> {
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
            caption,
            Unit::Micros,
            Axis::Seconds,
            PERCENTILES.to_vec(),
            rows.collect(),
        )?;
        chart.phases = self.phases_of(&chart)?;
        Some(Chart::Lines(chart))
    }

    fn curve(&self, tag: &str) -> Option<Chart> {
        let caption = match tag {
            "connect" => Caption::new(
                "connect-curve",
                "Connect time by percentile",
                "From the intended start of an attempt. A step is a pause that all attempts of that moment shared.",
            ),
            _ => Caption::new(
                "lateness-curve",
                "Lateness by percentile",
                "From the due time of a message. The further right the line stays low, the fewer messages are late.",
            ),
        };
        let points = curve(&self.source.histograms.tags.get(tag)?.whole);
        let rows = points.into_iter().map(|(x, us)| Row {
            x,
            values: vec![Some(us)],
        });
        Lines::new(
            caption,
            Unit::Micros,
            Axis::Tail,
            vec![(tag, Style::Plain, CLIENT)],
            rows.collect(),
        )
        .map(Chart::Lines)
    }

    fn memory_of_ours(&self) -> Option<Chart> {
        let caption = Caption::new(
            "memory-ours",
            "Memory of client and server per connection",
            "Resident memory of each process / its open connections. It falls to a constant.",
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
        self.over(caption, Unit::Bytes, lines, |row| {
            Some(vec![server(row), client(row)]).filter(|v| v.iter().any(Option::is_some))
        })
        .map(Chart::Lines)
    }

    fn memory_of_kernel(&self) -> Option<Chart> {
        let caption = Caption::new(
            "memory-kernel",
            "Kernel memory per pair",
            "Growth of all kernel slabs / established pairs, both ends included.",
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
            caption,
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
        let caption = Caption::new(
            "cpu",
            "Cores in use",
            "When the machine's line is at the top, the CPU is the bottleneck. The gap to the two processes is kernel work that is charged to no process.",
        );
        let series = &self.source.series;
        let cores = self.run.map(|run| run.header.machine.core_count as f64);
        let (server, client) = (
            series.rate("server_cpu_seconds"),
            series.rate("client_cpu_seconds"),
        );
        let lines = vec![
            ("machine", Style::Plain, OTHERS),
            ("server", Style::Plain, SERVER),
            ("client", Style::Plain, CLIENT),
        ];
        let mut chart = self.over(caption, Unit::Cores, lines, |row| {
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
        let caption = Caption::new(
            "failures",
            "Failures so far, by kind",
            "One colour per kind, stacked. When a kind starts shows what it belongs to.",
        );
        let lines = kinds
            .iter()
            .enumerate()
            .map(|(number, kind)| (kind.as_str(), Style::Stacked, FAILURE + number))
            .collect();
        let chart = if kinds.is_empty() {
            None
        } else {
            self.over(caption, Unit::Count, lines, |row| {
                Some(
                    kinds
                        .iter()
                        .map(|kind| Some(by_row[row].get(*kind).copied().unwrap_or(0.0)))
                        .collect(),
                )
            })
            .map(Chart::Lines)
        };
        let caption = self
            .run
            .map_or_else(Vec::new, |run| self.failures_in_words(run));
        Section::new("Failures", caption, [chart])
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
