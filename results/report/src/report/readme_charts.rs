//! The charts that README.md shows, drawn from committed records.
//!
//! Purpose: three SVG images, each for a light and a dark page: memory per connection and CPU time
//! per request beside competitors, and the ramp to a million connections.
//! Invariants: a pure function of the records: every figure comes from one, and each image names
//! its record. The images need no font, script or style sheet, since a page shows them through
//! `<img>`.
//! Must not depend on: the driver, HTML, plotters (its axes suit a page that is as wide as the
//! reader wants, these images have one size).

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use holdfast_telemetry::units::count;

use super::series::Series;
use super::svg::marks;
use super::units::{bytes_each, decimal, trimmed};
use crate::header::Header;
use crate::http::record::{Entry, HttpRun};
use crate::record::Record;
use crate::run::Run;

/// The record with the HTTP measurements.
const HTTP_RECORD: &str = "reference-http-2026-11-28";
/// The records whose ramps are drawn, and the load that each had.
const RAMP_RECORDS: [(&str, &str); 2] = [
    ("reference-1m-2026-11-28", "holdfast-client, no rate limit"),
    ("reference-locust-1m", "Locust master and holdfast workers"),
];
/// The server that is ours.
const OURS: &str = "holdfast";
/// The servers compared, in this order, and what each is called.
const SERVERS: [(&str, &str); 4] = [
    (OURS, "Holdfast"),
    ("nginx", "nginx"),
    ("haproxy", "HAProxy"),
    ("go", "Go net/http"),
];
/// The scenarios compared by CPU time, and what each is.
const CPU_SCENARIOS: [(&str, &str); 4] = [
    ("keepalive-64", "64 keep-alive connections"),
    ("keepalive-4096", "4,096 keep-alive connections"),
    ("pipeline-16", "64 connections, 16 requests pipelined"),
    (
        "connection-per-request",
        "A new connection for each request",
    ),
];
/// The scenario whose memory is compared.
const MEMORY_SCENARIO: &str = "idle-10000";

/// Width of every image.
const WIDTH: f64 = 880.0;
/// Distance of all text from the edges.
const MARGIN: f64 = 28.0;
const BAR_HEIGHT: f64 = 20.0;
/// Where bars begin, and where the longest one ends.
const BARS_LEFT: f64 = MARGIN + 100.0;
const BARS_RIGHT: f64 = WIDTH - MARGIN - 150.0;

/// Colours of one theme.
struct Theme {
    name: &'static str,
    page: &'static str,
    ink: &'static str,
    soft: &'static str,
    grid: &'static str,
    ours: &'static str,
    other: &'static str,
    second: &'static str,
}

const THEMES: [Theme; 2] = [
    Theme {
        name: "light",
        page: "#ffffff",
        ink: "#1f2328",
        soft: "#59636e",
        grid: "#e3e6ea",
        ours: "#1f6fb5",
        other: "#b6bec7",
        second: "#d9822b",
    },
    Theme {
        name: "dark",
        page: "#0d1117",
        ink: "#f0f6fc",
        soft: "#9198a1",
        grid: "#272e36",
        ours: "#58a6ee",
        other: "#4b535d",
        second: "#eda45c",
    },
];

/// File name and SVG text of every chart.
///
/// # Errors
/// In words: the record that is missing or does not hold what a chart shows.
pub fn draw(runs: &Path) -> Result<Vec<(String, String)>, String> {
    let http = read_http(&runs.join(HTTP_RECORD))?;
    let ramps = RAMP_RECORDS
        .iter()
        .map(|(folder, load)| Ramp::read(&runs.join(folder), folder, load))
        .collect::<Result<Vec<_>, _>>()?;
    let mut files = Vec::new();
    for theme in &THEMES {
        for (name, svg) in [
            ("bytes-per-connection", memory(theme, &http)?),
            ("cpu-per-request", cpu(theme, &http)?),
            ("ramp-to-a-million", ramp(theme, &ramps)),
        ] {
            files.push((format!("{name}-{}.svg", theme.name), svg));
        }
    }
    Ok(files)
}

fn read_record(folder: &Path) -> Result<Record, String> {
    Record::read(folder).map_err(|why| format!("{}: {why}", folder.display()))
}

fn read_http(folder: &Path) -> Result<HttpRun, String> {
    match read_record(folder)? {
        Record::Http(run) => Ok(*run),
        _ => Err(format!("{} is not a record of HTTP", folder.display())),
    }
}

/// A server in a scenario.
struct Measured<'a> {
    name: &'static str,
    is_ours: bool,
    entry: &'a Entry,
    value: f64,
}

/// What wrk measured of each server in a scenario, those with a figure.
fn measured<'a>(
    run: &'a HttpRun,
    scenario: &str,
    figure: impl Fn(&Entry) -> Option<f64>,
) -> Vec<Measured<'a>> {
    let of = |(server, name): &(&str, &'static str)| {
        let mut entries = run.scenarios.iter();
        let entry = entries
            .find(|e| e.scenario == scenario && e.subject == *server && e.generator == "wrk")?;
        Some(Measured {
            name,
            is_ours: *server == OURS,
            entry,
            value: figure(entry)?,
        })
    };
    SERVERS.iter().filter_map(of).collect()
}

/// Memory per connection: one bar for each server.
fn memory(theme: &Theme, run: &HttpRun) -> Result<String, String> {
    let bars = measured(run, MEMORY_SCENARIO, |e| e.rss_bytes_per_connection);
    let largest = bars.iter().map(|b| b.value).fold(0.0, f64::max);
    let ours = bars.iter().find(|b| b.is_ours && b.value > 0.0);
    let ours = ours.ok_or(format!("{HTTP_RECORD}: no memory per connection"))?;
    let mut image = Image::new(theme);
    image.title("Memory per idle HTTP connection");
    image.subtitle(&format!(
        "Growth of the server's resident memory with {} idle keep-alive connections, divided by their number",
        count(ours.entry.connections)
    ));
    image.y += 22.0;
    for bar in &bars {
        let end = share(bar.value / largest);
        let times = match bar.is_ours {
            true => String::new(),
            false => format!("{}×", trimmed(bar.value / ours.value, 0)),
        };
        image.bar(bar, end, end, &bytes_each(bar.value), &times);
        image.y += 10.0;
    }
    Ok(image.finish(&[(&run.header, HTTP_RECORD)]))
}

/// Where a bar ends that shows this share of the largest value.
fn share(share: f64) -> f64 {
    BARS_LEFT + share * (BARS_RIGHT - BARS_LEFT)
}

/// CPU time per request: a bar for each server in each scenario, on one scale.
fn cpu(theme: &Theme, run: &HttpRun) -> Result<String, String> {
    let groups = CPU_SCENARIOS.map(|(scenario, words)| {
        let bars = measured(run, scenario, |e| e.server_cpu_seconds_per_million);
        (words, bars)
    });
    let most = |bar: &Measured| {
        let most = bar.entry.server_cpu_seconds_per_million_max;
        bar.value.max(most.unwrap_or(bar.value))
    };
    let all = groups.iter().flat_map(|(_, bars)| bars);
    let largest = all.map(most).fold(0.0, f64::max);
    if largest <= 0.0 {
        return Err(format!("{HTTP_RECORD}: no CPU time per request"));
    }
    let cores = match run.cores.server.len() {
        1 => "one core".to_owned(),
        n => format!("{n} cores"),
    };
    let mut image = Image::new(theme);
    image.title("Server CPU time per HTTP request");
    image.subtitle(&format!(
        "For each request that wrk sends to a server on {cores}; median of {} rounds, the thin line shows least and most",
        run.asked.rounds
    ));
    image.y += 6.0;
    for (words, bars) in groups.iter().filter(|(_, bars)| !bars.is_empty()) {
        image.y += 28.0;
        image.text(MARGIN, image.y, 14.0, "600", theme.ink, "start", words);
        image.y += 10.0;
        let ours = bars.iter().find(|bar| bar.is_ours);
        for bar in bars {
            let times = match ours {
                Some(ours) if !bar.is_ours => format!("{:.1}×", bar.value / ours.value),
                _ => String::new(),
            };
            let least = bar.entry.server_cpu_seconds_per_million_min;
            let least = share(least.unwrap_or(bar.value) / largest);
            let most = share(most(bar) / largest);
            let middle = image.y + BAR_HEIGHT / 2.0;
            let value = format!("{} µs", decimal(bar.value));
            image.bar(bar, share(bar.value / largest), most, &value, &times);
            image.line((least, middle), (most, middle), theme.ink, 1.5);
            image.y += 5.0;
        }
    }
    Ok(image.finish(&[(&run.header, HTTP_RECORD)]))
}

/// One run of long connections: how many were open at each second.
struct Ramp {
    folder: &'static str,
    load: &'static str,
    run: Run,
    /// Seconds since the last sample before the ramp, and established connections.
    points: Vec<(f64, f64)>,
}

impl Ramp {
    fn read(path: &Path, folder: &'static str, load: &'static str) -> Result<Self, String> {
        let Record::Longconn(run) = read_record(path)? else {
            return Err(format!("{folder} is not a record of long connections"));
        };
        let series = File::open(path.join("series.csv")).and_then(Series::read);
        let series = series.map_err(|e| format!("{folder}/series.csv: {e}"))?;
        let phase = |row: &usize| series.text(*row, "phase").to_owned();
        let first = (0..series.len()).find(|row| phase(row) == "ramp");
        let first = first
            .ok_or(format!("{folder}/series.csv has no ramp"))?
            .max(1)
            - 1;
        let origin = series.at(first);
        let base = run.kernel.established_base as f64;
        let points = (first..series.len())
            .filter(|row| phase(row) != "close")
            .filter_map(|row| {
                let sockets = series.number(row, "kernel_established_sockets")?;
                Some((series.at(row) - origin, (sockets - base).max(0.0) / 2.0))
            })
            .collect();
        Ok(Self {
            folder,
            load,
            run: *run,
            points,
        })
    }
}

/// Open connections over time: one line for each run, and a legend above with its figures.
fn ramp(theme: &Theme, ramps: &[Ramp]) -> String {
    let mut image = Image::new(theme);
    image.title("One million connections, opened and held on one machine");
    image.subtitle("Established connections over time, as the kernel counts them; client and server share the machine's cores");
    image.y += 6.0;
    let colours = [theme.ours, theme.second];
    for (ramp, colour) in ramps.iter().zip(colours) {
        image.y += 24.0;
        image.rectangle(MARGIN, image.y - 9.0, 18.0, 5.0, colour);
        let Ramp { load, run, .. } = ramp;
        let text = format!(
            "{load}: {} open after {:.1} s ({} per second), {} lost",
            count(run.connections.held_at_end),
            run.ramp.seconds,
            count(run.ramp.per_second.round().max(0.0) as u64),
            count(run.connections.lost),
        );
        image.text(
            MARGIN + 28.0,
            image.y,
            13.0,
            "400",
            theme.ink,
            "start",
            &text,
        );
    }
    let (left, right) = (MARGIN + 72.0, WIDTH - MARGIN - 14.0);
    let (top, bottom) = (image.y + 28.0, image.y + 288.0);
    let longest = ramps.iter().map(|r| r.run.ramp.seconds).fold(1.0, f64::max);
    // The hold is shown for at least a tenth of the time of the longest ramp.
    let marks = marks(longest * 1.1, 1.0);
    let x_max = marks.last().copied().unwrap_or(1.0);
    let held = ramps.iter().map(|r| r.run.connections.held_at_end);
    let y_max = held.max().unwrap_or(0).max(1) as f64;
    let x = |seconds: f64| left + seconds / x_max * (right - left);
    let y = |connections: f64| bottom - connections / y_max * (bottom - top);
    for quarter in 0..=4_u32 {
        let value = y_max * f64::from(quarter) / 4.0;
        image.line((left, y(value)), (right, y(value)), theme.grid, 1.0);
        let label = count(value.round() as u64);
        image.text(
            left - 10.0,
            y(value) + 4.0,
            12.0,
            "400",
            theme.soft,
            "end",
            &label,
        );
    }
    for seconds in marks {
        let label = format!("{} s", trimmed(seconds, 1));
        image.text(
            x(seconds),
            bottom + 20.0,
            12.0,
            "400",
            theme.soft,
            "middle",
            &label,
        );
    }
    for (ramp, colour) in ramps.iter().zip(colours).rev() {
        let shown = ramp.points.iter().filter(|(seconds, _)| *seconds <= x_max);
        let mut points = String::new();
        for (seconds, connections) in shown {
            let _ = write!(points, "{:.1},{:.1} ", x(*seconds), y(*connections));
        }
        let _ = write!(
            image.body,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="3" stroke-linejoin="round" stroke-linecap="round"/>"#,
            points.trim_end()
        );
        image.body.push('\n');
    }
    image.y = bottom + 26.0;
    let records: Vec<_> = ramps.iter().map(|r| (&r.run.header, r.folder)).collect();
    image.finish(&records)
}

/// An image under construction: what is drawn, and how far down it reaches.
struct Image<'a> {
    theme: &'a Theme,
    body: String,
    heading: String,
    y: f64,
}

impl<'a> Image<'a> {
    fn new(theme: &'a Theme) -> Self {
        Self {
            theme,
            body: String::new(),
            heading: String::new(),
            y: 20.0,
        }
    }

    fn title(&mut self, text: &str) {
        self.heading = text.into();
        self.y += 22.0;
        self.text(MARGIN, self.y, 20.0, "600", self.theme.ink, "start", text);
    }

    fn subtitle(&mut self, text: &str) {
        self.y += 24.0;
        self.text(MARGIN, self.y, 13.0, "400", self.theme.soft, "start", text);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the attributes of one SVG element"
    )]
    fn text(
        &mut self,
        x: f64,
        y: f64,
        size: f64,
        weight: &str,
        fill: &str,
        anchor: &str,
        text: &str,
    ) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" font-weight="{weight}" fill="{fill}" text-anchor="{anchor}">{text}</text>"#
        );
    }

    fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        let _ = writeln!(
            self.body,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="2" fill="{fill}"/>"#
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, width: f64) {
        let _ = writeln!(
            self.body,
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{stroke}" stroke-width="{width}"/>"#,
            from.0, from.1, to.0, to.1
        );
    }

    /// A bar up to `end` with its name before it, and its figures after `labels_after`, where
    /// something is drawn beyond the bar.
    fn bar(&mut self, bar: &Measured, end: f64, labels_after: f64, value: &str, times: &str) {
        let Theme {
            ink,
            soft,
            ours,
            other,
            ..
        } = *self.theme;
        let (fill, weight) = if bar.is_ours {
            (ours, "600")
        } else {
            (other, "400")
        };
        let baseline = self.y + BAR_HEIGHT / 2.0 + 4.5;
        self.text(
            BARS_LEFT - 12.0,
            baseline,
            13.0,
            weight,
            ink,
            "end",
            bar.name,
        );
        self.rectangle(
            BARS_LEFT,
            self.y,
            (end - BARS_LEFT).max(2.0),
            BAR_HEIGHT,
            fill,
        );
        let at = end.max(labels_after) + 10.0;
        self.text(at, baseline, 13.0, weight, ink, "start", value);
        // Digits at this size are about 7.6 wide.
        let beside = at + 7.6 * value.chars().count() as f64 + 10.0;
        if !times.is_empty() {
            self.text(beside, baseline, 13.0, "400", soft, "start", times);
        }
        self.y += BAR_HEIGHT;
    }

    /// The SVG, with the records named at its foot.
    fn finish(mut self, records: &[(&Header, &str)]) -> String {
        self.y += 18.0;
        for (head, folder) in records {
            self.y += 17.0;
            let machine = &head.machine;
            let kernel = machine.kernel.split('-').next().unwrap_or_default();
            let short: String = head.commit.chars().take(7).collect();
            let text = format!(
                "results/runs/{folder}, {}, commit {short}, {} with {} cores, Linux {kernel}",
                head.started_at.split('T').next().unwrap_or_default(),
                machine.cpu,
                machine.core_count,
            );
            self.text(MARGIN, self.y, 11.5, "400", self.theme.soft, "start", &text);
        }
        let height = self.y + 20.0;
        let Self {
            theme,
            body,
            heading,
            ..
        } = self;
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" width="{WIDTH}" height="{height:.0}" role="img" aria-label="{heading}" font-family="-apple-system, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', Helvetica, Arial, sans-serif">
<rect width="100%" height="100%" fill="{}"/>
{body}</svg>
"#,
            theme.page
        )
    }
}
