//! Linked slots: two connections of one shard, each of which is sent what the other receives.
//!
//! Bytes are sent from the receive buffer that they came in; the buffer goes back to the ring when
//! the send is settled. What the partner's socket does not take is copied, and the other side is not
//! read until it has gone. While the dialled side connects, the side that waits is not read: what its
//! peer sends stays in the kernel.
//!
//! What happens to one side concerns the other: its callbacks run from a queue, after the callback or
//! completion that caused them, so callbacks never nest.
//! Invariants: a link has two ends, both in use, each of which names the other; it ends when one of
//! them is released, so it is never stale. A buffer is with the ring, or one send reads it. A side
//! that awaits its partner goes on when the partner opens, has sent everything, or is released.
//! Must not depend on: what the bytes mean.

use super::pending::{LinkEvent, Outgoing, Piece, SendSource, held_bytes_max};
use super::turn::{CoreContext, Shard};
use crate::error::{CloseReason, Error, OpenFailure, PartnerEnd};
use crate::handler::{Forwards, Handler, Link};
use crate::ring::{Received, Request, Ring};
use crate::slot::{Delivery, Phase, Read, Write};
use crate::socket_options::SEND_ACK;
use crate::token::Op;

/// Where bytes to forward are.
pub(super) enum Forwarded<'a> {
    /// In a receive buffer, which may be kept.
    Received(u16),
    /// Elsewhere.
    Kept(&'a [u8]),
}

impl<R: Ring, H: Handler> Shard<R, H> {
    /// True if `waiting` can be given a partner, and there is room for it.
    pub fn may_link(&self, slot: u32, generation: u32) -> bool {
        self.slots.at(slot).is_some_and(|entry| {
            entry.generation == generation
                && entry.phase() == Phase::Open
                && entry.partner().is_none()
                && !entry.has_tuple()
        })
    }

    /// Room for a connection, whoever it is for.
    pub fn room_for_partner(&self) -> u32 {
        self.slots.room()
    }

    /// Links the slot `dialled`, which connects, with the one that waits for it.
    pub fn link(&mut self, waiting: u32, dialled: u32) -> Result<(), Error> {
        self.slots[waiting].linked(dialled);
        self.slots[dialled].linked(waiting);
        self.count_unpaired(waiting, -1);
        self.await_partner(waiting)
    }

    /// The partner that was to be dialled for a slot is not.
    pub fn fail_link(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        waiting: u32,
        failure: OpenFailure,
    ) -> Result<(), Error> {
        self.slots[waiting].dial_dropped();
        self.tell(waiting, LinkEvent::Ended(PartnerEnd::OpenFailed(failure)));
        self.tell_partners(ctx)
    }

    /// One accepted connection more or less that is to have a partner and has none.
    pub(super) fn count_unpaired(&mut self, slot: u32, change: i32) {
        if self.pairs && self.slots[slot].is_accepted() {
            let count = self.unpaired_count.checked_add_signed(change);
            self.unpaired_count = count.expect("each was counted");
        }
    }

    /// Ends the link of a slot that is about to be released. The partner will be told.
    pub(super) fn unlink(&mut self, slot: u32, end: PartnerEnd) {
        let Some(partner) = self.slots[slot].partner() else {
            self.count_unpaired(slot, -1);
            return;
        };
        self.slots[slot].unlinked();
        self.slots[partner].unlinked();
        self.count_unpaired(partner, 1);
        self.tell(partner, LinkEvent::Ended(end));
    }

    fn tell(&mut self, slot: u32, event: LinkEvent) {
        let generation = self.slots[slot].generation;
        self.link_events.push_back((slot, generation, event));
    }

    /// A dialled connection opened.
    pub(super) fn tell_opened(&mut self, slot: u32, delays_ack: bool) {
        if let Some(partner) = self.slots[slot].partner() {
            self.tell(partner, LinkEvent::Opened { delays_ack });
        }
    }

    /// Everything was sent on a connection.
    pub(super) fn tell_sent(&mut self, slot: u32) {
        if let Some(partner) = self.slots[slot].partner() {
            let entry = &self.slots[partner];
            let is_open = entry.phase().is_open() || entry.phase() == Phase::Draining;
            if is_open && entry.is_partner_awaited() {
                self.tell(partner, LinkEvent::TakesBytes);
            }
        }
    }

    /// Tells slots what happened to their partners.
    pub(crate) fn tell_partners(&mut self, ctx: &mut CoreContext<'_, H>) -> Result<(), Error> {
        while let Some((slot, generation, event)) = self.link_events.pop_front() {
            if self.slots[slot].generation != generation {
                continue;
            }
            let phase = self.slots[slot].phase();
            match (event, phase) {
                (LinkEvent::Ended(_), Phase::Connecting) => {
                    self.cancel_connecting(ctx, slot, libc::ECANCELED)?;
                }
                (LinkEvent::Ended(end), Phase::Open) => {
                    self.slots[slot].partner_came();
                    self.call(ctx, slot, |handler, conn| handler.on_unlinked(conn, end))?;
                    self.go_on_reading(ctx, slot)?;
                }
                (LinkEvent::Opened { delays_ack }, Phase::Open) => {
                    self.call(ctx, slot, |handler, conn| handler.on_linked(conn))?;
                    match delays_ack {
                        true => self.look_for_first_bytes(ctx, slot)?,
                        false => self.go_on(ctx, slot)?,
                    }
                }
                (LinkEvent::TakesBytes, Phase::Open) => self.go_on(ctx, slot)?,
                // Closing: it has no use for a partner any more.
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads on a slot whose partner takes bytes.
    fn go_on(&mut self, ctx: &mut CoreContext<'_, H>, slot: u32) -> Result<(), Error> {
        let entry = &mut self.slots[slot];
        if entry.phase() == Phase::Open && entry.partner_came() {
            return self.go_on_reading(ctx, slot);
        }
        Ok(())
    }

    /// Reads on a slot whose partner has opened, and whose first bytes the ACK of that handshake waits
    /// for: with a receive that does not wait, so that it is known at once whether there are any.
    fn look_for_first_bytes(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
    ) -> Result<(), Error> {
        let entry = &mut self.slots[slot];
        if entry.phase() == Phase::Open && entry.partner_came() {
            let is_held = entry.delivery() == Delivery::Held;
            if entry.read() == Read::Paused && !is_held && !self.delivery_blocked(ctx.config, slot)
            {
                self.slots[slot].read_resumed();
                self.queue_receive(slot);
                return Ok(());
            }
            self.go_on_reading(ctx, slot)?;
        }
        self.send_first_ack(slot)
    }

    /// A connection has nothing to forward: if its partner was sent nothing yet, the ACK that ends the
    /// handshake waits no longer.
    pub(super) fn send_first_ack(&mut self, slot: u32) -> Result<(), Error> {
        let Some(partner) = self.slots[slot].partner() else {
            return Ok(());
        };
        let entry = &self.slots[partner];
        if entry.phase() != Phase::Open || entry.has_sent() {
            return Ok(());
        }
        let option = SEND_ACK;
        let token = self.token(Op::Option, partner);
        let slot = partner;
        self.ring.push(token, Request::SetOption { slot, option })
    }

    /// Reads no more of a connection until its partner takes bytes. One that is closing is read for
    /// its peer's end.
    pub(super) fn await_partner(&mut self, slot: u32) -> Result<(), Error> {
        let entry = &mut self.slots[slot];
        let is_read = entry.phase() == Phase::Open && entry.read() != Read::EndDelivered;
        if !is_read || entry.is_partner_awaited() {
            return Ok(());
        }
        entry.partner_awaited();
        self.cancel_receive(slot)?;
        self.arm_watch(slot)
    }

    /// A send failed: the peer has ended the connection. What a linked peer sent before is read first,
    /// and forwarded.
    pub(super) fn on_send_failed(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        reason: CloseReason,
    ) -> Result<(), Error> {
        if reason != CloseReason::Reset || !self.is_read_before_end(slot) {
            self.slots[slot].send_short();
            return self.end_by_peer(ctx, slot, reason);
        }
        self.slots[slot].send_failed();
        if let Some(pending) = self.pending.get_mut(&slot) {
            pending.outgoing = Outgoing::default();
            self.drop_pending_if_empty(slot);
        }
        Ok(())
    }

    /// True if a linked connection that its peer has ended is read before it closes: now, or when its
    /// partner takes bytes. A receive tells how it ended, behind the bytes.
    pub(super) fn is_read_before_end(&self, slot: u32) -> bool {
        let read = self.slots[slot].read();
        !matches!(read, Read::Idle | Read::Ended | Read::EndDelivered)
            && self.has_open_partner(slot)
    }

    /// True if what a linked slot received goes to its partner now, or when that takes bytes.
    fn has_open_partner(&self, slot: u32) -> bool {
        let entry = &self.slots[slot];
        entry.phase() == Phase::Open
            && !entry.is_reading_paused()
            && matches!(
                entry.delivery(),
                Delivery::Direct | Delivery::Partial | Delivery::Held
            )
            && entry
                .partner()
                .is_some_and(|partner| self.slots[partner].takes_forwarded())
    }

    /// Closes a connection that its peer, or the network, has ended; what was held because its partner
    /// took no more goes there first.
    pub(super) fn end_by_peer(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        reason: CloseReason,
    ) -> Result<(), Error> {
        if self.slots[slot].phase() == Phase::Open && self.has_open_partner(slot) {
            self.slots[slot].partner_came();
            if self.slots[slot].delivery() == Delivery::Held {
                self.resume_delivery(ctx, slot, true)?;
            }
        }
        self.close(ctx, slot, reason)
    }

    /// True if only a watch tells of a reset while the slot awaits its partner. An attempt to connect
    /// ends soon, so its partner needs none.
    pub(super) fn needs_watch_for_partner(&self, slot: u32) -> bool {
        let entry = &self.slots[slot];
        entry.phase() == Phase::Open
            && entry.is_partner_awaited()
            && matches!(entry.read(), Read::Paused | Read::Ended)
            && !entry.awaits_dial()
            && entry
                .partner()
                .is_none_or(|partner| self.slots[partner].phase() != Phase::Connecting)
    }

    /// What a callback may know of the partner.
    #[inline]
    pub(super) fn link_of(&self, ctx: &CoreContext<'_, H>, slot: u32) -> Link {
        match self.slots[slot].partner() {
            None => Link::default(),
            Some(partner) => self.link_to(ctx, partner),
        }
    }

    fn link_to(&self, ctx: &CoreContext<'_, H>, partner: u32) -> Link {
        let entry = &self.slots[partner];
        Link {
            partner: (entry.phase() != Phase::Connecting).then(|| self.id(ctx, partner)),
            takes_bytes: entry.takes_forwarded(),
        }
    }

    /// Sends the partner what a callback forwards of the bytes it was given. True if a send has the
    /// receive buffer from now on.
    pub(super) fn forward(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        forwards: Forwards,
        bytes: Forwarded<'_>,
    ) -> Result<bool, Error> {
        let Forwards { from, length, .. } = forwards;
        if length == 0 {
            return Ok(false);
        }
        let partner = self.slots[slot].partner().expect("it takes bytes");
        ctx.stats.bytes_forwarded += u64::from(length);
        let range = from as usize..from as usize + length as usize;
        match bytes {
            Forwarded::Received(buffer) if self.slots[partner].write() == Write::Idle => {
                let received = Received {
                    buffer,
                    offset: from,
                    length,
                };
                self.lent_count += 1;
                let request = Request::SendReceived {
                    slot: partner,
                    received,
                };
                self.submit_send(ctx, partner, request, SendSource::Received(received))?;
                Ok(true)
            }
            Forwarded::Received(buffer) => {
                ctx.stats.bytes_forwarded_copied += u64::from(length);
                let pending = self.pending.entry(partner).or_default();
                let bytes = self.ring.bytes(buffer, range.end);
                pending.outgoing.push_copy(&bytes[range]);
                self.queue_forwarded(partner);
                Ok(false)
            }
            Forwarded::Kept(bytes) => {
                self.forward_copy(ctx, partner, &bytes[range])?;
                Ok(false)
            }
        }
    }

    /// Sends the partner a copy of bytes.
    fn forward_copy(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        partner: u32,
        bytes: &[u8],
    ) -> Result<(), Error> {
        ctx.stats.bytes_forwarded_copied += bytes.len() as u64;
        let is_idle = self.slots[partner].write() == Write::Idle;
        let pending = self.pending.entry(partner).or_default();
        pending.outgoing.push_copy(bytes);
        self.queue_forwarded(partner);
        match is_idle {
            true => self.send_pending(ctx, partner),
            false => Ok(()),
        }
    }

    fn queue_forwarded(&mut self, partner: u32) {
        self.slots[partner].send_queued();
        self.must_settle = true;
    }

    /// Does the rest of what a callback does to the partner. Returns false if more waits there than
    /// reading could be paused for in time.
    pub(super) fn perform_forwards(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        forwards: Forwards,
    ) -> Result<bool, Error> {
        if !ctx.recorder.thread.forwarded.is_empty() {
            let mut bytes = std::mem::take(&mut ctx.recorder.thread.forwarded);
            let partner = self.slots[slot].partner().expect("it takes bytes");
            ctx.stats.bytes_forwarded += bytes.len() as u64;
            self.forward_copy(ctx, partner, &bytes)?;
            bytes.clear();
            ctx.recorder.thread.forwarded = bytes;
        }
        if forwards.is_dialled && self.slots[slot].phase() == Phase::Open {
            self.slots[slot].dial_queued();
        }
        if forwards.is_refused {
            self.await_partner(slot)?;
        }
        let Some(partner) = self.slots[slot].partner() else {
            return Ok(true);
        };
        let waiting = self
            .pending
            .get(&partner)
            .map_or(0, |p| p.outgoing.own_bytes());
        let is_full = match self.slots[partner].write() {
            Write::SendingMore | Write::Queued => waiting > ctx.config.forward_bytes_max,
            _ => self.slots[partner].is_blocked(),
        };
        if is_full {
            self.await_partner(slot)?;
        }
        if forwards.shuts_write {
            self.shutdown_write(ctx, partner)?;
        }
        Ok(waiting <= ctx.config.forward_bytes_max + held_bytes_max(ctx.config))
    }

    /// The socket of a connection takes no more: its partner is not read until it does.
    pub(super) fn on_partner_blocked(&mut self, slot: u32) -> Result<(), Error> {
        match self.slots[slot].partner() {
            Some(partner) if self.slots[partner].phase() == Phase::Open => {
                self.await_partner(partner)
            }
            _ => Ok(()),
        }
    }

    /// Gives a buffer back that a send has read.
    pub(super) fn give_back(&mut self, received: Received) {
        self.lent_count -= 1;
        self.ring.recycle(received.buffer);
    }

    /// What is left of a send from a receive buffer.
    pub(super) fn rest_of(ring: &R, received: Received, taken: usize) -> Piece {
        let from = received.offset as usize + taken;
        let end = received.offset as usize + received.length as usize;
        Piece::copied(&ring.bytes(received.buffer, end)[from..])
    }
}
