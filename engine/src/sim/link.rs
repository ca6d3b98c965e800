//! What the network and the sockets of a run are like: delays, sizes, patience.
//!
//! Must not depend on: connections.

use std::net::SocketAddr;

use super::random::Random;

/// What the network of a run is like.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// Longest delay of a segment, microseconds.
    pub delay_us_max: u64,
    /// Room for bytes a program has sent and its peer's socket has not, bytes.
    pub unsent_max: usize,
    /// Room for bytes a peer's program has not read, bytes.
    pub received_max: usize,
    /// Until the first packet of a connect is sent again.
    pub syn_again_us: u64,
    /// Until the kernel gives up connecting.
    pub give_up_us: u64,
    /// Connections that wait at a listener at most.
    pub backlog: usize,
    /// Addresses that answer nothing.
    pub silent: Vec<SocketAddr>,
}

impl Link {
    pub fn draw(random: &mut Random) -> Self {
        Link {
            delay_us_max: random.magnitude(1, 20_000),
            unsent_max: random.magnitude(8, 200_000) as usize,
            received_max: random.magnitude(8, 200_000) as usize,
            syn_again_us: random.magnitude(10_000, 1_000_000),
            give_up_us: random.magnitude(50_000, 130_000_000),
            backlog: random.magnitude(1, 64) as usize,
            silent: Vec::new(),
        }
    }
}
