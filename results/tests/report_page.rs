//! The page in a real Chromium: every chart drawn with the run's own numbers, read back from the
//! page and compared with the files it was made of; dark and phone; nothing fetched, nothing on the
//! console.
//!
//! Needs chromium and chromedriver (`make need`), and our programs for the real run (`cargo build
//! --workspace`).
#![forbid(unsafe_code)]

#[path = "common/browser.rs"]
#[allow(dead_code, reason = "pictures are the example's")]
mod browser;
#[allow(dead_code, reason = "nothing is refused here")]
mod common;
#[path = "common/drawn.rs"]
mod drawn;
#[path = "common/page.rs"]
mod page;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use browser::Browser;
use common::{Stage, stderr};
use drawn::{Chart, list, texts};
use holdfast_report::report;
use page::{assert_readable, opened};
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

    /// Opens it and reads all charts back.
    fn charts(&self, browser: &Browser) -> BTreeMap<String, Chart> {
        opened(browser, &self.folder.join(report::HTML))
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
    // A second before the three counts; so few connections that a page of the process shows are not
    // compared.
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
#[ignore = "needs Chromium: make test"]
fn charts_of_a_million_connections_match_the_counts() {
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
#[ignore = "needs Chromium: make test"]
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
#[ignore = "needs Chromium: make test"]
fn report_of_a_real_run_shows_its_figures() {
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

#[test]
#[ignore = "needs Chromium: make test"]
fn proxied_and_direct_figures_are_drawn_side_by_side() {
    let browser = Browser::start("proxy");
    let page = Page::of_reference("reference-proxy", "proxy");
    let charts = page.charts(&browser);
    let bar = |chart: &str, name: &str| {
        charts[chart]
            .bar(name)
            .unwrap_or_else(|| panic!("{chart} has no bar {name}"))
    };
    let mut compared = 0;
    for trial in list(&page.run["trials"]) {
        let scenario = trial["scenario"].as_str().expect("a name");
        let way = ["direct", "through"][usize::from(trial["is_proxied"] == true)];
        let rate = trial["per_second"].as_f64().expect("a rate");
        assert_eq!(bar(&format!("{scenario}-rate"), way)[0], Some(rate));
        let latency = &trial["latency_us"];
        assert_eq!(
            bar(&format!("{scenario}-latency"), way)[..2],
            [latency["p99"].as_f64(), latency["p50"].as_f64()],
            "{scenario}, {way}"
        );
        for (chart, window) in [("cpu-message", "window"), ("cpu-connection", "ramp")] {
            for (host, who) in [
                ("backend", "server"),
                ("client1", "client"),
                ("balancer", "proxy"),
            ] {
                let window = &trial[window];
                let seconds = window[format!("{who}_cpu_seconds")].as_f64();
                let (Some(seconds), Some(count)) = (seconds, window["count"].as_f64()) else {
                    continue;
                };
                let each = bar(&format!("{scenario}-{chart}"), &format!("{host}, {way}"))[0];
                let wanted = seconds * 1e6 / count;
                assert!(
                    each.is_some_and(|us| (us - wanted).abs() < 0.01),
                    "{scenario} {chart} {host} {way}: {each:?}, not {wanted}"
                );
                compared += 1;
            }
        }
    }
    // Three hosts in each of 11 trials, but 5 that had no system; and again in the three that
    // opened connections.
    assert_eq!(compared, 11 * 3 - 5 + 3 * 3 - 1);
    // 143,220,736 and 64,180,224 bytes of slabs, 43,094,016 - 16,068,608 of haproxy's own, over
    // 8,000 connections.
    for (name, bytes) in [
        ("kernel, direct", 8_022.53),
        ("kernel, through", 17_902.59),
        ("haproxy, its own", 3_378.2),
    ] {
        let shown = bar("longconn-memory", name)[0].expect("a value");
        assert!((shown - bytes).abs() < 0.1, "{name}: {shown}");
    }
    let said = |selector: &str| {
        let script =
            format!("return [...document.querySelectorAll('{selector}')].map(e => e.textContent)");
        texts(&browser.run(&script))
    };
    assert_eq!(said(".verdict"), ["PASS"]);
    let tiles = said(".tile .value");
    for figure in [
        "9,986", "26,596/s", "+1.9 ms", "40.2 µs", "172 µs", "3,378 B", "9,880 B",
    ] {
        assert!(tiles.contains(&figure.to_string()), "{figure}: {tiles:?}");
    }
    assert_eq!(said(".limit strong"), ["descriptors", "machine CPU"]);
    let stopped = said("section p.words").join(" ");
    assert!(
        stopped.contains("Stopped at 9,986 connections by descriptors: haproxy takes"),
        "{stopped}"
    );
    assert!(said("footer code")[0].ends_with("holdfast-bench proxy --runs /tmp/my/runs"));
}

#[test]
#[ignore = "needs Chromium: make test"]
fn dark_is_dark_and_a_phone_can_read_it() {
    let browser = Browser::start("look");
    for name in [
        "reference-1m",
        "reference-2400k",
        "reference-http",
        "reference-proxy",
    ] {
        let page = Page::of_reference(name, "look");
        assert_readable(&browser, &page.folder.join(report::HTML));
    }
}
