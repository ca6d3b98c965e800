//! A worker process: the master's orders on one side, the users on the other.
//!
//! Several workers share the users: what is ordered of them is added up, what there is is shared out, and what requests did is
//! reported by the first of them that the master knows; the master adds up all workers, so its totals are the same.
//! Invariants: nothing the master sends ends the process but `quit`; heartbeats and reports go out whatever the users do; what was
//! done is reported before `client_stopped` and before `quit`.
//! Must not know: rings, how a message looks on the wire.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use holdfast_engine::allowed_cores;
use holdfast_telemetry::console::{Console, EXIT_SHORT, Event, Events};
use holdfast_telemetry::live::Snapshot;
use holdfast_telemetry::metrics::Metrics;
use holdfast_telemetry::wire::{WORKER_SCHEMA, WorkerReport};
use rmpv::Value;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::class::Class;
use super::clock::Clock;
use super::fleet::Fleet;
use super::link::{self, Wish};
use super::message::{self, Message, Order, Spawn};
use super::vitals::Vitals;
use super::worker::{Need, State, Worker};
use super::{Flags, OnMasterLoss};
use holdfast_supervisor::histogram_log::HistogramLog;

/// How often statistics are reported.
const REPORT: Duration = Duration::from_secs(3);
/// How long the last requests may take to be counted when the master quits: it hears for half a second.
const LAST_COUNT: Duration = Duration::from_millis(300);
/// What links have to say and was not heard yet.
const QUEUE_COUNT: usize = 256;

/// A worker and its connection.
pub(super) struct Seat {
    pub(super) worker: Worker,
    pub(super) wishes: Sender<Wish>,
}

impl Seat {
    pub(super) fn send(&self, what: (&str, Value)) {
        // A link that takes nothing has been down for long: what is lost with it is said again, or was lost before.
        let _ = self.wishes.try_send(Wish::Send(self.worker.message(what)));
    }
}

/// Everything of a worker process.
pub struct Process {
    events: Events,
    links: Receiver<(usize, link::Event)>,
    pub(super) seats: Vec<Seat>,
    pub(super) fleet: Fleet,
    pub(super) clock: Clock,
    vitals: Vitals,
    on_master_loss: OnMasterLoss,
    master: String,
    console: Console,
    metrics: Metrics,
    /// The last second, of the master's clock, whose requests were gathered.
    second: i64,
    started: Instant,
    reported: Instant,
    pub(super) logged: Option<Instant>,
    /// All is over, since then; the last report was sent.
    quitting: Option<(Instant, bool)>,
}

impl Process {
    /// Starts the links of all workers. Inside a runtime.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub fn start(
        flags: Flags,
        console: Console,
        metrics: Metrics,
        log: Option<HistogramLog>,
    ) -> Result<Self, anyhow::Error> {
        metrics.serve()?;
        let events = Events::new(&console)?;
        let (sender, links) = channel(QUEUE_COUNT);
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let seats = (0..usize::from(flags.workers)).map(|number| {
            let name = flags.identity.clone().filter(|_| number == 0);
            let worker = Worker::new(host.trim().to_owned(), name);
            let (master, id) = (flags.master.clone(), worker.id.clone());
            let wishes = link::start(master, id, number, sender.clone());
            Seat { worker, wishes }
        });
        let report = WorkerReport {
            schema: WORKER_SCHEMA.to_owned(),
            master: flags.master.clone(),
            ..WorkerReport::default()
        };
        let (clock, core_count) = (Clock::default(), allowed_cores().len());
        Ok(Process {
            events,
            links,
            seats: seats.collect(),
            fleet: Fleet::new(
                flags.launch,
                flags.classes,
                flags.users_max,
                log,
                report,
                clock.now(),
            ),
            clock,
            vitals: Vitals::new(core_count),
            on_master_loss: flags.on_master_loss,
            master: flags.master,
            console,
            metrics,
            second: 0,
            started: Instant::now(),
            reported: Instant::now(),
            logged: None,
            quitting: None,
        })
    }

    /// Serves the master until it says `quit`, or a signal does.
    ///
    /// # Errors
    /// A file that cannot be written; the final report was printed all the same.
    pub async fn serve(&mut self) -> Result<ExitCode, anyhow::Error> {
        loop {
            tokio::select! {
                event = self.events.next(&mut self.console) => match event {
                    Event::Tick => self.tick(),
                    // Asked once more, it does not wait for ends in order.
                    Event::Stop if self.quitting.is_some() => self.fleet.cut(),
                    Event::Stop => self.quit(),
                },
                Some((number, event)) = self.links.recv() => self.on_link(number, event),
            }
            if self.quitting.is_some_and(|(_, is_sent)| is_sent) && self.fleet.is_idle() {
                break;
            }
        }
        self.flush().await;
        let logged = self.fleet.finish();
        let report = self.report(true);
        let printed = self.console.finish(&report, self.fleet.summary());
        logged?;
        printed.map_err(anyhow::Error::msg)?;
        Ok(match self.fleet.has_failed() {
            true => ExitCode::from(EXIT_SHORT),
            false => ExitCode::SUCCESS,
        })
    }

    fn on_link(&mut self, number: usize, event: link::Event) {
        let seat = &mut self.seats[number];
        match event {
            link::Event::Up => {
                let needs = seat.worker.on_up();
                self.meet(number, needs);
            }
            link::Event::Down(reason) => {
                if seat.worker.is_known() {
                    self.fleet
                        .journal
                        .say(&format!("the connection to the master was lost: {reason}"));
                }
                seat.worker.on_down();
            }
            link::Event::Message(bytes) => {
                let order =
                    Message::decode(&bytes).and_then(|message| Order::from_message(&message));
                match order {
                    Ok(order) => self.on_order(number, order),
                    Err(e) => self
                        .fleet
                        .journal
                        .say(&format!("a message that is none of a master's: {e}")),
                }
            }
        }
    }

    fn on_order(&mut self, number: usize, order: Order) {
        let seat = &mut self.seats[number];
        let was_known = seat.worker.is_known();
        seat.worker.on_order(&order);
        if !was_known && seat.worker.is_known() {
            self.fleet
                .journal
                .say(&format!("the master at {} knows this worker", self.master));
        }
        match order {
            Order::Ack | Order::Heartbeat => {}
            Order::Spawn(spawn) => self.on_spawn(number, spawn),
            Order::SpawningComplete => {
                if self.fleet.options.resets_stats() {
                    let now = self.clock.now();
                    self.fleet.harvest_all(now, self.second);
                    self.fleet.stats.reset(now);
                }
            }
            Order::Stop => {
                seat.worker.state = State::Cleanup;
                seat.worker.wanted.clear();
                self.order_users();
            }
            Order::Quit => self.quit(),
            Order::Reconnect => {
                seat.worker.on_down();
                self.meet(number, vec![Need::Rebuild]);
            }
            Order::UpdateUserClass(class, host) => {
                if let (true, Some(host)) = (is_ours(&class), host) {
                    self.fleet.options.class_hosts.insert(class, host);
                }
            }
            Order::Custom(kind) => {
                self.fleet.journal.say(&format!(
                    "a message of type '{kind}', which says nothing to this worker"
                ));
            }
        }
    }

    fn on_spawn(&mut self, number: usize, spawn: Spawn) {
        let seat = &mut self.seats[number];
        seat.send(("spawning", Value::Nil));
        if !seat.worker.is_news(&spawn) || self.quitting.is_some() {
            return;
        }
        let is_first = self.fleet.is_idle();
        if is_first {
            self.clock.forget();
        }
        self.clock.hear(spawn.timestamp);
        self.fleet.options.arguments = spawn.options;
        self.fleet.options.host = spawn.host;
        self.fleet.stop_timeout = Duration::from_secs_f64(spawn.stop_timeout);
        if is_first {
            self.fleet.begin(self.clock.now());
            self.second = self.clock.now() as i64;
        }
        let (ours, others): (Vec<_>, Vec<_>) = spawn
            .counts
            .into_iter()
            .partition(|(class, _)| is_ours(class));
        for (class, count) in others.iter().filter(|(_, count)| *count > 0) {
            self.fleet.journal.except(&format!(
                "{count} users of {} were ordered, which this worker does not have; next: start the master with client/locust/locustfile.py",
                class.chars().take(64).collect::<String>()
            ));
        }
        let seat = &mut self.seats[number];
        seat.worker.state = State::Spawning;
        seat.worker.wanted = Class::ALL
            .iter()
            .filter_map(|class| {
                ours.iter()
                    .find(|(name, _)| name == class.name())
                    .map(|(_, count)| (*class, *count))
            })
            .collect();
        self.order_users();
        // As Locust's own workers: users are spawned when they are told to start. The state says how far that is.
        let granted = self.shared_out(|class| self.fleet.granted(class));
        self.seats[number].send(message::spawning_complete(&granted[number]));
    }

    /// Brings the users to what all workers together are to have.
    fn order_users(&mut self) {
        let mut wanted: BTreeMap<Class, u64> = BTreeMap::new();
        for seat in &self.seats {
            for (class, count) in &seat.worker.wanted {
                let sum = wanted.entry(*class).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        if self.seats.iter().all(|seat| seat.worker.wanted.is_empty()) {
            self.fleet.stop(self.fleet.stop_timeout);
        } else {
            self.fleet.order(wanted, &mut self.console);
        }
    }

    fn meet(&mut self, number: usize, needs: Vec<Need>) {
        for need in needs {
            match need {
                Need::Send(what) => self.seats[number].send(what),
                Need::Heartbeat => {
                    let state = self.seats[number].worker.state_name();
                    let beat = message::heartbeat(
                        state,
                        self.vitals.cpu_percent(),
                        self.vitals.memory_bytes(),
                    );
                    self.seats[number].send(beat);
                }
                Need::Rebuild => {
                    let id = self.seats[number].worker.id.clone();
                    let _ = self.seats[number].wishes.try_send(Wish::Rebuild(id));
                }
            }
        }
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        for number in 0..self.seats.len() {
            let worker = &mut self.seats[number].worker;
            if worker.is_newly_lost() {
                self.fleet.journal.say(&format!(
                    "no word from the master at {} for five seconds; trying on",
                    self.master
                ));
                if self.on_master_loss == OnMasterLoss::Stop && worker.state != State::Ready {
                    worker.state = State::Cleanup;
                    worker.wanted.clear();
                    self.order_users();
                }
            }
            let needs = self.seats[number].worker.tick();
            self.meet(number, needs);
        }
        // A thread's figures come five times a second: those of a second are there a fifth of one after it.
        let second = (now - 0.2).floor() as i64;
        if second > self.second {
            self.fleet.harvest_all(now, self.second);
            self.second = second;
            let report = self.report(false);
            self.metrics.update(&report, &[], std::iter::empty());
            let seconds = self.started.elapsed().as_secs_f64();
            self.console.progress(&report, || Snapshot {
                seconds,
                ..Snapshot::from(&report)
            });
        }
        self.fleet.tick(now, self.second, &mut self.console);
        self.settle();
        if self.reported.elapsed() >= REPORT {
            self.reported = Instant::now();
            self.report_stats();
        }
        self.tell();
        if let Some((since, false)) = self.quitting
            && (self.fleet.is_idle() || since.elapsed() >= LAST_COUNT)
        {
            self.fleet.harvest_all(now, self.second);
            self.report_stats();
            self.tell();
            for seat in &self.seats {
                seat.send(("quit", Value::Nil));
            }
            self.quitting = Some((since, true));
        }
    }

    /// All is over.
    fn quit(&mut self) {
        if self.quitting.is_none() {
            self.quitting = Some((Instant::now(), false));
            self.seats
                .iter_mut()
                .for_each(|seat| seat.worker.wanted.clear());
            self.fleet.stop(Duration::ZERO);
        }
    }

    /// The figures of all tests, or on the way of the last one.
    fn report(&self, is_final: bool) -> WorkerReport {
        let told = &self.fleet.report;
        let from = if is_final {
            0
        } else {
            told.runs.len().saturating_sub(1)
        };
        WorkerReport {
            is_final,
            schema: told.schema.clone(),
            master: told.master.clone(),
            runs: told.runs[from..].to_vec(),
            workers: self.seats.len(),
            workers_known: self
                .seats
                .iter()
                .filter(|seat| seat.worker.is_known())
                .count(),
            users_now: Class::ALL
                .iter()
                .map(|class| self.fleet.present(*class))
                .sum(),
        }
    }
}

fn is_ours(class: &str) -> bool {
    Class::ALL.iter().any(|ours| ours.name() == class)
}
