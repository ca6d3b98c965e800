//! What the control plane of `holdfast-client http` gathers from its threads and says.
//!
//! Latency is corrected for coordinated omission: in the open model it counts from the schedule; in
//! the closed model HdrHistogram fills in what a user kept waiting did not ask. A user that is not
//! kept waiting asks once in a mean wait and a median answer, so that is the interval expected.
//! Without a wait there is no interval anybody intended, and nothing is filled in.
//! A user of the closed model asks once it is connected: connecting is timed apart, except with a
//! connection for each request, where it belongs to the request.
//! Invariants: the correction is a function of the whole run's histograms, so that when a report
//! was made does not show in it.
//! Must not depend on: connections, rings, flags.

use std::collections::BTreeMap;
use std::sync::Arc;

use hdrhistogram::Histogram;
use holdfast_engine::Engine;
use holdfast_http1::Oddity;
use holdfast_sysctl::grouped;
use holdfast_telemetry::console::write_counts;
use holdfast_telemetry::live::Snapshot;
use holdfast_telemetry::wire::{ClientHead, HttpClientReport};

use super::counters::Counters;
use super::outcome::Outcome;
use super::request_limit::RequestLimit;
use crate::aggregate::{
    add, counts_by_name, head_now, histogram, latency, named, ramp_seconds, write_failed_targets,
    write_latencies, write_target_rows,
};
use crate::load::Load;
use holdfast_supervisor::histogram_log::Intervals;
use holdfast_supervisor::supervise::{Reporter, merge_threads};

/// Parameters of a run, as shown to people.
pub struct RunParams {
    /// What asks whom.
    pub title: String,
    /// The URLs, by their numbers in the mix.
    pub urls: Vec<String>,
    /// How many users, how fast.
    pub load: Load,
    /// Open model: requests a second.
    pub rate_per_second: Option<f64>,
}

/// What the control plane has gathered.
pub struct HttpReporter {
    base: ClientHead,
    params: RunParams,
    warm_up_us: u64,
    /// Closed model with a wait: the mean of it, microseconds.
    wait_mean_us: Option<u64>,
    /// Requests there are to be.
    requests_asked: Option<u64>,
    request_limit: Arc<RequestLimit>,
    connect_us: Histogram<u64>,
    due_us: Histogram<u64>,
    raw_us: Histogram<u64>,
    failed_us: Histogram<u64>,
}

impl HttpReporter {
    /// Nothing gathered yet. `base` has what never changes.
    pub fn new(
        base: ClientHead,
        params: RunParams,
        warm_up_us: u64,
        wait_mean_us: Option<u64>,
        request_limit: Arc<RequestLimit>,
    ) -> Self {
        HttpReporter {
            base,
            params,
            warm_up_us,
            wait_mean_us,
            requests_asked: request_limit.left(),
            request_limit,
            connect_us: histogram(),
            due_us: histogram(),
            raw_us: histogram(),
            failed_us: histogram(),
        }
    }

    /// Latency from the due time, and with the requests that were not sent meanwhile filled in.
    fn corrected(&self) -> Histogram<u64> {
        let interval_us = self
            .wait_mean_us
            .map(|wait_us| wait_us + self.raw_us.value_at_quantile(0.5));
        match interval_us {
            Some(interval_us) if self.due_us.max() >= 2 * interval_us => {
                self.due_us.clone_correct(interval_us)
            }
            _ => self.due_us.clone(),
        }
    }

    /// True when all requests of `--requests` have ended.
    fn is_budget_met(&self, requests: u64, pending: u64) -> bool {
        self.requests_asked == Some(requests) && pending == 0
    }
}

impl Reporter for HttpReporter {
    type Counters = Counters;
    type Command = Load;
    type Report = HttpClientReport;

    fn report(
        &mut self,
        engine: &Engine<Counters, Load>,
        is_final: bool,
    ) -> (HttpClientReport, Intervals) {
        let mut all = Counters::default();
        all.is_ramped = true;
        let stats = merge_threads(engine, |thread| all.merge(thread));
        add(&mut self.connect_us, &all.connect_us);
        add(&mut self.due_us, &all.due_us);
        add(&mut self.raw_us, &all.raw_us);
        add(&mut self.failed_us, &all.failed_us);
        let at_us = engine.now_us();
        let pending_now = all.requests - all.outcomes.iter().sum::<u64>();
        // The run ends with the last of `--requests`, not when this thread notices it.
        let until_us = if self.is_budget_met(all.requests, pending_now) {
            all.last_end_us
        } else {
            all.stopped_us.unwrap_or(at_us)
        };
        let left = self.request_limit.left().unwrap_or(u64::MAX);
        let responses = all.responses.statuses.iter().enumerate();
        let corrected = self.corrected();
        let mut targets: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (url, counts) in self.params.urls.iter().zip(&all.by_url) {
            // The same one may be given twice.
            let sums = targets.entry(url.clone()).or_default();
            for (outcome, name) in Outcome::ALL {
                let count = counts[*outcome as usize];
                if count > 0 {
                    *sums.entry((*name).to_owned()).or_default() += count;
                }
            }
        }
        let mut with_failed = corrected.clone();
        add(&mut with_failed, &self.failed_us);
        let report = HttpClientReport {
            head: head_now(&self.base, is_final, at_us, &stats, all.present),
            ramp_done: all.is_ramped,
            ramp_seconds: ramp_seconds(all.ramp_us),
            rate_per_second: self.params.rate_per_second,
            requests: all.requests,
            pending_now,
            outcomes: named(
                Outcome::ALL
                    .iter()
                    .map(|(outcome, name)| (*name, all.outcomes[*outcome as usize])),
            ),
            responses: responses
                .filter(|(_, n)| **n > 0)
                .map(|(status, n)| (status.to_string(), *n))
                .collect(),
            targets,
            retried: all.retried,
            unsolicited: all.unsolicited,
            oddities: named(
                Oddity::ALL
                    .iter()
                    .map(|oddity| (oddity.label(), all.responses.oddities[*oddity as usize])),
            ),
            malformed: all.malformed.counts(),
            malformed_examples: all.malformed.examples(),
            backlog_now: all.backlog_now.min(left),
            backlog_max: all.backlog_max,
            measured_seconds: until_us.saturating_sub(self.warm_up_us) as f64 / 1e6,
            measured_ok: all.measured_ok,
            measured_failed: all.measured_failed,
            latency_us: latency(&corrected),
            latency_with_failed_us: latency(&with_failed),
            latency_raw_us: latency(&self.raw_us),
            connect_us: latency(&self.connect_us),
            bytes_received: stats.bytes_received,
            anomalies: counts_by_name(stats.anomalies()),
        };
        let intervals = vec![
            ("connect", all.connect_us),
            ("latency", all.due_us),
            ("raw", all.raw_us),
        ];
        (report, intervals)
    }

    fn is_over_now(&self, engine: &Engine<Counters, Load>) -> bool {
        // Requests are given out long before their threads report them as ended.
        if self.requests_asked.is_none() || !self.request_limit.is_exhausted() {
            return false;
        }
        let (mut requests, mut ended) = (0, 0);
        for core in engine.reports() {
            requests += core.handler.requests;
            ended += core.handler.outcomes.iter().sum::<u64>();
        }
        self.is_budget_met(requests, requests - ended)
    }

    fn snapshot(&self, report: &HttpClientReport) -> Snapshot {
        let now = Snapshot::from(report);
        let is_warm = !report.ramp_done || report.at_us >= self.warm_up_us;
        let requests = grouped(report.requests);
        Snapshot {
            title: self.params.title.clone(),
            phase: if is_warm { now.phase } else { "warm-up" },
            part: self.requests_asked.map_or(String::new(), |params| {
                format!("{requests} of {} requests", grouped(params))
            }),
            ..now
        }
        .with_target_rate("opened", self.params.load.spawn_rate())
        .with_target_rate("ok", self.params.rate_per_second)
    }

    fn summary(&self, report: &HttpClientReport) -> String {
        let per_second = report.measured_ok as f64 / report.measured_seconds.max(0.001);
        let mut text = format!(
            "requests {}: ok {}/s ({} in {:.1} s measured), failed {}\nusers {}: connections opened {}, failed {}",
            grouped(report.requests),
            holdfast_units::rate(per_second),
            grouped(report.measured_ok),
            report.measured_seconds,
            grouped(failed(report)),
            grouped(report.users_asked),
            grouped(report.opened),
            grouped(report.failed.values().sum()),
        );
        write_counts(
            &mut text,
            &[
                ("outcome", &report.outcomes),
                ("response", &report.responses),
                ("malformed", &report.malformed),
                ("tolerated", &report.oddities),
                ("connecting failed", &report.failed),
                ("anomalies", &report.anomalies),
            ],
        );
        write_failed_targets(&mut text, &report.head);
        if report.targets.values().any(has_failed) {
            write_target_rows(&mut text, "requests", &report.targets);
        }
        for (why, example) in &report.malformed_examples {
            text += &format!("\nmalformed, an example: {why}: {example}");
        }
        for (what, count) in [
            ("sent again on another connection", report.retried),
            (
                "bytes without a request outstanding, connections",
                report.unsolicited,
            ),
        ] {
            if count > 0 {
                text += &format!("\n{what}: {}", grouped(count));
            }
        }
        if report.backlog_max > 0 {
            text += &format!(
                "\nbacklog (due and not sent): {} at the end, at most {}",
                grouped(report.backlog_now),
                grouped(report.backlog_max)
            );
        }
        let mut latencies = vec![
            (
                "latency of successful requests, corrected",
                report.latency_us,
            ),
            ("latency of successful requests, raw", report.latency_raw_us),
        ];
        if report.measured_failed > 0 {
            latencies.push((
                "latency with failed requests, corrected",
                report.latency_with_failed_us,
            ));
        }
        latencies.push(("connect", report.connect_us));
        write_latencies(&mut text, &latencies);
        text
    }
}

/// True if a request of these ended, but neither well nor by the end of the run.
fn has_failed(outcomes: &BTreeMap<String, u64>) -> bool {
    outcomes
        .keys()
        .any(|name| !matches!(&**name, "ok" | "stopped"))
}

/// Requests that ended, but neither well nor by the end of the run.
pub fn failed(report: &HttpClientReport) -> u64 {
    let outcomes = report.outcomes.iter();
    outcomes
        .filter(|(name, _)| !matches!(&***name, "ok" | "stopped"))
        .map(|(_, n)| n)
        .sum()
}
