//! One shard: a ring, its slots, its wheel. The life of a connection, from top to bottom.
//!
//! A turn is `expire, (submit, dispatch)...`: due timers first, then as long as there is something to submit or to reap, up to
//! a bound that keeps one shard from starving its neighbours. Requests that never wait are done when `enter` returns, so what they
//! need (staged bytes, the record of a send) is kept for one `enter` only; there are two halves because the callbacks that
//! follow it already fill the next.
//! Invariants: at most one poll, one receive, one poll for room to send and one send of a connection are under way; a descriptor is
//! closed only when none of its polls and receives is; a connection counts in `open_now` from `on_open` to `on_close`.
//! Must not know: threads, other shards, protocols. Slots never see the ring, the ring never sees slots.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::Duration;

use crate::config::{BUFFER_COUNT, Config, TICK_US};
use crate::dial::Tuples;
use crate::error::{CloseReason, Error, OpenFailure};
use crate::handler::{Conn, Ending, Handler, TimerChange};
use crate::ring::{Completion, Request, Ring, Staged};
use crate::slot::{NONE, Phase, Slots, flag};
use crate::spread::Gate;
use crate::stats::Stats;
use crate::token::{Op, Token};
use crate::wheel::Wheel;

/// Rounds of submit and dispatch in one turn.
const ROUNDS_MAX: usize = 16;
/// Connections of one shard that are asked to end in one turn, when all are to.
const DRAINS_PER_TURN: u32 = 256;

/// What the shards of one thread share.
pub(crate) struct Context<'a, S> {
    pub config: &'a Config,
    pub gate: &'a Gate,
    pub stats: Stats,
    pub now_us: u64,
    pub tuples: Option<Tuples>,
    /// Attempts that met a taken address and want another.
    pub redial: Vec<S>,
    /// Listeners that became readable.
    pub listening: Vec<usize>,
    /// A listener had no more connections.
    pub is_accept_dry: bool,
    /// When a connection last ended in order, engine time.
    pub last_end_us: u64,
    /// All connections are to end.
    pub is_stopping: bool,
}

/// What a connection carries over: bytes its peer does not take yet, and bytes of an unfinished message.
#[derive(Default)]
struct Carry {
    outgoing: VecDeque<u8>,
    incoming: Vec<u8>,
    is_closing_after: bool,
    is_read_paused: bool,
}

impl Carry {
    fn is_empty(&self) -> bool {
        self.outgoing.is_empty()
            && self.incoming.is_empty()
            && !self.is_closing_after
            && !self.is_read_paused
    }
}

/// A send under way.
struct SendRecord {
    slot: u32,
    generation: u32,
    source: SendSource,
}

enum SendSource {
    Static(&'static [u8]),
    Staged(Staged),
    /// Staged from the front of the carry's outgoing bytes.
    Carry(Staged),
}

pub(crate) struct Shard<R, S> {
    ring: R,
    slots: Slots<S>,
    wheel: Wheel,
    /// Readable slots that wait for a receive buffer.
    readable: VecDeque<Token>,
    buffers_free: u16,
    sends: [Vec<SendRecord>; 2],
    half: usize,
    carries: HashMap<u32, Carry>,
    outgoing: Vec<u8>,
    draining_from: Option<u32>,
}

impl<R: Ring, S: Copy + Default> Shard<R, S> {
    pub fn new(ring: R, config: &Config, now_us: u64) -> Self {
        Shard {
            ring,
            slots: Slots::new(config.ring_capacity()),
            wheel: Wheel::new((now_us / TICK_US) as u32),
            readable: VecDeque::new(),
            buffers_free: BUFFER_COUNT,
            sends: [Vec::new(), Vec::new()],
            half: 0,
            carries: HashMap::new(),
            outgoing: Vec::new(),
            draining_from: None,
        }
    }

    pub fn room(&self) -> u32 {
        self.slots.room()
    }

    pub fn used_count(&self) -> u32 {
        self.slots.used_count()
    }

    pub fn ring(&self) -> &R {
        &self.ring
    }

    /// True if a turn would do something now.
    pub fn has_work(&self, now_us: u64) -> bool {
        self.ring.wants_enter()
            || self.ring.has_completion()
            || self.draining_from.is_some()
            || self.wheel.next_due_ticks().is_some_and(|t| {
                (((now_us / TICK_US) as u32).wrapping_sub(self.wheel.now().wrapping_add(t)) as i32)
                    >= 0
            })
    }

    /// When the next timer may be due, engine time.
    pub fn next_due_us(&self, now_us: u64) -> Option<u64> {
        let due = self.wheel.now().wrapping_add(self.wheel.next_due_ticks()?);
        let ahead = (due.wrapping_sub((now_us / TICK_US) as u32) as i32).max(0);
        Some((now_us / TICK_US + ahead as u64) * TICK_US)
    }

    // ---- beginnings -------------------------------------------------------------------------------------------------

    /// Waits for a listener to have connections.
    pub fn listen(&mut self, number: usize, listener: RawFd) -> Result<(), Error> {
        self.ring.push(
            Token::new(Op::Listen, number as u32, 0),
            Request::Listen { listener },
        )
    }

    /// Takes up to `count` connections from a listener. The gate has room for them, and so has this shard.
    pub fn accept(&mut self, listener: RawFd, count: u32) -> Result<(), Error> {
        for _ in 0..count {
            let slot = self
                .slots
                .take()
                .expect("the caller asked for no more than there is room");
            let token = Token::new(Op::Accept, slot, self.slots[slot].generation);
            self.ring.push(token, Request::Accept { listener, slot })?;
        }
        Ok(())
    }

    /// Takes up to `count` connections from a listener and resets them at once. They pass through the spare slots.
    pub fn refuse(&mut self, listener: RawFd, count: u32, config: &Config) -> Result<(), Error> {
        for spare in 0..count {
            let slot = config.ring_capacity() + spare;
            self.ring.push(
                Token::new(Op::Refuse, slot, 0),
                Request::Accept { listener, slot },
            )?;
            self.ring.push(
                Token::new(Op::Refuse, slot, 1),
                Request::ResetOnClose { slot },
            )?;
            self.ring
                .push(Token::new(Op::Refuse, slot, 1), Request::Close { slot })?;
        }
        Ok(())
    }

    /// Starts a connection. There is room.
    pub fn dial(
        &mut self,
        state: S,
        own_tuple: u32,
        source: SocketAddr,
        target: SocketAddr,
        ctx: &mut Context<'_, S>,
    ) -> Result<(), Error> {
        let slot = self
            .slots
            .take()
            .expect("the caller asked a shard with room");
        self.slots[slot].start_connecting(state, own_tuple);
        let generation = self.slots[slot].generation;
        ctx.stats.connecting_now += 1;
        self.ring.reserve(4)?;
        let is_ipv6 = target.is_ipv6();
        self.ring.push(
            Token::new(Op::Socket, slot, generation),
            Request::Socket { slot, is_ipv6 },
        )?;
        self.ring.push(
            Token::new(Op::Option, slot, generation),
            Request::ReuseAddress { slot },
        )?;
        self.ring.push(
            Token::new(Op::Bind, slot, generation),
            Request::Bind { slot, source },
        )?;
        self.ring.push(
            Token::new(Op::Connect, slot, generation),
            Request::Connect { slot, target },
        )?;
        self.set_timer(
            slot,
            ctx.now_us + ctx.config.connect_timeout.as_micros() as u64,
        );
        Ok(())
    }

    // ---- the turn ---------------------------------------------------------------------------------------------------

    /// Does what is at hand. Returns true if it did anything.
    pub fn turn<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
    ) -> Result<bool, Error> {
        self.drain_some(handler, ctx)?;
        self.expire(handler, ctx)?;
        let mut worked = false;
        for _ in 0..ROUNDS_MAX {
            worked |= self.dispatch(handler, ctx)?;
            self.start_receives()?;
            if !self.ring.wants_enter() {
                break;
            }
            self.enter(None)?;
            ctx.now_us = self.ring.now_us();
            worked = true;
        }
        Ok(worked)
    }

    /// Submits what is queued, and with `wait` sleeps until something completes.
    pub fn enter(&mut self, wait: Option<Duration>) -> Result<(), Error> {
        self.ring.enter(wait)?;
        if self.sends[1 - self.half].is_empty() {
            self.half = 1 - self.half;
        }
        Ok(())
    }

    /// Asks every open connection to end in order, a few each turn.
    pub fn start_drain(&mut self) {
        self.draining_from = Some(0);
    }

    /// Cuts every connection at once.
    pub fn cut_all<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
    ) -> Result<(), Error> {
        self.draining_from = None;
        for slot in 0..self.slots.touched_count() {
            match self.slots[slot].phase {
                Phase::Open | Phase::Draining => self.end(handler, ctx, slot, CloseReason::Cut)?,
                Phase::Connecting => self.give_up_connecting(slot, libc::ECANCELED)?,
                Phase::Free | Phase::Closing => {}
            }
        }
        Ok(())
    }

    fn drain_some<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
    ) -> Result<(), Error> {
        let Some(from) = self.draining_from else {
            return Ok(());
        };
        let until = self.slots.touched_count().min(from + DRAINS_PER_TURN);
        for slot in from..until {
            match self.slots[slot].phase {
                Phase::Open => self.end_in_order(handler, ctx, slot)?,
                Phase::Connecting => self.give_up_connecting(slot, libc::ECANCELED)?,
                _ => {}
            }
        }
        self.draining_from = (until < self.slots.touched_count()).then_some(until);
        Ok(())
    }

    fn expire<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
    ) -> Result<(), Error> {
        let now = (ctx.now_us / TICK_US) as u32;
        while let Some(slot) = self.wheel.expire(&mut self.slots, now) {
            self.on_timer(handler, ctx, slot)?;
        }
        Ok(())
    }

    /// Hands every completion at hand to its callback.
    fn dispatch<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
    ) -> Result<bool, Error> {
        let mut worked = false;
        while let Some(completion) = self.ring.reap() {
            worked = true;
            self.on_completion(handler, ctx, completion)?;
        }
        if !self.ring.is_overflowing() {
            self.settle(handler, ctx)?;
        }
        Ok(worked)
    }

    /// Every failure of the sends submitted by the last `enter` has been seen: the others went out whole.
    fn settle<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
    ) -> Result<(), Error> {
        let settled = 1 - self.half;
        let mut records = std::mem::take(&mut self.sends[settled]);
        for record in records.drain(..) {
            let slot = record.slot;
            if self.slots[slot].generation != record.generation {
                continue;
            }
            self.slots[slot].clear(flag::SENDING);
            if self.slots[slot].has(flag::CARRY) && self.slots[slot].phase == Phase::Open {
                if let (SendSource::Carry(staged), Some(carry)) =
                    (record.source, self.carries.get_mut(&slot))
                {
                    carry.outgoing.drain(..staged.length as usize);
                }
                self.flush_carry(handler, ctx, slot)?;
            }
        }
        self.sends[settled] = records;
        self.ring.unstage(settled);
        Ok(())
    }

    fn on_completion<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        completion: Completion,
    ) -> Result<(), Error> {
        let Completion {
            token,
            result,
            buffer,
        } = completion;
        let slot = token.slot();
        match token.op() {
            Op::Listen => {
                ctx.listening.push(slot as usize);
                return Ok(());
            }
            Op::Refuse => {
                if token.generation() == 0 && result >= 0 {
                    ctx.stats.refused_full += 1;
                } else if result == -libc::EAGAIN {
                    ctx.is_accept_dry = true;
                }
                return Ok(());
            }
            _ => {}
        }
        if self
            .slots
            .at(slot)
            .is_none_or(|s| s.generation != token.generation() || is_stale(s.phase, token.op()))
        {
            if let Some(buffer) = buffer {
                self.give_back(buffer);
            }
            // A silent request that failed because its connection ended meanwhile is no surprise.
            if !matches!(token.op(), Op::Send | Op::Shutdown | Op::Cancel) {
                ctx.stats.stale_completions += 1;
            }
            return Ok(());
        }
        match token.op() {
            Op::Accept => self.on_accept(handler, ctx, slot, result),
            Op::Socket => {
                self.slots[slot].errno = -result as u16;
                Ok(())
            }
            Op::Bind => self.on_connect(handler, ctx, slot, result, Op::Bind),
            Op::Connect => self.on_connect(handler, ctx, slot, result, Op::Connect),
            Op::Poll => self.on_poll(handler, ctx, slot, result),
            Op::Writable => self.on_writable(handler, ctx, slot),
            Op::Recv => self.on_recv(handler, ctx, slot, result, buffer),
            Op::Send => self.on_send_short(handler, ctx, token, result),
            Op::Option | Op::Close => {
                ctx.stats.unexpected += 1;
                Ok(())
            }
            Op::Shutdown | Op::Cancel => Ok(()),
            Op::Listen | Op::Refuse => unreachable!("handled above"),
        }
    }

    // ---- on_accept -> on_recv -> handler -> on_send -> on_timer -> on_close ------------------------------------------

    fn on_accept<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
        result: i32,
    ) -> Result<(), Error> {
        if result < 0 {
            self.slots.release(slot);
            ctx.gate.give_back(1);
            if result == -libc::EAGAIN {
                ctx.is_accept_dry = true;
            } else {
                ctx.stats.accept_failed[OpenFailure::from_errno(-result) as usize] += 1;
            }
            return Ok(());
        }
        self.slots[slot].accepted();
        ctx.gate.keep();
        ctx.stats.accepted += 1;
        self.on_open(handler, ctx, slot)
    }

    /// An attempt ended: the bind failed, or the connect did or did not.
    fn on_connect<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
        result: i32,
        op: Op,
    ) -> Result<(), Error> {
        self.wheel.clear(&mut self.slots, slot);
        ctx.stats.connecting_now -= 1;
        if result >= 0 && self.slots[slot].errno == 0 {
            self.slots[slot].connected();
            ctx.stats.opened += 1;
            return self.on_open(handler, ctx, slot);
        }
        let earlier = self.slots[slot].dial_failure();
        let is_taken = earlier.is_none()
            && (result == -libc::EADDRINUSE
                || (op == Op::Connect && result == -libc::EADDRNOTAVAIL));
        let state = self.slots[slot].state;
        let has_socket = !matches!(
            earlier,
            Some(OpenFailure::NoDescriptor | OpenFailure::NoMemory)
        );
        if has_socket {
            self.ring.push(
                Token::new(Op::Close, slot, self.slots[slot].generation),
                Request::Close { slot },
            )?;
        }
        self.release(ctx, slot);
        if is_taken {
            ctx.stats.address_in_use += 1;
            ctx.redial.push(state);
        } else {
            let failure = earlier.unwrap_or_else(|| OpenFailure::from_errno(-result));
            ctx.stats.failed[failure as usize] += 1;
            handler.on_open_failed(&state, failure, ctx.now_us);
        }
        Ok(())
    }

    fn on_open<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
    ) -> Result<(), Error> {
        ctx.stats.open_now += 1;
        ctx.stats.open_max = ctx.stats.open_max.max(ctx.stats.open_now);
        self.call(handler, ctx, slot, |handler, conn| handler.on_open(conn))?;
        self.park(slot)
    }

    /// Waits for the connection's next bytes, if it is still to be read.
    fn park(&mut self, slot: u32) -> Result<(), Error> {
        let entry = &mut self.slots[slot];
        if matches!(entry.phase, Phase::Open | Phase::Draining)
            && entry.flags & (flag::POLL | flag::RECV) == 0
        {
            entry.set(flag::POLL);
            let token = Token::new(Op::Poll, slot, entry.generation);
            self.ring.push(
                token,
                Request::Poll {
                    slot,
                    writable: false,
                },
            )?;
        }
        Ok(())
    }

    fn on_poll<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
        result: i32,
    ) -> Result<(), Error> {
        self.slots[slot].clear(flag::POLL);
        if self.slots[slot].phase == Phase::Closing {
            return self.try_finish(handler, ctx, slot);
        }
        if result < 0 {
            return self.end(handler, ctx, slot, CloseReason::from_errno(-result));
        }
        if let Some(carry) = self
            .carries
            .get_mut(&slot)
            .filter(|c| !c.outgoing.is_empty())
        {
            // Back-pressure: a peer that does not take our bytes is not read either.
            carry.is_read_paused = true;
            return Ok(());
        }
        self.want_receive(slot);
        Ok(())
    }

    fn want_receive(&mut self, slot: u32) {
        let entry = &mut self.slots[slot];
        entry.set(flag::RECV);
        self.readable
            .push_back(Token::new(Op::Recv, slot, entry.generation));
    }

    fn start_receives(&mut self) -> Result<(), Error> {
        while self.buffers_free > 0 {
            let Some(token) = self.readable.pop_front() else {
                break;
            };
            self.buffers_free -= 1;
            self.ring
                .push(token, Request::Recv { slot: token.slot() })?;
        }
        Ok(())
    }

    fn give_back(&mut self, buffer: u16) {
        self.ring.recycle(buffer);
    }

    fn on_recv<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
        result: i32,
        buffer: Option<u16>,
    ) -> Result<(), Error> {
        self.buffers_free += 1;
        self.slots[slot].clear(flag::RECV);
        if self.slots[slot].phase == Phase::Closing {
            if let Some(buffer) = buffer {
                self.give_back(buffer);
            }
            return self.try_finish(handler, ctx, slot);
        }
        match result {
            1.. => {
                let buffer = buffer.expect("received bytes lie in a buffer");
                ctx.stats.bytes_received += result as u64;
                self.on_bytes(handler, ctx, slot, buffer, result as usize)?;
                self.park(slot)
            }
            0 => {
                if let Some(buffer) = buffer {
                    self.give_back(buffer);
                }
                let reason = match self.slots[slot].phase {
                    Phase::Draining => CloseReason::ByUs,
                    _ => CloseReason::PeerClosed,
                };
                self.end(handler, ctx, slot, reason)
            }
            errno if errno == -libc::EAGAIN || errno == -libc::EINTR => self.park(slot),
            errno if errno == -libc::ENOBUFS => {
                ctx.stats.buffer_shortages += 1;
                self.want_receive(slot);
                Ok(())
            }
            errno => self.end(handler, ctx, slot, CloseReason::from_errno(-errno)),
        }
    }

    fn on_bytes<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
        buffer: u16,
        length: usize,
    ) -> Result<(), Error> {
        // The bytes are lent to the handler from the ring's memory, so the rest of the shard is borrowed apart from it.
        let is_blocked = self.is_blocked(slot);
        let mut joined = self
            .carries
            .get_mut(&slot)
            .map(|c| std::mem::take(&mut c.incoming))
            .unwrap_or_default();
        let fresh = self.ring.bytes(buffer, length);
        let bytes = if joined.is_empty() {
            fresh
        } else {
            joined.extend_from_slice(fresh);
            &joined
        };
        let mut conn = Conn::new(
            &mut self.slots[slot].state,
            ctx.now_us,
            is_blocked,
            &mut self.outgoing,
        );
        let used = handler.on_bytes(&mut conn, bytes);
        let intentions = conn.into_intentions();
        assert!(
            used <= bytes.len(),
            "a handler cannot use more than it was given"
        );
        let rest = if used < bytes.len() {
            bytes[used..].to_vec()
        } else {
            Vec::new()
        };
        self.give_back(buffer);
        if !rest.is_empty() {
            if rest.len() > ctx.config.carry_bytes_max {
                self.outgoing.clear();
                return self.end(handler, ctx, slot, CloseReason::TooMuch);
            }
            self.slots[slot].set(flag::CARRY);
            self.carries.entry(slot).or_default().incoming = rest;
        } else {
            self.drop_carry_if_empty(slot);
        }
        self.perform(handler, ctx, slot, intentions)
    }

    fn on_timer<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
    ) -> Result<(), Error> {
        match self.slots[slot].phase {
            Phase::Connecting => self.give_up_connecting(slot, libc::ETIMEDOUT),
            Phase::Open if self.carries.get(&slot).is_some_and(|c| c.is_closing_after) => {
                self.end(handler, ctx, slot, CloseReason::Cut)
            }
            Phase::Open => self.call(handler, ctx, slot, |handler, conn| handler.on_timer(conn)),
            Phase::Draining => {
                // Ending a million at once takes longer than one may take: nobody is cut while ends still come back.
                let patient_until = ctx.last_end_us + ctx.config.drain_timeout.as_micros() as u64;
                if ctx.is_stopping && patient_until > ctx.now_us {
                    self.set_timer(slot, patient_until);
                    return Ok(());
                }
                self.end(handler, ctx, slot, CloseReason::Cut)
            }
            Phase::Free | Phase::Closing => unreachable!("a slot in this phase is off the wheel"),
        }
    }

    /// Runs one callback on a connection and does what it wants done.
    fn call<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
        callback: impl FnOnce(&mut H, &mut Conn<'_, S>),
    ) -> Result<(), Error> {
        let is_blocked = self.is_blocked(slot);
        let mut conn = Conn::new(
            &mut self.slots[slot].state,
            ctx.now_us,
            is_blocked,
            &mut self.outgoing,
        );
        callback(handler, &mut conn);
        let intentions = conn.into_intentions();
        self.perform(handler, ctx, slot, intentions)
    }

    fn perform<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
        intentions: crate::handler::Intentions,
    ) -> Result<(), Error> {
        if self.slots[slot].phase != Phase::Open {
            // Draining: what arrives still counts, but nothing more is sent, and the timer is the drain's.
            self.outgoing.clear();
            return match intentions.ending {
                Some(Ending::Now(reason)) => self.end(handler, ctx, slot, reason),
                _ => Ok(()),
            };
        }
        match intentions.timer {
            TimerChange::Keep => {}
            TimerChange::Off => self.wheel.clear(&mut self.slots, slot),
            TimerChange::At(at_us) => self.set_timer(slot, at_us),
        }
        if !intentions.outgoing_static.is_empty() {
            self.send_static(handler, ctx, slot, intentions.outgoing_static)?;
        } else if !self.outgoing.is_empty() {
            let outgoing = std::mem::take(&mut self.outgoing);
            self.send_copy(handler, ctx, slot, &outgoing)?;
            self.outgoing = outgoing;
            self.outgoing.clear();
        }
        match intentions.ending {
            None => Ok(()),
            _ if self.slots[slot].phase != Phase::Open => Ok(()),
            Some(Ending::InOrder) => self.end_in_order(handler, ctx, slot),
            Some(Ending::Now(reason)) => self.end(handler, ctx, slot, reason),
        }
    }

    fn set_timer(&mut self, slot: u32, at_us: u64) {
        self.wheel
            .set(&mut self.slots, slot, at_us.div_ceil(TICK_US) as u32);
    }

    // ---- sending ----------------------------------------------------------------------------------------------------

    fn is_blocked(&self, slot: u32) -> bool {
        self.slots[slot].has(flag::CARRY)
            && self
                .carries
                .get(&slot)
                .is_some_and(|c| !c.outgoing.is_empty())
    }

    fn send_static<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
        bytes: &'static [u8],
    ) -> Result<(), Error> {
        if self.slots[slot].has(flag::SENDING) || self.is_blocked(slot) {
            return self.carry_out(handler, ctx, slot, bytes);
        }
        self.submit_send(
            ctx,
            slot,
            Request::SendStatic { slot, bytes },
            SendSource::Static(bytes),
        )
    }

    fn send_copy<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
        bytes: &[u8],
    ) -> Result<(), Error> {
        if self.slots[slot].has(flag::SENDING) || self.is_blocked(slot) {
            return self.carry_out(handler, ctx, slot, bytes);
        }
        match self.ring.stage(self.half, bytes) {
            Some(staged) => self.submit_send(
                ctx,
                slot,
                Request::SendStaged { slot, staged },
                SendSource::Staged(staged),
            ),
            None => {
                self.carry_out(handler, ctx, slot, bytes)?;
                self.want_writable(slot)
            }
        }
    }

    fn submit_send(
        &mut self,
        ctx: &mut Context<'_, S>,
        slot: u32,
        request: Request,
        source: SendSource,
    ) -> Result<(), Error> {
        let generation = self.slots[slot].generation;
        self.slots[slot].set(flag::SENDING);
        ctx.stats.sends += 1;
        self.sends[self.half].push(SendRecord {
            slot,
            generation,
            source,
        });
        self.ring
            .push(Token::new(Op::Send, slot, generation), request)
    }

    /// Keeps bytes the peer does not take yet; too many end the connection.
    fn carry_out<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
        bytes: &[u8],
    ) -> Result<(), Error> {
        self.slots[slot].set(flag::CARRY);
        let carry = self.carries.entry(slot).or_default();
        if carry.outgoing.len() + bytes.len() > ctx.config.carry_bytes_max {
            return self.end(handler, ctx, slot, CloseReason::Stalled);
        }
        carry.outgoing.extend(bytes);
        Ok(())
    }

    /// The kernel took less than all: keep the rest until there is room.
    fn on_send_short<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        token: Token,
        result: i32,
    ) -> Result<(), Error> {
        let slot = token.slot();
        ctx.stats.sends -= 1;
        ctx.stats.sends_short += 1;
        if self.slots[slot].phase != Phase::Open {
            return Ok(());
        }
        if result < 0 && result != -libc::EAGAIN && result != -libc::EINTR {
            return self.end(handler, ctx, slot, CloseReason::from_errno(-result));
        }
        let taken = result.max(0) as usize;
        let is_ours = |r: &&SendRecord| r.slot == slot && r.generation == token.generation();
        let [first, second] = &self.sends;
        let record = first
            .iter()
            .chain(second)
            .find(is_ours)
            .expect("a send is on record until it is settled");
        let carry = self.carries.entry(slot).or_default();
        match record.source {
            SendSource::Static(bytes) => bytes[taken..]
                .iter()
                .rev()
                .for_each(|b| carry.outgoing.push_front(*b)),
            SendSource::Staged(staged) => {
                self.ring.staged(staged)[taken..]
                    .iter()
                    .rev()
                    .for_each(|b| carry.outgoing.push_front(*b));
            }
            SendSource::Carry(_) => drop(carry.outgoing.drain(..taken)),
        }
        self.slots[slot].set(flag::CARRY);
        self.sends.iter_mut().for_each(|half| {
            half.retain(|r| !(r.slot == slot && r.generation == token.generation()));
        });
        self.slots[slot].clear(flag::SENDING);
        if self.carries[&slot].outgoing.len() > ctx.config.carry_bytes_max {
            return self.end(handler, ctx, slot, CloseReason::Stalled);
        }
        self.want_writable(slot)
    }

    fn want_writable(&mut self, slot: u32) -> Result<(), Error> {
        let entry = &mut self.slots[slot];
        if entry.phase == Phase::Open && !entry.has(flag::WRITABLE) {
            entry.set(flag::WRITABLE);
            let token = Token::new(Op::Writable, slot, entry.generation);
            self.ring.push(
                token,
                Request::Poll {
                    slot,
                    writable: true,
                },
            )?;
        }
        Ok(())
    }

    fn on_writable<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
    ) -> Result<(), Error> {
        self.slots[slot].clear(flag::WRITABLE);
        match self.slots[slot].phase {
            Phase::Closing => self.try_finish(handler, ctx, slot),
            Phase::Open => self.flush_carry(handler, ctx, slot),
            _ => Ok(()),
        }
    }

    /// Sends what was kept, or when nothing is left takes up what waited for that.
    fn flush_carry<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
    ) -> Result<(), Error> {
        let Some(carry) = self.carries.get_mut(&slot) else {
            return Ok(());
        };
        if self.slots[slot].flags & (flag::SENDING | flag::WRITABLE) != 0 {
            return Ok(());
        }
        if !carry.outgoing.is_empty() {
            let staged = self.ring.stage(self.half, carry.outgoing.make_contiguous());
            return match staged {
                Some(staged) => self.submit_send(
                    ctx,
                    slot,
                    Request::SendStaged { slot, staged },
                    SendSource::Carry(staged),
                ),
                None => self.want_writable(slot),
            };
        }
        let is_closing_after = std::mem::take(&mut carry.is_closing_after);
        let is_read_paused = std::mem::take(&mut carry.is_read_paused);
        self.drop_carry_if_empty(slot);
        if is_closing_after {
            self.end_in_order(handler, ctx, slot)?;
        }
        if is_read_paused && self.slots[slot].flags & flag::RECV == 0 {
            self.want_receive(slot);
        }
        Ok(())
    }

    fn drop_carry_if_empty(&mut self, slot: u32) {
        if self.slots[slot].has(flag::CARRY) && self.carries.get(&slot).is_none_or(Carry::is_empty)
        {
            self.carries.remove(&slot);
            self.slots[slot].clear(flag::CARRY);
        }
    }

    // ---- endings ----------------------------------------------------------------------------------------------------

    /// Stops an attempt; its completion brings the end.
    fn give_up_connecting(&mut self, slot: u32, errno: i32) -> Result<(), Error> {
        self.wheel.clear(&mut self.slots, slot);
        let entry = &mut self.slots[slot];
        if entry.errno == 0 {
            entry.errno = errno as u16;
        }
        let token = Token::new(Op::Connect, slot, entry.generation);
        let cancel = Token::new(Op::Cancel, slot, entry.generation);
        self.ring.push(cancel, Request::Cancel { token })
    }

    /// Says our end and reads on until the peer's.
    fn end_in_order<H: Handler<State = S>>(
        &mut self,
        _handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
    ) -> Result<(), Error> {
        self.set_timer(
            slot,
            ctx.now_us + ctx.config.drain_timeout.as_micros() as u64,
        );
        if self.is_blocked(slot) || self.slots[slot].has(flag::SENDING) {
            self.slots[slot].set(flag::CARRY);
            self.carries.entry(slot).or_default().is_closing_after = true;
            return Ok(());
        }
        self.slots[slot].start_draining();
        let token = Token::new(Op::Shutdown, slot, self.slots[slot].generation);
        self.ring
            .push(token, Request::Shutdown { slot, both: false })?;
        self.park(slot)
    }

    /// Ends a connection at once: when nothing of it is in flight now, else when that has come back.
    fn end<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
        reason: CloseReason,
    ) -> Result<(), Error> {
        if self.slots[slot].phase == Phase::Closing {
            return Ok(());
        }
        self.wheel.clear(&mut self.slots, slot);
        self.slots[slot].start_closing(reason as u16);
        if self.slots[slot].flags & flag::IN_FLIGHT != 0 {
            let token = Token::new(Op::Shutdown, slot, self.slots[slot].generation);
            return self
                .ring
                .push(token, Request::Shutdown { slot, both: true });
        }
        self.try_finish(handler, ctx, slot)
    }

    fn try_finish<H: Handler<State = S>>(
        &mut self,
        handler: &mut H,
        ctx: &mut Context<'_, S>,
        slot: u32,
    ) -> Result<(), Error> {
        if self.slots[slot].flags & flag::IN_FLIGHT != 0 {
            return Ok(());
        }
        let reason = CloseReason::ALL[usize::from(self.slots[slot].errno)];
        self.ring.push(
            Token::new(Op::Close, slot, self.slots[slot].generation),
            Request::Close { slot },
        )?;
        ctx.stats.open_now -= 1;
        ctx.stats.closed[reason as usize] += 1;
        if matches!(reason, CloseReason::ByUs | CloseReason::PeerClosed) {
            ctx.last_end_us = ctx.now_us;
        }
        let state = self.slots[slot].state;
        self.release(ctx, slot);
        handler.on_close(&state, reason, ctx.now_us);
        Ok(())
    }

    /// Frees the slot. Safe before the close is submitted: requests run in order, so whatever takes the slot next comes after it.
    fn release(&mut self, ctx: &mut Context<'_, S>, slot: u32) {
        self.carries.remove(&slot);
        self.slots[slot].clear(flag::CARRY);
        if self.slots[slot].has(flag::ACCEPTED) {
            ctx.gate.leave();
        }
        let own_tuple = self.slots[slot].tuple;
        if own_tuple != NONE {
            ctx.tuples
                .as_mut()
                .expect("only a dialled slot has a tuple")
                .release(own_tuple);
        }
        self.slots.release(slot);
    }
}

/// True if a completion of `op` cannot belong to a slot in `phase`.
fn is_stale(phase: Phase, op: Op) -> bool {
    match phase {
        Phase::Free => op != Op::Accept,
        Phase::Connecting => !matches!(
            op,
            Op::Socket | Op::Option | Op::Bind | Op::Connect | Op::Cancel
        ),
        Phase::Open | Phase::Draining | Phase::Closing => {
            matches!(op, Op::Accept | Op::Socket | Op::Bind | Op::Connect)
        }
    }
}
