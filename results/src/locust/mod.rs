//! A real Locust master and our workers on many hosts: `holdfast-bench locust`.
//!
//! Purpose: the server on the backend, Locust's master on its host, and pdsh, which starts a worker
//! on each client host, as on real machines. Workers, server, kernel and master must agree.
//! Must not depend on: Locust's protocol; that is the worker's.

mod build_record;
mod histograms;
mod kernel;
mod master;
mod master_process;
mod page;
mod plan;
mod watch;
mod worker_reports;
mod workers;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use holdfast_engine::SetupError;
use holdfast_report::folder::RunFolder;
use holdfast_report::header::Header;
use holdfast_report::locust::summary;
use holdfast_report::run::{RUN_SCHEMA, Run};
use holdfast_report::{bottleneck, verdict};
use holdfast_sysctl::machine::cgroup_memory_left;
use holdfast_telemetry::live::{Counter, Live, Snapshot};
use holdfast_telemetry::output;
use holdfast_telemetry::proc::ThreadTimes;
use holdfast_telemetry::proc::tree;
use holdfast_telemetry::proc::{KernelSample, ProcessSample};
use holdfast_telemetry::units::count;
use holdfast_telemetry::wire::{ClientReport, ServerReport};
use holdfast_testbed::child::Child;
use holdfast_testbed::network::Network;
use holdfast_testbed::network::host::Host;
use holdfast_testbed::network::layout::{BACKEND, MASTER};
use holdfast_testbed::sandbox::{self, Entered};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::held_load::{self, HeldLoad, HeldRun, Limits, PhaseTimes, START_MAX, Starter};
use crate::network_record::network_record;
use crate::observations::{Observations, malformed_line};
use crate::processes::{self, still_runs};
use crate::run_control::{Aborted, RunControl};
use crate::run_harness::RunFlags;
use crate::sample::Sample;
use crate::scenario::Scenario;
use build_record::{Counts, Measured};
use master_process::{MasterProcess, shuts_down};
use plan::Plan;
use watch::Watch;
use worker_reports::{AnyServer, UserTotals, WorkerReports};
use workers::Workers;

pub use plan::Flags;

/// How often the master is interrupted, and how long it may take to say that it has heard.
const INTERRUPTS_MAX: u32 = 4;
const INTERRUPT_INTERVAL: Duration = Duration::from_secs(10);

/// Users of a Locust master.
pub struct Locust {
    plan: Plan,
    network: Option<Network>,
    server: Option<Child<AnyServer>>,
    master: MasterProcess,
    pdsh: Option<Child<WorkerReports>>,
    workers: Workers,
    counts: Option<Counts>,
    /// What the server had sent when the hold began, and when, microseconds.
    served_at_start: (u64, u64),
    /// Unix time of the hold's two ends, seconds.
    hold_unix: (u64, u64),
    phase_count: u32,
    ramp: Watch,
    observed: Option<Observations>,
}

impl Locust {
    /// Checks `flags` against sense and the programs there are.
    ///
    /// # Errors
    /// The first thing that stands in the way.
    pub fn new(flags: Flags) -> Result<Self, SetupError> {
        Ok(Self {
            plan: Plan::new(flags)?,
            network: None,
            server: None,
            master: MasterProcess::default(),
            pdsh: None,
            workers: Workers::default(),
            counts: None,
            served_at_start: (0, 0),
            hold_unix: (0, 0),
            phase_count: 0,
            ramp: Watch::default(),
            observed: None,
        })
    }

    fn network(&self) -> &Network {
        let network = self.network.as_ref();
        network.expect("prepare has made it before anything runs")
    }

    fn worker_reports(&self) -> WorkerReports {
        let heard = self.pdsh.as_ref().map(Child::heard);
        heard.and_then(|h| h.latest.clone()).unwrap_or_default()
    }

    /// All workers together.
    fn totals(&self) -> UserTotals {
        let gone = &self.workers.gone;
        self.worker_reports().total(self.plan.class(), gone)
    }

    fn served_now(&self) -> (u64, u64) {
        let report = self.server_report();
        report.map_or((0, 0), |r| (r.messages_sent, r.at_us))
    }

    /// What everybody counts as open now.
    fn counts_now(&self) -> Counts {
        let established = |host: &Host| host.kernel().established;
        let links = self.workers.alive();
        let clients: u64 = self.network().clients().map(established).sum();
        let reports = self.worker_reports();
        let class = self.plan.class();
        Counts {
            server: self.server_report().map_or(0, |r| r.open_now),
            kernel_backend: established(self.network().host(BACKEND)),
            kernel_clients: clients.saturating_sub(links),
            workers: reports
                .hosts()
                .filter(|host| !self.workers.gone.contains(*host))
                .map(|host| (host.to_owned(), reports.of(host, class).report.open_now))
                .collect(),
            served: self.served_now(),
        }
    }
}

/// Interrupts the master until it says that it shuts down: Python raises an interrupt wherever the
/// program is, and drops one that falls into a destructor or a callback of C.
async fn interrupt_master(run: &mut HeldRun<'_, Locust>) {
    for _ in 0..INTERRUPTS_MAX {
        if !run.load.master.interrupt() {
            return;
        }
        let since = Instant::now();
        while since.elapsed() < INTERRUPT_INTERVAL {
            let is_heard = run.load.master.has_ended() || shuts_down(run.folder);
            if is_heard || run.step().await.is_err() {
                return;
            }
        }
    }
}

/// Asks workers whose master does not to end.
fn end_workers(pdsh: Option<&Child<WorkerReports>>) {
    let Some(pdsh) = pdsh else { return };
    for pid in tree::pids(pdsh.pid()) {
        if let Ok(number) = i32::try_from(pid)
            && pid != pdsh.pid()
        {
            let _ = kill(Pid::from_raw(number), Signal::SIGTERM);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "Locust's charts go by the date")]
fn unix() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

impl Scenario for Locust {
    type Record = Run;
    const NAME: &'static str = "locust";
    const SCHEMA: &'static str = RUN_SCHEMA;

    fn run_flags(&self) -> &RunFlags {
        &self.plan.flags.run
    }

    fn enter(&self) -> Result<Option<u8>, SetupError> {
        Ok(match sandbox::enter(self.plan.flags.web.is_some())? {
            Entered::Done(code) => Some(code),
            Entered::Inside(_) => None,
        })
    }

    fn prepare(&mut self, head: Header, live: &mut Live) -> Result<Run, SetupError> {
        let network = Network::build(self.plan.layout, self.plan.users())?;
        network.check()?;
        if let Some(port) = self.plan.flags.web {
            let page = page::publish(network.host(MASTER), port)?;
            live.note(format_args!("Locust's page: {page}"));
        }
        let lab = network.host(BACKEND).lab.clone();
        let run = Run {
            header: Header { lab, ..head },
            asked: self.plan.asked(),
            network: Some(network_record(&network)),
            ..Run::default()
        };
        self.network = Some(network);
        Ok(run)
    }

    async fn run(
        &mut self,
        control: &mut RunControl,
        folder: &RunFolder,
        _run: &mut Run,
    ) -> Result<(), SetupError> {
        self.observed = Some(held_load::run(self, control, folder, None).await?);
        self.ramp.stop();
        Ok(())
    }

    fn record(&mut self, folder: &RunFolder, run: &mut Run) {
        let Some(mut observed) = self.observed.take() else {
            return;
        };
        observed.client_base = self.workers.base_all();
        let malformed = [
            malformed_line(self.server.as_ref()),
            malformed_line(self.pdsh.as_ref()),
        ];
        observed.incidents.extend(malformed.into_iter().flatten());
        let counts = self.counts.clone();
        Measured {
            plan: &self.plan,
            folder,
            observed: &mut observed,
            counts: counts.unwrap_or_else(|| self.counts_now()),
            totals: self.totals(),
            reports: self.worker_reports(),
            server: self.server.as_ref(),
            server_report: self.server_report(),
            pdsh: self.pdsh.as_ref(),
            workers: &self.workers,
            master: self.master.record(),
            ramp_samples: self.ramp.samples(),
            served_at_start: self.served_at_start,
            hold_unix: self.hold_unix,
        }
        .build_record(run);
        processes::write_final_report_of(self.server.as_ref(), folder, "server.json");
        self.master.tidy();
        if let Some(pdsh) = &self.pdsh {
            if let Some(all) = &pdsh.heard().latest
                && let Err(e) = folder.write_json("workers.json", all)
            {
                output::log(format_args!("warning: workers.json: {e}"));
            }
            pdsh.tidy();
        }
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

impl HeldLoad for Locust {
    fn limits(&self) -> Limits {
        self.plan.limits()
    }

    fn start_server(&mut self, starter: &Starter<'_>) -> Result<(), Aborted> {
        let args = self.plan.server_args();
        let network = self.network();
        let backend = network.host(BACKEND);
        let (ip, args) = backend.command(&network.ip, &self.plan.programs.0, args);
        self.server = Some(starter.start("server", &ip, &args)?);
        Ok(())
    }

    async fn start_clients(run: &mut HeldRun<'_, Self>) -> Result<(), Aborted> {
        let starter = run.starter();
        let load = &mut *run.load;
        let (plan, network) = (&load.plan, load.network());
        let dir = run.folder.path();
        let master = network.host(MASTER);
        let (ip, args) = master.command(&network.ip, &plan.locust.0, plan.master_args(dir));
        let pdsh_args = plan.pdsh_args(&network.ip, dir);
        load.master.start(&starter, &ip, &args)?;
        load.pdsh = Some(starter.start("workers", &load.plan.pdsh, &pdsh_args)?);
        let workers = usize::from(load.plan.layout.clients());
        run.until(START_MAX, "the workers' start", |load| {
            load.worker_reports().known() == workers
        })
        .await?;
        run.load.ramp = Watch::start(run.load.network());
        Ok(())
    }

    async fn until_first_attempt(run: &mut HeldRun<'_, Self>) -> Result<(), Aborted> {
        run.until(START_MAX, "Locust's start of the test", |load| {
            load.totals().report.attempts > 0
        })
        .await
    }

    fn reap(&mut self, phase: &str) -> Vec<String> {
        if let Some(server) = &mut self.server {
            server.reap();
        }
        self.master.reap();
        let Some(pdsh) = &mut self.pdsh else {
            return Vec::new();
        };
        pdsh.reap();
        let expected = usize::from(self.plan.layout.clients());
        self.workers.look(pdsh, expected, phase)
    }

    fn is_ramped(&self, report: &ClientReport) -> bool {
        report.opened + report.failed.values().sum::<u64>() >= self.plan.users()
    }

    fn still_runs(&self, phase: &str) -> Result<(), Aborted> {
        still_runs(self.server.as_ref(), phase)?;
        still_runs(self.master.child(), phase)?;
        still_runs(self.pdsh.as_ref(), phase)
    }

    fn server_report(&self) -> Option<ServerReport> {
        let server = self.server.as_ref()?;
        server.heard().latest.as_ref().map(|s| s.0.clone())
    }

    fn client_report(&self) -> Option<ClientReport> {
        self.pdsh.is_some().then(|| self.totals().report)
    }

    fn line_counts(&self) -> (u64, u64, u64) {
        let server = self.server.as_ref().map_or(0, |s| s.heard().line_count);
        let workers = self.pdsh.as_ref().map_or(0, |p| p.heard().line_count);
        (server, workers, self.workers.alive())
    }

    fn sample(&self) -> Sample {
        let server = self.server.as_ref().map(Child::pid);
        Sample {
            at: Instant::now(),
            kernel: self.kernel(),
            server: server.and_then(ProcessSample::read),
            client: self.workers.now_all(),
            server_threads: server.map(ThreadTimes::read).unwrap_or_default(),
            client_threads: self.workers.threads(),
            cgroup_left_bytes: server.and_then(|pid| cgroup_memory_left(&pid.to_string())),
            client_report: self.client_report(),
        }
    }

    fn kernel(&self) -> KernelSample {
        kernel::kernel(self.network())
    }

    fn at_phase_end(&mut self) {
        self.phase_count += 1;
        self.master.sample();
        match self.phase_count {
            2 => {
                self.hold_unix.0 = unix();
                self.served_at_start = self.served_now();
            }
            3 => self.hold_unix.1 = unix(),
            _ => {}
        }
    }

    fn take_counts(&mut self, _observed: &Observations, _now: &Sample) {
        self.counts = Some(self.counts_now());
        if self.phase_count == 2 {
            self.workers.sample_end();
        }
    }

    fn has_counts(&self) -> bool {
        self.counts.is_some()
    }

    fn snapshot(&self, latest: &Sample, _times: PhaseTimes) -> Snapshot {
        let rate = Some(self.plan.rate() as f64);
        let mut now = latest
            .client_report
            .as_ref()
            .map_or_else(Snapshot::default, |client| {
                Snapshot::from(client).with_target_rate("opened", rate)
            });
        let server = self.server_report();
        now.counters
            .extend(server.map(|r| Counter::new("sent", r.messages_sent, r.at_us as f64 / 1e6)));
        let server = self.server.as_ref().map(|c| ("server", c.pid()));
        let master = self.master.child().map(|c| ("master", c.pid()));
        Snapshot {
            title: format!("bench locust {} users", count(self.plan.users())),
            processes: server.into_iter().chain(master).collect(),
            ..now
        }
    }

    async fn shut_down(run: &mut HeldRun<'_, Self>) {
        interrupt_master(run).await;
        run.end("master", None, |load| load.master.child()).await;
        // A master that ends before it has started the test, or dies, does not tell its workers to
        // quit.
        if !shuts_down(run.folder) {
            end_workers(run.load.pdsh.as_ref());
        }
        run.end("workers", None, |load| load.pdsh.as_ref()).await;
        run.end("server", Some(Signal::SIGTERM), |load| load.server.as_ref())
            .await;
    }
}
