//! Numbers that a peer cannot foresee: masks and Sec-WebSocket-Keys.
//!
//! Invariants: numbers of one thread do not repeat; who knows some of them cannot compute others (RFC 6455, 5.3 and 10.3).
//! Must not depend on: connections.

use std::collections::hash_map::DefaultHasher;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::handshake::KEY_BYTES;

/// SipHash of a secret and a counter.
pub(super) struct Masks {
    secret: [u64; 2],
    count: u64,
}

impl Masks {
    /// With a secret from the operating system.
    pub fn new() -> Self {
        let random = RandomState::new();
        Masks {
            secret: [random.hash_one(1_u8), random.hash_one(2_u8)],
            count: 0,
        }
    }

    /// The same numbers each time, for tests and simulations.
    pub fn seeded(seed: u64) -> Self {
        Masks {
            secret: [seed, !seed],
            count: 0,
        }
    }

    fn number(&self, purpose: u64, count: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        for word in [self.secret[0], self.secret[1], purpose, count] {
            hasher.write_u64(word);
        }
        hasher.finish()
    }

    /// The next mask; never zero, which would not mask.
    pub fn next(&mut self) -> [u8; 4] {
        loop {
            self.count += 1;
            let mask = (self.number(0, self.count) as u32).to_ne_bytes();
            if mask != [0; 4] {
                return mask;
            }
        }
    }

    /// A number that names a key of its own.
    pub fn next_nonce(&mut self) -> u32 {
        self.count += 1;
        self.count as u32
    }

    /// The key that a nonce names.
    pub fn key(&self, nonce: u32) -> [u8; KEY_BYTES] {
        let mut key = [0; KEY_BYTES];
        key[..8].copy_from_slice(&self.number(1, u64::from(nonce)).to_ne_bytes());
        key[8..].copy_from_slice(&self.number(2, u64::from(nonce)).to_ne_bytes());
        key
    }
}
