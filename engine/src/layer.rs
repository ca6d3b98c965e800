//! A handler around another one: TLS, compression, framing, counting.
//!
//! Invariants: the inner handler is called as the engine would call it, and what it asks for on its connection happens only if the
//! layer lets it; what it asks for on the thread's context happens.
//! Must not depend on: rings, slots, threads.

use crate::attempt::DialId;
use crate::bytes::Bytes;
use crate::context::Context;
use crate::error::{CloseReason, OpenFailure, PartnerEnd};
use crate::handler::{Conn, Handler, InnerActions};
use crate::id::ConnId;
use crate::mailbox::Handle;

/// A handler that wraps another: it sees and changes the bytes that come in and what the inner handler asks for.
///
/// Every `Layer` is a [`Handler`], so layers compose: `Tls<WebSocket<Chat>>` is one handler, without allocation or dynamic dispatch. A
/// callback that a layer does not define is the inner handler's.
///
/// # Example
///
/// A layer that applies XOR to all bytes, in both directions, and counts those that come in:
///
/// ```
/// use holdfast_engine::{Conn, Handler, InnerActions, Layer, LayerConn};
///
/// struct Xor<H> {
///     inner: H,
///     plain: Vec<u8>,
///     received: u64,
/// }
///
/// impl<H: Handler> Layer for Xor<H> {
///     type Inner = H;
///     type State = ();
///
///     fn inner(&mut self) -> &mut H {
///         &mut self.inner
///     }
///
///     fn on_bytes(&mut self, conn: &mut LayerConn<'_, Self>, bytes: &[u8]) -> usize {
///         let mut plain = std::mem::take(&mut self.plain);
///         plain.clear();
///         plain.extend(bytes.iter().map(|byte| byte ^ 0x55));
///         let used = self.call(conn, |inner, conn| inner.on_bytes(conn, &plain));
///         self.received += used as u64;
///         self.plain = plain;
///         used
///     }
///
///     fn on_actions(&mut self, conn: &mut LayerConn<'_, Self>, mut actions: InnerActions) {
///         for piece in actions.sends() {
///             let cipher: Vec<u8> = piece.iter().map(|byte| byte ^ 0x55).collect();
///             conn.send_copy(&cipher);
///         }
///         actions.clear_sends();
///         conn.apply(actions);
///     }
/// }
/// # use holdfast_engine::{LayerState, Recorder};
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type State = u32;
/// #     type Report = ();
/// #     type Command = ();
/// #     fn on_open(&mut self, _: &mut Conn<'_, u32>) {}
/// #     fn on_bytes(&mut self, conn: &mut Conn<'_, u32>, bytes: &[u8]) -> usize {
/// #         assert_eq!(bytes, b"hello");
/// #         *conn.state += 1;
/// #         conn.send_copy(bytes);
/// #         conn.send_static(b"!");
/// #         conn.close();
/// #         bytes.len()
/// #     }
/// #     fn on_timer(&mut self, _: &mut Conn<'_, u32>) {}
/// # }
/// #
/// # let mut layer = Xor { inner: Xor { inner: Xor { inner: Echo, plain: vec![], received: 0 }, plain: vec![], received: 0 }, plain: vec![], received: 0 };
/// # let mut recorder = Recorder::default();
/// # let mut state = LayerState::default();
/// # let hello: Vec<u8> = b"hello".iter().map(|byte| byte ^ 0x55).collect();
/// # let mut conn = Conn::new(&mut state, 0, false, &mut recorder);
/// # assert_eq!(Handler::on_bytes(&mut layer, &mut conn, &hello), 5);
/// # assert_eq!(conn.sent_bytes(), 6);
/// # assert_eq!((layer.received, state.inner.inner.inner), (5, 1));
/// # let sent: Vec<u8> = recorder.take_sent().iter().map(|byte| byte ^ 0x55).collect();
/// # assert_eq!(sent, b"hello!");
/// ```
pub trait Layer: Send {
    /// The handler inside.
    type Inner: Handler;
    /// The layer's own state of a connection, beside the inner handler's.
    type State: Copy + Default + Send;

    /// The handler inside.
    fn inner(&mut self) -> &mut Self::Inner;

    /// What the inner handler asked for in a callback on a connection. By default it happens.
    fn on_actions(&mut self, conn: &mut LayerConn<'_, Self>, actions: InnerActions)
    where
        Self: Sized,
    {
        conn.apply(actions);
    }

    /// Calls the inner handler, then [`Layer::on_actions`].
    fn call<U>(
        &mut self,
        conn: &mut LayerConn<'_, Self>,
        callback: impl FnOnce(&mut Self::Inner, &mut Conn<'_, InnerState<Self>>) -> U,
    ) -> U
    where
        Self: Sized,
    {
        let inner = self.inner();
        let (result, actions) = conn.inner(
            |state| &mut state.inner,
            LayerState::around,
            |conn| callback(inner, conn),
        );
        self.on_actions(conn, actions);
        result
    }

    /// Calls the inner handler in a callback of the thread: one without a connection.
    fn call_thread<U>(
        &mut self,
        cx: &mut LayerContext<'_, Self>,
        callback: impl FnOnce(&mut Self::Inner, &mut Context<'_, InnerState<Self>>) -> U,
    ) -> U
    where
        Self: Sized,
    {
        let inner = self.inner();
        cx.inner(LayerState::around, |cx| callback(inner, cx))
    }

    /// See [`Handler::on_open`]. A layer with a handshake calls the inner handler when that is over.
    fn on_open(&mut self, conn: &mut LayerConn<'_, Self>)
    where
        Self: Sized,
    {
        self.call(conn, |inner, conn| inner.on_open(conn));
    }

    /// See [`Handler::on_bytes`].
    fn on_bytes(&mut self, conn: &mut LayerConn<'_, Self>, bytes: &[u8]) -> usize
    where
        Self: Sized,
    {
        self.call(conn, |inner, conn| inner.on_bytes(conn, bytes))
    }

    /// See [`Handler::on_eof`].
    fn on_eof(&mut self, conn: &mut LayerConn<'_, Self>)
    where
        Self: Sized,
    {
        self.call(conn, |inner, conn| inner.on_eof(conn));
    }

    /// See [`Handler::on_timer`].
    fn on_timer(&mut self, conn: &mut LayerConn<'_, Self>)
    where
        Self: Sized,
    {
        self.call(conn, |inner, conn| inner.on_timer(conn));
    }

    /// See [`Handler::on_blocked`]. A layer with a handshake may send before the inner handler is told of the connection.
    fn on_blocked(&mut self, conn: &mut LayerConn<'_, Self>)
    where
        Self: Sized,
    {
        self.call(conn, |inner, conn| inner.on_blocked(conn));
    }

    /// See [`Handler::on_writable`].
    fn on_writable(&mut self, conn: &mut LayerConn<'_, Self>)
    where
        Self: Sized,
    {
        self.call(conn, |inner, conn| inner.on_writable(conn));
    }

    /// See [`Handler::on_stop`].
    fn on_stop(&mut self, conn: &mut LayerConn<'_, Self>)
    where
        Self: Sized,
    {
        self.call(conn, |inner, conn| inner.on_stop(conn));
    }

    /// See [`Handler::on_close`]. A layer that has not told the inner handler of the opening keeps the end to itself too.
    fn on_close(
        &mut self,
        cx: &mut LayerContext<'_, Self>,
        id: ConnId,
        state: &LayerState<Self::State, InnerState<Self>>,
        reason: CloseReason,
    ) where
        Self: Sized,
    {
        self.call_thread(cx, |inner, cx| {
            inner.on_close(cx, id, &state.inner, reason);
        });
    }
}

/// The inner handler's state of a connection.
pub type InnerState<L> = <<L as Layer>::Inner as Handler>::State;
/// A connection as a layer sees it: its own state is in `conn.state.own`.
pub type LayerConn<'a, L> = Conn<'a, LayerState<<L as Layer>::State, InnerState<L>>>;
/// The thread's context as a layer sees it.
pub type LayerContext<'a, L> = Context<'a, LayerState<<L as Layer>::State, InnerState<L>>>;

/// The state of a connection of a [`Layer`].
#[derive(Debug, Clone, Copy, Default)]
pub struct LayerState<O, I> {
    /// The layer's.
    pub own: O,
    /// The inner handler's.
    pub inner: I,
}

impl<O: Default, I> LayerState<O, I> {
    /// That of a connection which the inner handler dials.
    fn around(inner: I) -> Self {
        LayerState {
            own: O::default(),
            inner,
        }
    }
}

impl<L: Layer> Handler for L {
    type State = LayerState<L::State, InnerState<L>>;
    type Report = <L::Inner as Handler>::Report;
    type Command = <L::Inner as Handler>::Command;

    fn on_start(&mut self, cx: &mut LayerContext<'_, L>, handle: &Handle<Self::Command>) {
        self.call_thread(cx, |inner, cx| inner.on_start(cx, handle));
    }

    fn on_open(&mut self, conn: &mut LayerConn<'_, L>) {
        Layer::on_open(self, conn);
    }

    fn on_bytes(&mut self, conn: &mut LayerConn<'_, L>, bytes: &[u8]) -> usize {
        Layer::on_bytes(self, conn, bytes)
    }

    fn on_eof(&mut self, conn: &mut LayerConn<'_, L>) {
        Layer::on_eof(self, conn);
    }

    fn on_timer(&mut self, conn: &mut LayerConn<'_, L>) {
        Layer::on_timer(self, conn);
    }

    fn on_blocked(&mut self, conn: &mut LayerConn<'_, L>) {
        Layer::on_blocked(self, conn);
    }

    fn on_writable(&mut self, conn: &mut LayerConn<'_, L>) {
        Layer::on_writable(self, conn);
    }

    fn on_send(&mut self, conn: &mut LayerConn<'_, L>, bytes: Bytes) {
        self.call(conn, |inner, conn| inner.on_send(conn, bytes));
    }

    fn on_close_requested(&mut self, conn: &mut LayerConn<'_, L>) {
        self.call(conn, |inner, conn| inner.on_close_requested(conn));
    }

    fn on_linked(&mut self, conn: &mut LayerConn<'_, L>) {
        self.call(conn, |inner, conn| inner.on_linked(conn));
    }

    fn on_unlinked(&mut self, conn: &mut LayerConn<'_, L>, end: PartnerEnd) {
        self.call(conn, |inner, conn| inner.on_unlinked(conn, end));
    }

    fn on_stop(&mut self, conn: &mut LayerConn<'_, L>) {
        Layer::on_stop(self, conn);
    }

    fn on_close(
        &mut self,
        cx: &mut LayerContext<'_, L>,
        id: ConnId,
        state: &Self::State,
        reason: CloseReason,
    ) {
        Layer::on_close(self, cx, id, state, reason);
    }

    fn on_open_failed(
        &mut self,
        cx: &mut LayerContext<'_, L>,
        dial: DialId,
        state: &Self::State,
        failure: OpenFailure,
    ) {
        self.call_thread(cx, |inner, cx| {
            inner.on_open_failed(cx, dial, &state.inner, failure);
        });
    }

    fn on_command(&mut self, cx: &mut LayerContext<'_, L>, command: Self::Command) {
        self.call_thread(cx, |inner, cx| inner.on_command(cx, command));
    }

    fn on_turn(&mut self, cx: &mut LayerContext<'_, L>) -> Option<u64> {
        self.call_thread(cx, |inner, cx| inner.on_turn(cx))
    }

    fn report(&mut self, report: &mut Self::Report) {
        self.inner().report(report);
    }
}
