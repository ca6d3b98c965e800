//! `results/METRICS.md` against what the programs really show, in both directions.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_telemetry::wire::WorkerReport;

use crate::common::{Running, own_address, subcommand};
use crate::{Four, free_address, get, results_file};

/// Type and labels by name.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// What the tables of METRICS.md say.
fn documented() -> Metrics {
    let text = std::fs::read_to_string(results_file("METRICS.md")).expect("METRICS.md");
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, _] = cells[..] else {
            return None;
        };
        let name = name.strip_prefix('`')?.strip_suffix('`')?;
        let labels = labels
            .split(',')
            .map(|label| label.trim().trim_matches('`').to_owned());
        // Outside OpenMetrics there are gauges only.
        let kind = if kind == "info" { "gauge" } else { kind };
        Some((
            name.to_owned(),
            (kind.to_owned(), labels.filter(|l| !l.is_empty()).collect()),
        ))
    });
    rows.collect()
}

/// What a page says.
fn shown(page: &str, into: &mut Metrics) {
    let mut current = String::new();
    for line in page.lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["#", "TYPE", name, kind] => {
                current = name.to_owned();
                into.entry(current.clone()).or_default().0 = kind.to_owned();
            }
            ["#", ..] => {}
            _ => {
                assert!(line.starts_with(&current), "{line} stands below {current}");
                let labels = line
                    .split_once('{')
                    .map_or("", |(_, rest)| rest.split_once('}').expect("closed").0);
                let names = labels
                    .split(',')
                    .filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
                into.get_mut(&current)
                    .expect("typed before")
                    .1
                    .extend(names.filter(|name| name != "le"));
            }
        }
    }
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    let four = Four::start();
    let mut seen = Metrics::new();
    let of_worker = free_address();
    let nobody = std::net::TcpListener::bind((own_address(), 0)).expect("a port");
    let master = nobody.local_addr().expect("its address").to_string();
    let at = of_worker.to_string();
    let flags = ["--master", &master, "--metrics", &at];
    let worker = Running::<WorkerReport>::start(subcommand("holdfast-client", "worker", &flags));
    worker.until("a report", |r| r.workers == 1);
    for at in four.metrics.into_iter().chain([of_worker]) {
        shown(&get(at, "/metrics", ""), &mut seen);
    }
    let documented = documented();
    let names = |metrics: &Metrics| metrics.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(
        names(&seen)
            .difference(&names(&documented))
            .collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "not documented"
    );
    assert_eq!(
        names(&documented)
            .difference(&names(&seen))
            .collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "not there"
    );
    assert_eq!(seen, documented, "types and labels");
}

#[test]
fn rules_and_dashboard_name_documented_metrics_only() {
    let documented = documented();
    for file in [
        "prometheus/alerts.yml",
        "prometheus/alerts_test.yml",
        "grafana/holdfast.json",
    ] {
        let text = std::fs::read_to_string(results_file(file)).expect(file);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let mut count = 0;
        for word in words.filter(|w| w.starts_with("holdfast_") || w.starts_with("process_")) {
            let name = word.strip_suffix("_bucket").unwrap_or(word);
            assert!(documented.contains_key(name), "{file} names {word}");
            count += 1;
        }
        assert!(count > 10, "{file} names {count} metrics");
    }
}
