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
use holdfast_engine::{CloseReason, ConnId, Handler, Layer, LayerConn, LayerContext, LayerState};
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

    /// Lets a connection in, or says why not. Returns its place.
    fn admit(&self, peer: Option<IpAddr>) -> Result<Place, CloseReason> {
        // Without its address it cannot be judged.
        let peer = peer.ok_or(CloseReason::Denied)?.to_canonical();
        if !self.list.allows(peer) {
            return Err(CloseReason::Denied);
        }
        match &self.sources {
            None => Ok(UNCOUNTED),
            Some(sources) => {
                let place = sources.try_acquire(peer);
                place.map(Place).ok_or(CloseReason::SourceLimit)
            }
        }
    }
}

/// What the layer keeps of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u32);

/// A connection without a place in [`Sources`].
const UNCOUNTED: Place = Place(u32::MAX);
/// A connection that was refused.
const REFUSED: Place = Place(u32::MAX - 1);

impl Default for Place {
    fn default() -> Self {
        UNCOUNTED
    }
}

/// A handler that sees the connections that may be there.
#[derive(Debug)]
pub struct Access<H> {
    inner: H,
    control: Arc<AccessControl>,
}

impl<H> Access<H> {
    /// `inner` behind `control`. The engine must know the addresses of peers
    /// ([`peer_addresses`](holdfast_engine::ConfigBuilder::peer_addresses)).
    pub fn new(inner: H, control: Arc<AccessControl>) -> Self {
        Access { inner, control }
    }
}

impl<H: Handler> Layer for Access<H> {
    type Inner = H;
    type State = Place;

    fn inner(&mut self) -> &mut H {
        &mut self.inner
    }

    fn on_open(&mut self, conn: &mut LayerConn<'_, Self>) {
        // What this thread dialled itself is nobody's request.
        if conn.listener().is_some() {
            match self.control.admit(conn.peer_addr().map(|peer| peer.ip())) {
                Ok(place) => conn.state.own = place,
                Err(reason) => {
                    conn.state.own = REFUSED;
                    return conn.abort(reason);
                }
            }
        }
        self.call(conn, |inner, conn| inner.on_open(conn));
    }

    fn on_close(
        &mut self,
        cx: &mut LayerContext<'_, Self>,
        id: ConnId,
        state: &LayerState<Place, H::State>,
        reason: CloseReason,
    ) {
        let place = state.own;
        if place == REFUSED {
            return;
        }
        if let Some(sources) = self.control.sources.as_ref()
            && place != UNCOUNTED
        {
            sources.release(place.0);
        }
        self.call_thread(cx, |inner, cx| {
            inner.on_close(cx, id, &state.inner, reason);
        });
    }
}
