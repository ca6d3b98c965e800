//! One run of `longconn`, top to bottom.
//!
//! Purpose: `plan -> folder -> lab -> server -> baseline -> client -> ramp -> hold -> three counts -> client ends ->
//! server ends -> record -> verdict`. `Flow::load` reads as that line.
//! Invariants: every wait is bounded. Whatever happens after the server's start, both processes are ended and waited
//! for, in order, and a record is written. One thread: a namespace is entered before the runtime starts.
//! Must not know: how verdicts are found ([`crate::verdict`]), how text looks ([`crate::summary`]).

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::child::{Child, Report};
use crate::folder::RunFolder;
use crate::glance::Glance;
use crate::live::{Live, LiveFlags};
use crate::record::{Counts, Mark, Seen, cpu_phase};
use crate::refusal::Refusal;
use crate::run::{CpuPhase, RUN_SCHEMA, Run};
use crate::sample::{KernelSample, ProcessSample};
use crate::series::{Row, Series};
use crate::signals::Signals;
use crate::threads::Threads;
use crate::warm::{self, Warm, Warming};
use crate::wire::{ClientReport, ServerReport};
use crate::{frame, lab, limit, origin, report, summary, verdict};
use holdfast_sysctl::machine::cgroup_memory_left;
use holdfast_sysctl::{Role, plan as tune};

pub use crate::plan::{Options, Plan, SpawnRate, WarmUp};

/// Nothing is asked of a starting process for longer than this.
const START_MAX: Duration = Duration::from_secs(60);
/// After an interrupt each process has this long to end in order.
const INTERRUPT_GRACE: Duration = Duration::from_secs(10);
/// A killed process with millions of sockets takes its time to vanish.
const KILL_MAX: Duration = Duration::from_secs(120);
/// How long an earlier run's sockets are waited for.
const QUIET_MAX: Duration = Duration::from_secs(20);
/// Slabs that shrink by less than this in half a second, so many times in a row, are quiet.
const QUIET_BYTES: u64 = 2 << 20;
const QUIET_COUNT: u32 = 4;
/// How long after the hold the reports for the three counts may take.
const COUNTS_MAX: Duration = Duration::from_secs(10);

/// Runs it all, shows it on its way as `flags` want, and prints the result: the summary, or `run.json` if `is_json`. Returns the exit code: 0 passed,
/// 1 fell short, 130 interrupted.
///
/// # Errors
/// When the run could not start; nothing is left behind then.
pub fn bench(options: Options, is_json: bool, flags: LiveFlags) -> Result<u8, Refusal> {
    let plan = Plan::new(options)?;
    let mut live = Live::new(flags).map_err(|line| Refusal::passed_on(&line))?;
    #[expect(clippy::disallowed_methods, reason = "the date in the folder's name")]
    let started = SystemTime::now();
    let folder = RunFolder::create(&plan.runs, started, &plan.folder_name())?;
    for notice in &plan.notices {
        live.say(notice);
    }
    let mut run = Run {
        head: origin::head(
            RUN_SCHEMA,
            "longconn",
            plan.options.label.as_deref(),
            started,
        ),
        asked: plan.asked(),
        ..Run::default()
    };
    run.head.lab = lab::enter(plan.users, &plan.tuning);
    for note in &run.head.lab.notes {
        live.say(note);
    }
    if let Ok(machine) = holdfast_sysctl::Machine::read() {
        for shortfall in tune::shortfalls(&machine, Role::Both, run.asked.users) {
            live.say(shortfall);
        }
    }

    let is_interrupted = load(&plan, &folder, live, &mut run).inspect_err(|_| folder.discard())?;
    verdict::judge(&mut run);
    run.head.limits = limit::of_longconn(&run);
    let is_written = frame::leave(&run, &folder, &plan.runs);
    frame::print_result(&run, is_json, || summary::page(&run, folder.path()));
    report::leave(folder.path());
    Ok(frame::exit_code(
        run.head.verdict,
        is_interrupted,
        is_written,
    ))
}

/// The asynchronous part; true if it was interrupted.
fn load(plan: &Plan, folder: &RunFolder, live: Live, run: &mut Run) -> Result<bool, Refusal> {
    frame::runtime()?.block_on(async {
        let mut flow = Flow::new(plan, folder, live).await?;
        flow.seen.tcp_mem_pages = run.head.machine.tcp_mem_pages;
        let ended = flow.load().await;
        flow.end().await;
        flow.live.finish();
        match ended {
            Ended::Refused(refusal) => Err(refusal),
            Ended::Whole | Ended::Short => {
                flow.seen.fill(
                    run,
                    plan,
                    folder,
                    flow.server.as_ref(),
                    flow.client.as_ref(),
                );
                let is_interrupted = flow.interrupt_count > 0;
                flow.leave().await;
                Ok(is_interrupted)
            }
        }
    })
}

/// How the loaded part ended; the reasons are among the incidents.
enum Ended {
    /// All phases went through.
    Whole,
    /// Something ended it before.
    Short,
    /// A process would not start and said why.
    Refused(Refusal),
}

struct Flow<'a> {
    plan: &'a Plan,
    folder: &'a RunFolder,
    live: Live,
    phase: &'static str,
    hold_until: Option<Instant>,
    server: Option<Child<ServerReport>>,
    client: Option<Child<ClientReport>>,
    notify: Rc<Notify>,
    ticker: Interval,
    signals: Signals,
    interrupt_count: u32,
    interrupted_at: Option<Instant>,
    series: Option<Series>,
    warming: Option<Warming>,
    seen: Seen,
}

impl<'a> Flow<'a> {
    async fn new(plan: &'a Plan, folder: &'a RunFolder, live: Live) -> Result<Self, Refusal> {
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
            seen: Seen::new(KernelSample::take()),
        })
    }

    /// The run from the server's start to the three counts.
    async fn load(&mut self) -> Ended {
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
        let mut before = KernelSample::take().slab_bytes;
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
            let now = KernelSample::take().slab_bytes;
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

    fn counts_at(&self, mark: &Mark) -> Counts {
        let server_open = self.server_report().map_or(0, |r| r.open_now);
        self.seen.counts_at(mark, server_open)
    }

    /// Ends client, then server, each in order if it can; takes their last reports. Never fails, always ends.
    async fn end(&mut self) {
        self.phase = "close";
        if self.seen.counts.is_none() {
            // A short run: what was open before anything is closed.
            let mark = self.mark();
            self.seen.counts = Some(self.counts_at(&mark));
            self.seen.cut = Some(mark);
        }
        let close_max = self.plan.close_max();
        if let Some(client) = &self.client {
            client.signal(Signal::SIGTERM);
        }
        if self.interrupt_count > 0
            && let Some(server) = &self.server
        {
            server.signal(Signal::SIGTERM);
        }
        self.until_done(close_max, |flow| end_state(flow.client.as_ref()))
            .await;
        if let Some(server) = &self.server {
            server.signal(Signal::SIGTERM);
        }
        self.until_done(close_max, |flow| end_state(flow.server.as_ref()))
            .await;
        self.seen.latest = self.mark();
        self.phase = "done";
        self.add_row(None).await;
    }

    /// Waits for one child; kills it when time is up, after an interrupt sooner, at a second interrupt at once.
    async fn until_done(&mut self, close_max: Duration, state: impl Fn(&Self) -> EndState) {
        let started = Instant::now();
        let mut killed_at: Option<Instant> = None;
        loop {
            let now = state(self);
            if now.is_done {
                return;
            }
            let mut until = started + close_max;
            if let Some(at) = self.interrupted_at {
                until = until.min(at + INTERRUPT_GRACE);
            }
            match killed_at {
                None if Instant::now() >= until || self.interrupt_count > 1 => {
                    self.seen.incidents.push(format!(
                        "the {} did not end within {:.0} s and was killed",
                        now.name,
                        started.elapsed().as_secs_f64()
                    ));
                    self.kill(now.name);
                    killed_at = Some(Instant::now());
                }
                Some(at) if at.elapsed() > KILL_MAX => {
                    self.seen.incidents.push(format!(
                        "the {} did not vanish within {} s of its kill",
                        now.name,
                        KILL_MAX.as_secs()
                    ));
                    return;
                }
                _ => {}
            }
            self.step().await;
        }
    }

    fn kill(&self, name: &str) {
        match (&self.server, &self.client) {
            (Some(server), _) if name == server.name => server.signal(Signal::SIGKILL),
            (_, Some(client)) => client.signal(Signal::SIGKILL),
            _ => {}
        }
    }

    async fn step(&mut self) {
        self.step_within(Duration::from_millis(50)).await;
    }

    /// Waits for a second's tick, a line, a signal or the time given (at most 50 ms), and takes note of what came.
    async fn step_within(&mut self, time: Duration) {
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
                    ProcessSample::take(client.pid()).filter(|p| p.rss_bytes > 0);
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

    fn glance(&mut self) {
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

    async fn add_row(&mut self, cores: Option<CpuPhase>) {
        let server_report = self.server_report();
        let row = Row {
            at_seconds: self
                .seen
                .latest
                .at
                .duration_since(self.seen.started)
                .as_secs_f64(),
            phase: self.phase,
            kernel: &self.seen.latest.kernel,
            cores,
            cgroup_left_bytes: self.seen.latest.cgroup_left_bytes,
            server: self.seen.latest.server.as_ref(),
            client: self.seen.latest.client.as_ref(),
            server_report: server_report.as_ref(),
            client_report: self.seen.latest.client_report.as_ref(),
        };
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

    fn mark(&self) -> Mark {
        let server = self.server.as_ref().map(Child::pid);
        let client = self.client.as_ref().map(Child::pid);
        let threads = |pid: Option<u32>| pid.map(Threads::take).unwrap_or_default();
        Mark {
            at: Instant::now(),
            kernel: KernelSample::take(),
            server: server.and_then(ProcessSample::take),
            client: client.and_then(ProcessSample::take),
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

    fn server_report(&self) -> Option<ServerReport> {
        self.server.as_ref().and_then(|s| s.heard().latest.clone())
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

    /// Closes the series, leaves the final reports beside the record and removes empty logs.
    async fn leave(mut self) {
        if let Some(series) = self.series.take() {
            let _ = series.close().await;
        }
        if let Some(server) = &self.server {
            leave_child(self.folder, server, "server.json");
        }
        if let Some(client) = &self.client {
            leave_child(self.folder, client, "client.json");
        }
    }
}

fn leave_child<R: Report>(folder: &RunFolder, child: &Child<R>, file: &str) {
    child.leave(folder, file);
    if child.exit().is_none_or(|status| !status.success()) {
        for line in child.stderr_tail(10) {
            eprintln!("{}: {line}", child.name);
        }
    }
    child.tidy();
}

struct EndState {
    name: &'static str,
    is_done: bool,
}

fn end_state<R: Report>(child: Option<&Child<R>>) -> EndState {
    child.map_or(
        EndState {
            name: "",
            is_done: true,
        },
        |c| EndState {
            name: c.name,
            is_done: c.is_done(),
        },
    )
}

/// A process that exits with 2 before its first report was asked for something it cannot do: its words stand.
fn refused_start<R: Report>(child: Option<&Child<R>>) -> Option<Ended> {
    let child = child?;
    let is_refusal =
        child.is_done() && child.exit()?.code() == Some(2) && child.heard().latest.is_none();
    if !is_refusal {
        return None;
    }
    let lines = child.stderr_tail(20);
    let line = lines
        .iter()
        .find(|line| line.starts_with("error"))
        .or(lines.last());
    Some(Ended::Refused(match line {
        Some(line) => Refusal::passed_on(line),
        None => Refusal::new(
            format!("the {} would not start and did not say why", child.name),
            &child.command,
        ),
    }))
}

fn ended_early<R: Report>(child: Option<&Child<R>>, phase: &str) -> Option<String> {
    let child = child.filter(|c| c.is_done())?;
    let tail = child
        .stderr_tail(1)
        .pop()
        .map_or(String::new(), |line| format!(": {line}"));
    Some(format!(
        "the {} {} during {phase}{tail}",
        child.name,
        child.end_in_words()
    ))
}

fn cannot_start(program: &std::path::Path, e: &std::io::Error) -> Refusal {
    Refusal::new(
        format!("{} cannot be started: {e}", program.display()),
        "cargo build --release",
    )
}
