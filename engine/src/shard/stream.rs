//! One direction at a time: pausing and resuming reading, the peer's end, and ours.
//!
//! What comes to a handler comes in the order of the stream: bytes, then the peer's end, once. Our
//! end leaves behind everything sent. When both directions have ended, the connection closes.
//!
//! Nothing is received of a connection that is paused or half-open, so nothing would tell of a
//! reset: such a connection has a *watch*. It is a multishot poll for room to send; the kernel adds
//! errors and the peer's end to every poll. One-shot would do no longer than the peer is open: it
//! completes at once when the end has come, over and over. A watch stays until the connection
//! closes, so that pausing again costs nothing.
//! Invariants: bytes that arrive while reading is paused are kept and bounded; the watch is the
//! only request that stays in flight over a change of state.
//! Must not depend on: what the bytes mean.

use super::receive::Wait;
use super::turn::{CoreContext, Shard};
use crate::error::{CloseReason, Error};
use crate::handler::Handler;
use crate::ring::{Request, Ring};
use crate::slot::{Delivery, Phase, Read, Write};
use crate::token::Op;

const ROOM: i32 = libc::POLLOUT as i32;
const FAILED: i32 = libc::POLLERR as i32;
const OVER: i32 = libc::POLLHUP as i32;

/// True if a poll for room to send says only that the peer has ended.
pub(super) fn is_peer_end_only(result: i32) -> bool {
    result >= 0 && result & (ROOM | FAILED | OVER) == 0
}

impl<R: Ring, H: Handler> Shard<R, H> {
    /// Starts a watch if the connection needs one and has none.
    pub(super) fn arm_watch(&mut self, slot: u32) -> Result<(), Error> {
        let needs_watch = self.slots[slot].needs_watch() || self.needs_watch_for_partner(slot);
        let entry = &mut self.slots[slot];
        if !needs_watch || entry.is_watched() {
            return Ok(());
        }
        entry.watch_started();
        self.ring
            .push(self.token(Op::Watch, slot), Request::Watch { slot })
    }

    pub(super) fn on_watch(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        result: i32,
        has_more: bool,
    ) -> Result<(), Error> {
        let entry = &mut self.slots[slot];
        if !has_more {
            entry.watch_completed();
        }
        if entry.phase() == Phase::Closing {
            return self.try_release(ctx, slot);
        }
        if result < 0 && result != -libc::ECANCELED {
            return self.close(ctx, slot, CloseReason::from_errno(-result));
        }
        if entry.write() == Write::Watched {
            if !is_peer_end_only(result) {
                entry.send_unblocked();
                // A send says which error it is.
                self.flush(ctx, slot)?;
            }
        } else if result >= 0 && result & FAILED != 0 && !self.is_read_before_end(slot) {
            self.ring
                .push(self.token(Op::Probe, slot), Request::Probe { slot })?;
        }
        // If it has ended, the completion queue was full: what it missed, a new one says at once.
        self.arm_watch(slot)
    }

    /// What error a watch told of.
    pub(super) fn on_probe(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        result: i32,
    ) -> Result<(), Error> {
        if result >= 0 || self.slots[slot].phase() == Phase::Closing {
            return Ok(());
        }
        self.end_by_peer(ctx, slot, CloseReason::from_errno(-result))
    }

    /// Delivers nothing to the handler until [`Shard::resume_reading`]. After a close it has no
    /// effect: the peer's end is read for.
    pub(super) fn pause_reading(&mut self, slot: u32) -> Result<(), Error> {
        if self.slots[slot].phase() != Phase::Open {
            return Ok(());
        }
        self.slots[slot].reading_paused();
        self.cancel_receive(slot)?;
        self.arm_watch(slot)
    }

    /// Goes on with a connection whose reading was paused, if it was.
    pub(super) fn resume_reading(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
    ) -> Result<(), Error> {
        let entry = &mut self.slots[slot];
        if entry.phase() != Phase::Open || !entry.reading_resumed() {
            return Ok(());
        }
        self.go_on_reading(ctx, slot)
    }

    /// Gives the handler what is held, then the peer's end if it has come, and reads on otherwise;
    /// as far as delivery is not blocked.
    pub(super) fn go_on_reading(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
    ) -> Result<(), Error> {
        let phase = self.slots[slot].phase();
        if !matches!(phase, Phase::Open | Phase::Flushing)
            || self.delivery_blocked(ctx.config, slot)
        {
            // Nobody wants it any more, or what blocks it brings this back.
            return Ok(());
        }
        let has_ended = self.slots[slot].read() == Read::Ended;
        if self.slots[slot].delivery() == Delivery::Held {
            // Also when the handler has closed the connection: what the peer sent before its end is
            // handed over.
            self.resume_delivery(ctx, slot, has_ended || phase == Phase::Flushing)?;
        }
        if has_ended {
            return self.deliver_end(ctx, slot);
        }
        self.slots[slot].read_resumed();
        self.arm_read(ctx, slot, Wait::Multi)
    }

    /// Tells the handler that the peer has ended, if everything before that was delivered and
    /// nothing blocks delivery.
    fn deliver_end(&mut self, ctx: &mut CoreContext<'_, H>, slot: u32) -> Result<(), Error> {
        let entry = &self.slots[slot];
        let is_next = entry.phase() == Phase::Open
            && entry.read() == Read::Ended
            && entry.delivery() != Delivery::Held;
        if !is_next {
            return Ok(());
        }
        if self.delivery_blocked(ctx.config, slot) {
            return self.arm_watch(slot);
        }
        self.slots[slot].end_delivered();
        if let Some(pending) = self.pending.get_mut(&slot) {
            // What the handler left waited for more, which does not come.
            pending.incoming = Vec::new();
            self.drop_pending_if_empty(slot);
        }
        self.call(ctx, slot, |handler, conn| handler.on_eof(conn))?;
        if self.slots[slot].phase() != Phase::Open {
            return Ok(());
        }
        if self.slots[slot].is_shut() {
            return self.close(ctx, slot, CloseReason::LocallyClosed);
        }
        self.arm_watch(slot)
    }

    /// The peer sends no more. The handler is told behind the bytes that are held.
    pub(super) fn on_peer_end(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
    ) -> Result<(), Error> {
        if self.slots[slot].phase() == Phase::Draining {
            if self.deliver_last(ctx, slot)? {
                return self.close(ctx, slot, CloseReason::LocallyClosed);
            }
            return Ok(());
        }
        if self.slots[slot].is_failed() {
            // The end of what it sent before its reset, which a send has told.
            return self.end_by_peer(ctx, slot, CloseReason::Reset);
        }
        self.slots[slot].read_ended();
        if self.delivery_blocked(ctx.config, slot) {
            return self.arm_watch(slot);
        }
        self.go_on_reading(ctx, slot)
    }

    /// Sends our end when everything else is sent. The connection stays open for what the peer
    /// sends, and closes if that has ended.
    pub(super) fn shutdown_write(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
    ) -> Result<(), Error> {
        let entry = &mut self.slots[slot];
        if entry.phase() != Phase::Open || entry.is_shut() {
            return Ok(());
        }
        if entry.write() != Write::Idle {
            entry.shutdown_wanted();
            self.must_settle = true;
            return Ok(());
        }
        if entry.read() == Read::EndDelivered {
            // Both have ended. Closing sends our end for less than a shutdown costs.
            return self.close(ctx, slot, CloseReason::PeerClosed);
        }
        entry.shutdown_started();
        self.ring
            .push(self.token(Op::Shutdown, slot), Request::Shutdown { slot })
    }
}
