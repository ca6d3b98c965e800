//! From what was observed of a run of Locust to its record.
//!
//! Invariants: reads only. What was not observed becomes `null` or an incident, never zero.
//! Must not depend on: how the run went on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use holdfast_report::folder::RunFolder;
use holdfast_report::locust::record::{
    LocustRecord, MasterRecord, RampRecord, RequestsRecord, TableRow, WorkerRecord,
};
use holdfast_report::network::Agreement;
use holdfast_report::run::Run;
use holdfast_telemetry::units::round;
use holdfast_telemetry::wire::ServerReport;
use holdfast_testbed::child::Child;
use holdfast_testbed::network::layout::client;

use super::plan::Plan;
use super::worker_reports::{AnyServer, UserTotals, WorkerReports};
use super::workers::Workers;
use super::{histograms, master};
use crate::observations::{self, End, Observations};

/// What is only counted where the server and the kernel are, at the end of the hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    /// Open at the server.
    pub(super) server: u64,
    /// Established on the backend.
    pub(super) kernel_backend: u64,
    /// Established on all client hosts, without the links to the master.
    pub(super) kernel_clients: u64,
    /// Users of each worker.
    pub(super) workers: BTreeMap<String, u64>,
    /// Responses or messages the server had sent, and when it said so, microseconds.
    pub(super) served: (u64, u64),
}

/// Everything a record is made of.
pub(super) struct Measured<'a> {
    pub(super) plan: &'a Plan,
    pub(super) folder: &'a RunFolder,
    pub(super) observed: &'a mut Observations,
    pub(super) counts: Counts,
    pub(super) totals: UserTotals,
    pub(super) reports: WorkerReports,
    pub(super) server: Option<&'a Child<AnyServer>>,
    pub(super) server_report: Option<ServerReport>,
    pub(super) pdsh: Option<&'a Child<WorkerReports>>,
    pub(super) workers: &'a Workers,
    pub(super) master: MasterRecord,
    /// Connections established on the backend over the ramp: seconds, count.
    pub(super) ramp_samples: Vec<(f64, u64)>,
    /// What the server had sent when the hold began, and when, microseconds.
    pub(super) served_at_start: (u64, u64),
    /// Unix time of the hold's two ends, seconds.
    pub(super) hold_unix: (u64, u64),
}

impl Measured<'_> {
    /// Fills in everything measured.
    pub(super) fn build_record(mut self, run: &mut Run) {
        let all = observations::Counts {
            client: self.counts.workers.values().sum(),
            server: self.counts.server,
            kernel: self.counts.kernel_backend,
            kernel_sockets: self.counts.kernel_backend + self.counts.kernel_clients,
        };
        let server = End::server(self.server, self.server_report.clone());
        let mut workers = End::client(self.pdsh, Some(self.totals.report.clone()));
        workers.process.has_final_report = workers.report.is_final;
        self.observed.build_record(run, &all, &server, &workers);
        if self.is_http() {
            run.messages.due_per_second = 0.0;
        }
        self.merge_histograms(run);
        let table = master::table(&self.folder.file("locust.json")).unwrap_or_else(|why| {
            self.observed.incidents.push(why);
            Vec::new()
        });
        let requests = self.is_http().then(|| self.requests());
        let ramp = RampRecord::of(
            &self.ramp_samples,
            self.plan.users(),
            self.plan.rate() as f64,
            self.plan.ramp_tolerance(),
        );
        run.locust = Some(LocustRecord {
            user_class: self.plan.class().into(),
            version: self.plan.version(),
            worker_bytes_per_user: self.bytes_per_user(all.client),
            ramp,
            requests,
            agreements: self.agreements(&server.report, &table),
            workers: self.worker_records(),
            master: self.master,
            table,
        });
        run.header.incidents = std::mem::take(&mut self.observed.incidents);
    }

    fn is_http(&self) -> bool {
        self.plan.class() == "Http"
    }

    fn merge_histograms(&mut self, run: &mut Run) {
        let logs: Vec<PathBuf> = (1..=self.plan.layout.clients())
            .map(|n| self.folder.file(&format!("{}.hlog", client(n))))
            .collect();
        let merged = histograms::merge(&logs).and_then(|merged| {
            let path = self.folder.file("histograms.hlog");
            merged.write(&path, self.observed.started.elapsed())?;
            Ok(merged)
        });
        match merged {
            Ok(merged) => {
                run.latency_us.connect = merged.latency("connect");
                run.latency_us.lateness = merged.latency(if self.is_http() {
                    "latency"
                } else {
                    "lateness"
                });
            }
            Err(why) => self.observed.incidents.push(format!("histograms: {why}")),
        }
    }

    fn agreements(&self, server: &ServerReport, table: &[TableRow]) -> Vec<Agreement> {
        let (counts, workers) = (&self.counts, &self.totals.report);
        let rows = |is_it: fn(&&TableRow) -> bool| -> u64 {
            table.iter().filter(is_it).map(|row| row.num_requests).sum()
        };
        let mut spread = Agreement::exact(
            "users of each worker",
            counts.workers.iter().map(|(host, n)| (host.as_str(), *n)),
        );
        spread.slack = 1;
        let open = Agreement::exact(
            "users at the end of the hold",
            [
                ("workers", counts.workers.values().sum()),
                ("server", counts.server),
                ("kernel_backend", counts.kernel_backend),
                ("kernel_clients", counts.kernel_clients),
            ],
        );
        let failures: u64 = table.iter().map(|row| row.num_failures).sum();
        let failed: u64 =
            workers.failed.values().sum::<u64>() + workers.messages_wrong + workers.messages_missed;
        let mut all = vec![Agreement::exact(
            "connections in all",
            [("workers", workers.opened), ("server", server.accepted)],
        )];
        // What is open while users come is no count of one moment.
        if self.observed.hold_start.is_some() {
            all.extend([spread, open]);
        }
        let at_hold_end = self
            .observed
            .hold_end
            .as_ref()
            .and_then(|m| m.client_report.as_ref());
        let after = at_hold_end.map_or(0, |r| {
            workers.messages_received - r.messages_received.min(workers.messages_received)
        });
        let is_http = self.is_http();
        let total = workers.messages_received;
        let mut heard = Agreement::exact(
            "messages in all",
            [("workers", total), ("server", server.messages_sent)],
        );
        // The master hears of nothing that ends later than half a second after it has told the
        // workers to quit.
        let mut charted = Agreement::exact(
            "messages in Locust's table",
            [
                ("workers", total),
                ("locust", rows(|row| row.name != "connect")),
            ],
        );
        charted.slack = after;
        if is_http {
            // Answers to requests that were under way when their user was stopped.
            heard.slack = self.totals.outcomes.get("stopped").copied().unwrap_or(0);
        }
        all.extend([heard, charted]);
        if !is_http {
            let attempts = workers.opened + workers.failed.values().sum::<u64>();
            all.push(Agreement::exact(
                "connects in all",
                [
                    ("workers", attempts),
                    ("locust", rows(|row| row.name == "connect")),
                ],
            ));
            all.push(Agreement::exact(
                "failures",
                [("workers", failed), ("locust", failures)],
            ));
        }
        all
    }

    fn worker_records(&self) -> Vec<WorkerRecord> {
        (1..=self.plan.layout.clients())
            .map(|number| {
                let host = client(number);
                let report = self.reports.of(&host, self.plan.class()).report;
                WorkerRecord {
                    opened: report.opened,
                    open: self.counts.workers.get(&host).copied().unwrap_or(0),
                    rss_base_bytes: self.workers.base.get(&host).map(|p| p.rss_bytes),
                    rss_bytes: self.workers.end.get(&host).map(|p| p.rss_bytes),
                    has_final_report: report.is_final,
                    host,
                }
            })
            .collect()
    }

    fn bytes_per_user(&self, users: u64) -> Option<f64> {
        let growth = self.workers.end.iter().map(|(host, end)| {
            let base = self.workers.base.get(host).map_or(0, |p| p.rss_bytes);
            end.rss_bytes as f64 - base as f64
        });
        let growth: f64 = growth.sum();
        (users > 0 && !self.workers.end.is_empty()).then(|| round(growth / users as f64, 1))
    }

    fn requests(&mut self) -> RequestsRecord {
        /// The chart is a mean of the last ten seconds, which lags by two.
        const CHART_LAG_SECONDS: u64 = 12;
        let (from, to) = (self.served_at_start, self.counts.served);
        let seconds = to.1.saturating_sub(from.1) as f64 / 1e6;
        let history = master::history(&self.folder.file("locust_stats_history.csv"))
            .unwrap_or_else(|why| {
                self.observed.incidents.push(why);
                Vec::new()
            });
        let in_hold: Vec<f64> = history
            .iter()
            .filter(|s| s.at >= self.hold_unix.0 + CHART_LAG_SECONDS && s.at <= self.hold_unix.1)
            .map(|s| s.per_second)
            .collect();
        let mean = in_hold.iter().sum::<f64>() / in_hold.len().max(1) as f64;
        RequestsRecord {
            outcomes: self.totals.outcomes.clone(),
            server_per_second: (seconds > 0.0).then(|| round((to.0 - from.0) as f64 / seconds, 1)),
            charted_per_second: (!in_hold.is_empty()).then(|| round(mean, 1)),
        }
    }
}
