//! What one thread's users count, and how the counts of all threads are merged.
//!
//! Invariants: every request begun is pending or in exactly one outcome; only requests that end
//! after the warm-up are measured.
//! Must not depend on: connections, threads.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::outcome::{OUTCOME_COUNT, Outcome};
use super::response::{ResponseCounts, Verdict};
use crate::aggregate::{add, drain_into, histogram, merge_spans};

/// Bytes of an example that are kept.
const EXAMPLE_BYTES_MAX: usize = 80;

/// Reasons why responses were malformed. There are only as many as the parser knows.
#[derive(Debug, Clone, Default)]
pub struct Reasons(BTreeMap<&'static str, (u64, String)>);

impl Reasons {
    /// Counts `count` requests. `bytes` is what could not be parsed: its beginning is the example
    /// of a reason that is new.
    pub fn record(&mut self, why: &'static str, count: u64, bytes: &[u8]) {
        let (sum, _) = self.0.entry(why).or_insert_with(|| {
            let start = &bytes[..bytes.len().min(EXAMPLE_BYTES_MAX)];
            (0, start.escape_ascii().to_string())
        });
        *sum += count;
    }

    /// Adds the reasons of another thread.
    pub fn merge(&mut self, other: &Reasons) {
        for (why, (count, example)) in &other.0 {
            let (sum, _) = self.0.entry(why).or_insert_with(|| (0, example.clone()));
            *sum += count;
        }
    }

    /// Requests by reason.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.0
            .iter()
            .map(|(why, (count, _))| ((*why).to_owned(), *count))
            .collect()
    }

    /// The beginning of what could not be parsed, by reason; escaped.
    pub fn examples(&self) -> BTreeMap<String, String> {
        self.0
            .iter()
            .map(|(why, (_, example))| ((*why).to_owned(), example.clone()))
            .collect()
    }
}

/// Counts since the start; histograms of what was recorded since they were last handed over,
/// microseconds.
#[derive(Debug)]
pub struct Counters {
    warm_up_us: u64,
    /// Requests begun.
    pub requests: u64,
    /// Requests ended, by [`Outcome`] number.
    pub outcomes: [u64; OUTCOME_COUNT],
    /// The same for each of several URLs; empty for a single one.
    pub by_url: Vec<[u64; OUTCOME_COUNT]>,
    /// Responses by status, and what was odd about them.
    pub responses: ResponseCounts,
    /// Measured requests that were ok.
    pub measured_ok: u64,
    /// Measured requests that failed.
    pub measured_failed: u64,
    /// Requests sent again on another connection.
    pub retried: u64,
    /// Connections on which bytes arrived while no request was outstanding.
    pub unsolicited: u64,
    /// Requests that ended as malformed, by reason.
    pub malformed: Reasons,
    /// Turns of the schedule before their user was there.
    pub turns_skipped: u64,
    /// Turns of the schedule that were sent, or could not be.
    pub turns_taken: u64,
    /// Requests due and not sent.
    pub backlog_now: u64,
    /// The most there were.
    pub backlog_max: u64,
    /// Users.
    pub present: u64,
    /// There are as many users as there are to be, and no first attempt is under way.
    pub is_ramped: bool,
    /// Engine time of the first attempt and of the last user's opening.
    pub ramp_us: Option<(u64, u64)>,
    /// Engine time of the last end of a request.
    pub last_end_us: u64,
    /// Engine time the thread was told to stop.
    pub stopped_us: Option<u64>,
    /// Connect time from the intended start.
    pub connect_us: Histogram<u64>,
    /// Latency from the due time.
    pub due_us: Histogram<u64>,
    /// Latency from the sending.
    pub raw_us: Histogram<u64>,
    /// From the due time to the failure, of measured requests that failed.
    pub failed_us: Histogram<u64>,
    /// Latency of what was sent when it was due: belongs in both, and is recorded once.
    same_us: Histogram<u64>,
}

impl Default for Counters {
    fn default() -> Self {
        Counters::new(0)
    }
}

impl Counters {
    /// Nothing counted yet.
    pub fn new(warm_up_us: u64) -> Self {
        Counters {
            warm_up_us,
            requests: 0,
            outcomes: [0; OUTCOME_COUNT],
            by_url: Vec::new(),
            responses: ResponseCounts::default(),
            measured_ok: 0,
            measured_failed: 0,
            retried: 0,
            unsolicited: 0,
            malformed: Reasons::default(),
            turns_skipped: 0,
            turns_taken: 0,
            backlog_now: 0,
            backlog_max: 0,
            present: 0,
            is_ramped: false,
            ramp_us: None,
            last_end_us: 0,
            stopped_us: None,
            connect_us: histogram(),
            due_us: histogram(),
            raw_us: histogram(),
            failed_us: histogram(),
            same_us: histogram(),
        }
    }

    /// One request was answered.
    #[inline]
    pub fn answered(&mut self, verdict: Verdict, due_us: u64, sent_us: u64, now_us: u64) {
        if verdict != Verdict::Expected {
            return self.failed(verdict.into(), 1, due_us, now_us);
        }
        self.outcomes[Outcome::Ok as usize] += 1;
        self.last_end_us = now_us;
        if now_us < self.warm_up_us {
            return;
        }
        self.measured_ok += 1;
        let raw_us = now_us.saturating_sub(sent_us);
        if due_us == sent_us {
            return self.same_us.saturating_record(raw_us);
        }
        self.raw_us.saturating_record(raw_us);
        self.due_us.saturating_record(now_us.saturating_sub(due_us));
    }

    /// Some requests that were due at `due_us` failed.
    pub fn failed(&mut self, outcome: Outcome, count: u64, due_us: u64, now_us: u64) {
        self.outcomes[outcome as usize] += count;
        self.last_end_us = now_us;
        if now_us >= self.warm_up_us {
            self.measured_failed += count;
            self.failed_us
                .saturating_record_n(now_us.saturating_sub(due_us), count);
        }
    }

    /// Some requests were under way when the run ended.
    pub fn stopped(&mut self, count: u64) {
        self.outcomes[Outcome::Stopped as usize] += count;
    }

    /// Some requests of one of several URLs ended.
    #[inline]
    pub fn count_url(&mut self, url: u16, outcome: Outcome, count: u64) {
        if let Some(outcomes) = self.by_url.get_mut(usize::from(url)) {
            outcomes[outcome as usize] += count;
        }
    }

    /// Adds what another thread counts, and takes over its histograms.
    pub fn merge(&mut self, thread: &mut Counters) {
        self.requests += thread.requests;
        let counts = self.outcomes.iter_mut().zip(thread.outcomes);
        counts.for_each(|(sum, part)| *sum += part);
        if self.by_url.len() < thread.by_url.len() {
            self.by_url.resize(thread.by_url.len(), [0; OUTCOME_COUNT]);
        }
        for (sums, parts) in self.by_url.iter_mut().zip(&thread.by_url) {
            let counts = sums.iter_mut().zip(parts);
            counts.for_each(|(sum, part)| *sum += part);
        }
        self.responses.merge(&thread.responses);
        self.measured_ok += thread.measured_ok;
        self.measured_failed += thread.measured_failed;
        self.retried += thread.retried;
        self.unsolicited += thread.unsolicited;
        self.malformed.merge(&thread.malformed);
        self.backlog_now += thread.backlog_now;
        self.backlog_max += thread.backlog_max;
        self.present += thread.present;
        self.is_ramped &= thread.is_ramped;
        self.ramp_us = merge_spans(self.ramp_us, thread.ramp_us);
        self.last_end_us = self.last_end_us.max(thread.last_end_us);
        self.stopped_us = self.stopped_us.max(thread.stopped_us);
        drain_into(&mut thread.connect_us, &mut self.connect_us);
        drain_into(&mut thread.due_us, &mut self.due_us);
        drain_into(&mut thread.raw_us, &mut self.raw_us);
        drain_into(&mut thread.failed_us, &mut self.failed_us);
    }

    /// Brings what the control plane reads up to date.
    pub fn publish(&mut self, into: &mut Counters) {
        into.requests = self.requests;
        into.outcomes = self.outcomes;
        into.by_url.clone_from(&self.by_url);
        *into.responses.statuses = *self.responses.statuses;
        into.responses.oddities = self.responses.oddities;
        into.measured_ok = self.measured_ok;
        into.measured_failed = self.measured_failed;
        into.retried = self.retried;
        into.unsolicited = self.unsolicited;
        into.malformed.clone_from(&self.malformed);
        into.backlog_now = self.backlog_now;
        into.backlog_max = self.backlog_max;
        into.present = self.present;
        into.is_ramped = self.is_ramped;
        into.ramp_us = self.ramp_us;
        into.last_end_us = self.last_end_us;
        into.stopped_us = self.stopped_us;
        if !self.same_us.is_empty() {
            add(&mut self.due_us, &self.same_us);
            drain_into(&mut self.same_us, &mut self.raw_us);
        }
        drain_into(&mut self.connect_us, &mut into.connect_us);
        drain_into(&mut self.due_us, &mut into.due_us);
        drain_into(&mut self.raw_us, &mut into.raw_us);
        drain_into(&mut self.failed_us, &mut into.failed_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_timed_from_their_due_time_after_the_warm_up() {
        let mut thread = Counters::new(1_000);
        thread.failed(Outcome::TimedOut, 1, 0, 999);
        thread.failed(Outcome::TimedOut, 2, 700_000, 1_200_000);
        thread.answered(Verdict::Expected, 1_000, 1_100, 1_200);
        let mut all = Counters::default();
        thread.publish(&mut all);
        assert_eq!((all.failed_us.len(), all.due_us.len()), (2, 1));
        assert!(all.failed_us.equivalent(all.failed_us.max(), 500_000));
        assert_eq!(all.measured_failed, all.failed_us.len());
        let mut again = Counters::default();
        thread.publish(&mut again);
        assert!(again.failed_us.is_empty(), "handed over once");
    }
}
