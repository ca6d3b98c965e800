//! From what was seen of a run to its record.
//!
//! Invariants: reads only. What was not seen becomes `null` or an incident, never a zero.
//! Must not know: how the run went on.

use std::path::PathBuf;

use super::flow::{Counts, Flow, MasterMark};
use super::{histograms, master};
use crate::record;

use holdfast_report::locust::record::{
    LocustRecord, MasterRecord, RampRecord, RequestsRecord, TableRow, WorkerRecord,
};
use holdfast_report::network::Agreement;
use holdfast_report::run::{Hold, Messages, Processes, Ramp, Run};
use holdfast_telemetry::units::round;
use holdfast_telemetry::wire::ClientReport;
use holdfast_testbed::network::layout::client;

impl Flow<'_> {
    /// Fills in everything measured.
    pub fn fill(&mut self, run: &mut Run) {
        let doings = self.total();
        let workers = &doings.report;
        let server = self.served().unwrap_or_default();
        let counts = self.counts.clone().unwrap_or_else(|| self.counts_now());
        let all = record::Counts {
            client: counts.workers.values().sum(),
            server: counts.server,
            kernel: counts.kernel_backend,
            kernel_sockets: counts.kernel_backend + counts.kernel_clients,
        };
        run.header.seconds = round(self.seen.started.elapsed().as_secs_f64(), 3);
        run.connections = record::connections(self.plan.users(), &all, &server, workers);
        let ramp = RampRecord::of(
            &self.ramp_samples(),
            self.plan.users(),
            f64::from(self.plan.rate()),
            self.plan.ramp_tolerance(),
        );
        run.ramp = Ramp {
            seconds: round(workers.ramp_seconds, 4),
            per_second: round(workers.opened as f64 / workers.ramp_seconds.max(0.001), 1),
        };
        run.hold = Hold {
            seconds: self.seen.hold_seconds(),
        };
        let is_http = self.plan.class() == "Http";
        run.messages = Messages {
            sent: server.is_final.then_some(server.messages_sent),
            received: workers.messages_received,
            wrong: workers.messages_wrong,
            missed: workers.messages_missed,
            per_second: self.seen.messages_per_second(),
            due_per_second: if is_http {
                0.0
            } else {
                round(all.client as f64 / run.asked.every_seconds, 1)
            },
        };
        run.memory = self.seen.memory(&all);
        let cpu = |c: &std::time::Duration| *c;
        let server_cpu = self.server.as_ref().map(|c| cpu(&c.cpu()));
        let crew_cpu = self.crew.as_ref().map(|c| cpu(&c.cpu()));
        run.cpu = self.seen.cpu(server_cpu, crew_cpu);
        run.kernel = self.seen.kernel();
        run.processes = Processes {
            server: record::process_record(
                self.server.as_ref(),
                server.thread_count,
                server.shard_count,
                &server.anomalies,
            ),
            client: record::process_record(
                self.crew.as_ref(),
                workers.thread_count,
                workers.shard_count,
                &workers.anomalies,
            ),
        };
        run.processes.client.has_final_report = workers.is_final;
        self.merge_histograms(run, is_http);
        let table = master::table(&self.folder.file("locust.json")).unwrap_or_else(|why| {
            self.seen.incidents.push(why);
            Vec::new()
        });
        let locust = LocustRecord {
            user_class: self.plan.class().into(),
            version: self.plan.version(),
            master: self.master_record(),
            worker_bytes_per_user: self.bytes_per_user(all.client),
            ramp,
            requests: is_http.then(|| self.requests(&doings.outcomes, &counts)),
            agreements: self.agreements(
                &counts,
                workers,
                server.accepted,
                server.messages_sent,
                &table,
            ),
            workers: self.workers(&counts),
            table,
        };
        run.header.incidents = std::mem::take(&mut self.seen.incidents);
        run.locust = Some(locust);
    }

    fn merge_histograms(&mut self, run: &mut Run, is_http: bool) {
        let logs: Vec<PathBuf> = (1..=self.plan.layout.clients())
            .map(|n| self.folder.file(&format!("{}.hlog", client(n))))
            .collect();
        let merged = histograms::merge(&logs).and_then(|merged| {
            let path = self.folder.file("histograms.hlog");
            merged.write(&path, self.seen.started.elapsed())?;
            Ok(merged)
        });
        match merged {
            Ok(merged) => {
                run.latency_us.connect = merged.latency("connect");
                run.latency_us.lateness =
                    merged.latency(if is_http { "latency" } else { "lateness" });
            }
            Err(why) => self.seen.incidents.push(format!("histograms: {why}")),
        }
    }

    fn agreements(
        &self,
        counts: &Counts,
        workers: &ClientReport,
        accepted: u64,
        served: u64,
        table: &[TableRow],
    ) -> Vec<Agreement> {
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
            [("workers", workers.opened), ("server", accepted)],
        )];
        // What is open while users come is no count of one moment.
        if self.seen.hold_start.is_some() {
            all.extend([spread, open]);
        }
        let at_hold_end = self
            .seen
            .hold_end
            .as_ref()
            .and_then(|m| m.client_report.as_ref());
        let after = at_hold_end.map_or(0, |r| {
            workers.messages_received - r.messages_received.min(workers.messages_received)
        });
        let is_http = self.plan.class() == "Http";
        let total = workers.messages_received;
        let mut heard =
            Agreement::exact("messages in all", [("workers", total), ("server", served)]);
        // The master hears of nothing that ends later than half a second after it has told the workers to quit.
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
            heard.slack = self.total().outcomes.get("stopped").copied().unwrap_or(0);
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

    fn workers(&self, counts: &Counts) -> Vec<WorkerRecord> {
        (1..=self.plan.layout.clients())
            .map(|number| {
                let host = client(number);
                let report = self.worker(&host).report;
                WorkerRecord {
                    opened: report.opened,
                    open: counts.workers.get(&host).copied().unwrap_or(0),
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

    fn master_record(&self) -> MasterRecord {
        let share = |from: usize| {
            let [a, b]: [MasterMark; 2] = self.master_marks.get(from..from + 2)?.try_into().ok()?;
            let seconds = b.at.duration_since(a.at).as_secs_f64();
            (seconds > 0.0).then(|| round(100.0 * (b.cpu_seconds - a.cpu_seconds) / seconds, 1))
        };
        MasterRecord {
            command: self
                .master
                .as_ref()
                .map(|m| m.command.clone())
                .unwrap_or_default(),
            exit_code: self.master.as_ref().and_then(|m| m.exit()?.code()),
            cpu_percent_ramp: share(0),
            cpu_percent_hold: share(1),
            rss_bytes: self.master_rss,
        }
    }

    fn requests(
        &mut self,
        outcomes: &std::collections::BTreeMap<String, u64>,
        counts: &Counts,
    ) -> RequestsRecord {
        /// The chart is a mean of the last ten seconds, which lags by two.
        const CHART_LAG_SECONDS: u64 = 12;
        let (from, to) = (self.served_at_start, counts.served);
        let seconds = to.1.saturating_sub(from.1) as f64 / 1e6;
        let history = master::history(&self.folder.file("locust_stats_history.csv"))
            .unwrap_or_else(|why| {
                self.seen.incidents.push(why);
                Vec::new()
            });
        let in_hold: Vec<f64> = history
            .iter()
            .filter(|s| s.at >= self.hold_unix.0 + CHART_LAG_SECONDS && s.at <= self.hold_unix.1)
            .map(|s| s.per_second)
            .collect();
        let mean = in_hold.iter().sum::<f64>() / in_hold.len().max(1) as f64;
        RequestsRecord {
            outcomes: outcomes.clone(),
            server_per_second: (seconds > 0.0).then(|| round((to.0 - from.0) as f64 / seconds, 1)),
            charted_per_second: (!in_hold.is_empty()).then(|| round(mean, 1)),
        }
    }
}
