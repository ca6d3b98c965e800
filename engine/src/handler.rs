//! A protocol as the engine sees it: a few callbacks over a small state.
//!
//! Invariants: a callback never re-enters the loop; it records actions on [`Conn`] or [`Context`], which the core thread performs
//! after it returned. Handlers hold no ring and no clock, so tests call them directly.
//! Must not depend on: rings, slots, threads.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::attempt::{Dial, DialId};
use crate::bytes::Bytes;
use crate::context::{Context, NoRoom, Piece, Recorder, Sent};
use crate::dial::Tuples;
use crate::error::{CloseReason, OpenFailure, PartnerEnd};
use crate::id::ConnId;
use crate::mailbox::Handle;

/// A protocol. Each core thread has one value; each connection has a `State` in its slot.
///
/// Times are microseconds of engine time, which starts at 0 with the engine. No callback may block: it would stop all connections
/// of its thread.
///
/// # Order of events
///
/// Of one connection, whatever happens:
///
/// 1. [`on_open`](Handler::on_open) comes first and [`on_close`](Handler::on_close) last, each once.
/// 2. [`on_bytes`](Handler::on_bytes) gives bytes in the order of the stream, and again only those it left.
///    [`on_eof`](Handler::on_eof) comes at most once, behind all bytes. Neither comes while delivery waits: during
///    [`Conn::pause_reading`], after [`Conn::pause_until_sent`], and while the peer does not take what was sent to it, unless
///    [`ConfigBuilder::reads_while_blocked`](crate::ConfigBuilder::reads_while_blocked).
/// 3. What callbacks send leaves in the order they sent it, and our end (FIN) behind it. What they send behind our end is dropped.
/// 4. Actions on a connection take effect when the callback returns: first the timer, then what was sent, then
///    [`Conn::shutdown_write`], then [`Conn::pause_reading`] or [`Conn::resume_reading`]. A close replaces the last three.
///    A resumed connection is given what was kept before anything else happens to it.
///
/// How a connection ends:
///
/// | who begins | what happens, in order | reason |
/// |---|---|---|
/// | peer's FIN | bytes, `on_eof`; by default what is owed is sent, then FIN, `on_close` | `PeerClosed` |
/// | peer's FIN, `on_eof` does not close | half-open: we send for any length of time; [`Conn::close`] or [`Conn::shutdown_write`] sends what is owed, then FIN, `on_close` | `PeerClosed` |
/// | [`Conn::shutdown_write`] | what is owed is sent, then FIN; bytes are delivered for any length of time, then `on_eof`, `on_close` | `LocallyClosed` |
/// | [`Conn::close`] | what is owed is sent, then FIN; bytes are delivered until the peer's FIN, but not the end itself; `on_close` | `LocallyClosed`, or `Aborted` after the drain timeout |
/// | [`Conn::close_after_send`] | as `close`, but what the peer sends is discarded | the same |
/// | [`Conn::abort`], [`Conn::reset`] | unsent bytes are dropped, `on_close` | the given one |
/// | peer's reset, a network error | unsent and undelivered bytes are dropped, `on_close` | `Reset`, `TimedOut`, `Unreachable`, `Other` |
///
/// A linked connection ([`Conn::partner`]) whose peer resets it is read first, as far as its partner takes bytes: what came before the
/// reset is delivered.
///
/// A reset is noticed in every state, also while reading is paused and while half-open: the connection is watched. A peer that
/// vanishes without one is noticed when something is sent to it, or by a timer of the handler; a connection that only waits for it
/// needs one of them.
pub trait Handler: Send {
    /// The protocol's state of one connection. 8 bytes make a slot of 32 bytes, 40 bytes one of a cache line.
    type State: Copy + Default + Send;
    /// What the control plane reads of this handler, in [`CoreReport::handler`](crate::CoreReport::handler).
    type Report: Default + Send;
    /// What other threads send to this handler; `()` if nothing.
    type Command: Send + 'static;

    /// The core thread starts: called once, before any other callback. Keep a clone of `handle` to send commands to other threads.
    fn on_start(&mut self, _cx: &mut Context<'_, Self::State>, _handle: &Handle<Self::Command>) {}
    /// A connection opened: it was accepted, or dialled with the state given to [`Context::dial`],
    /// [`Context::dial_planned`] or [`Context::dial_planned_to`]. Only this callback knows its [`Conn::listener`] and addresses.
    fn on_open(&mut self, conn: &mut Conn<'_, Self::State>);
    /// Bytes arrived. Returns how many were used. The engine keeps the others, up to
    /// [`ConfigBuilder::pending_bytes_max`](crate::ConfigBuilder::pending_bytes_max), and delivers them again with the bytes that follow, or
    /// after [`Conn::pause_until_sent`] once everything sent is with the kernel.
    fn on_bytes(&mut self, conn: &mut Conn<'_, Self::State>, bytes: &[u8]) -> usize;
    /// The peer sends no more (FIN): everything it sent was delivered, and bytes that [`Handler::on_bytes`] left are dropped. Called
    /// at most once, and not after [`Conn::close`] or [`Conn::close_after_send`]. By default the connection closes when everything
    /// sent is with the kernel.
    ///
    /// A handler that does not close may go on sending for any length of time (half-open). The connection closes when it calls
    /// [`Conn::shutdown_write`] or [`Conn::close`], when it has called `shutdown_write` before, or when the peer resets it. A peer
    /// that closed instead of ending one side answers the next bytes with a reset. Set a timer: a half-open connection whose peer
    /// vanishes stays until something is sent, since the engine sets no TCP keep-alive.
    ///
    /// ```
    /// use holdfast_engine::{Conn, Handler};
    ///
    /// /// Tells a peer that has sent everything how much that was.
    /// struct Count;
    ///
    /// impl Handler for Count {
    ///     type State = u64;
    ///     type Report = ();
    ///     type Command = ();
    ///
    ///     fn on_open(&mut self, _: &mut Conn<'_, u64>) {}
    ///     fn on_bytes(&mut self, conn: &mut Conn<'_, u64>, bytes: &[u8]) -> usize {
    ///         *conn.state += bytes.len() as u64;
    ///         bytes.len()
    ///     }
    ///     fn on_eof(&mut self, conn: &mut Conn<'_, u64>) {
    ///         let answer = format!("{} bytes\n", conn.state);
    ///         conn.send_copy(answer.as_bytes());
    ///         conn.close();
    ///     }
    ///     fn on_timer(&mut self, _: &mut Conn<'_, u64>) {}
    /// }
    /// ```
    fn on_eof(&mut self, conn: &mut Conn<'_, Self::State>) {
        conn.close();
    }
    /// The connection's timer fired; it is off until set again. Never early, at most one tick (1 ms) late while the thread keeps up.
    fn on_timer(&mut self, conn: &mut Conn<'_, Self::State>);
    /// A send would block, or was short: the unsent bytes are kept and sent when the socket has room. Called again after each partial
    /// send. Set a timer here to bound the wait.
    fn on_blocked(&mut self, _conn: &mut Conn<'_, Self::State>) {}
    /// All bytes of a blocked connection are with the kernel.
    fn on_writable(&mut self, _conn: &mut Conn<'_, Self::State>) {}
    /// [`Context::send`] sends `bytes` on this connection. A layer transforms them here.
    fn on_send(&mut self, conn: &mut Conn<'_, Self::State>, bytes: Bytes) {
        conn.send(bytes);
    }
    /// [`Context::close`] closes this connection. A layer whose protocol ends with a message sends it here.
    fn on_close_requested(&mut self, conn: &mut Conn<'_, Self::State>) {
        conn.close();
    }
    /// The partner that was dialled for this connection opened ([`Conn::dial_partner`], [`Dial::linked_to`]), after its own `on_open`:
    /// from now on [`Conn::forward`] reaches it, behind everything that its `on_open` sent. What this connection's peer sent meanwhile
    /// follows.
    fn on_linked(&mut self, _conn: &mut Conn<'_, Self::State>) {}
    /// The partner closed, or never opened, and this connection has none any more. An attempt that fails is told by
    /// [`Handler::on_open_failed`] first. By default: if the partner closed in order, this
    /// connection closes when everything forwarded to it is sent; if not, it is reset then. A handler may dial another partner
    /// instead; until that opens, nothing is read. Not called for a connection that is closing already.
    fn on_unlinked(&mut self, conn: &mut Conn<'_, Self::State>, end: PartnerEnd) {
        match end {
            PartnerEnd::Closed(CloseReason::PeerClosed | CloseReason::LocallyClosed) => {
                conn.close_after_send();
            }
            _ => conn.reset_after_send(),
        }
    }
    /// The engine shuts down gracefully, or [`Context::close_newest`] chose this connection: close it now or soon.
    fn on_stop(&mut self, conn: &mut Conn<'_, Self::State>) {
        conn.close();
    }
    /// The connection closed, for one reason. No other callback follows for it, and `id` is stale from now on.
    fn on_close(
        &mut self,
        _cx: &mut Context<'_, Self::State>,
        _id: ConnId,
        _state: &Self::State,
        _reason: CloseReason,
    ) {
    }
    /// An attempt to connect failed. `state` is what it was started with.
    fn on_open_failed(
        &mut self,
        _cx: &mut Context<'_, Self::State>,
        _dial: DialId,
        _state: &Self::State,
        _failure: OpenFailure,
    ) {
    }
    /// Another thread sent `command` by a [`Handle`]. Each command that was accepted comes once. One that is sent while the thread ends
    /// may come after the last connection has closed.
    fn on_command(&mut self, _cx: &mut Context<'_, Self::State>, _command: Self::Command) {}
    /// Called at least once a turn, after the other callbacks. Returns the time of the next call that it needs, if any; a turn for
    /// another reason may come earlier.
    fn on_turn(&mut self, _cx: &mut Context<'_, Self::State>) -> Option<u64> {
        None
    }
    /// Updates `report`. Called every 200 ms and once at the end.
    fn report(&mut self, _report: &mut Self::Report) {}
}

/// How to close a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseMode {
    /// Send FIN, then read until the peer's.
    Graceful,
    /// As soon as everything sent is with the kernel.
    AfterSend,
    /// With a reset, as soon as everything sent is with the kernel.
    ResetAfterSend,
    /// Now, with this reason.
    Abort(CloseReason),
    /// Now, with a reset and this reason.
    Reset(CloseReason),
}

/// What happens to the connection's timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimerChange {
    /// Nothing.
    #[default]
    Keep,
    /// It is cleared.
    Off,
    /// It is set to this time, microseconds of engine time.
    At(u64),
}

/// What happens to the delivery of received bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadChange {
    /// Nothing.
    #[default]
    Keep,
    /// It is paused.
    Pause,
    /// It is resumed.
    Resume,
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin<'a> {
    /// This is not the callback that knows.
    Unknown,
    /// It was dialled with this tuple of the plan.
    Planned(&'a Tuples, u32),
    Accepted {
        listener: usize,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
    },
    Dialled {
        dial: DialId,
        source: Option<SocketAddr>,
        target: SocketAddr,
    },
}

/// One connection during one callback.
pub struct Conn<'a, S> {
    /// The handler's state of the connection.
    pub state: &'a mut S,
    context: Context<'a, S>,
    id: ConnId,
    origin: Origin<'a>,
    is_blocked: bool,
    has_more: bool,
    link: Link,
    /// The bytes that the callback was given.
    delivered: &'a [u8],
    /// What the callback asked for so far, beside what it sent.
    actions: Actions,
}

/// The partner of a connection.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Link {
    pub partner: Option<ConnId>,
    /// It is open, and bytes may be sent on it.
    pub takes_bytes: bool,
}

/// What a callback does to the partner.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Forwards {
    /// There is something below, or copied bytes.
    pub is_any: bool,
    /// It was to take bytes and does not: the handler keeps them until it does.
    pub is_refused: bool,
    /// It is being dialled.
    pub is_dialled: bool,
    /// Our end is sent to its peer.
    pub shuts_write: bool,
    /// Where the bytes to forward begin in those that were delivered, and how many there are. Copied
    /// ones follow.
    pub from: u32,
    pub length: u32,
}

/// The actions that a callback recorded so far.
#[cfg(feature = "sim")]
pub(crate) struct ActionsSoFar {
    /// Copied bytes and shared buffers.
    pub copied: Vec<u8>,
    /// Sent behind them.
    pub fixed: &'static [u8],
    pub timer: TimerChange,
    pub close_mode: Option<CloseMode>,
    pub is_pausing: bool,
    pub reading: ReadChange,
    pub shuts_write: bool,
    /// Bytes for the partner.
    pub forwarded: Vec<u8>,
    pub shuts_partner: bool,
}

/// Static bytes and shared buffers behind others are copied up to this size, bytes: copying them costs less than another send.
const COPY_BYTES_MAX: usize = 4_096;

/// The actions of a callback.
#[derive(Clone, Copy, Default)]
pub(crate) struct Actions {
    /// Sent behind the copied bytes and shared buffers.
    pub outgoing_static: &'static [u8],
    pub forwards: Forwards,
    pub is_pausing: bool,
    pub reading: ReadChange,
    pub shuts_write: bool,
    pub timer: TimerChange,
    pub close_mode: Option<CloseMode>,
}

/// What an inner handler asked for in a callback that [`Conn::inner`] ran: for its layer to look at, change, and [`Conn::apply`].
#[derive(Debug, Default)]
pub struct InnerActions {
    sent: Sent,
    /// Sent behind the others.
    outgoing_static: &'static [u8],
    /// [`Conn::pause_until_sent`].
    pub pauses_until_sent: bool,
    /// [`Conn::pause_reading`], [`Conn::resume_reading`].
    pub reading: ReadChange,
    /// [`Conn::shutdown_write`].
    pub shuts_write: bool,
    /// [`Conn::set_timer`], [`Conn::clear_timer`].
    pub timer: TimerChange,
    /// [`Conn::close`], [`Conn::close_after_send`], [`Conn::reset_after_send`], [`Conn::abort`], [`Conn::reset`].
    pub close: Option<CloseMode>,
}

impl InnerActions {
    /// The bytes that were sent, in pieces, in order.
    pub fn sends(&self) -> impl Iterator<Item = &[u8]> {
        let pieces = self.sent.pieces().map(|piece| match piece {
            Piece::Copied(bytes) => bytes,
            Piece::Shared(bytes) => bytes,
        });
        pieces.chain((!self.outgoing_static.is_empty()).then_some(self.outgoing_static))
    }

    /// Sends nothing of it.
    pub fn clear_sends(&mut self) {
        self.sent.clear();
        self.outgoing_static = &[];
    }
}

impl<'a, S> Conn<'a, S> {
    /// A connection for one callback, which records in `recorder`. Public for tests of handlers.
    pub fn new(
        state: &'a mut S,
        now_us: u64,
        is_blocked: bool,
        recorder: &'a mut Recorder<S>,
    ) -> Self {
        let context = recorder.context(now_us);
        debug_assert!(context.sent().is_empty());
        Conn {
            state,
            context,
            id: ConnId::default(),
            origin: Origin::Unknown,
            is_blocked,
            has_more: false,
            link: Link::default(),
            delivered: &[],
            actions: Actions::default(),
        }
    }

    /// The same with the connection's id, for tests of handlers.
    #[must_use]
    pub fn with_id(mut self, id: ConnId) -> Self {
        self.id = id;
        self
    }

    pub(crate) fn with_origin(mut self, origin: Origin<'a>) -> Self {
        self.origin = origin;
        self
    }

    pub(crate) fn with_link(mut self, link: Link) -> Self {
        self.link = link;
        self
    }

    pub(crate) fn with_delivered(mut self, bytes: &'a [u8]) -> Self {
        self.delivered = bytes;
        self
    }

    /// The connection that is linked with this one, if it has opened: the one that was dialled with
    /// [`Dial::linked_to`](crate::Dial::linked_to), or the one that waited for that.
    pub fn partner(&self) -> Option<ConnId> {
        self.link.partner
    }

    /// Dials a partner for this connection: `dial` [linked](Dial::linked_to) to it. From now on nothing of this connection is read,
    /// bytes that this callback leaves are kept, and the peer's bytes stay in the kernel, until the partner opens: then
    /// [`Handler::on_open`] is called for the partner, which may send something first, such as a PROXY protocol header, then
    /// [`Handler::on_linked`] for this connection, and then this connection's bytes are delivered. If the attempt fails,
    /// [`Handler::on_unlinked`] is called for this connection, which may dial another partner.
    ///
    /// While it is not read, the peer's end or reset is noticed only when the attempt has ended.
    ///
    /// # Errors
    /// [`NoRoom`] as of [`Context::dial`]: nothing is dialled; close the connection.
    ///
    /// # Panics
    /// For a dial from [`Source::Plan`](crate::Source::Plan).
    pub fn dial_partner(&mut self, dial: Dial, state: S) -> Result<DialId, NoRoom> {
        let id = self.context.dial(dial.linked_to(self.id), state)?;
        self.actions.forwards.is_any = true;
        self.actions.forwards.is_refused = true;
        self.actions.forwards.is_dialled = true;
        Ok(id)
    }

    /// Sends bytes on the partner, behind everything sent there before. In [`Handler::on_bytes`], bytes of those delivered are sent
    /// from the receive buffer, without a copy, if the partner's socket takes them at once; what it does not take is copied, and
    /// nothing more is read here until it has. So at most
    /// [`ConfigBuilder::forward_bytes_max`](crate::ConfigBuilder::forward_bytes_max) and one delivery wait.
    ///
    /// Returns how many bytes are sent: all, or 0 if the partner has not opened, or may not be sent anything any more. Then nothing is
    /// read here until a partner opens, or [`Handler::on_unlinked`] is called. So `on_bytes` of a relay is `conn.forward(bytes)`: what
    /// is not used is delivered again.
    pub fn forward(&mut self, bytes: &[u8]) -> usize {
        if !self.link.takes_bytes || self.actions.forwards.shuts_write {
            self.actions.forwards.is_any = true;
            self.actions.forwards.is_refused = true;
            return 0;
        }
        if bytes.is_empty() {
            return 0;
        }
        self.actions.forwards.is_any = true;
        let delivered = self.delivered.as_ptr_range();
        let is_delivered =
            delivered.contains(&bytes.as_ptr()) && bytes.as_ptr_range().end <= delivered.end;
        let from = (bytes.as_ptr() as usize).wrapping_sub(delivered.start as usize) as u32;
        let Forwards {
            from: first,
            length,
            ..
        } = self.actions.forwards;
        let is_next = length == 0 || from == first + length;
        if is_delivered && is_next && self.context.forwarded().is_empty() {
            if length == 0 {
                self.actions.forwards.from = from;
            }
            self.actions.forwards.length += bytes.len() as u32;
        } else {
            self.context.forwarded().extend_from_slice(bytes);
        }
        bytes.len()
    }

    /// Sends our end (FIN) to the partner's peer, behind everything forwarded, like [`Conn::shutdown_write`] of the partner. A relay
    /// does this in [`Handler::on_eof`]; the other direction stays open.
    pub fn forward_eof(&mut self) {
        if self.link.takes_bytes {
            self.actions.forwards.is_any = true;
            self.actions.forwards.shuts_write = true;
        }
    }

    /// Resets the connection (RST) when everything sent has arrived; nothing of what the peer still sends is handed over. While the
    /// peer does not take what was sent, the timer is set to the drain timeout and then calls [`Handler::on_timer`]. When all of it is
    /// with the kernel, the reset follows as soon as the peer's kernel has acknowledged it, or after the drain timeout, at most a
    /// minute; or, where the kernel does not tell (before Linux 6.7), after 0.1 s. The last two are counted in
    /// [`Stats::resets_unacknowledged`](crate::Stats::resets_unacknowledged).
    pub fn reset_after_send(&mut self) {
        self.actions
            .close_mode
            .get_or_insert(CloseMode::ResetAfterSend);
    }

    /// In [`Handler::on_open`], the attempt that the connection was dialled with; `None` if it was accepted.
    pub fn dial_id(&self) -> Option<DialId> {
        match self.origin {
            Origin::Unknown | Origin::Accepted { .. } => None,
            Origin::Planned(tuples, own) => Some(DialId::planned(tuples.group(own))),
            Origin::Dialled { dial, .. } => Some(dial),
        }
    }

    /// In [`Handler::on_open`], which of its thread's listeners the connection was accepted from, by place in what
    /// [`Engine::start`](crate::Engine::start) was given; `None` if it was dialled.
    pub fn listener(&self) -> Option<usize> {
        match self.origin {
            Origin::Accepted { listener, .. } => Some(listener),
            _ => None,
        }
    }

    /// In [`Handler::on_open`], the peer's address. Copy what is needed of it to the state: the engine does not keep it. Of an
    /// accepted connection only with [`ConfigBuilder::peer_addresses`](crate::ConfigBuilder::peer_addresses). Of a
    /// connection of the plan whose targets were changed while it connected, the new target.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match self.origin {
            Origin::Unknown => None,
            Origin::Accepted { peer, .. } => peer,
            Origin::Planned(tuples, own) => Some(tuples.addresses(own).1),
            Origin::Dialled { target, .. } => Some(target),
        }
    }

    /// In [`Handler::on_open`], our address, if it is known: not where the kernel chose it, and not of a connection from a
    /// listener at every address.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self.origin {
            Origin::Unknown => None,
            Origin::Accepted { local, .. } => local,
            Origin::Planned(tuples, own) => Some(tuples.addresses(own).0),
            Origin::Dialled { source, .. } => source,
        }
    }

    /// The connection's id: valid until [`Handler::on_close`].
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// The thread's context: what may be done beyond this connection.
    pub fn context(&mut self) -> &mut Context<'a, S> {
        &mut self.context
    }

    /// Microseconds of engine time.
    pub fn now_us(&self) -> u64 {
        self.context.now_us()
    }

    /// True while unsent bytes are kept for the peer.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Sets [`Conn::has_more`], for tests of handlers.
    #[must_use]
    pub fn with_more(mut self, has_more: bool) -> Self {
        self.has_more = has_more;
        self
    }

    /// True if more bytes have arrived than this callback is given: another call follows.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Sends bytes, behind those sent before.
    pub fn send(&mut self, bytes: impl Into<Bytes>) {
        match bytes.into() {
            Bytes::Static(bytes) => self.send_static(bytes),
            Bytes::Shared(bytes) => self.send_shared(bytes),
            Bytes::Copied(bytes) => self.send_copy(&bytes),
        }
    }

    /// Sends static bytes. They are copied only if they are few and others precede them.
    pub fn send_static(&mut self, bytes: &'static [u8]) {
        let is_alone = self.context.sent().is_empty() || bytes.len() > COPY_BYTES_MAX;
        if is_alone && self.actions.outgoing_static.is_empty() {
            self.actions.outgoing_static = bytes;
        } else {
            self.send_copy(bytes);
        }
    }

    /// Sends a buffer that any number of connections may be sent, without a copy for each. The buffer is released when the last send
    /// that reads it has completed, or its connection has closed. It is copied only if it is small and other bytes precede it.
    pub fn send_shared(&mut self, bytes: Arc<[u8]>) {
        let is_first = self.context.sent().is_empty() && self.actions.outgoing_static.is_empty();
        if bytes.is_empty() {
            return;
        }
        if !is_first && bytes.len() <= COPY_BYTES_MAX {
            return self.send_copy(&bytes);
        }
        self.send_copy(&[]);
        self.context.push_shared(bytes);
    }

    /// Sends a copy of `bytes`.
    pub fn send_copy(&mut self, bytes: &[u8]) {
        let outgoing = self.context.outgoing();
        outgoing.extend_from_slice(std::mem::take(&mut self.actions.outgoing_static));
        outgoing.extend_from_slice(bytes);
    }

    /// Sets the timer to a time in microseconds of engine time.
    pub fn set_timer(&mut self, at_us: u64) {
        self.actions.timer = TimerChange::At(at_us);
    }

    /// Clears the timer.
    pub fn clear_timer(&mut self) {
        self.actions.timer = TimerChange::Off;
    }

    /// Bytes this callback has sent so far.
    pub fn sent_bytes(&self) -> usize {
        self.context.sent().len() + self.actions.outgoing_static.len()
    }

    /// Takes back what this callback has sent so far, for tests of handlers.
    pub fn take_sent(&mut self) -> Vec<u8> {
        let mut sent = self.context.sent().to_vec();
        sent.extend_from_slice(std::mem::take(&mut self.actions.outgoing_static));
        self.context.sent_mut().clear();
        sent
    }

    /// Delivers no more bytes until everything sent is with the kernel; then those that [`Handler::on_bytes`] left, again.
    pub fn pause_until_sent(&mut self) {
        self.actions.is_pausing = true;
    }

    /// Delivers neither bytes nor the peer's end until [`Conn::resume_reading`], whatever is sent meanwhile. Bytes that arrive
    /// all the same, and those that this callback leaves, are kept, up to
    /// [`ConfigBuilder::pending_bytes_max`](crate::ConfigBuilder::pending_bytes_max) and the ring's receive buffers; the peer is
    /// slowed down when the socket's buffer is full. A reset still closes the connection at once. Closing ends the pause. The first
    /// pause of a connection costs 256 bytes of kernel memory until it closes, further ones nothing.
    pub fn pause_reading(&mut self) {
        self.actions.reading = ReadChange::Pause;
    }

    /// Ends [`Conn::pause_reading`]: after this callback, the bytes kept meanwhile are delivered, also those that
    /// [`Handler::on_bytes`] left, then the peer's end if it has come. They still wait for the peer to take what was sent to it, as
    /// usual. Without a pause it does nothing.
    pub fn resume_reading(&mut self) {
        self.actions.reading = ReadChange::Resume;
    }

    /// Sends our end (FIN) behind everything sent, in this callback too; reading goes on. What later callbacks send is dropped. If
    /// the peer has ended, this is [`Conn::close`]; else the connection closes after [`Handler::on_eof`].
    pub fn shutdown_write(&mut self) {
        self.actions.shuts_write = true;
    }

    /// Closes the connection when everything has been sent; nothing of what the peer still sends is handed over.
    ///
    /// A reset would destroy what the peer has not acknowledged yet, so the connection is closed in stages (RFC 9112, 9.6): our end is
    /// sent, the peer's bytes are read and discarded until its end, within the drain timeout and 16 MiB. A short answer that is
    /// the first on its connection is on the wire before later bytes can arrive, so a close follows it at once.
    pub fn close_after_send(&mut self) {
        self.actions.close_mode.get_or_insert(CloseMode::AfterSend);
    }

    /// Closes the connection gracefully: bytes sent before arrive, and bytes that the peer sends before its FIN are still delivered.
    pub fn close(&mut self) {
        self.actions.close_mode.get_or_insert(CloseMode::Graceful);
    }

    /// Closes the connection at once with `reason`; unsent bytes are dropped. The kernel still sends what it has, then our end (FIN),
    /// or a reset (RST) if it has bytes of the peer that were not read. See [`Conn::reset`].
    pub fn abort(&mut self, reason: CloseReason) {
        self.actions.close_mode = Some(CloseMode::Abort(reason));
    }

    /// Closes the connection at once with `reason` and a reset (RST, SO_LINGER 0): unsent bytes are dropped, also those that the
    /// kernel has, and nothing of the connection stays in the kernel. [`Conn::reset_after_send`] sends them first.
    pub fn reset(&mut self, reason: CloseReason) {
        self.actions.close_mode = Some(CloseMode::Reset(reason));
    }

    /// Calls `call` with the same connection, but only a part of its state: how one handler wraps another. `wrap` makes this
    /// handler's state of a state that the inner handler dials with.
    pub fn with_part<T, U>(
        &mut self,
        part: impl FnOnce(&mut S) -> &mut T,
        wrap: impl FnMut(T) -> S,
        call: impl FnOnce(&mut Conn<'_, T>) -> U,
    ) -> U {
        let (result, actions) = self.call_part(part, wrap, self.actions, call);
        self.actions = actions;
        result
    }

    /// As [`Conn::with_part`], but nothing of what the inner handler asks for on this connection happens: it is returned. Actions
    /// on the [`Context`] are the thread's, and happen; so does what it forwards to a partner.
    pub fn inner<T, U>(
        &mut self,
        part: impl FnOnce(&mut S) -> &mut T,
        wrap: impl FnMut(T) -> S,
        call: impl FnOnce(&mut Conn<'_, T>) -> U,
    ) -> (U, InnerActions) {
        let own = self.context.begin_inner();
        let none = Actions {
            forwards: self.actions.forwards,
            ..Actions::default()
        };
        let (result, actions) = self.call_part(part, wrap, none, call);
        self.actions.forwards = actions.forwards;
        let actions = InnerActions {
            sent: self.context.end_inner(own),
            outgoing_static: actions.outgoing_static,
            pauses_until_sent: actions.is_pausing,
            reading: actions.reading,
            shuts_write: actions.shuts_write,
            timer: actions.timer,
            close: actions.close_mode,
        };
        (result, actions)
    }

    /// Calls `call` with the same connection for a part of its state, after `actions`. Returns the actions after it.
    fn call_part<T, U>(
        &mut self,
        part: impl FnOnce(&mut S) -> &mut T,
        wrap: impl FnMut(T) -> S,
        actions: Actions,
        call: impl FnOnce(&mut Conn<'_, T>) -> U,
    ) -> (U, Actions) {
        let state = part(self.state);
        let (id, origin) = (self.id, self.origin);
        let (is_blocked, has_more) = (self.is_blocked, self.has_more);
        let (link, delivered) = (self.link, self.delivered);
        self.context.inner(wrap, |context| {
            let mut conn = Conn {
                state,
                context: context.reborrow(),
                id,
                origin,
                is_blocked,
                has_more,
                link,
                delivered,
                actions,
            };
            let result = call(&mut conn);
            (result, conn.actions)
        })
    }

    /// Does what an inner handler asked for, behind what was asked for before.
    pub fn apply(&mut self, actions: InnerActions) {
        if self.context.sent().is_empty() && self.actions.outgoing_static.is_empty() {
            self.context.adopt(actions.sent);
        } else {
            for piece in actions.sent.pieces() {
                match piece {
                    Piece::Copied(bytes) => self.send_copy(bytes),
                    Piece::Shared(bytes) => self.send_shared(Arc::clone(bytes)),
                }
            }
            self.context.recycle(actions.sent);
        }
        if !actions.outgoing_static.is_empty() {
            self.send_static(actions.outgoing_static);
        }
        self.actions.is_pausing |= actions.pauses_until_sent;
        self.actions.shuts_write |= actions.shuts_write;
        if actions.reading != ReadChange::Keep {
            self.actions.reading = actions.reading;
        }
        if actions.timer != TimerChange::Keep {
            self.actions.timer = actions.timer;
        }
        match actions.close {
            Some(mode @ (CloseMode::Abort(_) | CloseMode::Reset(_))) => {
                self.actions.close_mode = Some(mode);
            }
            Some(mode) => {
                self.actions.close_mode.get_or_insert(mode);
            }
            None => {}
        }
    }

    /// The actions recorded so far.
    #[cfg(feature = "sim")]
    pub(crate) fn actions(&mut self) -> ActionsSoFar {
        ActionsSoFar {
            copied: self.context.sent().to_vec(),
            fixed: self.actions.outgoing_static,
            timer: self.actions.timer,
            close_mode: self.actions.close_mode,
            is_pausing: self.actions.is_pausing,
            reading: self.actions.reading,
            shuts_write: self.actions.shuts_write,
            forwarded: {
                let Forwards { from, length, .. } = self.actions.forwards;
                let (from, length) = (from as usize, length as usize);
                let mut bytes = self.delivered[from..from + length].to_vec();
                bytes.extend_from_slice(self.context.forwarded());
                bytes
            },
            shuts_partner: self.actions.forwards.shuts_write,
        }
    }

    pub(crate) fn into_actions(self) -> Actions {
        self.actions
    }
}
