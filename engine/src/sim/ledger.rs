//! What one connection's handler asked for and was given, compared with what its socket carried.
//!
//! Invariants checked here: bytes are sent as the handler asked, in order and once; the handler is shown the received bytes in
//! order, and again only those it left; a gracefully closed connection was shown everything and sent everything; a timer is
//! never early.
//! Must not depend on: rings, how bytes travel.

use std::collections::VecDeque;

use crate::config::TICK_US;
use crate::error::CloseReason;
use crate::handler::{ActionsSoFar, CloseMode, TimerChange};

/// The accounts of one connection.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Bytes the handler sent that are not with the kernel yet.
    promised: VecDeque<u8>,
    /// So many of them, the first, must be sent if it closes gracefully; those sent after a close need not be.
    owed: usize,
    /// Received bytes that the handler has not used.
    received: VecDeque<u8>,
    /// So many of them, the first, were shown to it.
    shown: usize,
    /// When its timer is due, engine time.
    pub timer_us: Option<u64>,
    /// When that was set.
    pub timer_set_us: u64,
    /// How the handler closed it.
    pub close_mode: Option<CloseMode>,
    /// It paused: nothing is delivered before so many promised bytes, the first, are with the kernel.
    paused_for: usize,
    is_closed: bool,
}

impl Ledger {
    /// A callback of the handler returned.
    pub fn asked(&mut self, now_us: u64, asked: &ActionsSoFar) {
        let (timer, close_mode) = (asked.timer, asked.close_mode);
        assert!(!self.is_closed, "a callback after on_close");
        self.promised.extend(&asked.copied);
        self.promised.extend(asked.fixed);
        if asked.is_pausing {
            self.paused_for = self.promised.len();
        }
        if self.close_mode.is_none() {
            self.owed = self.promised.len();
            match timer {
                TimerChange::Keep => {}
                TimerChange::Off => self.timer_us = None,
                TimerChange::At(at_us) => {
                    self.timer_us = Some(at_us);
                    self.timer_set_us = now_us;
                }
            }
        }
        match (self.close_mode, close_mode) {
            // A later, harder close replaces the first.
            (None, Some(_)) | (_, Some(CloseMode::Abort(_) | CloseMode::AfterSend)) => {
                self.close_mode = close_mode;
            }
            _ => {}
        }
    }

    /// The kernel accepted bytes to send; of an aborted connection also after `on_close`, in the same entry.
    pub fn sent(&mut self, bytes: &[u8]) {
        assert!(
            bytes.len() <= self.promised.len(),
            "{} bytes are sent of {} promised",
            bytes.len(),
            self.promised.len()
        );
        assert!(
            self.promised.drain(..bytes.len()).eq(bytes.iter().copied()),
            "other bytes are sent than were promised"
        );
        self.owed = self.owed.saturating_sub(bytes.len());
        self.paused_for = self.paused_for.saturating_sub(bytes.len());
    }

    /// The ring received bytes.
    pub fn received(&mut self, bytes: &[u8]) {
        self.received.extend(bytes);
    }

    /// Bytes are delivered to the handler.
    pub fn shown(&mut self, bytes: &[u8]) {
        assert!(!self.is_closed, "bytes after on_close");
        assert!(!bytes.is_empty(), "a handler is shown nothing");
        assert!(
            self.paused_for == 0 || self.close_mode.is_some(),
            "a handler that paused is shown bytes before what it sent is with the kernel"
        );
        assert!(
            bytes.len() <= self.received.len()
                && self.received.iter().zip(bytes).all(|(a, b)| a == b),
            "a handler that asked for {:?} is shown other bytes than were received",
            self.close_mode
        );
        self.shown = self.shown.max(bytes.len());
    }

    /// The handler used the first `count` bytes it was shown.
    pub fn used(&mut self, count: usize) {
        self.received.drain(..count);
        self.shown -= count;
    }

    /// The handler's timer fires.
    pub fn fired(&mut self, now_us: u64) {
        assert!(!self.is_closed, "a timer after on_close");
        if self.close_mode.is_none() {
            let due_us = self.timer_us.take().expect("a timer fires that was set");
            assert!(
                now_us >= due_us,
                "a timer due at {due_us} fires at {now_us}"
            );
        }
    }

    /// The tick by which a turn must have fired the timer.
    pub fn due_tick(&self) -> Option<u64> {
        let earliest = self.timer_set_us / TICK_US + 1;
        self.timer_us.map(|us| us.div_ceil(TICK_US).max(earliest))
    }

    /// The connection closed.
    pub fn closed(&mut self, reason: CloseReason) {
        assert!(!self.is_closed, "on_close twice");
        self.is_closed = true;
        let is_in_order = reason == CloseReason::PeerClosed
            || (reason == CloseReason::LocallyClosed
                && !matches!(self.close_mode, Some(CloseMode::Abort(_))));
        if is_in_order {
            assert_eq!(
                self.owed, 0,
                "bytes promised are not sent before the end ({reason:?})"
            );
        }
        let is_all_shown = match self.close_mode {
            None => reason == CloseReason::PeerClosed,
            Some(close_mode) => close_mode == CloseMode::Graceful && is_in_order,
        };
        if is_all_shown {
            assert_eq!(
                self.shown,
                self.received.len(),
                "bytes received are not shown before the end ({reason:?})"
            );
        }
    }
}
