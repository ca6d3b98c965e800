//! What is seen of a run while it goes on: a sample a second, its row, its line for people.
//!
//! Invariants: a wait takes at most [`POLL`], and notices signals and ends.
//! Must not know: phases.

use std::time::{Duration, Instant};

use holdfast_sysctl::machine::cgroup_memory_left;

use super::flow::{Flow, MasterMark};
use super::kernel::kernel;
use crate::http::stage::Cut;
use crate::mark::{Mark, cpu_phase};
use crate::series::Row;
use crate::warm::Warming;

use holdfast_report::run::CpuPhase;
use holdfast_telemetry::live::{Counter, Snapshot};
use holdfast_telemetry::proc::ProcessSample;
use holdfast_telemetry::proc::ThreadTimes;
use holdfast_telemetry::proc::tree;
use holdfast_telemetry::units::count;

/// Between two looks at everything.
const POLL: Duration = Duration::from_millis(50);

impl Flow<'_> {
    /// Waits a little, takes notice of ends, and once a second of everything.
    pub(super) async fn step(&mut self) -> Result<(), Cut> {
        self.stage.wait::<()>(POLL, POLL, || Ok(None)).await?;
        if let Some(child) = &mut self.server {
            child.reap();
        }
        if let Some(child) = &mut self.master {
            child.reap();
        }
        if let Some(child) = &mut self.crew {
            child.reap();
        }
        if let Some(pdsh) = &self.crew {
            let expected = usize::from(self.plan.layout.clients());
            let ended = self.workers.look(pdsh, expected, self.phase);
            self.seen.incidents.extend(ended);
        }
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next = Instant::now() + Duration::from_secs(1);
        let now = self.mark();
        let before = self.seen.take_second(now);
        let cores = cpu_phase(Some(&before), Some(&self.seen.latest));
        self.glance();
        self.add_row(cores).await;
        Ok(())
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            at: Instant::now(),
            kernel: kernel(self.network),
            server: self
                .server
                .as_ref()
                .and_then(|c| ProcessSample::read(c.pid())),
            client: self.workers.now_all(),
            server_threads: self
                .server
                .as_ref()
                .map(|c| ThreadTimes::read(c.pid()))
                .unwrap_or_default(),
            client_threads: self.workers.threads(),
            cgroup_left_bytes: self
                .server
                .as_ref()
                .and_then(|c| cgroup_memory_left(&c.pid().to_string())),
            client_report: self.crew.is_some().then(|| self.total().report),
        }
    }

    pub(super) fn mark_master(&mut self) {
        if let Some(master) = &self.master {
            self.master_marks.push(MasterMark {
                at: Instant::now(),
                cpu_seconds: tree::cpu_seconds(master.pid()),
            });
        }
    }

    fn glance(&mut self) {
        let client = self.seen.latest.client_report.as_ref();
        let server = self.served();
        let rate = Some(f64::from(self.plan.rate()));
        let mut now = client.map_or_else(Snapshot::default, |client| {
            Snapshot::from(client).with_target_rate("opened", rate)
        });
        now.counters
            .extend(server.map(|r| Counter::new("sent", r.messages_sent, r.at_us as f64 / 1e6)));
        now.counters
            .extend(self.warming.as_ref().map(Warming::counter));
        let server = self.server.as_ref().map(|c| ("server", c.pid()));
        let master = self.master.as_ref().map(|c| ("master", c.pid()));
        self.stage.live.show(Snapshot {
            title: format!("bench locust {} users", count(self.plan.users())),
            phase: self.phase,
            seconds: self.seen.started.elapsed().as_secs_f64(),
            open: Some(now.open.unwrap_or(0)),
            target: Some(self.plan.users()),
            processes: server.into_iter().chain(master).collect(),
            ..now
        });
    }

    pub(super) async fn add_row(&mut self, cores: Option<CpuPhase>) {
        let server_report = self.served();
        let seen = &self.seen;
        let row = Row::of(
            &seen.latest,
            seen.started,
            self.phase,
            cores,
            server_report.as_ref(),
        );
        let line = row.line();
        if let Err(e) = self.series.append(line).await {
            let words = format!("series.csv could not be written: {e}");
            if !self.seen.incidents.contains(&words) {
                self.seen.incidents.push(words);
            }
        }
    }
}
