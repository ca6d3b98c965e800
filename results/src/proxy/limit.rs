//! What kept a system from holding all connections.
//!
//! Invariants: a limit is named only where the system held fewer than were asked for, and with the numbers it follows from.
//! Must not know: how anything was counted.

use super::haproxy::Statistics;
use super::record::Limit;
use crate::network::layout::PORTS;
use crate::summary::count;

/// A machine this busy has no more to give, percent.
const FULL_PERCENT: f64 = 95.0;

/// What kept the system from holding all `users`, if something did. `out_of_descriptors` is what it said when it had none left.
#[must_use]
pub fn limit(
    open: u64,
    users: u64,
    statistics: Option<&Statistics>,
    out_of_descriptors: Option<&str>,
    busy_percent: f64,
) -> Option<Limit> {
    let limit = |what: &str, words: String| {
        Some(Limit {
            what: what.into(),
            connections: open,
            words,
        })
    };
    if open >= users {
        return None;
    }
    if let Some(s) = statistics.filter(|s| s.connections_max > 0 && open >= s.connections_max) {
        // haproxy keeps some descriptors for listeners, checks and its own use, and takes two for each connection.
        let is_reckoned =
            s.connections_max * 2 <= s.descriptors && s.connections_max * 5 / 2 > s.descriptors;
        return if is_reckoned {
            limit(
                "descriptors",
                format!(
                    "haproxy takes {} connections, reckoned from {} descriptors, two each",
                    count(s.connections_max),
                    count(s.descriptors)
                ),
            )
        } else {
            limit(
                "maxconn",
                format!(
                    "haproxy takes {} connections (maxconn)",
                    count(s.connections_max)
                ),
            )
        };
    }
    if let Some(line) = out_of_descriptors {
        let words = format!("it had no descriptors left, two for each connection: {line}");
        return limit("descriptors", words);
    }
    if open >= PORTS * 99 / 100 {
        return limit(
            "ports",
            format!("one address has {} ports towards one server", PORTS),
        );
    }
    if busy_percent >= FULL_PERCENT {
        return limit(
            "cpu",
            format!("all cores of the machine were {busy_percent:.0}% busy"),
        );
    }
    limit(
        "unknown",
        format!("it held {open} of {users}, with cores and ports to spare: see system.stderr.log"),
    )
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
        assert_eq!((said.what.as_str(), said.connections), ("descriptors", 299));
        assert!(said.words.ends_with(line), "{}", said.words);
        assert_eq!(limit(720, 720, None, Some(line), 99.0), None);
        assert_eq!(what(12_000, 12_000, None, 100.0), None);
        let reckoned = statistics(9_986, 20_000);
        assert_eq!(
            what(9_986, 12_000, Some(&reckoned), 50.0).as_deref(),
            Some("descriptors")
        );
        let given = statistics(2_000, 20_000);
        assert_eq!(
            what(2_000, 12_000, Some(&given), 50.0).as_deref(),
            Some("maxconn")
        );
        assert_eq!(what(64_400, 70_000, None, 50.0).as_deref(), Some("ports"));
        assert_eq!(
            what(5_000, 12_000, Some(&reckoned), 99.0).as_deref(),
            Some("cpu")
        );
        assert_eq!(
            what(5_000, 12_000, Some(&reckoned), 40.0).as_deref(),
            Some("unknown")
        );
    }
}
