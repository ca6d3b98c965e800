//! The state of a simulated socket. What happens to it is in `net` and `connect`.
//!
//! Must not depend on: the world, rings, requests.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::ledger::Ledger;

/// Who has a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// It waits at a listener.
    Nobody,
    /// A ring.
    Ring(u32),
    /// A scripted peer.
    Raw(u32),
}

/// How far a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    New,
    Connecting,
    Open,
    /// Reset, or given up: nothing travels any more.
    Dead,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Socket {
    pub owner: Owner,
    pub stage: Stage,
    pub peer: Option<u32>,
    pub target: Option<SocketAddr>,
    /// Where it connects from, if it was bound.
    pub source: Option<SocketAddr>,
    /// Sent by the program, not arrived.
    pub unsent: VecDeque<u8>,
    /// Arrived, not read by the program.
    pub received: VecDeque<u8>,
    /// The program sends no more.
    pub is_ended: bool,
    /// That has arrived.
    pub is_end_sent: bool,
    /// The peer sends no more.
    pub has_peer_end: bool,
    /// What the next operation fails with.
    pub error: Option<i32>,
    /// What was sent waits for what follows.
    pub is_corked: bool,
    /// Closing resets.
    pub resets_on_close: bool,
    /// The program has closed it.
    pub is_closed: bool,
    /// It carries nothing, and nobody was told.
    pub is_cut: bool,
    pub is_delivering: bool,
    /// A send came short, and room that comes is told to a watch.
    pub lacks_room: bool,
    /// A watch is on it; what it told last, but for room.
    pub watch_told: Option<i32>,
    /// Turns that left a watched connection with an error it was to hear of.
    pub unheard_turns: u32,
    /// When the connect was begun.
    pub connect_us: u64,
    pub ledger: Option<Box<Ledger>>,
}
