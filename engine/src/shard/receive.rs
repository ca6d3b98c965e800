//! How bytes come in.
//!
//! A connection that is nearly always idle waits parked on a poll, the cheapest there is in memory, and receives when it is
//! readable. One that keeps receiving (`Config::park_after`) is hot: its receive itself waits in the kernel, the first time
//! for one buffer, then as a stream, until a sweep finds it silent and parks it.
//! Invariants: a connection owns no buffer while it waits; a handler is given nothing while its peer does not take what was
//! sent (unless `Config::reads_while_blocked`), nor while it paused; what arrives meanwhile is kept, bounded.
//! Must not know: what the bytes mean.

use super::turn::{Context, Shard};
use crate::config::Config;
use crate::error::{CloseReason, Error};
use crate::handler::{Conn, Handler};
use crate::ring::{Completion, Request, Ring};
use crate::slot::{Phase, flag};
use crate::token::Op;

/// Slots looked at in one turn of a sweep.
const SWEEP_SLOTS: u32 = 1_024;

impl<R: Ring, H: Handler> Shard<R, H> {
    /// Waits for the connection's next bytes, if it is still to be read.
    pub(super) fn arm(&mut self, ctx: &mut Context<'_, H>, slot: u32) -> Result<(), Error> {
        let entry = &self.slots[slot];
        if !matches!(entry.phase, Phase::Open | Phase::Draining)
            || entry.flags & (flag::POLL | flag::RECV | flag::PEER_ENDED | flag::ENDING) != 0
        {
            return Ok(());
        }
        if self.must_hold(ctx.config, slot) {
            let carry = self.carries.get_mut(&slot);
            carry.expect("what holds is a carry").is_read_paused = true;
            return Ok(());
        }
        let entry = &mut self.slots[slot];
        if ctx.config.park_after.is_zero() || entry.has(flag::COLD) {
            entry.set(flag::POLL);
            let token = self.token(Op::Poll, slot);
            let writable = false;
            return self.ring.push(token, Request::Poll { slot, writable });
        }
        let request = if entry.has(flag::WARM) {
            Request::RecvStream { slot }
        } else {
            Request::RecvNext { slot }
        };
        entry.set(flag::RECV | flag::HOT | flag::HEARD);
        if self.sweep.hot_count == 0 {
            self.sweep.at_us = ctx.now_us + ctx.config.park_after.as_micros() as u64;
            self.sweep.from = 0;
        }
        self.sweep.hot_count += 1;
        self.sweep.is_trim_due = true;
        self.ring.push(self.token(Op::Recv, slot), request)
    }

    /// True if what arrives is to be kept back from the handler.
    pub(super) fn must_hold(&self, config: &Config, slot: u32) -> bool {
        self.slots[slot].has(flag::CARRY)
            && self.carries.get(&slot).is_some_and(|c| {
                c.is_paused || (!c.outgoing.is_empty() && !config.reads_while_blocked)
            })
    }

    /// Looks at some slots for connections that have been silent since the last look, and parks them.
    pub(super) fn sweep_some(&mut self, ctx: &mut Context<'_, H>) -> Result<(), Error> {
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
            let entry = &mut self.slots[slot];
            if entry.has(flag::HEARD) {
                entry.clear(flag::HEARD);
            } else if entry.has(flag::HOT) {
                entry.set(flag::COLD);
                self.stop_stream(slot)?;
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
    fn trim(&mut self, ctx: &mut Context<'_, H>) {
        let is_used = self.buffers_free < self.buffers_count
            || self.ring.has_completion()
            || self.ring.is_overflowing()
            || self.sends.iter().any(|half| !half.is_empty());
        if is_used {
            self.sweep.at_us = ctx.now_us + ctx.config.park_after.as_micros() as u64;
        } else {
            self.ring.trim();
            self.sweep.is_trim_due = false;
        }
    }

    /// Ends a receive that waits in the kernel; its last completion brings what comes next.
    fn stop_stream(&mut self, slot: u32) -> Result<(), Error> {
        if !self.slots[slot].has(flag::HOT) || self.slots[slot].has(flag::CANCELLED) {
            return Ok(());
        }
        self.slots[slot].set(flag::CANCELLED);
        let token = self.token(Op::Recv, slot);
        let cancel = self.token(Op::Cancel, slot);
        self.ring.push(cancel, Request::Cancel { token })
    }

    pub(super) fn on_poll(
        &mut self,
        ctx: &mut Context<'_, H>,
        slot: u32,
        result: i32,
    ) -> Result<(), Error> {
        self.slots[slot].clear(flag::POLL);
        if self.slots[slot].phase == Phase::Closing {
            return self.try_finish(ctx, slot);
        }
        if result < 0 {
            return self.end(ctx, slot, CloseReason::from_errno(-result));
        }
        if self.must_hold(ctx.config, slot) {
            // Back-pressure: a peer that does not take our bytes is not read either.
            return self.arm(ctx, slot);
        }
        self.want_receive(slot);
        Ok(())
    }

    pub(super) fn want_receive(&mut self, slot: u32) {
        self.slots[slot].set(flag::RECV);
        self.readable.push_back(self.token(Op::Recv, slot));
    }

    pub(super) fn start_receives(&mut self) -> Result<(), Error> {
        while self.buffers_free > 0 {
            let Some(token) = self.readable.pop_front() else {
                break;
            };
            self.buffers_free -= 1;
            let slot = token.slot();
            self.ring.push(token, Request::Recv { slot })?;
        }
        Ok(())
    }

    pub(super) fn on_recv(
        &mut self,
        ctx: &mut Context<'_, H>,
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
        if !entry.has(flag::HOT) {
            self.buffers_free += 1;
        } else if !has_more {
            self.sweep.hot_count -= 1;
        }
        if !has_more {
            entry.clear(flag::RECV | flag::HOT | flag::CANCELLED);
        }
        if let Some(buffer) = buffer.filter(|_| result <= 0 || entry.phase == Phase::Closing) {
            self.ring.recycle(buffer);
        }
        if self.slots[slot].phase == Phase::Closing {
            return self.try_finish(ctx, slot);
        }
        match -result {
            ..0 => {
                let buffer = buffer.expect("received bytes lie in a buffer");
                ctx.stats.bytes_received += result as u64;
                self.slots[slot].set(flag::WARM | flag::HEARD);
                self.slots[slot].clear(flag::COLD);
                self.on_bytes(ctx, slot, buffer, result as usize, has_left)?;
                self.arm(ctx, slot)
            }
            0 => self.on_peer_end(ctx, slot),
            errno @ (libc::EAGAIN | libc::EINTR | libc::ECANCELED) => {
                if !self.must_hold(ctx.config, slot) && self.has_held(slot) {
                    self.take_up_held(ctx, slot, errno == libc::EAGAIN)?;
                }
                self.arm(ctx, slot)
            }
            libc::ENOBUFS => {
                let more = self.ring.add_buffers();
                self.buffers_free += more;
                self.buffers_count += more;
                ctx.stats.buffer_shortages += u64::from(more == 0);
                self.want_receive(slot);
                Ok(())
            }
            errno => self.end(ctx, slot, CloseReason::from_errno(errno)),
        }
    }

    fn on_bytes(
        &mut self,
        ctx: &mut Context<'_, H>,
        slot: u32,
        buffer: u16,
        length: usize,
        has_left: bool,
    ) -> Result<(), Error> {
        if self.must_hold(ctx.config, slot) {
            let carry = self.carries.get_mut(&slot);
            let carry = carry.expect("what holds is a carry");
            carry
                .incoming
                .extend_from_slice(self.ring.bytes(buffer, length));
            carry.has_held = true;
            self.ring.recycle(buffer);
            if carry.incoming.len() > held_bytes_max(ctx.config) {
                return self.end(ctx, slot, CloseReason::BufferLimit);
            }
            return self.stop_stream(slot);
        }
        // The bytes are lent to the handler from the ring's memory, so the rest of the shard is borrowed apart from it.
        let is_blocked = self.is_blocked(slot);
        let mut joined = if self.slots[slot].has(flag::CARRY) {
            let carry = self.carries.get_mut(&slot);
            carry.map_or_else(Vec::new, |c| {
                c.has_held = false;
                std::mem::take(&mut c.incoming)
            })
        } else {
            Vec::new()
        };
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
            &mut self.outgoing,
        )
        .with_more(has_left);
        let used = ctx.handler.on_bytes(&mut conn, bytes);
        let actions = conn.into_actions();
        assert!(
            used <= bytes.len(),
            "a handler cannot use more than it was given"
        );
        if is_joined {
            joined.drain(..used);
        } else {
            joined.extend_from_slice(&fresh[used..]);
        }
        self.ring.recycle(buffer);
        self.keep_rest(ctx, slot, joined, actions)
    }

    /// Keeps what the handler did not use, and does what it wants.
    fn keep_rest(
        &mut self,
        ctx: &mut Context<'_, H>,
        slot: u32,
        rest: Vec<u8>,
        actions: crate::handler::Actions,
    ) -> Result<(), Error> {
        let bytes_max = if actions.is_pausing {
            held_bytes_max(ctx.config)
        } else {
            ctx.config.pending_bytes_max
        };
        if rest.len() > bytes_max {
            self.outgoing.clear();
            return self.end(ctx, slot, CloseReason::BufferLimit);
        }
        if !rest.is_empty() {
            self.carry_mut(slot).incoming = rest;
        } else {
            self.drop_carry_if_empty(slot);
        }
        self.perform(ctx, slot, actions)
    }

    pub(super) fn has_held(&self, slot: u32) -> bool {
        self.slots[slot].has(flag::CARRY) && self.carries.get(&slot).is_some_and(|c| c.has_held)
    }

    /// Hands over again what was kept while the handler paused or its peer did not read. When all are to end, only once it is known
    /// whether there is more: what was received is to be answered, and a handler that thinks it has seen the last would end.
    pub(super) fn take_up_held(
        &mut self,
        ctx: &mut Context<'_, H>,
        slot: u32,
        is_all: bool,
    ) -> Result<(), Error> {
        let is_all = is_all || self.slots[slot].flags & (flag::PEER_ENDED | flag::POLL) != 0;
        let carry = self.carry_mut(slot);
        carry.has_held = ctx.is_stopping && !is_all;
        if carry.has_held {
            // The completion of this receive, or of the one under way, comes back here or to `on_bytes`.
            if !self.slots[slot].has(flag::RECV) {
                self.want_receive(slot);
            }
            return self.stop_stream(slot);
        }
        let mut kept = std::mem::take(&mut self.carry_mut(slot).incoming);
        let mut conn = Conn::new(
            &mut self.slots[slot].state,
            ctx.now_us,
            false,
            &mut self.outgoing,
        )
        .with_more(!is_all);
        let used = ctx.handler.on_bytes(&mut conn, &kept);
        let actions = conn.into_actions();
        kept.drain(..used);
        self.keep_rest(ctx, slot, kept, actions)
    }

    /// The peer sends no more. What it is still owed is sent first.
    fn on_peer_end(&mut self, ctx: &mut Context<'_, H>, slot: u32) -> Result<(), Error> {
        if self.slots[slot].phase == Phase::Draining {
            if self.has_held(slot) {
                self.take_up_held(ctx, slot, true)?;
            }
            if self.slots[slot].phase != Phase::Draining {
                return Ok(());
            }
            return self.end(ctx, slot, CloseReason::LocallyClosed);
        }
        self.slots[slot].set(flag::PEER_ENDED);
        if !self.must_hold(ctx.config, slot) && self.has_held(slot) {
            // Held until it was known whether more comes: nothing does.
            self.take_up_held(ctx, slot, true)?;
            if self.slots[slot].phase != Phase::Open {
                return Ok(());
            }
        }
        let is_owed = self.slots[slot].has(flag::SENDING)
            || self.is_blocked(slot)
            || self.must_hold(ctx.config, slot);
        if is_owed {
            self.must_settle = true;
            return Ok(());
        }
        self.end(ctx, slot, CloseReason::PeerClosed)
    }
}

/// Most bytes kept of a connection whose handler is given none: what may already be on its way when its receive is stopped.
fn held_bytes_max(config: &Config) -> usize {
    config.pending_bytes_max + usize::from(config.buffer_count_max) * config.buffer_bytes as usize
}
