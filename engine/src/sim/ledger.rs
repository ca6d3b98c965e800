//! What one connection's handler asked for and was given, compared with what its socket carried.
//!
//! Invariants checked here: bytes are sent as the handler asked, in order and once; the handler is shown the received bytes in
//! order, and again only those it left, and none while it pauses; it is told of the peer's end once, behind all bytes; our end leaves
//! behind all bytes; a gracefully closed connection was shown everything and sent everything; a timer is never early.
//! Must not depend on: rings, how bytes travel.

use std::collections::VecDeque;

use crate::config::TICK_US;
use crate::error::CloseReason;
use crate::handler::{ActionsSoFar, CloseMode, ReadChange, TimerChange};

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
    /// It paused: nothing is delivered before it resumes.
    is_reading_paused: bool,
    /// It has paused since bytes were shown to it last.
    was_reading_paused: bool,
    /// Our end is to be sent, or sent: what it sends later is dropped.
    is_write_shut: bool,
    /// It was told of the peer's end.
    is_end_told: bool,
    is_closed: bool,
}

impl Ledger {
    /// A callback of the handler returned.
    pub fn asked(&mut self, now_us: u64, asked: &ActionsSoFar) {
        let (timer, close_mode) = (asked.timer, asked.close_mode);
        assert!(!self.is_closed, "a callback after on_close");
        if !self.is_write_shut {
            self.promised.extend(&asked.copied);
            self.promised.extend(asked.fixed);
        }
        if asked.is_pausing {
            self.paused_for = self.promised.len();
        }
        if self.close_mode.is_none() {
            if !self.is_write_shut {
                self.owed = self.promised.len();
            }
            match timer {
                TimerChange::Keep => {}
                TimerChange::Off => self.timer_us = None,
                TimerChange::At(at_us) => {
                    self.timer_us = Some(at_us);
                    self.timer_set_us = now_us;
                }
            }
        }
        let is_graceful = matches!(close_mode, Some(CloseMode::Graceful | CloseMode::AfterSend));
        if self.close_mode.is_none() {
            match asked.reading {
                ReadChange::Keep => {}
                ReadChange::Pause => {
                    self.is_reading_paused = true;
                    self.was_reading_paused = true;
                }
                ReadChange::Resume => self.is_reading_paused = false,
            }
            self.is_write_shut |= asked.shuts_write && close_mode.is_none();
            self.is_reading_paused &= close_mode.is_none();
            if self.is_end_told && is_graceful {
                // Nothing of the peer's is waited for, so the handler's timer counts on.
                self.is_write_shut = true;
                return;
            }
        }
        match (self.close_mode, close_mode) {
            // A later, harder close replaces the first.
            (None, Some(_))
            | (
                _,
                Some(
                    CloseMode::Abort(_)
                    | CloseMode::Reset(_)
                    | CloseMode::AfterSend
                    | CloseMode::ResetAfterSend,
                ),
            ) => {
                self.close_mode = close_mode;
            }
            _ => {}
        }
    }

    /// True if its partner's bytes may be sent on it.
    pub fn takes_bytes(&self) -> bool {
        !self.is_closed && !self.is_write_shut && self.close_mode.is_none()
    }

    /// True if its handler wants what its peer sends.
    pub fn is_read(&self) -> bool {
        self.close_mode.is_none() && !self.is_reading_paused && self.paused_for == 0
    }

    /// True if its handler has used everything that was received.
    pub fn is_all_used(&self) -> bool {
        self.received.is_empty()
    }

    /// The partner's handler forwarded bytes to this connection, and perhaps its peer's end.
    pub fn forwarded(&mut self, bytes: &[u8], is_end: bool) {
        assert!(
            !self.is_closed,
            "bytes are forwarded to a closed connection"
        );
        assert!(
            !self.is_write_shut || bytes.is_empty(),
            "bytes behind our end"
        );
        self.promised.extend(bytes);
        if self.close_mode.is_none() && !self.is_write_shut {
            self.owed = self.promised.len();
        }
        self.is_write_shut |= is_end;
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
        assert!(!self.is_end_told, "bytes behind the peer's end");
        assert!(
            !self.is_reading_paused,
            "a handler that paused reading is shown bytes"
        );
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

    /// True if the handler has paused reading since this was asked last. For canaries.
    pub fn take_was_paused(&mut self) -> bool {
        std::mem::take(&mut self.was_reading_paused)
    }

    /// The handler is told of the peer's end.
    pub fn end_told(&mut self) {
        assert!(!self.is_closed, "the peer's end after on_close");
        assert!(!self.is_end_told, "the peer's end twice");
        assert!(
            self.close_mode.is_none(),
            "a handler that closed is told of the peer's end"
        );
        assert!(
            !self.is_reading_paused && self.paused_for == 0,
            "a handler that paused is told of the peer's end"
        );
        assert_eq!(
            self.shown,
            self.received.len(),
            "the peer's end before bytes that were received"
        );
        self.is_end_told = true;
        self.received.clear();
        self.shown = 0;
    }

    /// Our end is sent.
    pub fn ended(&mut self) {
        assert_eq!(self.owed, 0, "our end is sent before bytes promised");
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
        assert!(
            self.is_end_told || reason != CloseReason::PeerClosed,
            "closed by the peer, whose end was not told"
        );
        let is_in_order = reason == CloseReason::PeerClosed
            || (reason == CloseReason::LocallyClosed
                && !matches!(
                    self.close_mode,
                    Some(CloseMode::Abort(_) | CloseMode::Reset(_))
                ));
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
