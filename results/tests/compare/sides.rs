//! Which runs are compared, which are refused, and the page they leave.

use std::path::Path;

use holdfast_report::http::record::HttpRun;
use holdfast_report::proxy::record::ProxyRun;
use holdfast_telemetry::namespace::SettingRecord;
use serde_json::Value;

use super::common::assert_refused;
use super::*;

#[test]
fn what_is_not_comparable_is_refused_by_name_unless_told_to() {
    let runs = Runs::new("refused");
    runs.side("before", 2, 1, |_| {});
    type Change = (&'static str, fn(&mut Run));
    let changes: [Change; 9] = [
        ("machine.kernel: 6.18.44-fc-v657 | 6.19", |r| {
            r.header.machine.kernel = "6.19".into()
        }),
        ("machine.cpu", |r| r.header.machine.cpu = "other".into()),
        ("machine.core_count: 2 | 4", |r| {
            r.header.machine.core_count = 4
        }),
        ("machine.memory_bytes", |r| {
            r.header.machine.memory_bytes *= 2
        }),
        ("asked.users: 1000000 | 5", |r| r.asked.users = 5),
        ("asked.every_seconds", |r| r.asked.every_seconds = 8.0),
        ("lab.settings.net.core.somaxconn: 65535 | 128", |r| {
            let is_it = |s: &&mut SettingRecord| s.key == "net.core.somaxconn";
            let setting = r.header.lab.settings.iter_mut().find(is_it);
            setting.expect("set there").after = Some("128".into());
        }),
        ("processes.client.thread_count: 2 | 1", |r| {
            r.processes.client.thread_count = 1
        }),
        ("interrupted: false | true", |r| {
            r.header.incidents.push("interrupted".into())
        }),
    ];
    for (words, change) in changes {
        runs.side("after", 2, 2, change);
        assert_refused(&runs.bench(&["compare", "before", "after"]), words);
        let output = runs.bench(&["compare", "before", "after", "--json"]);
        assert_eq!(output.status.code(), Some(2));
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(json["outcome"], "not_comparable");
        let differences = json["differences"].as_array().expect("a list");
        assert!(
            differences
                .iter()
                .any(|d| d.as_str().is_some_and(|d| d.contains(words))),
            "{differences:?}"
        );
        let output = runs.compares(&["before", "after", "--anyway"], 0);
        assert!(stdout(&output).contains(&format!(
            "differs {}",
            words.split(':').next().expect("a key")
        )));
    }
    runs.add("proxy", &reference::<ProxyRun>("reference-proxy"));
    let mut other: ProxyRun = reference("reference-proxy");
    other.version = Some("HAProxy version 3.0".into());
    runs.add("proxy-after", &other);
    let output = runs.bench(&["compare", "proxy", "proxy-after"]);
    assert_refused(&output, "version: HAProxy version 2.6.12");
    // What may differ: the commit, and where the records lie.
    runs.side("after", 2, 2, |r| r.header.commit = "another".into());
    runs.compares(&["before", "after"], 0);
    runs.add("http", &reference::<HttpRun>("reference-http"));
    assert_refused(
        &runs.bench(&["compare", "before", "http", "--anyway"]),
        "longconn cannot be compared with http",
    );
}

#[test]
fn sides_are_runs_folders_lists_and_latest() {
    let runs = Runs::new("sides");
    runs.side("before", 3, 1, |_| {});
    runs.side("after", 3, 2, |_| {});
    std::os::unix::fs::symlink("after/3", runs.0.join("latest")).expect("a link");
    fs::create_dir(runs.0.join("before/damaged")).expect("a folder");
    fs::write(runs.0.join("before/damaged/run.json"), "{").expect("a file");
    let count = |args: &[&str]| {
        let output = runs.compares(&[args, &["--json"]].concat(), 0);
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let length = |side: &str| json[side].as_array().map_or(0, Vec::len);
        (length("before"), length("after"), json["notes"].to_string())
    };
    let (before, after, notes) = count(&["before", "after/1,latest, after/2"]);
    assert_eq!((before, after), (3, 3));
    assert!(
        notes.contains("before/damaged is left out: run.json is damaged"),
        "{notes}"
    );
    assert_eq!(
        count(&["before/1,before/1,before", "after"]).0,
        3,
        "none twice"
    );
    for (args, words) in [
        (&["before", "nowhere"][..], "there is no run \"nowhere\""),
        (&["before", "before/damaged"], "run.json is damaged"),
        (&["before", "after,before/1"], "is on both sides"),
        (&["before", ","], "names no run"),
        (
            &["before", "after", "--tolerance", "-1"],
            "a tolerance of -1",
        ),
        (&["before"], "<AFTER>"),
    ] {
        assert_refused(&runs.bench(&[&["compare"], args].concat()), words);
    }
}

#[test]
fn the_page_has_both_sides_in_its_charts() {
    let runs = Runs::new("page");
    for (side, from) in [("before", "reference-1m"), ("after", "reference-2400k")] {
        runs.add(side, &reference::<Run>(from));
        let series = Path::new(REFERENCES).join(from).join("series.csv");
        fs::copy(series, runs.0.join(side).join("series.csv")).expect("a series");
    }
    runs.compares(&["before", "after", "--anyway"], 0);
    let page = fs::read_to_string(runs.0.join("after/compare.html")).expect("beside the run after");
    for words in [
        "Connections open",
        "Opened a second",
        "Lateness of messages",
        "differs: asked.users: 1000000 | 2400000",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert_eq!(
        page.matches("<figure").count(),
        7,
        "a chart for each figure over time"
    );
    assert!(page.contains("before: min") && page.contains("after: min"));
    let elsewhere = runs.file("elsewhere.html", "");
    runs.compares(&["before", "after", "--anyway", "--html", &elsewhere], 0);
    assert_eq!(fs::read_to_string(&elsewhere).expect("there"), page);
    runs.add("http", &reference::<HttpRun>("reference-http"));
    runs.add("http-after", &reference::<HttpRun>("reference-http"));
    runs.compares(&["http", "http-after"], 0);
    let page = fs::read_to_string(runs.0.join("http-after/compare.html")).expect("a page");
    assert!(
        page.contains("<h2>keepalive-64</h2>")
            && page.contains("wrk, before")
            && page.contains("wrk, after")
    );
    assert_refused(
        &runs.bench(&["compare", "before", "after", "--html", "/nowhere/x.html"]),
        "asked.users",
    );
    let output = runs.bench(&[
        "compare",
        "before",
        "after",
        "--anyway",
        "--html",
        "/nowhere/x.html",
    ]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}
