//! `compare.html` in a real Chromium: both runs drawn with the numbers of their own records; dark
//! and phone; nothing fetched, nothing on the console.
//!
//! Needs chromium and chromedriver (`make need`).
#![forbid(unsafe_code)]

#[path = "common/browser.rs"]
#[allow(dead_code, reason = "pictures are the example's")]
mod browser;
#[path = "common/drawn.rs"]
#[allow(dead_code, reason = "no value is looked for by its time")]
mod drawn;
#[path = "common/page.rs"]
mod page;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use browser::Browser;
use drawn::{Chart, list, texts};
use page::{assert_readable, opened};
use serde_json::Value;

/// A folder with the page of two runs, removed afterwards.
struct Page {
    folder: PathBuf,
    runs: [PathBuf; 2],
}

impl Page {
    /// Compares two reference runs; the record of the second is changed by `change` first.
    fn of(before: &str, after: &str, change: impl Fn(&mut Value)) -> Self {
        let references = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs");
        let name = format!("holdfast-compare-page-{}-{before}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        let runs = [("before", before), ("after", after)].map(|(side, reference)| {
            let run = folder.join(side);
            fs::create_dir_all(&run).expect("a folder");
            for file in ["run.json", "series.csv"] {
                let from = references.join(reference).join(file);
                if from.exists() {
                    fs::copy(from, run.join(file)).expect("copies");
                }
            }
            run
        });
        let mut record = record(&runs[1]);
        change(&mut record);
        fs::write(runs[1].join("run.json"), record.to_string()).expect("a record");
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast-bench"))
            .arg("compare")
            .args(&runs)
            .arg("--anyway")
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|c| c < 2), "{said}");
        Self { folder, runs }
    }

    fn file(&self) -> PathBuf {
        self.runs[1].join("compare.html")
    }

    /// Both sides: name, folder.
    fn sides(&self) -> [(&'static str, &Path); 2] {
        [("before", &self.runs[0]), ("after", &self.runs[1])]
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn record(run: &Path) -> Value {
    let text = fs::read_to_string(run.join("run.json")).expect("a record");
    serde_json::from_str(&text).expect("JSON")
}

/// Time and value of a column of a run's series, from the begin of the ramp.
fn series(run: &Path, column: &str) -> Vec<(f64, f64)> {
    let text = fs::read_to_string(run.join("series.csv")).expect("a series");
    let mut rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = rows.next().expect("a head");
    let at = |name: &str| head.iter().position(|h| *h == name).expect("a column");
    let (time, phase, value) = (at("at_seconds"), at("phase"), at(column));
    let rows: Vec<_> = rows.skip_while(|row| row[phase] != "ramp").collect();
    let start: f64 = rows[0][time].parse().expect("a time");
    rows.iter()
        .filter_map(|row| {
            Some((
                row[time].parse::<f64>().ok()? - start,
                row[value].parse().ok()?,
            ))
        })
        .collect()
}

fn said(browser: &Browser, selector: &str) -> Vec<String> {
    let script =
        format!("return [...document.querySelectorAll('{selector}')].map(e => e.textContent)");
    texts(&browser.run(&script))
}

#[test]
#[ignore = "needs Chromium: make test"]
fn long_connections_of_both_runs_are_drawn_over_each_other() {
    let browser = Browser::start("compare-longconn");
    let page = Page::of("reference-1m", "reference-2400k", |_| {});
    let charts = opened(&browser, &page.file());
    for (chart, column) in [
        ("open", "client_open"),
        ("connect", "connect_p99_us"),
        ("lateness", "lateness_p99_us"),
    ] {
        for (side, run) in page.sides() {
            let wanted = series(run, column);
            let shown = charts[chart].line(side);
            assert!(wanted.len() > 50, "{column}");
            assert_eq!(shown.len(), wanted.len(), "{chart}, {side}");
            for ((x, value), (at, number)) in shown.iter().zip(&wanted) {
                assert!(
                    (x - at).abs() < 0.002 && value == number,
                    "{chart}, {side}: {value} at {x}, not {number} at {at}"
                );
            }
        }
    }
    // Rates, added up again, are the counts: of connections, and of seconds on cores.
    for (chart, column) in [
        ("opened", "client_opened"),
        ("messages", "messages_received"),
        ("server-cpu", "server_cpu_seconds"),
        ("client-cpu", "client_cpu_seconds"),
    ] {
        for (side, run) in page.sides() {
            let line = charts[chart].line(side);
            let sum: f64 = line.windows(2).map(|w| (w[1].0 - w[0].0) * w[1].1).sum();
            let counts = series(run, column);
            let wanted = counts.last().expect("some").1 - counts[0].1;
            assert!(
                (sum / wanted - 1.0).abs() < 0.1,
                "{chart}, {side}: {sum}, not {wanted}"
            );
        }
    }
    assert_eq!(charts.len(), 7);
    assert_eq!(said(&browser, "h1"), ["before → after"]);
    let notes = said(&browser, "footer li").join(" ");
    assert!(
        notes.contains("differs: asked.users: 1000000 | 2400000"),
        "{notes}"
    );
    assert_readable(&browser, &page.file());
}

/// The bars of all charts that end in `suffix` are those of `wanted`, by scenario and name, and
/// there are no others.
fn assert_bars(
    charts: &BTreeMap<String, Chart>,
    suffix: &str,
    wanted: &BTreeMap<(String, String), f64>,
) {
    let of_it = charts.iter().filter(|(id, _)| id.ends_with(suffix));
    let shown: usize = of_it.map(|(_, chart)| chart.rows().len()).sum();
    assert_eq!(shown, wanted.len(), "{suffix}");
    for ((scenario, name), value) in wanted {
        let shown = charts[&format!("{scenario}-{suffix}")].bar(name);
        let shown = shown.and_then(|row| row[0]);
        let is_it = shown.is_some_and(|v| (v - value).abs() <= 0.0001);
        assert!(
            is_it,
            "{scenario}, {suffix}, {name}: {shown:?}, not {value}"
        );
    }
}

#[test]
#[ignore = "needs Chromium: make test"]
fn scenarios_of_http_stand_side_by_side() {
    let browser = Browser::start("compare-http");
    // The second one's servers take half as long.
    let page = Page::of("reference-http", "reference-http", |run| {
        for entry in run["scenarios"].as_array_mut().expect("scenarios") {
            let seconds = &mut entry["server_cpu_seconds_per_million"];
            if let Some(value) = seconds.as_f64() {
                *seconds = (value / 2.0).into();
            }
        }
    });
    let charts = opened(&browser, &page.file());
    for (chart, figure) in [
        ("rate", "/requests_per_second"),
        ("cpu", "/server_cpu_seconds_per_million"),
        ("p99", "/latency_us/p99"),
    ] {
        let mut wanted = BTreeMap::new();
        for (side, run) in page.sides() {
            for entry in list(&record(run)["scenarios"]) {
                let word = |key: &str| entry[key].as_str().unwrap_or_default().to_string();
                let value = entry.pointer(figure).and_then(Value::as_f64);
                if let Some(value) = value.filter(|_| word("subject") == "holdfast") {
                    let name = format!("{}, {side}", word("generator"));
                    wanted.insert((word("scenario"), name), value);
                }
            }
        }
        assert!(wanted.len() > 20, "{chart}");
        assert_bars(&charts, chart, &wanted);
    }
    assert_readable(&browser, &page.file());
}

#[test]
#[ignore = "needs Chromium: make test"]
fn trials_of_proxies_stand_side_by_side() {
    let browser = Browser::start("compare-proxy");
    let page = Page::of("reference-proxy", "reference-proxy", |run| {
        run["version"] = "another".into();
        for trial in run["trials"].as_array_mut().expect("trials") {
            let rate = trial["per_second"].as_f64().expect("a rate");
            trial["per_second"] = (rate / 2.0).into();
        }
    });
    let charts = opened(&browser, &page.file());
    let mut wanted = BTreeMap::new();
    for (side, run) in page.sides() {
        for trial in list(&record(run)["trials"]) {
            let way = ["direct", "through"][usize::from(trial["is_proxied"] == true)];
            let scenario = trial["scenario"].as_str().expect("a name");
            let rate = trial["per_second"].as_f64().expect("a rate");
            wanted.insert((scenario.to_string(), format!("{way}, {side}")), rate);
        }
    }
    assert_eq!(wanted.len(), 22);
    assert_bars(&charts, "rate", &wanted);
    let notes = said(&browser, "footer li").join(" ");
    assert!(notes.contains("differs: version: HAProxy"), "{notes}");
    assert_readable(&browser, &page.file());
}
