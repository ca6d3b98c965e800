//! A real Prometheus at real programs: what its API says is what the programs themselves report, to
//! the last count.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use holdfast_telemetry::wire::{ClientReport, HttpClientReport, HttpServerReport, ServerReport};
use serde_json::Value;

use crate::common::programs::{command, spawn};
use crate::common::{Folder, PATIENCE, count, until};
use crate::{Four, USERS, exchange, free_address, get, http_client, results_file};

/// A Prometheus that scrapes every second; ended with this value.
struct Prometheus {
    child: Child,
    api: SocketAddr,
    _folder: Folder,
}

impl Prometheus {
    fn start(targets: &[SocketAddr]) -> Self {
        let folder = Folder::new("prometheus");
        let rules = results_file("prometheus/alerts.yml");
        let rules = rules.canonicalize().expect("the rules");
        let targets: Vec<_> = targets.iter().map(|t| format!("'{t}'")).collect();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\n\
             scrape_configs: [{{job_name: holdfast, static_configs: [{{targets: [{}]}}]}}]\n",
            rules.display(),
            targets.join(", ")
        );
        let file = folder.file("prometheus.yml");
        std::fs::write(&file, config).expect("a file");
        let api = free_address();
        let mut prometheus = command("prometheus");
        prometheus
            .args([
                &format!("--config.file={file}"),
                &format!("--storage.tsdb.path={}", folder.file("data")),
                &format!("--web.listen-address={api}"),
                "--log.level=error",
            ])
            .stdin(Stdio::null());
        let child = spawn(&mut prometheus);
        let prometheus = Prometheus {
            child,
            api,
            _folder: folder,
        };
        until("Prometheus is ready", || {
            std::net::TcpStream::connect_timeout(&api, PATIENCE).is_ok()
                && exchange(api, "GET /-/ready HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200")
        });
        prometheus
    }

    /// What its API answers.
    fn api(&self, path: &str) -> Value {
        let answer: Value = serde_json::from_str(&get(self.api, path, "")).expect("JSON");
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    /// What a query finds.
    fn query(&self, expression: &str) -> Vec<Value> {
        let escaped: String = expression.bytes().map(|b| format!("%{b:02x}")).collect();
        let data = self.api(&format!("/api/v1/query?query={escaped}"));
        data["result"].as_array().expect("a list").clone()
    }

    /// The one number a query finds, if it finds any.
    fn number(&self, expression: &str) -> Option<f64> {
        let found = self.query(expression);
        assert!(found.len() < 2, "{expression}: {found:?}");
        Some(number(&found.first()?["value"]))
    }

    /// Every scrape of a program: values by metric and label value.
    fn scrapes(&self, of: SocketAddr) -> Vec<BTreeMap<String, f64>> {
        let mut scrapes: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
        for series in self.query(&format!("{{instance=\"{of}\", job=\"holdfast\"}}[10m]")) {
            let labels = series["metric"].as_object().expect("labels").iter();
            let own = labels
                .filter(|(name, _)| !matches!(name.as_str(), "instance" | "job" | "__name__"));
            let own = own
                .map(|(_, value)| value.as_str().expect("text"))
                .collect::<Vec<_>>()
                .join(",");
            let name = series["metric"]["__name__"].as_str().expect("a name");
            for sample in series["values"].as_array().expect("samples") {
                let scrape = scrapes.entry(sample[0].to_string()).or_default();
                scrape.insert(
                    format!("{name} {own}").trim_end().to_owned(),
                    number(sample),
                );
            }
        }
        scrapes
            .into_values()
            .filter(|s| s.contains_key("holdfast_uptime_seconds"))
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number in a pair of time and number.
fn number(sample: &Value) -> f64 {
    sample[1]
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("{sample}"))
}

/// A report as metrics: names as Prometheus has them, written down here once more and by hand.
type Expected = BTreeMap<String, f64>;

fn expected(plain: &[(&str, u64)], counted: &[(&str, &BTreeMap<String, u64>)]) -> Expected {
    let plain = plain
        .iter()
        .map(|(name, n)| ((*name).to_owned(), *n as f64));
    let counted = counted.iter().flat_map(|(name, counts)| {
        counts
            .iter()
            .map(move |(of, n)| (format!("{name} {of}"), *n as f64))
    });
    plain.chain(counted).collect()
}

/// Every scrape is one of the reports, in all that is expected of it.
fn assert_reported<R>(
    scrapes: &[BTreeMap<String, f64>],
    reports: &[R],
    at_us: impl Fn(&R) -> u64,
    of: impl Fn(&R) -> Expected,
) {
    assert!(scrapes.len() > 2, "{} scrapes", scrapes.len());
    for scrape in scrapes {
        let uptime_us = (scrape["holdfast_uptime_seconds"] * 1e6).round() as u64;
        let report = reports.iter().find(|r| at_us(r) == uptime_us);
        let report = report.unwrap_or_else(|| panic!("no report at {uptime_us} us"));
        for (name, value) in of(report) {
            assert_eq!(scrape.get(&name), Some(&value), "{name} at {uptime_us} us");
        }
    }
}

fn of_holder(r: &ServerReport) -> Expected {
    let plain = [
        ("holdfast_connections_open", r.open_now),
        ("holdfast_connections_open_max", r.open_max),
        ("holdfast_connections_limit", r.capacity),
        ("holdfast_connections_accepted_total", r.accepted),
        ("holdfast_connections_refused_total", r.refused_full),
        ("holdfast_messages_sent_total", r.messages_sent),
        ("holdfast_received_bytes_total", r.bytes_received),
        ("holdfast_threads", r.thread_count as u64),
        ("holdfast_rings", r.shard_count as u64),
    ];
    expected(
        &plain,
        &[
            ("holdfast_connections_closed_total", &r.closed),
            ("holdfast_internal_errors_total", &r.anomalies),
        ],
    )
}

fn of_users(r: &ClientReport) -> Expected {
    let plain = [
        ("holdfast_connections_open", r.open_now),
        ("holdfast_connections_connecting", r.connecting_now),
        ("holdfast_users", r.users_asked),
        ("holdfast_connect_attempts_total", r.attempts),
        ("holdfast_connections_opened_total", r.opened),
        ("holdfast_ramp_done", u64::from(r.ramp_done)),
        ("holdfast_messages_received_total", r.messages_received),
        ("holdfast_messages_invalid_total", r.messages_wrong),
        ("holdfast_messages_missed_total", r.messages_missed),
        ("holdfast_received_bytes_total", r.bytes_received),
        (
            "holdfast_connect_duration_seconds_count",
            r.connect_us.count,
        ),
        (
            "holdfast_connect_duration_seconds_bucket +Inf",
            r.connect_us.count,
        ),
        (
            "holdfast_message_lateness_seconds_count",
            r.lateness_us.count,
        ),
    ];
    expected(
        &plain,
        &[
            ("holdfast_connect_failures_total", &r.failed),
            ("holdfast_connections_ended_total", &r.ended),
        ],
    )
}

fn of_responder(r: &HttpServerReport) -> Expected {
    let plain = [
        ("holdfast_connections_open", r.open_now),
        ("holdfast_connections_accepted_total", r.accepted),
        ("holdfast_received_bytes_total", r.bytes_received),
    ];
    let counted = [
        ("holdfast_http_responses_total", &r.responses),
        ("holdfast_http_timeouts_total", &r.timed_out),
        ("holdfast_connections_closed_total", &r.closed),
    ];
    expected(&plain, &counted)
}

fn of_askers(r: &HttpClientReport) -> Expected {
    let plain = [
        ("holdfast_connections_open", r.open_now),
        ("holdfast_http_requests_total", r.requests),
        ("holdfast_http_requests_pending", r.pending_now),
        ("holdfast_http_backlog", r.backlog_now),
        (
            "holdfast_http_request_duration_raw_seconds_count",
            r.latency_raw_us.count,
        ),
    ];
    let mut all = expected(
        &plain,
        &[
            ("holdfast_http_outcomes_total", &r.outcomes),
            ("holdfast_http_responses_total", &r.responses),
        ],
    );
    let p99 = "holdfast_http_request_duration_corrected_seconds p99";
    all.insert(p99.to_owned(), r.latency_us.p99 as f64 / 1e6);
    all
}

/// Every expression of the dashboard, with its variables filled in.
fn dashboard() -> Vec<String> {
    let text =
        std::fs::read_to_string(results_file("grafana/holdfast.json")).expect("the dashboard");
    let board: Value = serde_json::from_str(&text).expect("JSON");
    let panels = board["panels"].as_array().expect("panels").iter();
    let targets = panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let expressions = targets.map(|target| target["expr"].as_str().expect("an expression"));
    expressions
        .map(|e| {
            e.replace("$__rate_interval", "1m")
                .replace("$instance", ".*")
        })
        .collect()
}

#[test]
#[ignore = "needs Prometheus: make test"]
fn what_prometheus_has_is_what_the_programs_report() {
    let Four {
        holder,
        users,
        responder,
        askers,
        metrics,
    } = Four::start();
    let prometheus = Prometheus::start(&metrics);
    let of =
        |metric: &str, at: SocketAddr| prometheus.number(&format!("{metric}{{instance=\"{at}\"}}"));
    let [of_holding, of_using, of_responding, of_asking] = metrics;
    until("3,000 open at both ends", || {
        [of_holding, of_using]
            .iter()
            .all(|at| of("holdfast_connections_open", *at) == Some(USERS as f64))
    });
    until("a few scrapes of all", || {
        metrics.iter().all(|at| prometheus.scrapes(*at).len() > 3)
    });
    assert_eq!(prometheus.number("sum(up)"), Some(4.0));
    for expression in dashboard() {
        assert_ne!(
            prometheus.query(&expression),
            Vec::<Value>::new(),
            "nothing for: {expression}"
        );
    }
    let rules = prometheus.api("/api/v1/rules");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules");
    assert!(
        rules.len() > 10 && rules.iter().all(|rule| rule["health"] == "ok"),
        "{rules:?}"
    );

    // The books of a client that has ended, in those of a server that goes on.
    let asked = prometheus.scrapes(of_asking);
    let asked_reports = askers.stop().reports;
    let answered = |r: &HttpServerReport| count(&r.responses, "200");
    responder.until_open(0);
    let before = answered(&responder.running.fresh());
    let last = http_client(responder.address, &["--users", "10", "--requests", "1000"])
        .outcome()
        .last();
    assert_eq!(count(&last.outcomes, "ok"), 1_000, "{last:?}");
    let after = (before + 1_000) as f64;
    until("all 1,000 are in Prometheus", || {
        of("holdfast_http_responses_total", of_responding) == Some(after)
    });

    let (held, used, responded) = (
        prometheus.scrapes(of_holding),
        prometheus.scrapes(of_using),
        prometheus.scrapes(of_responding),
    );
    assert_reported(&asked, &asked_reports, |r| r.at_us, of_askers);
    assert_reported(&used, &users.stop().reports, |r| r.at_us, of_users);
    let last = responder.running.stop();
    assert_eq!(answered(&last.last()) as f64, after);
    assert_reported(&responded, &last.reports, |r| r.at_us, of_responder);
    assert_reported(
        &held,
        &holder.running.stop().reports,
        |r| r.at_us,
        of_holder,
    );
}
