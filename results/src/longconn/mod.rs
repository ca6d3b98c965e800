//! Long connections: `holdfast-bench longconn`.
//!
//! Purpose: our server and our client on this machine, in a network namespace of their own; client,
//! server and kernel must agree on every connection.
//! Must not depend on: how verdicts are found ([`holdfast_report::verdict`]), how text looks
//! ([`holdfast_report::summary`]).

mod flags;
mod plan;
mod progress;

use std::path::Path;
use std::time::Instant;

use holdfast_engine::SetupError;
use holdfast_report::folder::RunFolder;
use holdfast_report::header::Header;
use holdfast_report::run::{RUN_SCHEMA, Run};
use holdfast_report::{bottleneck, summary, verdict};
use holdfast_sysctl::machine::cgroup_memory_left;
use holdfast_sysctl::{Role, plan as tune, preflight};
use holdfast_telemetry::live::{Live, Snapshot};
use holdfast_telemetry::proc::ThreadTimes;
use holdfast_telemetry::proc::{KernelSample, ProcessSample};
use holdfast_telemetry::wire::{ClientReport, ServerReport};
use holdfast_testbed::child::Child;
use holdfast_testbed::namespace;
use nix::sys::signal::Signal;

use crate::held_load::{self, HeldLoad, HeldRun, Limits, PhaseTimes, Starter};
use crate::observations::{Counts, End, Observations, malformed_line};
use crate::processes::{self, still_runs};
use crate::run_control::{Aborted, RunControl};
use crate::run_harness::RunFlags;
use crate::sample::Sample;
use crate::scenario::Scenario;
use plan::Plan;
use progress::Moment;

pub use flags::Flags;

/// Long connections, both ends ours.
pub struct Longconn {
    plan: Plan,
    server: Option<Child<ServerReport>>,
    client: Option<Child<ClientReport>>,
    /// The client right after its start.
    client_base: Option<ProcessSample>,
    counts: Option<Counts>,
    observed: Option<Observations>,
}

impl Longconn {
    /// Checks `flags` against sense, memory and the programs there are.
    ///
    /// # Errors
    /// The first thing that stands in the way.
    pub fn new(flags: Flags) -> Result<Self, SetupError> {
        Ok(Self {
            plan: Plan::new(flags)?,
            server: None,
            client: None,
            client_base: None,
            counts: None,
            observed: None,
        })
    }
}

impl Scenario for Longconn {
    type Record = Run;
    const NAME: &'static str = "longconn";
    const SCHEMA: &'static str = RUN_SCHEMA;

    fn run_flags(&self) -> &RunFlags {
        &self.plan.flags.run
    }

    fn prepare(&mut self, head: Header, live: &mut Live) -> Result<Run, SetupError> {
        for notice in &self.plan.notices {
            live.note(notice);
        }
        let lab = namespace::enter(self.plan.users, &self.plan.tuning);
        for note in &lab.notes {
            live.note(note);
        }
        self.plan.settle_network(lab.is_private())?;
        let run = Run {
            header: Header { lab, ..head },
            asked: self.plan.asked(),
            ..Run::default()
        };
        if let Ok(machine) = holdfast_sysctl::Machine::read() {
            // Rings of server and client, and the control planes of both and of this program, are
            // one user's.
            let threads = |count: Option<u32>| count.map_or(machine.core_count as u64, u64::from);
            let rings = |thread_count| {
                preflight::rings_of_process(self.plan.users, thread_count, machine.nofile_hard)
            };
            let flags = &self.plan.flags;
            let (server, client) = (flags.server_threads, flags.client_threads);
            preflight::check_locked_memory(
                &machine,
                3,
                rings(threads(server)) + rings(threads(client)),
            )?;
            for warning in tune::warnings(&machine, Role::Both, run.asked.users) {
                live.note(warning);
            }
        }
        Ok(run)
    }

    async fn run(
        &mut self,
        control: &mut RunControl,
        folder: &RunFolder,
        run: &mut Run,
    ) -> Result<(), SetupError> {
        let tcp_mem_pages = run.header.machine.tcp_mem_pages;
        self.observed = Some(held_load::run(self, control, folder, tcp_mem_pages).await?);
        Ok(())
    }

    fn record(&mut self, folder: &RunFolder, run: &mut Run) {
        let Some(mut observed) = self.observed.take() else {
            return;
        };
        observed.client_base = self.client_base;
        let malformed = [
            malformed_line(self.server.as_ref()),
            malformed_line(self.client.as_ref()),
        ];
        observed.incidents.extend(malformed.into_iter().flatten());
        let has_ended = |c: &Child<ClientReport>| c.heard().final_raw.is_some();
        if self.client.as_ref().is_some_and(has_ended) && !folder.file("histograms.hlog").exists() {
            let incident = "the client left no histograms".into();
            observed.incidents.push(incident);
        }
        observed.build_record(
            run,
            &self.counts.unwrap_or_default(),
            &End::server(self.server.as_ref(), self.server_report()),
            &End::client(self.client.as_ref(), self.client_report()),
        );
        processes::write_final_report_of(self.server.as_ref(), folder, "server.json");
        processes::write_final_report_of(self.client.as_ref(), folder, "client.json");
    }

    fn judge(run: &mut Run) {
        verdict::judge(run);
        run.header.limits = bottleneck::of_longconn(run);
    }

    fn summarise(run: &Run, folder: &Path) -> String {
        summary::page(run, folder)
    }

    fn head(run: &mut Run) -> &mut Header {
        &mut run.header
    }
}

impl HeldLoad for Longconn {
    fn limits(&self) -> Limits {
        self.plan.limits()
    }

    fn start_server(&mut self, starter: &Starter<'_>) -> Result<(), Aborted> {
        let args = self.plan.server_args();
        self.server = Some(starter.start("server", &self.plan.server_program, &args)?);
        Ok(())
    }

    async fn start_clients(run: &mut HeldRun<'_, Self>) -> Result<(), Aborted> {
        let starter = run.starter();
        let plan = &run.load.plan;
        let args = plan.client_args(&run.folder.file("histograms.hlog"));
        run.load.client = Some(starter.start("client", &plan.client_program, &args)?);
        Ok(())
    }

    fn reap(&mut self, _phase: &str) -> Vec<String> {
        if let Some(server) = &mut self.server {
            server.reap();
        }
        if let Some(client) = &mut self.client {
            client.reap();
            if self.client_base.is_none() {
                let base = ProcessSample::read(client.pid());
                self.client_base = base.filter(|p| p.rss_bytes > 0);
            }
        }
        Vec::new()
    }

    fn still_runs(&self, phase: &str) -> Result<(), Aborted> {
        still_runs(self.server.as_ref(), phase)?;
        still_runs(self.client.as_ref(), phase)
    }

    fn server_report(&self) -> Option<ServerReport> {
        self.server.as_ref().and_then(|s| s.heard().latest.clone())
    }

    fn client_report(&self) -> Option<ClientReport> {
        self.client.as_ref().and_then(|c| c.heard().latest.clone())
    }

    fn line_counts(&self) -> (u64, u64, u64) {
        let server = self.server.as_ref().map_or(0, |s| s.heard().line_count);
        let client = self.client.as_ref().map_or(0, |c| c.heard().line_count);
        (server, client, 1)
    }

    fn sample(&self) -> Sample {
        let server = self.server.as_ref().map(Child::pid);
        let client = self.client.as_ref().map(Child::pid);
        let threads = |pid: Option<u32>| pid.map(ThreadTimes::read).unwrap_or_default();
        let pids = [server, client].into_iter().flatten();
        Sample {
            at: Instant::now(),
            kernel: KernelSample::read(),
            server: server.and_then(ProcessSample::read),
            client: client.and_then(ProcessSample::read),
            server_threads: threads(server),
            client_threads: threads(client),
            cgroup_left_bytes: pids
                .filter_map(|pid| cgroup_memory_left(&pid.to_string()))
                .min(),
            client_report: self.client_report(),
        }
    }

    fn kernel(&self) -> KernelSample {
        KernelSample::read()
    }

    fn take_counts(&mut self, observed: &Observations, now: &Sample) {
        let server_open = self.server_report().map_or(0, |r| r.open_now);
        self.counts = Some(observed.counts_at(now, server_open));
    }

    fn has_counts(&self) -> bool {
        self.counts.is_some()
    }

    fn snapshot(&self, latest: &Sample, times: PhaseTimes) -> Snapshot {
        let server_report = self.server_report();
        let server = self.server.as_ref().map(|c| (c.name, c.pid()));
        let client = self.client.as_ref().map(|c| (c.name, c.pid()));
        Moment {
            plan: &self.plan,
            phase: times.phase,
            hold_left_seconds: times.hold_left_seconds,
            server: server_report.as_ref(),
            client: latest.client_report.as_ref(),
        }
        .snapshot(server.into_iter().chain(client).collect())
    }

    async fn shut_down(run: &mut HeldRun<'_, Self>) {
        run.end("client", Some(Signal::SIGTERM), |load| load.client.as_ref())
            .await;
        run.end("server", Some(Signal::SIGTERM), |load| load.server.as_ref())
            .await;
    }
}
