//! What kept a system from holding all connections.
//!
//! Invariants: a limit is named only where the system held fewer than were asked for, and with the
//! numbers it follows from.
//! Must not depend on: how anything was counted.

use super::haproxy::Statistics;

use holdfast_report::bottleneck::{Bottleneck, BottleneckKind, PROXY_FULL_PERCENT, proxy_next};
use holdfast_telemetry::units::{count, round};
use holdfast_testbed::network::layout::PORTS;

/// What kept the system from holding all `users`, if something did. `out_of_descriptors` is what it
/// said when it had none left.
#[must_use]
pub fn limit(
    open: u64,
    users: u64,
    statistics: Option<&Statistics>,
    out_of_descriptors: Option<&str>,
    busy_percent: f64,
) -> Option<Bottleneck> {
    if open >= users {
        return None;
    }
    let (what, evidence) = cause(open, users, statistics, out_of_descriptors, busy_percent);
    Some(Bottleneck {
        what,
        share: Some(round((users - open) as f64 / users as f64, 3)),
        connections: Some(open),
        evidence,
        next: proxy_next(what).into(),
    })
}

/// What, and what shows it.
fn cause(
    open: u64,
    users: u64,
    statistics: Option<&Statistics>,
    out_of_descriptors: Option<&str>,
    busy_percent: f64,
) -> (BottleneckKind, String) {
    if let Some(s) = statistics.filter(|s| s.connections_max > 0 && open >= s.connections_max) {
        // haproxy keeps some descriptors for listeners, checks and its own use, and takes two for
        // each connection.
        let is_reckoned =
            s.connections_max * 2 <= s.descriptors && s.connections_max * 5 / 2 > s.descriptors;
        let takes = format!("haproxy takes {} connections", count(s.connections_max));
        return if is_reckoned {
            let descriptors = count(s.descriptors);
            let words = format!("{takes}, reckoned from {descriptors} descriptors, two each");
            (BottleneckKind::Descriptors, words)
        } else {
            (BottleneckKind::ProxyCapacity, format!("{takes} (maxconn)"))
        };
    }
    if let Some(line) = out_of_descriptors {
        let words = format!("it had no descriptors left, two for each connection: {line}");
        return (BottleneckKind::Descriptors, words);
    }
    if open >= PORTS * 99 / 100 {
        let words = format!("one address has {PORTS} ports towards one server");
        return (BottleneckKind::Ports, words);
    }
    if busy_percent >= PROXY_FULL_PERCENT {
        let words = format!("all cores of the machine were {busy_percent:.0}% busy");
        return (BottleneckKind::MachineCpu, words);
    }
    let words = format!("it held {open} of {users}, with cores and ports to spare");
    (BottleneckKind::Unknown, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_its_name() {
        let statistics = |connections_max, descriptors| Statistics {
            connections_max,
            descriptors,
            ..Statistics::default()
        };
        let what = |open, users, s: Option<&Statistics>, busy| {
            limit(open, users, s, None, busy).map(|l| l.what)
        };
        let line = "accept4() failed (24: Too many open files)";
        let said = limit(299, 720, None, Some(line), 99.0).expect("a limit");
        assert_eq!(
            (said.what, said.connections),
            (BottleneckKind::Descriptors, Some(299))
        );
        assert!(said.evidence.ends_with(line), "{}", said.evidence);
        assert_eq!(limit(720, 720, None, Some(line), 99.0), None);
        assert_eq!(what(12_000, 12_000, None, 100.0), None);
        let (reckoned, given) = (statistics(9_986, 20_000), statistics(2_000, 20_000));
        for (open, users, s, busy, wanted) in [
            (
                9_986,
                12_000,
                Some(&reckoned),
                50.0,
                BottleneckKind::Descriptors,
            ),
            (
                2_000,
                12_000,
                Some(&given),
                50.0,
                BottleneckKind::ProxyCapacity,
            ),
            (64_400, 70_000, None, 50.0, BottleneckKind::Ports),
            (
                5_000,
                12_000,
                Some(&reckoned),
                99.0,
                BottleneckKind::MachineCpu,
            ),
            (
                5_000,
                12_000,
                Some(&reckoned),
                40.0,
                BottleneckKind::Unknown,
            ),
        ] {
            assert_eq!(what(open, users, s, busy), Some(wanted));
        }
        let found = limit(9_000, 12_000, None, None, 50.0).expect("fewer than asked for");
        assert_eq!((found.connections, found.share), (Some(9_000), Some(0.25)));
    }
}
