//! What promtool says of the pages, the rules and the configuration that come with Holdfast.

use std::io::Write;
use std::process::Stdio;

use crate::common::programs::{command, spawn};
use crate::{Four, get, results_file};

/// Runs promtool, which must say nothing against it.
fn promtool(args: &[&str], input: &str) -> String {
    let mut promtool = command("promtool");
    promtool
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(&mut promtool);
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes())
        .expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said
}

#[test]
#[ignore = "needs promtool: make test"]
fn promtool_finds_nothing_in_the_pages() {
    for at in Four::start().metrics {
        let page = get(at, "/metrics", "");
        assert_eq!(promtool(&["check", "metrics"], &page), "", "{page}");
    }
}

#[test]
#[ignore = "needs promtool: make test"]
fn alerts_fire_exactly_when_they_should() {
    let file = |name| results_file(name).to_str().expect("plain text").to_owned();
    promtool(
        &[
            "check",
            "rules",
            "--lint-fatal",
            &file("prometheus/alerts.yml"),
        ],
        "",
    );
    promtool(&["check", "config", &file("prometheus/prometheus.yml")], "");
    promtool(&["test", "rules", &file("prometheus/alerts_test.yml")], "");
    // Each alert is tested.
    let text = |name| std::fs::read_to_string(results_file(name)).expect("a file");
    let tests = text("prometheus/alerts_test.yml");
    for line in text("prometheus/alerts.yml").lines() {
        if let Some(alert) = line.trim().strip_prefix("- alert: ") {
            assert!(
                tests.contains(&format!("alertname: {alert}\n")),
                "{alert} is not tested"
            );
        }
    }
}
