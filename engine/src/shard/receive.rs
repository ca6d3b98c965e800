//! How bytes come in.
//!
//! A connection that is nearly always idle waits parked on a poll, the cheapest there is in memory,
//! and receives when it is readable. One that keeps receiving (`Config::park_after`) is hot: its
//! receive itself waits in the kernel, the first time for one buffer, then as a multishot, until a
//! sweep finds it silent and parks it.
//! Invariants: a connection owns no buffer while it waits; a handler is given nothing while its
//! peer does not take what was sent (unless `Config::reads_while_blocked`), nor while it paused;
//! what arrives meanwhile is kept, bounded.
//! Must not depend on: what the bytes mean.

use super::link::Forwarded;
use super::pending::held_bytes_max;
use super::turn::{CoreContext, Shard};
use crate::config::Config;
use crate::error::{CloseReason, Error};
use crate::handler::{Actions, Conn, Handler, ReadChange};
use crate::ring::{Completion, Request, Ring};
use crate::slot::{Delivery, Phase, Read};
use crate::token::Op;

/// Slots looked at in one turn of a sweep.
const SWEEP_SLOTS: u32 = 1_024;

/// Most bytes of a peer that are discarded while its connection is closed in stages.
const DISCARD_BYTES_MAX: usize = 16 << 20;

/// How to wait for a connection's next bytes, unless all connections are parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// On a poll: it was silent.
    Poll,
    /// With one receive: it may never receive again.
    Once,
    /// With a receive that goes on: it has received before.
    Multi,
}

impl<R: Ring, H: Handler> Shard<R, H> {
    /// Waits for the connection's next bytes, if it is still to be read.
    pub(super) fn arm_read(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        wait: Wait,
    ) -> Result<(), Error> {
        let entry = &mut self.slots[slot];
        if !matches!(entry.phase(), Phase::Open | Phase::Draining) || entry.read() != Read::Idle {
            return Ok(());
        }
        if Self::is_delivery_blocked(ctx.config, entry) {
            entry.read_paused();
            return self.arm_watch(slot);
        }
        if ctx.config.park_after.is_zero() || wait == Wait::Poll {
            entry.read_parked();
            let token = self.token(Op::Poll, slot);
            let writable = false;
            return self.ring.push(token, Request::Poll { slot, writable });
        }
        entry.read_hot();
        if self.sweep.hot_count == 0 {
            self.sweep.at_us = ctx.now_us + ctx.config.park_after.as_micros() as u64;
            self.sweep.from = 0;
        }
        self.sweep.hot_count += 1;
        self.sweep.is_trim_due = true;
        let request = match wait {
            Wait::Multi => Request::RecvMultishot { slot },
            _ => Request::RecvOneshot { slot },
        };
        self.ring.push(self.token(Op::Recv, slot), request)
    }

    /// True if arriving bytes must be kept instead of given to the handler.
    pub(super) fn delivery_blocked(&self, config: &Config, slot: u32) -> bool {
        Self::is_delivery_blocked(config, &self.slots[slot])
    }

    fn is_delivery_blocked(config: &Config, entry: &crate::slot::Slot<H::State>) -> bool {
        match entry.delivery() {
            Delivery::Paused => true,
            Delivery::Discarded => false,
            _ => {
                entry.is_reading_paused()
                    || entry.is_partner_awaited()
                    // What one side of a pair receives is not sent on itself: both would wait for
                    // each other.
                    || entry.is_blocked() && !config.reads_while_blocked && entry.partner().is_none()
            }
        }
    }

    /// Looks at some slots for connections that have been silent since the last look, and parks
    /// them.
    pub(super) fn sweep_some(&mut self, ctx: &mut CoreContext<'_, H>) -> Result<(), Error> {
        if self
            .sweep
            .next_due_us()
            .is_none_or(|due_us| ctx.now_us < due_us)
        {
            return Ok(());
        }
        if self.sweep.hot_count == 0 {
            self.trim(ctx);
            return Ok(());
        }
        let from = self.sweep.from;
        let until = self.slots.touched_count().min(from + SWEEP_SLOTS);
        for slot in from..until {
            match self.slots[slot].read() {
                Read::Hot => self.slots[slot].read_quiet(),
                Read::Quiet => self.cancel_receive(slot)?,
                _ => {}
            }
        }
        if until < self.slots.touched_count() {
            self.sweep.from = until;
        } else {
            self.sweep.from = 0;
            self.sweep.at_us = ctx.now_us + ctx.config.park_after.as_micros() as u64;
        }
        Ok(())
    }

    /// Gives memory back when nothing uses it, else looks again later.
    fn trim(&mut self, ctx: &mut CoreContext<'_, H>) {
        let is_used = self.buffers_free < self.buffers_count
            || self.ring.has_completion()
            || self.ring.is_overflowing()
            || (0..2).any(|half| !self.sends.is_empty(half));
        if is_used {
            self.sweep.at_us = ctx.now_us + ctx.config.park_after.as_micros() as u64;
        } else {
            self.ring.trim();
            self.sweep.is_trim_due = false;
        }
    }

    /// Cancels a receive that waits in the kernel, if there is one; its last completion brings what
    /// comes next.
    pub(super) fn cancel_receive(&mut self, slot: u32) -> Result<(), Error> {
        if !matches!(self.slots[slot].read(), Read::Hot | Read::Quiet) {
            return Ok(());
        }
        self.slots[slot].read_cancelled();
        let token = self.token(Op::Recv, slot);
        let cancel = self.token(Op::Cancel, slot);
        self.ring.push(cancel, Request::Cancel { token })
    }

    pub(super) fn on_poll(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        result: i32,
    ) -> Result<(), Error> {
        self.slots[slot].read_completed();
        match self.slots[slot].phase() {
            Phase::Closing => return self.try_release(ctx, slot),
            Phase::Resetting => return Ok(()),
            _ => {}
        }
        if result < 0 {
            return self.close(ctx, slot, CloseReason::from_errno(-result));
        }
        if self.delivery_blocked(ctx.config, slot) {
            // Back-pressure: a peer that does not take our bytes is not read either.
            return self.arm_read(ctx, slot, Wait::Poll);
        }
        self.queue_receive(slot);
        Ok(())
    }

    /// Receives as soon as a buffer is free.
    pub(super) fn queue_receive(&mut self, slot: u32) {
        self.slots[slot].read_queued();
        self.readable.push_back(self.token(Op::Recv, slot));
    }

    pub(super) fn start_receives(&mut self) -> Result<(), Error> {
        while self.buffers_free > self.lent_count {
            let Some(token) = self.readable.pop_front() else {
                break;
            };
            self.buffers_free -= 1;
            let slot = token.slot();
            self.ring.push(token, Request::Recv { slot })?;
        }
        if self.lent_count > 0 && !self.readable.is_empty() {
            // Buffers come back when the sends that read them are settled.
            self.must_settle = true;
        }
        Ok(())
    }

    pub(super) fn on_recv(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        completion: Completion,
    ) -> Result<(), Error> {
        let Completion {
            result,
            buffer,
            has_more,
            has_left,
            ..
        } = completion;
        let entry = &mut self.slots[slot];
        let was = entry.read();
        if was == Read::Receiving {
            self.buffers_free += 1;
        } else if !has_more {
            self.sweep.hot_count -= 1;
        }
        if !has_more {
            entry.read_completed();
        }
        let phase = entry.phase();
        let is_over = matches!(phase, Phase::Closing | Phase::Resetting);
        if let Some(buffer) = buffer.filter(|_| result <= 0 || is_over) {
            self.ring.recycle(buffer);
        }
        match phase {
            Phase::Closing => return self.try_release(ctx, slot),
            // Nobody wants what the peer still sends.
            Phase::Resetting => return Ok(()),
            _ => {}
        }
        match -result {
            ..0 => {
                let buffer = buffer.expect("received bytes lie in a buffer");
                ctx.stats.bytes_received += result as u64;
                entry.read_active();
                self.on_bytes(ctx, slot, buffer, result as usize, has_left)?;
                // What comes in bulk is received piece by piece: a partner that takes no more must
                // not find more of it received.
                let is_bulk = has_left && self.slots[slot].partner().is_some();
                self.arm_read(ctx, slot, if is_bulk { Wait::Once } else { Wait::Multi })
            }
            0 => self.on_peer_end(ctx, slot),
            errno @ (libc::EAGAIN | libc::EINTR | libc::ECANCELED) => {
                if !self.delivery_blocked(ctx.config, slot) && self.is_held(slot) {
                    self.resume_delivery(ctx, slot, errno == libc::EAGAIN)?;
                }
                if was == Read::Receiving {
                    self.send_first_ack(slot)?;
                }
                let was_silent = matches!(was, Read::Receiving | Read::Cooling);
                let wait = if was_silent { Wait::Poll } else { Wait::Multi };
                self.arm_read(ctx, slot, wait)
            }
            libc::ENOBUFS => {
                let more = self.ring.add_buffers();
                self.buffers_free += more;
                self.buffers_count += more;
                ctx.stats.buffer_shortages += u64::from(more == 0);
                self.queue_receive(slot);
                Ok(())
            }
            errno => self.end_by_peer(ctx, slot, CloseReason::from_errno(errno)),
        }
    }

    fn on_bytes(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        buffer: u16,
        length: usize,
        has_left: bool,
    ) -> Result<(), Error> {
        if self.slots[slot].delivery() == Delivery::Discarded {
            return self.discard(ctx, slot, buffer, length);
        }
        if self.delivery_blocked(ctx.config, slot) {
            self.slots[slot].delivery_held();
            let pending = self.pending.entry(slot).or_default();
            let bytes = self.ring.bytes(buffer, length);
            pending.incoming.extend_from_slice(bytes);
            let kept = pending.incoming.len();
            self.ring.recycle(buffer);
            if kept > held_bytes_max(ctx.config) {
                return self.close(ctx, slot, CloseReason::BufferLimit);
            }
            return self.cancel_receive(slot);
        }
        // The bytes are lent to the handler from the ring's memory, so the rest of the shard is
        // borrowed apart from it.
        let id = self.id(ctx, slot);
        let link = self.link_of(ctx, slot);
        let entry = &mut self.slots[slot];
        let is_blocked = entry.is_blocked();
        let mut joined = Vec::new();
        if entry.delivery() != Delivery::Direct {
            entry.delivered();
            let pending = self.pending.get_mut(&slot).expect("bytes are kept");
            joined = std::mem::take(&mut pending.incoming);
        }
        let fresh = self.ring.bytes(buffer, length);
        let is_joined = !joined.is_empty();
        if is_joined {
            joined.extend_from_slice(fresh);
        }
        let bytes = if is_joined { &joined } else { fresh };
        let mut conn = Conn::new(
            &mut self.slots[slot].state,
            ctx.now_us,
            is_blocked,
            &mut ctx.recorder,
        )
        .with_id(id)
        .with_link(link)
        .with_delivered(bytes)
        .with_more(has_left);
        ctx.has_called = true;
        let used = ctx.handler.on_bytes(&mut conn, bytes);
        let actions = conn.into_actions();
        assert!(
            used <= bytes.len(),
            "a handler cannot use more than it was given"
        );
        let mut is_lent = false;
        if is_joined {
            self.forward(ctx, slot, actions.forwards, Forwarded::Kept(&joined))?;
            joined.drain(..used);
        } else {
            joined.extend_from_slice(&fresh[used..]);
            is_lent = self.forward(ctx, slot, actions.forwards, Forwarded::Received(buffer))?;
        }
        if !is_lent {
            self.ring.recycle(buffer);
        }
        self.keep_rest(ctx, slot, joined, is_joined, has_left, actions)
    }

    /// Bytes of a connection that is closed in stages: nobody wants them, but they must be read, or
    /// closing would reset it.
    fn discard(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        buffer: u16,
        length: usize,
    ) -> Result<(), Error> {
        self.ring.recycle(buffer);
        let pending = self.pending.entry(slot).or_default();
        pending.discarded_bytes += length;
        if pending.discarded_bytes > DISCARD_BYTES_MAX {
            return self.close(ctx, slot, CloseReason::LocallyClosed);
        }
        Ok(())
    }

    /// Keeps what the handler did not use, and does what it wants. `was_kept`: its bytes came from
    /// what was kept; `has_left`: the socket holds more.
    fn keep_rest(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        rest: Vec<u8>,
        was_kept: bool,
        has_left: bool,
        actions: Actions,
    ) -> Result<(), Error> {
        let is_to_wait = actions.is_pausing || actions.forwards.is_refused;
        let bytes_max = if is_to_wait || actions.reading == ReadChange::Pause {
            held_bytes_max(ctx.config)
        } else {
            ctx.config.pending_bytes_max
        };
        if rest.len() > bytes_max {
            ctx.recorder.thread.clear_sent();
            return self.close(ctx, slot, CloseReason::BufferLimit);
        }
        let has_unread = has_left || !rest.is_empty();
        if !rest.is_empty() {
            self.pending.entry(slot).or_default().incoming = rest;
            self.slots[slot].delivered_in_part();
        } else if was_kept {
            self.drop_pending_if_empty(slot);
        }
        self.perform(ctx, slot, actions, has_unread)
    }

    fn is_held(&self, slot: u32) -> bool {
        self.slots[slot].delivery() == Delivery::Held
    }

    /// Gives the handler again what was kept while it paused or its peer did not read. When all are
    /// to end, only once it is known whether there is more: what was received is to be answered,
    /// and a handler that thinks it has seen the last would end.
    pub(super) fn resume_delivery(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        is_all: bool,
    ) -> Result<(), Error> {
        let read = self.slots[slot].read();
        let is_all = is_all || matches!(read, Read::Ended | Read::Parked);
        if ctx.is_stopping && !is_all {
            // The completion of this receive, or of the one under way, comes back here or to
            // `on_bytes`.
            if matches!(read, Read::Idle | Read::Paused) {
                self.slots[slot].read_resumed();
                self.queue_receive(slot);
            }
            return self.cancel_receive(slot);
        }
        self.slots[slot].delivered();
        let pending = self.pending.get_mut(&slot).expect("bytes are held");
        let mut kept = std::mem::take(&mut pending.incoming);
        let id = self.id(ctx, slot);
        let link = self.link_of(ctx, slot);
        let mut conn = Conn::new(
            &mut self.slots[slot].state,
            ctx.now_us,
            false,
            &mut ctx.recorder,
        )
        .with_id(id)
        .with_link(link)
        .with_delivered(&kept)
        .with_more(!is_all);
        ctx.has_called = true;
        let used = ctx.handler.on_bytes(&mut conn, &kept);
        let actions = conn.into_actions();
        self.forward(ctx, slot, actions.forwards, Forwarded::Kept(&kept))?;
        kept.drain(..used);
        self.keep_rest(ctx, slot, kept, true, !is_all, actions)
    }

    /// Gives the handler what is held back, since no more will come. True if the connection is
    /// still in `phase`.
    pub(super) fn deliver_last(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
    ) -> Result<bool, Error> {
        let phase = self.slots[slot].phase();
        if self.is_held(slot) {
            self.resume_delivery(ctx, slot, true)?;
        }
        Ok(self.slots[slot].phase() == phase)
    }
}
