//! One shard and its turn: submit, dispatch, timers.
//!
//! A turn is `expire, (submit, dispatch)...`: due timers first, then as long as there is something
//! to submit or to reap, each up to the shard's share, which keeps one shard from starving its
//! neighbours, and all of them from starving new connections. Requests
//! that never wait are done when `enter` returns, so what they need (staged bytes, the record of a
//! send) is kept for one `enter` only; there are two halves because the callbacks that follow it
//! already fill the next.
//! Invariants: at most one poll, one receive, one poll for room to send, one watch and one send of
//! a connection are under way; a descriptor is closed only when none of its polls, receives and
//! shutdowns is; a connection counts in `open_now` from `on_open` to `on_close`.
//! Must not depend on: threads, other shards, protocols. Slots never see the ring, the ring never
//! sees slots.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use super::pending::{LinkEvent, Pending, SendRecords};
use super::sweep::Sweep;
use crate::attempt::DialId;
use crate::config::{BUFFER_COUNT, Config, TICK_US};
use crate::context::Recorder;
use crate::dial::Tuples;
use crate::error::{Error, OpenFailure};
use crate::handler::Handler;
use crate::id::ConnId;
use crate::limiter::ConnectionLimiter;
use crate::ring::{AtHand, Completion, Ring};
use crate::share::EVENTS_PER_CLOCK;
use crate::slot::{Phase, Slots};
use crate::stats::{Stats, Work};
use crate::token::{Op, Token};
use crate::wheel::Wheel;

/// Rounds of submit and dispatch in one turn.
const ROUNDS_MAX: usize = 16;

/// What the shards of one thread share.
pub(crate) struct CoreContext<'a, H: Handler> {
    pub handler: H,
    pub config: &'a Config,
    pub limiter: &'a ConnectionLimiter,
    pub stats: Stats,
    pub now_us: u64,
    pub tuples: Option<Tuples>,
    /// Attempts that met a taken address and want another.
    pub redial: Vec<(DialId, H::State)>,
    /// Listeners that became readable.
    pub listening: Vec<usize>,
    /// The address of each listener, if its connections have it.
    pub listener_addresses: Vec<Option<SocketAddr>>,
    /// The poll of the thread's waker has completed.
    pub is_woken: bool,
    /// When a connection last ended in order, engine time.
    pub last_end_us: u64,
    /// All connections are to end.
    pub is_stopping: bool,
    /// At once.
    pub is_aborting: bool,
    /// A callback ran since the handler's last `on_turn`: it may have asked for another deadline.
    pub has_called: bool,
    /// Work that the turn postponed, by [`Work`].
    pub postponed: [bool; Work::ALL.len()],
    /// What callbacks record.
    pub recorder: Recorder<H::State>,
}

impl<H: Handler> CoreContext<'_, H> {
    /// An attempt failed: counts it and tells the handler. Its id is stale from now on.
    pub fn fail(
        &mut self,
        id: DialId,
        state: &H::State,
        failure: OpenFailure,
        target: Option<SocketAddr>,
    ) {
        self.recorder.thread.attempts.remove(id);
        self.stats.count_failed(failure, target);
        self.has_called = true;
        let mut cx = self.recorder.context(self.now_us);
        self.handler.on_open_failed(&mut cx, id, state, failure);
    }
}

pub(crate) struct Shard<R, H: Handler> {
    /// Its number among those of its thread.
    pub(super) number: u16,
    pub(super) ring: R,
    pub(super) slots: Slots<H::State>,
    pub(super) wheel: Wheel,
    /// Readable slots that wait for a receive buffer.
    pub(super) readable: VecDeque<Token>,
    /// Receive buffers in use by the ring.
    pub(super) buffers_count: u16,
    /// Receives that must not wait and may still be started, so that each finds a buffer.
    pub(super) buffers_free: u16,
    /// What slots are to be told of their partners; empty between turns.
    pub(super) link_events: VecDeque<(u32, u32, LinkEvent)>,
    /// Every accepted connection is to have a partner.
    pub(super) pairs: bool,
    /// Accepted connections that are to have a partner and have none: each may need a slot.
    pub(super) unpaired_count: u32,
    /// Receive buffers that sends under way read.
    pub(super) lent_count: u16,
    pub(super) sweep: Sweep,
    pub(super) sends: SendRecords,
    pub(super) half: usize,
    /// Somebody waits for sends to be settled: the next `enter` must not sleep.
    pub(super) must_settle: bool,
    /// Likewise, and that `enter` was made: the next dispatch settles them.
    pub(super) is_settle_due: bool,
    pub(super) pending: HashMap<u32, Pending>,
    /// Slots whose pending bytes wait for room in the staging region.
    pub(super) unstaged: VecDeque<Token>,
    pub(super) draining_from: Option<u32>,
    /// Slots from here on are not open, or `on_stop` was called for them.
    pub(super) newest: u32,
}

impl<R: Ring, H: Handler> Shard<R, H> {
    pub fn new(number: usize, ring: R, config: &Config, now_us: u64) -> Self {
        Shard {
            number: number as u16,
            ring,
            slots: Slots::new(config.ring_capacity()),
            wheel: Wheel::new((now_us / TICK_US) as u32),
            readable: VecDeque::new(),
            buffers_count: BUFFER_COUNT,
            buffers_free: BUFFER_COUNT,
            link_events: VecDeque::new(),
            pairs: config.pairs,
            unpaired_count: 0,
            lent_count: 0,
            sweep: Sweep::default(),
            sends: SendRecords::default(),
            half: 0,
            must_settle: false,
            is_settle_due: false,
            pending: HashMap::new(),
            unstaged: VecDeque::new(),
            draining_from: None,
            newest: 0,
        }
    }

    /// Slots that nobody will need.
    pub fn room(&self) -> u32 {
        self.slots.room() - self.unpaired_count
    }

    /// Connections that may be accepted.
    pub fn room_to_accept(&self) -> u32 {
        match self.pairs {
            true => self.room() / 2,
            false => self.room(),
        }
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
            || self.must_settle
            || self.is_settle_due
            || !self.readable.is_empty()
            || self.ring.has_completion()
            || self.draining_from.is_some()
            || self.sweep.next_due_us().is_some_and(|due| due <= now_us)
            || self.has_due_timer(now_us)
    }

    fn has_due_timer(&self, now_us: u64) -> bool {
        self.wheel.next_due_ticks().is_some_and(|t| {
            (((now_us / TICK_US) as u32).wrapping_sub(self.wheel.now().wrapping_add(t)) as i32) >= 0
        })
    }

    /// When a timer or a sweep may be due next, engine time.
    pub fn next_due_us(&self, now_us: u64) -> Option<u64> {
        let timer_us = self.wheel.next_due_ticks().map(|ticks| {
            let due = self.wheel.now().wrapping_add(ticks);
            let ahead = (due.wrapping_sub((now_us / TICK_US) as u32) as i32).max(0);
            (now_us / TICK_US + ahead as u64) * TICK_US
        });
        timer_us.into_iter().chain(self.sweep.next_due_us()).min()
    }

    /// Does what is at hand, up to `share` timers and as many completions. Returns true if it did
    /// anything. With `may_leave`, requests that nobody waits for are left for the `enter` that also
    /// sleeps: one entry into the kernel instead of two.
    pub fn turn(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        may_leave: bool,
        share: usize,
    ) -> Result<bool, Error> {
        self.drain_some(ctx, share as u32)?;
        self.expire(ctx, share)?;
        self.tell_partners(ctx)?;
        self.sweep_some(ctx)?;
        let mut worked = false;
        let mut left = share;
        for _ in 0..ROUNDS_MAX {
            let handled = self.dispatch(ctx, left)?;
            left = left.saturating_sub(handled);
            worked |= handled > 0;
            self.start_receives()?;
            // A full queue may have submitted the sends somebody waits for: only an `enter` settles
            // them.
            if self.must_settle || !may_leave && self.ring.wants_enter() {
                self.enter(None)?;
                ctx.now_us = self.ring.now_us();
                worked = true;
            } else if !self.ring.has_completion() {
                return Ok(worked);
            }
            if left == 0 {
                break;
            }
        }
        ctx.postponed[Work::Receives as usize] |= self.ring.has_completion();
        Ok(worked)
    }

    /// Submits what is queued, and with `wait` sleeps until something completes.
    pub fn enter(&mut self, wait: Option<Duration>) -> Result<(), Error> {
        // A callback behind this shard's turn may have asked for bytes that are there.
        // And a turn has a bounded number of rounds, so it may end between an `enter` and the
        // settling that somebody waits for.
        let is_idle = !self.must_settle && !self.is_settle_due && self.readable.is_empty();
        self.ring.enter(wait.filter(|_| is_idle))?;
        if self.sends.is_empty(1 - self.half) {
            self.half = 1 - self.half;
            self.is_settle_due |= self.must_settle;
            self.must_settle = false;
        }
        Ok(())
    }

    /// Fires up to `share` due timers, the longest due first.
    fn expire(&mut self, ctx: &mut CoreContext<'_, H>, share: usize) -> Result<(), Error> {
        let now = (ctx.now_us / TICK_US) as u32;
        for number in 0..share {
            let Some(slot) = self.wheel.expire(&mut self.slots, now) else {
                return Ok(());
            };
            if number == 0 {
                // The wheel stands at the deadline of what it hands out.
                let late_ticks = (now.wrapping_sub(self.wheel.now()) as i32).max(0);
                let late_us = late_ticks as u64 * TICK_US;
                let latest_us = &mut ctx.stats.timer_late_us_max;
                *latest_us = late_us.max(*latest_us);
            }
            self.on_timer(ctx, slot)?;
        }
        ctx.postponed[Work::Timers as usize] |= self.has_due_timer(ctx.now_us);
        Ok(())
    }

    /// Hands up to `share` of the completions at hand to their callbacks, in the order they came,
    /// and returns how many. Those that come meanwhile, because a full queue is submitted, are left
    /// for the next time: a connection that is answered fast does not keep the others waiting.
    pub fn dispatch(&mut self, ctx: &mut CoreContext<'_, H>, share: usize) -> Result<usize, Error> {
        let AtHand {
            count,
            has_send,
            is_overflowing,
        } = self.ring.at_hand();
        // Settled first, a connection that is given bytes may send at once. Not if one of its sends
        // may have failed.
        if !has_send && !is_overflowing {
            self.settle(ctx)?;
            self.tell_partners(ctx)?;
        }
        // Sends are settled only when each of these has been seen: then all of them are handled,
        // which the size of the queue bounds.
        let count = match has_send || is_overflowing {
            true => count,
            false => count.min(share),
        };
        let mut handled = 0;
        while handled < count {
            if handled % EVENTS_PER_CLOCK as usize == EVENTS_PER_CLOCK as usize - 1 {
                ctx.now_us = self.ring.now_us();
            }
            let Some(completion) = self.ring.reap() else {
                break;
            };
            handled += 1;
            self.on_completion(ctx, completion)?;
            if !self.link_events.is_empty() {
                self.tell_partners(ctx)?;
            }
        }
        if has_send && !is_overflowing {
            self.settle(ctx)?;
            self.tell_partners(ctx)?;
        }
        Ok(handled)
    }

    fn on_completion(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        completion: Completion,
    ) -> Result<(), Error> {
        let Completion { token, result, .. } = completion;
        let slot = token.slot();
        match token.op() {
            Op::PollListener => {
                ctx.listening.push(slot as usize);
                return Ok(());
            }
            Op::Wake => {
                ctx.is_woken = true;
                return Ok(());
            }
            Op::Refuse => {
                if token.generation() == 0 && result >= 0 {
                    ctx.stats.refused_full += 1;
                }
                return Ok(());
            }
            Op::Send => return self.on_send_short(ctx, token, result),
            _ => {}
        }
        if self
            .slots
            .at(slot)
            .is_none_or(|s| s.generation != token.generation() || is_stale(s.phase(), token.op()))
        {
            if let Some(buffer) = completion.buffer {
                self.ring.recycle(buffer);
            }
            // A silent request that failed because its connection ended meanwhile is no surprise.
            if !matches!(token.op(), Op::Cancel | Op::Probe | Op::OutQueue) {
                ctx.stats.stale_completions += 1;
            }
            return Ok(());
        }
        match token.op() {
            Op::Accept => self.on_accept(ctx, slot, result),
            Op::Socket => {
                self.slots[slot].socket_failed(-result);
                Ok(())
            }
            Op::Bind => self.on_connect(ctx, slot, result, Op::Bind),
            Op::Connect => self.on_connect(ctx, slot, result, Op::Connect),
            Op::Poll => self.on_poll(ctx, slot, result),
            Op::Writable => self.on_writable(ctx, slot, result),
            Op::Watch => self.on_watch(ctx, slot, result, completion.has_more),
            Op::Probe => self.on_probe(ctx, slot, result),
            Op::OutQueue => self.on_out_queue(ctx, slot, result),
            Op::Recv => self.on_recv(ctx, slot, completion),
            Op::Option => {
                if result == -libc::EPERM && self.slots[slot].phase() == Phase::Connecting {
                    // A foreign source address: without it the attempt is another.
                    self.slots[slot].socket_failed(-result);
                } else {
                    ctx.stats.options_refused += 1;
                }
                Ok(())
            }
            Op::Close => {
                ctx.stats.unexpected += 1;
                Ok(())
            }
            Op::Shutdown => self.on_shutdown(ctx, slot, result),
            Op::Cancel => Ok(()),
            Op::PollListener | Op::Wake | Op::Refuse | Op::Send => unreachable!("handled above"),
        }
    }

    /// The id of the connection in `slot`.
    pub(super) fn id(&self, ctx: &CoreContext<'_, H>, slot: u32) -> ConnId {
        ConnId {
            thread: ctx.recorder.thread.number,
            shard: self.number,
            slot,
            generation: self.slots[slot].generation,
        }
    }

    pub(super) fn token(&self, op: Op, slot: u32) -> Token {
        Token::new(op, slot, self.slots[slot].generation)
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
        Phase::Open
        | Phase::Flushing
        | Phase::Finishing
        | Phase::Draining
        | Phase::Resetting
        | Phase::Closing => {
            matches!(op, Op::Accept | Op::Socket | Op::Bind | Op::Connect)
        }
    }
}
