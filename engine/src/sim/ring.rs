//! A simulated ring: pushed, pending and completed requests, and the ledger of all of them.
//!
//! As with DEFER_TASKRUN, completions are posted only inside `enter`: first those of requests that
//! completed at once, in request order, then those of requests that had waited, in any order.
//! Completions that do not fit into the queue wait in a list, in order.
//! Invariants: those of [`Ring`]; the ledger tracks each request from its push until its last
//! completion is reaped.
//! Must not depend on: slots, phases, handlers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use super::fault::Fault;
use super::memory::Memory;
use super::page::Page;
use super::socket::Stage;
use super::waiting::Waiting;
use super::world::{Shared, World, lock};
use crate::config::{Config, SPARE_SLOTS};
use crate::error::Error;
use crate::ring::{AtHand, Completion, Request, Ring, Staged};
use crate::shard::audit::RingAudit;
use crate::token::{Op, Token};

/// See the file's head.
pub struct SimRing {
    pub(super) world: Shared,
    pub(super) number: u32,
    pub(super) memory: Memory,
    pub(super) pages: Vec<Page>,
    queue: VecDeque<(Token, Request)>,
    queue_max: usize,
    /// Requests that wait in the kernel.
    pub(super) waiting: Vec<Waiting>,
    /// Shutdowns that wait for a worker.
    pub(super) shutdowns: VecDeque<(Token, u32)>,
    /// Linked requests whose predecessor succeeded.
    pub(super) linked: Vec<(Token, Request)>,
    /// Completions of this entry, in order.
    pub(super) done: Vec<Completion>,
    completions: VecDeque<Completion>,
    completions_max: usize,
    overflow: VecDeque<Completion>,
    /// Completions that belong to no request.
    echoes: Vec<Token>,
    overflow_count: u64,
    /// The thread sleeps in this ring: completions are posted before it returns.
    is_asleep: bool,
}

impl SimRing {
    /// A ring for `config`. Its queues are small, so that they fill up sometimes.
    pub fn new(world: &Shared, config: &Config) -> Self {
        let mut own = lock(world);
        let number = own.add_ring();
        let mut queue_max = own.random.pick(&[5, 8, 32, 256]);
        let mut completions_max = own.random.pick(&[2, 8, 32, 2_048, 2_048]);
        if own.request_us > 0 {
            // What small queues make a turn do would count as slowness.
            (queue_max, completions_max) = (256, 2_048);
        }
        drop(own);
        SimRing {
            world: world.clone(),
            number,
            memory: Memory::new(config),
            pages: vec![Page::default(); config.ring_slots as usize],
            queue: VecDeque::new(),
            queue_max,
            waiting: Vec::new(),
            shutdowns: VecDeque::new(),
            linked: Vec::new(),
            done: Vec::new(),
            completions: VecDeque::new(),
            completions_max,
            overflow: VecDeque::new(),
            echoes: Vec::new(),
            overflow_count: 0,
            is_asleep: false,
        }
    }

    /// Room in the completion queue for one more, after those of this entry.
    pub(super) fn has_room(&self) -> bool {
        self.overflow.is_empty() && self.completions.len() + self.done.len() < self.completions_max
    }

    /// A silent request succeeded, or a linked one was cancelled: no completion is posted.
    pub(super) fn finish_silently(&mut self, token: Token) {
        self.note_end(token);
    }

    /// A request has completed.
    pub(super) fn complete(&mut self, token: Token, result: i32) {
        self.done.push(Completion {
            token,
            result,
            buffer: None,
            has_more: false,
            has_left: false,
        });
    }

    fn note_end(&mut self, token: Token) {
        if token.op().has_slot() {
            let page = &mut self.pages[token.slot() as usize];
            page.under_way[token.op() as usize] -= 1;
        }
    }

    /// Records a request in the ledger and checks that it is allowed.
    fn note_push(&mut self, token: Token, request: &Request) {
        if token.op().has_slot() {
            let is_spare = token.slot() >= self.pages.len() as u32 - SPARE_SLOTS;
            self.pages[token.slot() as usize].note_push(token, request, is_spare);
        }
    }

    fn post(&mut self, world: &mut World) {
        for completion in std::mem::take(&mut self.done) {
            let buffer = completion.buffer.map_or(-1, i64::from);
            let flags = i64::from(completion.has_more) * 2 + i64::from(completion.has_left);
            let values = [
                i64::from(completion.result),
                buffer,
                flags,
                i64::from(self.number),
            ];
            world.note("complete", values, Some(completion.token));
            if self.overflow.is_empty() && self.completions.len() < self.completions_max {
                self.completions.push_back(completion);
            } else {
                world.faults.count(Fault::Overflow);
                self.overflow.push_back(completion);
            }
        }
    }

    /// Posts a stale completion of an earlier connection in the slot. The kernel does not do this;
    /// the generation in each token protects the engine even so.
    fn echo(&mut self, world: &mut World) {
        if !world.strikes(Fault::Stale) {
            return;
        }
        let slot = world
            .random
            .below(u64::from(self.pages.len() as u32 - SPARE_SLOTS)) as u32
            % 4;
        let op = world
            .random
            .pick(&[Op::Poll, Op::Recv, Op::Connect, Op::Shutdown, Op::Writable]);
        let Some(token) = self.pages[slot as usize].token_before(slot, op) else {
            return;
        };
        if self.echoes.contains(&token) {
            return;
        }
        let has_bytes = op == Op::Recv && self.memory.has_free();
        self.echoes.push(token);
        self.done.push(Completion {
            token,
            result: if has_bytes { 1 } else { -libc::ECANCELED },
            buffer: has_bytes.then(|| self.memory.fill()),
            has_more: false,
            has_left: false,
        });
    }

    fn take_up_overflow(&mut self) {
        while self.completions.len() < self.completions_max {
            let Some(completion) = self.overflow.pop_front() else {
                break;
            };
            self.completions.push_back(completion);
        }
    }

    /// Inside the kernel: starts pushed requests, then executes those that became ready.
    fn run(&mut self) {
        let world = self.world.clone();
        let mut world = lock(&world);
        let spent_us = if world.strikes(Fault::SlowEntry) {
            world.random.magnitude(100, 50_000)
        } else {
            world.random.below(20)
        };
        let begun_us = world.now_us();
        let mut is_link_broken = false;
        let taken = self.taken_count(&mut world);
        let until_us = begun_us + spent_us + taken as u64 * world.request_us;
        for (token, request) in self.queue.drain(..taken).collect::<Vec<_>>() {
            if let Request::Connect { .. } = request {
                // Linked to the bind before it: starts when that has completed, after the requests
                // submitted with it.
                if std::mem::take(&mut is_link_broken) {
                    world.faults.count(Fault::LinkCancelled);
                    self.finish_silently(token);
                } else {
                    self.linked.push((token, request));
                }
                continue;
            }
            let is_bind = matches!(request, Request::Bind { .. });
            let is_ok = self.start(&mut world, token, request);
            is_link_broken = is_bind && !is_ok;
        }
        self.post(&mut world);
        for (token, request) in std::mem::take(&mut self.linked) {
            self.start(&mut world, token, request);
        }
        world.pass(until_us);
        self.work(&mut world);
        self.echo(&mut world);
        self.post(&mut world);
        self.take_up_overflow();
    }

    /// How many of the queued requests the kernel takes now. Never separates a connect from its
    /// bind. The real kernel may; a connect whose bind failed would then proceed, and client and
    /// server would count it differently.
    fn taken_count(&self, world: &mut World) -> usize {
        let count = self.queue.len();
        if count == 0 || !world.strikes(Fault::SubmittedPart) {
            return count;
        }
        let taken = world.random.below(count as u64) as usize;
        taken - usize::from(matches!(self.queue[taken].1, Request::Connect { .. }))
    }

    /// Shuts down the connection in `slot` now, even if bytes are still to be sent.
    pub(super) fn shut_down_early(&mut self, slot: u32) {
        let socket = self.pages[slot as usize].socket;
        lock(&self.world).shut_down(socket.expect("a connection has a socket"));
    }

    /// True if the connection in `slot` has been reset.
    pub(super) fn is_reset(&self, slot: u32) -> bool {
        let socket = self.pages[slot as usize].socket;
        socket.is_some_and(|socket| lock(&self.world).socket(socket).stage == Stage::Dead)
    }

    fn wake_up(&mut self) {
        if std::mem::take(&mut self.is_asleep) {
            let world = self.world.clone();
            let mut world = lock(&world);
            self.work(&mut world);
            self.post(&mut world);
            self.take_up_overflow();
        }
    }

    /// The ring is dropped with its thread: only closes may be unsubmitted, since dropping the ring
    /// closes its descriptors.
    pub(super) fn give_up(&self) -> Result<(), String> {
        for (slot, page) in self.pages.iter().enumerate() {
            let is_closing = self
                .queue
                .iter()
                .any(|(_, r)| matches!(r, Request::Close { slot: s } if *s as usize == slot));
            if page.socket.is_some() && !is_closing {
                return Err(format!("slot {slot} has a socket at the end"));
            }
        }
        if let Some(waiting) = self.waiting.iter().find(|w| w.token.op() != Op::Wake) {
            return Err(format!("{waiting:?} is under way at the end"));
        }
        let mut world = lock(&self.world);
        let sockets = self.pages.iter().filter_map(|page| page.socket);
        sockets.for_each(|socket| world.close(socket));
        Ok(())
    }

    /// True if a poll of a listener is pending or queued.
    pub(super) fn polls_listener(&self) -> bool {
        let waiting = self.waiting.iter().map(|w| w.token);
        let mut all = waiting.chain(self.queue.iter().map(|(token, _)| *token));
        all.any(|token| token.op() == Op::PollListener)
    }

    /// True if the last entry was allowed to sleep.
    pub(super) fn is_asleep(&self) -> bool {
        self.is_asleep
    }

    /// True if the thread may sleep: all requests are submitted, all completions reaped.
    pub(super) fn may_sleep(&self) -> bool {
        self.queue.is_empty() && self.completions.is_empty() && self.overflow.is_empty()
    }
}

impl Ring for SimRing {
    fn push(&mut self, token: Token, request: Request) -> Result<(), Error> {
        self.reserve(1)?;
        self.note_push(token, &request);
        self.memory.hold(&request);
        self.queue.push_back((token, request));
        Ok(())
    }

    fn wants_enter(&self) -> bool {
        !self.queue.is_empty()
            || self.is_overflowing()
            || !lock(&self.world).mail[self.number as usize].is_empty()
    }

    fn submit(&mut self, wait: Option<Duration>) -> Result<bool, Error> {
        if self.is_overflowing() {
            self.overflow_count += 1;
        }
        self.is_asleep = false;
        self.run();
        let is_empty = self.queue.is_empty();
        self.is_asleep = is_empty && wait.is_some() && self.completions.is_empty();
        Ok(is_empty)
    }

    fn now_us(&self) -> u64 {
        lock(&self.world).now_us()
    }

    fn has_completion(&self) -> bool {
        !self.completions.is_empty()
    }

    fn at_hand(&mut self) -> AtHand {
        self.wake_up();
        let mut ops = self.completions.iter().map(|c| c.token.op());
        AtHand {
            count: self.completions.len(),
            has_send: ops.any(|op| op == Op::Send),
            is_overflowing: self.is_overflowing(),
        }
    }

    fn reap(&mut self) -> Option<Completion> {
        self.wake_up();
        let completion = self.completions.pop_front()?;
        if let Some(buffer) = completion.buffer {
            self.memory.lend(buffer);
        }
        let token = completion.token;
        if let Some(place) = self.echoes.iter().position(|t| *t == token) {
            self.echoes.swap_remove(place);
        } else if !completion.has_more {
            self.note_end(token);
        }
        let socket = match token.op().has_slot() {
            false => None,
            true => self.pages[token.slot() as usize].socket,
        };
        lock(&self.world).last_reaped = socket;
        Some(completion)
    }

    fn bytes(&self, buffer: u16, length: usize) -> &[u8] {
        self.memory.bytes(buffer, length)
    }

    fn recycle(&mut self, buffer: u16) {
        self.memory.recycle(buffer);
    }

    fn add_buffers(&mut self) -> u16 {
        self.memory.add(self.memory.used_count())
    }

    fn reserve(&mut self, count: usize) -> Result<(), Error> {
        if self.queue_max - self.queue.len() < count {
            lock(&self.world).faults.count(Fault::QueueFull);
            self.enter(None)?;
        }
        Ok(())
    }

    fn trim(&mut self) {
        self.memory.trim();
    }

    fn stage(&mut self, half: usize, bytes: &[u8]) -> Option<Staged> {
        self.memory.stage(half, bytes)
    }

    fn staged(&self, staged: Staged) -> &[u8] {
        self.memory.staged(staged)
    }

    fn share(&mut self, half: usize, buffer: &Arc<[u8]>) -> u32 {
        lock(&self.world).note_shared(buffer);
        self.memory.share(half, buffer)
    }

    fn shared(&self, number: u32) -> &Arc<[u8]> {
        self.memory.shared(number)
    }

    fn unstage(&mut self, half: usize) {
        self.memory.unstage(half);
    }

    fn take_peer(&mut self, slot: u32) -> Option<SocketAddr> {
        self.pages[slot as usize].peer.take()
    }

    fn accept_queue_len(&self, listener: RawFd) -> u32 {
        lock(&self.world).waiting(listener)
    }

    fn is_overflowing(&self) -> bool {
        !self.overflow.is_empty()
    }

    fn overflow_count(&self) -> u64 {
        self.overflow_count
    }
}

impl RingAudit for SimRing {
    fn under_way(&self, op: Op, slot: u32) -> u8 {
        self.pages[slot as usize].under_way[op as usize]
    }

    fn has_descriptor(&self, slot: u32) -> bool {
        self.pages[slot as usize].socket.is_some()
    }

    fn buffer_count(&self) -> u16 {
        self.memory.used_count()
    }

    fn lent_count(&self) -> u16 {
        self.memory.lent_count()
    }

    fn audit(&self) -> Result<(), String> {
        self.memory.audit()
    }
}
