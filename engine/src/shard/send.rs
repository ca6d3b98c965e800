//! How bytes go out.
//!
//! A send is submitted, and unless its completion says that it came short, it went out whole: `settle` knows when all that failed
//! have been heard of. What a peer does not take at once is kept, in pieces, and sent when there is room.
//! Invariants: at most one send of a connection is under way, so bytes leave in order; what is kept for a connection is bounded by
//! `Config::pending_bytes_max`, static bytes apart, which cost only the piece that names them.
//! Must not know: what the bytes mean.

use super::pending::{Carry, Piece, SendRecord, SendSource};
use super::turn::{Context, Shard};
use crate::error::{CloseReason, Error};
use crate::handler::Handler;
use crate::ring::{Request, Ring};
use crate::slot::{Phase, flag};
use crate::token::{Op, Token};

/// Most bytes of a kept piece that are staged for one send.
const STAGED_BYTES_MAX: usize = 16 * 1024;

impl<R: Ring, H: Handler> Shard<R, H> {
    /// The connection's carry, made if it has none.
    pub(super) fn carry_mut(&mut self, slot: u32) -> &mut Carry {
        self.slots[slot].set(flag::CARRY);
        self.carries.entry(slot).or_default()
    }

    pub(super) fn drop_carry_if_empty(&mut self, slot: u32) {
        if self.slots[slot].has(flag::CARRY) && self.carries.get(&slot).is_none_or(Carry::is_empty)
        {
            self.carries.remove(&slot);
            self.slots[slot].clear(flag::CARRY);
        }
    }

    pub(super) fn send_static(
        &mut self,
        ctx: &mut Context<'_, H>,
        slot: u32,
        bytes: &'static [u8],
        is_last: bool,
    ) -> Result<(), Error> {
        if self.slots[slot].has(flag::SENDING) || self.is_blocked(slot) {
            self.carry_mut(slot)
                .outgoing
                .push_back(Piece::Static(bytes));
            return self.check_carry(ctx, slot);
        }
        let request = Request::SendStatic {
            slot,
            bytes,
            is_last,
        };
        self.submit_send(ctx, slot, request, SendSource::Static(bytes))
    }

    pub(super) fn send_copy(
        &mut self,
        ctx: &mut Context<'_, H>,
        slot: u32,
        bytes: &[u8],
        is_last: bool,
    ) -> Result<(), Error> {
        if !self.slots[slot].has(flag::SENDING) && !self.is_blocked(slot) {
            if let Some(staged) = self.ring.stage(self.half, bytes) {
                let request = Request::SendStaged {
                    slot,
                    staged,
                    is_last,
                };
                return self.submit_send(ctx, slot, request, SendSource::Staged(staged));
            }
            self.want_room(slot);
        }
        self.carry_mut(slot).push(bytes);
        self.check_carry(ctx, slot)
    }

    /// Something more is carried: too much ends the connection.
    fn check_carry(&mut self, ctx: &mut Context<'_, H>, slot: u32) -> Result<(), Error> {
        self.must_settle = true;
        if self.carry_mut(slot).kept_bytes() > ctx.config.pending_bytes_max {
            return self.end(ctx, slot, CloseReason::Stalled);
        }
        Ok(())
    }

    fn submit_send(
        &mut self,
        ctx: &mut Context<'_, H>,
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
        self.ring.push(self.token(Op::Send, slot), request)
    }

    /// Every failure of the sends submitted by the last `enter` has been seen: the others went out whole.
    pub(super) fn settle(&mut self, ctx: &mut Context<'_, H>) -> Result<(), Error> {
        let settled = 1 - self.half;
        let mut records = std::mem::take(&mut self.sends[settled]);
        for record in records.drain(..) {
            let slot = record.slot;
            let entry = &mut self.slots[slot];
            if entry.generation != record.generation {
                continue;
            }
            entry.clear(flag::SENDING);
            let has_followup = entry.flags & (flag::CARRY | flag::ENDING | flag::PEER_ENDED) != 0;
            if has_followup && entry.phase == Phase::Open {
                if let SendSource::Carry(count) = record.source {
                    self.carry_mut(slot).take(count);
                }
                self.flush(ctx, slot)?;
            }
        }
        self.sends[settled] = records;
        self.ring.unstage(settled);
        self.stage_more(ctx)
    }

    /// No room in the staging region until sends have been settled. Not a poll for room to send: it would complete at once, again and
    /// again, and with many of them the completions that settle would never be all there.
    fn want_room(&mut self, slot: u32) {
        self.must_settle = true;
        self.unstaged.push_back(self.token(Op::Send, slot));
    }

    /// Sends what waited for room in the staging region, as much as there is now.
    fn stage_more(&mut self, ctx: &mut Context<'_, H>) -> Result<(), Error> {
        for _ in 0..self.unstaged.len() {
            let Some(token) = self.unstaged.pop_front() else {
                break;
            };
            let slot = token.slot();
            let entry = &self.slots[slot];
            if entry.generation == token.generation() && entry.phase == Phase::Open {
                self.flush(ctx, slot)?;
                if self.unstaged.back() == Some(&token) {
                    // It found no room: whoever comes behind it waits too.
                    self.unstaged.rotate_right(1);
                    break;
                }
            }
        }
        Ok(())
    }

    /// The kernel took less than all: keep the rest until there is room.
    pub(super) fn on_send_short(
        &mut self,
        ctx: &mut Context<'_, H>,
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
            return self.end(ctx, slot, CloseReason::from_errno(-result));
        }
        let taken = result.max(0) as usize;
        let is_ours = |r: &SendRecord| r.is_of(slot, token.generation());
        let source = self
            .sends
            .iter()
            .flatten()
            .find(|r| is_ours(r))
            .expect("a send is on record until it is settled")
            .source;
        self.sends
            .iter_mut()
            .for_each(|half| half.retain(|r| !is_ours(r)));
        self.slots[slot].clear(flag::SENDING);
        match source {
            SendSource::Static(bytes) => {
                let rest = Piece::Static(&bytes[taken..]);
                self.carry_mut(slot).outgoing.push_front(rest);
            }
            SendSource::Staged(staged) => {
                let rest = Piece::copied(&self.ring.staged(staged)[taken..]);
                self.carry_mut(slot).outgoing.push_front(rest);
            }
            SendSource::Carry(_) => self.carry_mut(slot).take(taken),
        }
        self.check_carry(ctx, slot)?;
        self.want_writable(slot)?;
        if self.slots[slot].phase != Phase::Open {
            return Ok(());
        }
        // Word of it only when something moved: a peer that reads slowly is another than one that does not read.
        let carry = self.carry_mut(slot);
        if taken > 0 || !carry.was_blocked {
            carry.was_blocked = true;
            return self.call(ctx, slot, |handler, conn| handler.on_blocked(conn));
        }
        Ok(())
    }

    fn want_writable(&mut self, slot: u32) -> Result<(), Error> {
        let entry = &mut self.slots[slot];
        if entry.phase == Phase::Open && !entry.has(flag::WRITABLE) {
            entry.set(flag::WRITABLE);
            let token = self.token(Op::Writable, slot);
            let writable = true;
            self.ring.push(token, Request::Poll { slot, writable })?;
        }
        Ok(())
    }

    pub(super) fn on_writable(&mut self, ctx: &mut Context<'_, H>, slot: u32) -> Result<(), Error> {
        self.slots[slot].clear(flag::WRITABLE);
        match self.slots[slot].phase {
            Phase::Closing => self.try_finish(ctx, slot),
            Phase::Open => self.flush(ctx, slot),
            _ => Ok(()),
        }
    }

    /// Sends what was kept, or when nothing is left takes up what waited for that.
    fn flush(&mut self, ctx: &mut Context<'_, H>, slot: u32) -> Result<(), Error> {
        if self.slots[slot].flags & (flag::SENDING | flag::WRITABLE) != 0 {
            return Ok(());
        }
        if self.slots[slot].has(flag::CARRY) {
            if self.is_blocked(slot) {
                return self.send_kept(ctx, slot);
            }
            self.take_up(ctx, slot)?;
        }
        // What was taken up may have brought new sends: then this comes again when they are settled. What a handler left of what it
        // was given stays with a connection that is ended in order.
        let is_blocked = self.is_blocked(slot);
        let entry = &self.slots[slot];
        let is_held_up = entry.has(flag::CARRY) && (is_blocked || !entry.has(flag::END_IN_ORDER));
        if entry.phase != Phase::Open || entry.has(flag::SENDING) || is_held_up {
            return Ok(());
        }
        if entry.has(flag::END_AFTER_SENT) {
            self.end(ctx, slot, CloseReason::LocallyClosed)
        } else if entry.has(flag::END_IN_ORDER) {
            self.end_in_order(ctx, slot)
        } else if entry.has(flag::PEER_ENDED) {
            self.end(ctx, slot, CloseReason::PeerClosed)
        } else {
            Ok(())
        }
    }

    /// Everything is with the kernel: the handler goes on.
    fn take_up(&mut self, ctx: &mut Context<'_, H>, slot: u32) -> Result<(), Error> {
        let carry = self.carry_mut(slot);
        let was_paused = std::mem::take(&mut carry.is_paused);
        carry.has_held |= was_paused && !carry.incoming.is_empty();
        let is_read_paused = std::mem::take(&mut carry.is_read_paused);
        let was_blocked = std::mem::take(&mut carry.was_blocked);
        let is_ending = self.slots[slot].flags & flag::ENDING != 0;
        if was_blocked && !is_ending {
            self.call(ctx, slot, |handler, conn| handler.on_sent(conn))?;
        }
        let is_open = self.slots[slot].phase == Phase::Open;
        // Not if it has paused once more, or the peer takes no more again: then this comes back.
        if is_open && self.slots[slot].has(flag::CARRY) && !self.must_hold(ctx.config, slot) {
            let is_cut = self.slots[slot].has(flag::END_AFTER_SENT);
            let is_ending = self.slots[slot].flags & flag::ENDING != 0;
            let carry = self.carry_mut(slot);
            if is_cut {
                carry.incoming.clear();
            }
            if std::mem::take(&mut carry.has_held) && !carry.incoming.is_empty() {
                // Also when the handler has ended it in order since: what the peer sent before its end is handed over.
                self.take_up_held(ctx, slot, is_ending)?;
            }
        }
        if self.slots[slot].phase == Phase::Open {
            self.drop_carry_if_empty(slot);
            if self.slots[slot].has(flag::PEER_ENDED)
                && !self.slots[slot].has(flag::SENDING)
                && !self.is_blocked(slot)
            {
                // What is left is a message that will never be whole.
                self.carries.remove(&slot);
                self.slots[slot].clear(flag::CARRY);
            }
            if is_read_paused {
                self.arm(ctx, slot)?;
            }
        }
        Ok(())
    }

    /// Sends the first piece of what was kept.
    fn send_kept(&mut self, ctx: &mut Context<'_, H>, slot: u32) -> Result<(), Error> {
        self.must_settle = true;
        let half = self.half;
        let is_last = false;
        let carry = &self.carries[&slot];
        let (request, count) = match carry.outgoing.front().expect("a blocked one has a piece") {
            Piece::Static(bytes) => {
                let request = Request::SendStatic {
                    slot,
                    bytes,
                    is_last,
                };
                (request, bytes.len())
            }
            Piece::Copied { bytes, from } => {
                let rest = &bytes[*from..];
                // No more than an empty half has room for, or it would wait for ever.
                let bytes_max = STAGED_BYTES_MAX.min(ctx.config.staging_bytes);
                let rest = &rest[..rest.len().min(bytes_max)];
                match self.ring.stage(half, rest) {
                    Some(staged) => {
                        let request = Request::SendStaged {
                            slot,
                            staged,
                            is_last,
                        };
                        (request, rest.len())
                    }
                    None => {
                        self.want_room(slot);
                        return Ok(());
                    }
                }
            }
        };
        self.submit_send(ctx, slot, request, SendSource::Carry(count))
    }
}
