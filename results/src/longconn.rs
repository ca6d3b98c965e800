//! One run of `longconn`, top to bottom.
//!
//! Purpose: `plan -> folder -> lab -> server -> baseline -> client -> ramp -> hold -> three counts -> client ends ->
//! server ends -> record -> verdict`. [`Flow::load`] reads as that line.
//! Invariants: every wait is bounded. Whatever happens after the server's start, both processes are ended and waited
//! for, in order, and a record is written. One thread: a namespace is entered before the runtime starts.
//! Must not know: how verdicts are found ([`crate::verdict`]), how text looks ([`crate::summary`]).

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::child::{Child, Report, shell_line};
use crate::folder::{RunFolder, rfc3339, workspace};
use crate::lab;
use crate::refusal::Refusal;
use crate::run::{
    Asked, Connections, Cpu, CpuPhase, Hold, Kernel, Latencies, Machine, Memory, Messages,
    ProcessRecord, Processes, RUN_SCHEMA, Ramp, Rlimit, Run, Verdict,
};
use crate::sample::{KernelSample, ProcessSample};
use crate::series::{Row, Series};
use crate::summary::{self, Glance, Progress};
use crate::verdict;
use crate::wire::{ClientReport, ServerReport};

pub use crate::plan::{Options, Plan, SpawnRate};

/// Nothing is asked of a starting process for longer than this.
const START_MAX: Duration = Duration::from_secs(60);
/// After an interrupt each process has this long to end in order.
const INTERRUPT_GRACE: Duration = Duration::from_secs(10);
/// A killed process with millions of sockets takes its time to vanish.
const KILL_MAX: Duration = Duration::from_secs(120);
/// How long after the hold the reports for the three counts may take.
const COUNTS_MAX: Duration = Duration::from_secs(10);

/// Runs it all and prints the result: the summary, or `run.json` if `is_json`. Returns the exit code: 0 passed,
/// 1 fell short, 130 interrupted.
///
/// # Errors
/// When the run could not start; nothing is left behind then.
pub fn bench(options: Options, is_json: bool) -> Result<u8, Refusal> {
    const FELL_SHORT: u8 = 1;
    const INTERRUPTED: u8 = 130;
    let plan = Plan::new(options)?;
    let started = SystemTime::now();
    let folder = RunFolder::create(&plan.runs, started, &plan.folder_name())?;
    let mut progress = Progress::new();
    for notice in &plan.notices {
        progress.say(notice);
    }
    let mut run = Run {
        schema: RUN_SCHEMA.into(),
        name: "longconn".into(),
        label: plan.options.label.clone(),
        command: command_line(),
        commit: commit(),
        started_at: rfc3339(started),
        machine: machine(),
        asked: asked(&plan),
        ..Run::default()
    };
    run.lab = lab::enter(plan.users, plan.options.is_private);
    for note in &run.lab.notes {
        progress.say(note);
    }

    let is_interrupted = match load(&plan, &folder, progress, &mut run) {
        Ok(is_interrupted) => is_interrupted,
        Err(refusal) => {
            folder.discard();
            return Err(refusal);
        }
    };
    verdict::judge(&mut run);
    let written = folder.write_json("run.json", &run);
    if let Err(e) = &written {
        eprintln!(
            "error: {}: {e}; next: free space there, or choose another folder with --runs DIR",
            folder.file("run.json").display()
        );
    } else if let Err(e) = folder.point_latest() {
        eprintln!(
            "warning: {}/latest could not be pointed at this run: {e}",
            plan.runs.display()
        );
    }
    print_result(&run, &folder, is_json);
    Ok(match run.verdict {
        _ if is_interrupted => INTERRUPTED,
        Verdict::Pass if written.is_ok() => 0,
        _ => FELL_SHORT,
    })
}

fn print_result(run: &Run, folder: &RunFolder, is_json: bool) {
    use std::io::Write;
    let text = if is_json {
        serde_json::to_string_pretty(run).unwrap_or_default() + "\n"
    } else {
        summary::page(run, folder.path())
    };
    // A closed pipe is the reader's choice; the record is on disk.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The asynchronous part; true if it was interrupted.
fn load(
    plan: &Plan,
    folder: &RunFolder,
    progress: Progress,
    run: &mut Run,
) -> Result<bool, Refusal> {
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(|e| {
        Refusal::new(
            format!("io_uring cannot be set up: {e} (kernel.io_uring_disabled, a seccomp filter, or a kernel before 5.11)"),
            "sysctl -w kernel.io_uring_disabled=0",
        )
    })?;
    runtime.block_on(async {
        let mut flow = Flow::new(plan, folder, progress).await?;
        let ended = flow.load().await;
        flow.end().await;
        flow.progress.finish();
        match ended {
            Ended::Refused(refusal) => Err(refusal),
            Ended::Whole | Ended::Short => {
                flow.record(run);
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

/// Everything known at one moment that a phase begins or ends with.
#[derive(Debug, Clone)]
struct Mark {
    at: Instant,
    kernel: KernelSample,
    server: Option<ProcessSample>,
    client: Option<ProcessSample>,
    client_report: Option<ClientReport>,
}

/// The three counts, taken together at the end of the hold, and who counted.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    client: u64,
    server: u64,
    kernel: u64,
    kernel_sockets: u64,
}

struct Flow<'a> {
    plan: &'a Plan,
    folder: &'a RunFolder,
    progress: Progress,
    started: Instant,
    phase: &'static str,
    server: Option<Child<ServerReport>>,
    client: Option<Child<ClientReport>>,
    notify: Rc<Notify>,
    ticker: Interval,
    signals: [SignalStream; 3],
    interrupt_count: u32,
    interrupted_at: Option<Instant>,
    series: Option<Series>,
    latest: Mark,
    baseline: Option<Mark>,
    ramp_start: Option<Mark>,
    hold_start: Option<Mark>,
    hold_end: Option<Mark>,
    counts: Option<Counts>,
    available_bytes_min: u64,
    time_wait_max: u64,
    client_base: Option<ProcessSample>,
    incidents: Vec<String>,
}

impl<'a> Flow<'a> {
    async fn new(
        plan: &'a Plan,
        folder: &'a RunFolder,
        progress: Progress,
    ) -> Result<Self, Refusal> {
        let fail = |what: &str, e: std::io::Error| {
            Refusal::new(format!("{what}: {e}"), "holdfast-bench longconn --runs DIR")
        };
        let listen = |kind| signal(kind).map_err(|e| fail("signals", e));
        let signals = [
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ];
        let series = Series::create(&folder.file("series.csv"))
            .await
            .map_err(|e| fail("series.csv", e))?;
        let mut ticker = interval(Duration::from_secs(1));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let now = Instant::now();
        let kernel = KernelSample::take();
        Ok(Self {
            plan,
            folder,
            progress,
            started: now,
            phase: "start",
            server: None,
            client: None,
            notify: Rc::new(Notify::new()),
            ticker,
            signals,
            interrupt_count: 0,
            interrupted_at: None,
            series: Some(series),
            available_bytes_min: kernel.mem_available_bytes,
            time_wait_max: 0,
            latest: Mark {
                at: now,
                kernel,
                server: None,
                client: None,
                client_report: None,
            },
            baseline: None,
            ramp_start: None,
            hold_start: None,
            hold_end: None,
            counts: None,
            client_base: None,
            incidents: Vec::new(),
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
        self.baseline = Some(self.mark());
        if let Err(refusal) = self.start_client() {
            return Ended::Refused(refusal);
        }
        self.phase = "ramp";
        self.ramp_start = Some(self.mark());
        if let Some(ended) = self.until_ramped().await {
            return ended;
        }
        self.phase = "hold";
        self.hold_start = Some(self.mark());
        self.glance(0.0, 0.0, true);
        if let Some(ended) = self.until_held().await {
            return ended;
        }
        self.count_thrice().await
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
        let until = Instant::now() + self.plan.hold;
        while Instant::now() < until {
            if let Some(ended) = self.interrupted() {
                return Some(ended);
            }
            if let Some(ended) = self.somebody_ended() {
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
            if let Some(ended) = self.interrupted() {
                return ended;
            }
            if let Some(ended) = self.somebody_ended() {
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
        self.counts = Some(self.counts_at(&mark));
        self.hold_end = Some(mark);
        Ended::Whole
    }

    fn counts_at(&self, mark: &Mark) -> Counts {
        let base = self.baseline.as_ref().map_or(0, |m| m.kernel.established);
        let kernel_sockets = mark.kernel.established.saturating_sub(base);
        Counts {
            client: mark.client_report.as_ref().map_or(0, |r| r.open_now),
            server: self.server_report().map_or(0, |r| r.open_now),
            // Both ends are here, so a connection counts twice; the verdict sees an odd socket by the other figure.
            kernel: kernel_sockets / 2,
            kernel_sockets,
        }
    }

    /// Ends client, then server, each in order if it can; takes their last reports. Never fails, always ends.
    async fn end(&mut self) {
        self.phase = "close";
        if self.counts.is_none() {
            // A short run: what was open before anything is closed.
            let mark = self.mark();
            self.counts = Some(self.counts_at(&mark));
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
        self.latest = self.mark();
        self.phase = "done";
        self.add_row(0.0).await;
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
                    self.incidents.push(format!(
                        "the {} did not end within {:.0} s and was killed",
                        now.name,
                        started.elapsed().as_secs_f64()
                    ));
                    self.kill(now.name);
                    killed_at = Some(Instant::now());
                }
                Some(at) if at.elapsed() > KILL_MAX => {
                    self.incidents.push(format!(
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
        let [interrupt, terminate, hangup] = &mut self.signals;
        let mut is_tick = false;
        let mut is_signal = false;
        tokio::select! {
            _ = interrupt.recv() => is_signal = true,
            _ = terminate.recv() => is_signal = true,
            _ = hangup.recv() => is_signal = true,
            _ = self.ticker.tick() => is_tick = true,
            () = self.notify.notified() => {}
            () = sleep(time.min(Duration::from_millis(50))) => {}
        }
        if is_signal {
            self.interrupt_count += 1;
            if self.interrupted_at.is_none() {
                self.interrupted_at = Some(Instant::now());
                self.incidents.push("interrupted".into());
                self.progress
                    .say("interrupted: closing in order (once more: kill)");
            }
        }
        if let Some(server) = &mut self.server {
            server.reap();
        }
        if let Some(client) = &mut self.client {
            client.reap();
            if self.client_base.is_none() {
                self.client_base = ProcessSample::take(client.pid()).filter(|p| p.rss_bytes > 0);
            }
        }
        if is_tick {
            self.tick().await;
        }
    }

    /// One second's sample: series, progress, extremes.
    async fn tick(&mut self) {
        let now = self.mark();
        let before = std::mem::replace(&mut self.latest, now);
        let k = &self.latest.kernel;
        self.available_bytes_min = self.available_bytes_min.min(k.mem_available_bytes);
        self.time_wait_max = self.time_wait_max.max(k.tcp_tw);
        let busy_percent = k.busy_percent_since(&before.kernel);
        let per_second =
            |f: fn(&ClientReport) -> u64| match (&before.client_report, &self.latest.client_report)
            {
                (Some(a), Some(b)) if b.at_us > a.at_us => {
                    f(b).saturating_sub(f(a)) as f64 / ((b.at_us - a.at_us) as f64 / 1e6)
                }
                _ => 0.0,
            };
        let (opened, received) = (
            per_second(|r| r.opened),
            per_second(|r| r.messages_received),
        );
        if self.phase != "start" {
            self.glance(opened, received, false);
        }
        self.add_row(busy_percent).await;
    }

    fn glance(&mut self, opened_per_second: f64, messages_per_second: f64, is_change: bool) {
        let heard = self.client.as_ref().map(Child::heard);
        let client = heard.as_ref().and_then(|h| h.latest.as_ref());
        let glance = Glance {
            phase: self.phase,
            seconds: self.started.elapsed().as_secs_f64(),
            open: client.map_or(0, |r| r.open_now),
            asked: self.plan.users,
            opened_per_second,
            messages_per_second,
            failed: client.map_or(0, |r| r.failed.values().sum()),
            available_bytes: self.latest.kernel.mem_available_bytes,
        };
        self.progress.show(&glance, is_change);
    }

    async fn add_row(&mut self, busy_percent: f64) {
        let server_report = self.server_report();
        let row = Row {
            at_seconds: self.latest.at.duration_since(self.started).as_secs_f64(),
            phase: self.phase,
            kernel: &self.latest.kernel,
            busy_percent,
            server: self.latest.server.as_ref(),
            client: self.latest.client.as_ref(),
            server_report: server_report.as_ref(),
            client_report: self.latest.client_report.as_ref(),
        };
        let line = row.line();
        if let Some(series) = &mut self.series
            && let Err(e) = series.append(line).await
        {
            self.incidents
                .push(format!("series.csv could not be written: {e}"));
            self.series = None;
        }
    }

    fn mark(&self) -> Mark {
        Mark {
            at: Instant::now(),
            kernel: KernelSample::take(),
            server: self
                .server
                .as_ref()
                .and_then(|c| ProcessSample::take(c.pid())),
            client: self
                .client
                .as_ref()
                .and_then(|c| ProcessSample::take(c.pid())),
            client_report: self.client.as_ref().and_then(|c| c.heard().latest.clone()),
        }
    }

    fn server_report(&self) -> Option<ServerReport> {
        self.server.as_ref().and_then(|s| s.heard().latest.clone())
    }

    fn short(&mut self, incident: String) -> Ended {
        self.incidents.push(incident);
        Ended::Short
    }

    fn interrupted(&self) -> Option<Ended> {
        (self.interrupt_count > 0).then_some(Ended::Short)
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
        self.incidents.extend(ends);
        Some(Ended::Short)
    }

    /// Fills in everything measured.
    fn record(&self, run: &mut Run) {
        run.seconds = round(self.started.elapsed().as_secs_f64(), 3);
        run.incidents = self.incidents.clone();
        for garbled in [garbled(self.server.as_ref()), garbled(self.client.as_ref())]
            .into_iter()
            .flatten()
        {
            run.incidents.push(garbled);
        }
        let histograms = self.folder.file("histograms.hlog");
        if self
            .client
            .as_ref()
            .is_some_and(|c| c.heard().final_raw.is_some())
            && !histograms.exists()
        {
            run.incidents.push("the client left no histograms".into());
        }
        let server = self.server_report().unwrap_or_default();
        let client = self
            .client
            .as_ref()
            .and_then(|c| c.heard().latest.clone())
            .unwrap_or_default();
        let counts = self.counts.unwrap_or_default();
        run.connections = connections(self.plan.users, &counts, &server, &client);
        run.ramp = Ramp {
            seconds: round(client.ramp_seconds, 4),
            per_second: if client.ramp_seconds > 0.0 {
                round(client.opened as f64 / client.ramp_seconds, 1)
            } else {
                0.0
            },
        };
        run.hold = Hold {
            seconds: self.hold_seconds(),
        };
        run.messages = Messages {
            sent: server.is_final.then_some(server.messages_sent),
            received: client.messages_received,
            wrong: client.messages_wrong,
            missed: client.messages_missed,
            per_second: self.messages_per_second(),
            due_per_second: round(
                counts.client as f64 / self.plan.options.every.as_secs_f64(),
                1,
            ),
        };
        run.latency_us = Latencies {
            connect: client.connect_us,
            lateness: client.lateness_us,
        };
        run.memory = self.memory(&counts);
        run.cpu = self.cpu();
        run.kernel = self.kernel();
        run.processes = Processes {
            server: process_record(
                self.server.as_ref(),
                server.thread_count,
                server.shard_count,
                &server.anomalies,
            ),
            client: process_record(
                self.client.as_ref(),
                client.thread_count,
                client.shard_count,
                &client.anomalies,
            ),
        };
    }

    fn hold_seconds(&self) -> Option<f64> {
        let (start, end) = (self.hold_start.as_ref()?, self.hold_end.as_ref()?);
        Some(round(end.at.duration_since(start.at).as_secs_f64(), 3))
    }

    /// Received a second between the reports nearest to the hold's two ends, by the client's own clock.
    fn messages_per_second(&self) -> Option<f64> {
        let a = self.hold_start.as_ref()?.client_report.as_ref()?;
        let b = self.hold_end.as_ref()?.client_report.as_ref()?;
        let seconds = b.at_us.checked_sub(a.at_us).filter(|us| *us > 0)? as f64 / 1e6;
        Some(round(
            b.messages_received.saturating_sub(a.messages_received) as f64 / seconds,
            1,
        ))
    }

    fn memory(&self, counts: &Counts) -> Memory {
        let mut memory = Memory {
            available_bytes_min: Some(self.available_bytes_min),
            ..Memory::default()
        };
        let Some(base) = &self.baseline else {
            return memory;
        };
        memory.server_rss_base_bytes = base.server.map(|p| p.rss_bytes);
        memory.client_rss_base_bytes = self.client_base.map(|p| p.rss_bytes);
        memory.slab_base_bytes = Some(base.kernel.slab_bytes);
        let Some(end) = &self.hold_end else {
            return memory;
        };
        memory.server_rss_bytes = end.server.map(|p| p.rss_bytes);
        memory.client_rss_bytes = end.client.map(|p| p.rss_bytes);
        memory.slab_bytes = Some(end.kernel.slab_bytes);
        let per = |bytes: f64, n: u64| (n > 0).then(|| round(bytes / n as f64, 2));
        let growth = |now: Option<u64>, base: Option<u64>| Some(now? as f64 - base? as f64);
        memory.server_rss_bytes_per_connection = memory
            .server_rss_bytes
            .and_then(|b| per(b as f64, counts.server));
        memory.client_rss_bytes_per_connection = memory
            .client_rss_bytes
            .and_then(|b| per(b as f64, counts.client));
        memory.server_rss_growth_bytes_per_connection =
            growth(memory.server_rss_bytes, memory.server_rss_base_bytes)
                .and_then(|b| per(b, counts.server));
        memory.client_rss_growth_bytes_per_connection =
            growth(memory.client_rss_bytes, memory.client_rss_base_bytes)
                .and_then(|b| per(b, counts.client));
        memory.slab_bytes_per_pair =
            growth(memory.slab_bytes, memory.slab_base_bytes).and_then(|b| per(b, counts.kernel));
        memory.machine_bytes_per_pair = growth(
            Some(base.kernel.mem_available_bytes),
            Some(end.kernel.mem_available_bytes),
        )
        .and_then(|b| per(b, counts.kernel));
        memory
    }

    fn cpu(&self) -> Cpu {
        let seconds = |cpu: Option<Duration>| round(cpu.unwrap_or_default().as_secs_f64(), 3);
        let ramp_end = self.hold_start.as_ref();
        Cpu {
            server_seconds: seconds(self.server.as_ref().map(Child::cpu)),
            client_seconds: seconds(self.client.as_ref().map(Child::cpu)),
            machine_busy_percent: cpu_phase(self.ramp_start.as_ref(), self.hold_end.as_ref())
                .map(|p| p.machine_busy_percent),
            ramp: cpu_phase(self.ramp_start.as_ref(), ramp_end),
            hold: cpu_phase(ramp_end, self.hold_end.as_ref()),
        }
    }

    fn kernel(&self) -> Kernel {
        let Some(base) = &self.baseline else {
            return Kernel::default();
        };
        let growth = |(name, now): (&String, &u64)| {
            (name.clone(), now.saturating_sub(base.kernel.counter(name)))
        };
        Kernel {
            counters: self.latest.kernel.counters.iter().map(growth).collect(),
            time_wait_max: self.time_wait_max,
            established_base: base.kernel.established,
        }
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
    if let Some(raw) = &child.heard().final_raw
        && let Err(e) = folder.write_json(file, raw)
    {
        eprintln!("warning: {}: {e}", folder.file(file).display());
    }
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

fn garbled<R: Report>(child: Option<&Child<R>>) -> Option<String> {
    let child = child?;
    let line = child.heard().not_understood.clone()?;
    Some(format!(
        "the {} printed a line that is no report: {line}",
        child.name
    ))
}

fn cannot_start(program: &std::path::Path, e: &std::io::Error) -> Refusal {
    Refusal::new(
        format!("{} cannot be started: {e}", program.display()),
        "cargo build --release",
    )
}

fn connections(
    asked: u64,
    counts: &Counts,
    server: &ServerReport,
    client: &ClientReport,
) -> Connections {
    let ended_otherwise: u64 = client
        .ended
        .iter()
        .filter(|(class, _)| *class != "held")
        .map(|(_, n)| n)
        .sum();
    Connections {
        asked,
        opened: client.opened,
        failed: nonzero(&client.failed),
        held_at_end: counts.client,
        // Without a final report nobody can say that any of them was held.
        lost: if client.is_final {
            ended_otherwise
        } else {
            client.opened
        },
        ended: nonzero(&client.ended),
        server_open: counts.server,
        kernel_established: counts.kernel,
        kernel_established_sockets: counts.kernel_sockets,
        server_accepted: server.accepted,
        server_refused_full: server.refused_full,
        server_accept_failed: nonzero(&server.accept_failed),
        server_closed: nonzero(&server.closed),
    }
}

fn process_record<R: Report>(
    child: Option<&Child<R>>,
    thread_count: usize,
    shard_count: usize,
    anomalies: &BTreeMap<String, u64>,
) -> ProcessRecord {
    let Some(child) = child else {
        return ProcessRecord::default();
    };
    ProcessRecord {
        command: child.command.clone(),
        exit_code: child.exit().and_then(|status| status.code()),
        signal: child.exit().and_then(|status| status.signal()),
        has_final_report: child.heard().final_raw.is_some(),
        thread_count,
        shard_count,
        anomalies: nonzero(anomalies),
    }
}

fn cpu_phase(from: Option<&Mark>, to: Option<&Mark>) -> Option<CpuPhase> {
    let (from, to) = (from?, to?);
    let spent = |a: Option<ProcessSample>, b: Option<ProcessSample>| {
        b.map_or(0.0, |b| {
            b.cpu_seconds() - a.map_or(0.0, |a| a.cpu_seconds())
        })
    };
    Some(CpuPhase {
        seconds: round(to.at.duration_since(from.at).as_secs_f64(), 3),
        server_seconds: round(spent(from.server, to.server), 2),
        client_seconds: round(spent(from.client, to.client), 2),
        machine_busy_percent: round(to.kernel.busy_percent_since(&from.kernel), 1),
    })
}

fn nonzero(map: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    map.iter()
        .filter(|(_, n)| **n > 0)
        .map(|(name, n)| (name.clone(), *n))
        .collect()
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

fn asked(plan: &Plan) -> Asked {
    let o = &plan.options;
    Asked {
        users: plan.users,
        spawn_rate_per_second: match o.rate {
            SpawnRate::Max => None,
            SpawnRate::PerSecond(rate) => Some(rate),
        },
        every_seconds: o.every.as_secs_f64(),
        hold_seconds: plan.hold.as_secs_f64(),
        message: o.message.clone(),
        source: o.source.clone(),
        targets: plan.targets(),
    }
}

fn machine() -> Machine {
    use nix::sys::resource::{Resource, getrlimit};
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = text("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    Machine {
        kernel: text("/proc/sys/kernel/osrelease").trim().to_string(),
        cpu: model.map_or_else(
            || std::env::consts::ARCH.to_string(),
            |(_, model)| model.trim().to_string(),
        ),
        core_count: std::thread::available_parallelism().map_or(0, usize::from),
        memory_bytes: crate::sample::kib_line(&text("/proc/meminfo"), "MemTotal").unwrap_or(0),
        rlimit_nofile: Rlimit { soft, hard },
    }
}

fn command_line() -> String {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_default();
    shell_line(program.as_ref(), &words.collect::<Vec<_>>())
}

/// The commit of the working tree, `-dirty` if tracked files differ, `unknown` without git.
fn commit() -> String {
    let Some(dir) = workspace() else {
        return "unknown".into();
    };
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git")
            .arg("-C")
            .arg(&dir)
            .args(args)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    match (
        git(&["rev-parse", "HEAD"]),
        git(&["status", "--porcelain", "--untracked-files=no"]),
    ) {
        (Some(head), Some(changes)) => head + if changes.is_empty() { "" } else { "-dirty" },
        (Some(head), None) => head,
        _ => "unknown".into(),
    }
}
