//! `list` and `show`.

use holdfast_report::http::record::HttpRun;
use holdfast_report::proxy::record::ProxyRun;
use serde_json::Value;

use super::common::{assert_refused, stderr};
use super::*;

#[test]
fn damaged_folders_are_listed_as_such_and_not_shown() {
    let runs = Runs::new("list");
    assert!(stdout(&runs.bench(&["list"])).starts_with("no runs in "));
    let at = |date: &str, change: fn(&mut Run)| {
        let mut run: Run = reference("reference-1m");
        run.header.started_at = format!("{date}T10:00:00Z");
        change(&mut run);
        run
    };
    runs.add("20260102T100000Z-longconn", &at("2026-01-02", |_| {}));
    runs.add(
        "reference-old",
        &at("2026-01-01", |r| {
            r.header.verdict = holdfast_report::header::Verdict::Fail
        }),
    );
    runs.add(
        "20260105T100000Z-longconn",
        &reference::<Run>("reference-1m"),
    );
    fs::write(
        runs.0.join("20260105T100000Z-longconn/run.json"),
        "{\"schema\":",
    )
    .expect("cut short");
    fs::create_dir(runs.0.join("20260104T100000Z-longconn")).expect("a folder");
    runs.add(
        "20260103T100000Z-other",
        &serde_json::json!({"schema": "other/1"}),
    );
    fs::write(runs.0.join("a-file"), "").expect("a file");
    std::os::unix::fs::symlink("20260102T100000Z-longconn", runs.0.join("latest")).expect("a link");

    let output = runs.bench(&["list", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let json: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let names: Vec<&str> = json.iter().filter_map(|l| l["run"].as_str()).collect();
    assert_eq!(
        names,
        [
            "20260105T100000Z-longconn",
            "20260104T100000Z-longconn",
            "20260103T100000Z-other",
            "20260102T100000Z-longconn",
            "reference-old",
        ]
    );
    let damage = |line: usize| {
        json[line]["damage"]
            .as_str()
            .unwrap_or_default()
            .to_string()
    };
    assert!(damage(0).contains("run.json is damaged"));
    assert!(damage(1).contains("no run.json"));
    assert!(damage(2).contains("\"other/1\""));
    assert_eq!(
        (damage(3).as_str(), &json[3]["verdict"], &json[4]["verdict"]),
        ("", &"pass".into(), &"fail".into())
    );
    assert!(json[3]["size_bytes"].as_u64().is_some_and(|n| n > 1_000));

    let table = stdout(&runs.bench(&["list"]));
    assert_eq!(table.lines().count(), 6, "{table}");
    assert!(
        table.contains("1,000,000 of 1,000,000 users held")
            && table.contains("run.json is damaged")
    );

    for (run, words) in [
        ("20260105T100000Z-longconn", "run.json is damaged"),
        ("20260104T100000Z-longconn", "no run.json"),
        ("nowhere", "there is no run"),
    ] {
        assert_refused(&runs.bench(&["show", run]), words);
    }
    assert_refused(
        &Runs(PathBuf::from("/nowhere")).bench(&["list"]),
        "cannot be read",
    );
}

#[test]
fn show_repeats_the_summary_of_a_run() {
    let runs = Runs::new("show");
    runs.add("longconn", &reference::<Run>("reference-1m"));
    runs.add("http", &reference::<HttpRun>("reference-http"));
    std::os::unix::fs::symlink("longconn", runs.0.join("latest")).expect("a link");
    let page = stdout(&runs.bench(&["show"]));
    assert!(
        page.starts_with("PASS  longconn: 1,000,000 of 1,000,000 users held"),
        "{page}"
    );
    // The record is older than limits: they follow from it all the same.
    assert!(page.contains("  limit       client CPU: "), "{page}");
    let page = stdout(&runs.bench(&["show", "http"]));
    assert!(
        page.starts_with("PASS  http: ") && page.contains("  limit       client CPU: "),
        "{page}"
    );
    runs.add("proxy", &reference::<ProxyRun>("reference-proxy"));
    let page = stdout(&runs.bench(&["show", "proxy"]));
    assert!(
        page.starts_with("PASS  proxy: haproxy, 11 trials")
            && page.contains("  limit       descriptors: http-20000: 9,986 of 20,000 held; ")
            && page.contains("next: raise the limit: ulimit -Hn"),
        "{page}"
    );
    let table = stdout(&runs.bench(&["list"]));
    assert!(
        table.contains("limit: stopped at 9,986 (descriptors)"),
        "{table}"
    );
    let json: Run = serde_json::from_slice(&runs.bench(&["show", "longconn", "--json"]).stdout)
        .expect("the record");
    assert_eq!(json, reference::<Run>("reference-1m"));
}
