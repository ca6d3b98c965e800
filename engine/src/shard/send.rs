//! How bytes go out.
//!
//! A send is submitted, and unless its completion says that it came short, it went out whole:
//! `settle` knows when all that failed have been heard of. What a peer does not take at once is
//! pending, in pieces, and sent when there is room.
//! Invariants: at most one send of a connection is under way, so bytes leave in order; what is kept
//! for a connection is bounded: its own memory by `Config::pending_bytes_max`, where static bytes and
//! shared buffers count with the piece that names them, and the bytes of shared buffers that queue up
//! by `Config::shared_bytes_max`. The ring keeps a shared buffer until the sends that read it are
//! settled, whatever becomes of the connection meanwhile.
//! Must not depend on: what the bytes mean.

use std::sync::Arc;

use super::pending::{Pending, Piece, SendRecord, SendSource, held_bytes_max};
use super::stream::is_peer_end_only;
use super::turn::{CoreContext, Shard};
use crate::error::{CloseReason, Error};
use crate::handler::Handler;
use crate::ring::{Request, Ring, Shared};
use crate::slot::{NONE, Phase, Write};
use crate::token::{Op, Token};

/// Most bytes of a kept piece that are staged for one send.
const STAGED_BYTES_MAX: usize = 16 * 1024;

/// Most bytes of one send: the kernel takes no more than 2 GiB less a page.
const SEND_BYTES_MAX: usize = 1 << 30;

impl<R: Ring, H: Handler> Shard<R, H> {
    /// What is kept to be sent, which there is.
    fn pending_mut(&mut self, slot: u32) -> &mut Pending {
        self.pending.get_mut(&slot).expect("bytes are pending")
    }

    pub(super) fn drop_pending_if_empty(&mut self, slot: u32) {
        if self.pending.get(&slot).is_some_and(Pending::is_empty) {
            self.pending.remove(&slot);
        }
    }

    pub(super) fn send_static(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        bytes: &'static [u8],
        is_last: bool,
    ) -> Result<(), Error> {
        if self.slots[slot].write() != Write::Idle || bytes.len() > SEND_BYTES_MAX {
            return self.send_piece(ctx, slot, Piece::Static(bytes));
        }
        let request = Request::SendStatic {
            slot,
            bytes,
            is_last,
        };
        self.submit_send(ctx, slot, request, SendSource::Static(bytes))
    }

    /// Sends a buffer that other connections are sent too.
    pub(super) fn send_shared(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        bytes: Arc<[u8]>,
        is_last: bool,
    ) -> Result<(), Error> {
        if self.slots[slot].write() != Write::Idle || bytes.len() > SEND_BYTES_MAX {
            return self.send_piece(ctx, slot, Piece::Shared { bytes, from: 0 });
        }
        let shared = Shared {
            number: self.ring.share(self.half, &bytes),
            length: bytes.len() as u32,
            offset: 0,
        };
        let request = Request::SendShared {
            slot,
            shared,
            is_last,
        };
        self.submit_send(ctx, slot, request, SendSource::Shared(shared))
    }

    /// Sends a piece behind what is under way or pending, or in parts.
    fn send_piece(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        piece: Piece,
    ) -> Result<(), Error> {
        let pending = self.pending.entry(slot).or_default();
        pending.outgoing.push_back(piece);
        let is_idle = self.slots[slot].write() == Write::Idle;
        self.queue_send(ctx, slot)?;
        if is_idle && self.slots[slot].phase().is_open() {
            return self.send_pending(ctx, slot);
        }
        Ok(())
    }

    pub(super) fn send_copy(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        bytes: &[u8],
        is_last: bool,
    ) -> Result<(), Error> {
        if self.slots[slot].write() == Write::Idle {
            if let Some(staged) = self.ring.stage(self.half, bytes) {
                let request = Request::SendStaged {
                    slot,
                    staged,
                    is_last,
                };
                return self.submit_send(ctx, slot, request, SendSource::Staged(staged));
            }
            self.await_staging(slot);
        }
        let pending = self.pending.entry(slot).or_default();
        pending.outgoing.push_copy(bytes);
        self.queue_send(ctx, slot)
    }

    /// More is pending than what is under way: too much ends the connection.
    fn queue_send(&mut self, ctx: &mut CoreContext<'_, H>, slot: u32) -> Result<(), Error> {
        self.slots[slot].send_queued();
        self.must_settle = true;
        self.check_pending(ctx, slot)
    }

    fn check_pending(&mut self, ctx: &mut CoreContext<'_, H>, slot: u32) -> Result<(), Error> {
        // What a partner forwards has a bound of its own, and comes on top.
        let forwarded_max = match self.slots[slot].partner() {
            None => 0,
            Some(_) => ctx.config.forward_bytes_max + held_bytes_max(ctx.config),
        };
        let outgoing = &self.pending_mut(slot).outgoing;
        if outgoing.is_too_much(ctx.config, forwarded_max) {
            return self.close(ctx, slot, CloseReason::Stalled);
        }
        Ok(())
    }

    pub(super) fn submit_send(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        request: Request,
        source: SendSource,
    ) -> Result<(), Error> {
        let generation = self.slots[slot].generation;
        self.slots[slot].send_submitted();
        ctx.stats.sends += 1;
        let record = SendRecord {
            slot,
            generation,
            source,
        };
        let number = self.sends.add(self.half, record);
        self.ring.push(Token::new(Op::Send, slot, number), request)
    }

    /// Every failure of the sends submitted by the last `enter` has been seen: the others went out
    /// whole.
    pub(super) fn settle(&mut self, ctx: &mut CoreContext<'_, H>) -> Result<(), Error> {
        let settled = 1 - self.half;
        self.is_settle_due = false;
        let mut records = self.sends.take_half(settled);
        for record in records.drain(..).filter(|r| r.slot != NONE) {
            if let SendSource::Received(received) = record.source {
                self.give_back(received);
            }
            let slot = record.slot;
            let entry = &mut self.slots[slot];
            if entry.generation != record.generation {
                continue;
            }
            let has_followup = entry.awaits_sent();
            entry.send_settled();
            if has_followup && entry.phase().is_open() {
                if let SendSource::Pending(count) = record.source {
                    self.pending_mut(slot).outgoing.take(count);
                }
                self.flush(ctx, slot)?;
            }
        }
        self.sends.give_back(settled, records);
        self.ring.unstage(settled);
        self.send_unstaged(ctx)
    }

    /// No room in the staging region until sends have been settled. Not a poll for room to send: it
    /// would complete at once, again and again, and with many of them the completions that settle
    /// would never be all there.
    fn await_staging(&mut self, slot: u32) {
        self.must_settle = true;
        self.unstaged.push_back(self.token(Op::Send, slot));
    }

    /// Sends what waited for room in the staging region, as much as there is now.
    fn send_unstaged(&mut self, ctx: &mut CoreContext<'_, H>) -> Result<(), Error> {
        for _ in 0..self.unstaged.len() {
            let Some(token) = self.unstaged.pop_front() else {
                break;
            };
            let slot = token.slot();
            let entry = &self.slots[slot];
            if entry.generation == token.generation() && entry.phase().is_open() {
                self.flush(ctx, slot)?;
                if self.unstaged.back() == Some(&token) {
                    // It found no room: those behind it wait too.
                    self.unstaged.rotate_right(1);
                    break;
                }
            }
        }
        Ok(())
    }

    /// The kernel took less than all: keep the rest until there is room. The token of a send has
    /// the number of its record where others have the generation.
    pub(super) fn on_send_short(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        token: Token,
        result: i32,
    ) -> Result<(), Error> {
        let slot = token.slot();
        let Some(record) = self.sends.take(token.generation(), slot) else {
            return Ok(());
        };
        let kept = self.keep_unsent(ctx, &record, result);
        if let SendSource::Received(received) = record.source {
            self.give_back(received);
        }
        kept
    }

    fn keep_unsent(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        record: &SendRecord,
        result: i32,
    ) -> Result<(), Error> {
        let slot = record.slot;
        if self.slots[slot].generation != record.generation {
            // A silent request that failed because its connection ended meanwhile is no surprise.
            return Ok(());
        }
        ctx.stats.sends -= 1;
        ctx.stats.sends_short += 1;
        if self.slots[slot].phase() == Phase::Closing {
            self.slots[slot].send_settled();
            return Ok(());
        }
        if result < 0 && result != -libc::EAGAIN && result != -libc::EINTR {
            return self.on_send_failed(ctx, slot, CloseReason::from_errno(-result));
        }
        let taken = result.max(0) as usize;
        let was_blocked = self.slots[slot].send_short();
        let pending = self.pending.entry(slot).or_default();
        match record.source {
            SendSource::Static(bytes) => {
                pending.outgoing.push_front(Piece::Static(&bytes[taken..]));
            }
            SendSource::Staged(staged) => {
                let rest = Piece::copied(&self.ring.staged(staged)[taken..]);
                pending.outgoing.push_front(rest);
            }
            SendSource::Received(received) => {
                let rest = Self::rest_of(&self.ring, received, taken);
                ctx.stats.bytes_forwarded_copied += rest.len() as u64;
                pending.outgoing.push_front(rest);
            }
            SendSource::Shared(shared) => {
                let bytes = Arc::clone(self.ring.shared(shared.number));
                let from = shared.offset + taken;
                pending.outgoing.push_front(Piece::Shared { bytes, from });
            }
            SendSource::Pending(_) => pending.outgoing.take(taken),
        }
        self.must_settle = true;
        // Nothing was added to what was pending, and what is forwarded is bounded where it comes from.
        let is_bounded = matches!(
            record.source,
            SendSource::Pending(_) | SendSource::Received(_)
        );
        if !is_bounded {
            self.check_pending(ctx, slot)?;
        }
        if !self.slots[slot].phase().is_open() {
            return Ok(());
        }
        if self.slots[slot].send_blocked() {
            let poll = Request::Poll {
                slot,
                writable: true,
            };
            self.ring.push(self.token(Op::Writable, slot), poll)?;
        }
        self.on_partner_blocked(slot)?;
        // Word of it only when something moved: a peer that reads slowly is another than one that
        // does not read.
        if taken > 0 || !was_blocked {
            return self.call(ctx, slot, |handler, conn| handler.on_blocked(conn));
        }
        Ok(())
    }

    pub(super) fn on_writable(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        result: i32,
    ) -> Result<(), Error> {
        let entry = &mut self.slots[slot];
        if entry.phase() != Phase::Closing && is_peer_end_only(result) {
            entry.send_watched();
            return self.arm_watch(slot);
        }
        entry.send_unblocked();
        match entry.phase() {
            Phase::Closing => self.try_release(ctx, slot),
            _ => self.flush(ctx, slot),
        }
    }

    /// Sends what is pending, or when nothing is left does what waited for that.
    pub(super) fn flush(&mut self, ctx: &mut CoreContext<'_, H>, slot: u32) -> Result<(), Error> {
        match self.slots[slot].write() {
            Write::Idle => {}
            Write::Queued | Write::Requeued => {
                if !self.pending_mut(slot).outgoing.is_empty() {
                    return self.send_pending(ctx, slot);
                }
            }
            _ => return Ok(()),
        }
        self.on_all_sent(ctx, slot)?;
        // That may have brought new sends: then this comes again when they are settled. What a
        // handler left of what it was given stays with a connection that is closed.
        let entry = &self.slots[slot];
        if entry.write() != Write::Idle {
            return Ok(());
        }
        match entry.phase() {
            Phase::Finishing if entry.is_reset_wanted() => self.start_resetting(slot),
            Phase::Finishing => self.close(ctx, slot, CloseReason::LocallyClosed),
            Phase::Flushing => self.close_gracefully(ctx, slot),
            Phase::Open if entry.is_shutdown_wanted() => self.shutdown_write(ctx, slot),
            _ => Ok(()),
        }
    }

    /// Everything is with the kernel: the handler goes on.
    fn on_all_sent(&mut self, ctx: &mut CoreContext<'_, H>, slot: u32) -> Result<(), Error> {
        let pending = self.pending.get(&slot);
        let is_kept = pending.is_some_and(|p| !p.incoming.is_empty());
        self.drop_pending_if_empty(slot);
        let entry = &mut self.slots[slot];
        let was_blocked = entry.all_sent();
        self.tell_sent(slot);
        let entry = &mut self.slots[slot];
        entry.delivery_resumed(is_kept);
        if was_blocked && entry.phase() == Phase::Open {
            self.call(ctx, slot, |handler, conn| handler.on_writable(conn))?;
        }
        // Not if it has paused once more, or the peer takes no more again: then this comes back.
        self.go_on_reading(ctx, slot)
    }

    /// Sends the first piece of what is pending.
    pub(super) fn send_pending(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
    ) -> Result<(), Error> {
        self.must_settle = true;
        let half = self.half;
        let is_last = false;
        let pending = &self.pending[&slot];
        let piece = pending.outgoing.front();
        let (request, count) = match piece.expect("a queued one has a piece") {
            Piece::Static(bytes) => {
                let bytes = &bytes[..bytes.len().min(SEND_BYTES_MAX)];
                let request = Request::SendStatic {
                    slot,
                    bytes,
                    is_last,
                };
                (request, bytes.len())
            }
            Piece::Shared { bytes, from } => {
                let length = (bytes.len() - from).min(SEND_BYTES_MAX);
                let shared = Shared {
                    number: self.ring.share(half, bytes),
                    length: length as u32,
                    offset: *from,
                };
                let request = Request::SendShared {
                    slot,
                    shared,
                    is_last,
                };
                (request, length)
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
                        self.await_staging(slot);
                        return Ok(());
                    }
                }
            }
        };
        self.submit_send(ctx, slot, request, SendSource::Pending(count))
    }
}
