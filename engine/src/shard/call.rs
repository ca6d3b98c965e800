//! Calls the handler and performs the actions it asked for.
//!
//! Invariants: a handler is called between other work, never from inside another callback.
//! Must not depend on: what a handler is for.

use super::turn::{CoreContext, Shard};
use crate::config::TICK_US;
use crate::error::{CloseReason, Error};
use crate::handler::{Actions, CloseMode, Conn, Handler, ReadChange, TimerChange};
use crate::ring::Ring;
use crate::slot::{Phase, Write};

/// Most bytes that leave at once on a new connection, so that a close may follow them: ten segments
/// (RFC 6928) of the smallest IPv6 path.
const CLOSE_AT_ONCE_BYTES_MAX: usize = 10 * 1_220;

impl<R: Ring, H: Handler> Shard<R, H> {
    pub(super) fn on_timer(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
    ) -> Result<(), Error> {
        match self.slots[slot].phase() {
            Phase::Connecting => self.cancel_connecting(ctx, slot, libc::ETIMEDOUT),
            // While the peer does not take what was sent, the handler's patience counts, not the
            // close's.
            Phase::Flushing | Phase::Finishing if !self.slots[slot].is_blocked() => {
                self.close(ctx, slot, CloseReason::Aborted)
            }
            Phase::Open | Phase::Flushing | Phase::Finishing => {
                self.call(ctx, slot, |handler, conn| handler.on_timer(conn))
            }
            Phase::Draining => {
                // Closing a million at once takes longer than one may take: none is aborted while
                // ends still come back.
                let patient_until = ctx.last_end_us + ctx.config.drain_timeout.as_micros() as u64;
                if ctx.is_stopping && patient_until > ctx.now_us {
                    self.set_timer(slot, patient_until);
                    return Ok(());
                }
                self.close(ctx, slot, CloseReason::Aborted)
            }
            Phase::Resetting => self.ask_out_queue(slot),
            Phase::Free | Phase::Closing => unreachable!("a slot in this phase is off the wheel"),
        }
    }

    /// Runs one callback on a connection and does what it wants done.
    pub(super) fn call(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        callback: impl FnOnce(&mut H, &mut Conn<'_, H::State>),
    ) -> Result<(), Error> {
        let is_blocked = self.slots[slot].is_blocked();
        let id = self.id(ctx, slot);
        let link = self.link_of(ctx, slot);
        let mut conn = Conn::new(
            &mut self.slots[slot].state,
            ctx.now_us,
            is_blocked,
            &mut ctx.recorder,
        )
        .with_id(id)
        .with_link(link);
        ctx.has_called = true;
        callback(&mut ctx.handler, &mut conn);
        let actions = conn.into_actions();
        self.perform(ctx, slot, actions, false)
    }

    /// Does what a callback asked for. `has_unread`: more of what the peer has sent is known than
    /// the handler used.
    pub(super) fn perform(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        mut actions: Actions,
        has_unread: bool,
    ) -> Result<(), Error> {
        if actions.forwards.is_any && !self.perform_forwards(ctx, slot, actions.forwards)? {
            ctx.recorder.thread.clear_sent();
            return self.close(ctx, slot, CloseReason::BufferLimit);
        }
        if !self.slots[slot].phase().is_open() {
            // Draining: what arrives still counts, but nothing more is sent, and the timer is the
            // drain's.
            ctx.recorder.thread.clear_sent();
            return match actions.close_mode {
                Some(CloseMode::Abort(reason)) => self.close(ctx, slot, reason),
                Some(CloseMode::Reset(reason)) => self.reset(ctx, slot, reason),
                _ => Ok(()),
            };
        }
        match actions.timer {
            TimerChange::Keep => {}
            TimerChange::Off => self.wheel.clear(&mut self.slots, slot),
            TimerChange::At(at_us) => self.set_timer(slot, at_us),
        }
        if self.slots[slot].is_shut() || self.slots[slot].is_shutdown_wanted() {
            // Our end is the last thing that is sent.
            ctx.recorder.thread.clear_sent();
            actions.outgoing_static = &[];
        }
        // A peer whose bytes meet a closed socket gets a reset, which destroys what it has not
        // acknowledged. So only what is on the wire before such bytes can arrive may be followed by
        // a close.
        let is_last = actions.close_mode == Some(CloseMode::AfterSend)
            && self.slots[slot].write() == Write::Idle
            && !self.slots[slot].has_sent()
            && !has_unread
            && ctx.recorder.thread.sent.len() + actions.outgoing_static.len()
                <= CLOSE_AT_ONCE_BYTES_MAX;
        // The end that follows is pushed as soon as the send is settled, so what waits for it waits
        // no longer than a turn.
        if !ctx.recorder.thread.sent.is_empty() {
            let is_last = is_last && actions.outgoing_static.is_empty();
            self.send_recorded(ctx, slot, is_last)?;
        }
        // The copy may have been too much to keep: then the connection is over, and the slot may be
        // free.
        if !actions.outgoing_static.is_empty() && self.slots[slot].phase().is_open() {
            self.send_static(ctx, slot, actions.outgoing_static, is_last)?;
        }
        if !self.slots[slot].phase().is_open() {
            return Ok(());
        }
        if actions.is_pausing && self.slots[slot].is_sending() {
            self.slots[slot].delivery_paused();
            self.must_settle = true;
        }
        match actions.close_mode {
            None if actions.shuts_write || actions.reading != ReadChange::Keep => {
                self.change_streams(ctx, slot, &actions)
            }
            None => Ok(()),
            Some(CloseMode::Graceful) => self.close_gracefully(ctx, slot),
            Some(CloseMode::AfterSend) if is_last => self.close_after_sent(ctx, slot),
            Some(CloseMode::AfterSend) => self.close_in_stages(ctx, slot),
            Some(CloseMode::ResetAfterSend) => self.reset_after_sent(ctx, slot),
            Some(CloseMode::Abort(reason)) => self.close(ctx, slot, reason),
            Some(CloseMode::Reset(reason)) => self.reset(ctx, slot, reason),
        }
    }

    /// Ends our direction, or pauses or resumes the peer's.
    fn change_streams(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        actions: &Actions,
    ) -> Result<(), Error> {
        if actions.shuts_write {
            self.shutdown_write(ctx, slot)?;
        }
        match actions.reading {
            ReadChange::Keep => Ok(()),
            ReadChange::Pause => self.pause_reading(slot),
            ReadChange::Resume => self.resume_reading(ctx, slot),
        }
    }

    /// Sends the copied bytes and the shared buffers of a callback.
    fn send_recorded(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        is_last: bool,
    ) -> Result<(), Error> {
        let mut outgoing = std::mem::take(&mut ctx.recorder.thread.sent.outgoing);
        let mut from = 0;
        if !ctx.recorder.thread.sent.shared.is_empty() {
            let mut shared = std::mem::take(&mut ctx.recorder.thread.sent.shared);
            let count = shared.len();
            for (number, (place, bytes)) in shared.drain(..).enumerate() {
                if place > from && self.slots[slot].phase().is_open() {
                    self.send_copy(ctx, slot, &outgoing[from..place], false)?;
                }
                from = place;
                if self.slots[slot].phase().is_open() {
                    let is_last = is_last && number + 1 == count && place == outgoing.len();
                    self.send_shared(ctx, slot, bytes, is_last)?;
                }
            }
            ctx.recorder.thread.sent.shared = shared;
        }
        if from < outgoing.len() && self.slots[slot].phase().is_open() {
            self.send_copy(ctx, slot, &outgoing[from..], is_last)?;
        }
        outgoing.clear();
        ctx.recorder.thread.sent.outgoing = outgoing;
        Ok(())
    }

    pub(super) fn set_timer(&mut self, slot: u32, at_us: u64) {
        self.wheel
            .set(&mut self.slots, slot, at_us.div_ceil(TICK_US) as u32);
    }
}
