//! One worker in the eyes of the master: who it is, whether the master knows it, and how many users of each class it is to have.
//!
//! ```text
//!   connected ──► client_ready ──► ack ──► ready ──► spawning ⇄ running ──► cleanup ──► client_stopped, client_ready, ...
//!       ▲              │ no ack: connect anew, then as somebody new
//!       └──────────────┴── silent for five seconds
//! ```
//!
//! Invariants: nothing but `client_ready` and heartbeats is sent before the master has answered; a master that is silent is connected to
//! anew; the number of users ordered stays what it was until an order changes it.
//! Must not know: sockets, users.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rmpv::Value;

use super::class::Class;
use super::message::{Message, Order, Spawn, client_ready};

/// How often the worker says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a master may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a master that knew this worker may take to answer after the connection was made anew, before it is told who this is.
const RECOGNITION: Duration = Duration::from_secs(2);

/// What the master is told the worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No users.
    Ready,
    /// Users are coming or going.
    Spawning,
    /// All users ordered are there.
    Running,
    /// Users are ending.
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

/// Where the master and this worker stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// No connection.
    Down,
    /// Connected; a master that knows this worker will answer its heartbeats.
    Recognised,
    /// `client_ready` was sent.
    Asked,
    /// The master knows this worker.
    Known,
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    /// Its node id.
    pub id: String,
    host: String,
    /// What it is doing.
    pub state: State,
    standing: Standing,
    /// Since when it stands there, or when the master was last heard.
    since: Instant,
    /// When the master was last heard.
    heard: Instant,
    beaten: Instant,
    /// Connections in a row on which `client_ready` was not answered.
    unanswered: u32,
    /// Time of the last order for users, the master's.
    ordered_at: f64,
    /// Users it is to have.
    pub wanted: BTreeMap<Class, u64>,
    /// The loss of the master was acted on.
    is_lost: bool,
}

/// What is to be done for a worker.
#[derive(Debug)]
pub enum Need {
    /// Tell the master that it lives.
    Heartbeat,
    /// Send this.
    Send((&'static str, Value)),
    /// Connect anew, by its id, which may be new.
    Rebuild,
}

impl Worker {
    /// A worker of a host, not connected.
    pub fn new(host: String, id: Option<String>) -> Self {
        let now = Instant::now();
        let mut worker = Worker {
            id: id.unwrap_or_default(),
            host,
            state: State::Ready,
            standing: Standing::Down,
            since: now,
            heard: now,
            beaten: now,
            unanswered: 0,
            ordered_at: f64::NEG_INFINITY,
            wanted: BTreeMap::new(),
            is_lost: false,
        };
        if worker.id.is_empty() {
            worker.rename();
        }
        worker
    }

    fn rename(&mut self) {
        self.id = format!("{}_{}", self.host, uuid::Uuid::new_v4().simple());
    }

    /// A message from this worker.
    pub fn message(&self, (kind, data): (&str, Value)) -> Vec<u8> {
        let message = Message {
            kind: kind.to_owned(),
            data,
            node: self.id.clone(),
        };
        message.encode()
    }

    /// The name of its state.
    pub fn state_name(&self) -> &'static str {
        self.state.name()
    }

    /// True if the master knows it.
    pub fn is_known(&self) -> bool {
        self.standing == Standing::Known
    }

    fn stand(&mut self, standing: Standing) {
        self.standing = standing;
        self.since = Instant::now();
    }

    /// The connection is up.
    pub fn on_up(&mut self) -> Vec<Need> {
        if self.state == State::Ready || self.unanswered > 0 {
            return self.ask();
        }
        // The same master may know it still, with its users: then it goes on as if nothing had been.
        self.stand(Standing::Recognised);
        vec![Need::Heartbeat]
    }

    fn ask(&mut self) -> Vec<Need> {
        self.stand(Standing::Asked);
        vec![Need::Send(client_ready())]
    }

    /// The connection is down.
    pub fn on_down(&mut self) {
        self.stand(Standing::Down);
    }

    /// Something came from the master.
    pub fn on_order(&mut self, order: &Order) {
        match order {
            Order::Ack => {
                self.ordered_at = f64::NEG_INFINITY;
            }
            // Whatever else is said to a worker is said to one that is known, but for the answer to an old heartbeat.
            Order::Heartbeat if self.standing == Standing::Asked => return,
            _ => {}
        }
        self.stand(Standing::Known);
        self.heard = self.since;
        self.unanswered = 0;
        self.is_lost = false;
    }

    /// True if an order for users is newer than those before.
    pub fn is_news(&mut self, spawn: &Spawn) -> bool {
        let is_news = spawn.timestamp > self.ordered_at;
        if is_news {
            self.ordered_at = spawn.timestamp;
        }
        is_news
    }

    /// What is to be done now. Called several times a second.
    pub fn tick(&mut self) -> Vec<Need> {
        let mut needs = Vec::new();
        let silent = self.since.elapsed();
        match self.standing {
            Standing::Recognised if silent >= RECOGNITION => needs.extend(self.ask()),
            Standing::Known if silent >= SILENCE_MAX => {
                self.on_down();
                needs.push(Need::Rebuild);
            }
            Standing::Asked if silent >= SILENCE_MAX => {
                // A router does not take a second connection of the same name: it may still have the first.
                self.unanswered += 1;
                // Once: a master that is only slow would know each of several names as a worker.
                if self.unanswered == 2 {
                    self.rename();
                }
                self.on_down();
                needs.push(Need::Rebuild);
            }
            _ => {}
        }
        let may_beat = matches!(self.standing, Standing::Known | Standing::Recognised);
        if may_beat && self.beaten.elapsed() >= HEARTBEAT {
            self.beaten = Instant::now();
            needs.push(Need::Heartbeat);
        }
        needs
    }

    /// True once when the master has been gone for as long as it may be silent.
    pub fn is_newly_lost(&mut self) -> bool {
        self.heard.elapsed() >= SILENCE_MAX && !std::mem::replace(&mut self.is_lost, true)
    }
}
