//! What must hold of a shard between turns, whatever happened: its own books against each other and against its ring's.
//!
//! For the simulator; nothing of it runs otherwise.
//! Invariants: looking changes nothing.
//! Must not know: where a ring's books come from.

use super::turn::Shard;
use crate::config::TICK_US;
use crate::handler::Handler;
use crate::ring::Ring;
use crate::slot::{Phase, Slot, flag};
use crate::token::Op;

/// What a ring knows of its requests, from their push to the reaping of their last completion.
pub(crate) trait Books {
    /// Requests under way.
    fn under_way(&self, op: Op, slot: u32) -> u8;
    /// True if the direct-descriptor table has something in `slot`.
    fn has_descriptor(&self, slot: u32) -> bool;
    /// Receive buffers in use.
    fn buffer_count(&self) -> u16;
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

impl<R: Ring + Books, H: Handler> Shard<R, H> {
    /// Slots in use, for who looks into a failure.
    pub(crate) fn describe(&self) -> Vec<String> {
        let used = (0..self.slots.touched_count()).filter(|s| self.slots[*s].phase != Phase::Free);
        used.map(|slot| {
            let entry = &self.slots[slot];
            format!("{slot} {:?} {:#06x}", entry.phase, entry.flags)
        })
        .collect()
    }

    /// True if a connection waits for something only the next entry brings: not a time to sleep.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.must_settle || !self.readable.is_empty()
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
                let phase = entry.phase;
                format!(
                    "slot {slot}, {phase:?}, flags {:#06x}: {wrong}",
                    entry.flags
                )
            })?;
            let accepting = self.ring.under_way(Op::Accept, slot);
            census.accepting += u64::from(accepting);
            used += u32::from(entry.phase != Phase::Free || accepting > 0);
            hot += u32::from(entry.has(flag::HOT));
            recv_now += u16::from(!entry.has(flag::HOT) && self.ring.under_way(Op::Recv, slot) > 0);
            match entry.phase {
                Phase::Free => continue,
                Phase::Connecting => census.connecting += 1,
                Phase::Open | Phase::Draining | Phase::Closing => census.open += 1,
            }
            census.accepted += u64::from(entry.has(flag::ACCEPTED));
            if entry.has(flag::TIMED) {
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
        let under_way = |op| self.ring.under_way(op, slot);
        for (bit, op) in [
            (flag::POLL, Op::Poll),
            (flag::WRITABLE, Op::Writable),
            (flag::SHUTTING, Op::Shutdown),
        ] {
            if under_way(op) != u8::from(entry.has(bit)) {
                return Err(format!("{} times {op:?} under way", under_way(op)));
            }
        }
        let queued = self.readable.iter().filter(|t| t.slot() == slot).count();
        if usize::from(under_way(Op::Recv)) + queued != usize::from(entry.has(flag::RECV)) {
            return Err(format!(
                "{} receives under way, {queued} queued",
                under_way(Op::Recv)
            ));
        }
        if entry.has(flag::HOT) && under_way(Op::Recv) != 1 {
            return Err("hot without a receive".to_owned());
        }
        let records = self.sends.iter().flatten();
        let records = records.filter(|r| r.is_of(slot, entry.generation)).count();
        if records != usize::from(entry.has(flag::SENDING)) {
            return Err(format!("{records} sends on record"));
        }
        let waits_for_room = self.unstaged.contains(&self.token(Op::Send, slot));
        let carry = self.carries.get(&slot);
        if carry.is_some() != entry.has(flag::CARRY) {
            return Err("a carry without its flag, or the reverse".to_owned());
        }
        let has = self.ring.has_descriptor(slot);
        let attempt = under_way(Op::Connect) + under_way(Op::Bind);
        let is_blocked = self.is_blocked(slot);
        let will_settle = entry.has(flag::SENDING) || is_blocked;
        let is_paused = carry.is_some_and(|c| c.is_paused || c.is_read_paused);
        let no = |wrong: &str| Err(wrong.to_owned());
        match entry.phase {
            Phase::Free => {
                if entry.flags != 0 || attempt > 0 {
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
                if !entry.has(flag::TIMED) {
                    return no("an attempt without a limit in time");
                }
            }
            Phase::Open | Phase::Draining => {
                let is_over = entry.flags & (flag::PEER_ENDED | flag::ENDING) != 0;
                let is_read = entry.flags & (flag::POLL | flag::RECV) != 0;
                if !is_read && !is_over && !is_paused {
                    return no("nobody listens to the peer");
                }
                if is_blocked
                    && entry.phase == Phase::Open
                    && entry.flags & (flag::SENDING | flag::WRITABLE) == 0
                    && !waits_for_room
                {
                    return no("nobody waits for room to send");
                }
                if entry.phase == Phase::Open && (is_over || is_paused) && !will_settle {
                    return no("nothing will take it up again");
                }
                if entry.phase == Phase::Draining && !entry.has(flag::TIMED) {
                    return no("a drain without a limit in time");
                }
                if !has {
                    return no("open without a descriptor");
                }
            }
            Phase::Closing => {
                if entry.flags & flag::IN_FLIGHT == 0 || entry.has(flag::TIMED) {
                    return no("nothing will finish it");
                }
            }
        }
        Ok(())
    }
}
