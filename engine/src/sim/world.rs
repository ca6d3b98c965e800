//! The world of one run: its clock, its random choices and its pending events.
//!
//! Invariants: events happen in order of time, those of one time in order of creation; time never
//! goes back; every random choice is drawn from the run's own generator.
//! Must not depend on: engines, handlers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::fault::{Fault, Faults};
use super::link::Link;
use super::listener::Listener;
use super::random::Random;
use super::script::Raw;
use super::socket::Socket;
use crate::token::Token;

/// A future event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// Bytes of a socket arrive at its peer.
    Deliver(u32),
    /// A socket's bytes are no longer held back.
    Uncork(u32),
    /// The network reports an error to a socket.
    Error(u32, i32),
    /// A connection carries nothing from now on.
    Cut(u32),
    /// A SYN arrives.
    Syn(u32),
    /// The answer to a SYN arrives.
    Answer(u32, i32),
    /// The kernel gives up an attempt to connect.
    GiveUp(u32),
    /// A worker of a ring runs.
    Worker(u32),
    /// A scripted peer takes its next step.
    Raw(u32),
}

/// Work that waits until a ring is entered.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// Sockets that changed.
    pub sockets: Vec<u32>,
    /// Listeners that changed.
    pub listeners: Vec<u32>,
    /// Wakers that were signalled.
    pub wakers: Vec<u32>,
    /// Workers that are due.
    pub workers: u32,
}

impl Mail {
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
            && self.listeners.is_empty()
            && self.wakers.is_empty()
            && self.workers == 0
    }
}

/// A world, shared by its nodes and peers. Never contended: a run has one thread. Handlers must be
/// `Send`, so it is no `Rc`.
pub type Shared = Arc<Mutex<World>>;

/// Locks a shared world.
pub(super) fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An event descriptor.
#[derive(Debug, Default)]
pub(super) struct WakerState {
    pub is_signalled: bool,
    /// The ring that polls it.
    pub ring: Option<u32>,
}

/// See the file's head.
pub struct World {
    pub(super) random: Random,
    pub(super) faults: Faults,
    pub(super) link: Link,
    pub(super) sockets: Vec<Socket>,
    pub(super) listeners: Vec<Listener>,
    pub(super) wakers: Vec<WakerState>,
    pub(super) raws: Vec<Raw>,
    pub(super) mail: Vec<Mail>,
    now_us: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    event_count: u64,
    trace: u64,
    is_told: bool,
    /// What one request costs the thread that submits it, microseconds.
    pub(super) request_us: u64,
    /// Ring and socket of the last completion: a connection that opens now is this one.
    pub(super) last_reaped: Option<u32>,
    /// Connections that were to be reset behind their bytes, and lost some.
    pub(super) resets_with_loss: u64,
    /// Shared buffers that were sent, as weak references.
    shared: Vec<Weak<[u8]>>,
}

impl World {
    /// A world whose behaviour and faults are drawn from `seed`.
    pub fn new(seed: u64) -> Shared {
        let mut random = Random::new(seed);
        let faults = Faults::draw(&mut random);
        Self::with_faults(random, faults)
    }

    /// A world without faults and with a fast network, where all threads share one processor and
    /// each request costs `request_us` microseconds.
    pub fn with_cost(seed: u64, request_us: u64) -> Shared {
        let world = Self::with_faults(Random::new(seed), Faults::none());
        let mut own = lock(&world);
        own.request_us = request_us;
        own.link.delay_us_max = 50;
        own.link.syn_again_us = 1_000_000;
        own.link.give_up_us = 130_000_000;
        own.link.unsent_max = 4_096;
        own.link.received_max = 4_096;
        own.link.backlog = 512;
        drop(own);
        world
    }

    /// Connections that were to be reset behind everything sent, and were before the peer's socket had it.
    pub fn resets_with_loss(&self) -> u64 {
        self.resets_with_loss
    }

    /// A world with these faults.
    pub fn with_faults(mut random: Random, faults: Faults) -> Shared {
        let link = Link::draw(&mut random);
        // Not zero, to catch code that works only there; near the wrap-around of 32-bit steps.
        let now_us = random.pick(&[0, 0, 1_000, 999_999, 77_777_777]);
        Arc::new(Mutex::new(World {
            random,
            faults,
            link,
            sockets: Vec::new(),
            listeners: Vec::new(),
            wakers: Vec::new(),
            raws: Vec::new(),
            mail: Vec::new(),
            now_us,
            events: BinaryHeap::new(),
            event_count: 0,
            trace: 0xCBF2_9CE4_8422_2325,
            is_told: false,
            request_us: 0,
            resets_with_loss: 0,
            last_reaped: None,
            shared: Vec::new(),
        }))
    }

    /// Prints every event, request and completion of the run as it happens.
    pub fn tell(&mut self) {
        self.is_told = true;
    }

    /// Engine time.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The run's random generator.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// How often each fault happened.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// A digest of everything that happened: equal for equal runs.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Adds an event to digest and trace.
    pub(super) fn note(&mut self, what: &'static str, values: [i64; 4], token: Option<Token>) {
        for word in [
            self.now_us,
            u64::from(what.as_bytes()[0]),
            what.len() as u64,
        ]
        .into_iter()
        .chain(values.map(|v| v as u64))
        {
            self.trace = (self.trace ^ word)
                .wrapping_mul(0x2545_F491_4F6C_DD1D)
                .rotate_left(23);
        }
        if self.is_told {
            let token =
                token.map(|t| format!("{:?} slot {} life {}", t.op(), t.slot(), t.generation()));
            println!(
                "{:>12} {what} {} {values:?}",
                self.now_us,
                token.unwrap_or_default()
            );
        }
    }

    pub(super) fn strikes(&mut self, fault: Fault) -> bool {
        self.faults.strikes(fault, &mut self.random)
    }

    /// Schedules `event` in `after_us`.
    pub(super) fn plan(&mut self, after_us: u64, event: Event) {
        self.event_count += 1;
        let at_us = self.now_us + after_us;
        self.events.push(Reverse((at_us, self.event_count, event)));
    }

    /// Time of the next event.
    pub(super) fn next_event_us(&self) -> Option<u64> {
        self.events.peek().map(|Reverse((at_us, ..))| *at_us)
    }

    /// Advances time to `until_us`, executing all events until then.
    pub(super) fn pass(&mut self, until_us: u64) {
        while let Some(Reverse((at_us, _, event))) = self.events.peek().copied() {
            if at_us > until_us {
                break;
            }
            self.events.pop();
            self.now_us = self.now_us.max(at_us);
            self.happen(event);
        }
        self.now_us = self.now_us.max(until_us);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(socket) => self.deliver(socket),
            Event::Uncork(socket) => self.uncork(socket),
            Event::Error(socket, errno) => self.fail(socket, errno),
            Event::Cut(socket) => self.cut(socket),
            Event::Syn(socket) => self.on_syn(socket),
            Event::Answer(socket, errno) => self.on_answer(socket, errno),
            Event::GiveUp(socket) => self.on_give_up(socket),
            Event::Worker(ring) => self.mail[ring as usize].workers += 1,
            Event::Raw(raw) => self.act(raw),
        }
    }

    pub(super) fn note_shared(&mut self, buffer: &Arc<[u8]>) {
        let is_known = |known: &Weak<[u8]>| std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(buffer));
        if !self.shared.iter().rev().take(8).any(is_known) {
            self.shared.push(Arc::downgrade(buffer));
        }
    }

    /// Shared buffers that were sent and that somebody still has: none at the end of a run, unless
    /// a handler keeps some.
    pub fn shared_count(&self) -> usize {
        let is_alive = |buffer: &&Weak<[u8]>| buffer.strong_count() > 0;
        self.shared.iter().filter(is_alive).count()
    }

    /// Adds an inbox for a ring; returns its number.
    pub(super) fn add_ring(&mut self) -> u32 {
        self.mail.push(Mail::default());
        self.mail.len() as u32 - 1
    }
}
