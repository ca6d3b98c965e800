//! What a protocol is to the engine: a few callbacks on a small state.
//!
//! Invariants: a callback never re-enters the loop; it records actions on [`Conn`] or [`Dial`], which the shard performs after it
//! returns. Handlers hold no ring and no clock, so a test calls them directly.
//! Must not know: rings, slots' links, threads.

use crate::error::{CloseReason, OpenFailure};

/// A protocol. One value for each core thread; its `State` lies in the slot of each connection.
pub trait Handler: Send {
    /// What the protocol keeps for a connection. 8 bytes make a 32-byte slot, 40 a cache line.
    type State: Copy + Default + Send;
    /// What the control plane reads from this handler.
    type Report: Default + Send;

    /// A connection opened: accepted, or dialled with the state given to [`Dial::connect`].
    fn on_open(&mut self, conn: &mut Conn<'_, Self::State>);
    /// Bytes arrived. Returns how many were used; the engine keeps the rest and hands them over again with what follows, or after
    /// [`Conn::pause`] when what was sent has been taken.
    fn on_bytes(&mut self, conn: &mut Conn<'_, Self::State>, bytes: &[u8]) -> usize;
    /// The connection's timer is due; it is off until set again.
    fn on_timer(&mut self, conn: &mut Conn<'_, Self::State>);
    /// The peer does not take what was sent, or took only a part: the rest is kept until there is room. Limits how long with a timer.
    fn on_blocked(&mut self, _conn: &mut Conn<'_, Self::State>) {}
    /// A blocked peer has taken everything.
    fn on_sent(&mut self, _conn: &mut Conn<'_, Self::State>) {}
    /// The engine is to stop in order, or [`Dial::close_newest`] chose this connection: end it now, or soon.
    fn on_stop(&mut self, conn: &mut Conn<'_, Self::State>) {
        conn.close();
    }
    /// The connection ended, for one reason.
    fn on_close(&mut self, _state: &Self::State, _reason: CloseReason, _now_us: u64) {}
    /// A dialled connection did not open.
    fn on_open_failed(&mut self, _state: &Self::State, _failure: OpenFailure, _now_us: u64) {}
    /// Once a turn: dial from here. Returns when it wants to be called next, in microseconds of engine time, if it does.
    fn on_turn(&mut self, _dial: &mut Dial<'_, Self::State>) -> Option<u64> {
        None
    }
    /// Brings `report` up to date. Called a few times a second and once at the end.
    fn report(&mut self, _report: &mut Self::Report) {}
}

/// How to end a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseMode {
    /// Say our end, read on until the peer's.
    Graceful,
    /// As soon as what was sent is with the kernel.
    AfterSend,
    /// Now, for this reason.
    Abort(CloseReason),
}

/// What to do with the connection's timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimerChange {
    Keep,
    Off,
    At(u64),
}

/// One connection during one callback.
pub struct Conn<'a, S> {
    /// The handler's part of the slot.
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

/// What a callback asked for so far, to look at.
#[cfg(feature = "sim")]
pub(crate) struct ActionsSoFar<'a> {
    pub copied: &'a [u8],
    /// Behind the others.
    pub fixed: &'static [u8],
    pub timer: TimerChange,
    pub close_mode: Option<CloseMode>,
    pub is_pausing: bool,
}

/// Static bytes behind others are copied if they are no more than this: one send less is worth it.
const COPY_BYTES_MAX: usize = 4_096;

/// What a callback wants done.
pub(crate) struct Actions {
    /// Sent after what was copied.
    pub outgoing_static: &'static [u8],
    pub is_pausing: bool,
    pub timer: TimerChange,
    pub close_mode: Option<CloseMode>,
}

impl<'a, S> Conn<'a, S> {
    /// A connection for one callback. `outgoing` must be empty; it receives bytes to send that are not static. Tests of
    /// handlers make their own.
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

    /// True while bytes sent before have not been taken by the peer's side yet.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Says that more bytes wait than this callback is given.
    pub fn with_more(mut self, has_more: bool) -> Self {
        self.has_more = has_more;
        self
    }

    /// True if more bytes have arrived than this callback is given: the next call is on its way.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Sends bytes that live for ever, without copying them unless they are few and not the first.
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

    /// Takes the timer off.
    pub fn clear_timer(&mut self) {
        self.timer = TimerChange::Off;
    }

    /// Bytes sent by this callback so far.
    pub fn sent_bytes(&self) -> usize {
        self.outgoing.len() + self.outgoing_static.len()
    }

    /// Is given nothing more before what it has sent is with the kernel; then what [`Handler::on_bytes`] left, again.
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

    /// Ends the connection in order: what was sent before arrives, what the peer sends before its end is still handed over.
    pub fn close(&mut self) {
        self.close_mode.get_or_insert(CloseMode::Graceful);
    }

    /// Ends the connection at once, for `reason`.
    pub fn abort(&mut self, reason: CloseReason) {
        self.close_mode = Some(CloseMode::Abort(reason));
    }

    /// The same connection for a handler that keeps only a part of the state: how one handler wraps another.
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

    /// What was asked of this connection so far.
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

/// Where a client starts connections from.
pub struct Dial<'a, S> {
    now_us: u64,
    room: usize,
    is_stopping: bool,
    queue: &'a mut Vec<S>,
    close_count: u64,
}

impl<'a, S> Dial<'a, S> {
    /// A dial for one callback.
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

    /// True when the engine was told to stop: nothing may be dialled any more.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// How many connections may be started in this turn.
    pub fn room(&self) -> usize {
        if self.is_stopping {
            0
        } else {
            self.room - self.queue.len()
        }
    }

    /// Starts a connection whose slot begins with `state`. At most [`Dial::room`] times.
    pub fn connect(&mut self, state: S) {
        assert!(self.room() > 0);
        self.queue.push(state);
    }

    /// Up to `count` open connections are to end: [`Handler::on_stop`] is called for them, after this callback. They are
    /// taken from the last slot backwards: the newest first, except where one lies in a slot that was free again. A turn may reach
    /// fewer; then it is asked for again, and one that did not end at once may be called again.
    pub fn close_newest(&mut self, count: u64) {
        self.close_count = count;
    }

    /// Connections that are to end.
    pub(crate) fn close_count(&self) -> u64 {
        self.close_count
    }
}
