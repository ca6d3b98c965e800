//! The limits of a run of `proxy`: where the system between client and server stopped.
//!
//! Invariants: those of [`super`]. What stopped it at a number of connections comes before what
//! made it slow.
//! Must not depend on: verdicts.

use super::{Bottleneck, BottleneckKind, Findings, share, weight};
use crate::proxy::record::{ProxyRun, Trial};

use holdfast_telemetry::units::count;

/// A machine this busy has no more to give, percent.
pub const FULL_PERCENT: f64 = 95.0;

/// Everything that held the system back, first things first.
#[must_use]
pub fn of_proxy(run: &ProxyRun) -> Vec<Bottleneck> {
    let mut found = Findings::default();
    let measured: Vec<&Trial> = run.trials.iter().filter(|t| t.error.is_none()).collect();
    for trial in measured.iter().filter(|t| t.is_proxied) {
        if let Some(limit) = &trial.limit {
            stopped(&mut found, trial, limit);
        }
        slowed(&mut found, trial);
    }
    if measured.is_empty() {
        found.add(
            weight::COST,
            BottleneckKind::Unknown,
            None,
            "nothing was measured".into(),
            "see the reasons of the run".into(),
        );
    }
    if found.0.is_empty() {
        found.add(
            weight::ASKED,
            BottleneckKind::AskedUsers,
            None,
            "it passed on all that was asked for, and cores were left".into(),
            "holdfast-bench proxy --scenarios limit, with more --limit-users".into(),
        );
    }
    found.into_list()
}

fn stopped(found: &mut Findings, trial: &Trial, limit: &Bottleneck) {
    let lost = limit
        .connections
        .map(|held| trial.users.saturating_sub(held));
    let cost = limit.share.or(lost.map(|lost| share(lost, trial.users)));
    let held = limit.connections.map_or_else(String::new, |held| {
        format!("{} of {} held; ", count(held), count(trial.users))
    });
    let evidence = format!("{}: {held}{}", trial.scenario, limit.evidence);
    // Records of the first schema have none.
    let next = match limit.next.as_str() {
        "" => next(limit.what),
        next => next,
    };
    found.add(
        weight::COST + cost.unwrap_or(0.0).clamp(0.0, 1.0) / 10.0,
        limit.what,
        cost,
        evidence,
        next.into(),
    );
}

fn slowed(found: &mut Findings, trial: &Trial) {
    let Some(window) = trial.window.or(trial.ramp) else {
        return;
    };
    let busy = window.machine_busy_percent;
    if busy.is_nan() || busy < FULL_PERCENT {
        return;
    }
    let own = window.proxy_cpu_seconds.map_or_else(String::new, |own| {
        let all = own + window.server_cpu_seconds + window.client_cpu_seconds;
        format!(", the system took {own:.1} of the {all:.1} CPU seconds of all three")
    });
    let evidence = format!(
        "{}: all cores of the machine were {busy:.0}% busy{own}",
        trial.scenario
    );
    found.add(
        weight::SLOWED + busy.min(100.0) / 1e3,
        BottleneckKind::MachineCpu,
        Some(busy / 100.0),
        evidence,
        next(BottleneckKind::MachineCpu).into(),
    );
}

/// What moves the limit of a system under test.
#[must_use]
pub fn next(what: BottleneckKind) -> &'static str {
    match what {
        BottleneckKind::Descriptors => "raise the limit: ulimit -Hn 1048576 as root",
        BottleneckKind::ProxyCapacity => {
            "a larger maxconn in its configuration (results/competitors/haproxy-proxy.cfg)"
        }
        BottleneckKind::Ports => {
            "several addresses or servers behind the system: holdfast-bench proxy --target HOST:PORT"
        }
        BottleneckKind::MachineCpu => {
            "a machine with more cores: client, server and system share these"
        }
        _ => "read system.stderr.log in the trial's folder",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::record::Window;

    #[test]
    fn causes_of_failure_come_before_causes_of_slowness() {
        let window = Window {
            proxy_cpu_seconds: Some(5.0),
            server_cpu_seconds: 2.0,
            client_cpu_seconds: 3.0,
            machine_busy_percent: 99.2,
            ..Window::default()
        };
        let slow = Trial {
            scenario: "http-64".into(),
            is_proxied: true,
            window: Some(window),
            ..Trial::default()
        };
        let limit = Bottleneck {
            what: BottleneckKind::Descriptors,
            share: Some(0.2),
            connections: Some(80),
            evidence: "200 descriptors".into(),
            next: "ulimit".into(),
        };
        let short = Trial {
            scenario: "limit".into(),
            is_proxied: true,
            users: 100,
            limit: Some(limit),
            ..Trial::default()
        };
        let direct = Trial {
            is_proxied: false,
            ..slow.clone()
        };
        let mut run = ProxyRun {
            trials: vec![slow, short],
            ..ProxyRun::default()
        };
        let found = of_proxy(&run);
        let what: Vec<BottleneckKind> = found.iter().map(|l| l.what).collect();
        assert_eq!(
            what,
            [BottleneckKind::Descriptors, BottleneckKind::MachineCpu]
        );
        assert_eq!(found[0].evidence, "limit: 80 of 100 held; 200 descriptors");
        assert!(
            found[1].evidence.contains("5.0 of the 10.0 CPU seconds"),
            "{found:?}"
        );
        // Without the system nothing is its limit.
        run.trials = vec![direct];
        assert_eq!(of_proxy(&run)[0].what, BottleneckKind::AskedUsers);
        run.trials.clear();
        assert_eq!(of_proxy(&run)[0].what, BottleneckKind::Unknown);
    }
}
