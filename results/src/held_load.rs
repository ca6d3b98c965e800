//! A run that opens users, holds them, and counts them with client, server and kernel.
//!
//! Purpose: `server -> baseline -> memory -> clients -> ramp -> hold -> counts`, whatever opens the
//! users ([`HeldLoad`]); a sample a second, its row of the series, its figures for people.
//! Invariants: every wait is bounded and notices within 50 ms when a process ends; what ends a run
//! early is among the incidents.
//! Must not depend on: any scenario, how figures become a record.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_report::folder::RunFolder;
use holdfast_report::run::CpuPhase;
use holdfast_telemetry::live::Snapshot;
use holdfast_telemetry::proc::KernelSample;
use holdfast_telemetry::report_line::Report;
use holdfast_telemetry::wire::{ClientReport, ServerReport};
use holdfast_testbed::child::Child;
use tokio::sync::Notify;

use crate::observations::Observations;
use crate::prefault::{Prefaulted, Prefaulting};
use crate::run_control::{Aborted, RunControl};
use crate::sample::{Sample, cpu_phase};
use crate::series::{Row, Series};

/// Nothing is asked of a starting process for longer than this.
pub const START_MAX: Duration = Duration::from_secs(60);
/// Between two looks at everything.
const POLL: Duration = Duration::from_millis(50);
/// How long an earlier run's sockets are waited for.
const QUIET_MAX: Duration = Duration::from_secs(20);
/// Slabs that shrink by less than this in half a second, so many times in a row, are quiet.
const QUIET_BYTES: u64 = 2 << 20;
const QUIET_COUNT: u32 = 4;
/// How long after the hold the reports for the counts may take.
const COUNTS_MAX: Duration = Duration::from_secs(15);
/// How long a run that is cut short waits to be told what is open: reports come every second.
const ABORTED_COUNTS_MAX: Duration = Duration::from_secs(4);

/// What a run asks for, and the bounds of its waits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Users to open and hold.
    pub users: u64,
    /// How long all are held.
    pub hold: Duration,
    /// Longest time the ramp may take.
    pub ramp_max: Duration,
    /// Longest time without any progress in the ramp.
    pub stall_max: Duration,
    /// Longest time a process may take to shut down gracefully.
    pub close_max: Duration,
    /// The same, once the bench is interrupted.
    pub interrupt_grace: Duration,
    /// Whether the memory of the run is touched before the ramp.
    pub is_prefaulted: bool,
    /// Whether the baseline waits until the kernel has freed what earlier runs left.
    pub waits_for_quiet: bool,
}

/// The processes of a run, the scenario's own part of it.
#[allow(async_fn_in_trait, reason = "everything runs on one thread")]
pub trait HeldLoad: Sized {
    /// What is asked for.
    fn limits(&self) -> Limits;

    /// Starts the server.
    ///
    /// # Errors
    /// When it cannot be started.
    fn start_server(&mut self, starter: &Starter<'_>) -> Result<(), Aborted>;

    /// Starts whatever opens the users, until it is about to do so.
    ///
    /// # Errors
    /// When it cannot be started, or does not get that far.
    async fn start_clients(run: &mut HeldRun<'_, Self>) -> Result<(), Aborted>;

    /// Waits until the first user is being opened.
    ///
    /// # Errors
    /// When that does not happen.
    async fn until_first_attempt(_run: &mut HeldRun<'_, Self>) -> Result<(), Aborted> {
        Ok(())
    }

    /// Whether every user was tried once.
    fn is_ramped(&self, report: &ClientReport) -> bool {
        report.ramp_done
    }

    /// Takes notice of processes that ended; what that means for the run, in words.
    fn reap(&mut self, phase: &str) -> Vec<String>;

    /// Looks that every process still runs.
    ///
    /// # Errors
    /// Which has ended, and its last words.
    fn still_runs(&self, phase: &str) -> Result<(), Aborted>;

    /// The server's latest line.
    fn server_report(&self) -> Option<ServerReport>;

    /// The latest line of the client, or of all of them together.
    fn client_report(&self) -> Option<ClientReport>;

    /// Lines of the server and of the clients so far, and how many of the clients' make one of
    /// each.
    fn line_counts(&self) -> (u64, u64, u64);

    /// Everything known now.
    fn sample(&self) -> Sample;

    /// The kernel's figures for all hosts of the run.
    fn kernel(&self) -> KernelSample;

    /// Called at the start of the ramp, at its end, and at the end of the hold.
    fn at_phase_end(&mut self) {}

    /// Notes what is open now: the counts that are cross-checked.
    fn take_counts(&mut self, observed: &Observations, now: &Sample);

    /// Whether these were taken.
    fn has_counts(&self) -> bool;

    /// Figures for people; phase, times and prefaulting are added to them.
    fn snapshot(&self, latest: &Sample, times: PhaseTimes) -> Snapshot;

    /// Shuts everything down: clients first, then the server.
    async fn shut_down(run: &mut HeldRun<'_, Self>);
}

/// Where a run is.
#[derive(Debug, Clone, Copy)]
pub struct PhaseTimes {
    /// The phase.
    pub phase: &'static str,
    /// What is left of the hold, seconds; `None` outside it.
    pub hold_left_seconds: Option<f64>,
}

/// Starts processes whose standard error goes to the run's folder.
pub struct Starter<'a> {
    /// The run's folder.
    pub folder: &'a RunFolder,
    notify: Rc<Notify>,
}

impl Starter<'_> {
    /// Starts `program`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start<R: Report>(
        &self,
        name: &'static str,
        program: &Path,
        args: &[String],
    ) -> Result<Child<R>, Aborted> {
        let log = self.folder.file(&format!("{name}.stderr.log"));
        Child::start(name, program, args, log, self.notify.clone()).map_err(|e| {
            let cause = format!("{} cannot be started: {e}", program.display());
            Aborted::Refused(SetupError::new(
                SetupErrorKind::InvalidInput,
                cause,
                "cargo build --release",
            ))
        })
    }
}

/// A run under way.
pub struct HeldRun<'a, L> {
    /// Its processes.
    pub load: &'a mut L,
    /// Signals, waits and progress.
    pub control: &'a mut RunControl,
    /// Where its files go.
    pub folder: &'a RunFolder,
    /// Everything observed so far.
    pub observed: Observations,
    /// Phase, as the series names it.
    pub phase: &'static str,
    hold_until: Option<Instant>,
    next_sample: Instant,
    series: Option<Series>,
    prefaulting: Option<Prefaulting>,
}

/// Runs `load` from the start of its server to the end of its last process. What was observed, with
/// every incident.
///
/// # Errors
/// When a process refuses to start.
pub async fn run<L: HeldLoad>(
    load: &mut L,
    control: &mut RunControl,
    folder: &RunFolder,
    tcp_mem_pages: Option<[u64; 3]>,
) -> Result<Observations, SetupError> {
    let series = Series::create(&folder.file("series.csv")).await;
    let series = series.map_err(|e| {
        SetupError::new(
            SetupErrorKind::Io,
            format!("series.csv: {e}"),
            "choose another folder with --results-dir DIR",
        )
    })?;
    let mut observed = Observations::new(load.kernel());
    observed.tcp_mem_pages = tcp_mem_pages;
    let mut run = HeldRun {
        load,
        control,
        folder,
        observed,
        phase: "start",
        hold_until: None,
        next_sample: Instant::now(),
        series: Some(series),
        prefaulting: None,
    };
    let ended = run.measure().await;
    match &ended {
        Err(Aborted::Interrupted) => run.observed.incidents.push("interrupted".into()),
        Err(Aborted::Failed { why, .. }) => run.observed.incidents.push(why.clone()),
        Ok(()) | Err(Aborted::Refused(_)) => {}
    }
    run.finish().await;
    match ended {
        Err(Aborted::Refused(error)) => Err(error),
        _ => Ok(run.observed),
    }
}

impl<'a, L: HeldLoad> HeldRun<'a, L> {
    /// From the server's start to the counts.
    async fn measure(&mut self) -> Result<(), Aborted> {
        let limits = self.load.limits();
        let starter = self.starter();
        self.load.start_server(&starter)?;
        self.until(START_MAX, "the server's start", |load| {
            load.server_report().is_some()
        })
        .await?;
        if limits.waits_for_quiet {
            self.until_quiet().await?;
        }
        self.observed.baseline = Some(self.load.sample());
        let mut memory = self.prefault(&limits).await?;
        L::start_clients(self).await?;
        self.phase = "ramp";
        memory.release_with_ramp();
        L::until_first_attempt(self).await?;
        self.observed.ramp_start = Some(self.load.sample());
        self.load.at_phase_end();
        self.until_ramped(&limits).await?;
        drop(memory);
        self.phase = "hold";
        self.observed.hold_start = Some(self.load.sample());
        self.load.at_phase_end();
        self.hold_until = Some(Instant::now() + limits.hold);
        self.show();
        self.until_held(limits.hold).await?;
        self.cross_check_counts().await
    }

    /// What starts processes of this run.
    #[must_use]
    pub fn starter(&self) -> Starter<'a> {
        Starter {
            folder: self.folder,
            notify: self.control.notify.clone(),
        }
    }

    /// Waits until the kernel has freed what an earlier run left: sockets are freed long after
    /// their process has ended, and a baseline taken before that would make this run's look small.
    async fn until_quiet(&mut self) -> Result<(), Aborted> {
        let started = Instant::now();
        let mut before = KernelSample::read().slab_bytes;
        let mut quiet_count = 0;
        while started.elapsed() < QUIET_MAX && quiet_count < QUIET_COUNT {
            let until = Instant::now() + Duration::from_millis(500);
            while Instant::now() < until {
                self.step().await?;
                self.load.still_runs(self.phase)?;
            }
            let now = KernelSample::read().slab_bytes;
            quiet_count = if before.saturating_sub(now) < QUIET_BYTES {
                quiet_count + 1
            } else {
                0
            };
            before = now;
        }
        Ok(())
    }

    /// Has the machine's host back the memory of the ramp, where that makes a difference.
    async fn prefault(&mut self, limits: &Limits) -> Result<Prefaulted, Aborted> {
        if !limits.is_prefaulted {
            return Ok(Prefaulted::default());
        }
        self.prefaulting = Some(Prefaulting::start(limits.users, &mut self.control.live));
        while self.prefaulting.as_ref().is_some_and(|p| !p.is_done()) {
            self.step().await?;
            self.load.still_runs(self.phase)?;
        }
        let done = self.prefaulting.take().map(Prefaulting::join);
        let (memory, prefaulted) = done.unwrap_or_default();
        self.observed.prefaulted = prefaulted;
        Ok(memory)
    }

    /// Waits until every user was tried once.
    async fn until_ramped(&mut self, limits: &Limits) -> Result<(), Aborted> {
        let started = Instant::now();
        let mut progress = (0, started);
        loop {
            self.load.still_runs(self.phase)?;
            let report = self.load.client_report();
            let tried = |r: &ClientReport| r.opened + r.failed.values().sum::<u64>();
            if report.as_ref().is_some_and(|r| self.load.is_ramped(r)) {
                return Ok(());
            }
            let moved = report.as_ref().map_or(0, |r| r.attempts + tried(r));
            if moved != progress.0 {
                progress = (moved, Instant::now());
            }
            let late = |what: &str, max: Duration| {
                let why = format!("{what} {} s", max.as_secs());
                Err(Aborted::failed("timed_out", why))
            };
            if report.is_none() && started.elapsed() > START_MAX {
                return late("the client did not report within", START_MAX);
            }
            if progress.1.elapsed() > limits.stall_max {
                return late("the ramp made no progress for", limits.stall_max);
            }
            if started.elapsed() > limits.ramp_max {
                return late("the ramp was not done within", limits.ramp_max);
            }
            self.step().await?;
        }
    }

    /// Waits out the hold.
    async fn until_held(&mut self, hold: Duration) -> Result<(), Aborted> {
        let until = Instant::now() + hold;
        while Instant::now() < until {
            self.load.still_runs(self.phase)?;
            self.step_within(until.saturating_duration_since(Instant::now()))
                .await?;
        }
        Ok(())
    }

    /// Asks everybody for what is open, all after the hold's end.
    async fn cross_check_counts(&mut self) -> Result<(), Aborted> {
        self.until_reports(COUNTS_MAX).await?;
        let sample = self.load.sample();
        self.load.take_counts(&self.observed, &sample);
        self.observed.hold_end = Some(sample);
        self.load.at_phase_end();
        Ok(())
    }

    /// Waits until every process has reported anew.
    async fn until_reports(&mut self, max: Duration) -> Result<(), Aborted> {
        // A line under way now may be older than this moment: the second one of each is not.
        let (server, client, each) = self.load.line_counts();
        self.until(max, "reports of what is open", |load| {
            let now = load.line_counts();
            now.0 >= server + 2 && now.1 >= client + 2 * each
        })
        .await
    }

    /// Waits until `is_it` holds.
    ///
    /// # Errors
    /// When that takes longer than `max`, a process ends meanwhile, or the run is interrupted.
    pub async fn until(
        &mut self,
        max: Duration,
        what: &str,
        is_it: impl Fn(&L) -> bool,
    ) -> Result<(), Aborted> {
        let started = Instant::now();
        while !is_it(self.load) {
            self.load.still_runs(self.phase)?;
            if started.elapsed() > max {
                let why = format!("{what} took longer than {} s", max.as_secs());
                return Err(Aborted::failed("timed_out", why));
            }
            self.step().await?;
        }
        Ok(())
    }

    /// Waits a little, takes notice of what ended, and once a second of everything.
    ///
    /// # Errors
    /// When the run is interrupted.
    pub async fn step(&mut self) -> Result<(), Aborted> {
        self.step_within(POLL).await
    }

    async fn step_within(&mut self, time: Duration) -> Result<(), Aborted> {
        let time = time.min(POLL);
        let waited = self.control.wait::<()>(time, time, || Ok(None)).await;
        let incidents = self.load.reap(self.phase);
        self.observed.incidents.extend(incidents);
        let now = Instant::now();
        if now >= self.next_sample {
            while self.next_sample <= now {
                self.next_sample += Duration::from_secs(1);
            }
            let before = self.observed.add(self.load.sample());
            let cores = cpu_phase(Some(&before), Some(&self.observed.latest));
            self.show();
            self.add_row(cores).await;
        }
        waited.map(drop)
    }

    fn show(&mut self) {
        let left = |at: Instant| at.saturating_duration_since(Instant::now()).as_secs_f64();
        let times = PhaseTimes {
            phase: self.phase,
            hold_left_seconds: self.hold_until.map(left),
        };
        let mut now = self.load.snapshot(&self.observed.latest, times);
        now.counters
            .extend(self.prefaulting.as_ref().map(Prefaulting::counter));
        self.control.live.show(Snapshot {
            phase: self.phase,
            seconds: self.observed.started.elapsed().as_secs_f64(),
            open: Some(now.open.unwrap_or(0)),
            target: Some(self.load.limits().users),
            ..now
        });
    }

    async fn add_row(&mut self, cores: Option<CpuPhase>) {
        let server_report = self.load.server_report();
        let row = Row::of(
            &self.observed.latest,
            self.observed.started,
            self.phase,
            cores,
            server_report.as_ref(),
        );
        let line = row.line();
        if let Some(series) = &mut self.series
            && let Err(e) = series.append(line).await
        {
            let why = format!("series.csv could not be written: {e}");
            self.observed.incidents.push(why);
            self.series = None;
        }
    }

    /// Shuts everything down and takes the last sample. Never fails, always ends.
    async fn finish(&mut self) {
        self.phase = "close";
        self.control.begin_shutdown();
        if !self.load.has_counts() {
            // A run cut short: what is open before anything is closed, as far as that is still
            // reported.
            if self.observed.ramp_start.is_some() {
                let _ = self.until_reports(ABORTED_COUNTS_MAX).await;
            }
            let sample = self.load.sample();
            self.load.take_counts(&self.observed, &sample);
            self.observed.cut = Some(sample);
        }
        L::shut_down(self).await;
        let last = self.load.sample();
        self.observed.add(last);
        self.phase = "done";
        self.add_row(None).await;
        if let Some(series) = self.series.take() {
            let _ = series.close().await;
        }
    }
}
