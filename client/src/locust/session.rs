//! One worker as the master sees it: its node id, its registration, its state, and the users the
//! master wants from it.
//!
//! ```text
//!   connected ──► client_ready ──► ack ──► ready ──► spawning ⇄ running ──► cleanup ──► client_stopped, client_ready, ...
//!       ▲              │ no ack: reconnect, the second time with a new node id
//!       └──────────────┴── silent for five seconds
//! ```
//!
//! Invariants: before the master has answered, only `client_ready` and heartbeats are sent; a
//! silent master is reconnected to; the wanted numbers of users change only by a message of the
//! master.
//! Must not depend on: users, the other sessions of the process.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rmpv::Value;
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;

use super::link::LinkCommand;
use super::message::{self, MasterMessage, Message, SpawnRequest};
use super::process_stats::ProcessStats;
use super::user_class::UserClass;

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A master that has sent nothing for this long is lost.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long after a reconnect a master that knew this worker may take to answer a heartbeat; then
/// the worker registers again.
const RECOGNITION: Duration = Duration::from_secs(2);

/// What the master is told the worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No users.
    Ready,
    /// Users are being started or stopped.
    Spawning,
    /// All users the master wants are there.
    Running,
    /// All users are being stopped.
    Cleanup,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::Spawning => "spawning",
            State::Running => "running",
            State::Cleanup => "cleanup",
        }
    }
}

/// The master's answer to `client_ready`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It has come, or may still come.
    NotDue,
    /// It has not come in time.
    Missing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Registration {
    Disconnected,
    /// Reconnected; a master that still knows this worker answers its heartbeats.
    Recognising,
    /// `client_ready` was sent.
    Requested,
    Registered,
}

/// One worker of the process, and the queue of its link.
#[derive(Debug)]
pub struct WorkerSession {
    /// Its node id.
    pub id: String,
    host: String,
    /// What it is doing.
    pub state: State,
    registration: Registration,
    /// When the registration changed, or when the master was last heard.
    since: Instant,
    last_message: Instant,
    last_heartbeat: Instant,
    /// Connections in a row on which `client_ready` was not answered.
    unanswered: u32,
    /// Time of the last spawn request, by the master's clock.
    last_spawn: f64,
    /// Users the master wants from this worker.
    pub target_users: BTreeMap<UserClass, u64>,
    /// There is no master, as far as was reported.
    is_lost: bool,
    link: Sender<LinkCommand>,
}

impl WorkerSession {
    /// A worker on `host` with this node id, or one of its own; `start_link` starts its link, given
    /// the id.
    pub fn new(
        host: &str,
        id: Option<String>,
        start_link: impl FnOnce(String) -> Sender<LinkCommand>,
    ) -> Self {
        let now = Instant::now();
        let id = id.unwrap_or_else(|| new_id(host));
        WorkerSession {
            link: start_link(id.clone()),
            id,
            host: host.to_owned(),
            state: State::Ready,
            registration: Registration::Disconnected,
            since: now,
            last_message: now,
            last_heartbeat: now,
            unanswered: 0,
            last_spawn: f64::NEG_INFINITY,
            target_users: BTreeMap::new(),
            is_lost: true,
        }
    }

    /// Sends a message of this type with this data.
    pub fn send(&self, (kind, data): (&str, Value)) {
        let message = Message {
            kind: kind.to_owned(),
            data,
            node: self.id.clone(),
        };
        // A full queue means that the link has been down for long; what it would drop is sent again
        // later, or was lost before.
        let _ = self.link.try_send(LinkCommand::Send(message.encode()));
    }

    fn send_heartbeat(&self, stats: &mut ProcessStats) {
        let (cpu, memory) = (stats.cpu_percent(), stats.memory_bytes());
        self.send(message::heartbeat(self.state.name(), cpu, memory));
    }

    /// True if the master knows this worker.
    pub fn is_registered(&self) -> bool {
        self.registration == Registration::Registered
    }

    fn enter(&mut self, registration: Registration) {
        self.registration = registration;
        self.since = Instant::now();
    }

    /// The link is up.
    pub fn on_connected(&mut self, stats: &mut ProcessStats) {
        if self.state == State::Ready || self.unanswered > 0 {
            self.register();
        } else {
            // The same master may still know this worker and its users; then nothing changes.
            self.enter(Registration::Recognising);
            self.send_heartbeat(stats);
        }
    }

    fn register(&mut self) {
        self.enter(Registration::Requested);
        self.send(message::client_ready());
    }

    /// The link is down.
    pub fn on_disconnected(&mut self) {
        self.enter(Registration::Disconnected);
    }

    /// Connects again, with the node id of now.
    pub fn reconnect(&mut self) {
        self.on_disconnected();
        let _ = self.link.try_send(LinkCommand::Reconnect(self.id.clone()));
    }

    /// A message from the master has arrived.
    pub fn on_message(&mut self, message: &MasterMessage) {
        match message {
            MasterMessage::Ack => self.last_spawn = f64::NEG_INFINITY,
            // A master sends any other message only to a worker it knows, but this may answer a
            // heartbeat from before.
            MasterMessage::Heartbeat if self.registration == Registration::Requested => return,
            _ => {}
        }
        self.enter(Registration::Registered);
        self.last_message = self.since;
        self.unanswered = 0;
        self.is_lost = false;
    }

    /// True if a spawn request is newer than all before it.
    pub fn is_newer(&mut self, request: &SpawnRequest) -> bool {
        let is_newer = request.timestamp > self.last_spawn;
        if is_newer {
            self.last_spawn = request.timestamp;
        }
        is_newer
    }

    /// The master no longer wants any users from this worker.
    pub fn clean_up(&mut self) {
        self.state = State::Cleanup;
        self.target_users.clear();
    }

    /// Sends a heartbeat, registers or reconnects when that is due. Called several times a second.
    pub fn tick(&mut self, stats: &mut ProcessStats) -> Answer {
        let mut answer = Answer::NotDue;
        let silent = self.since.elapsed();
        match self.registration {
            Registration::Recognising if silent >= RECOGNITION => self.register(),
            Registration::Registered if silent >= SILENCE_MAX => self.reconnect(),
            Registration::Requested if silent >= SILENCE_MAX => {
                answer = Answer::Missing;
                // The router ignores a second connection with a node id it has; it may still have
                // the first.
                self.unanswered += 1;
                // Once only: a slow master would count each of several ids as a worker.
                if self.unanswered == 2 {
                    self.id = new_id(&self.host);
                }
                self.reconnect();
            }
            _ => {}
        }
        let is_answered = matches!(
            self.registration,
            Registration::Registered | Registration::Recognising
        );
        if is_answered && self.last_heartbeat.elapsed() >= HEARTBEAT_INTERVAL {
            self.last_heartbeat = Instant::now();
            self.send_heartbeat(stats);
        }
        answer
    }

    /// True once when a master that was there has been silent for [`SILENCE_MAX`].
    pub fn is_newly_lost(&mut self) -> bool {
        self.last_message.elapsed() >= SILENCE_MAX && !std::mem::replace(&mut self.is_lost, true)
    }

    /// Hands everything sent before to the kernel and ends the connection; the receiver hears when
    /// that is done. `None` if there is nobody to send to.
    pub fn flush(&self) -> Option<oneshot::Receiver<()>> {
        let (sender, receiver) = oneshot::channel();
        let is_queued =
            self.is_registered() && self.link.try_send(LinkCommand::Flush(sender)).is_ok();
        is_queued.then_some(receiver)
    }
}

/// A node id as Locust's own workers have it: the master groups them by what precedes the
/// underscore.
fn new_id(host: &str) -> String {
    format!("{host}_{}", uuid::Uuid::new_v4().simple())
}
