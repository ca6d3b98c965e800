//! The page in a real Chromium: every chart drawn with the run's own numbers, read back from the page and compared with the files it
//! was made of; dark and phone; nothing fetched, nothing on the console.
//!
//! Needs chromium and chromedriver (`make need`), and our programs for the real run (`cargo build --workspace`).
#![forbid(unsafe_code)]

#[path = "common/browser.rs"]
#[allow(dead_code, reason = "pictures are the example's")]
mod browser;
#[allow(dead_code, reason = "nothing is refused here")]
mod common;
#[path = "common/drawn.rs"]
mod drawn;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use browser::Browser;
use common::{Stage, stderr};
use drawn::{CHARTS, Chart, list, texts};
use holdfast_results::report;
use serde_json::Value;

/// A run's files in a folder of this test, with a fresh report; removed afterwards.
struct Page {
    folder: PathBuf,
    run: Value,
}

impl Page {
    fn of(source: &Path, name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("holdfast-page-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        for file in ["run.json", "series.csv", "histograms.hlog"] {
            if source.join(file).exists() {
                fs::copy(source.join(file), folder.join(file)).expect("copies");
            }
        }
        report::write(&folder).expect("a report");
        let run = fs::read_to_string(folder.join("run.json")).expect("a record");
        Self {
            folder,
            run: serde_json::from_str(&run).expect("JSON"),
        }
    }

    /// `test` tells its copy from those of other tests.
    fn of_reference(reference: &str, test: &str) -> Self {
        let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs");
        Self::of(&runs.join(reference), &format!("{test}-{reference}"))
    }

    fn figure(&self, path: &str) -> f64 {
        self.run
            .pointer(path)
            .and_then(Value::as_f64)
            .unwrap_or_else(|| panic!("run.json lacks {path}"))
    }

    /// The rows of `series.csv`, by the names of the columns.
    fn series(&self) -> Vec<BTreeMap<String, String>> {
        let text = fs::read_to_string(self.folder.join("series.csv")).expect("a series");
        let mut lines = text
            .lines()
            .map(|line| line.split(',').map(String::from).collect::<Vec<_>>());
        let head = lines.next().expect("a head");
        lines
            .map(|fields| head.iter().cloned().zip(fields).collect())
            .collect()
    }

    /// Opens it and reads all charts back; whatever can be said of any page is checked.
    fn charts(&self, browser: &Browser) -> BTreeMap<String, Chart> {
        browser.console();
        browser.requests();
        browser.open(&self.folder.join(report::HTML));
        let charts: Vec<Chart> = list(&browser.run(CHARTS)).into_iter().map(Chart).collect();
        assert!(charts.len() > 3);
        for chart in &charts {
            chart.assert_drawn();
            chart.assert_told();
        }
        assert_eq!(
            browser.console(),
            Vec::<Value>::new(),
            "the console is silent"
        );
        let fetched = browser.requests();
        let is_itself =
            |address: &String| address.starts_with("file://") && address.ends_with(report::HTML);
        assert!(fetched.iter().any(is_itself), "requests are seen at all");
        let others: Vec<_> = fetched
            .iter()
            .filter(|a| !is_itself(a) && !a.starts_with("data:"))
            .collect();
        assert!(others.is_empty(), "{others:?}");
        charts
            .into_iter()
            .map(|chart| (chart.id().to_string(), chart))
            .collect()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a run of `longconn` shows is what its files say.
fn assert_longconn(page: &Page, charts: &BTreeMap<String, Chart>) {
    let rows = page.series();
    let number = |row: &BTreeMap<String, String>, name: &str| {
        row.get(name).and_then(|field| field.parse::<f64>().ok())
    };
    assert!(rows.len() <= 600, "no row is thinned away");

    let connections = &charts["connections"];
    let base = page.figure("/kernel/established_base");
    for (line, column) in [("client", "client_open"), ("server", "server_open")] {
        let wanted: Vec<f64> = rows.iter().filter_map(|row| number(row, column)).collect();
        let shown: Vec<f64> = connections.line(line).into_iter().map(|(_, v)| v).collect();
        assert_eq!(shown, wanted, "{column}");
    }
    for row in &rows {
        let (at, sockets) = (
            number(row, "at_seconds").expect("a time"),
            number(row, "kernel_established_sockets").expect("sockets"),
        );
        assert_eq!(connections.at("kernel, pairs", at), (sockets - base) / 2.0);
        assert_eq!(connections.at("target", at), page.figure("/asked/users"));
    }

    // Rates, added up again, are the counts.
    let ramp: Vec<_> = rows.iter().filter(|row| row["phase"] == "ramp").collect();
    if ramp.len() > 5 {
        let opened = charts["opening"].line("opened");
        let sum: f64 = opened.windows(2).map(|w| (w[1].0 - w[0].0) * w[1].1).sum();
        let counts: Vec<f64> = ramp
            .iter()
            .filter_map(|row| number(row, "client_opened"))
            .collect();
        let first = counts.iter().position(|n| *n > 0.0).expect("some opened");
        let wanted = counts.last().expect("some") - counts[first + 1];
        assert!((sum / wanted - 1.0).abs() < 0.1, "{sum}, not {wanted}");
    }

    for tag in ["connect", "lateness"] {
        let curve = &charts[&format!("{tag}-curve")];
        for (x, key) in [(2.0, "p50"), (100.0, "p99"), (1_000.0, "p999")] {
            if curve.line(tag).iter().any(|(at, _)| *at == x) {
                assert_eq!(
                    curve.at(tag, x),
                    page.figure(&format!("/latency_us/{tag}/{key}")),
                    "{tag} {key}"
                );
            }
        }
        assert_eq!(
            curve.line(tag).last().map(|(_, us)| *us),
            Some(page.figure(&format!("/latency_us/{tag}/max")))
        );
        let most = charts[&format!("{tag}-time")]
            .line("max")
            .into_iter()
            .map(|(_, us)| us)
            .fold(0.0, f64::max);
        assert_eq!(
            most,
            page.figure(&format!("/latency_us/{tag}/max")),
            "{tag}: the largest of all seconds"
        );
    }
    let near = |shown: f64, path: &str, within: f64| {
        let wanted = page.figure(path);
        assert!(
            (shown / wanted - 1.0).abs() < within,
            "{path}: {shown}, not {wanted}"
        );
    };
    let last = |chart: &str, line: &str| charts[chart].line(line).last().expect("a value").1;
    // A second before the three counts; so few connections that a page of the process shows are not compared.
    if page.figure("/connections/opened") > 1_000.0 {
        for who in ["server", "client"] {
            let path = format!("/memory/{who}_rss_bytes_per_connection");
            near(last("memory-ours", who), &path, 0.02);
        }
    }
    let spent: f64 = charts["cpu"]
        .line("server")
        .windows(2)
        .map(|w| (w[1].0 - w[0].0) * w[1].1)
        .sum();
    if page.figure("/cpu/server_seconds") > 1.0 {
        near(spent, "/cpu/server_seconds", 0.05);
    }
}

#[test]
fn a_million_connections_are_drawn_as_they_were_counted() {
    let browser = Browser::start("million");
    let page = Page::of_reference("reference-1m", "million");
    let charts = page.charts(&browser);
    assert_longconn(&page, &charts);
    let last = charts["memory-kernel"]
        .line("slabs")
        .last()
        .expect("a value")
        .1;
    assert!(
        (last / page.figure("/memory/slab_bytes_per_pair") - 1.0).abs() < 0.02,
        "{last}"
    );
    let tiles = texts(
        &browser
            .run("return [...document.querySelectorAll('.tile .value')].map(e => e.textContent)"),
    );
    for figure in [
        "1,000,000",
        "0 and 0",
        "43,481/s",
        "33,283/s",
        "1.3 ms",
        "39.2 B",
        "44.5 B",
        "8,362 B",
    ] {
        assert!(
            tiles.contains(&figure.to_string()),
            "{figure} is no headline: {tiles:?}"
        );
    }
    assert_eq!(
        browser.run("return document.querySelector('.verdict').textContent"),
        "PASS"
    );
}

#[test]
fn http_scenarios_are_drawn_as_they_were_measured() {
    let browser = Browser::start("http");
    let page = Page::of_reference("reference-http", "http");
    let charts = page.charts(&browser);
    let mut compared = 0;
    for entry in list(&page.run["scenarios"]) {
        let scenario = entry["scenario"].as_str().expect("a name");
        let figures = [
            ("rate", &entry["requests_per_second"]),
            ("cpu", &entry["server_cpu_seconds_per_million"]),
            ("latency", &entry["latency_us"]["p99"]),
            ("memory", &entry["rss_bytes_per_connection"]),
        ];
        for (what, wanted) in figures {
            let Some(wanted) = wanted.as_f64() else {
                continue;
            };
            let chart = &charts[&format!("{scenario}-{what}")];
            let subject = entry["subject"].as_str().expect("a subject");
            let is_of = |row: &Vec<Option<f64>>, name: &str| {
                row[1] == Some(wanted) && name.split(',').next() == Some(subject)
            };
            let names: Vec<String> = list(&chart.0["rows"])
                .iter()
                .map(|row| texts(row)[0].clone())
                .collect();
            let found = chart
                .rows()
                .iter()
                .zip(&names)
                .any(|(row, name)| is_of(row, name));
            assert!(
                found,
                "{scenario}, {subject}: {wanted} is not among {names:?} of {what}"
            );
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}

/// The real programs, small: what a run leaves today is what is drawn.
#[test]
fn a_real_run_is_drawn_with_its_own_numbers() {
    const FLAGS: &[&str] = &[
        "longconn", "--users", "400", "--rate", "200", "--every", "1s", "--hold", "3s",
    ];
    let bin_dir = Path::new(env!("CARGO_BIN_EXE_holdfast-bench"))
        .parent()
        .expect("a folder");
    for program in ["holdfast-server", "holdfast-client"] {
        assert!(
            bin_dir.join(program).is_file(),
            "{program} is not built; next: cargo build --workspace"
        );
    }
    let stage = Stage::new("page-real", "", "", FLAGS);
    let output = stage
        .bench(&["--bin-dir", &bin_dir.display().to_string()])
        .output()
        .expect("runs");
    let latest = stage.runs().join("latest");
    assert!(
        latest.join(report::HTML).is_file() && latest.join(report::MARKDOWN).is_file(),
        "{}",
        stderr(&output)
    );
    let page = Page::of(&latest, "real");
    let browser = Browser::start("real");
    let charts = page.charts(&browser);
    assert_longconn(&page, &charts);
    assert!(
        charts["opening"]
            .line("asked")
            .iter()
            .all(|(_, rate)| *rate == 200.0)
    );
    stage.assert_nothing_runs();
}

const LOOK: &str = r##"
const rgb = text => text.match(/[\d.]+/g).slice(0, 3).map(Number);
const luminance = text => { const [r, g, b] = rgb(text).map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
const card = luminance(getComputedStyle(document.querySelector('figure')).backgroundColor);
const of = (selector, what) => [...document.querySelectorAll(selector)].map(e => contrast(luminance(getComputedStyle(e)[what]), card));
const texts = [...document.querySelectorAll('svg.plot text')];
return {
  page: luminance(getComputedStyle(document.body).backgroundColor), card,
  ink: contrast(luminance(getComputedStyle(document.body).color), luminance(getComputedStyle(document.body).backgroundColor)),
  words: Math.min(...of('svg.plot text', 'fill'), ...of('figcaption p', 'color'), ...of('.tile .note', 'color')),
  lines: Math.min(...of('svg.plot polyline[stroke^="#00000"]', 'stroke')),
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  letters: Math.min(...texts.map(e => parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.parentElement.getBoundingClientRect().width
                                     / e.ownerSVGElement.parentElement.viewBox.baseVal.width)),
  outside: texts.filter(e => { const t = e.getBoundingClientRect(), s = e.ownerSVGElement.parentElement.getBoundingClientRect();
                               return t.left < s.left - 2 || t.right > s.right + 2; }).map(e => e.textContent.trim()),
};"##;

#[test]
fn dark_is_dark_and_a_phone_can_read_it() {
    let browser = Browser::start("look");
    for name in ["reference-1m", "reference-2400k", "reference-http"] {
        let page = Page::of_reference(name, "look");
        for (width, scheme) in [
            (1_200, "light"),
            (1_200, "dark"),
            (390, "light"),
            (390, "dark"),
        ] {
            browser.pretend(width, 850, scheme);
            browser.open(&page.folder.join(report::HTML));
            let look = browser.run(LOOK);
            let figure = |key: &str| {
                look[key]
                    .as_f64()
                    .unwrap_or_else(|| panic!("{key}: {look}"))
            };
            let at = format!("{name}, {width}, {scheme}: {look}");
            match scheme {
                "dark" => assert!(figure("page") < 0.02 && figure("card") < 0.03, "{at}"),
                _ => assert!(figure("page") > 0.85 && figure("card") > 0.85, "{at}"),
            }
            // WCAG: 7 for much text, 4.5 for any, 3 for what is drawn; the colours of lines are told apart by names besides.
            assert!(
                figure("ink") > 7.0 && figure("words") > 4.5 && figure("lines") > 2.7,
                "{at}"
            );
            assert!(figure("overflow") <= 0.0, "{at}");
            assert!(figure("letters") >= 9.5, "{at}");
            assert_eq!(list(&look["outside"]), Vec::<Value>::new(), "{at}");
        }
    }
}
