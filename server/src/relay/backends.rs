//! The backends that connections are relayed to: who they are, how they are, who gets the next one.
//!
//! A [`Backend`] is what its pool and its name say, for as long as the process runs: a reload that still
//! has it keeps it, with its counts. One that left the configuration lives on while core threads have
//! connections to it, and keeps its id so long. A [`Pool`] is one generation of a configuration's pool. Core threads
//! choose with a [`Picker`] each, from a `View` that the control plane replaces when anything changes.
//!
//! Invariants: every pick is counted as a connection from then on and released once; a core thread never
//! waits for a lock; the control plane alone changes health, weights and addresses.
//! Must not depend on: rings, slots, how health is checked, how names are resolved.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_engine::{SetupError, SetupErrorKind};
use serde::Serialize;
use tokio::sync::Notify;

use crate::relay::balance::{ActiveCounts, Candidate, Candidates, Selected, Selector};
use crate::relay::config::{BackendConfig, PoolConfig, RelayConfig};

/// Parts of a weight, so that the weight 1 can grow in steps.
const WEIGHT_PARTS: u32 = 128;

/// What all backends of a process share.
#[derive(Debug, Default)]
pub struct Registry {
    counts: ActiveCounts,
    /// Told when a core thread has found a backend failing, or a state was changed.
    changed: Notify,
}

impl Registry {
    /// Waits until a backend's state has changed since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// What the operator wants of a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// It gets connections.
    #[default]
    Ready,
    /// It gets no new ones, is still checked, and keeps those it has.
    Drain,
    /// It gets none and is not checked.
    Disabled,
}

/// What checks and connections say about a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It gets connections. So does one that was not checked yet.
    #[default]
    Up,
    /// It gets none.
    Down,
}

/// What the control plane knows of a backend.
#[derive(Debug)]
struct State {
    address: Option<SocketAddr>,
    admin: AdminState,
    /// The weight that the operator set, and the configured one at that time: a configuration with
    /// another weight overrides it.
    weight_set: Option<(u16, u16)>,
    health: Health,
    /// Why it is as it is, for people.
    reason: String,
    /// When health or admin state changed last.
    changed: Instant,
    /// How often it went down.
    downs: u64,
    /// When it began to take part again, while slow start may concern it.
    ramp_since: Option<Instant>,
}

impl State {
    /// How far a slow start is, from 0 to 1; `None`: none is under way.
    fn ramp_share(&self, slowstart: Duration, now: Instant) -> Option<f64> {
        let elapsed = now.saturating_duration_since(self.ramp_since?);
        (elapsed < slowstart).then(|| elapsed.as_secs_f64() / slowstart.as_secs_f64())
    }
}

/// Counts of what became of its connections.
#[derive(Debug, Default)]
struct Totals {
    picked: AtomicU64,
    connected: AtomicU64,
    connect_failed: AtomicU64,
    early_resets: AtomicU64,
    bytes_to_backend: AtomicU64,
    bytes_from_backend: AtomicU64,
    checks_passed: AtomicU64,
    checks_failed: AtomicU64,
}

/// One backend. See the file's head.
#[derive(Debug)]
pub struct Backend {
    id: u16,
    pool: String,
    name: String,
    registry: Arc<Registry>,
    state: Mutex<State>,
    totals: Totals,
    /// Failures since the last success, as core threads saw them.
    failures: AtomicU32,
    /// So many failures in a row are told to the control plane; 0: none are.
    failures_max: AtomicU32,
    /// They were told.
    is_suspect: AtomicBool,
}

impl Backend {
    /// A backend without an address. `is_late`: it joins a process that already serves, so slow start
    /// concerns it.
    ///
    /// # Errors
    /// There are 65,535 backends.
    pub fn new(
        registry: &Arc<Registry>,
        pool: &str,
        name: &str,
        is_late: bool,
    ) -> Result<Arc<Self>, SetupError> {
        let now = Instant::now();
        let id = registry.counts.take_id().ok_or_else(|| {
            SetupError::new(
                SetupErrorKind::LimitExceeded,
                "there are 65,535 backends, with those that still have connections",
                "give fewer, or wait until connections of removed ones have ended",
            )
        })?;
        Ok(Arc::new(Backend {
            id,
            pool: pool.to_owned(),
            name: name.to_owned(),
            registry: Arc::clone(registry),
            state: Mutex::new(State {
                address: None,
                admin: AdminState::Ready,
                weight_set: None,
                health: Health::Up,
                reason: "not checked yet".to_owned(),
                changed: now,
                downs: 0,
                ramp_since: is_late.then_some(now),
            }),
            totals: Totals::default(),
            failures: AtomicU32::new(0),
            failures_max: AtomicU32::new(0),
            is_suspect: AtomicBool::new(false),
        }))
    }

    /// Its number, below `u16::MAX` and nobody else's while anything refers to it.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The name of its pool.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// Its name within the pool.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Connections that were picked and not yet released.
    pub fn active(&self) -> u32 {
        self.registry.counts.get(self.id)
    }

    /// Gives a pick back: its connection has ended or did not come about. Once for each pick.
    pub fn release(&self) {
        self.registry.counts.release(self.id);
    }

    /// A picked connection was established.
    pub fn connected(&self) {
        self.totals.connected.fetch_add(1, Ordering::Relaxed);
        // Read first: the line stays shared while all is well.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A picked connection was refused, timed out or had no route: evidence against the backend.
    pub fn connect_failed(&self) {
        self.totals.connect_failed.fetch_add(1, Ordering::Relaxed);
        self.count_failure();
    }

    /// An established connection was reset by the backend before it had sent anything.
    pub fn reset_early(&self) {
        self.totals.early_resets.fetch_add(1, Ordering::Relaxed);
        self.count_failure();
    }

    /// Adds the payload of an ended connection.
    pub fn add_bytes(&self, to_backend: u64, from_backend: u64) {
        let totals = &self.totals;
        totals
            .bytes_to_backend
            .fetch_add(to_backend, Ordering::Relaxed);
        totals
            .bytes_from_backend
            .fetch_add(from_backend, Ordering::Relaxed);
    }

    fn count_failure(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let most = self.failures_max.load(Ordering::Relaxed);
        // Told once, however many connections fail before the control plane gets to it.
        if most != 0 && failures >= most && !self.is_suspect.swap(true, Ordering::Relaxed) {
            self.registry.changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is; `None`: its name has not been resolved yet. For the control plane.
    pub fn address(&self) -> Option<SocketAddr> {
        self.state().address
    }

    /// Says where it is. True if it was elsewhere.
    pub fn set_address(&self, address: Option<SocketAddr>) -> bool {
        let mut state = self.state();
        let is_new = state.address != address;
        state.address = address;
        drop(state);
        self.tell(is_new)
    }

    /// What the operator wants.
    pub fn admin_state(&self) -> AdminState {
        self.state().admin
    }

    /// Sets what the operator wants. True if that is something else.
    pub fn set_admin_state(&self, admin: AdminState) -> bool {
        let mut state = self.state();
        let is_new = state.admin != admin;
        if is_new {
            // It was not even checked: it may be a fresh process.
            if state.admin == AdminState::Disabled {
                state.ramp_since = Some(Instant::now());
            }
            state.admin = admin;
            state.changed = Instant::now();
        }
        drop(state);
        self.tell(is_new)
    }

    /// What checks and connections say.
    pub fn health(&self) -> Health {
        self.state().health
    }

    /// Counts a check.
    pub fn checked(&self, has_passed: bool) {
        let totals = &self.totals;
        let total = match has_passed {
            true => &totals.checks_passed,
            false => &totals.checks_failed,
        };
        total.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets what checks and connections say, and why. True if that is something else.
    pub fn set_health(&self, health: Health, reason: impl Into<String>) -> bool {
        let mut state = self.state();
        let is_new = state.health != health;
        state.reason = reason.into();
        if is_new {
            state.health = health;
            state.changed = Instant::now();
            match health {
                Health::Up => state.ramp_since = Some(Instant::now()),
                Health::Down => state.downs += 1,
            }
        }
        drop(state);
        self.tell(is_new)
    }

    fn tell(&self, is_new: bool) -> bool {
        if is_new {
            self.registry.changed.notify_one();
        }
        is_new
    }

    /// True once after core threads have seen too many failures in a row.
    pub fn take_suspicion(&self) -> bool {
        self.is_suspect.load(Ordering::Relaxed) && {
            self.failures.store(0, Ordering::Relaxed);
            self.is_suspect.swap(false, Ordering::Relaxed)
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.registry.counts.give_back_id(self.id);
    }
}

/// A backend as one generation of its pool has it.
#[derive(Debug, Clone)]
pub struct Member {
    /// The backend.
    pub backend: Arc<Backend>,
    /// What the configuration says about it.
    pub config: BackendConfig,
}

impl Member {
    /// The weight without slow start: the operator's, or the configured one.
    fn weight(&self, state: &State) -> u16 {
        match state.weight_set {
            Some((set, configured)) if configured == self.config.weight => set,
            _ => self.config.weight,
        }
    }

    fn status(&self, slowstart: Duration, now: Instant) -> BackendStatus {
        let Backend { totals, .. } = &*self.backend;
        let count = |total: &AtomicU64| total.load(Ordering::Relaxed);
        let state = self.backend.state();
        BackendStatus {
            pool: self.backend.pool.clone(),
            name: self.backend.name.clone(),
            id: self.backend.id,
            address: state.address,
            admin: state.admin,
            health: state.health,
            reason: state.reason.clone(),
            changed_s: now.saturating_duration_since(state.changed).as_secs_f64(),
            downs: state.downs,
            weight: self.weight(&state),
            weight_share: state.ramp_share(slowstart, now).unwrap_or(1.0),
            backup: self.config.backup,
            active: self.backend.active(),
            maxconn: self.config.maxconn,
            picked: count(&totals.picked),
            connected: count(&totals.connected),
            connect_failed: count(&totals.connect_failed),
            early_resets: count(&totals.early_resets),
            bytes_to_backend: count(&totals.bytes_to_backend),
            bytes_from_backend: count(&totals.bytes_from_backend),
            checks_passed: count(&totals.checks_passed),
            checks_failed: count(&totals.checks_failed),
        }
    }

    /// Sets its weight until the configuration has another one; `None`: the configured one.
    pub fn set_weight(&self, weight: Option<u16>) {
        let configured = self.config.weight;
        self.backend.state().weight_set = weight.map(|weight| (weight, configured));
        self.backend.tell(true);
    }
}

/// How a backend is, for the admin socket, metrics and the live view.
#[derive(Debug, Clone, Serialize)]
pub struct BackendStatus {
    /// Its pool.
    pub pool: String,
    /// Its name within the pool.
    pub name: String,
    /// Its number.
    pub id: u16,
    /// Where it is; none: its name was never resolved.
    pub address: Option<SocketAddr>,
    /// What the operator wants.
    pub admin: AdminState,
    /// What checks and connections say.
    pub health: Health,
    /// Why health is as it is.
    pub reason: String,
    /// Seconds since health or admin state changed.
    pub changed_s: f64,
    /// How often it went down.
    pub downs: u64,
    /// Its weight, without slow start.
    pub weight: u16,
    /// The part of its weight that counts now: less than 1 in a slow start.
    pub weight_share: f64,
    /// It gets connections only while no other one can.
    pub backup: bool,
    /// Connections now.
    pub active: u32,
    /// Connections at most; 0: no limit.
    pub maxconn: u32,
    /// How often it was picked.
    pub picked: u64,
    /// Connections that were established.
    pub connected: u64,
    /// Connections that were not.
    pub connect_failed: u64,
    /// Connections that it reset before it had sent anything.
    pub early_resets: u64,
    /// Payload of ended connections.
    pub bytes_to_backend: u64,
    /// Payload of ended connections.
    pub bytes_from_backend: u64,
    /// Checks that passed.
    pub checks_passed: u64,
    /// Checks that did not.
    pub checks_failed: u64,
}

/// What a core thread chooses from.
#[derive(Debug, Default)]
struct View {
    version: u64,
    candidates: Candidates,
    /// The backend of each candidate.
    targets: Vec<Target>,
}

#[derive(Debug)]
struct Target {
    backend: Arc<Backend>,
    address: SocketAddr,
}

/// One generation of a pool.
#[derive(Debug)]
pub struct Pool {
    name: String,
    config: PoolConfig,
    members: Vec<Member>,
    registry: Arc<Registry>,
    view: Mutex<Arc<View>>,
    /// Of the view, for those who look whether there is a new one.
    version: AtomicU64,
}

impl Pool {
    /// A generation of the pool `name` that nobody can be picked from before
    /// [`publish`](Self::publish). Backends that `old` has, the generation before it, are the same ones.
    ///
    /// # Errors
    /// There are too many backends, counting those that left the configuration and have connections.
    pub fn new(
        registry: &Arc<Registry>,
        name: &str,
        config: &PoolConfig,
        old: Option<&Pool>,
        is_late: bool,
    ) -> Result<Self, SetupError> {
        let member = |config: &BackendConfig| -> Result<Member, SetupError> {
            let backend_name = config.name();
            let known = old.and_then(|old| old.member(&backend_name));
            let backend = match known {
                Some(member) => Arc::clone(&member.backend),
                None => Backend::new(registry, name, &backend_name, is_late)?,
            };
            Ok(Member {
                backend,
                config: config.clone(),
            })
        };
        let members: Result<Vec<_>, _> = config.backend.iter().map(member).collect();
        Ok(Pool {
            name: name.to_owned(),
            config: config.clone(),
            members: members?,
            registry: Arc::clone(registry),
            view: Mutex::default(),
            version: AtomicU64::new(0),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the configuration says about it.
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// The backend called `name`.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.backend.name == name)
    }

    /// Its backends, in the order of the configuration.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Lets its backends be what this generation says: addresses that are no names, and how many
    /// failures of clients count. A generation that is not installed changes nothing.
    pub fn install(&self) {
        let check = &self.config.check;
        let failures_max = if check.passive { check.fall } else { 0 };
        for Member { backend, config } in &self.members {
            if let Some(address) = config.address.literal() {
                backend.set_address(Some(address));
            }
            backend.failures_max.store(failures_max, Ordering::Relaxed);
        }
        self.publish(Instant::now());
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How each of its backends is.
    pub fn status(&self, now: Instant) -> Vec<BackendStatus> {
        let members = self.members.iter();
        members
            .map(|member| member.status(self.config.slowstart, now))
            .collect()
    }

    /// Shows core threads how the backends are at `now`, if that has changed. Returns when to call
    /// again although nothing happens: a slow start is under way. May take milliseconds.
    pub fn publish(&self, now: Instant) -> Option<Duration> {
        let (mut usual, mut backups) = (Vec::new(), Vec::new());
        let mut is_ramping = false;
        for member in &self.members {
            let mut state = member.backend.state();
            let weight = u32::from(member.weight(&state));
            let (true, Some(address)) = (
                state.admin == AdminState::Ready && state.health == Health::Up && weight > 0,
                state.address,
            ) else {
                continue;
            };
            let mut parts = weight * WEIGHT_PARTS;
            let mut maxconn = match member.config.maxconn {
                0 => u32::MAX,
                maxconn => maxconn,
            };
            match state.ramp_share(self.config.slowstart, now) {
                Some(share) => {
                    is_ramping = true;
                    parts = ramp(parts, share);
                    if maxconn != u32::MAX {
                        maxconn = ramp(maxconn, share);
                    }
                }
                None => state.ramp_since = None,
            }
            let candidate = Candidate {
                id: member.backend.id,
                weight: parts,
                maxconn,
            };
            match member.config.backup {
                false => usual.push((member, candidate, address)),
                true => backups.push((member, candidate, address)),
            }
        }
        let chosen = if usual.is_empty() { backups } else { usual };
        let view = self.view();
        let shown = view.candidates.all().iter().zip(&view.targets);
        let is_same = chosen.len() == view.targets.len()
            && chosen
                .iter()
                .zip(shown)
                .all(|(new, (old, target))| new.1 == *old && new.2 == target.address);
        if !is_same {
            let named = chosen.iter().map(|(m, c, _)| (*c, m.backend.name()));
            let named: Vec<_> = named.collect();
            let target = |(member, _, address): &(&Member, Candidate, SocketAddr)| Target {
                backend: Arc::clone(&member.backend),
                address: *address,
            };
            let version = view.version + 1;
            let next = View {
                version,
                candidates: Candidates::new(self.config.balance, &named),
                targets: chosen.iter().map(target).collect(),
            };
            *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
            self.version.store(version, Ordering::Release);
        }
        // Twenty steps, as in haproxy, but no more than ten a second.
        is_ramping.then(|| (self.config.slowstart / 20).max(Duration::from_millis(100)))
    }
}

/// `share` of `full`, at least 1.
fn ramp(full: u32, share: f64) -> u32 {
    ((f64::from(full) * share) as u32).max(1)
}

/// What came of a pick.
#[derive(Debug)]
pub enum Pick<'a> {
    /// Connect to this backend at this address. It counts as connected from now on, until
    /// [`Backend::release`].
    Backend(&'a Arc<Backend>, SocketAddr),
    /// Backends are available, but have as many connections as they may: wait.
    Queue,
    /// No backend is available.
    NoneAvailable,
}

/// Picks backends of one pool on one core thread.
#[derive(Debug)]
pub struct Picker {
    pool: Arc<Pool>,
    view: Arc<View>,
    selector: Selector,
}

impl Picker {
    /// A picker of core thread `thread`.
    pub fn new(pool: Arc<Pool>, thread: usize) -> Self {
        let view = pool.view();
        let selector = Selector::new(pool.config.balance, thread, &view.candidates);
        Picker {
            pool,
            view,
            selector,
        }
    }

    /// Goes on with the pool's next generation: backends that stay keep their turn.
    pub fn adopt(&mut self, pool: Arc<Pool>) {
        let view = pool.view();
        self.pool = pool;
        self.show(view);
    }

    /// Picks a backend for a connection from `source`.
    pub fn pick(&mut self, source: SocketAddr) -> Pick<'_> {
        if self.pool.version.load(Ordering::Acquire) != self.view.version {
            // Whoever holds it is about to replace the view: the old one does for this pick.
            let view = self.pool.view.try_lock().ok().map(|view| Arc::clone(&view));
            if let Some(view) = view {
                self.show(view);
            }
        }
        let counts = &self.pool.registry.counts;
        let candidates = &self.view.candidates;
        match self.selector.select(candidates, counts, source.ip()) {
            Selected::One(place) => {
                let target = &self.view.targets[place];
                target.backend.totals.picked.fetch_add(1, Ordering::Relaxed);
                Pick::Backend(&target.backend, target.address)
            }
            Selected::AllFull => Pick::Queue,
            Selected::Nobody => Pick::NoneAvailable,
        }
    }

    fn show(&mut self, view: Arc<View>) {
        self.selector.adopt(
            self.pool.config.balance,
            &self.view.candidates,
            &view.candidates,
        );
        self.view = view;
    }
}

/// One generation of a configuration with the backends it runs with.
#[derive(Debug)]
pub struct Topology {
    generation: u64,
    config: RelayConfig,
    registry: Arc<Registry>,
    pools: BTreeMap<String, Arc<Pool>>,
    /// Backends by id: those of the pools, and those that left the configuration and may still have
    /// connections.
    backends: Vec<Option<Arc<Backend>>>,
}

impl Topology {
    /// The first generation.
    ///
    /// # Errors
    /// There are too many backends.
    pub fn new(config: &RelayConfig) -> Result<Self, SetupError> {
        Self::with(config, None)
    }

    /// The generation after this one. Nothing changes before [`install`](Self::install): dropped
    /// without that, it leaves no trace.
    ///
    /// # Errors
    /// There are too many backends.
    pub fn next(&self, config: &RelayConfig) -> Result<Self, SetupError> {
        Self::with(config, Some(self))
    }

    fn with(config: &RelayConfig, old: Option<&Topology>) -> Result<Self, SetupError> {
        let registry = old.map(|old| Arc::clone(&old.registry));
        let registry = registry.unwrap_or_default();
        let mut backends: Vec<Option<Arc<Backend>>> = Vec::new();
        let mut add = |backend: &Arc<Backend>| {
            let place = usize::from(backend.id);
            if place >= backends.len() {
                backends.resize(place + 1, None);
            }
            backends[place] = Some(Arc::clone(backend));
        };
        for backend in old.iter().flat_map(|old| old.backends.iter().flatten()) {
            // Only the old table refers to it: it has left the configuration before the old one, and no
            // thread is left behind that could pick it. Without connections its id is free.
            if Arc::strong_count(backend) > 1 || backend.active() > 0 {
                add(backend);
            }
        }
        let mut pools = BTreeMap::new();
        for (name, config) in &config.pool {
            let known = old.and_then(|old| old.pool(name)).map(|pool| &**pool);
            let pool = Pool::new(&registry, name, config, known, old.is_some())?;
            for member in &pool.members {
                add(&member.backend);
            }
            pools.insert(name.clone(), Arc::new(pool));
        }
        Ok(Topology {
            generation: old.map_or(0, |old| old.generation + 1),
            config: config.clone(),
            registry,
            pools,
            backends,
        })
    }

    /// Lets backends be what this generation says. Before core threads get it.
    pub fn install(&self) {
        for pool in self.pools.values() {
            pool.install();
        }
    }

    /// Shows core threads how the backends are, where that has changed. Returns when to call again
    /// although nothing happens.
    pub fn publish(&self, now: Instant) -> Option<Duration> {
        let pools = self.pools.values();
        pools.filter_map(|pool| pool.publish(now)).min()
    }

    /// 0, and one more after each reload.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What was configured.
    pub fn config(&self) -> &RelayConfig {
        &self.config
    }

    /// What all backends share.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The pools by name.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values()
    }

    /// The pool called `name`.
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.get(name)
    }

    /// The backends of all pools.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.pools.values().flat_map(|pool| &pool.members)
    }

    /// The backend with this id, also if it has left the configuration and still has connections.
    pub fn backend(&self, id: u16) -> Option<&Arc<Backend>> {
        self.backends.get(usize::from(id))?.as_ref()
    }

    /// Backends that left the configuration and are kept for their connections.
    pub fn retired(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let is_member = |backend: &Backend| {
            let pool = self.pools.get(&backend.pool);
            pool.is_some_and(|pool| pool.members.iter().any(|m| m.backend.id == backend.id))
        };
        let all = self.backends.iter().flatten();
        all.filter(move |backend| !is_member(backend))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::config::Balance;

    fn config(backends: &[&str]) -> PoolConfig {
        PoolConfig {
            backend: backends.iter().map(|b| b.parse().unwrap()).collect(),
            ..PoolConfig::default()
        }
    }

    fn pool(registry: &Arc<Registry>, config: &PoolConfig, old: Option<&Pool>) -> Arc<Pool> {
        let pool = Pool::new(registry, "p", config, old, old.is_some()).unwrap();
        pool.install();
        Arc::new(pool)
    }

    fn source() -> SocketAddr {
        "192.0.2.1:1000".parse().unwrap()
    }

    /// The name of the picked backend.
    fn picked(picker: &mut Picker) -> String {
        match picker.pick(source()) {
            Pick::Backend(backend, address) => {
                assert_eq!(Some(address), backend.address());
                backend.name().to_owned()
            }
            Pick::Queue => "queue".to_owned(),
            Pick::NoneAvailable => "none".to_owned(),
        }
    }

    /// How often each of `names` is picked in `picks` picks, all released again.
    fn shares(picker: &mut Picker, picks: usize, names: &[&str]) -> Vec<usize> {
        let mut found = vec![0; names.len()];
        for _ in 0..picks {
            let name = picked(picker);
            let place = names.iter().position(|n| *n == name).expect(&name);
            found[place] += 1;
            picker.pool.member(&name).unwrap().backend.release();
        }
        found
    }

    const A: &str = "127.0.0.1:1,name=a";
    const B: &str = "127.0.0.1:2,name=b";
    const C: &str = "127.0.0.1:3,name=c,backup";

    fn backend<'a>(pool: &'a Pool, name: &str) -> &'a Arc<Backend> {
        &pool.member(name).unwrap().backend
    }

    #[test]
    fn only_backends_that_are_up_and_ready_are_picked() {
        let pool = pool(&Arc::default(), &config(&[A, B]), None);
        let mut picker = Picker::new(Arc::clone(&pool), 0);
        assert_eq!(shares(&mut picker, 10, &["a", "b"]), [5, 5]);
        let a = backend(&pool, "a");
        let states = [AdminState::Drain, AdminState::Disabled];
        for state in states.map(Some).into_iter().chain([None]) {
            match state {
                Some(state) => assert!(a.set_admin_state(state)),
                None => assert!(a.set_health(Health::Down, "refused")),
            }
            pool.publish(Instant::now());
            assert_eq!(shares(&mut picker, 10, &["a", "b"]), [0, 10]);
            match state {
                Some(_) => assert!(a.set_admin_state(AdminState::Ready)),
                None => assert!(a.set_health(Health::Up, "connected")),
            }
            pool.publish(Instant::now());
            assert_eq!(shares(&mut picker, 10, &["a", "b"]), [5, 5]);
        }
        let member = pool.member("a").unwrap();
        for (weight, expected) in [(Some(0), [0, 12]), (Some(3), [9, 3]), (None, [6, 6])] {
            member.set_weight(weight);
            pool.publish(Instant::now());
            assert_eq!(shares(&mut picker, 12, &["a", "b"]), expected);
        }
    }

    #[test]
    fn backup_is_picked_only_while_no_other_backend_is_available() {
        let pool = pool(&Arc::default(), &config(&[A, B, C]), None);
        let mut picker = Picker::new(Arc::clone(&pool), 0);
        assert_eq!(shares(&mut picker, 10, &["a", "b", "c"]), [5, 5, 0]);
        backend(&pool, "a").set_health(Health::Down, "");
        pool.publish(Instant::now());
        assert_eq!(shares(&mut picker, 10, &["a", "b", "c"]), [0, 10, 0]);
        backend(&pool, "b").set_admin_state(AdminState::Drain);
        pool.publish(Instant::now());
        assert_eq!(shares(&mut picker, 10, &["a", "b", "c"]), [0, 0, 10]);
        backend(&pool, "c").set_health(Health::Down, "");
        pool.publish(Instant::now());
        assert_eq!(picked(&mut picker), "none");
        backend(&pool, "a").set_health(Health::Up, "");
        pool.publish(Instant::now());
        assert_eq!(shares(&mut picker, 10, &["a", "b", "c"]), [10, 0, 0]);
    }

    #[test]
    fn full_backends_queue_and_do_not_use_the_backup() {
        let config = config(&["127.0.0.1:1,name=a,maxconn=2", C]);
        let pool = pool(&Arc::default(), &config, None);
        let mut picker = Picker::new(Arc::clone(&pool), 0);
        let picks: Vec<_> = (0..3).map(|_| picked(&mut picker)).collect();
        assert_eq!(picks, ["a", "a", "queue"]);
        backend(&pool, "a").release();
        assert_eq!(picked(&mut picker), "a");
    }

    /// apache/apisix#13666: least connections forgets live sessions when the configuration changes.
    #[test]
    fn reload_keeps_the_counts_of_backends_that_stay() {
        let registry = Arc::default();
        let mut config = config(&[A, B]);
        config.balance = Balance::Leastconn;
        let before = pool(&registry, &config, None);
        let mut picker = Picker::new(Arc::clone(&before), 0);
        for _ in 0..20 {
            picked(&mut picker);
        }
        config.backend.push("127.0.0.1:4,name=d".parse().unwrap());
        config.backend.remove(1);
        config.backend[0].weight = 2;
        let after = pool(&registry, &config, Some(&before));
        picker.adopt(Arc::clone(&after));
        assert_eq!(backend(&after, "a").active(), 10);
        assert_eq!(backend(&after, "d").active(), 0);
        assert!(Arc::ptr_eq(backend(&before, "a"), backend(&after, "a")));
        // All go to the new one until it has half of what the other has, for half of its weight.
        for picks in 1..=5 {
            assert_eq!(picked(&mut picker), "d", "pick {picks}");
        }
        for _ in 0..15 {
            picked(&mut picker);
        }
        assert_eq!(backend(&after, "a").active(), 20);
        assert_eq!(backend(&after, "d").active(), 10);
    }

    fn topology(pool: PoolConfig, old: Option<&Topology>) -> Topology {
        let config = RelayConfig {
            pool: [("p".to_owned(), pool)].into(),
            ..RelayConfig::default()
        };
        let topology = match old {
            None => Topology::new(&config),
            Some(old) => old.next(&config),
        };
        let topology = topology.unwrap();
        topology.install();
        topology
    }

    #[test]
    fn removed_backend_keeps_its_id_until_its_connections_have_ended() {
        let first = topology(config(&[A, B]), None);
        let pool = |topology: &Topology| Arc::clone(topology.pool("p").unwrap());
        let mut picker = Picker::new(pool(&first), 0);
        assert_eq!(picked(&mut picker), "a");
        let id = backend(&pool(&first), "a").id();
        let mut last = first;
        for i in 0..5 {
            let new = format!("127.0.0.1:5,name=e{i}");
            let next = topology(config(&[B, &new]), Some(&last));
            picker.adopt(pool(&next));
            last = next;
            assert_eq!(last.backend(id).unwrap().name(), "a", "reload {i}");
            assert_eq!(last.backend(id).unwrap().active(), 1);
            assert!(last.retired().any(|backend| backend.id() == id));
        }
        last.backend(id).unwrap().release();
        // A generation that no longer has it in a pool must have been everywhere before.
        for _ in 0..2 {
            last = topology(config(&[B]), Some(&last));
            picker.adopt(pool(&last));
        }
        assert!(last.backend(id).is_none());
        assert_eq!(last.retired().count(), 0);
    }

    #[test]
    fn thread_that_is_a_generation_behind_may_still_pick_a_removed_backend() {
        let first = topology(config(&[A]), None);
        let pool = |topology: &Topology| Arc::clone(topology.pool("p").unwrap());
        let mut picker = Picker::new(pool(&first), 0);
        let second = topology(config(&[B]), Some(&first));
        drop(first);
        assert_eq!(picked(&mut picker), "a");
        let third = topology(config(&[B, C]), Some(&second));
        picker.adopt(pool(&third));
        let a = third.retired().next().expect("it has a connection");
        assert_eq!((a.name(), a.active()), ("a", 1));
        a.release();
    }

    #[test]
    fn hundred_reloads_with_new_names_use_no_more_ids() {
        let mut last = topology(config(&[A, B]), None);
        let mut picker = Picker::new(Arc::clone(last.pool("p").unwrap()), 0);
        let mut highest = 0;
        for i in 0..100 {
            let name = format!("127.0.0.1:9,name=n{i}");
            last = topology(config(&[A, &name]), Some(&last));
            picker.adopt(Arc::clone(last.pool("p").unwrap()));
            let ids = last.members().map(|m| m.backend.id());
            highest = ids.max().unwrap().max(highest);
        }
        assert!(highest <= 5, "{highest}");
    }

    #[test]
    fn generation_that_is_not_installed_changes_nothing() {
        let registry: Arc<Registry> = Arc::default();
        let running = pool(&registry, &config(&[A]), None);
        let other = config(&["127.0.0.9:9,name=a", B]);
        drop(Pool::new(&registry, "p", &other, Some(&running), true).unwrap());
        let mut picker = Picker::new(Arc::clone(&running), 0);
        running.publish(Instant::now());
        assert_eq!(picked(&mut picker), "a");
        let address = backend(&running, "a").address().unwrap();
        assert_eq!(address.to_string(), "127.0.0.1:1");
    }

    /// haproxytech/kubernetes-ingress#625: slow start ignores servers that are added.
    #[test]
    fn slow_start_holds_for_backends_that_come_up_and_for_added_ones() {
        let registry: Arc<Registry> = Arc::default();
        let mut config = config(&[A]);
        config.slowstart = Duration::from_secs(100);
        let before = pool(&registry, &config, None);
        let mut picker = Picker::new(Arc::clone(&before), 0);
        // Backends of the start have their full weight at once: everybody waits for them.
        assert!(before.publish(Instant::now()).is_none());
        config.backend.push(B.parse().unwrap());
        let added = Instant::now();
        let pool = pool(&registry, &config, Some(&before));
        picker.adopt(Arc::clone(&pool));
        let names = ["a", "b"];
        for _ in 0..2 {
            let mut share_at = |seconds: u64| {
                let again = pool.publish(added + Duration::from_secs(seconds));
                assert_eq!(again.is_some(), seconds < 100, "{seconds} s");
                shares(&mut picker, 3_000, &names)[1]
            };
            // 1/128 at least, then seconds / 100 to 1.
            assert!(share_at(0) <= 24);
            assert!(share_at(50).abs_diff(1_000) <= 24);
            assert!(share_at(75).abs_diff(1_286) <= 24);
            assert_eq!(share_at(101), 1_500);
            assert_eq!(share_at(200), 1_500);
            // The same when it comes back.
            backend(&pool, "b").set_health(Health::Down, "");
            backend(&pool, "b").set_health(Health::Up, "");
        }
    }

    #[test]
    fn slow_start_limits_maxconn_and_hash_algorithms_too() {
        let registry: Arc<Registry> = Arc::default();
        let mut config = config(&["127.0.0.1:1,name=a,maxconn=100"]);
        config.slowstart = Duration::from_secs(100);
        config.balance = Balance::Leastconn;
        let pool = pool(&registry, &config, None);
        backend(&pool, "a").set_health(Health::Down, "");
        backend(&pool, "a").set_health(Health::Up, "");
        pool.publish(Instant::now() + Duration::from_secs(10));
        let mut picker = Picker::new(Arc::clone(&pool), 0);
        let held = std::iter::repeat_with(|| picked(&mut picker));
        let held = held.take_while(|name| name == "a").count();
        assert!((10..=11).contains(&held), "{held}");
    }

    #[tokio::test]
    async fn failures_in_a_row_are_told_once() {
        let registry: Arc<Registry> = Arc::default();
        let mut config = config(&[A]);
        config.check.fall = 3;
        let pool = pool(&registry, &config, None);
        let a = backend(&pool, "a");
        // What set_address told.
        registry.changed().await;
        for _ in 0..10 {
            a.connect_failed();
            a.connect_failed();
            a.connected();
        }
        assert!(!a.take_suspicion());
        for _ in 0..1_000 {
            a.connect_failed();
        }
        registry.changed().await;
        assert!(a.take_suspicion());
        assert!(!a.take_suspicion());
        let quiet = tokio::time::timeout(Duration::from_millis(10), registry.changed());
        assert!(quiet.await.is_err());
    }

    /// haproxy/haproxy#1946: with all servers down, 25,000 connections a second cost whole cores.
    #[test]
    fn picks_without_an_available_backend_look_at_no_backend() {
        let names: Vec<String> = (0..1_000).map(|i| format!("127.0.0.1:{}", i + 1)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for balance in [
            Balance::Roundrobin,
            Balance::Leastconn,
            Balance::Source,
            Balance::Consistent,
            Balance::Random,
        ] {
            let mut config = config(&names);
            config.balance = balance;
            let pool = pool(&Arc::default(), &config, None);
            for member in pool.members() {
                member.backend.set_health(Health::Down, "refused");
            }
            pool.publish(Instant::now());
            let mut picker = Picker::new(Arc::clone(&pool), 0);
            assert!(picker.view.candidates.all().is_empty());
            let begin = Instant::now();
            for _ in 0..25_000 {
                assert!(matches!(picker.pick(source()), Pick::NoneAvailable));
            }
            // Some microseconds each in a debug build under load are still far from a second.
            assert!(begin.elapsed() < Duration::from_secs(1), "{balance:?}");
        }
    }
}
