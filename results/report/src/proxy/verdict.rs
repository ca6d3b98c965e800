//! Whether a run of `proxy` is believed.
//!
//! Invariants: a pure function of the record. How fast or how frugal a system is makes no
//! shortfall; counts that differ do, and so does anything lost where no limit was reached.
//! Must not depend on: processes, files.

use super::record::{ProxyRun, Trial};
use crate::network::Agreement;
use crate::verdict::unopened;

use holdfast_telemetry::units::count;

/// Fills `verdict` and `reasons` from the rest of the record.
pub fn judge(run: &mut ProxyRun) {
    let mut reasons = run.header.incidents.clone();
    if run.trials.is_empty() {
        reasons.push("nothing was measured".into());
    }
    for trial in &run.trials {
        let mut via = run.asked.way(trial.is_proxied);
        if trial.way() == "through-tcp" {
            via += " in TCP mode";
        }
        let words = shortfalls(trial).into_iter();
        reasons.extend(words.map(|words| format!("{}, {via}: {words}", trial.scenario)));
    }
    run.header.settle(reasons);
}

fn shortfalls(trial: &Trial) -> Vec<String> {
    if let Some(error) = &trial.error {
        return vec![error.clone()];
    }
    let mut found: Vec<String> = trial
        .agreements
        .iter()
        .filter_map(Agreement::shortfall)
        .collect();
    found.extend(trial.rounds.iter().filter_map(|t| t.error.clone()));
    if trial.agreements.is_empty() {
        found.push("there are no counts to compare".into());
    }
    if trial.limit.is_some() {
        return found;
    }
    found.extend(unopened(trial.users, trial.opened, &trial.failed));
    // The run ends in the middle of requests and never in the middle of a heartbeat.
    let is_right = |class: &str| ["held", "ok", "stopped"].contains(&class);
    for (class, n) in trial.outcomes.iter().filter(|(class, _)| !is_right(class)) {
        found.push(format!("{} ended as {class}", count(*n)));
    }
    if trial.latency_us.count == 0 {
        found.push("nothing was received".into());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bottleneck::{Bottleneck, BottleneckKind};
    use crate::header::Verdict;
    use holdfast_telemetry::wire::Latency;

    fn run() -> ProxyRun {
        let trial = Trial {
            scenario: "longconn".into(),
            is_proxied: true,
            users: 10,
            opened: 10,
            outcomes: [("held".to_string(), 10)].into(),
            latency_us: Latency {
                count: 9,
                ..Latency::default()
            },
            agreements: vec![Agreement::exact("open", [("client", 10), ("server", 10)])],
            ..Trial::default()
        };
        let mut run = ProxyRun {
            trials: vec![trial],
            ..ProxyRun::default()
        };
        run.asked.system = "haproxy".into();
        run
    }

    fn falls_short(words: &str, change: impl FnOnce(&mut Trial)) {
        let mut run = run();
        change(&mut run.trials[0]);
        judge(&mut run);
        assert_eq!(run.header.verdict, Verdict::Fail, "{words}");
        assert!(
            run.header.reasons.iter().any(|r| r.contains(words)),
            "{words}: {:?}",
            run.header.reasons
        );
    }

    #[test]
    fn a_whole_run_passes_and_each_shortfall_is_named() {
        let mut whole = run();
        judge(&mut whole);
        assert_eq!(
            (whole.header.verdict, whole.header.reasons),
            (Verdict::Pass, vec![])
        );
        falls_short(
            "longconn, through haproxy: open: client 10, haproxy_front 9",
            |t| {
                t.agreements[0].add("haproxy_front", 9);
            },
        );
        falls_short("9 of 10 users opened", |t| t.opened = 9);
        falls_short("2 attempts failed: refused 2", |t| {
            t.failed.insert("refused".into(), 2);
        });
        falls_short("3 ended as reset", |t| {
            t.outcomes.insert("reset".into(), 3);
        });
        falls_short("nothing was received", |t| t.latency_us.count = 0);
        falls_short("there are no counts", |t| t.agreements.clear());
        falls_short("it died", |t| t.error = Some("it died".into()));
        falls_short("one died", |t| {
            t.rounds = vec![Trial::default(), Trial::default()];
            t.rounds[1].error = Some("one died".into());
        });
        let mut empty = ProxyRun::default();
        judge(&mut empty);
        assert_eq!(empty.header.verdict, Verdict::Fail);
    }

    #[test]
    fn reached_limit_is_a_result_but_counts_must_agree() {
        let mut limited = run();
        let trial = &mut limited.trials[0];
        trial.limit = Some(Bottleneck {
            what: BottleneckKind::Unknown,
            share: None,
            connections: Some(7),
            evidence: String::new(),
            next: String::new(),
        });
        trial.outcomes.insert("missed_message".into(), 3);
        judge(&mut limited);
        assert_eq!(
            limited.header.verdict,
            Verdict::Pass,
            "{:?}",
            limited.header.reasons
        );
        limited.trials[0].agreements[0].add("haproxy_back", 3);
        judge(&mut limited);
        assert_eq!(limited.header.verdict, Verdict::Fail);
    }
}
