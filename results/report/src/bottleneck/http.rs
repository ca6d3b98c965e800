//! The limits of an HTTP run: of each measurement, and of ours together.
//!
//! Invariants: those of [`super`]. A measurement whose sides both had time left and that lost
//! nothing was limited by what it asked.
//! Must not depend on: verdicts.

use super::{Bottleneck, BottleneckKind, Findings, share, weight};
use crate::http::record::{Entry, HttpRun, LimitingSide as Side, Measured, median};

use holdfast_telemetry::units::count;

/// A rate within this of the offered one is the offered one.
const KEPT: f64 = 0.97;
/// Cores that spend this share in softirqs when they are full, and not by a process of ours, are
/// the packets'.
const SOFTIRQ_MIN: f64 = 0.3;

/// Everything that held one measurement back, first things first.
#[must_use]
pub fn of_entry(entry: &Entry) -> Vec<Bottleneck> {
    let mut found = Findings::default();
    if entry.rounds == 0 {
        let why = entry.error().unwrap_or("nothing was measured").to_string();
        found.add(
            weight::COST,
            BottleneckKind::Unknown,
            None,
            why,
            "see the reasons and notes of the run".into(),
        );
        return found.into_list();
    }
    failures(&mut found, entry);
    drops(&mut found, entry);
    cores(&mut found, entry);
    if found.0.iter().all(|(weight, _)| *weight < weight::SLOWED) {
        asked(&mut found, entry);
    }
    found.into_list()
}

fn requests(entry: &Entry) -> u64 {
    entry
        .measured
        .iter()
        .fold(0, |sum, m| sum.saturating_add(m.requests))
}

/// What it cost in requests or connections.
fn failures(found: &mut Findings, entry: &Entry) {
    let waiting = entry
        .measured
        .iter()
        .map(|m| m.time_wait)
        .max()
        .unwrap_or(0);
    for (kind, what, next) in [
        (
            "no_address_left",
            BottleneckKind::Ports,
            "more source addresses: holdfast-client http --source 127.0.1.0/24",
        ),
        (
            "no_descriptor",
            BottleneckKind::Descriptors,
            "raise the limit: ulimit -Hn 1048576 as root",
        ),
        (
            "server_accept_no_descriptor",
            BottleneckKind::Descriptors,
            "raise the limit: ulimit -Hn 1048576 as root",
        ),
        (
            "no_memory",
            BottleneckKind::Memory,
            "fewer users, or more memory: holdfast-tune plan --max says how many fit",
        ),
        (
            "server_accept_no_memory",
            BottleneckKind::Memory,
            "fewer users, or more memory: holdfast-tune plan --max says how many fit",
        ),
        (
            "server_refused_full",
            BottleneckKind::ServerCapacity,
            "a server that agrees to hold more: holdfast-server http --connections COUNT",
        ),
    ] {
        let Some(failed) = entry.failures.get(kind).filter(|n| **n > 0) else {
            continue;
        };
        let cost = share(*failed, requests(entry).saturating_add(*failed));
        let what = if what == BottleneckKind::Ports && waiting >= *failed {
            BottleneckKind::TimeWait
        } else {
            what
        };
        let mut evidence = format!(
            "{} failures {kind} beside {} {}",
            count(*failed),
            count(requests(entry)),
            entry.things()
        );
        if what == BottleneckKind::TimeWait {
            evidence += &format!(", {} connections in TIME_WAIT", count(waiting));
        }
        found.add(
            weight::COST + cost / 10.0,
            what,
            Some(cost),
            evidence,
            next.into(),
        );
    }
}

/// What the kernel dropped meanwhile.
fn drops(found: &mut Findings, entry: &Entry) {
    let counter = |name: &str| {
        let of = |m: &Measured| m.counters.get(name).copied().unwrap_or(0);
        entry.measured.iter().map(of).fold(0, u64::saturating_add)
    };
    let overflows = counter("ListenOverflows");
    let others =
        counter("TCPReqQFullDrop").saturating_add(counter("ListenDrops").saturating_sub(overflows));
    for (what, n, name, next) in [
        (
            BottleneckKind::AcceptQueue,
            overflows,
            "the accept queue was full (ListenOverflows)",
            "holdfast-tune apply --role server (net.core.somaxconn), or more cores for the server",
        ),
        (
            BottleneckKind::SynQueue,
            others,
            "SYNs were dropped (TCPReqQFullDrop, other ListenDrops)",
            "holdfast-tune apply --role server (net.ipv4.tcp_max_syn_backlog)",
        ),
        (
            BottleneckKind::SocketMemory,
            counter("TCPAbortOnMemory"),
            "connections were aborted for socket memory (TCPAbortOnMemory)",
            "holdfast-tune apply (net.ipv4.tcp_mem)",
        ),
    ] {
        if n > 0 {
            let cost = share(n, requests(entry));
            let weight = weight::SLOWED + (2.0 * cost).min(0.2);
            let evidence = format!(
                "{name} {} times in {} {}",
                count(n),
                count(requests(entry)),
                entry.things()
            );
            found.add(weight, what, Some(cost), evidence, next.into());
        }
    }
}

fn cores(found: &mut Findings, entry: &Entry) {
    let side = |of: Option<f64>| of.unwrap_or(0.0) / 100.0;
    let (server, client) = (
        side(entry.server_busy_percent),
        side(entry.client_busy_percent),
    );
    let both = format!(
        "{} used {:.0}% of the server's cores, {} {:.0}% of the client's",
        entry.subject,
        100.0 * server,
        entry.generator,
        100.0 * client
    );
    let middle = |of: fn(&Measured) -> f64| {
        median(
            entry
                .measured
                .iter()
                .filter(|m| m.error.is_none())
                .map(of)
                .collect(),
        )
        .unwrap_or(0.0)
    };
    match entry.who_was_the_limit {
        Some(Side::Server) => {
            let next = "more cores for the server: a machine with more, or holdfast-server http on one of its own";
            found.add(
                weight::SLOWED + server / 10.0,
                BottleneckKind::ServerCpu,
                Some(server),
                both,
                next.into(),
            );
        }
        Some(Side::Client) => {
            let next = match entry.generator.as_str() {
                "wrk" => "our client takes less: holdfast-bench http --generators holdfast",
                _ => "more cores for the client: holdfast-client http on other machines",
            };
            found.add(
                weight::SLOWED + client / 10.0,
                BottleneckKind::ClientCpu,
                Some(client),
                both,
                next.into(),
            );
        }
        Some(Side::Kernel) => {
            let softirq = middle(|m| m.server_cores_softirq.max(m.client_cores_softirq));
            let busy = middle(|m| m.server_cores_busy.max(m.client_cores_busy));
            let evidence = format!(
                "cores {:.0}% busy, {:.0}% of the time in softirqs; {both}",
                100.0 * busy,
                100.0 * softirq
            );
            let (what, share, next) = if softirq >= SOFTIRQ_MIN {
                (
                    BottleneckKind::Softirq,
                    softirq,
                    "a machine with more cores",
                )
            } else {
                (
                    BottleneckKind::OtherPrograms,
                    busy - server.max(client),
                    "end them (top shows them), and run it again",
                )
            };
            found.add(
                weight::SLOWED + busy / 10.0,
                what,
                Some(share),
                evidence,
                next.into(),
            );
        }
        Some(Side::OfferedLoad) | None => {}
    }
}

/// Nothing was full and nothing was lost.
fn asked(found: &mut Findings, entry: &Entry) {
    match (entry.offered_per_second, entry.requests_per_second) {
        (Some(offered), Some(rate)) if rate >= KEPT * offered => {
            let evidence = format!(
                "{} requests a second of the {} that the users' waits make due",
                count(rate.round() as u64),
                count(offered.round() as u64)
            );
            let next = "more users: holdfast-bench http --scenarios users-20000, or holdfast-client http --users COUNT".into();
            found.add(
                weight::ASKED,
                BottleneckKind::AskedRate,
                None,
                evidence,
                next,
            );
        }
        (Some(offered), rate) => {
            let evidence = format!(
                "{} requests a second instead of {}, and no core was full",
                rate.map_or("-".into(), |r| count(r.round() as u64)),
                count(offered.round() as u64)
            );
            found.add(
                weight::ASKED,
                BottleneckKind::Unknown,
                None,
                evidence,
                "see the failures of this measurement".into(),
            );
        }
        (None, _) => {
            let evidence = format!(
                "{} connections, and no core was full",
                count(entry.connections)
            );
            let next = "more connections: holdfast-bench http --scenarios keepalive-4096".into();
            found.add(
                weight::ASKED,
                BottleneckKind::AskedUsers,
                None,
                evidence,
                next,
            );
        }
    }
}

/// What held most of our measurements back: each limit that came first in one, the most frequent
/// first.
#[must_use]
pub fn of_http(run: &HttpRun) -> Vec<Bottleneck> {
    let is_ours = |e: &&Entry| e.subject == "holdfast";
    let has_ours = run.scenarios.iter().any(|e| is_ours(&e));
    let entries: Vec<&Entry> = run
        .scenarios
        .iter()
        .filter(|e| !has_ours || is_ours(e))
        .collect();
    let mut found = Findings::default();
    for entry in &entries {
        let Some(first) = of_entry(entry).into_iter().next() else {
            continue;
        };
        if found.has(first.what) {
            continue;
        }
        let same: Vec<(&str, &str)> = entries
            .iter()
            .filter(|e| of_entry(e).first().is_some_and(|l| l.what == first.what))
            .map(|e| (e.scenario.as_str(), e.generator.as_str()))
            .collect();
        let names: Vec<String> = same
            .iter()
            .map(|(scenario, by)| format!("{scenario} by {by}"))
            .collect();
        let part = share(same.len() as u64, entries.len() as u64);
        let evidence = format!(
            "in {} of {} measurements ({}); {} of {}: {}",
            same.len(),
            entries.len(),
            names.join(", "),
            entry.scenario,
            entry.subject,
            first.evidence
        );
        found.add(part, first.what, Some(part), evidence, first.next);
    }
    if entries.is_empty() {
        found.add(
            0.0,
            BottleneckKind::Unknown,
            None,
            "nothing was measured".into(),
            "see the reasons and notes of the run".into(),
        );
    }
    found.into_list()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One round of a second with so much of a core used by each side.
    fn entry(server: f64, client: f64) -> Entry {
        Entry {
            scenario: "keepalive-64".into(),
            subject: "holdfast".into(),
            generator: "wrk".into(),
            connections: 64,
            measured: vec![Measured {
                requests: 1_000,
                requests_per_second: Some(1_000.0),
                seconds: 1.0,
                server_cpu_seconds: server,
                client_cpu_seconds: client,
                server_core_count: 1,
                client_core_count: 1,
                ..Measured::default()
            }],
            ..Entry::default()
        }
    }

    #[track_caller]
    fn first(
        mut entry: Entry,
        what: BottleneckKind,
        change: impl FnOnce(&mut Entry),
    ) -> Bottleneck {
        change(&mut entry);
        let list = of_entry(&entry.summed_up());
        assert_eq!(list[0].what, what, "{list:#?}");
        list[0].clone()
    }

    #[test]
    fn each_bottleneck_is_first_when_alone() {
        assert_eq!(
            first(entry(0.97, 0.5), BottleneckKind::ServerCpu, |_| {}).share,
            Some(0.97)
        );
        first(entry(0.5, 0.99), BottleneckKind::ClientCpu, |_| {});
        first(entry(0.5, 0.5), BottleneckKind::AskedUsers, |_| {});
        first(entry(0.5, 0.5), BottleneckKind::AskedRate, |e| {
            e.offered_per_second = Some(1_010.0)
        });
        first(entry(0.5, 0.5), BottleneckKind::Unknown, |e| {
            e.offered_per_second = Some(2_000.0)
        });
        let full = |softirq: f64| {
            move |e: &mut Entry| {
                e.measured[0].server_cores_busy = 0.99;
                e.measured[0].server_cores_softirq = softirq;
            }
        };
        first(entry(0.5, 0.5), BottleneckKind::Softirq, full(0.6));
        first(entry(0.5, 0.5), BottleneckKind::OtherPrograms, full(0.1));
        first(entry(0.5, 0.5), BottleneckKind::AcceptQueue, |e| {
            e.measured[0].counters.insert("ListenOverflows".into(), 3);
        });
        let failed = |kind: &'static str| {
            move |e: &mut Entry| {
                e.measured[0].failures.insert(kind.into(), 7);
            }
        };
        first(
            entry(0.99, 0.5),
            BottleneckKind::Ports,
            failed("no_address_left"),
        );
        first(
            entry(0.99, 0.5),
            BottleneckKind::Descriptors,
            failed("server_accept_no_descriptor"),
        );
        first(entry(0.99, 0.5), BottleneckKind::TimeWait, |e| {
            failed("no_address_left")(e);
            e.measured[0].time_wait = 28_000;
        });
        first(entry(0.5, 0.5), BottleneckKind::Unknown, |e| {
            e.measured[0].error = Some("died".into())
        });
    }

    #[test]
    fn run_lists_the_most_frequent_bottleneck_of_ours() {
        let mut run = HttpRun::default();
        assert_eq!(of_http(&run)[0].what, BottleneckKind::Unknown);
        let mut nginx = entry(0.99, 0.1);
        nginx.subject = "nginx".into();
        run.scenarios = [entry(0.1, 0.99), entry(0.99, 0.1), entry(0.98, 0.1), nginx]
            .map(Entry::summed_up)
            .to_vec();
        let list = of_http(&run);
        let found: Vec<_> = list.iter().map(|l| (l.what, l.share)).collect();
        assert_eq!(
            found,
            [
                (BottleneckKind::ServerCpu, Some(0.667)),
                (BottleneckKind::ClientCpu, Some(0.333))
            ]
        );
        assert!(
            list[0].evidence.starts_with("in 2 of 3 measurements"),
            "{list:?}"
        );
    }
}
