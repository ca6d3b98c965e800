//! The reports of the programs as metrics.
//!
//! Invariants: every metric of a program is there from its first report on, and of labels with
//! known values every value.
//! Must not depend on: where a report comes from, who reads the page.

use std::collections::BTreeMap;

use super::buckets::Buckets;
use super::kinds::{LabelValues, Thread};
use super::page::Page;
use crate::wire::{
    ClientHead, ClientReport, HttpClientReport, HttpServerReport, RelayReport, ServerHead,
    ServerReport, WorkerReport,
};

/// Durations by the names the reports' histograms have.
type Durations = BTreeMap<&'static str, Buckets>;

/// A report that can be shown as metrics.
pub trait ExposeMetrics {
    /// Adds its metrics.
    fn expose(&self, page: &mut Page, kinds: &LabelValues, durations: &Durations);
}

/// A report and its threads.
pub(super) fn page(
    report: &impl ExposeMetrics,
    kinds: &LabelValues,
    durations: &Durations,
    threads: impl Iterator<Item = Thread>,
) -> Page {
    let mut page = Page::default();
    report.expose(&mut page, kinds, durations);
    let (mut open, mut rings, mut received) = (Vec::new(), Vec::new(), Vec::new());
    for (number, thread) in threads.enumerate() {
        open.push((number, thread.open_now as f64));
        rings.push((number, thread.shard_count as f64));
        received.push((number, thread.bytes_received));
    }
    page.gauges(
        "holdfast_thread_connections_open",
        "Connections open in a core thread",
        "thread",
        open,
    );
    page.gauges(
        "holdfast_thread_rings",
        "Rings of a core thread",
        "thread",
        rings,
    );
    page.counters(
        "holdfast_thread_received_bytes",
        "Bytes a core thread received",
        "thread",
        received,
    );
    page
}

/// Counts by a label: `known` values as 0 unless they occurred.
fn counts(occurred: &BTreeMap<String, u64>, known: &[&'static str]) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<_, _> = known.iter().map(|name| ((*name).to_owned(), 0)).collect();
    counts.extend(occurred.iter().map(|(name, n)| (name.clone(), *n)));
    counts
}

/// What runs here, by the schema of its report: `holdfast.PROGRAM.PROTOCOL/VERSION`.
fn build(page: &mut Page, schema: &str) {
    let mut names = schema.split(['.', '/']).skip(1).map(str::to_owned);
    page.info(
        "holdfast_build",
        "The program that runs here",
        vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            (
                "program",
                format!("holdfast-{}", names.next().unwrap_or_default()),
            ),
            ("protocol", names.next().unwrap_or_default()),
        ],
    );
}

impl ExposeMetrics for WorkerReport {
    fn expose(&self, page: &mut Page, _: &LabelValues, _: &Durations) {
        build(page, &self.schema);
        for (name, help, value) in [
            (
                "holdfast_workers",
                "Workers that this process runs (--workers)",
                self.workers as f64,
            ),
            (
                "holdfast_worker_users",
                "Users that run now, of all classes",
                self.users_now as f64,
            ),
            (
                "holdfast_workers_registered",
                "Workers of this process that are registered at the master now",
                self.workers_known as f64,
            ),
        ] {
            page.gauge(name, help, value);
        }
        page.also_as(
            "holdfast_workers_known",
            "Old name of holdfast_workers_registered",
        );
    }
}

/// What the reports of servers and of clients have.
macro_rules! any {
    ($page:ident, $report:ident) => {
        build($page, &$report.schema);
        for (name, help, value) in [
            (
                "holdfast_uptime_seconds",
                "Age of the engine when these figures were gathered",
                $report.at_us as f64 / 1e6,
            ),
            (
                "holdfast_threads",
                "Core threads",
                $report.thread_count as f64,
            ),
            (
                "holdfast_rings",
                "Rings made so far, of all threads",
                $report.shard_count as f64,
            ),
            (
                "holdfast_connections_open",
                "Connections open now",
                $report.open_now as f64,
            ),
        ] {
            $page.gauge(name, help, value);
        }
        $page.counter(
            "holdfast_received_bytes",
            "Bytes received from peers",
            $report.bytes_received,
        );
        $page.counters(
            "holdfast_internal_errors",
            "Inconsistencies that the engine noticed in itself, by kind",
            "kind",
            &$report.anomalies,
        );
        $page.also_as(
            "holdfast_anomalies",
            "Old name of holdfast_internal_errors_total",
        );
    };
}

/// What every server's report has.
fn server(page: &mut Page, report: &ServerHead, kinds: &LabelValues) {
    page.gauge(
        "holdfast_connections_limit",
        "Connections this server holds at most",
        report.capacity as f64,
    );
    page.gauge(
        "holdfast_connections_open_max",
        "Most connections ever open at once",
        report.open_max as f64,
    );
    page.counter(
        "holdfast_connections_accepted",
        "Connections accepted and held",
        report.accepted,
    );
    page.counter(
        "holdfast_connections_refused",
        "Connections reset at once because the limit was reached",
        report.refused_full,
    );
    let failed = counts(&report.accept_failed, &kinds.open_failures);
    page.counters(
        "holdfast_accept_failures",
        "Accepts that failed, by kind",
        "kind",
        failed,
    );
    let closed = counts(&report.closed, &kinds.ends);
    page.counters(
        "holdfast_connections_closed",
        "Connections that ended, by reason",
        "reason",
        closed,
    );
}

/// What every client's report has.
fn client(
    page: &mut Page,
    report: &ClientHead,
    (is_ramped, ramp_seconds): (bool, f64),
    kinds: &LabelValues,
    durations: &Durations,
) {
    for (name, help, value) in [
        (
            "holdfast_users",
            "Users asked for",
            report.users_asked as f64,
        ),
        (
            "holdfast_connections_connecting",
            "Attempts to connect under way",
            report.connecting_now as f64,
        ),
        (
            "holdfast_ramp_done",
            "1 when every user was started and no first attempt is under way",
            f64::from(is_ramped),
        ),
        (
            "holdfast_ramp_seconds",
            "From the first attempt to the last that opened",
            ramp_seconds,
        ),
    ] {
        page.gauge(name, help, value);
    }
    page.counter(
        "holdfast_connect_attempts",
        "Attempts to connect begun",
        report.attempts,
    );
    page.counter(
        "holdfast_connections_opened",
        "Attempts to connect that opened",
        report.opened,
    );
    let failed = counts(&report.failed, &kinds.open_failures);
    page.counters(
        "holdfast_connect_failures",
        "Attempts to connect that failed, by kind",
        "kind",
        failed,
    );
    let connect = buckets(durations, "connect");
    page.histogram(
        "holdfast_connect_duration_seconds",
        "Connect time from the intended start",
        &connect,
    );
}

/// What was recorded under a name.
fn buckets(durations: &Durations, name: &str) -> Buckets {
    durations.get(name).cloned().unwrap_or_default()
}

impl ExposeMetrics for ServerReport {
    fn expose(&self, page: &mut Page, kinds: &LabelValues, _: &Durations) {
        any!(page, self);
        server(page, self, kinds);
        page.counter(
            "holdfast_messages_sent",
            "Messages handed to the kernel whole",
            self.messages_sent,
        );
    }
}

impl ExposeMetrics for ClientReport {
    fn expose(&self, page: &mut Page, kinds: &LabelValues, durations: &Durations) {
        any!(page, self);
        let ramp = (self.ramp_done, self.ramp_seconds);
        client(page, self, ramp, kinds, durations);
        for (name, help, count) in [
            (
                "holdfast_messages_sent",
                "Messages handed to the kernel whole",
                self.messages_sent,
            ),
            (
                "holdfast_messages_received",
                "Whole messages that were right",
                self.messages_received,
            ),
            (
                "holdfast_messages_missed",
                "Messages that were due and did not arrive",
                self.messages_missed,
            ),
            (
                "holdfast_messages_invalid",
                "Messages that differed from --expect",
                self.messages_wrong,
            ),
        ] {
            page.counter(name, help, count);
        }
        page.also_as(
            "holdfast_messages_wrong",
            "Old name of holdfast_messages_invalid_total",
        );
        let ended = counts(&self.ended, &kinds.ends);
        page.counters(
            "holdfast_connections_ended",
            "Opened connections that ended, by what became of them",
            "reason",
            ended,
        );
        let lateness = buckets(durations, "lateness");
        page.histogram(
            "holdfast_message_lateness_seconds",
            "Arrival of a message after its due time",
            &lateness,
        );
        page.histogram(
            "holdfast_message_response_seconds",
            "Arrival of the next message after one was sent",
            &buckets(durations, "response"),
        );
    }
}

impl ExposeMetrics for HttpServerReport {
    fn expose(&self, page: &mut Page, kinds: &LabelValues, _: &Durations) {
        any!(page, self);
        server(page, self, kinds);
        page.counters(
            "holdfast_http_responses",
            "Responses, by status code",
            "code",
            &self.responses,
        );
        let timed_out = counts(&self.timed_out, &kinds.timeouts);
        page.counters(
            "holdfast_http_timeouts",
            "Connections ended by a limit in time, by which",
            "phase",
            timed_out,
        );
    }
}

impl ExposeMetrics for RelayReport {
    fn expose(&self, page: &mut Page, kinds: &LabelValues, _: &Durations) {
        any!(page, self);
        server(page, self, kinds);
        for (name, help, value) in [
            (
                "holdfast_relay_clients",
                "Accepted clients that have not ended",
                self.clients_now,
            ),
            (
                "holdfast_relay_clients_waiting",
                "Clients that have no backend yet",
                self.waiting_now,
            ),
            (
                "holdfast_relay_clients_queued",
                "Clients that wait for a backend with maxconn connections",
                self.queued_now,
            ),
        ] {
            page.gauge(name, help, value as f64);
        }
        page.counters(
            "holdfast_relay_clients_ended",
            "Clients that ended, by what became of them",
            "class",
            counts(&self.ended, &kinds.outcomes),
        );
        for (name, help, count) in [
            (
                "holdfast_connect_attempts",
                "Attempts to connect begun",
                self.connect_attempts,
            ),
            (
                "holdfast_connections_opened",
                "Attempts to connect that opened",
                self.connected,
            ),
            (
                "holdfast_connect_retries",
                "Attempts to connect that followed a failed one of the same client",
                self.connect_retries,
            ),
            (
                "holdfast_forwarded_bytes",
                "Bytes forwarded, in both directions",
                self.bytes_forwarded,
            ),
            (
                "holdfast_forwarded_copied_bytes",
                "Bytes forwarded that a socket did not take at once",
                self.bytes_copied,
            ),
        ] {
            page.counter(name, help, count);
        }
        page.counters(
            "holdfast_connect_failures",
            "Attempts to connect that failed, by kind",
            "kind",
            counts(&self.connect_failed, &kinds.open_failures),
        );
    }
}

impl ExposeMetrics for HttpClientReport {
    fn expose(&self, page: &mut Page, kinds: &LabelValues, durations: &Durations) {
        any!(page, self);
        let ramp = (self.ramp_done, self.ramp_seconds);
        client(page, self, ramp, kinds, durations);
        for (name, help, value) in [
            (
                "holdfast_http_requests_pending",
                "Requests begun and without an outcome yet",
                self.pending_now,
            ),
            (
                "holdfast_http_backlog",
                "Open model: requests due and not sent yet",
                self.backlog_now,
            ),
            (
                "holdfast_http_backlog_max",
                "Open model: the most that were ever due and not sent",
                self.backlog_max,
            ),
        ] {
            page.gauge(name, help, value as f64);
        }
        page.counter("holdfast_http_requests", "Requests begun", self.requests);
        page.counter(
            "holdfast_http_requests_retried",
            "Requests sent again on another connection",
            self.retried,
        );
        page.counter(
            "holdfast_http_responses_unsolicited",
            "Connections on which bytes arrived while no request was outstanding",
            self.unsolicited,
        );
        page.counters(
            "holdfast_http_responses_malformed",
            "Requests whose response was malformed, by reason",
            "reason",
            counts(&self.malformed, &kinds.malformed),
        );
        page.counters(
            "holdfast_http_responses_odd",
            "Heads and chunked bodies that were tolerated although no server should send them, by kind",
            "kind",
            counts(&self.oddities, &kinds.oddities),
        );
        let outcomes = counts(&self.outcomes, &kinds.outcomes);
        page.counters(
            "holdfast_http_outcomes",
            "Requests that ended, by what became of them",
            "outcome",
            outcomes,
        );
        page.counters(
            "holdfast_http_responses",
            "Responses, by status code",
            "code",
            &self.responses,
        );
        for (name, help, of) in [
            (
                "holdfast_http_request_duration_seconds",
                "Latency of ok requests from the time they were due",
                "latency",
            ),
            (
                "holdfast_http_request_duration_raw_seconds",
                "Latency of ok requests from the time they were sent",
                "raw",
            ),
        ] {
            page.histogram(name, help, &buckets(durations, of));
        }
        let latency = self.latency_us;
        let corrected = [
            ("p50", latency.p50),
            ("p99", latency.p99),
            ("p999", latency.p999),
            ("max", latency.max),
        ];
        page.gauges(
            "holdfast_http_request_duration_corrected_seconds",
            "Latency of ok requests since the start, corrected for coordinated omission, by percentile",
            "percentile",
            corrected.map(|(name, us)| (name, us as f64 / 1e6)),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::super::page::Format;
    use super::*;

    /// Samples of a report in which this field alone has a value, but for those that are 0.
    fn shown<R>(field: &str, value: Value) -> Vec<String>
    where
        R: ExposeMetrics + DeserializeOwned + Serialize + Default,
    {
        let mut report = serde_json::to_value(R::default()).expect("plain data");
        assert!(report.get(field).is_some(), "{field}");
        report[field] = value;
        let report: R = serde_json::from_value(report).expect("of this schema");
        let page = page(
            &report,
            &LabelValues::default(),
            &Durations::new(),
            std::iter::empty(),
        );
        let text = page.text(Format::Prometheus);
        let is_nothing = |line: &&str| {
            line.starts_with(['#'])
                || line.starts_with("holdfast_build_info")
                || line.ends_with(" 0")
                || line.ends_with(" 0.0")
        };
        text.lines()
            .filter(|line| !is_nothing(line))
            .map(str::to_owned)
            .collect()
    }

    /// Metrics that are also shown under an old name.
    const OLD_NAMES: [(&str, &str); 2] = [
        ("holdfast_internal_errors_total", "holdfast_anomalies_total"),
        (
            "holdfast_messages_invalid_total",
            "holdfast_messages_wrong_total",
        ),
    ];

    /// Each field is shown as this metric, with this label if it is counts by name, and as nothing
    /// else but its old name.
    fn check<R>(fields: &[(&str, &str)])
    where
        R: ExposeMetrics + DeserializeOwned + Serialize + Default,
    {
        for (field, metric) in fields {
            let (value, expected) = match (*field, metric.split_once(' ')) {
                (_, Some((name, label))) => {
                    (json!({"word": 7}), format!("{name}{{{label}=\"word\"}} 7"))
                }
                ("ramp_done", _) => (json!(true), format!("{metric} 1.0")),
                ("at_us", _) => (json!(7_000_000), format!("{metric} 7.0")),
                _ if metric.ends_with("_total") => (json!(7), format!("{metric} 7")),
                _ => (json!(7), format!("{metric} 7.0")),
            };
            let name = expected.split(['{', ' ']).next().unwrap_or_default();
            let old = OLD_NAMES.iter().find(|(new, _)| *new == name);
            let old = old.map(|(new, old)| expected.replace(new, old));
            let expected: Vec<String> = [expected].into_iter().chain(old).collect();
            assert_eq!(shown::<R>(field, value), expected, "{field}");
        }
    }

    const ANY: [(&str, &str); 6] = [
        ("at_us", "holdfast_uptime_seconds"),
        ("thread_count", "holdfast_threads"),
        ("shard_count", "holdfast_rings"),
        ("open_now", "holdfast_connections_open"),
        ("bytes_received", "holdfast_received_bytes_total"),
        ("anomalies", "holdfast_internal_errors_total kind"),
    ];
    const SERVER: [(&str, &str); 6] = [
        ("capacity", "holdfast_connections_limit"),
        ("open_max", "holdfast_connections_open_max"),
        ("accepted", "holdfast_connections_accepted_total"),
        ("refused_full", "holdfast_connections_refused_total"),
        ("accept_failed", "holdfast_accept_failures_total kind"),
        ("closed", "holdfast_connections_closed_total reason"),
    ];
    const CLIENT: [(&str, &str); 7] = [
        ("users_asked", "holdfast_users"),
        ("attempts", "holdfast_connect_attempts_total"),
        ("opened", "holdfast_connections_opened_total"),
        ("failed", "holdfast_connect_failures_total kind"),
        ("connecting_now", "holdfast_connections_connecting"),
        ("ramp_done", "holdfast_ramp_done"),
        ("ramp_seconds", "holdfast_ramp_seconds"),
    ];

    #[test]
    fn each_field_is_one_metric() {
        check::<ServerReport>(&[&ANY[..], &SERVER].concat());
        check::<ServerReport>(&[("messages_sent", "holdfast_messages_sent_total")]);
        check::<HttpServerReport>(&[&ANY[..], &SERVER].concat());
        check::<HttpServerReport>(&[
            ("responses", "holdfast_http_responses_total code"),
            ("timed_out", "holdfast_http_timeouts_total phase"),
        ]);
        check::<RelayReport>(&[&ANY[..], &SERVER].concat());
        check::<RelayReport>(&[
            ("ended", "holdfast_relay_clients_ended_total class"),
            ("clients_now", "holdfast_relay_clients"),
            ("waiting_now", "holdfast_relay_clients_waiting"),
            ("queued_now", "holdfast_relay_clients_queued"),
            ("connect_attempts", "holdfast_connect_attempts_total"),
            ("connected", "holdfast_connections_opened_total"),
            ("connect_failed", "holdfast_connect_failures_total kind"),
            ("connect_retries", "holdfast_connect_retries_total"),
            ("bytes_forwarded", "holdfast_forwarded_bytes_total"),
            ("bytes_copied", "holdfast_forwarded_copied_bytes_total"),
        ]);
        check::<ClientReport>(&[&ANY[..], &CLIENT].concat());
        check::<ClientReport>(&[
            ("messages_sent", "holdfast_messages_sent_total"),
            ("messages_received", "holdfast_messages_received_total"),
            ("messages_wrong", "holdfast_messages_invalid_total"),
            ("messages_missed", "holdfast_messages_missed_total"),
            ("ended", "holdfast_connections_ended_total reason"),
        ]);
        check::<HttpClientReport>(&[&ANY[..], &CLIENT].concat());
        check::<HttpClientReport>(&[
            ("requests", "holdfast_http_requests_total"),
            ("pending_now", "holdfast_http_requests_pending"),
            ("outcomes", "holdfast_http_outcomes_total outcome"),
            ("responses", "holdfast_http_responses_total code"),
            ("backlog_now", "holdfast_http_backlog"),
            ("backlog_max", "holdfast_http_backlog_max"),
        ]);
    }

    #[test]
    fn known_label_values_are_shown_from_the_start() {
        let kinds = LabelValues {
            open_failures: vec!["refused", "reset"],
            ..LabelValues::default()
        };
        let page = page(
            &ClientReport::default(),
            &kinds,
            &Durations::new(),
            std::iter::empty(),
        );
        let text = page.text(Format::OpenMetrics);
        for kind in kinds.open_failures {
            let line = format!("\nholdfast_connect_failures_total{{kind=\"{kind}\"}} 0\n");
            assert!(text.contains(&line), "{text}");
        }
    }
}
