//! The report of a run of `proxy`.
//!
//! Purpose: from its record to headline figures and tables; the charts are those of [`pair`].
//! Invariants: no figure here is measured or judged anew.
//! Must not depend on: how anything is drawn.

use super::document::{Document, Table, Tile};
use super::pair::{self, Pair};
use super::units::{Unit, bytes_each, decimal, known, micros, signed_micros, span};
use crate::proxy::record::{Added, ProxyRun};

use holdfast_telemetry::units::{count, total};

/// Fills `document`.
pub fn describe(document: &mut Document, run: &ProxyRun) {
    let pairs = pair::pairs(run);
    let stopped = match run.stopped() {
        Some((trial, limit)) => format!(
            "it stopped at {} of {} connections ({})",
            known(limit.connections, count),
            count(trial.users),
            limit.what.label()
        ),
        None => "nothing that was asked for stopped it".into(),
    };
    document.sentence = format!(
        "{} between client and server, {} scenarios, direct and through it: {stopped}.",
        run.asked.system,
        pairs.len()
    );
    document.tiles = tiles(run, &pairs);
    document.overview = vec![side_by_side(run), added(&run.added)];
    document.sections = pairs.iter().map(Pair::section).collect();
    document
        .tables
        .extend([counts(run), asked(run), hosts(run)]);
}

fn tiles(run: &ProxyRun, pairs: &[Pair<'_>]) -> Vec<Tile> {
    let mut tiles = Vec::new();
    tiles.extend(run.stopped().map(|(trial, limit)| {
        let note = format!("{}: {}", trial.scenario, limit.what.label());
        Tile::new("Stopped at", known(limit.connections, count), note)
    }));
    let failed = run
        .trials
        .iter()
        .fold(0_u64, |sum, t| sum.saturating_add(total(&t.failed)));
    let note = format!("in {} trials", run.trials.len());
    tiles.push(Tile::new("Attempts that failed", count(failed), note).bad_if(failed > 0));
    // Requests in saturation tell the most, and come before those of users who wait.
    let Some(main) = pairs.iter().find(|p| p.is_http()).or(pairs.first()) else {
        return tiles;
    };
    if let (Some(direct), Some(through)) = (main.direct, main.through) {
        let note = format!("{}: {}/s direct", main.scenario, decimal(direct.per_second));
        let rate = format!("{}/s", decimal(through.per_second));
        tiles.push(Tile::new("Rate through it", rate, note));
    }
    if let Some(added) = main.added {
        let note = format!(
            "{}: p99 {}",
            main.scenario,
            signed_micros(added.latency_p99_us)
        );
        tiles.push(Tile::new(
            "Added latency, p50",
            signed_micros(added.latency_p50_us),
            note,
        ));
    }
    type Of = fn(&Added) -> Option<f64>;
    let first = |of: Of| pairs.iter().find_map(|p| Some((p.scenario, of(p.added?)?)));
    let each = main.added.and_then(|a| a.cpu_us_per_message);
    let message = format!("Its CPU, a {}", main.message());
    let figures = [
        (
            message.as_str(),
            Unit::CpuMicros,
            each.map(|us| (main.scenario, us)),
            "passed on",
        ),
        (
            "Its CPU time per connection",
            Unit::CpuMicros,
            first(|a| a.cpu_us_per_connection),
            "opened",
        ),
        (
            "Its memory per connection",
            Unit::Bytes,
            first(|a| a.bytes_per_connection),
            "resident, beyond its start",
        ),
        (
            "Kernel memory per connection",
            Unit::Bytes,
            first(|a| a.kernel_bytes_per_connection),
            "beyond that of a direct one",
        ),
    ];
    for (label, unit, found, what) in figures {
        tiles.extend(found.map(|(scenario, value)| {
            Tile::new(label, unit.full(value), format!("{scenario}: {what}"))
        }));
    }
    tiles
}

/// Every trial in a row, direct above through.
fn side_by_side(run: &ProxyRun) -> Table {
    let rows = run.trials.iter().map(|trial| {
        let window = trial.window.unwrap_or_default();
        let latency = |us: u64| {
            if trial.latency_us.count > 0 {
                micros(us as f64)
            } else {
                "-".into()
            }
        };
        let stopped = match (&trial.error, &trial.limit) {
            (Some(error), _) => error.clone(),
            (None, Some(limit)) => format!(
                "{} ({})",
                known(limit.connections, count),
                limit.what.label()
            ),
            (None, None) => "-".into(),
        };
        let seconds = |s: f64| format!("{s:.2}");
        vec![
            trial.scenario.clone(),
            trial.way().into(),
            known(trial.mode.clone(), |mode| mode),
            stopped,
            count(trial.users),
            decimal(trial.per_second),
            rounds(trial.per_second_min.zip(trial.per_second_max), decimal),
            latency(trial.latency_us.p50),
            latency(trial.latency_us.p99),
            seconds(window.server_cpu_seconds),
            seconds(window.client_cpu_seconds),
            known(window.proxy_cpu_seconds, seconds),
            format!("{:.0}%", window.machine_busy_percent),
        ]
    });
    let head = [
        "Scenario",
        "Way",
        "Mode",
        "Stopped at",
        "Users",
        "a second",
        "of the rounds",
        "p50",
        "p99",
        "Server CPU s",
        "Client CPU s",
        "Its CPU s",
        "Machine busy",
    ];
    Table::new(
        &format!("Direct and through {}", run.asked.system),
        &head,
        4,
        rows.collect(),
    )
}

/// Least and most of the rounds.
fn rounds(spread: Option<(f64, f64)>, text: fn(f64) -> String) -> String {
    known(
        spread.filter(|(least, most)| least != most),
        |(least, most)| format!("{}–{}", text(least), text(most)),
    )
}

fn times(ratio: f64) -> String {
    format!("{ratio:.2}×")
}

fn added(all: &[Added]) -> Table {
    let rows = all.iter().map(|a| {
        let cpu = |v| known(v, |us| Unit::CpuMicros.full(us));
        vec![
            a.scenario.clone(),
            known(a.mode.clone(), |mode| mode),
            signed_micros(a.latency_p50_us),
            signed_micros(a.latency_p99_us),
            known(a.rate_ratio, times),
            rounds(a.rate_ratio_min.zip(a.rate_ratio_max), times),
            cpu(a.cpu_us_per_connection),
            cpu(a.cpu_us_per_message),
            known(a.bytes_per_connection, bytes_each),
            known(a.kernel_bytes_per_connection, bytes_each),
        ]
    });
    let head = [
        "Scenario",
        "Mode",
        "p50",
        "p99",
        "Rate",
        "of the rounds",
        "CPU, a connection",
        "CPU, a message",
        "Memory per connection",
        "Kernel, a connection",
    ];
    Table::new("What the system adds", &head, 2, rows.collect())
}

/// Who counted what, and that all agree.
fn counts(run: &ProxyRun) -> Table {
    let rows = run.trials.iter().flat_map(|trial| {
        trial.agreements.iter().map(|a| {
            let by: Vec<String> =
                a.by.iter()
                    .map(|(who, n)| format!("{who} {}", count(*n)))
                    .collect();
            vec![
                trial.scenario.clone(),
                trial.way().into(),
                a.what.clone(),
                by.join(", "),
                count(a.slack),
            ]
        })
    });
    Table::new(
        "Counts by observer",
        &["Scenario", "Way", "What", "Counts", "Slack"],
        4,
        rows.collect(),
    )
}

fn asked(run: &ProxyRun) -> Table {
    let asked = &run.asked;
    let rows = [
        ("System under test", asked.system.clone()),
        (
            "Its version",
            run.version.clone().unwrap_or_else(|| "-".into()),
        ),
        ("Long connections", count(asked.users)),
        ("Long connections up to its limit", count(asked.limit_users)),
        ("Opened a second", decimal(asked.spawn_rate_per_second)),
        ("Interval of messages", span(asked.every_seconds)),
        ("Held for", span(asked.hold_seconds)),
        ("A measurement of HTTP", span(asked.slice_seconds)),
        ("Rounds of HTTP", asked.rounds.max(1).to_string()),
    ];
    let rows = rows
        .into_iter()
        .map(|(name, value)| vec![name.into(), value]);
    Table::new("Asked for", &["", ""], 2, rows.collect())
}

fn hosts(run: &ProxyRun) -> Table {
    let rows = run.network.hosts.iter().map(|host| {
        let buckets = known(host.connection_hash_buckets, |n| count(n.unsigned_abs()));
        vec![
            host.name.clone(),
            host.addresses.join(", "),
            buckets,
            host.settings_failed.len().to_string(),
        ]
    });
    let head = [
        "Host",
        "Addresses",
        "Connection buckets",
        "Settings not set",
    ];
    Table::new(
        &format!("Hosts on {}", run.network.subnet),
        &head,
        2,
        rows.collect(),
    )
}
