//! How a connection is closed.
//!
//! Invariants: a close is counted once, with the first reason; the descriptor is closed when
//! nothing of the connection is in flight.
//! Must not depend on: why a handler wants an end.

use super::receive::Wait;
use super::turn::{CoreContext, Shard};
use crate::error::{CloseReason, Error, PartnerEnd};
use crate::handler::Handler;
use crate::ring::{Request, Ring};
use crate::slot::{Delivery, Phase, Read, Write};
use crate::token::Op;

/// Connections of one shard that are asked to end in one turn, when all are to.
const DRAINS_PER_TURN: u32 = 256;
/// Until an attempt that was given up is cancelled once more.
const CANCEL_AGAIN_US: u64 = 100_000;

/// Until a peer is thought to have acknowledged everything, where the kernel does not tell.
const ACKNOWLEDGED_AFTER_US: u64 = 100_000;
/// Longest wait for a peer to acknowledge everything before it is reset.
const RESET_WAIT_US_MAX: u64 = 60_000_000;

impl<R: Ring, H: Handler> Shard<R, H> {
    /// Asks every open connection to end in order, a few each turn.
    pub fn start_drain(&mut self) {
        self.draining_from = Some(0);
    }

    /// Aborts every connection.
    pub fn abort_all(&mut self, ctx: &mut CoreContext<'_, H>) -> Result<(), Error> {
        self.draining_from = None;
        for slot in 0..self.slots.touched_count() {
            match self.slots[slot].phase() {
                Phase::Open
                | Phase::Flushing
                | Phase::Finishing
                | Phase::Draining
                | Phase::Resetting => {
                    self.close(ctx, slot, CloseReason::Aborted)?;
                }
                Phase::Connecting => self.cancel_connecting(ctx, slot, libc::ECANCELED)?,
                Phase::Free | Phase::Closing => {}
            }
        }
        self.tell_partners(ctx)
    }

    /// Asks up to `count` open connections to end in order, from the last slot backwards. Gives how
    /// many were asked.
    pub fn close_newest(&mut self, ctx: &mut CoreContext<'_, H>, count: u64) -> Result<u64, Error> {
        let mut asked = 0;
        while asked < count && self.newest > 0 {
            let slot = self.newest - 1;
            self.newest = slot;
            if self.slots[slot].phase() == Phase::Open {
                self.call(ctx, slot, |handler, conn| handler.on_stop(conn))?;
                asked += 1;
            }
        }
        self.tell_partners(ctx)?;
        Ok(asked)
    }

    pub(super) fn drain_some(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        share: u32,
    ) -> Result<(), Error> {
        let Some(from) = self.draining_from else {
            return Ok(());
        };
        let until = (from + share.min(DRAINS_PER_TURN)).min(self.slots.touched_count());
        for slot in from..until {
            match self.slots[slot].phase() {
                Phase::Open | Phase::Flushing | Phase::Finishing => {
                    self.call(ctx, slot, |handler, conn| handler.on_stop(conn))?
                }
                Phase::Connecting => self.cancel_connecting(ctx, slot, libc::ECANCELED)?,
                _ => {}
            }
        }
        self.draining_from = (until < self.slots.touched_count()).then_some(until);
        Ok(())
    }

    /// Stops an attempt; its completion brings the end. A connect is linked to what comes before
    /// it, and the kernel does not find it until that has completed: so it is asked again, as long
    /// as nothing came back.
    pub(crate) fn cancel_connecting(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        errno: i32,
    ) -> Result<(), Error> {
        self.set_timer(slot, ctx.now_us + CANCEL_AGAIN_US);
        self.slots[slot].connect_cancelled(errno);
        let token = self.token(Op::Connect, slot);
        let cancel = self.token(Op::Cancel, slot);
        self.ring.push(cancel, Request::Cancel { token })
    }

    /// Sends our end when everything else is sent, and reads on until the peer's, if that has not
    /// come.
    pub(super) fn close_gracefully(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
    ) -> Result<(), Error> {
        let entry = &mut self.slots[slot];
        if entry.is_failed() {
            return self.close(ctx, slot, CloseReason::Reset);
        }
        entry.reading_resumed();
        entry.partner_came();
        if entry.read() == Read::EndDelivered {
            // The handler's timer counts on: nothing of the peer's is waited for.
            return match entry.is_shut() {
                true => self.close(ctx, slot, CloseReason::LocallyClosed),
                false => self.shutdown_write(ctx, slot),
            };
        }
        if entry.is_sending() {
            entry.start_flushing();
            self.must_settle = true;
            self.set_drain_timer(ctx, slot);
            return Ok(());
        }
        self.set_drain_timer(ctx, slot);
        if self.slots[slot].read() == Read::Ended {
            if self.slots[slot].delivery() != Delivery::Held {
                return self.close(ctx, slot, CloseReason::LocallyClosed);
            }
            self.resume_delivery(ctx, slot, true)?;
            if self.slots[slot].phase().is_open() {
                // Again, if its answer is under way; nothing is held any more.
                return self.close_gracefully(ctx, slot);
            }
            return Ok(());
        }
        if self.slots[slot].start_draining() {
            self.ring
                .push(self.token(Op::Shutdown, slot), Request::Shutdown { slot })?;
        }
        self.slots[slot].read_resumed();
        self.arm_read(ctx, slot, Wait::Once)
    }

    fn set_drain_timer(&mut self, ctx: &mut CoreContext<'_, H>, slot: u32) {
        let patience_us = ctx.config.drain_timeout.as_micros() as u64;
        self.set_timer(slot, ctx.now_us + patience_us);
    }

    /// Closes it as RFC 9112, 9.6 has it: sends what is to be sent and our end, discards what the
    /// peer still sends until its end, within a bound of bytes and of time, and closes then.
    pub(super) fn close_in_stages(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
    ) -> Result<(), Error> {
        if self.slots[slot].read() == Read::EndDelivered {
            // Nothing comes that could be discarded.
            return self.close_gracefully(ctx, slot);
        }
        if let Some(pending) = self.pending.get_mut(&slot) {
            pending.incoming = Vec::new();
            self.drop_pending_if_empty(slot);
        }
        self.slots[slot].delivery_discarded();
        self.close_gracefully(ctx, slot)
    }

    /// Closes it as soon as what was sent is with the kernel, without waiting for the peer.
    pub(super) fn close_after_sent(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
    ) -> Result<(), Error> {
        if self.slots[slot].read() == Read::EndDelivered {
            return self.close_gracefully(ctx, slot);
        }
        if self.slots[slot].write() == Write::Idle {
            return self.close(ctx, slot, CloseReason::LocallyClosed);
        }
        self.slots[slot].start_finishing();
        self.must_settle = true;
        Ok(())
    }

    /// Resets it as soon as what was sent is with the kernel, and with the peer's.
    pub(super) fn reset_after_sent(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
    ) -> Result<(), Error> {
        if self.slots[slot].is_failed() {
            return self.close(ctx, slot, CloseReason::Reset);
        }
        if self.slots[slot].is_reset_wanted() {
            return Ok(());
        }
        let option = self.token(Op::Option, slot);
        self.ring.push(option, Request::ResetOnClose { slot })?;
        if let Some(pending) = self.pending.get_mut(&slot) {
            pending.incoming = Vec::new();
            self.drop_pending_if_empty(slot);
        }
        let entry = &mut self.slots[slot];
        entry.reading_resumed();
        entry.partner_came();
        entry.delivery_discarded();
        if !entry.is_sending() {
            return self.start_resetting(slot);
        }
        entry.start_finishing_with_reset();
        self.must_settle = true;
        self.set_drain_timer(ctx, slot);
        Ok(())
    }

    /// Everything is with the kernel. A reset would destroy what the peer's kernel has not
    /// acknowledged, so ours is asked for that.
    pub(super) fn start_resetting(&mut self, slot: u32) -> Result<(), Error> {
        self.wheel.clear(&mut self.slots, slot);
        self.slots[slot].start_resetting();
        self.ask_out_queue(slot)
    }

    /// Asks what the peer has not acknowledged; again, also whether the connection is over, unless our
    /// end is sent: then a probe says that it is over in any case.
    pub(super) fn ask_out_queue(&mut self, slot: u32) -> Result<(), Error> {
        if self.slots[slot].asked_count() > 0 && !self.slots[slot].is_shut() {
            let probe = self.token(Op::Probe, slot);
            self.ring.push(probe, Request::Probe { slot })?;
        }
        let token = self.token(Op::OutQueue, slot);
        self.ring.push(token, Request::OutQueue { slot })
    }

    /// The peer has acknowledged all but `result` bytes: resets the connection, or asks again later.
    pub(super) fn on_out_queue(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        result: i32,
    ) -> Result<(), Error> {
        if self.slots[slot].phase() != Phase::Resetting {
            return Ok(());
        }
        // Asked after 1, 3, 7, 15, ... ms.
        let next_us = 1_000 << self.slots[slot].asked_count();
        let limit_us = match result {
            ..0 => ACKNOWLEDGED_AFTER_US,
            _ => (ctx.config.drain_timeout.as_micros() as u64).min(RESET_WAIT_US_MAX),
        };
        let is_over = next_us - 1_000 >= limit_us;
        ctx.stats.resets_unacknowledged += u64::from(result != 0 && is_over);
        if result == 0 || is_over {
            return self.close(ctx, slot, CloseReason::LocallyClosed);
        }
        self.slots[slot].asked_again();
        self.set_timer(slot, ctx.now_us + next_us);
        Ok(())
    }

    /// Resets a connection at once.
    pub(super) fn reset(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        reason: CloseReason,
    ) -> Result<(), Error> {
        if self.slots[slot].phase() != Phase::Closing {
            let option = self.token(Op::Option, slot);
            self.ring.push(option, Request::ResetOnClose { slot })?;
        }
        self.close(ctx, slot, reason)
    }

    /// Closes a connection at once: when nothing of it is in flight now, else when that has come
    /// back.
    pub(super) fn close(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        reason: CloseReason,
    ) -> Result<(), Error> {
        if self.slots[slot].phase() == Phase::Closing {
            return Ok(());
        }
        self.wheel.clear(&mut self.slots, slot);
        let (read, write) = (self.slots[slot].read(), self.slots[slot].write());
        self.slots[slot].start_closing(reason);
        // Cancelled rather than woken by a shutdown, which the kernel leaves to a worker: five
        // times the price, and no order.
        let reading = match read {
            Read::Parked => Some(Op::Poll),
            Read::Receiving | Read::Hot | Read::Quiet | Read::Cooling => Some(Op::Recv),
            Read::Idle | Read::Paused | Read::Ended | Read::EndDelivered => None,
        };
        let writing = (write == Write::Blocked).then_some(Op::Writable);
        let watch = self.slots[slot].is_watched().then_some(Op::Watch);
        for op in reading.into_iter().chain(writing).chain(watch) {
            let token = self.token(op, slot);
            let cancel = self.token(Op::Cancel, slot);
            self.ring.push(cancel, Request::Cancel { token })?;
        }
        self.try_release(ctx, slot)
    }

    /// Closes the descriptor of a slot that is closing, unless something is in flight.
    pub(super) fn try_release(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
    ) -> Result<(), Error> {
        if self.slots[slot].is_in_flight() {
            return Ok(());
        }
        let reason = self.slots[slot].close_reason();
        if matches!(reason, CloseReason::Denied | CloseReason::SourceLimit) {
            // Nothing of it is to linger in the kernel.
            let option = self.token(Op::Option, slot);
            self.ring.push(option, Request::ResetOnClose { slot })?;
        }
        self.ring
            .push(self.token(Op::Close, slot), Request::Close { slot })?;
        ctx.stats.open_now -= 1;
        ctx.stats.closed[reason as usize] += 1;
        if matches!(reason, CloseReason::LocallyClosed | CloseReason::PeerClosed) {
            ctx.last_end_us = ctx.now_us;
        }
        let state = self.slots[slot].state;
        let id = self.id(ctx, slot);
        self.release(ctx, slot, PartnerEnd::Closed(reason));
        ctx.has_called = true;
        let mut cx = ctx.recorder.context(ctx.now_us);
        ctx.handler.on_close(&mut cx, id, &state, reason);
        Ok(())
    }

    /// A shutdown is over: the slot may be used for another connection from now on.
    pub(super) fn on_shutdown(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        result: i32,
    ) -> Result<(), Error> {
        let is_closing = self.slots[slot].phase() == Phase::Closing;
        if result == -libc::EMFILE && !is_closing {
            // The process has no descriptor to spare: the kernel does it without one.
            let token = self.token(Op::Shutdown, slot);
            return self.ring.push(token, Request::Shutdown { slot });
        }
        self.slots[slot].shutdown_completed();
        match self.slots[slot].phase() {
            Phase::Closing => self.try_release(ctx, slot),
            _ => Ok(()),
        }
    }

    /// Frees the slot. Safe before the close is submitted: requests run in order (but for
    /// shutdowns, which are awaited), so whatever takes the slot next comes after it.
    pub(super) fn release(&mut self, ctx: &mut CoreContext<'_, H>, slot: u32, end: PartnerEnd) {
        self.unlink(slot, end);
        if !self.pending.is_empty() {
            self.pending.remove(&slot);
        }
        if self.slots[slot].is_accepted() {
            ctx.limiter.release();
        }
        if self.slots[slot].has_tuple() {
            let own_tuple = self.slots[slot].tuple;
            ctx.tuples
                .as_mut()
                .expect("only a dialled slot has a tuple")
                .release(own_tuple);
        }
        self.slots.release(slot);
    }
}
