//! The page after a run of `proxy`.
//!
//! Invariants: nothing is computed here that the record does not hold; what is unknown shows as
//! `-`.
//! Must not depend on: how figures came about.

use std::fmt::Write as _;
use std::path::Path;

use super::record::{ProxyRun, Trial};
use crate::bottleneck;

use holdfast_telemetry::units::{count, micros};

/// The page: verdict first, path last.
#[must_use]
pub fn page(run: &ProxyRun, folder: &Path) -> String {
    let mut out = run.header.page(&format!(
        "{}, {} trials, HTTP in {} rounds",
        run.asked.system,
        run.trials.len(),
        run.asked.rounds.max(1)
    ));
    let _ = writeln!(
        out,
        "\n  {:<12}{:<13}{:<8}{:>8}{:>12}{:>18}{:>11}{:>11}{:>10}{:>10}{:>10}  ",
        "scenario",
        "",
        "mode",
        "users",
        "a second",
        "rounds",
        "p50",
        "p99",
        "server s",
        "client s",
        "system s"
    );
    for trial in &run.trials {
        let _ = writeln!(out, "{}", row(trial));
    }
    let _ = writeln!(
        out,
        "\n  {:<12}{:<8}{:>12}{:>12}{:>8}{:>14}{:>14}{:>14}{:>16}{:>16}",
        "added",
        "mode",
        "p50",
        "p99",
        "rate x",
        "rounds",
        "us/connection",
        "us/message",
        "own B/conn.",
        "kernel B/conn."
    );
    for added in &run.added {
        let _ = writeln!(
            out,
            "  {:<12}{:<8}{:>12}{:>12}{:>8}{:>14}{:>14}{:>14}{:>16}{:>16}",
            added.scenario,
            mode(added.mode.as_ref()),
            signed(added.latency_p50_us),
            signed(added.latency_p99_us),
            maybe(added.rate_ratio),
            added
                .rate_ratio_min
                .zip(added.rate_ratio_max)
                .map_or("-".into(), |(min, max)| format!("{min}..{max}")),
            maybe(added.cpu_us_per_connection),
            maybe(added.cpu_us_per_message),
            maybe(added.bytes_per_connection),
            maybe(added.kernel_bytes_per_connection)
        );
    }
    let limits = bottleneck::lines(&run.header.limits, "              ");
    let _ = writeln!(out, "\n  limit       {limits}");
    let _ = writeln!(out, "  run         {}", folder.display());
    out
}

fn row(trial: &Trial) -> String {
    let via = trial.way();
    if let Some(error) = &trial.error {
        return format!(
            "  {:<12}{via:<13}{:<8}{:>8}  {error}",
            trial.scenario,
            mode(trial.mode.as_ref()),
            count(trial.users)
        );
    }
    let window = trial.window.unwrap_or_default();
    format!(
        "  {:<12}{via:<13}{:<8}{:>8}{:>12}{:>18}{:>11}{:>11}{:>10.2}{:>10.2}{:>10}",
        trial.scenario,
        mode(trial.mode.as_ref()),
        count(trial.users),
        rate(trial.per_second),
        trial
            .per_second_min
            .zip(trial.per_second_max)
            .map_or("-".into(), |(min, max)| format!(
                "{}..{}",
                rate(min),
                rate(max)
            )),
        micros(trial.latency_us.p50),
        micros(trial.latency_us.p99),
        window.server_cpu_seconds,
        window.client_cpu_seconds,
        window
            .proxy_cpu_seconds
            .map_or("-".into(), |s| format!("{s:.2}"))
    )
}

fn mode(mode: Option<&String>) -> &str {
    mode.map_or("-", |mode| mode)
}

fn rate(per_second: f64) -> String {
    count(per_second.round() as u64)
}

fn signed(us: Option<i64>) -> String {
    us.map_or("-".into(), |us| {
        let sign = if us < 0 { "-" } else { "+" };
        format!("{sign}{}", micros(us.unsigned_abs()))
    })
}

fn maybe(value: Option<f64>) -> String {
    value.map_or("-".into(), |v| format!("{v}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::record::Added;

    #[test]
    fn page_has_verdict_first_and_path_last() {
        let mut run = ProxyRun {
            trials: vec![Trial {
                scenario: "limit".into(),
                error: Some("it died".into()),
                ..Trial::default()
            }],
            added: vec![Added {
                latency_p50_us: Some(-1_500),
                ..Added::default()
            }],
            ..ProxyRun::default()
        };
        run.header.name = "proxy".into();
        run.header.reasons.push("counts differ".into());
        let page = page(&run, Path::new("/runs/x"));
        assert!(page.starts_with("FAIL  proxy"), "{page}");
        for words in ["- counts differ", "it died", "-1.5 ms"] {
            assert!(page.contains(words), "{page}");
        }
        assert!(page.trim_end().ends_with("/runs/x"));
    }
}
