//! The state of a simulated listener. What happens to it is in `connect`.
//!
//! Must not depend on: the world, rings, requests.

use std::collections::VecDeque;
use std::net::SocketAddr;

/// What becomes of connections that come to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    /// They wait to be accepted.
    Queue,
    /// Scripted peers have them.
    Raw,
}

/// One listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    pub address: SocketAddr,
    pub host: Host,
    pub is_open: bool,
    pub queue: VecDeque<u32>,
    /// Descriptors of it that are open, in any node.
    pub descriptor_count: u32,
    /// The rings that have polled it.
    pub rings: Vec<u32>,
    /// Where the scripts of its peers are.
    pub raw: Option<u32>,
}
