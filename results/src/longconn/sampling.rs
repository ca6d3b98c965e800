//! What is seen of a run while it goes on: a sample a second, its row, its line for people.
//!
//! Invariants: a wait takes at most 50 ms, and notices signals and ends.
//! Must not know: phases.

use std::time::{Duration, Instant};

use holdfast_sysctl::machine::cgroup_memory_left;
use tokio::time::sleep;

use super::flow::Flow;
use super::glance::Glance;
use crate::mark::{Mark, cpu_phase};
use crate::record::Counts;
use crate::series::Row;
use crate::warm::Warming;

use holdfast_report::run::CpuPhase;
use holdfast_telemetry::proc::ThreadTimes;
use holdfast_telemetry::proc::{KernelSample, ProcessSample};
use holdfast_telemetry::wire::ServerReport;
use holdfast_testbed::child::Child;

impl Flow<'_> {
    pub(super) async fn step(&mut self) {
        self.step_within(Duration::from_millis(50)).await;
    }

    /// Waits for a second's tick, a line, a signal or the time given (at most 50 ms), and takes note of what came.
    pub(super) async fn step_within(&mut self, time: Duration) {
        let mut is_tick = false;
        let mut is_signal = false;
        tokio::select! {
            () = self.signals.next() => is_signal = true,
            _ = self.ticker.tick() => is_tick = true,
            () = self.notify.notified() => {}
            () = sleep(time.min(Duration::from_millis(50))) => {}
        }
        if is_signal | self.live.tick() {
            self.interrupt_count += 1;
            if self.interrupted_at.is_none() {
                self.interrupted_at = Some(Instant::now());
                self.seen.incidents.push("interrupted".into());
                self.live
                    .say("interrupted: closing in order (once more: kill)");
            }
        }
        if let Some(server) = &mut self.server {
            server.reap();
        }
        if let Some(client) = &mut self.client {
            client.reap();
            if self.seen.client_base.is_none() {
                self.seen.client_base =
                    ProcessSample::read(client.pid()).filter(|p| p.rss_bytes > 0);
            }
        }
        if is_tick {
            self.tick().await;
        }
    }

    /// One second's sample: series, progress, extremes.
    async fn tick(&mut self) {
        let now = self.mark();
        let before = self.seen.take_second(now);
        let cores = cpu_phase(Some(&before), Some(&self.seen.latest));
        self.glance();
        self.add_row(cores).await;
    }

    pub(super) fn glance(&mut self) {
        let server = self.server_report();
        let glance = Glance {
            plan: self.plan,
            phase: self.phase,
            seconds: self.seen.started.elapsed().as_secs_f64(),
            hold_left_seconds: self
                .hold_until
                .map(|at| at.saturating_duration_since(Instant::now()).as_secs_f64()),
            server: server.as_ref(),
            client: self.seen.latest.client_report.as_ref(),
        };
        let server = self.server.as_ref().map(|c| (c.name, c.pid()));
        let client = self.client.as_ref().map(|c| (c.name, c.pid()));
        let processes = server.into_iter().chain(client).collect();
        let mut now = glance.snapshot(processes);
        now.counters
            .extend(self.warming.as_ref().map(Warming::counter));
        self.live.show(now);
    }

    pub(super) async fn add_row(&mut self, cores: Option<CpuPhase>) {
        let server_report = self.server_report();
        let seen = &self.seen;
        let row = Row::of(
            &seen.latest,
            seen.started,
            self.phase,
            cores,
            server_report.as_ref(),
        );
        let line = row.line();
        if let Some(series) = &mut self.series
            && let Err(e) = series.append(line).await
        {
            self.seen
                .incidents
                .push(format!("series.csv could not be written: {e}"));
            self.series = None;
        }
    }

    pub(super) fn mark(&self) -> Mark {
        let server = self.server.as_ref().map(Child::pid);
        let client = self.client.as_ref().map(Child::pid);
        let threads = |pid: Option<u32>| pid.map(ThreadTimes::read).unwrap_or_default();
        Mark {
            at: Instant::now(),
            kernel: KernelSample::read(),
            server: server.and_then(ProcessSample::read),
            client: client.and_then(ProcessSample::read),
            server_threads: threads(server),
            client_threads: threads(client),
            cgroup_left_bytes: [server, client]
                .into_iter()
                .flatten()
                .filter_map(|pid| cgroup_memory_left(&pid.to_string()))
                .min(),
            client_report: self.client.as_ref().and_then(|c| c.heard().latest.clone()),
        }
    }

    pub(super) fn counts_at(&self, mark: &Mark) -> Counts {
        let server_open = self.server_report().map_or(0, |r| r.open_now);
        self.seen.counts_at(mark, server_open)
    }

    fn server_report(&self) -> Option<ServerReport> {
        self.server.as_ref().and_then(|s| s.heard().latest.clone())
    }
}
