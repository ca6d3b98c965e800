//! A protocol as the engine sees it: a few callbacks over a small state.
//!
//! Invariants: a callback never re-enters the loop; it records actions on [`Conn`] or [`Dial`], which the shard performs after it
//! returned. Handlers hold no ring and no clock, so tests call them directly.
//! Must not depend on: rings, links between slots, threads.

use crate::error::{CloseReason, OpenFailure};

/// A protocol. Each core thread has one value; each connection has a `State` in its slot.
///
/// Times are microseconds of engine time, which starts at 0 with the engine. No callback may block: it would stop all connections
/// of its thread.
pub trait Handler: Send {
    /// The protocol's state of one connection. 8 bytes make a slot of 32 bytes, 40 bytes one of a cache line.
    type State: Copy + Default + Send;
    /// What the control plane reads of this handler, in [`CoreReport::handler`](crate::CoreReport::handler).
    type Report: Default + Send;

    /// A connection opened: it was accepted, or dialled with the state given to [`Dial::connect`].
    fn on_open(&mut self, conn: &mut Conn<'_, Self::State>);
    /// Bytes arrived. Returns how many were used. The engine keeps the others, up to
    /// [`ConfigBuilder::pending_bytes_max`](crate::ConfigBuilder::pending_bytes_max), and delivers them again with the bytes that follow, or
    /// after [`Conn::pause`] once everything sent is with the kernel.
    fn on_bytes(&mut self, conn: &mut Conn<'_, Self::State>, bytes: &[u8]) -> usize;
    /// The connection's timer fired; it is off until set again. Never early, at most one tick (1 ms) late while the thread keeps up.
    fn on_timer(&mut self, conn: &mut Conn<'_, Self::State>);
    /// A send would block, or was short: the unsent bytes are kept and sent when the socket has room. Called again after each partial
    /// send. Set a timer here to bound the wait.
    fn on_blocked(&mut self, _conn: &mut Conn<'_, Self::State>) {}
    /// All bytes of a blocked connection are with the kernel.
    fn on_sent(&mut self, _conn: &mut Conn<'_, Self::State>) {}
    /// The engine shuts down gracefully, or [`Dial::close_newest`] chose this connection: close it now or soon.
    fn on_stop(&mut self, conn: &mut Conn<'_, Self::State>) {
        conn.close();
    }
    /// The connection closed, for one reason. No other callback follows for it.
    fn on_close(&mut self, _state: &Self::State, _reason: CloseReason, _now_us: u64) {}
    /// An attempt to connect failed.
    fn on_open_failed(&mut self, _state: &Self::State, _failure: OpenFailure, _now_us: u64) {}
    /// Called at least once a turn, after the other callbacks: dial from here. Returns the time of the next call that it needs, if any;
    /// a turn for another reason may come earlier.
    fn on_turn(&mut self, _dial: &mut Dial<'_, Self::State>) -> Option<u64> {
        None
    }
    /// Updates `report`. Called every 200 ms and once at the end.
    fn report(&mut self, _report: &mut Self::Report) {}
}

/// How to close a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseMode {
    /// Send FIN, then read until the peer's.
    Graceful,
    /// As soon as everything sent is with the kernel.
    AfterSend,
    /// Now, with this reason.
    Abort(CloseReason),
}

/// What happens to the connection's timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimerChange {
    Keep,
    Off,
    At(u64),
}

/// One connection during one callback.
pub struct Conn<'a, S> {
    /// The handler's state of the connection.
    pub state: &'a mut S,
    now_us: u64,
    is_blocked: bool,
    has_more: bool,
    outgoing: &'a mut Vec<u8>,
    outgoing_static: &'static [u8],
    is_pausing: bool,
    timer: TimerChange,
    close_mode: Option<CloseMode>,
}

/// The actions that a callback recorded so far.
#[cfg(feature = "sim")]
pub(crate) struct ActionsSoFar<'a> {
    pub copied: &'a [u8],
    /// Sent behind the copied ones.
    pub fixed: &'static [u8],
    pub timer: TimerChange,
    pub close_mode: Option<CloseMode>,
    pub is_pausing: bool,
}

/// Static bytes behind others are copied up to this size, bytes: copying them costs less than another send.
const COPY_BYTES_MAX: usize = 4_096;

/// The actions of a callback.
pub(crate) struct Actions {
    /// Sent behind the copied bytes.
    pub outgoing_static: &'static [u8],
    pub is_pausing: bool,
    pub timer: TimerChange,
    pub close_mode: Option<CloseMode>,
}

impl<'a, S> Conn<'a, S> {
    /// A connection for one callback. `outgoing` must be empty; it collects the bytes to send that are not static. Public for tests
    /// of handlers.
    pub fn new(state: &'a mut S, now_us: u64, is_blocked: bool, outgoing: &'a mut Vec<u8>) -> Self {
        debug_assert!(outgoing.is_empty());
        Conn {
            state,
            now_us,
            is_blocked,
            has_more: false,
            outgoing,
            outgoing_static: &[],
            is_pausing: false,
            timer: TimerChange::Keep,
            close_mode: None,
        }
    }

    /// Microseconds of engine time.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// True while unsent bytes are kept for the peer.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Sets [`Conn::has_more`], for tests of handlers.
    pub fn with_more(mut self, has_more: bool) -> Self {
        self.has_more = has_more;
        self
    }

    /// True if more bytes have arrived than this callback is given: another call follows.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Sends static bytes. They are copied only if they are few and others precede them.
    pub fn send_static(&mut self, bytes: &'static [u8]) {
        let is_alone = self.outgoing.is_empty() || bytes.len() > COPY_BYTES_MAX;
        if is_alone && self.outgoing_static.is_empty() {
            self.outgoing_static = bytes;
        } else {
            self.send_copy(bytes);
        }
    }

    /// Sends a copy of `bytes`.
    pub fn send_copy(&mut self, bytes: &[u8]) {
        self.outgoing
            .extend_from_slice(std::mem::take(&mut self.outgoing_static));
        self.outgoing.extend_from_slice(bytes);
    }

    /// Sets the timer to a time in microseconds of engine time.
    pub fn set_timer(&mut self, at_us: u64) {
        self.timer = TimerChange::At(at_us);
    }

    /// Clears the timer.
    pub fn clear_timer(&mut self) {
        self.timer = TimerChange::Off;
    }

    /// Bytes this callback has sent so far.
    pub fn sent_bytes(&self) -> usize {
        self.outgoing.len() + self.outgoing_static.len()
    }

    /// Delivers no more bytes until everything sent is with the kernel; then those that [`Handler::on_bytes`] left, again.
    pub fn pause(&mut self) {
        self.is_pausing = true;
    }

    /// Closes the connection when everything has been sent; nothing of what the peer still sends is handed over.
    ///
    /// A reset would destroy what the peer has not acknowledged yet, so the connection is closed in stages (RFC 9112, 9.6): our end is
    /// sent, the peer's bytes are read and discarded until its end, within the drain timeout and 16 MiB. A short answer that is
    /// the first on its connection is on the wire before later bytes can arrive, so a close follows it at once.
    pub fn close_after_send(&mut self) {
        self.close_mode.get_or_insert(CloseMode::AfterSend);
    }

    /// Closes the connection gracefully: bytes sent before arrive, and bytes that the peer sends before its FIN are still delivered.
    pub fn close(&mut self) {
        self.close_mode.get_or_insert(CloseMode::Graceful);
    }

    /// Closes the connection at once with `reason`; unsent bytes are dropped.
    pub fn abort(&mut self, reason: CloseReason) {
        self.close_mode = Some(CloseMode::Abort(reason));
    }

    /// Calls `call` with the same connection, but only a part of its state: how one handler wraps another.
    pub fn with_part<T, U>(
        &mut self,
        part: impl FnOnce(&mut S) -> &mut T,
        call: impl FnOnce(&mut Conn<'_, T>) -> U,
    ) -> U {
        let mut conn = Conn {
            state: part(self.state),
            now_us: self.now_us,
            is_blocked: self.is_blocked,
            has_more: self.has_more,
            outgoing: &mut *self.outgoing,
            outgoing_static: self.outgoing_static,
            is_pausing: self.is_pausing,
            timer: self.timer,
            close_mode: self.close_mode,
        };
        let result = call(&mut conn);
        let Conn {
            outgoing_static,
            is_pausing,
            timer,
            close_mode,
            ..
        } = conn;
        (self.outgoing_static, self.is_pausing) = (outgoing_static, is_pausing);
        (self.timer, self.close_mode) = (timer, close_mode);
        result
    }

    /// The actions recorded so far.
    #[cfg(feature = "sim")]
    pub(crate) fn actions(&self) -> ActionsSoFar<'_> {
        ActionsSoFar {
            copied: self.outgoing,
            fixed: self.outgoing_static,
            timer: self.timer,
            close_mode: self.close_mode,
            is_pausing: self.is_pausing,
        }
    }

    pub(crate) fn into_actions(self) -> Actions {
        Actions {
            outgoing_static: self.outgoing_static,
            is_pausing: self.is_pausing,
            timer: self.timer,
            close_mode: self.close_mode,
        }
    }
}

/// Starts connections, during [`Handler::on_turn`].
pub struct Dial<'a, S> {
    now_us: u64,
    room: usize,
    is_stopping: bool,
    queue: &'a mut Vec<S>,
    close_count: u64,
}

impl<'a, S> Dial<'a, S> {
    /// One with room for `room` connections, which collects them in `queue`. Public for tests of handlers.
    pub fn new(now_us: u64, room: usize, is_stopping: bool, queue: &'a mut Vec<S>) -> Self {
        Dial {
            now_us,
            room,
            is_stopping,
            queue,
            close_count: 0,
        }
    }

    /// Microseconds of engine time.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// True once the engine shuts down: there is no room any more.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// Connections that may still be started in this turn.
    pub fn room(&self) -> usize {
        if self.is_stopping {
            0
        } else {
            self.room - self.queue.len()
        }
    }

    /// Starts a connection with `state`, from and to the next free addresses of the plan.
    ///
    /// # Panics
    /// Without [`Dial::room`].
    pub fn connect(&mut self, state: S) {
        assert!(self.room() > 0);
        self.queue.push(state);
    }

    /// Calls [`Handler::on_stop`] for up to `count` open connections after this callback, from the last slot backwards: the newest
    /// first, except those in reused slots. A turn may reach fewer: ask again in the next one. A connection that does not close at
    /// once may be called again.
    pub fn close_newest(&mut self, count: u64) {
        self.close_count = count;
    }

    /// Connections to close.
    pub(crate) fn close_count(&self) -> u64 {
        self.close_count
    }
}
