//! The event loop of a worker process: messages of the master on one side, users on the other.
//!
//! The process may be several workers to the master. Their wanted users are added up for the
//! [`Runner`], and what it has is divided among them again by [`reporting`].
//! Invariants: of all messages only `quit` ends the process; heartbeats and reports go out whatever
//! the users do; final statistics are sent before `client_stopped` and before `quit`.
//! Must not depend on: rings, the wire format.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use holdfast_engine::allowed_cores;
use holdfast_supervisor::histogram_log::HistogramLog;
use holdfast_telemetry::console::{Console, EXIT_SHORT, Event, Events};
use holdfast_telemetry::live::Snapshot;
use holdfast_telemetry::metrics::Metrics;
use holdfast_telemetry::wire::{WORKER_SCHEMA, WorkerReport};
use rmpv::Value;
use tokio::sync::mpsc::{Receiver, channel};

use super::flags::{Flags, OnMasterLoss};
use super::link::{self, LinkEvent};
use super::master_clock::MasterClock;
use super::message::{self, MasterMessage, Message, SpawnRequest};
use super::process_stats::ProcessStats;
use super::reporting;
use super::runner::Runner;
use super::session::{Answer, SILENCE_MAX, State, WorkerSession};
use super::user_class::UserClass;

const STATS_INTERVAL: Duration = Duration::from_secs(3);
/// How long users may take to end before the final statistics: after `quit` the master reads for
/// half a second.
const FINAL_STATS_DELAY_MAX: Duration = Duration::from_millis(300);
/// How long the link of one worker may take to send its last messages.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// Events of links that may wait for this loop.
const QUEUE_LEN: usize = 256;

/// The process is ending.
#[derive(Debug, Clone, Copy)]
struct Quitting {
    since: Instant,
    /// Final statistics and `quit` were sent.
    is_reported: bool,
}

/// Everything of a worker process.
pub struct Worker {
    events: Events,
    links: Receiver<(usize, LinkEvent)>,
    sessions: Vec<WorkerSession>,
    runner: Runner,
    clock: MasterClock,
    process_stats: ProcessStats,
    on_master_loss: OnMasterLoss,
    master: String,
    console: Console,
    metrics: Metrics,
    /// The last second, by the master's clock, whose requests were collected.
    collected_second: i64,
    started: Instant,
    last_stats: Instant,
    last_log: Option<Instant>,
    quitting: Option<Quitting>,
}

impl Worker {
    /// Starts the links of all workers. Inside a runtime.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub fn start(
        flags: Flags,
        console: Console,
        mut metrics: Metrics,
        histogram_log: Option<HistogramLog>,
    ) -> Result<Self, anyhow::Error> {
        metrics.serve()?;
        let events = Events::new(&console, false)?;
        let (sender, links) = channel(QUEUE_LEN);
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let sessions = (0..flags.workers as usize).map(|number| {
            let id = flags.identity.clone().filter(|_| number == 0);
            let (master, sender) = (flags.master.clone(), sender.clone());
            WorkerSession::new(host.trim(), id, |id| {
                link::start(master, id, number, sender)
            })
        });
        let sessions = sessions.collect();
        let report = WorkerReport {
            schema: WORKER_SCHEMA.to_owned(),
            master: flags.master.clone(),
            ..WorkerReport::default()
        };
        let clock = MasterClock::default();
        let runner = Runner::new(
            flags.launch,
            flags.classes,
            flags.users_max,
            histogram_log,
            report,
            clock.now(),
        );
        Ok(Worker {
            events,
            links,
            sessions,
            runner,
            clock,
            process_stats: ProcessStats::new(allowed_cores().len()),
            on_master_loss: flags.on_master_loss,
            master: flags.master,
            console,
            metrics,
            collected_second: 0,
            started: Instant::now(),
            last_stats: Instant::now(),
            last_log: None,
            quitting: None,
        })
    }

    /// Serves the master until it sends `quit` or a signal arrives.
    ///
    /// # Errors
    /// A file that cannot be written; the final report was printed all the same.
    pub async fn serve(&mut self) -> Result<ExitCode, anyhow::Error> {
        loop {
            tokio::select! {
                event = self.events.next(&mut self.console) => match event {
                    Event::Tick | Event::Upgrade => self.tick(),
                    // The second signal does not wait for a graceful end.
                    Event::Stop if self.quitting.is_some() => self.runner.abort(),
                    Event::Stop => self.quit(),
                },
                Some((number, event)) = self.links.recv() => self.on_link(number, event),
            }
            if self.quitting.is_some_and(|q| q.is_reported) && self.runner.is_idle() {
                break;
            }
        }
        for session in &self.sessions {
            if let Some(is_flushed) = session.flush() {
                let _ = tokio::time::timeout(FLUSH_MAX, is_flushed).await;
            }
        }
        let logged = self.runner.finish();
        let report = self.report(true);
        let printed = self.console.finish(&report, self.runner.summary());
        logged?;
        printed.map_err(anyhow::Error::msg)?;
        Ok(match self.runner.has_failed() {
            true => ExitCode::from(EXIT_SHORT),
            false => ExitCode::SUCCESS,
        })
    }

    fn on_link(&mut self, number: usize, event: LinkEvent) {
        let session = &mut self.sessions[number];
        match event {
            LinkEvent::Connected => session.on_connected(&mut self.process_stats),
            LinkEvent::Disconnected(reason) => {
                let problem = match session.is_registered() {
                    true => "lost the connection to the master",
                    false => "cannot reach the master",
                };
                self.runner
                    .log
                    .line(&format!("{problem} at {}: {reason}", self.master));
                session.on_disconnected();
            }
            LinkEvent::Message(bytes) => {
                let message = Message::decode(&bytes);
                match message.and_then(|message| MasterMessage::from_message(&message)) {
                    Ok(message) => self.on_message(number, message),
                    Err(e) => self
                        .runner
                        .log
                        .line(&format!("a message no Locust master sends: {e}")),
                }
            }
        }
    }

    fn on_message(&mut self, number: usize, message: MasterMessage) {
        let session = &mut self.sessions[number];
        let was_registered = session.is_registered();
        session.on_message(&message);
        if !was_registered && session.is_registered() {
            self.runner
                .log
                .line(&format!("registered with the master at {}", self.master));
        }
        match message {
            MasterMessage::Ack | MasterMessage::Heartbeat => {}
            MasterMessage::Spawn(request) => self.on_spawn(number, request),
            MasterMessage::SpawningComplete => {
                if self.runner.options.resets_stats() {
                    let now = self.clock.now();
                    self.runner.collect_all(now, self.collected_second);
                    self.runner.stats.reset(now);
                }
            }
            MasterMessage::Stop => {
                session.clean_up();
                self.apply_targets();
            }
            MasterMessage::Quit => self.quit(),
            MasterMessage::Reconnect => session.reconnect(),
            MasterMessage::UpdateUserClass(class, host) => {
                if let (Some(class), Some(host)) = (UserClass::by_name(&class), host) {
                    self.runner.options.class_hosts.insert(class, host);
                }
            }
            MasterMessage::Custom(kind) => self
                .runner
                .log
                .line(&format!("ignored a message of the unknown type '{kind}'")),
        }
    }

    fn on_spawn(&mut self, number: usize, request: SpawnRequest) {
        let session = &mut self.sessions[number];
        session.send(("spawning", Value::Nil));
        if !session.is_newer(&request) || self.quitting.is_some() {
            return;
        }
        let is_new_test = self.runner.is_idle();
        if is_new_test {
            self.clock.reset();
        }
        self.clock.observe(request.timestamp);
        let options = &mut self.runner.options;
        (options.arguments, options.host) = (request.options, request.host);
        self.runner.stop_timeout = Duration::from_secs_f64(request.stop_timeout);
        if is_new_test {
            let now = self.clock.now();
            self.runner.begin_test(now);
            self.collected_second = now as i64;
        }
        for class in UserClass::ALL {
            let is_wanted = request.counts.get(class.name()).is_some_and(|n| *n > 0);
            if is_new_test && is_wanted && !self.runner.options.declares(class) {
                self.runner.log.exception(&format!(
                    "the Python tasks of class {0} are not executed: the locustfile does not declare the arguments of this worker's \
                     {0}, which has its own users; next: start the master with client/locust/locustfile.py, or this worker \
                     without {0} in --classes",
                    class.name()
                ));
            }
        }
        session.state = State::Spawning;
        session.target_users.clear();
        for (name, users) in request.counts {
            if let Some(class) = UserClass::by_name(&name) {
                session.target_users.insert(class, users);
            } else if users > 0 {
                let name: String = name.chars().take(64).collect();
                self.runner.log.exception(&format!(
                    "{users} users of class {name} are wanted, which this worker does not have; next: start the master with \
                     client/locust/locustfile.py"
                ));
            }
        }
        self.apply_targets();
        // Locust's own workers answer with their users after each step of a ramp. Not all users of
        // this step have started; another answer follows when they have (reporting::report_states).
        let users = reporting::present_users(&self.sessions, &self.runner);
        self.sessions[number].send(message::spawning_complete(&users[number]));
    }

    /// Has the runner start or stop users until there are as many as the master wants from all
    /// workers together.
    fn apply_targets(&mut self) {
        let mut sums: BTreeMap<UserClass, u64> = BTreeMap::new();
        for (class, users) in self.sessions.iter().flat_map(|s| &s.target_users) {
            let sum = sums.entry(*class).or_default();
            *sum = sum.saturating_add(*users);
        }
        if sums.is_empty() {
            self.runner.stop(self.runner.stop_timeout);
        } else {
            self.runner.set_target_users(sums, &mut self.console);
        }
    }

    fn tick(&mut self) {
        for number in 0..self.sessions.len() {
            let session = &mut self.sessions[number];
            if session.is_newly_lost() {
                self.runner.log.line(&format!(
                    "the master at {} has sent nothing for {} seconds; trying again",
                    self.master,
                    SILENCE_MAX.as_secs()
                ));
                if self.on_master_loss == OnMasterLoss::Stop && session.state != State::Ready {
                    session.clean_up();
                    self.apply_targets();
                }
            }
            if self.sessions[number].tick(&mut self.process_stats) == Answer::Missing {
                self.runner.log.line(&format!(
                    "the master at {} speaks ZeroMQ's protocol, but has not answered client_ready for {} seconds; next: check that \
                     a Locust master listens there, and see its log",
                    self.master,
                    SILENCE_MAX.as_secs()
                ));
            }
        }
        let now = self.clock.now();
        // The threads publish their figures five times a second, so those of a second are complete
        // a fifth of a second later.
        let second = (now - 0.2).floor() as i64;
        if second > self.collected_second {
            self.runner.collect_all(now, self.collected_second);
            self.collected_second = second;
            let report = self.report(false);
            self.metrics.update(&report, &[], std::iter::empty());
            let seconds = self.started.elapsed().as_secs_f64();
            self.console.progress(&report, || Snapshot {
                seconds,
                ..Snapshot::from(&report)
            });
        }
        self.runner
            .tick(now, self.collected_second, &mut self.console);
        reporting::report_states(&mut self.sessions, &mut self.runner, now);
        if self.last_stats.elapsed() >= STATS_INTERVAL {
            self.last_stats = Instant::now();
            reporting::report_stats(&self.sessions, &mut self.runner, now);
        }
        reporting::report_log(&self.sessions, &mut self.runner, &mut self.last_log);
        if let Some(quitting) = self.quitting
            && !quitting.is_reported
            && (self.runner.is_idle() || quitting.since.elapsed() >= FINAL_STATS_DELAY_MAX)
        {
            self.report_end(now);
        }
    }

    /// Starts to end all users and then the process.
    fn quit(&mut self) {
        if self.quitting.is_none() {
            self.quitting = Some(Quitting {
                since: Instant::now(),
                is_reported: false,
            });
            let sessions = self.sessions.iter_mut();
            sessions.for_each(|session| session.target_users.clear());
            self.runner.stop(Duration::ZERO);
        }
    }

    /// Sends the final statistics, and `quit`.
    fn report_end(&mut self, now: f64) {
        self.runner.collect_all(now, self.collected_second);
        reporting::report_stats(&self.sessions, &mut self.runner, now);
        reporting::report_log(&self.sessions, &mut self.runner, &mut self.last_log);
        for session in &self.sessions {
            session.send(("quit", Value::Nil));
        }
        if let Some(quitting) = &mut self.quitting {
            quitting.is_reported = true;
        }
    }

    /// The final figures of all tests, or those of the last test until now.
    fn report(&self, is_final: bool) -> WorkerReport {
        let all = &self.runner.report;
        let from = if is_final {
            0
        } else {
            all.runs.len().saturating_sub(1)
        };
        let users = UserClass::ALL.iter();
        WorkerReport {
            is_final,
            schema: all.schema.clone(),
            master: all.master.clone(),
            runs: all.runs[from..].to_vec(),
            workers: self.sessions.len(),
            workers_known: self.sessions.iter().filter(|s| s.is_registered()).count(),
            users_now: users.map(|class| self.runner.user_count(*class)).sum(),
        }
    }
}
