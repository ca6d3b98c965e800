//! One run driven by Locust's master, top to bottom.
//!
//! Purpose: `server -> master -> pdsh and workers -> ramp -> hold -> counts -> master ends -> workers end -> server ends`.
//! Invariants: every wait is bounded. Whatever happens after the server's start, what was seen stays in [`Flow`], and no process
//! outlives it.
//! Must not know: how figures become a record, verdicts.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use holdfast_sysctl::machine::cgroup_memory_left;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::crew::{Crew, Doings, Served};
use super::plan::{MASTER_LOG, Plan};
use super::watch::Watch;
use super::workers::Workers;
use crate::child::{Child, Report};
use crate::folder::RunFolder;
use crate::http::stage::{Cut, Stage, has_not_ended};
use crate::http::subject::ServerLine;
use crate::http::usage;
use crate::live::{Counter, Snapshot};
use crate::network::Network;
use crate::network::layout::{BACKEND, MASTER};
use crate::record::{Mark, Seen, cpu_phase};
use crate::run::CpuPhase;
use crate::sample::{KernelSample, ProcessSample};
use crate::series::{Row, Series};
use crate::summary::count;
use crate::threads::Threads;
use crate::warm::{self, Warm, Warming};
use crate::wire::ServerReport;

/// Nothing is asked of a starting process for longer than this.
const START_MAX: Duration = Duration::from_secs(60);
/// Between two looks at everything.
const POLL: Duration = Duration::from_millis(50);
/// How often the master is interrupted, and how long it may take to say that it has heard.
const INTERRUPTS_MAX: u32 = 4;
const INTERRUPT_INTERVAL: Duration = Duration::from_secs(10);
/// How long the reports for the counts may take.
const COUNTS_MAX: Duration = Duration::from_secs(15);

/// A moment of the master.
#[derive(Debug, Clone, Copy)]
pub struct MasterMark {
    /// By the clock.
    pub at: Instant,
    /// Its time on a core so far, seconds.
    pub cpu_seconds: f64,
}

/// What is only counted where the server and the kernel are, at the end of the hold.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Open at the server.
    pub server: u64,
    /// Established on the backend.
    pub kernel_backend: u64,
    /// Established on all client hosts, without the links to the master.
    pub kernel_clients: u64,
    /// Users of each worker.
    pub workers: BTreeMap<String, u64>,
    /// Responses or messages the server had sent, and when it said so, microseconds.
    pub served: (u64, u64),
}

/// A run on its way, and then what was seen of it.
pub struct Flow<'a> {
    pub(super) plan: &'a Plan,
    pub(super) network: &'a Network,
    pub(super) folder: &'a RunFolder,
    pub(super) stage: Stage,
    pub(super) server: Option<Child<Served>>,
    pub(super) master: Option<Child<ServerLine>>,
    pub(super) crew: Option<Child<Crew>>,
    pub(super) workers: Workers,
    pub(super) seen: Seen,
    pub(super) counts: Option<Counts>,
    /// What the server had sent when the hold began, and when.
    pub(super) served_at_start: (u64, u64),
    pub(super) master_marks: Vec<MasterMark>,
    pub(super) master_rss: Option<u64>,
    /// Unix time of the hold's two ends, seconds.
    pub(super) hold_unix: (u64, u64),
    phase: &'static str,
    next: Instant,
    series: Series,
    ramp: Watch,
    warming: Option<Warming>,
}

impl<'a> Flow<'a> {
    /// Nothing started yet. Inside the runtime.
    ///
    /// # Errors
    /// When the series cannot be written.
    pub async fn new(
        plan: &'a Plan,
        network: &'a Network,
        folder: &'a RunFolder,
        stage: Stage,
    ) -> std::io::Result<Self> {
        Ok(Self {
            plan,
            network,
            folder,
            stage,
            server: None,
            master: None,
            crew: None,
            workers: Workers::default(),
            seen: Seen::new(kernel(network)),
            counts: None,
            served_at_start: (0, 0),
            master_marks: Vec::new(),
            master_rss: None,
            hold_unix: (0, 0),
            phase: "start",
            next: Instant::now(),
            series: Series::create(&folder.file("series.csv")).await?,
            ramp: Watch::default(),
            warming: None,
        })
    }

    /// From the server's start to the counts.
    ///
    /// # Errors
    /// What ended it before.
    pub async fn load(&mut self) -> Result<(), Cut> {
        let plan = self.plan;
        self.start_server()?;
        self.until(START_MAX, "the server's start", |flow| {
            flow.served().is_some()
        })
        .await?;
        self.seen.baseline = Some(self.mark());
        let mut warm = self.warm_up().await?;
        self.start_master()?;
        self.start_workers()?;
        let workers = usize::from(plan.layout.clients());
        self.until(START_MAX, "the workers' start", |flow| {
            flow.known() == workers
        })
        .await?;
        self.seen.client_base = self.workers.base_all();
        self.ramp = Watch::start(self.network);
        self.phase = "ramp";
        warm.release_with_ramp();
        self.until(START_MAX, "Locust's start of the test", |flow| {
            flow.total().report.attempts > 0
        })
        .await?;
        self.seen.ramp_start = Some(self.mark());
        self.mark_master();
        self.until(plan.ramp_max(), "the ramp", |flow| {
            let report = flow.total().report;
            report.opened + report.failed.values().sum::<u64>() >= plan.users()
        })
        .await?;
        drop(warm);
        self.phase = "hold";
        self.seen.hold_start = Some(self.mark());
        self.mark_master();
        self.hold_unix.0 = unix();
        self.served_at_start = self.served_now();
        let until = Instant::now() + plan.asked_hold();
        self.until(plan.asked_hold() + START_MAX, "the hold", |_| {
            Instant::now() >= until
        })
        .await?;
        self.hold_unix.1 = unix();
        self.count().await
    }

    /// Has the machine's host back the memory of the ramp, where that makes a difference.
    async fn warm_up(&mut self) -> Result<Warm, Cut> {
        if !warm::is_worth(self.plan.users()) {
            return Ok(Warm::default());
        }
        self.warming = Some(Warming::start(self.plan.users(), &mut self.stage.live));
        self.until(START_MAX, "memory to be warmed", |flow| {
            flow.warming.as_ref().is_none_or(Warming::is_done)
        })
        .await?;
        let (warm, warmed) = self.warming.take().map(Warming::join).unwrap_or_default();
        self.seen.warmed = warmed;
        Ok(warm)
    }

    /// Asks everybody for what is open, all after the hold's end.
    async fn count(&mut self) -> Result<(), Cut> {
        let lines = |flow: &Self| {
            (
                flow.server.as_ref().map_or(0, |s| s.heard().line_count),
                flow.crew.as_ref().map_or(0, |c| c.heard().line_count),
            )
        };
        // A line under way when the hold ended may be older than it: the second one of each is not.
        let before = lines(self);
        let workers = self.workers.alive();
        self.until(COUNTS_MAX, "reports after the hold", |flow| {
            let now = lines(flow);
            now.0 >= before.0 + 2 && now.1 >= before.1 + 2 * workers
        })
        .await?;
        let mark = self.mark();
        self.counts = Some(self.counts_now());
        self.workers.sample_end();
        self.seen.hold_end = Some(mark);
        self.mark_master();
        self.master_rss = self.master.as_ref().map(|m| usage::rss_bytes(m.pid()));
        Ok(())
    }

    /// What everybody counts as open now.
    #[must_use]
    pub fn counts_now(&self) -> Counts {
        let established = |host: &crate::network::host::Host| host.kernel().established;
        let links = self.workers.alive();
        let clients: u64 = self.network.clients().map(established).sum();
        let crew = self.crew();
        let class = self.plan.class();
        Counts {
            server: self.served().map_or(0, |r| r.open_now),
            kernel_backend: established(self.network.host(BACKEND)),
            kernel_clients: clients.saturating_sub(links),
            workers: crew
                .hosts()
                .filter(|host| !self.workers.gone.contains(*host))
                .map(|host| (host.to_owned(), crew.of(host, class).report.open_now))
                .collect(),
            served: self.served_now(),
        }
    }

    /// Ends the test as Ctrl-C at the master does, then the server; waits for all of them, also when all of it was interrupted. What does
    /// not end is killed later.
    pub async fn finish(&mut self) {
        self.phase = "close";
        self.stage.end_in_order();
        if self.counts.is_none() {
            // A short run: what was open before anything is closed.
            self.counts = Some(self.counts_now());
            self.seen.cut = Some(self.mark());
        }
        let max = self.plan.close_max();
        self.end_master().await;
        self.until_ended(max, |flow| is_done(flow.master.as_ref()), "Locust")
            .await;
        self.end_untold_workers();
        self.until_ended(max, |flow| is_done(flow.crew.as_ref()), "the workers")
            .await;
        if let Some(server) = &self.server {
            server.signal(Signal::SIGTERM);
        }
        self.until_ended(max, |flow| is_done(flow.server.as_ref()), "the server")
            .await;
        self.ramp.stop();
        let now = self.mark();
        self.seen.take_second(now);
        self.phase = "done";
        self.add_row(None).await;
        self.stage.live.finish();
        self.leave();
    }

    /// Interrupts the master until it says that it shuts down: Python raises an interrupt wherever the program is, and drops one that
    /// falls into a destructor or a callback of C.
    async fn end_master(&mut self) {
        let log = self.folder.file(MASTER_LOG);
        for _ in 0..INTERRUPTS_MAX {
            match &self.master {
                Some(master) if master.exit().is_none() => master.signal(Signal::SIGINT),
                _ => return,
            }
            let since = Instant::now();
            while since.elapsed() < INTERRUPT_INTERVAL {
                let is_heard = is_done(self.master.as_ref()) || shuts_down(&log);
                if is_heard || self.step().await.is_err() {
                    return;
                }
            }
        }
    }

    /// A master that ends before it has started the test, or dies, does not tell its workers to quit.
    fn end_untold_workers(&self) {
        let Some(crew) = &self.crew else { return };
        if shuts_down(&self.folder.file(MASTER_LOG)) {
            return;
        }
        for pid in usage::tree(crew.pid()) {
            if let Ok(number) = i32::try_from(pid)
                && pid != crew.pid()
            {
                let _ = kill(Pid::from_raw(number), Signal::SIGTERM);
            }
        }
    }

    /// Leaves final reports beside the record, and no empty file.
    fn leave(&self) {
        if let Some(server) = &self.server {
            server.leave(self.folder, "server.json");
            server.tidy();
        }
        if let Some(master) = &self.master {
            master.tidy();
        }
        if let Some(crew) = &self.crew {
            let crew_heard = crew.heard();
            if let Some(all) = &crew_heard.latest
                && let Err(e) = self.folder.write_json("workers.json", all)
            {
                eprintln!("warning: workers.json: {e}");
            }
            crew.tidy();
        }
    }

    async fn until_ended(&mut self, max: Duration, is_it: impl Fn(&Self) -> bool, who: &str) {
        let started = Instant::now();
        while !is_it(self) {
            let words = if started.elapsed() > max {
                format!("{who} did not end within {} s", max.as_secs())
            } else if self.step().await.is_err() {
                format!("{who} had not ended when all of it was interrupted again")
            } else {
                continue;
            };
            return self.seen.incidents.push(words);
        }
    }

    fn start_server(&mut self) -> Result<(), Cut> {
        let args = self.plan.server_args();
        let program = &self.plan.programs.0;
        let (ip, args) = self
            .network
            .host(BACKEND)
            .command(&self.network.ip, program, args);
        self.server = Some(self.start("server", &ip, &args)?);
        Ok(())
    }

    fn start_master(&mut self) -> Result<(), Cut> {
        let args = self.plan.master_args(self.folder.path());
        let host = self.network.host(MASTER);
        let (ip, args) = host.command(&self.network.ip, &self.plan.locust.0, args);
        self.master = Some(self.start("master", &ip, &args)?);
        Ok(())
    }

    fn start_workers(&mut self) -> Result<(), Cut> {
        let args = self.plan.pdsh_args(&self.network.ip, self.folder.path());
        self.crew = Some(self.start("workers", &self.plan.pdsh, &args)?);
        Ok(())
    }

    fn start<R: Report>(
        &self,
        name: &'static str,
        program: &Path,
        args: &[String],
    ) -> Result<Child<R>, Cut> {
        let log = self.folder.file(&format!("{name}.stderr.log"));
        Child::start(name, program, args, log, self.stage.notify.clone())
            .map_err(|e| Cut::failed("not_started", format!("{}: {e}", program.display())))
    }

    /// Waits until `is_it`, looking after everybody meanwhile.
    async fn until(
        &mut self,
        max: Duration,
        what: &str,
        is_it: impl Fn(&Self) -> bool,
    ) -> Result<(), Cut> {
        let started = Instant::now();
        loop {
            for check in [
                self.server
                    .as_mut()
                    .map(|c| has_not_ended(c, "server_died")),
                self.master
                    .as_mut()
                    .map(|c| has_not_ended(c, "master_died")),
                self.crew.as_mut().map(|c| has_not_ended(c, "workers_died")),
            ] {
                check.unwrap_or(Ok(()))?;
            }
            if is_it(self) {
                return Ok(());
            }
            if started.elapsed() > max {
                let words = format!("{what} took longer than {} s", max.as_secs());
                return Err(Cut::failed("timed_out", words));
            }
            self.step().await?;
        }
    }

    /// Waits a little, takes notice of ends, and once a second of everything.
    async fn step(&mut self) -> Result<(), Cut> {
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

    fn crew(&self) -> Crew {
        let heard = self.crew.as_ref().map(Child::heard);
        heard.and_then(|h| h.latest.clone()).unwrap_or_default()
    }

    fn known(&self) -> usize {
        self.crew().known()
    }

    /// All workers together.
    #[must_use]
    pub fn total(&self) -> Doings {
        self.crew().total(self.plan.class(), &self.workers.gone)
    }

    /// One worker.
    #[must_use]
    pub fn worker(&self, host: &str) -> Doings {
        self.crew().of(host, self.plan.class())
    }

    /// The server's latest line.
    #[must_use]
    pub fn served(&self) -> Option<ServerReport> {
        let server = self.server.as_ref()?;
        server.heard().latest.as_ref().map(|s| s.0.clone())
    }

    fn served_now(&self) -> (u64, u64) {
        self.served().map_or((0, 0), |r| (r.messages_sent, r.at_us))
    }

    /// Connections established on the backend over the ramp: seconds, count.
    #[must_use]
    pub fn ramp_samples(&self) -> Vec<(f64, u64)> {
        self.ramp.samples()
    }

    fn mark(&self) -> Mark {
        Mark {
            at: Instant::now(),
            kernel: kernel(self.network),
            server: self
                .server
                .as_ref()
                .and_then(|c| ProcessSample::take(c.pid())),
            client: self.workers.now_all(),
            server_threads: self
                .server
                .as_ref()
                .map(|c| Threads::take(c.pid()))
                .unwrap_or_default(),
            client_threads: self.workers.threads(),
            cgroup_left_bytes: self
                .server
                .as_ref()
                .and_then(|c| cgroup_memory_left(&c.pid().to_string())),
            client_report: self.crew.is_some().then(|| self.total().report),
        }
    }

    fn mark_master(&mut self) {
        if let Some(master) = &self.master {
            self.master_marks.push(MasterMark {
                at: Instant::now(),
                cpu_seconds: usage::cpu_seconds(master.pid()),
            });
        }
    }

    fn glance(&mut self) {
        let client = self.seen.latest.client_report.as_ref();
        let server = self.served();
        let rate = Some(f64::from(self.plan.rate()));
        let mut now = client.map_or_else(Snapshot::default, |client| {
            Snapshot::from(client).asking("opened", rate)
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

    async fn add_row(&mut self, cores: Option<CpuPhase>) {
        let server_report = self.served();
        let latest = &self.seen.latest;
        let row = Row {
            at_seconds: latest.at.duration_since(self.seen.started).as_secs_f64(),
            phase: self.phase,
            kernel: &latest.kernel,
            cores,
            cgroup_left_bytes: latest.cgroup_left_bytes,
            server: latest.server.as_ref(),
            client: latest.client.as_ref(),
            server_report: server_report.as_ref(),
            client_report: latest.client_report.as_ref(),
        };
        let line = row.line();
        if let Err(e) = self.series.append(line).await {
            let words = format!("series.csv could not be written: {e}");
            if !self.seen.incidents.contains(&words) {
                self.seen.incidents.push(words);
            }
        }
    }
}

/// Whether the master's log says that it ends in order.
fn shuts_down(log: &Path) -> bool {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.contains("Shutting down")
}

fn is_done<R: Report>(child: Option<&Child<R>>) -> bool {
    child.is_none_or(Child::is_done)
}

/// The machine, with what all hosts' networks count together.
fn kernel(network: &Network) -> KernelSample {
    let mut samples = network
        .hosts()
        .iter()
        .filter(|host| host.name != MASTER)
        .map(crate::network::host::Host::kernel);
    let mut sum = samples.next().unwrap_or_default();
    for sample in samples {
        sum.established += sample.established;
        sum.tcp_inuse += sample.tcp_inuse;
        sum.tcp_orphan += sample.tcp_orphan;
        sum.tcp_tw += sample.tcp_tw;
        for (name, n) in sample.counters {
            *sum.counters.entry(name).or_default() += n;
        }
    }
    sum
}

#[expect(clippy::disallowed_methods, reason = "Locust's charts go by the date")]
fn unix() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
