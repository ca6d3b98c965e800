//! The backends that connections are relayed to: who they are, how they are, who gets the next one.
//!
//! A [`Backend`] is what its pool and its name say, for as long as the process runs: a reload that still
//! has it keeps it, with its counts. A [`Pool`] is one generation of a configuration's pool. Core threads
//! choose with a [`Picker`] each, from a [`View`] that the control plane replaces when anything changes.
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

/// Counts of what became of its connections.
#[derive(Debug, Default)]
struct Totals {
    picked: AtomicU64,
    connected: AtomicU64,
    connect_failed: AtomicU64,
    early_resets: AtomicU64,
    bytes_to_backend: AtomicU64,
    bytes_from_backend: AtomicU64,
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

    /// Sets its weight until the configuration has another one; `None`: the configured one.
    pub fn set_weight(&self, weight: Option<u16>) {
        let configured = self.config.weight;
        self.backend.state().weight_set = weight.map(|weight| (weight, configured));
        self.backend.tell(true);
    }
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

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
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
            if let Some(since) = state.ramp_since {
                let elapsed = now.saturating_duration_since(since);
                if elapsed < self.config.slowstart {
                    is_ramping = true;
                    let share = elapsed.as_secs_f64() / self.config.slowstart.as_secs_f64();
                    parts = ramp(parts, share);
                    if maxconn != u32::MAX {
                        maxconn = ramp(maxconn, share);
                    }
                } else {
                    state.ramp_since = None;
                }
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

    /// Lets backends be what this generation says: addresses that are no names, and what core threads
    /// choose from. Before core threads get it.
    pub fn install(&self) {
        for member in self.members() {
            if let Some(address) = member.config.address.literal() {
                member.backend.set_address(Some(address));
            }
            let check = &self.pools[member.backend.pool()].config.check;
            let failures_max = if check.passive { check.fall } else { 0 };
            let failures = &member.backend.failures_max;
            failures.store(failures_max, Ordering::Relaxed);
        }
        self.publish(Instant::now());
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
