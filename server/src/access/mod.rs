//! Who may connect: `--allow`, `--deny` and `--max-per-source`, as a layer around any handler.
//!
//! Invariants: a refused connection is not shown to the inner handler; each connection that counts for its source gives its place back
//! once, however it ends; a server without the layer pays nothing.
//! Must not depend on: protocols, rings.

pub mod list;
mod sources;

use std::net::IpAddr;
use std::sync::Arc;

use clap::Args;
use holdfast_engine::{
    Bytes, CloseReason, Conn, ConnId, Context, DialId, Handle, Handler, OpenFailure, PartnerEnd,
};
use holdfast_units::parse;

use list::AccessList;
use sources::Sources;

/// Flags of who may connect.
#[derive(Debug, Args)]
pub struct AccessFlags {
    /// Accept connections from this address or network only, such as 192.0.2.0/24, 2001:db8::/32 or all; @FILE has one on each line.
    /// Repeat or separate by commas. The longest prefix decides; of equal ones --deny does [default: everybody]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    allow: Vec<String>,
    /// Reset connections from this address or network, likewise [default: nobody's]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    deny: Vec<String>,
    /// Hold at most this many connections from one address; reset more [default: no limit]
    #[arg(long, value_name = "COUNT", value_parser = parse::count_in::<u32>(1..=1_000_000_000))]
    max_per_source: Option<u32>,
}

/// Who may connect to one server. Its core threads share it.
#[derive(Debug)]
pub struct AccessControl {
    list: AccessList,
    sources: Option<Sources>,
}

impl AccessControl {
    /// With a list, and a limit for each source.
    pub fn new(list: AccessList, max_per_source: Option<u32>) -> Self {
        AccessControl {
            list,
            sources: max_per_source.map(Sources::new),
        }
    }

    /// What the flags ask for; `None` if they ask for nothing.
    ///
    /// # Errors
    /// One line: a network that is none, or a file that cannot be read.
    pub fn of(flags: &AccessFlags) -> Result<Option<Self>, anyhow::Error> {
        if flags.allow.is_empty() && flags.deny.is_empty() && flags.max_per_source.is_none() {
            return Ok(None);
        }
        let list = AccessList::parse(&flags.allow, &flags.deny)?;
        Ok(Some(Self::new(list, flags.max_per_source)))
    }

    /// Connections that count for their sources.
    pub fn counted(&self) -> u64 {
        self.sources.as_ref().map_or(0, Sources::counted)
    }

    /// Lets a connection in, or says why not. Returns its place for [`Sources::release`], if it has one.
    fn admit(&self, peer: Option<IpAddr>) -> Result<u32, CloseReason> {
        // Without its address it cannot be judged.
        let peer = peer.ok_or(CloseReason::Denied)?.to_canonical();
        if !self.list.allows(peer) {
            return Err(CloseReason::Denied);
        }
        match &self.sources {
            None => Ok(UNCOUNTED),
            Some(sources) => sources.try_acquire(peer).ok_or(CloseReason::SourceLimit),
        }
    }
}

/// [`AccessState::place`] of a connection without a place.
const UNCOUNTED: u32 = u32::MAX;
/// [`AccessState::place`] of a connection that was refused.
const REFUSED: u32 = u32::MAX - 1;

/// The layer's state of one connection.
#[derive(Debug, Clone, Copy)]
pub struct AccessState<S> {
    inner: S,
    /// Its place in [`Sources`], [`UNCOUNTED`] or [`REFUSED`].
    place: u32,
}

impl<S: Default> Default for AccessState<S> {
    fn default() -> Self {
        wrap(S::default())
    }
}

fn wrap<S>(inner: S) -> AccessState<S> {
    AccessState {
        inner,
        place: UNCOUNTED,
    }
}

/// A handler that sees the connections that may be there.
#[derive(Debug)]
pub struct Access<H> {
    inner: H,
    control: Arc<AccessControl>,
}

impl<H: Handler> Access<H> {
    /// `inner` behind `control`. The engine must know the addresses of peers
    /// ([`peer_addresses`](holdfast_engine::ConfigBuilder::peer_addresses)).
    pub fn new(inner: H, control: Arc<AccessControl>) -> Self {
        Access { inner, control }
    }

    fn call<U>(
        &mut self,
        conn: &mut Conn<'_, AccessState<H::State>>,
        call: impl FnOnce(&mut H, &mut Conn<'_, H::State>) -> U,
    ) -> U {
        let inner = &mut self.inner;
        conn.with_part(|state| &mut state.inner, wrap, |conn| call(inner, conn))
    }

    fn call_thread<U>(
        &mut self,
        cx: &mut Context<'_, AccessState<H::State>>,
        call: impl FnOnce(&mut H, &mut Context<'_, H::State>) -> U,
    ) -> U {
        let inner = &mut self.inner;
        cx.inner(wrap, |cx| call(inner, cx))
    }
}

impl<H: Handler> Handler for Access<H> {
    type State = AccessState<H::State>;
    type Report = H::Report;
    type Command = H::Command;

    fn on_start(&mut self, cx: &mut Context<'_, Self::State>, handle: &Handle<H::Command>) {
        self.call_thread(cx, |inner, cx| inner.on_start(cx, handle));
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self::State>) {
        // What this thread dialled itself is nobody's request.
        if conn.listener().is_some() {
            match self.control.admit(conn.peer_addr().map(|peer| peer.ip())) {
                Ok(place) => conn.state.place = place,
                Err(reason) => {
                    conn.state.place = REFUSED;
                    return conn.abort(reason);
                }
            }
        }
        self.call(conn, |inner, conn| inner.on_open(conn));
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, Self::State>, bytes: &[u8]) -> usize {
        self.call(conn, |inner, conn| inner.on_bytes(conn, bytes))
    }

    fn on_eof(&mut self, conn: &mut Conn<'_, Self::State>) {
        self.call(conn, |inner, conn| inner.on_eof(conn));
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self::State>) {
        self.call(conn, |inner, conn| inner.on_timer(conn));
    }

    fn on_blocked(&mut self, conn: &mut Conn<'_, Self::State>) {
        self.call(conn, |inner, conn| inner.on_blocked(conn));
    }

    fn on_writable(&mut self, conn: &mut Conn<'_, Self::State>) {
        self.call(conn, |inner, conn| inner.on_writable(conn));
    }

    fn on_send(&mut self, conn: &mut Conn<'_, Self::State>, bytes: Bytes) {
        self.call(conn, |inner, conn| inner.on_send(conn, bytes));
    }

    fn on_close_requested(&mut self, conn: &mut Conn<'_, Self::State>) {
        self.call(conn, |inner, conn| inner.on_close_requested(conn));
    }

    fn on_linked(&mut self, conn: &mut Conn<'_, Self::State>) {
        self.call(conn, |inner, conn| inner.on_linked(conn));
    }

    fn on_unlinked(&mut self, conn: &mut Conn<'_, Self::State>, end: PartnerEnd) {
        self.call(conn, |inner, conn| inner.on_unlinked(conn, end));
    }

    fn on_stop(&mut self, conn: &mut Conn<'_, Self::State>) {
        self.call(conn, |inner, conn| inner.on_stop(conn));
    }

    fn on_close(
        &mut self,
        cx: &mut Context<'_, Self::State>,
        id: ConnId,
        state: &Self::State,
        reason: CloseReason,
    ) {
        if state.place == REFUSED {
            return;
        }
        if let Some(sources) = self.control.sources.as_ref()
            && state.place != UNCOUNTED
        {
            sources.release(state.place);
        }
        self.call_thread(cx, |inner, cx| {
            inner.on_close(cx, id, &state.inner, reason);
        });
    }

    fn on_open_failed(
        &mut self,
        cx: &mut Context<'_, Self::State>,
        dial: DialId,
        state: &Self::State,
        failure: OpenFailure,
    ) {
        self.call_thread(cx, |inner, cx| {
            inner.on_open_failed(cx, dial, &state.inner, failure);
        });
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self::State>, command: H::Command) {
        self.call_thread(cx, |inner, cx| inner.on_command(cx, command));
    }

    fn on_turn(&mut self, cx: &mut Context<'_, Self::State>) -> Option<u64> {
        self.call_thread(cx, |inner, cx| inner.on_turn(cx))
    }

    fn report(&mut self, report: &mut Self::Report) {
        self.inner.report(report);
    }
}
