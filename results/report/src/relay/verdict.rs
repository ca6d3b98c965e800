//! Pass or fail of a run of `relay`, and why.
//!
//! Invariants: a pure function of the record. Anything that our relay lost, or a round of it
//! without figures, is a shortfall; how fast it is decides its targets ([`super::goals`]), not the
//! verdict. Competitors never fail a run.
//! Must not depend on: processes, files.

use super::record::{OURS, RelayRun};
use crate::bottleneck::{Bottleneck, BottleneckKind};
use crate::verdict::kinds;

use holdfast_telemetry::units::{count, total};

/// Fills `verdict` and `reasons` from the rest of the record.
pub fn judge(run: &mut RelayRun) {
    let mut reasons = run.header.incidents.clone();
    if run.entries.iter().all(|e| e.rounds == 0) {
        reasons.push("nothing was measured".into());
    }
    for entry in run.entries.iter().filter(|e| e.subject == OURS) {
        for m in &entry.measured {
            if let Some(error) = &m.error {
                reasons.push(format!("{}, round {}: {error}", entry.scenario, m.round));
            }
        }
        let failed = total(&entry.failures);
        if failed > 0 {
            reasons.push(format!(
                "{}: {} failures: {}",
                entry.scenario,
                count(failed),
                kinds(&entry.failures)
            ));
        }
    }
    run.header.settle(reasons);
}

/// What kept our relay from holding more pairs: where it stopped, or that it held all it was given.
#[must_use]
pub fn limits(run: &RelayRun) -> Vec<Bottleneck> {
    let ours = run.entries.iter().filter(|e| e.subject == OURS);
    let mut limits: Vec<Bottleneck> = ours.filter_map(|e| e.limit.clone()).collect();
    if limits.is_empty() {
        limits.push(Bottleneck {
            what: BottleneckKind::AskedUsers,
            share: None,
            connections: None,
            evidence: "our relay held every pair that was asked for".into(),
            next: "holdfast-bench relay --scenarios pairs, with more --pairs".into(),
        });
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::super::record::{Entry, Measured};
    use super::*;
    use crate::header::Verdict;

    #[test]
    fn only_our_own_losses_fail_a_run() {
        let mut lossy = Measured::default();
        lossy.add("cpu_us", Some(5.0));
        lossy.fail("bytes_missing", 64);
        let with = |subject: &str| {
            let mut run = RelayRun {
                entries: vec![Entry {
                    scenario: "bulk-64-up".into(),
                    subject: subject.into(),
                    measured: vec![lossy.clone()],
                    ..Entry::default()
                }],
                ..RelayRun::default()
            };
            run.sum_up();
            judge(&mut run);
            run.header
        };
        assert_eq!(with("haproxy").verdict, Verdict::Pass);
        let ours = with(OURS);
        assert_eq!(ours.verdict, Verdict::Fail);
        assert_eq!(ours.reasons, ["bulk-64-up: 64 failures: bytes_missing 64"]);
        let mut empty = RelayRun::default();
        judge(&mut empty);
        assert_eq!(empty.header.reasons, ["nothing was measured"]);
    }
}
