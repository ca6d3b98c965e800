//! Pass or fail, and why.
//!
//! Purpose: the rules by which a run is believed, each a line of words with its numbers.
//! Invariants: a pure function of the record: whoever has `run.json` can repeat it. Every shortfall
//! is listed, not only the first; a pass has no reasons.
//! Must not depend on: processes, files, the kernel; what held a run back ([`crate::bottleneck`]).

use std::collections::BTreeMap;

use crate::run::{ProcessRecord, Run};

use holdfast_telemetry::units::{count, micros, total};

/// Fills `verdict` and `reasons` from the rest of the record.
pub fn judge(run: &mut Run) {
    let reasons = reasons(run);
    run.header.settle(reasons);
}

/// Every shortfall of `run`.
#[must_use]
pub fn reasons(run: &Run) -> Vec<String> {
    let mut reasons = run.header.incidents.clone();
    connections(run, &mut reasons);
    match &run.locust {
        Some(locust) if locust.requests.is_some() => {}
        _ => messages(run, &mut reasons),
    }
    if let Some(locust) = &run.locust {
        reasons.extend(locust.shortfalls());
    }
    exits(run, &mut reasons);
    reasons
}

fn connections(run: &Run, reasons: &mut Vec<String>) {
    let c = &run.connections;
    if c.asked == 0 {
        reasons.push("no users were asked for".into());
    }
    reasons.extend(unopened(c.asked, c.opened, &c.failed));
    if c.lost > 0 {
        let mut others = c.ended.clone();
        others.remove("held");
        let by = if others.is_empty() {
            String::new()
        } else {
            format!(": {}", kinds(&others))
        };
        reasons.push(format!(
            "{} opened connections were lost{by}",
            count(c.lost)
        ));
    }
    let three = [c.held_at_end, c.server_open, c.kernel_established];
    if three.iter().any(|n| *n != c.asked) {
        let moment = if run.hold.seconds.is_some() {
            "at the end of the hold"
        } else {
            "when the run was cut short"
        };
        reasons.push(format!(
            "counts {moment} are client {}, server {}, kernel {} instead of {} each",
            count(three[0]),
            count(three[1]),
            count(three[2]),
            count(c.asked)
        ));
    }
    if c.kernel_established_sockets != c.kernel_established.saturating_mul(2) {
        reasons.push(format!(
            "the kernel counts {} established sockets, which are not whole pairs",
            count(c.kernel_established_sockets)
        ));
    }
}

/// The most that the 99.9th percentile of lateness may be, microseconds: one interval. A message
/// that comes later than that was missed.
#[must_use]
pub fn lateness_limit_us(run: &Run) -> u64 {
    (run.asked.every_seconds * 1e6) as u64
}

/// The work that core threads had no time for, in words; nothing if they had time for all of it.
fn late_work(run: &Run) -> String {
    let mut found = Vec::new();
    for (name, process) in [
        ("server", &run.processes.server),
        ("client", &run.processes.client),
    ] {
        for (key, what) in [
            ("timers_postponed", "timers"),
            ("receives_postponed", "receives"),
            ("accepts_postponed", "accepts"),
            ("dials_postponed", "dials"),
        ] {
            if let Some(turns) = process.turns.get(key).filter(|turns| **turns > 0) {
                found.push(format!("{name} {what} in {} turns", count(*turns)));
            }
        }
    }
    match found.is_empty() {
        true => String::new(),
        false => format!("; postponed: {}", found.join(", ")),
    }
}

/// What is wrong with the opening: how many opened of those asked for, and how others failed, by
/// kind.
#[must_use]
pub fn unopened(asked: u64, opened: u64, failed: &BTreeMap<String, u64>) -> Vec<String> {
    let mut found = Vec::new();
    if opened != asked {
        found.push(format!(
            "{} of {} users opened",
            count(opened),
            count(asked)
        ));
    }
    let all = total(failed);
    if all > 0 {
        found.push(format!("{} attempts failed: {}", count(all), kinds(failed)));
    }
    found
}

fn messages(run: &Run, reasons: &mut Vec<String>) {
    let m = &run.messages;
    if m.wrong > 0 {
        reasons.push(format!(
            "{} messages differed from {:?}",
            count(m.wrong),
            run.asked.message
        ));
    }
    if m.missed > 0 {
        reasons.push(format!(
            "{} messages that were due did not come",
            count(m.missed)
        ));
    }
    let (p999, limit) = (run.latency_us.lateness.p999, lateness_limit_us(run));
    if p999 > limit {
        reasons.push(format!(
            "one message in 1,000 came {} late or later, more than the limit of one interval, {}{}",
            micros(p999),
            micros(limit),
            late_work(run)
        ));
    }
    match m.sent {
        Some(sent) if sent != m.received => {
            reasons.push(format!(
                "the server sent {} messages, the client received {}",
                count(sent),
                count(m.received)
            ));
        }
        None => reasons.push("how many messages the server sent is unknown".into()),
        Some(_) => {}
    }
    // Whole intervals that lie inside the hold with a second to spare: nobody can have had fewer
    // messages than these.
    let held = run.hold.seconds.unwrap_or(0.0).min(run.asked.hold_seconds);
    let whole = ((held - 1.0) / run.asked.every_seconds).floor();
    let due = if whole >= 1.0 {
        run.connections.held_at_end.saturating_mul(whole as u64)
    } else {
        0
    };
    if m.received.saturating_add(m.missed) < due {
        reasons.push(format!(
            "{} messages were received and {} reported missed, but the hold alone made at least {} due",
            count(m.received),
            count(m.missed),
            count(due)
        ));
    }
}

fn exits(run: &Run, reasons: &mut Vec<String>) {
    for (name, process) in [
        ("server", &run.processes.server),
        ("client", &run.processes.client),
    ] {
        if let Some(end) = bad_end(process) {
            let words = format!("the {name} {end}");
            // An incident may have said it already, and when.
            if !reasons.iter().any(|reason| reason.starts_with(&words)) {
                reasons.push(words);
            }
        }
        if !process.has_final_report {
            reasons.push(format!("the {name} left no final report"));
        }
    }
}

fn bad_end(process: &ProcessRecord) -> Option<String> {
    match (process.exit_code, process.signal) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("exited with code {code}")),
        (None, Some(signal)) => Some(format!("was ended by signal {signal}")),
        (None, None) => Some("has no known exit".into()),
    }
}

/// Counts by kind in words, the largest first.
#[must_use]
pub fn kinds(map: &BTreeMap<String, u64>) -> String {
    let mut kinds: Vec<_> = map.iter().filter(|(_, n)| **n > 0).collect();
    kinds.sort_by(|a, b| b.1.cmp(a.1));
    kinds
        .iter()
        .map(|(kind, n)| format!("{kind} {}", count(**n)))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Verdict;

    fn good() -> Run {
        let mut run = Run::default();
        run.asked.users = 1000;
        run.asked.every_seconds = 30.0;
        run.asked.hold_seconds = 60.0;
        run.hold.seconds = Some(61.5);
        run.asked.message = "ok".into();
        let c = &mut run.connections;
        (
            c.asked,
            c.opened,
            c.held_at_end,
            c.server_open,
            c.kernel_established,
        ) = (1000, 1000, 1000, 1000, 1000);
        c.kernel_established_sockets = 2000;
        c.ended.insert("held".into(), 1000);
        run.messages.sent = Some(2000);
        run.messages.received = 2000;
        for process in [&mut run.processes.server, &mut run.processes.client] {
            process.exit_code = Some(0);
            process.has_final_report = true;
        }
        run
    }

    /// Applies one change to a good run and expects exactly one reason with these words.
    fn falls_short(words: &str, change: impl FnOnce(&mut Run)) {
        let mut run = good();
        change(&mut run);
        judge(&mut run);
        assert_eq!(run.header.verdict, Verdict::Fail, "{words}");
        assert_eq!(
            run.header
                .reasons
                .iter()
                .filter(|r| r.contains(words))
                .count(),
            1,
            "{words}: {:?}",
            run.header.reasons
        );
    }

    #[test]
    fn lateness_is_judged_by_the_interval() {
        falls_short(
            "came 31.00 s late or later, more than the limit of one interval, 30.00 s",
            |r| r.latency_us.lateness.p999 = 31_000_000,
        );
        falls_short(
            "30.00 s; postponed: server timers in 12 turns, client receives in 3 turns",
            |r| {
                r.latency_us.lateness.p999 = 31_000_000;
                let turns = &mut r.processes.server.turns;
                turns.insert("timers_postponed".into(), 12);
                turns.insert("longest_us".into(), 30_000);
                let turns = &mut r.processes.client.turns;
                turns.insert("receives_postponed".into(), 3);
            },
        );
        let mut run = good();
        run.latency_us.lateness.p999 = 30_000_000;
        judge(&mut run);
        assert_eq!(run.header.verdict, Verdict::Pass);
    }

    #[test]
    fn good_run_passes_without_reasons() {
        let mut run = good();
        run.kernel.counters.insert("ListenOverflows".into(), 7); // a limit alone is no shortfall
        judge(&mut run);
        assert_eq!(
            (run.header.verdict, run.header.reasons.len()),
            (Verdict::Pass, 0),
            "{:?}",
            run.header.reasons
        );
    }

    #[test]
    fn empty_record_fails() {
        let mut run = Run::default();
        judge(&mut run);
        assert_eq!(run.header.verdict, Verdict::Fail);
    }

    #[test]
    fn each_shortfall_fails_with_its_reason() {
        falls_short("999 of 1,000 users opened", |r| r.connections.opened = 999);
        falls_short("1 attempts failed: refused 1", |r| {
            r.connections.failed.insert("refused".into(), 1);
        });
        falls_short("2 opened connections were lost: reset 2", |r| {
            r.connections.lost = 2;
            r.connections.ended.insert("reset".into(), 2);
        });
        falls_short("client 999, server 1,000, kernel 1,000", |r| {
            r.connections.held_at_end = 999
        });
        falls_short("client 1,000, server 998, kernel 1,000", |r| {
            r.connections.server_open = 998
        });
        falls_short("client 1,000, server 1,000, kernel 1,001", |r| {
            r.connections.kernel_established = 1001
        });
        falls_short("not whole pairs", |r| {
            r.connections.kernel_established_sockets = 2001
        });
        falls_short("3 messages differed from \"ok\"", |r| r.messages.wrong = 3);
        falls_short("4 messages that were due did not come", |r| {
            r.messages.missed = 4
        });
        falls_short("sent 2,001 messages, the client received 2,000", |r| {
            r.messages.sent = Some(2001)
        });
        falls_short("messages the server sent is unknown", |r| {
            r.messages.sent = None
        });
        falls_short("made at least 1,000 due", |r| {
            r.messages.sent = Some(10);
            r.messages.received = 10;
        });
        falls_short("the client exited with code 1", |r| {
            r.processes.client.exit_code = Some(1)
        });
        falls_short("the server was ended by signal 9", |r| {
            r.processes.server.exit_code = None;
            r.processes.server.signal = Some(9);
        });
        falls_short("the server left no final report", |r| {
            r.processes.server.has_final_report = false
        });
        falls_short("interrupted", |r| {
            r.header.incidents.push("interrupted".into())
        });
    }
}
