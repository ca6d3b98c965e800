//! Whether backends are up: tasks of the control plane that check them, and that act on what core
//! threads saw.
//!
//! A backend is up until it was checked; its first check decides, later it takes `fall` failures in a row
//! to go down and `rise` passes to come up. A backend whose pool checks nothing goes down when clients
//! fail to connect, and comes up again by checks that only connect: no client is sent to find out.
//!
//! A connect check passes as long as the kernel of the backend's machine accepts, also for a process that
//! is stopped or stuck. Only an answer shows that it runs: `expect`, or an HTTP check.
//!
//! Invariants: one task for each backend, at most one check of a backend at a time, none of a disabled
//! one; nothing here runs on a core thread or is waited for by one.
//! Must not depend on: rings, slots, how a backend is chosen.

mod probe;
mod tally;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, sleep_until};

use crate::relay::backends::{AdminState, Backend, Health, Member, Pool, Registry, Topology};
use crate::relay::balance::Random;
use crate::relay::config::{CheckKind, OnDown};
use probe::Probe;
use tally::Tally;

/// Core threads are shown changes at most so often: a change of many backends is one.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(10);

/// A backend went down or came up.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which one.
    pub backend: Arc<Backend>,
    /// How it is now.
    pub health: Health,
    /// Why, for people.
    pub reason: String,
    /// How many of its connections to reset each second; `None`: they go on.
    pub cut_per_second: Option<u32>,
}

/// The checks of a topology. They end when this is dropped.
pub struct Watcher {
    shared: Rc<Shared>,
    publisher: JoinHandle<()>,
}

struct Shared {
    registry: Arc<Registry>,
    topology: RefCell<Arc<Topology>>,
    checks: RefCell<BTreeMap<u16, Check>>,
    on_change: Box<dyn Fn(Change)>,
}

/// The task that checks one backend.
struct Check {
    spec: Rc<Spec>,
    task: JoinHandle<()>,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How one backend is checked.
#[derive(Debug, PartialEq)]
struct Spec {
    /// `None`: only while it is down, whether it accepts.
    probe: Option<Probe>,
    /// What is asked while `probe` is none.
    connect: Probe,
    interval: Duration,
    fast_interval: Duration,
    jitter: u8,
    rise: u32,
    fall: u32,
}

impl Spec {
    fn new(pool: &Pool, member: &Member) -> Self {
        let config = pool.config();
        let check = &config.check;
        let kind = member.config.check.unwrap_or(check.kind);
        Spec {
            probe: (kind != CheckKind::None).then(|| Probe::new(kind, config, &member.config)),
            connect: Probe::accepting(config),
            interval: check.interval,
            fast_interval: match check.fast_interval.is_zero() {
                true => check.interval,
                false => check.fast_interval,
            },
            jitter: check.jitter,
            rise: check.rise,
            fall: check.fall,
        }
    }
}

impl Watcher {
    /// Begins to check the backends of `topology`, which is installed. `on_change` is told when one goes
    /// down or comes up. Called on the control plane's runtime.
    pub fn start(topology: Arc<Topology>, on_change: impl Fn(Change) + 'static) -> Self {
        let shared = Rc::new(Shared {
            registry: Arc::clone(topology.registry()),
            topology: RefCell::new(Arc::clone(&topology)),
            checks: RefCell::default(),
            on_change: Box::new(on_change),
        });
        let publisher = spawn_local(Rc::clone(&shared).publish_forever());
        let watcher = Watcher { shared, publisher };
        watcher.adopt(topology);
        watcher
    }

    /// Goes on with the next generation, which is installed. Checks that stay as they are go on.
    pub fn adopt(&self, topology: Arc<Topology>) {
        let shared = &self.shared;
        let mut old = shared.checks.take();
        let mut checks = BTreeMap::new();
        for pool in topology.pools() {
            for member in pool.members() {
                let id = member.backend.id();
                let spec = Spec::new(pool, member);
                let check = match old.remove(&id).filter(|check| *check.spec == spec) {
                    Some(check) => check,
                    None => {
                        let spec = Rc::new(spec);
                        let backend = Arc::clone(&member.backend);
                        let task = Rc::clone(shared).check_forever(backend, Rc::clone(&spec));
                        let task = spawn_local(task);
                        Check { spec, task }
                    }
                };
                checks.insert(id, check);
            }
        }
        shared.checks.replace(checks);
        shared.topology.replace(topology);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.publisher.abort();
        self.shared.checks.take();
    }
}

impl Shared {
    /// Shows core threads what has changed, and acts on what they saw.
    async fn publish_forever(self: Rc<Self>) {
        loop {
            let topology = Arc::clone(&self.topology.borrow());
            for member in topology.members() {
                let backend = &member.backend;
                if backend.take_suspicion() && backend.health() == Health::Up {
                    let fall = topology.pool(backend.pool()).map(|p| p.config().check.fall);
                    let fall = fall.unwrap_or_default();
                    let reason = format!("{fall} connections of clients in a row failed");
                    self.set_health(backend, Health::Down, reason);
                }
            }
            let again = topology.publish(Instant::now());
            drop(topology);
            sleep(PUBLISH_INTERVAL).await;
            match again {
                None => self.registry.changed().await,
                Some(time) => {
                    // Either is a reason to look.
                    let _ = tokio::time::timeout(time, self.registry.changed()).await;
                }
            }
        }
    }

    async fn check_forever(self: Rc<Self>, backend: Arc<Backend>, spec: Rc<Spec>) {
        let mut random = Random::new(u64::from(backend.id()));
        let mut tally = Tally::default();
        // Backends are checked evenly spread over the interval, not all at once.
        sleep(spec.interval.mul_f64(random.unit())).await;
        loop {
            let begin = tokio::time::Instant::now();
            let health = backend.health();
            let probe = match &spec.probe {
                None if health == Health::Down => Some(&spec.connect),
                probe => probe.as_ref(),
            };
            let mut interval = spec.interval;
            if let Some(probe) = probe
                && backend.admin_state() != AdminState::Disabled
                && let Some(address) = backend.address()
            {
                let outcome = probe.run(address).await;
                backend.checked(outcome.is_ok());
                // Core threads may have seen it fail meanwhile.
                let health = backend.health();
                let next = tally.record(health, outcome.is_ok(), spec.rise, spec.fall);
                let (Ok(reason) | Err(reason)) = outcome;
                self.set_health(&backend, next, reason);
                if tally.is_undecided() {
                    interval = spec.fast_interval;
                }
            }
            let jitter = f64::from(spec.jitter) / 100.0 * (random.unit() - 0.5);
            sleep_until(begin + interval.mul_f64(1.0 + jitter)).await;
        }
    }

    fn set_health(&self, backend: &Arc<Backend>, health: Health, reason: String) {
        if !backend.set_health(health, reason.clone()) {
            return;
        }
        let topology = self.topology.borrow();
        let config = topology.pool(backend.pool()).map(|pool| pool.config());
        let cut = config.filter(|c| health == Health::Down && c.on_down == OnDown::Cut);
        let cut_per_second = cut.map(|config| {
            let seconds = config.cut_over.as_secs_f64().max(0.001);
            (f64::from(backend.active()) / seconds).ceil().max(1.0) as u32
        });
        drop(topology);
        (self.on_change)(Change {
            backend: Arc::clone(backend),
            health,
            reason,
            cut_per_second,
        });
    }
}

#[cfg(test)]
mod tests;
