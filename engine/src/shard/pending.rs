//! What a shard keeps of a connection beside its slot: bytes that wait, and sends under way.
//!
//! Must not depend on: rings, handlers, slots.

use std::collections::VecDeque;

use crate::ring::Staged;

/// What a piece costs beside its bytes.
const PIECE_BYTES: usize = size_of::<Piece>();
/// Bytes that wait for the peer to take those before them.
pub(super) enum Piece {
    /// Bytes of our own, those before `from` taken already.
    Copied {
        bytes: Vec<u8>,
        from: usize,
    },
    Static(&'static [u8]),
}

impl Piece {
    pub fn copied(bytes: &[u8]) -> Self {
        let bytes = bytes.to_vec();
        Piece::Copied { bytes, from: 0 }
    }

    pub fn len(&self) -> usize {
        match self {
            Piece::Copied { bytes, from } => bytes.len() - from,
            Piece::Static(bytes) => bytes.len(),
        }
    }
}

/// What a connection carries over.
#[derive(Default)]
pub(super) struct Carry {
    /// What is to be sent, in order.
    pub outgoing: VecDeque<Piece>,
    /// What was received and not used yet.
    pub incoming: Vec<u8>,
    /// The handler wants nothing more before what it sent is with the kernel.
    pub is_paused: bool,
    /// Something of `incoming` was kept back from the handler.
    pub has_held: bool,
    /// No receive is armed until the handler may be given bytes again.
    pub is_read_paused: bool,
    /// The handler was told that the peer does not take what was sent.
    pub was_blocked: bool,
}

impl Carry {
    pub fn is_empty(&self) -> bool {
        self.outgoing.is_empty()
            && self.incoming.is_empty()
            && !self.is_paused
            && !self.is_read_paused
            && !self.has_held
            && !self.was_blocked
    }

    /// Our memory that waits for the peer.
    pub fn kept_bytes(&self) -> usize {
        let piece_bytes = |piece: &Piece| match piece {
            Piece::Copied { bytes, .. } => PIECE_BYTES + bytes.len(),
            Piece::Static(_) => PIECE_BYTES,
        };
        self.outgoing.iter().map(piece_bytes).sum()
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if let Some(Piece::Copied { bytes: last, .. }) = self.outgoing.back_mut() {
            last.extend_from_slice(bytes);
        } else {
            self.outgoing.push_back(Piece::copied(bytes));
        }
    }

    /// The first `count` bytes have been taken.
    pub fn take(&mut self, count: usize) {
        let Some(piece) = self.outgoing.front_mut() else {
            return;
        };
        if count >= piece.len() {
            self.outgoing.pop_front();
            return;
        }
        match piece {
            Piece::Copied { from, .. } => *from += count,
            Piece::Static(bytes) => *bytes = &bytes[count..],
        }
    }
}

/// A send under way.
pub(super) struct SendRecord {
    pub slot: u32,
    pub generation: u32,
    pub source: SendSource,
}

impl SendRecord {
    /// True if it is of this life of `slot`.
    pub fn is_of(&self, slot: u32, generation: u32) -> bool {
        self.slot == slot && self.generation == generation
    }
}

/// Where the bytes of a send are.
#[derive(Clone, Copy)]
pub(super) enum SendSource {
    Static(&'static [u8]),
    Staged(Staged),
    /// So many bytes from the front of what is carried.
    Carry(usize),
}
