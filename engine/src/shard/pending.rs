//! What a shard keeps of a connection beside its slot: bytes that wait, and sends under way.
//!
//! Invariants: a connection has at most one send under way, so at most one record.
//! Must not depend on: rings, handlers, what the states of a slot mean.

use std::collections::VecDeque;

use crate::ring::Staged;
use crate::slot::NONE;

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

/// Bytes kept for one connection. It has an entry exactly while there are any.
#[derive(Default)]
pub(super) struct Pending {
    /// Bytes to send, in order.
    pub outgoing: VecDeque<Piece>,
    /// What was received and not used yet.
    pub incoming: Vec<u8>,
    /// Bytes received and discarded since a close in stages began.
    pub discarded_bytes: usize,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.outgoing.is_empty() && self.incoming.is_empty() && self.discarded_bytes == 0
    }

    /// Our memory that waits for the peer.
    pub fn outgoing_bytes(&self) -> usize {
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

/// Where the bytes of a send are.
#[derive(Clone, Copy)]
pub(super) enum SendSource {
    Static(&'static [u8]),
    Staged(Staged),
    /// So many bytes from the front of what is pending.
    Pending(usize),
}

/// A send under way.
#[derive(Clone, Copy)]
pub(super) struct SendRecord {
    pub slot: u32,
    pub generation: u32,
    pub source: SendSource,
}

#[cfg(feature = "sim")]
impl SendRecord {
    /// True if it is of this life of `slot`.
    pub fn is_of(&self, slot: u32, generation: u32) -> bool {
        self.slot == slot && self.generation == generation
    }
}

/// The sends under way, in two halves: those submitted by the last `enter`, and those pushed since.
///
/// A send carries the number of its record in its token, so that one that comes short finds it
/// without a search, however many others are under way.
#[derive(Default)]
pub(super) struct SendRecords {
    halves: [Vec<SendRecord>; 2],
}

impl SendRecords {
    /// Adds a record to `half`; returns its number.
    pub fn add(&mut self, half: usize, record: SendRecord) -> u32 {
        let records = &mut self.halves[half];
        records.push(record);
        (records.len() as u32 - 1) << 1 | half as u32
    }

    /// Takes the record with this number out, if it is one of `slot`.
    pub fn take(&mut self, number: u32, slot: u32) -> Option<SendRecord> {
        let record = self.halves[number as usize & 1].get_mut(number as usize >> 1)?;
        if record.slot != slot {
            return None;
        }
        // A hole: nobody else's number changes.
        Some(std::mem::replace(
            record,
            SendRecord {
                slot: NONE,
                ..*record
            },
        ))
    }

    /// Takes all records of `half` out, to be given back empty.
    pub fn take_half(&mut self, half: usize) -> Vec<SendRecord> {
        std::mem::take(&mut self.halves[half])
    }

    /// Gives the memory of a half back.
    pub fn give_back(&mut self, half: usize, records: Vec<SendRecord>) {
        debug_assert!(records.is_empty() && self.halves[half].is_empty());
        self.halves[half] = records;
    }

    /// True if `half` has no records.
    pub fn is_empty(&self, half: usize) -> bool {
        self.halves[half].is_empty()
    }

    /// Every record.
    #[cfg(feature = "sim")]
    pub fn iter(&self) -> impl Iterator<Item = &SendRecord> {
        self.halves.iter().flatten().filter(|r| r.slot != NONE)
    }
}
