//! Pass or fail of an HTTP run, and why.
//!
//! Purpose: the rules by which our own server and client are believed, each a line of words with
//! its numbers.
//! Invariants: a pure function of the record. Competitors never fail a run: what befell them is in
//! the notes.
//! Must not depend on: processes, files, the kernel; how fast is fast enough.

use super::record::{Entry, HttpRun, LimitingSide};
use crate::verdict::kinds;

use holdfast_telemetry::units::{count, total};

/// How far the rate of users who wait may be from what they make due.
const OFFERED_TOLERANCE: f64 = 0.03;

/// Fills `verdict` and `reasons` from the rest of the record.
pub fn judge(run: &mut HttpRun) {
    let reasons = reasons(run);
    run.header.settle(reasons);
}

/// Every shortfall of `run`.
#[must_use]
pub fn reasons(run: &HttpRun) -> Vec<String> {
    let mut reasons = run.header.incidents.clone();
    if run.scenarios.iter().all(|e| e.rounds == 0) {
        reasons.push("nothing was measured".into());
    }
    for entry in run.scenarios.iter().filter(|e| e.subject == "holdfast") {
        of_ours(entry, &mut reasons);
    }
    reasons
}

fn of_ours(entry: &Entry, reasons: &mut Vec<String>) {
    let what = format!("{} with {}", entry.scenario, entry.generator);
    for m in &entry.measured {
        if let Some(error) = &m.error {
            reasons.push(format!("{what}, round {}: {error}", m.round));
        }
        if let Some(c) = m.counts
            && !(c.client_ok..=c.client_ok.saturating_add(c.client_stopped)).contains(&c.server_ok)
        {
            reasons.push(format!(
                "{what}, round {}: the client counts {} requests ok and {} under way at its stop, the server {} responses 200",
                m.round,
                count(c.client_ok),
                count(c.client_stopped),
                count(c.server_ok)
            ));
        }
    }
    let failed = total(&entry.failures);
    if failed > 0 {
        reasons.push(format!(
            "{what}: {} failures: {}",
            count(failed),
            kinds(&entry.failures)
        ));
    }
    if let (Some(offered), Some(rate), Some(LimitingSide::OfferedLoad)) = (
        entry.offered_per_second,
        entry.requests_per_second,
        entry.who_was_the_limit,
    ) && (rate / offered - 1.0).abs() > OFFERED_TOLERANCE
    {
        reasons.push(format!(
            "{what}: {} {} a second instead of {}, and no core was full",
            count(rate.round() as u64),
            entry.things(),
            count(offered.round() as u64)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{CountsOfBoth, Measured};
    use super::*;
    use crate::header::Verdict;

    fn run() -> HttpRun {
        let measured = Measured {
            round: 1,
            counts: Some(CountsOfBoth {
                client_ok: 1_000,
                client_stopped: 64,
                server_ok: 1_064,
            }),
            ..Measured::default()
        };
        let entry = Entry {
            scenario: "users-10000".into(),
            subject: "holdfast".into(),
            generator: "holdfast".into(),
            rounds: 1,
            requests_per_second: Some(17_900.0),
            offered_per_second: Some(18_181.8),
            who_was_the_limit: Some(LimitingSide::OfferedLoad),
            measured: vec![measured],
            ..Entry::default()
        };
        HttpRun {
            scenarios: vec![entry],
            ..HttpRun::default()
        }
    }

    #[track_caller]
    fn falls_short(words: &str, change: impl FnOnce(&mut Entry)) {
        let mut run = run();
        change(&mut run.scenarios[0]);
        judge(&mut run);
        assert_eq!(run.header.verdict, Verdict::Fail);
        assert!(
            run.header.reasons.iter().any(|r| r.contains(words)),
            "{:?}",
            run.header.reasons
        );
    }

    #[test]
    fn a_whole_run_passes() {
        let mut run = run();
        judge(&mut run);
        assert_eq!(
            (run.header.verdict, run.header.reasons),
            (Verdict::Pass, vec![])
        );
    }

    #[test]
    fn each_shortfall_is_named() {
        falls_short("reset 2", |e| {
            e.failures.insert("reset".into(), 2);
        });
        falls_short("round 1: died", |e| {
            e.measured[0].error = Some("died".into())
        });
        falls_short("the server 999 responses", |e| {
            e.measured[0].counts.as_mut().expect("counts").server_ok = 999;
        });
        falls_short("the server 1,065 responses", |e| {
            e.measured[0].counts.as_mut().expect("counts").server_ok = 1_065;
        });
        falls_short("instead of 18,182", |e| {
            e.requests_per_second = Some(17_000.0)
        });
        falls_short("nothing was measured", |e| e.rounds = 0);
    }

    #[test]
    fn full_cores_and_competitors_are_no_shortfall() {
        let mut slow = run();
        slow.scenarios[0].requests_per_second = Some(9_000.0);
        slow.scenarios[0].who_was_the_limit = Some(LimitingSide::Server);
        judge(&mut slow);
        assert_eq!(slow.header.verdict, Verdict::Pass);
        let mut peer = run();
        peer.scenarios[0].subject = "nginx".into();
        peer.scenarios[0].failures.insert("reset".into(), 2);
        judge(&mut peer);
        assert_eq!(peer.header.verdict, Verdict::Pass);
        peer.header.incidents.push("interrupted".into());
        judge(&mut peer);
        assert_eq!(peer.header.reasons, ["interrupted"]);
    }
}
