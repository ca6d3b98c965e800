//! How a connection ends.
//!
//! Invariants: an end is counted once, with the first reason; the descriptor is closed when nothing of the connection is in flight.
//! Must not know: why a handler wants an end.

use super::turn::{Context, Shard};
use crate::error::{CloseReason, Error};
use crate::handler::Handler;
use crate::ring::{Request, Ring};
use crate::slot::{NONE, Phase, flag};
use crate::token::Op;

/// Connections of one shard that are asked to end in one turn, when all are to.
const DRAINS_PER_TURN: u32 = 256;
/// Until an attempt that was given up is cancelled once more.
const CANCEL_AGAIN_US: u64 = 100_000;

impl<R: Ring, H: Handler> Shard<R, H> {
    /// Asks every open connection to end in order, a few each turn.
    pub fn start_drain(&mut self) {
        self.draining_from = Some(0);
    }

    /// Cuts every connection at once.
    pub fn cut_all(&mut self, ctx: &mut Context<'_, H>) -> Result<(), Error> {
        self.draining_from = None;
        for slot in 0..self.slots.touched_count() {
            match self.slots[slot].phase {
                Phase::Open | Phase::Draining => self.end(ctx, slot, CloseReason::Aborted)?,
                Phase::Connecting => self.give_up_connecting(ctx, slot, libc::ECANCELED)?,
                Phase::Free | Phase::Closing => {}
            }
        }
        Ok(())
    }

    /// Asks up to `count` open connections to end in order, from the last slot backwards. Gives how many were asked.
    pub fn close_newest(&mut self, ctx: &mut Context<'_, H>, count: u64) -> Result<u64, Error> {
        let mut asked = 0;
        while asked < count && self.newest > 0 {
            let slot = self.newest - 1;
            self.newest = slot;
            if self.slots[slot].phase == Phase::Open && self.slots[slot].flags & flag::ENDING == 0 {
                self.call(ctx, slot, |handler, conn| handler.on_stop(conn))?;
                asked += 1;
            }
        }
        Ok(asked)
    }

    pub(super) fn drain_some(&mut self, ctx: &mut Context<'_, H>) -> Result<(), Error> {
        let Some(from) = self.draining_from else {
            return Ok(());
        };
        let until = self.slots.touched_count().min(from + DRAINS_PER_TURN);
        for slot in from..until {
            match self.slots[slot].phase {
                Phase::Open => self.call(ctx, slot, |handler, conn| handler.on_stop(conn))?,
                Phase::Connecting => self.give_up_connecting(ctx, slot, libc::ECANCELED)?,
                _ => {}
            }
        }
        self.draining_from = (until < self.slots.touched_count()).then_some(until);
        Ok(())
    }

    /// Stops an attempt; its completion brings the end. A connect is linked to what comes before it, and the kernel does not find it
    /// until that has completed: so it is asked again, as long as nothing came back.
    pub(super) fn give_up_connecting(
        &mut self,
        ctx: &mut Context<'_, H>,
        slot: u32,
        errno: i32,
    ) -> Result<(), Error> {
        self.set_timer(slot, ctx.now_us + CANCEL_AGAIN_US);
        if self.slots[slot].errno == 0 {
            self.slots[slot].errno = errno as u8;
        }
        let token = self.token(Op::Connect, slot);
        let cancel = self.token(Op::Cancel, slot);
        self.ring.push(cancel, Request::Cancel { token })
    }

    /// Says our end and reads on until the peer's.
    pub(super) fn end_in_order(
        &mut self,
        ctx: &mut Context<'_, H>,
        slot: u32,
    ) -> Result<(), Error> {
        self.set_timer(
            slot,
            ctx.now_us + ctx.config.drain_timeout.as_micros() as u64,
        );
        if self.is_blocked(slot) || self.slots[slot].has(flag::SENDING) {
            self.slots[slot].set(flag::END_IN_ORDER);
            self.must_settle = true;
            return Ok(());
        }
        if self.slots[slot].has(flag::PEER_ENDED) {
            if self.has_held(slot) {
                self.take_up_held(ctx, slot, true)?;
                if self.slots[slot].phase == Phase::Open {
                    // Again, if its answer is under way; nothing is held any more.
                    return self.end_in_order(ctx, slot);
                }
                return Ok(());
            }
            return self.end(ctx, slot, CloseReason::LocallyClosed);
        }
        self.slots[slot].clear(flag::ENDING);
        self.slots[slot].start_draining();
        self.slots[slot].set(flag::SHUTTING);
        self.ring
            .push(self.token(Op::Shutdown, slot), Request::Shutdown { slot })?;
        self.arm(ctx, slot)
    }

    /// Ends it as soon as what was sent is with the kernel, without waiting for the peer.
    pub(super) fn end_after_sent(
        &mut self,
        ctx: &mut Context<'_, H>,
        slot: u32,
    ) -> Result<(), Error> {
        if !self.is_blocked(slot) && !self.slots[slot].has(flag::SENDING) {
            return self.end(ctx, slot, CloseReason::LocallyClosed);
        }
        self.slots[slot].set(flag::END_AFTER_SENT);
        self.must_settle = true;
        Ok(())
    }

    /// Ends a connection at once: when nothing of it is in flight now, else when that has come back.
    pub(super) fn end(
        &mut self,
        ctx: &mut Context<'_, H>,
        slot: u32,
        reason: CloseReason,
    ) -> Result<(), Error> {
        if self.slots[slot].phase == Phase::Closing {
            return Ok(());
        }
        self.wheel.clear(&mut self.slots, slot);
        self.slots[slot].start_closing(reason as u8);
        // Cancelled rather than woken by a shutdown, which the kernel leaves to a worker: five times the price, and no order.
        for (bit, op) in [
            (flag::POLL, Op::Poll),
            (flag::RECV, Op::Recv),
            (flag::WRITABLE, Op::Writable),
        ] {
            if self.slots[slot].has(bit) {
                let token = self.token(op, slot);
                let cancel = self.token(Op::Cancel, slot);
                self.ring.push(cancel, Request::Cancel { token })?;
            }
        }
        self.try_finish(ctx, slot)
    }

    pub(super) fn try_finish(&mut self, ctx: &mut Context<'_, H>, slot: u32) -> Result<(), Error> {
        if self.slots[slot].flags & flag::IN_FLIGHT != 0 {
            return Ok(());
        }
        let reason = CloseReason::ALL[usize::from(self.slots[slot].errno)];
        self.ring
            .push(self.token(Op::Close, slot), Request::Close { slot })?;
        ctx.stats.open_now -= 1;
        ctx.stats.closed[reason as usize] += 1;
        if matches!(reason, CloseReason::LocallyClosed | CloseReason::PeerClosed) {
            ctx.last_end_us = ctx.now_us;
        }
        let state = self.slots[slot].state;
        self.release(ctx, slot);
        ctx.handler.on_close(&state, reason, ctx.now_us);
        Ok(())
    }

    /// A shutdown is over: the slot may be used for another connection from now on.
    pub(super) fn on_shutdown(&mut self, ctx: &mut Context<'_, H>, slot: u32) -> Result<(), Error> {
        self.slots[slot].clear(flag::SHUTTING);
        match self.slots[slot].phase {
            Phase::Closing => self.try_finish(ctx, slot),
            _ => Ok(()),
        }
    }

    /// Frees the slot. Safe before the close is submitted: requests run in order (but for shutdowns, which are awaited), so whatever
    /// takes the slot next comes after it.
    pub(super) fn release(&mut self, ctx: &mut Context<'_, H>, slot: u32) {
        self.carries.remove(&slot);
        self.slots[slot].clear(flag::CARRY);
        if self.slots[slot].has(flag::ACCEPTED) {
            ctx.limiter.release();
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
