//! What a person sees of an HTTP run: the name of a slice during it, the tables after it.
//!
//! Invariants: nothing is computed here that the record does not hold; what is unknown shows as
//! `-`.
//! Must not depend on: how figures came about.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::record::{Entry, HttpRun, Ratio};
use crate::bottleneck;

use holdfast_telemetry::units::{count, micros, minutes};

/// The page after a run. `folder` is where its files are.
#[must_use]
pub fn page(run: &HttpRun, folder: &Path) -> String {
    let rounds = run.scenarios.iter().map(|e| e.rounds);
    let slices = rounds.fold(0_usize, usize::saturating_add);
    let mut out = run.header.page(&format!(
        "{slices} slices of {}, medians of up to {} rounds, {}",
        run.asked.slice(),
        run.asked.rounds,
        minutes(Duration::from_secs_f64(run.header.seconds.max(0.0)))
    ));
    for note in &run.notes {
        let _ = writeln!(out, "      note: {note}");
    }
    out.push('\n');
    table(&mut out, &figures(&run.scenarios, run.things()));
    if !run.ratios.is_empty() {
        let _ = writeln!(
            out,
            "\n  server or client CPU seconds per million {}, one over the other",
            run.things()
        );
        table(&mut out, &ratios(&run.ratios));
    }
    let _ = writeln!(
        out,
        "\n  limit       {}",
        bottleneck::lines(&run.header.limits, "              ")
    );
    let _ = writeln!(
        out,
        "  network     {}   server on cores {:?}, client on {:?}",
        run.header.lab.namespace, run.cores.server, run.cores.client
    );
    let _ = writeln!(out, "  run         {}", folder.display());
    out
}

fn figures(entries: &[Entry], things: &str) -> Vec<Vec<String>> {
    let per_second = format!("{things}/s");
    let mut rows = vec![header(&[
        "scenario",
        "server",
        "by",
        &per_second,
        "server CPU s/M",
        "min..max",
        "client CPU s/M",
        "p50",
        "p99",
        "p99.9",
        "max",
        "B/conn",
        "limit",
        "failures",
    ])];
    for e in entries {
        let latency = |field: fn(&holdfast_telemetry::wire::Latency) -> u64| {
            e.latency_us
                .as_ref()
                .map_or("-".into(), |l| micros(field(l)))
        };
        let spread = e
            .server_cpu_seconds_per_million_min
            .zip(e.server_cpu_seconds_per_million_max)
            .map_or("-".into(), |(min, max)| format!("{min:.2}..{max:.2}"));
        let failures: Vec<String> = e
            .failures
            .iter()
            .map(|(kind, n)| format!("{kind} {}", count(*n)))
            .collect();
        rows.push(vec![
            e.scenario.clone(),
            e.subject.clone(),
            e.generator.clone(),
            e.requests_per_second
                .map_or("-".into(), |v| count(v.round() as u64)),
            decimals(e.server_cpu_seconds_per_million, 2),
            spread,
            decimals(e.client_cpu_seconds_per_million, 2),
            latency(|l| l.p50),
            latency(|l| l.p99),
            latency(|l| l.p999),
            latency(|l| l.max),
            decimals(e.rss_bytes_per_connection, 0),
            e.limits.first().map_or("-", |l| l.what.label()).into(),
            if failures.is_empty() {
                "0".into()
            } else {
                failures.join(", ")
            },
        ]);
    }
    rows
}

fn ratios(ratios: &[Ratio]) -> Vec<Vec<String>> {
    let mut rows = vec![header(&[
        "scenario",
        "by",
        "ours/baseline",
        "nginx/ours",
        "haproxy/ours",
        "go/ours",
        "tokio/ours",
        "our client/wrk",
        "the same on nginx",
    ])];
    for r in ratios {
        rows.push(vec![
            r.scenario.clone(),
            r.generator.clone(),
            decimals(r.ours_over_floor, 2),
            decimals(r.nginx_over_ours, 2),
            decimals(r.haproxy_over_ours, 2),
            decimals(r.go_over_ours, 2),
            decimals(r.tokio_over_ours, 2),
            decimals(r.our_client_over_wrk, 2),
            decimals(r.our_client_over_wrk_on_nginx, 2),
        ]);
    }
    rows
}

fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_string()).collect()
}

fn decimals(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |v| format!("{v:.digits$}"))
}

/// Columns as wide as their widest cell: words to the left, figures to the right.
fn table(out: &mut String, rows: &[Vec<String>]) {
    let Some(header) = rows.first() else {
        return;
    };
    let is_words = |name: &str| ["scenario", "server", "by", "limit", "failures"].contains(&name);
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(header.iter().zip(&widths))
            .map(|(cell, (name, &width))| {
                if is_words(name) {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            })
            .collect();
        let _ = writeln!(out, "  {}", cells.join("  ").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Header;

    #[test]
    fn page_has_verdict_first_and_path_last() {
        let run = HttpRun {
            header: Header {
                reasons: vec!["nothing was measured".into()],
                ..Header::default()
            },
            scenarios: vec![Entry {
                scenario: "keepalive-64".into(),
                subject: "nginx".into(),
                generator: "wrk".into(),
                server_cpu_seconds_per_million: Some(4.256),
                ..Entry::default()
            }],
            ratios: vec![Ratio {
                scenario: "keepalive-64".into(),
                nginx_over_ours: Some(1.25),
                ..Ratio::default()
            }],
            ..HttpRun::default()
        };
        let page = page(&run, Path::new("/runs/x"));
        assert!(page.starts_with("FAIL"));
        assert!(page.contains("- nothing was measured"), "{page}");
        assert!(page.contains("4.26") && page.contains("1.25"), "{page}");
        assert!(page.trim_end().ends_with("/runs/x"));
    }

    #[test]
    fn columns_line_up() {
        let mut out = String::new();
        let row = |a: &str, b: &str| vec![a.to_string(), b.to_string()];
        table(
            &mut out,
            &[row("by", "p50"), row("wrk", "1"), row("x", "1000")],
        );
        assert_eq!(out, "  by    p50\n  wrk     1\n  x    1000\n");
        assert_eq!(minutes(Duration::from_secs(449)), "7 min 29 s");
    }
}
