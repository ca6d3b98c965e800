//! One run driven by Locust's master, top to bottom.
//!
//! Purpose: `server -> master -> pdsh and workers -> ramp -> hold -> counts`, and then [`Flow::finish`].
//! Invariants: every wait is bounded. Whatever happens after the server's start, what was seen stays in [`Flow`], and no process
//! outlives it.
//! Must not know: how figures become a record, verdicts.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::crew::{Crew, Doings, Served};
use super::kernel::kernel;
use super::plan::Plan;
use super::watch::Watch;
use super::workers::Workers;
use crate::http::stage::{Cut, Stage, has_not_ended};
use crate::http::subject::ServerLine;
use crate::record::Seen;
use crate::series::Series;
use crate::warm::{self, Warm, Warming};

use holdfast_report::folder::RunFolder;
use holdfast_telemetry::proc::tree;
use holdfast_telemetry::report_line::Report;
use holdfast_telemetry::wire::ServerReport;
use holdfast_testbed::child::Child;
use holdfast_testbed::network::Network;
use holdfast_testbed::network::layout::{BACKEND, MASTER};

/// Nothing is asked of a starting process for longer than this.
const START_MAX: Duration = Duration::from_secs(60);
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
    pub(super) phase: &'static str,
    pub(super) next: Instant,
    pub(super) series: Series,
    pub(super) ramp: Watch,
    pub(super) warming: Option<Warming>,
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

    /// Waits until everybody has said anew what is open.
    pub(super) async fn until_told(&mut self, max: Duration) -> Result<(), Cut> {
        let lines = |flow: &Self| {
            (
                flow.server.as_ref().map_or(0, |s| s.heard().line_count),
                flow.crew.as_ref().map_or(0, |c| c.heard().line_count),
            )
        };
        // A line under way now may be older than that: the second one of each is not.
        let before = lines(self);
        let workers = self.workers.alive();
        self.until(max, "reports of what is open", |flow| {
            let now = lines(flow);
            now.0 >= before.0 + 2 && now.1 >= before.1 + 2 * workers
        })
        .await
    }

    /// Asks everybody for what is open, all after the hold's end.
    async fn count(&mut self) -> Result<(), Cut> {
        self.until_told(COUNTS_MAX).await?;
        let mark = self.mark();
        self.counts = Some(self.counts_now());
        self.workers.sample_end();
        self.seen.hold_end = Some(mark);
        self.mark_master();
        self.master_rss = self.master.as_ref().map(|m| tree::rss_bytes(m.pid()));
        Ok(())
    }

    /// What everybody counts as open now.
    #[must_use]
    pub fn counts_now(&self) -> Counts {
        let established = |host: &holdfast_testbed::network::host::Host| host.kernel().established;
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
}

#[expect(clippy::disallowed_methods, reason = "Locust's charts go by the date")]
fn unix() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
