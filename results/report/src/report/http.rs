//! The report of a run of `http`.
//!
//! Purpose: from its record to tiles, one section of bars for each scenario, and tables.
//! Invariants: no figure here is measured or judged anew; a subject has the same colour in every
//! chart.
//! Must not depend on: how anything is drawn.

use super::chart::{Bar, Bars, Caption, Chart, Style, spread};
use super::document::{Document, Section, Table, Tile};
use super::pair::capital;
use super::percentiles::{self, Curve};
use super::units::{Unit, bytes_each, decimal, known, micros};
use crate::header::Verdict;
use crate::http::record::{Entry, HttpRun, Measured, Ratio};

use holdfast_telemetry::units::{count, total};
use holdfast_telemetry::wire::Latency;

const OURS: &str = "holdfast";
/// Those with colours of their own, in order.
const SUBJECTS: [&str; 6] = [OURS, "floor", "nginx", "haproxy", "go", "tokio"];

/// Fills `document`.
pub fn describe(document: &mut Document, run: &HttpRun) {
    document.notes.extend(run.notes.iter().cloned());
    let mut scenarios: Vec<&str> = Vec::new();
    for entry in &run.scenarios {
        if !scenarios.contains(&entry.scenario.as_str()) {
            scenarios.push(&entry.scenario);
        }
    }
    document.sentence = format!(
        "{} scenarios, {} servers, {} rounds of {} each: {}.",
        scenarios.len(),
        run.asked.subjects.len(),
        run.asked.rounds,
        run.asked.slice(),
        match run.header.verdict {
            Verdict::Pass => "every answer of ours was right",
            Verdict::Fail => "ours fell short",
        }
    );
    document.tiles = tiles(run);
    document.sections = scenarios
        .iter()
        .map(|name| section(name, &run.scenarios))
        .collect();
    document.tables.push(figures(&run.scenarios, run.things()));
    if !run.ratios.is_empty() {
        document.overview.push(ratios(&run.ratios, run.things()));
    }
    let programs = run.programs.iter().map(|(name, says)| {
        vec![
            name.clone(),
            says.clone().unwrap_or_else(|| "not here".into()),
        ]
    });
    document.tables.push(Table::new(
        "Programs",
        &["Program", "Version"],
        2,
        programs.collect(),
    ));
}

fn tiles(run: &HttpRun) -> Vec<Tile> {
    let ours: Vec<&Entry> = run.scenarios.iter().filter(|e| e.subject == OURS).collect();
    let failed = ours
        .iter()
        .fold(0_u64, |sum, e| sum.saturating_add(total(&e.failures)));
    let answered = ours
        .iter()
        .flat_map(|e| &e.measured)
        .fold(0_u64, |sum, m| sum.saturating_add(m.requests));
    let mut tiles = vec![
        Tile::new(
            "Failures of ours",
            count(failed),
            format!("of {} {} measured", count(answered), run.things()),
        )
        .bad_if(failed > 0),
    ];
    let fastest = ours
        .iter()
        .filter_map(|e| Some((e.requests_per_second?, e)))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    tiles.extend(fastest.map(|(rate, e)| {
        Tile::new(
            &format!("Most {}", run.things()),
            format!("{}/s", decimal(rate)),
            format!("{}, load by {}", e.scenario, e.generator),
        )
    }));
    type Of = fn(&Ratio) -> Option<f64>;
    let over: [(&str, Of); 5] = [
        ("nginx", |r| r.nginx_over_ours),
        ("haproxy", |r| r.haproxy_over_ours),
        ("Go", |r| r.go_over_ours),
        ("tokio", |r| r.tokio_over_ours),
        ("Bare loop", |r| {
            r.ours_over_floor.filter(|v| *v > 0.0).map(|v| 1.0 / v)
        }),
    ];
    for (name, ratio) in over {
        let mut all: Vec<f64> = run
            .ratios
            .iter()
            .filter_map(ratio)
            .filter(|v| v.is_finite())
            .collect();
        all.sort_by(f64::total_cmp);
        if let (Some(least), Some(most)) = (all.first(), all.last()) {
            let note = format!(
                "CPU seconds a million {}, {} scenarios",
                run.things(),
                all.len()
            );
            tiles.push(Tile::new(
                &format!("{name} over ours"),
                format!("{}–{}×", decimal(*least), decimal(*most)),
                note,
            ));
        }
    }
    let idle = ours
        .iter()
        .filter_map(|e| Some((e.rss_bytes_per_connection?, e)))
        .max_by_key(|(_, e)| e.connections);
    tiles.extend(idle.map(|(each, e)| {
        Tile::new(
            "Idle connection",
            bytes_each(each),
            format!("of {}, {}", count(e.connections), e.scenario),
        )
    }));
    let users = ours
        .iter()
        .filter(|e| e.offered_per_second.is_some())
        .max_by_key(|e| e.connections);
    tiles.extend(users.and_then(|e| {
        let l = e.latency_us.as_ref()?;
        Some(Tile::new(
            "Users, p99",
            micros(l.p99 as f64),
            format!("{}, p50 {}", e.scenario, micros(l.p50 as f64)),
        ))
    }));
    tiles
}

fn section(scenario: &str, entries: &[Entry]) -> Section {
    let of_it: Vec<&Entry> = entries.iter().filter(|e| e.scenario == scenario).collect();
    let is_used = |name: &&str| of_it.iter().any(|e| e.generator == *name);
    let main = ["wrk", "members"].into_iter().find(is_used).unwrap_or(OURS);
    let connections = of_it.iter().map(|e| e.connections).max().unwrap_or(0);
    let things = of_it.first().map_or("requests", |e| e.things());
    let mut words = format!(
        "{} connections, load by {}",
        count(connections),
        generator(main)
    );
    if of_it.iter().any(|e| e.generator != main) {
        words += " unless a bar says otherwise";
    }
    if let Some(offered) = of_it.iter().find_map(|e| e.offered_per_second) {
        words += &format!("; the users make {}/s due", decimal(offered));
    }
    let mut told = vec![words + "."];
    told.extend(of_it.iter().filter_map(|e| {
        let last = e.last_us.as_ref()?;
        Some(format!(
            "{}: the last member had a message after {}, of all messages after {} at most.",
            e.subject,
            micros(last.p50 as f64),
            micros(last.max as f64)
        ))
    }));
    told.extend(of_it.iter().filter_map(|e| {
        Some(format!(
            "{}, load by {}: {}",
            e.subject,
            generator(&e.generator),
            e.error()?
        ))
    }));
    let name = |e: &Entry| {
        if e.generator == main {
            e.subject.clone()
        } else {
            format!("{}, {}", e.subject, generator(&e.generator))
        }
    };
    let bars = |figure: &dyn Fn(&Entry) -> Option<f64>,
                round: &dyn Fn(&Measured) -> Option<f64>,
                inner: &dyn Fn(&Entry) -> Option<f64>|
     -> Vec<Bar> {
        let bar = |e: &&Entry| {
            Some(Bar {
                name: name(e),
                colour: colour_of(e),
                value: figure(e)?,
                inner: inner(e),
                spread: least_and_most(e, round),
            })
        };
        of_it.iter().filter_map(bar).collect()
    };
    let id = |what: &str| format!("{scenario}-{what}");
    let none = |_: &Entry| None;
    let rate = Bars::new(
        Caption::new(
            id("rate"),
            format!("{} a second", capital(things)),
            "Longer is better. The thin line shows minimum and maximum of the rounds.",
        ),
        Unit::PerSecond,
        ("median", None),
        bars(
            &|e| e.requests_per_second,
            &|m| m.requests_per_second,
            &none,
        ),
    );
    let cpu = Bars::new(
        Caption::new(
            id("cpu"),
            format!("Server CPU seconds per million {things}"),
            format!("Shorter is better: the CPU time that {things} cost."),
        ),
        Unit::CpuSeconds,
        ("median", None),
        bars(
            &|e| e.server_cpu_seconds_per_million,
            &|m| (m.requests > 0).then(|| m.server_cpu_seconds / m.requests as f64 * 1e6),
            &none,
        ),
    );
    let latency = Bars::new(
        Caption::new(
            id("latency"),
            "Latency, p50 / p99",
            "Shorter is better. The mark is p50, the end p99; our client counts from the due time, wrk and the members of a chat from the sending.",
        ),
        Unit::Micros,
        ("p99", Some("p50")),
        bars(
            &|e| Some(e.latency_us?.p99 as f64),
            &|m| Some(m.latency_us?.p99 as f64),
            &|e| Some(e.latency_us?.p50 as f64),
        ),
    );
    let memory = Bars::new(
        Caption::new(
            id("memory"),
            "Memory per idle connection",
            "Shorter is better: growth of the server's resident memory over the idle connections.",
        ),
        Unit::Bytes,
        ("median", None),
        bars(
            &|e| e.rss_bytes_per_connection,
            &|m| {
                (m.idle_connections > 0).then_some(
                    (m.rss_bytes? as f64 - m.rss_base_bytes? as f64) / m.idle_connections as f64,
                )
            },
            &none,
        ),
    );
    let bars = [rate, cpu, latency, memory].map(|bars| bars.map(Chart::Bars));
    Section::new(
        scenario,
        told,
        bars.into_iter().chain([curves(scenario, &of_it)]),
    )
}

/// Latency by percentile of what our client measured, as far as the record knows it.
fn curves(scenario: &str, entries: &[&Entry]) -> Option<Chart> {
    let mut lines = Vec::new();
    for e in entries.iter().filter(|e| e.generator != "wrk") {
        for (latency, what, style) in [
            (&e.latency_us, "corrected", Style::Plain),
            (&e.latency_raw_us, "raw", Style::Dashed),
        ] {
            lines.extend(latency.as_ref().map(|latency| Curve {
                name: format!("{}, {what}", e.subject),
                style,
                colour: colour_of(e),
                latency,
            }));
        }
    }
    let caption = Caption::new(
        format!("{scenario}-curve"),
        "Latency by percentile, our client",
        "p50, p99, p99.9 and maximum. Corrected latency starts at the due time, raw latency at sending; a gap between them is time that a stalled server hid.",
    );
    percentiles::chart(caption, &lines)
}

fn colour_of(e: &Entry) -> usize {
    SUBJECTS
        .iter()
        .position(|s| *s == e.subject)
        .unwrap_or(SUBJECTS.len())
}

fn least_and_most(entry: &Entry, figure: &dyn Fn(&Measured) -> Option<f64>) -> Option<(f64, f64)> {
    let sound = entry.measured.iter().filter(|m| m.error.is_none());
    spread(&sound.filter_map(figure).collect::<Vec<f64>>())
}

fn generator(name: &str) -> &str {
    match name {
        OURS => "our client",
        "members" => "one of the members",
        _ => name,
    }
}

fn figures(entries: &[Entry], things: &str) -> Table {
    let rows = entries.iter().map(|e| {
        let latency =
            |of: fn(&Latency) -> u64| known(e.latency_us.as_ref(), |l| micros(of(l) as f64));
        let spread = e
            .server_cpu_seconds_per_million_min
            .zip(e.server_cpu_seconds_per_million_max);
        let limit = e.limits.first().map(|limit| limit.what.label());
        vec![
            e.scenario.clone(),
            e.subject.clone(),
            generator(&e.generator).into(),
            limit.unwrap_or("-").into(),
            known(e.requests_per_second, decimal),
            known(e.server_cpu_seconds_per_million, decimal),
            known(spread, |(least, most)| {
                format!("{}–{}", decimal(least), decimal(most))
            }),
            known(e.client_cpu_seconds_per_million, decimal),
            latency(|l| l.p50),
            latency(|l| l.p99),
            latency(|l| l.p999),
            latency(|l| l.max),
            known(e.rss_bytes_per_connection, bytes_each),
            count(total(&e.failures)),
        ]
    });
    let head = [
        "Scenario",
        "Server",
        "Load by",
        "Limiting side",
        &format!("{}/s", capital(things)),
        "Server CPU s/M",
        "of the rounds",
        "Generator CPU s/M",
        "p50",
        "p99",
        "p99.9",
        "max",
        "Idle, each",
        "Failures",
    ];
    Table::new("Figures", &head, 4, rows.collect())
}

fn ratios(ratios: &[Ratio], things: &str) -> Table {
    let times = |v: Option<f64>| {
        known(v, |v| {
            if v < 9.995 {
                format!("{v:.2}×")
            } else {
                format!("{v:.1}×")
            }
        })
    };
    let rows = ratios.iter().map(|r| {
        vec![
            r.scenario.clone(),
            generator(&r.generator).into(),
            times(r.ours_over_floor),
            times(r.nginx_over_ours),
            times(r.haproxy_over_ours),
            times(r.go_over_ours),
            times(r.tokio_over_ours),
            times(r.our_client_over_wrk),
            times(r.our_client_over_wrk_on_nginx),
        ]
    });
    let head = [
        "Scenario",
        "Load by",
        "ours / bare loop",
        "nginx / ours",
        "haproxy / ours",
        "Go / ours",
        "tokio / ours",
        "our client / wrk",
        "... on nginx",
    ];
    Table::new(
        &format!("CPU seconds per million {things}, ratios"),
        &head,
        2,
        rows.collect(),
    )
}
