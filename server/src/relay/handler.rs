//! The relay of one core thread: gives every client a backend and forwards between the two.
//!
//! Traffic only stamps the state of the side it came from. The pair has one idle timer, on one of its
//! sides: when it fires, the side asks the other one, which is idle too and ends the pair, or takes the
//! timer over.
//! Invariants: every client ends in exactly one class; every pick of a backend is released once, when
//! its attempt failed or its connection has closed; of a linked pair nothing is kept but the two states.
//! Must not depend on: rings, sockets, where the configuration comes from.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::{
    Bytes, CloseReason, Conn, ConnId, Context, Dial, DialId, Handler, OpenFailure, PartnerEnd,
    SocketOptions,
};

use super::backends::{Backend, Pick, Picker, Pool, Topology};
use super::class::Class;
use super::profile::Profiles;
use super::state::PairState;
use super::waiting::{Entry, Step, Waiting};

/// Until a backend that refused is tried again, as in haproxy. Another backend is tried at once.
const RETRY_AFTER_US: u64 = 1_000_000;
/// How often a thread looks whether another one has made room for clients that wait in a queue.
const QUEUE_INTERVAL_US: u64 = 10_000;
/// Until something is asked again that the thread's queue had no room for.
const ASK_AGAIN_US: u64 = 100_000;
/// The source of clients whose address nothing needs.
const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// To the other side: end the pair if you are idle too, or take the timer over.
const ARE_YOU_IDLE: &[u8] = b"idle?";
/// To the other side: my direction has ended, and the timer is mine.
const HALF_CLOSED: &[u8] = b"half-closed";
/// To a client that waits: try again.
const START: &[u8] = b"start";

/// What the control plane tells a core thread.
#[derive(Debug, Clone)]
pub enum Command {
    /// Relay by this from now on. Connections that are open stay.
    Topology(Arc<Topology>),
}

/// What a core thread counts.
#[derive(Debug, Clone)]
pub struct RelayCounts {
    /// Clients that ended, by class.
    pub ended: [u64; Class::ALL.len()],
    /// Clients that have not ended.
    pub clients_now: u64,
    /// Those of them that have no backend yet.
    pub waiting_now: u64,
    /// Those of them that wait in a queue.
    pub queued_now: u64,
    /// Attempts to connect that followed a failed one of the same client.
    pub retries: u64,
}

impl Default for RelayCounts {
    fn default() -> Self {
        RelayCounts {
            ended: [0; Class::ALL.len()],
            clients_now: 0,
            waiting_now: 0,
            queued_now: 0,
            retries: 0,
        }
    }
}

impl RelayCounts {
    /// Adds another thread's counts.
    pub fn add(&mut self, other: &RelayCounts) {
        for (own, other) in self.ended.iter_mut().zip(other.ended) {
            *own += other;
        }
        self.clients_now += other.clients_now;
        self.waiting_now += other.waiting_now;
        self.queued_now += other.queued_now;
        self.retries += other.retries;
    }
}

/// A pool as a core thread has it. Its place stays the same while clients wait for it.
#[derive(Debug)]
struct ThreadPool {
    /// `None`: the configuration has it no more.
    picker: Option<Picker>,
    name: String,
    profile: u16,
    connect_timeout: Duration,
    options: SocketOptions,
    retries: u8,
    queue_max: u32,
    queue_timeout_us: u64,
    /// Clients that wait for room, the first one first. Those that have left are skipped.
    queue: VecDeque<(u32, ConnId)>,
    queued: u32,
}

/// What a client gets.
enum Choice {
    /// A connection to a backend.
    Dial(Dial, PairState),
    /// It waits until that time.
    Wait(Option<u64>),
    /// Its end.
    End(Class),
}

/// The relay of one core thread.
#[derive(Debug)]
pub struct Relay {
    thread: usize,
    topology: Arc<Topology>,
    /// The place in the configuration of each of the thread's listeners.
    route_of: Vec<usize>,
    /// The pool of each listener of the configuration.
    pool_of: Vec<u16>,
    pools: Vec<ThreadPool>,
    profiles: Profiles,
    waiting: Waiting,
    /// Clients that are tried again at a time, ascending.
    resting: VecDeque<(u64, u32, ConnId)>,
    next_queue_look_us: u64,
    counts: RelayCounts,
}

impl Relay {
    /// The relay of core thread `thread`. `route_of` says for each listener of the thread, which one of
    /// the configuration it is.
    pub fn new(topology: Arc<Topology>, thread: usize, route_of: Vec<usize>) -> Self {
        let mut relay = Relay {
            thread,
            topology: Arc::clone(&topology),
            route_of,
            pool_of: Vec::new(),
            pools: Vec::new(),
            profiles: Profiles::default(),
            waiting: Waiting::default(),
            resting: VecDeque::new(),
            next_queue_look_us: 0,
            counts: RelayCounts::default(),
        };
        relay.adopt(topology);
        relay
    }

    /// Relays by another topology from now on.
    fn adopt(&mut self, topology: Arc<Topology>) {
        for pool in &mut self.pools {
            if topology.pool(&pool.name).is_none() {
                pool.picker = None;
            }
        }
        for pool in topology.pools() {
            self.adopt_pool(Arc::clone(pool));
        }
        let place = |name: &String| {
            let place = self.pools.iter().position(|pool| pool.name == *name);
            place.expect("a checked configuration has the pool") as u16
        };
        let listens = topology.config().listen.iter();
        self.pool_of = listens.map(|listen| place(&listen.pool)).collect();
        self.topology = topology;
        // Who waits in a queue may be served by a new backend.
        self.next_queue_look_us = 0;
    }

    fn adopt_pool(&mut self, pool: Arc<Pool>) {
        let config = pool.config();
        let profile = self.profiles.number(config.timeouts);
        let mut options = SocketOptions::default();
        options.no_delay = true;
        let (connect_timeout, retries) = (config.timeouts.connect, config.retries);
        let queue_max = config.queue;
        let queue_timeout_us = config.queue_timeout.as_micros() as u64;
        let name = pool.name().to_owned();
        let known = self.pools.iter().position(|known| known.name == name);
        let is_unused = |pool: &ThreadPool| pool.picker.is_none() && pool.queued == 0;
        let place = known.or_else(|| self.pools.iter().position(is_unused));
        let (old, queue, queued) = match place.map(|place| &mut self.pools[place]) {
            None => (None, VecDeque::new(), 0),
            Some(old) => (
                old.picker.take(),
                std::mem::take(&mut old.queue),
                old.queued,
            ),
        };
        let picker = match old {
            Some(mut picker) => {
                picker.adopt(pool);
                picker
            }
            None => Picker::new(pool, self.thread),
        };
        let next = ThreadPool {
            picker: Some(picker),
            name,
            profile,
            connect_timeout,
            options,
            retries,
            queue_max,
            queue_timeout_us,
            queue,
            queued,
        };
        match place {
            Some(place) => self.pools[place] = next,
            None => self.pools.push(next),
        }
    }

    /// The backend that a connection counts on.
    fn backend(&self, id: u16) -> &Backend {
        let backend = self.topology.backend(id);
        backend.expect("a backend with connections stays")
    }

    /// A client came.
    fn accept(&mut self, conn: &mut Conn<'_, PairState>, listener: usize) {
        let pool = self.pool_of[self.route_of[listener]];
        let profile = self.pools[usize::from(pool)].profile;
        let place = self.waiting.add(Entry {
            client: conn.id(),
            source: conn.peer_addr().unwrap_or(UNKNOWN),
            pool,
            step: Step::Start,
            failures: 0,
            failed_backend: None,
        });
        *conn.state = PairState::waiting(place, profile);
        self.profiles.take(profile);
        let deadline = self.profiles.get(profile);
        let deadline = deadline.deadline(conn.id(), conn.now_us());
        conn.state.number = deadline.unwrap_or_default();
        self.counts.clients_now += 1;
        self.start(conn);
    }

    /// Gives a client a backend, or what it waits for until then, or ends it.
    fn start(&mut self, conn: &mut Conn<'_, PairState>) {
        let (place, client) = (conn.state.tick, conn.id());
        match self.choose(conn.context(), place, client) {
            Choice::Dial(dial, state) => {
                let result = conn.dial_partner(dial, state);
                if let Some(class) = self.dialled(place, &state, result.ok()) {
                    self.end_waiting(conn, class);
                }
            }
            Choice::Wait(None) => conn.clear_timer(),
            Choice::Wait(Some(until_us)) => conn.set_timer(until_us),
            Choice::End(class) => self.end_waiting(conn, class),
        }
    }

    /// Ends a client that waits.
    fn end_waiting(&mut self, conn: &mut Conn<'_, PairState>, class: Class) {
        self.set_step(conn.state.tick, Step::End(class));
        conn.reset(CloseReason::Aborted);
    }

    /// Changes what a client waits for.
    fn set_step(&mut self, place: u32, step: Step) {
        let Some(entry) = self.waiting.at(place) else {
            return;
        };
        let was_queued = std::mem::replace(&mut entry.step, step) == Step::Queue;
        let pool = &mut self.pools[usize::from(entry.pool)];
        match (was_queued, step == Step::Queue) {
            (false, true) => {
                pool.queued += 1;
                self.counts.queued_now += 1;
            }
            (true, false) => {
                pool.queued -= 1;
                self.counts.queued_now -= 1;
            }
            _ => {}
        }
    }

    /// Chooses what a client that waits gets.
    fn choose(&mut self, cx: &Context<'_, PairState>, place: u32, client: ConnId) -> Choice {
        let Some(entry) = self.waiting.get(place, client).copied() else {
            return Choice::Wait(None);
        };
        if cx.is_stopping() {
            return Choice::End(Class::Stopped);
        }
        let pool = &mut self.pools[usize::from(entry.pool)];
        let Some(picker) = &mut pool.picker else {
            return Choice::End(Class::NoBackend);
        };
        // Others wait already.
        let is_behind = entry.step == Step::Start && pool.queued > 0;
        let picked = match is_behind {
            true => Pick::Queue,
            false => picker.pick(entry.source),
        };
        match picked {
            Pick::NoneAvailable => Choice::End(Class::NoBackend),
            Pick::Queue if entry.step == Step::Queue => Choice::Wait(None),
            Pick::Queue if pool.queued >= pool.queue_max => Choice::End(Class::QueueFull),
            Pick::Queue => {
                let until_us = cx.now_us() + pool.queue_timeout_us;
                pool.queue.push_back((place, client));
                self.set_step(place, Step::Queue);
                Choice::Wait(Some(until_us))
            }
            Pick::Backend(backend, _)
                if entry.failed_backend == Some(backend.id()) && entry.step != Step::Rest =>
            {
                backend.release();
                self.set_step(place, Step::Rest);
                let until_us = cx.now_us() + RETRY_AFTER_US;
                self.resting.push_back((until_us, place, client));
                Choice::Wait(None)
            }
            Pick::Backend(backend, address) => {
                let dial = Dial::to(address)
                    .timeout(pool.connect_timeout)
                    .options(pool.options)
                    .delay_ack();
                let state = PairState::connecting(place, backend.id(), pool.profile);
                Choice::Dial(dial, state)
            }
        }
    }

    /// An attempt was asked for. Returns the class of a client that got none: too much is asked for at
    /// once.
    fn dialled(&mut self, place: u32, state: &PairState, dial: Option<DialId>) -> Option<Class> {
        let Some(dial) = dial else {
            self.backend(state.number).release();
            return Some(Class::Failed);
        };
        self.profiles.take(state.profile());
        self.set_step(place, Step::Connect(dial));
        let entry = self.waiting.at(place);
        let is_retry = entry.is_some_and(|entry| entry.failures > 0);
        self.counts.retries += u64::from(is_retry);
        None
    }

    /// An attempt has failed, and the client has no partner any more.
    fn try_again(&mut self, conn: &mut Conn<'_, PairState>, failure: OpenFailure) {
        let Some(entry) = self.waiting.at(conn.state.tick) else {
            return;
        };
        let retries = self.pools[usize::from(entry.pool)].retries;
        if conn.context().is_stopping() {
            self.end_waiting(conn, Class::Stopped);
        } else if entry.failures > retries {
            self.end_waiting(conn, Class::of_failure(failure));
        } else {
            self.set_step(conn.state.tick, Step::Start);
            self.start(conn);
        }
    }

    /// Serves the queues of pools that have room.
    fn serve_queues(&mut self, cx: &mut Context<'_, PairState>) {
        for pool in 0..self.pools.len() {
            while let Some((place, client)) = self.pools[pool].queue.front().copied() {
                let entry = self.waiting.get(place, client);
                if entry.is_none_or(|entry| entry.step != Step::Queue) {
                    self.pools[pool].queue.pop_front();
                    continue;
                }
                let class = match self.choose(cx, place, client) {
                    Choice::Wait(_) => break,
                    Choice::Dial(dial, state) => {
                        let result = cx.dial(dial.linked_to(client), state);
                        self.dialled(place, &state, result.ok())
                    }
                    Choice::End(class) => Some(class),
                };
                if let Some(class) = class {
                    if cx.reset(client, CloseReason::Aborted).is_err() {
                        break;
                    }
                    self.set_step(place, Step::End(class));
                }
            }
        }
    }

    /// Sets the timer of a linked side to what it has to do next.
    fn set_pair_timer(&self, conn: &mut Conn<'_, PairState>) {
        let (id, now_us) = (conn.id(), conn.now_us());
        let state = *conn.state;
        let profile = self.profiles.get(state.profile());
        let idle = match state.has_idle_timer() {
            true => profile.idle_us(id, state.is_half_closed()),
            false => None,
        };
        let idle = idle.map(|idle_us| idle_us.saturating_sub(silent_us(&state, now_us)));
        let end = match state.is_backend() {
            true => None,
            false => profile.until_us(state.number, now_us),
        };
        match idle.into_iter().chain(end).min() {
            Some(left_us) => conn.set_timer(now_us + left_us),
            None => conn.clear_timer(),
        }
    }

    /// Gives a pick back.
    fn release(&mut self, backend: u16) {
        self.backend(backend).release();
        // Whoever waits for room has some.
        self.next_queue_look_us = 0;
    }

    /// True if no traffic came from this side for as long as is allowed.
    fn is_idle(&self, conn: &Conn<'_, PairState>) -> bool {
        let profile = self.profiles.get(conn.state.profile());
        let idle_us = profile.idle_us(conn.id(), conn.state.is_half_closed());
        idle_us.is_some_and(|idle_us| silent_us(conn.state, conn.now_us()) >= idle_us)
    }

    /// A timer of a client that waits.
    fn on_waiting_timer(&mut self, conn: &mut Conn<'_, PairState>) {
        let step = self.waiting.at(conn.state.tick).map(|entry| entry.step);
        if step == Some(Step::Queue) {
            self.end_waiting(conn, Class::QueueTimeout);
        }
    }
}

/// Milliseconds of engine time, never 0.
fn tick(now_us: u64) -> u32 {
    ((now_us / 1_000) as u32).max(1)
}

/// How long no traffic came from a side.
fn silent_us(state: &PairState, now_us: u64) -> u64 {
    u64::from(tick(now_us).wrapping_sub(state.tick)) * 1_000
}

impl Handler for Relay {
    type State = PairState;
    type Report = RelayCounts;
    type Command = Command;

    fn on_open(&mut self, conn: &mut Conn<'_, PairState>) {
        if let Some(listener) = conn.listener() {
            return self.accept(conn, listener);
        }
        let place = conn.state.tick;
        let client = conn.partner();
        let now = tick(conn.now_us());
        conn.state.link(0);
        self.backend(conn.state.number).connected();
        let entry = client.and_then(|client| self.waiting.get(place, client));
        let Some(_entry) = entry else {
            // The client left at the same time.
            return conn.abort(CloseReason::Aborted);
        };
        // Nothing came yet: as if it were idle since now.
        conn.state.tick = now;
    }

    fn on_linked(&mut self, conn: &mut Conn<'_, PairState>) {
        self.set_step(conn.state.tick, Step::Start);
        self.waiting.remove(conn.state.tick);
        let now = tick(conn.now_us());
        conn.state.link(now);
        conn.state.set_idle_timer(true);
        self.set_pair_timer(conn);
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, PairState>, bytes: &[u8]) -> usize {
        if conn.state.is_linked() {
            conn.state.stamp(tick(conn.now_us()));
        }
        conn.forward(bytes)
    }

    fn on_eof(&mut self, conn: &mut Conn<'_, PairState>) {
        conn.forward_eof();
        let profile = self.profiles.get(conn.state.profile());
        let is_first = conn.state.is_linked() && !conn.state.is_half_closed();
        if is_first && profile.has_half_closed_timeout() {
            let now = tick(conn.now_us());
            conn.state.stamp(now);
            conn.state.half_close();
            conn.state.set_idle_timer(true);
            if let Some(partner) = conn.partner() {
                let _ = conn.context().send(partner, HALF_CLOSED);
            }
            self.set_pair_timer(conn);
        }
    }

    fn on_blocked(&mut self, conn: &mut Conn<'_, PairState>) {
        // Part of what was sent was taken.
        if conn.state.is_linked() {
            conn.state.stamp(tick(conn.now_us()));
        }
    }

    fn on_writable(&mut self, conn: &mut Conn<'_, PairState>) {
        self.on_blocked(conn);
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, PairState>) {
        if !conn.state.is_linked() {
            return self.on_waiting_timer(conn);
        }
        if conn.state.class().is_some() {
            // It was to close behind what is sent, and the peer does not take that.
            return conn.abort(CloseReason::Aborted);
        }
        let profile = self.profiles.get(conn.state.profile());
        let until_us = profile.until_us(conn.state.number, conn.now_us());
        if !conn.state.is_backend() && until_us == Some(0) {
            conn.state.classify(Class::MaxDuration as u32);
            return conn.abort(CloseReason::Aborted);
        }
        if conn.state.has_idle_timer() && self.is_idle(conn) {
            let Some(partner) = conn.partner() else {
                // Only this side is left.
                return conn.abort(CloseReason::Idle);
            };
            if conn.context().send(partner, ARE_YOU_IDLE).is_err() {
                return conn.set_timer(conn.now_us() + ASK_AGAIN_US);
            }
            conn.state.set_idle_timer(false);
        }
        self.set_pair_timer(conn);
    }

    fn on_send(&mut self, conn: &mut Conn<'_, PairState>, bytes: Bytes) {
        let is_linked = conn.state.is_linked();
        match &bytes[..] {
            ARE_YOU_IDLE if self.is_idle(conn) => conn.abort(CloseReason::Idle),
            ARE_YOU_IDLE => {
                conn.state.set_idle_timer(true);
                self.set_pair_timer(conn);
            }
            HALF_CLOSED if is_linked => {
                conn.state.half_close();
                conn.state.set_idle_timer(false);
                self.set_pair_timer(conn);
            }
            START if !is_linked => self.start(conn),
            _ => {}
        }
    }

    fn on_unlinked(&mut self, conn: &mut Conn<'_, PairState>, end: PartnerEnd) {
        if let PartnerEnd::OpenFailed(failure) = end {
            return self.try_again(conn, failure);
        }
        if !conn.state.is_backend() {
            let class = Class::of_backend(end, conn.context().is_stopping());
            conn.state.classify(class as u32);
        }
        match end {
            PartnerEnd::Closed(CloseReason::PeerClosed | CloseReason::LocallyClosed) => {
                conn.close_after_send();
            }
            PartnerEnd::Closed(reason @ (CloseReason::Idle | CloseReason::Aborted)) => {
                conn.abort(reason);
            }
            _ => conn.reset_after_send(),
        }
    }

    fn on_stop(&mut self, conn: &mut Conn<'_, PairState>) {
        if !conn.state.is_linked() {
            return self.end_waiting(conn, Class::Stopped);
        }
        if !conn.state.is_backend() {
            conn.state.classify(Class::Stopped as u32);
        }
        conn.close_after_send();
    }

    fn on_close(
        &mut self,
        cx: &mut Context<'_, PairState>,
        _: ConnId,
        state: &PairState,
        reason: CloseReason,
    ) {
        self.profiles.release(state.profile());
        if state.is_backend() {
            return self.release(state.number);
        }
        let class = match state.is_linked() {
            true => state.class().map(Class::of),
            false => {
                let step = self.waiting.at(state.tick).map(|entry| entry.step);
                // Takes it out of its queue.
                self.set_step(state.tick, Step::Start);
                self.waiting.remove(state.tick);
                Some(match step {
                    Some(Step::End(class)) => class,
                    _ if cx.is_stopping() => Class::Stopped,
                    _ => Class::ClientLeft,
                })
            }
        };
        let class = class.unwrap_or_else(|| Class::of_client(reason, cx.is_stopping()));
        self.counts.ended[class as usize] += 1;
        self.counts.clients_now -= 1;
    }

    fn on_open_failed(
        &mut self,
        _: &mut Context<'_, PairState>,
        dial: DialId,
        state: &PairState,
        failure: OpenFailure,
    ) {
        self.profiles.release(state.profile());
        let is_evidence = matches!(
            failure,
            OpenFailure::Refused
                | OpenFailure::Reset
                | OpenFailure::TimedOut
                | OpenFailure::Unreachable
        );
        if is_evidence {
            self.backend(state.number).connect_failed();
        }
        self.release(state.number);
        // Of a client that has left, the entry is another one's.
        let entry = self.waiting.at(state.tick);
        if let Some(entry) = entry.filter(|entry| entry.step == Step::Connect(dial)) {
            entry.failures = entry.failures.saturating_add(1);
            entry.failed_backend = Some(state.number);
        }
    }

    fn on_command(&mut self, _: &mut Context<'_, PairState>, command: Command) {
        match command {
            Command::Topology(topology) => self.adopt(topology),
        }
    }

    fn on_turn(&mut self, cx: &mut Context<'_, PairState>) -> Option<u64> {
        let now_us = cx.now_us();
        while let Some((at_us, place, client)) = self.resting.front().copied()
            && at_us <= now_us
            // A client that left is not asked.
            && (self.waiting.get(place, client).is_none() || cx.send(client, START).is_ok())
        {
            self.resting.pop_front();
        }
        let mut next_us = self.resting.front().map(|(at_us, ..)| *at_us);
        if self.counts.queued_now > 0 {
            if now_us >= self.next_queue_look_us {
                self.serve_queues(cx);
                self.next_queue_look_us = now_us + QUEUE_INTERVAL_US;
            }
            let look_us = self.next_queue_look_us;
            next_us = Some(next_us.map_or(look_us, |next_us| next_us.min(look_us)));
        }
        next_us
    }

    fn report(&mut self, report: &mut RelayCounts) {
        self.counts.waiting_now = self.waiting.count();
        report.clone_from(&self.counts);
    }
}
