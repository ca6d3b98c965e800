//! The loaded part of a run: both processes started, users opened, held and counted.
//!
//! Purpose: `server -> baseline -> client -> ramp -> hold -> three counts`; [`Flow::load`] reads as that line.
//! Invariants: every wait is bounded; what ends one early is among the incidents.
//! Must not know: how processes are ended, how figures become a record.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::ended::{Ended, cannot_start, ended_early, refused_start};
use super::options::WarmUp;
use super::plan::Plan;
use crate::frame;
use crate::record::Seen;
use crate::series::Series;
use crate::warm::{self, Warm, Warming};

use holdfast_report::folder::RunFolder;
use holdfast_telemetry::live::Live;
use holdfast_telemetry::proc::KernelSample;
use holdfast_telemetry::refusal::Refusal;
use holdfast_telemetry::signals::Signals;
use holdfast_telemetry::wire::{ClientReport, ServerReport};
use holdfast_testbed::child::Child;

/// Nothing is asked of a starting process for longer than this.
const START_MAX: Duration = Duration::from_secs(60);
/// How long an earlier run's sockets are waited for.
const QUIET_MAX: Duration = Duration::from_secs(20);
/// Slabs that shrink by less than this in half a second, so many times in a row, are quiet.
const QUIET_BYTES: u64 = 2 << 20;
const QUIET_COUNT: u32 = 4;
/// How long after the hold the reports for the three counts may take.
const COUNTS_MAX: Duration = Duration::from_secs(10);

/// A run on its way, and then what was seen of it.
pub(super) struct Flow<'a> {
    pub(super) plan: &'a Plan,
    pub(super) folder: &'a RunFolder,
    pub(super) live: Live,
    pub(super) phase: &'static str,
    pub(super) hold_until: Option<Instant>,
    pub(super) server: Option<Child<ServerReport>>,
    pub(super) client: Option<Child<ClientReport>>,
    pub(super) notify: Rc<Notify>,
    pub(super) ticker: Interval,
    pub(super) signals: Signals,
    pub(super) interrupt_count: u32,
    pub(super) interrupted_at: Option<Instant>,
    pub(super) series: Option<Series>,
    pub(super) warming: Option<Warming>,
    pub(super) seen: Seen,
}

impl<'a> Flow<'a> {
    /// Nothing started yet. Inside the runtime.
    pub(super) async fn new(
        plan: &'a Plan,
        folder: &'a RunFolder,
        live: Live,
    ) -> Result<Self, Refusal> {
        let fail = |what: &str, e: std::io::Error| {
            Refusal::new(format!("{what}: {e}"), "holdfast-bench longconn --runs DIR")
        };
        let signals = frame::signals().map_err(|e| fail("signals", e))?;
        let series = Series::create(&folder.file("series.csv"))
            .await
            .map_err(|e| fail("series.csv", e))?;
        let mut ticker = interval(Duration::from_secs(1));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Ok(Self {
            plan,
            folder,
            live,
            phase: "start",
            hold_until: None,
            server: None,
            client: None,
            notify: Rc::new(Notify::new()),
            ticker,
            signals,
            interrupt_count: 0,
            interrupted_at: None,
            series: Some(series),
            warming: None,
            seen: Seen::new(KernelSample::read()),
        })
    }

    /// The run from the server's start to the three counts.
    pub(super) async fn load(&mut self) -> Ended {
        if let Err(refusal) = self.start_server() {
            return Ended::Refused(refusal);
        }
        if let Some(ended) = self.until_listening().await {
            return ended;
        }
        if let Some(ended) = self.until_quiet().await {
            return ended;
        }
        self.seen.baseline = Some(self.mark());
        let mut warm = match self.warm_up().await {
            Ok(warm) => warm,
            Err(ended) => return ended,
        };
        if let Err(refusal) = self.start_client() {
            return Ended::Refused(refusal);
        }
        self.phase = "ramp";
        warm.release_with_ramp();
        self.seen.ramp_start = Some(self.mark());
        if let Some(ended) = self.until_ramped().await {
            return ended;
        }
        drop(warm);
        self.phase = "hold";
        self.seen.hold_start = Some(self.mark());
        self.hold_until = Some(Instant::now() + self.plan.hold);
        self.glance();
        if let Some(ended) = self.until_held().await {
            return ended;
        }
        self.count_thrice().await
    }

    /// Waits until the kernel has freed what an earlier run left: sockets are freed long after their process has ended, and a
    /// baseline taken before that would make this run's look small.
    async fn until_quiet(&mut self) -> Option<Ended> {
        let started = Instant::now();
        let mut before = KernelSample::read().slab_bytes;
        let mut quiet_count = 0;
        while started.elapsed() < QUIET_MAX {
            let until = Instant::now() + Duration::from_millis(500);
            while Instant::now() < until {
                self.step_within(until.saturating_duration_since(Instant::now()))
                    .await;
                if let Some(ended) = self.cut() {
                    return Some(ended);
                }
            }
            let now = KernelSample::read().slab_bytes;
            quiet_count = if before.saturating_sub(now) < QUIET_BYTES {
                quiet_count + 1
            } else {
                0
            };
            if quiet_count == QUIET_COUNT {
                return None;
            }
            before = now;
        }
        None
    }

    /// Has the machine's host back the memory of the ramp, where that makes a difference.
    async fn warm_up(&mut self) -> Result<Warm, Ended> {
        let is_wanted = match self.plan.options.warm {
            WarmUp::Auto => warm::is_worth(self.plan.users),
            WarmUp::On => true,
            WarmUp::Off => false,
        };
        if !is_wanted {
            return Ok(Warm::default());
        }
        self.warming = Some(Warming::start(self.plan.users, &mut self.live));
        while self.warming.as_ref().is_some_and(|w| !w.is_done()) {
            if let Some(ended) = self.cut() {
                return Err(ended);
            }
            self.step().await;
        }
        let (warm, warmed) = self.warming.take().map(Warming::join).unwrap_or_default();
        self.seen.warmed = warmed;
        Ok(warm)
    }

    fn start_server(&mut self) -> Result<(), Refusal> {
        let program = &self.plan.server_program;
        let stderr = self.folder.file("server.stderr.log");
        let child = Child::start(
            "server",
            program,
            &self.plan.server_args(),
            stderr,
            self.notify.clone(),
        );
        self.server = Some(child.map_err(|e| cannot_start(program, &e))?);
        Ok(())
    }

    fn start_client(&mut self) -> Result<(), Refusal> {
        let program = &self.plan.client_program;
        let stderr = self.folder.file("client.stderr.log");
        let args = self.plan.client_args(&self.folder.file("histograms.hlog"));
        let child = Child::start("client", program, &args, stderr, self.notify.clone());
        self.client = Some(child.map_err(|e| cannot_start(program, &e))?);
        Ok(())
    }

    /// Waits for the server's first line.
    async fn until_listening(&mut self) -> Option<Ended> {
        let started = Instant::now();
        loop {
            if self
                .server
                .as_ref()
                .is_some_and(|s| s.heard().latest.is_some())
            {
                return None;
            }
            if let Some(ended) = self
                .interrupted()
                .or_else(|| refused_start(self.server.as_ref()))
            {
                return Some(ended);
            }
            if let Some(ended) = self.somebody_ended() {
                return Some(ended);
            }
            if started.elapsed() > START_MAX {
                return Some(self.short(format!(
                    "the server did not listen within {} s",
                    START_MAX.as_secs()
                )));
            }
            self.step().await;
        }
    }

    /// Waits until every user was tried once.
    async fn until_ramped(&mut self) -> Option<Ended> {
        let (ramp_max, stall_max) = (self.plan.ramp_max(), self.plan.stall_max());
        let started = Instant::now();
        let mut progress = (0, Instant::now());
        loop {
            let (is_done, moved, is_silent) =
                self.client.as_ref().map_or((false, 0, true), |client| {
                    let heard = client.heard();
                    heard.latest.as_ref().map_or((false, 0, true), |r| {
                        (
                            r.ramp_done,
                            r.attempts + r.opened + r.failed.values().sum::<u64>(),
                            false,
                        )
                    })
                });
            if is_done {
                return None;
            }
            if let Some(ended) = self
                .interrupted()
                .or_else(|| refused_start(self.client.as_ref()))
            {
                return Some(ended);
            }
            if let Some(ended) = self.somebody_ended() {
                return Some(ended);
            }
            if moved != progress.0 {
                progress = (moved, Instant::now());
            }
            if is_silent && started.elapsed() > START_MAX {
                return Some(self.short(format!(
                    "the client did not report within {} s",
                    START_MAX.as_secs()
                )));
            }
            if progress.1.elapsed() > stall_max {
                return Some(self.short(format!(
                    "the ramp made no progress for {} s",
                    stall_max.as_secs()
                )));
            }
            if started.elapsed() > ramp_max {
                return Some(self.short(format!(
                    "the ramp was not done within {} s",
                    ramp_max.as_secs()
                )));
            }
            self.step().await;
        }
    }

    /// Waits out the hold.
    async fn until_held(&mut self) -> Option<Ended> {
        let until = self.hold_until.unwrap_or_else(Instant::now);
        while Instant::now() < until {
            if let Some(ended) = self.cut() {
                return Some(ended);
            }
            self.step_within(until.saturating_duration_since(Instant::now()))
                .await;
        }
        None
    }

    /// Asks client, server and kernel for what is open, all after the hold's end.
    async fn count_thrice(&mut self) -> Ended {
        let line_count = |flow: &Self| {
            (
                flow.server.as_ref().map_or(0, |s| s.heard().line_count),
                flow.client.as_ref().map_or(0, |c| c.heard().line_count),
            )
        };
        // A line under way when the hold ended may be older than it: the second one is not.
        let before = line_count(self);
        let started = Instant::now();
        loop {
            let now = line_count(self);
            if now.0 >= before.0 + 2 && now.1 >= before.1 + 2 {
                break;
            }
            if let Some(ended) = self.cut() {
                return ended;
            }
            if started.elapsed() > COUNTS_MAX {
                return self.short(format!(
                    "no reports came within {} s of the hold's end",
                    COUNTS_MAX.as_secs()
                ));
            }
            self.step().await;
        }
        let mark = self.mark();
        self.seen.counts = Some(self.counts_at(&mark));
        self.seen.hold_end = Some(mark);
        Ended::Whole
    }

    fn short(&mut self, incident: String) -> Ended {
        self.seen.incidents.push(incident);
        Ended::Short
    }

    fn interrupted(&self) -> Option<Ended> {
        (self.interrupt_count > 0).then_some(Ended::Short)
    }

    /// Ends the load if somebody wants that, or a process ended by itself.
    fn cut(&mut self) -> Option<Ended> {
        self.interrupted().or_else(|| self.somebody_ended())
    }

    /// Ends the load if a process ended by itself.
    fn somebody_ended(&mut self) -> Option<Ended> {
        let phase = self.phase;
        let ends = [
            ended_early(self.server.as_ref(), phase),
            ended_early(self.client.as_ref(), phase),
        ];
        let ends: Vec<String> = ends.into_iter().flatten().collect();
        if ends.is_empty() {
            return None;
        }
        self.seen.incidents.extend(ends);
        Some(Ended::Short)
    }
}
