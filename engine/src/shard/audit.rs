//! What must hold of a shard between turns, whatever happened: its own books against each other and
//! against its ring's.
//!
//! For the simulator; nothing of it runs otherwise.
//! Invariants: looking changes nothing.
//! Must not depend on: where a ring's books come from.

use super::turn::Shard;
use crate::config::TICK_US;
use crate::handler::Handler;
use crate::id::ConnId;
use crate::ring::Ring;
use crate::slot::{Delivery, Phase, Read, Slot, Write};
use crate::token::Op;

/// What a ring knows of its requests, from their push to the reaping of their last completion.
pub(crate) trait RingAudit {
    /// Requests under way.
    fn under_way(&self, op: Op, slot: u32) -> u8;
    /// True if the direct-descriptor table has something in `slot`.
    fn has_descriptor(&self, slot: u32) -> bool;
    /// Receive buffers in use.
    fn buffer_count(&self) -> u16;
    /// Receive buffers that completions named and that were not given back.
    fn lent_count(&self) -> u16;
    /// The ring's own invariants between turns.
    fn audit(&self) -> Result<(), String>;
}

/// What an audit counted.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Census {
    /// Connections from `on_open` to `on_close`.
    pub open: u64,
    /// Attempts.
    pub connecting: u64,
    /// Connections taken from listeners.
    pub accepted: u64,
    /// Accepts under way.
    pub accepting: u64,
    /// When the first timer is due, engine time.
    pub due_us: Option<u64>,
}

impl<R: Ring + RingAudit, H: Handler> Shard<R, H> {
    /// Slots in use, for who looks into a failure.
    pub(crate) fn describe(&self) -> Vec<String> {
        let used =
            (0..self.slots.touched_count()).filter(|s| self.slots[*s].phase() != Phase::Free);
        used.map(|slot| {
            let entry = &self.slots[slot];
            let (phase, read, write) = (entry.phase(), entry.read(), entry.write());
            format!("{slot} {phase:?}/{read:?}/{write:?}")
        })
        .collect()
    }

    /// The phase of the connection with an id; `None` if it has closed.
    pub(crate) fn phase_of(&self, id: ConnId) -> Option<Phase> {
        let entry = self.slots.at(id.slot);
        entry
            .filter(|s| s.generation == id.generation)
            .map(|s| s.phase())
    }

    /// True if an attempt to connect is in `slot`.
    pub(crate) fn is_connecting(&self, slot: u32) -> bool {
        self.slots[slot].phase() == Phase::Connecting
    }

    /// True if a connection waits for something only the next entry brings: not a time to sleep.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.must_settle || self.is_settle_due || !self.readable.is_empty()
    }

    /// Checks everything, adds to `census`, and shows each slot that is not free to `visit`.
    pub(crate) fn audit(
        &self,
        now_us: u64,
        census: &mut Census,
        visit: &mut impl FnMut(&Slot<H::State>) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut used = 0;
        let mut hot = 0;
        let mut timed = 0;
        let mut recv_now = 0;
        for slot in 0..self.slots.touched_count() {
            let entry = &self.slots[slot];
            self.audit_slot(slot).map_err(|wrong| {
                let (phase, read, write) = (entry.phase(), entry.read(), entry.write());
                format!("slot {slot}, {phase:?}/{read:?}/{write:?}: {wrong}")
            })?;
            let accepting = self.ring.under_way(Op::Accept, slot);
            census.accepting += u64::from(accepting);
            used += u32::from(entry.phase() != Phase::Free || accepting > 0);
            hot += u32::from(entry.is_hot());
            recv_now += u16::from(!entry.is_hot() && self.ring.under_way(Op::Recv, slot) > 0);
            match entry.phase() {
                Phase::Free => continue,
                Phase::Connecting => census.connecting += 1,
                Phase::Open
                | Phase::Flushing
                | Phase::Finishing
                | Phase::Draining
                | Phase::Resetting
                | Phase::Closing => census.open += 1,
            }
            census.accepted += u64::from(entry.is_accepted());
            if entry.is_timed() {
                timed += 1;
                let ahead = entry.deadline.wrapping_sub((now_us / TICK_US) as u32) as i32;
                let due_us = (now_us / TICK_US).saturating_add_signed(i64::from(ahead)) * TICK_US;
                census.due_us = Some(census.due_us.map_or(due_us, |us| us.min(due_us)));
            }
            visit(entry)?;
        }
        let equal = |what: &str, one: u64, other: u64| match one == other {
            true => Ok(()),
            false => Err(format!("{what}: {one} and {other}")),
        };
        equal("slots used", u64::from(self.used_count()), u64::from(used))?;
        equal("hot ones", u64::from(self.sweep.hot_count), u64::from(hot))?;
        equal("timers", u64::from(self.wheel.count()), timed)?;
        let buffers = self.ring.buffer_count();
        equal("buffers", u64::from(self.buffers_count), u64::from(buffers))?;
        if !self.link_events.is_empty() {
            return Err("slots were not told of their partners".to_owned());
        }
        let unpaired = |slot: &u32| {
            let entry = &self.slots[*slot];
            let is_accepting = self.ring.under_way(Op::Accept, *slot) > 0;
            self.pairs && entry.partner().is_none() && (is_accepting || entry.is_accepted())
        };
        let unpaired_count = (0..self.slots.touched_count()).filter(unpaired).count();
        equal(
            "unpaired",
            u64::from(self.unpaired_count),
            unpaired_count as u64,
        )?;
        let sent_from = self.sends.iter().filter(|r| r.received().is_some());
        let sent_from = sent_from.count() as u64;
        equal(
            "buffers that sends read",
            u64::from(self.lent_count),
            sent_from,
        )?;
        let lent = self.ring.lent_count();
        equal("buffers not given back", u64::from(lent), sent_from)?;
        let promised = self.buffers_count - self.buffers_free;
        equal(
            "receives that do not wait",
            u64::from(promised),
            u64::from(recv_now),
        )?;
        self.ring.audit()
    }

    fn audit_slot(&self, slot: u32) -> Result<(), String> {
        let entry = &self.slots[slot];
        let (phase, read, write) = (entry.phase(), entry.read(), entry.write());
        if !entry.is_legal() {
            return Err("these states do not go together".to_owned());
        }
        let under_way = |op| self.ring.under_way(op, slot);
        for (is_expected, op) in [
            (read == Read::Parked, Op::Poll),
            (write == Write::Blocked, Op::Writable),
            (phase != Phase::Connecting && entry.is_watched(), Op::Watch),
            (write == Write::ShuttingDown, Op::Shutdown),
        ] {
            if under_way(op) != u8::from(is_expected) {
                return Err(format!("{} times {op:?} under way", under_way(op)));
            }
        }
        let queued = self.readable.iter().filter(|t| t.slot() == slot).count();
        let receives = usize::from(under_way(Op::Recv)) + queued;
        if receives != usize::from(read == Read::Receiving || entry.is_hot()) {
            return Err(format!(
                "{} receives under way, {queued} queued",
                under_way(Op::Recv)
            ));
        }
        if entry.is_hot() && under_way(Op::Recv) != 1 {
            return Err("hot without a receive".to_owned());
        }
        let records = self.sends.iter();
        let records = records.filter(|r| r.is_of(slot, entry.generation)).count();
        if records != usize::from(entry.has_send()) {
            return Err(format!("{records} sends on record"));
        }
        if let Some(partner) = entry.partner() {
            let other = &self.slots[partner];
            if phase == Phase::Free || other.partner() != Some(slot) {
                return Err(format!("its partner {partner} knows another"));
            }
        }
        let waits_for_room = self.unstaged.contains(&self.token(Op::Send, slot));
        let has = self.ring.has_descriptor(slot);
        let attempt = under_way(Op::Connect) + under_way(Op::Bind);
        let no = |wrong: &str| Err(wrong.to_owned());
        match phase {
            Phase::Free => {
                if attempt > 0 || self.pending.contains_key(&slot) || entry.is_timed() {
                    return no("free, and something is under way");
                }
                if has && under_way(Op::Close) == 0 && under_way(Op::Accept) == 0 {
                    return no("free, and its descriptor is open");
                }
            }
            Phase::Connecting => {
                if attempt == 0 {
                    return no("nothing will end the attempt");
                }
                if !entry.is_timed() {
                    return no("an attempt without a limit in time");
                }
            }
            Phase::Open | Phase::Flushing | Phase::Finishing | Phase::Draining => {
                let waits_to_stage = matches!(write, Write::Queued | Write::Requeued);
                if waits_to_stage && !waits_for_room {
                    return no("nobody waits for room to send");
                }
                if entry.delivery() == Delivery::Paused && !entry.is_sending() {
                    return no("nothing will resume delivery");
                }
                let waits = phase == Phase::Open && matches!(read, Read::Paused | Read::Ended);
                let is_blocked = entry.is_blocked() || entry.delivery() == Delivery::Paused;
                let is_paused = entry.is_reading_paused() || entry.is_partner_awaited();
                if waits && !is_blocked && !is_paused {
                    return no("nothing will resume reading");
                }
                if phase == Phase::Open
                    && entry.is_partner_awaited()
                    && !self.has_busy_partner(slot)
                {
                    return no("its partner will not resume reading");
                }
                if entry.is_shutdown_wanted() && phase == Phase::Open && write == Write::Idle {
                    return no("nothing will send our end");
                }
                let needs_watch = entry.needs_watch() || self.needs_watch_for_partner(slot);
                if needs_watch && !entry.is_watched() {
                    return no("nothing tells of a reset");
                }
                if phase == Phase::Draining && !entry.is_timed() {
                    return no("a drain without a limit in time");
                }
                if !has {
                    return no("open without a descriptor");
                }
                self.audit_pending(slot)?;
            }
            Phase::Resetting => {
                let asking = under_way(Op::OutQueue);
                if asking + u8::from(entry.is_timed()) != 1 {
                    return no("nothing will reset it");
                }
                if !has {
                    return no("to be reset without a descriptor");
                }
            }
            Phase::Closing => {
                if !entry.is_in_flight() || entry.is_timed() {
                    return no("nothing will finish it");
                }
            }
        }
        Ok(())
    }

    /// True if what a slot awaits of its partner will come: or it has none yet.
    fn has_busy_partner(&self, slot: u32) -> bool {
        self.slots[slot].partner().is_none_or(|partner| {
            let entry = &self.slots[partner];
            !entry.takes_forwarded() || entry.is_blocked()
        })
    }

    /// What is kept of an open connection is what its states say.
    fn audit_pending(&self, slot: u32) -> Result<(), String> {
        let entry = &self.slots[slot];
        let pending = self.pending.get(&slot);
        if pending.is_some_and(|p| p.is_empty()) {
            return Err("an empty entry is kept".to_owned());
        }
        if pending.is_some_and(|p| !p.outgoing.is_counted()) {
            return Err("the sums of what is kept are wrong".to_owned());
        }
        let has_outgoing = pending.is_some_and(|p| !p.outgoing.is_empty());
        let has_incoming = pending.is_some_and(|p| !p.incoming.is_empty());
        if has_outgoing != entry.is_blocked() {
            return Err(format!("bytes to send are kept: {has_outgoing}"));
        }
        let is_right = match entry.delivery() {
            Delivery::Direct | Delivery::Discarded => !has_incoming,
            Delivery::Partial | Delivery::Held => has_incoming,
            Delivery::Paused => true,
        };
        if !is_right {
            let delivery = entry.delivery();
            return Err(format!("delivery {delivery:?}, bytes kept: {has_incoming}"));
        }
        Ok(())
    }
}
