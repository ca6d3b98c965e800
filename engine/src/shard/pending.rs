//! What a shard keeps of a connection beside its slot: bytes that wait, sends under way, and what it
//! is to be told of its partner.
//!
//! Invariants: a connection has at most one send under way, so at most one record.
//! Must not depend on: rings, handlers, what the states of a slot mean.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::config::Config;
use crate::error::PartnerEnd;
use crate::ring::{Received, Shared, Staged};
use crate::slot::NONE;

/// Most bytes kept of a connection whose handler is given none: what may already be on its way when
/// its receive is stopped.
pub(super) fn held_bytes_max(config: &Config) -> usize {
    config.pending_bytes_max + usize::from(config.buffer_count_max) * config.buffer_bytes as usize
}

/// What a slot is to be told of its partner.
#[derive(Debug, Clone, Copy)]
pub(super) enum LinkEvent {
    /// It opened.
    Opened {
        /// The ACK that ends the handshake waits for the first bytes.
        delays_ack: bool,
    },
    /// It has sent everything.
    TakesBytes,
    /// It has ended; there is no link any more.
    Ended(PartnerEnd),
}

/// What a piece costs beside its bytes.
const PIECE_BYTES: usize = size_of::<Piece>();
const _: () = assert!(PIECE_BYTES == 32);

/// Bytes that wait for the peer to take those before them.
pub(super) enum Piece {
    /// Bytes of our own, those before `from` taken already.
    Copied {
        bytes: Vec<u8>,
        from: usize,
    },
    Static(&'static [u8]),
    /// A buffer that others may be sent too, the bytes before `from` taken already.
    Shared {
        bytes: Arc<[u8]>,
        from: usize,
    },
}

impl Piece {
    pub fn copied(bytes: &[u8]) -> Self {
        let bytes = bytes.to_vec();
        Piece::Copied { bytes, from: 0 }
    }

    /// Bytes not taken yet.
    pub fn len(&self) -> usize {
        match self {
            Piece::Copied { bytes, from } => bytes.len() - from,
            Piece::Static(bytes) => bytes.len(),
            Piece::Shared { bytes, from } => bytes.len() - from,
        }
    }

    /// Our memory that it takes, apart from what others share.
    fn own_bytes(&self) -> usize {
        match self {
            Piece::Copied { bytes, .. } => PIECE_BYTES + bytes.len(),
            Piece::Static(_) | Piece::Shared { .. } => PIECE_BYTES,
        }
    }

    /// Bytes of shared buffers not taken yet.
    fn shared_bytes(&self) -> usize {
        match self {
            Piece::Shared { .. } => self.len(),
            Piece::Copied { .. } | Piece::Static(_) => 0,
        }
    }
}

/// Pieces that wait to be sent, in order, and what they take.
#[derive(Default)]
pub(super) struct Outgoing {
    pieces: VecDeque<Piece>,
    /// The sum of [`Piece::own_bytes`].
    own_bytes: usize,
    /// The sum of [`Piece::shared_bytes`].
    shared_bytes: usize,
}

impl Outgoing {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The first piece.
    pub fn front(&self) -> Option<&Piece> {
        self.pieces.front()
    }

    /// True if more is kept than one connection may keep, `extra_bytes` included. A single shared buffer may be of any size:
    /// whoever made it has the memory; those that queue up behind it may not.
    pub fn is_too_much(&self, config: &Config, extra_bytes: usize) -> bool {
        let first = self.pieces.front().map_or(0, Piece::shared_bytes);
        self.own_bytes > config.pending_bytes_max + extra_bytes
            || self.shared_bytes - first > config.shared_bytes_max
    }

    /// Our memory that waits for the peer.
    pub fn own_bytes(&self) -> usize {
        self.own_bytes
    }

    fn count(&mut self, piece: &Piece) {
        self.own_bytes += piece.own_bytes();
        self.shared_bytes += piece.shared_bytes();
    }

    pub fn push_back(&mut self, piece: Piece) {
        self.count(&piece);
        self.pieces.push_back(piece);
    }

    pub fn push_front(&mut self, piece: Piece) {
        self.count(&piece);
        self.pieces.push_front(piece);
    }

    /// Keeps a copy of `bytes`, with those copied before if nothing came between.
    pub fn push_copy(&mut self, bytes: &[u8]) {
        let Some(Piece::Copied { bytes: last, from }) = self.pieces.back_mut() else {
            return self.push_back(Piece::copied(bytes));
        };
        let before = last.len();
        if *from > before / 2 {
            // Nobody needs what was taken. Less is moved than was taken, so a byte moves once.
            last.drain(..std::mem::take(from));
        }
        last.extend_from_slice(bytes);
        self.own_bytes = self.own_bytes - before + last.len();
    }

    /// The first `count` bytes have been taken; they are of the first piece.
    pub fn take(&mut self, count: usize) {
        let Some(piece) = self.pieces.front_mut() else {
            return;
        };
        if let Piece::Shared { .. } = piece {
            self.shared_bytes -= count;
        }
        if count >= piece.len() {
            self.own_bytes -= piece.own_bytes();
            self.pieces.pop_front();
            return;
        }
        match piece {
            Piece::Copied { from, .. } | Piece::Shared { from, .. } => *from += count,
            Piece::Static(bytes) => *bytes = &bytes[count..],
        }
    }

    /// True if the sums are those of the pieces.
    #[cfg(any(test, feature = "sim"))]
    pub fn is_counted(&self) -> bool {
        let sums = (self.own_bytes, self.shared_bytes);
        sums == (
            self.pieces.iter().map(Piece::own_bytes).sum(),
            self.pieces.iter().map(Piece::shared_bytes).sum(),
        )
    }
}

/// Bytes kept for one connection. It has an entry exactly while there are any.
#[derive(Default)]
pub(super) struct Pending {
    /// Bytes to send.
    pub outgoing: Outgoing,
    /// What was received and not used yet.
    pub incoming: Vec<u8>,
    /// Bytes received and discarded since a close in stages began.
    pub discarded_bytes: usize,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.outgoing.is_empty() && self.incoming.is_empty() && self.discarded_bytes == 0
    }
}

/// Where the bytes of a send are.
#[derive(Clone, Copy)]
pub(super) enum SendSource {
    Static(&'static [u8]),
    Staged(Staged),
    /// In a buffer that the ring keeps.
    Shared(Shared),
    /// In the receive buffer that they came in, which is given back when the send is settled.
    Received(Received),
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

const _: () = assert!(size_of::<SendRecord>() == 32);

impl SendRecord {
    /// The receive buffer that it sends from.
    pub fn received(&self) -> Option<Received> {
        match self.source {
            SendSource::Received(received) => Some(received),
            _ => None,
        }
    }

    /// True if it is of this life of `slot`.
    #[cfg(feature = "sim")]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::builder()
            .pending_bytes_max(1_000)
            .shared_bytes_max(500)
            .build()
            .expect("valid")
    }

    fn shared(length: usize) -> Piece {
        Piece::Shared {
            bytes: vec![0; length].into(),
            from: 0,
        }
    }

    #[test]
    fn a_single_shared_buffer_may_be_of_any_size_and_those_behind_it_may_not() {
        let mut outgoing = Outgoing::default();
        outgoing.push_back(shared(1 << 20));
        outgoing.take(1_000);
        outgoing.push_back(shared(400));
        assert!(!outgoing.is_too_much(&config(), 0));
        outgoing.push_back(shared(101));
        assert!(outgoing.is_too_much(&config(), 0), "501 bytes queue up");
        outgoing.take((1 << 20) - 1_000);
        assert!(!outgoing.is_too_much(&config(), 0), "101 bytes queue up");
    }

    #[test]
    fn the_number_of_pieces_is_bounded() {
        let mut outgoing = Outgoing::default();
        let count = 1_000 / PIECE_BYTES;
        (0..count).for_each(|_| outgoing.push_back(shared(1)));
        assert!(!outgoing.is_too_much(&config(), 0));
        outgoing.push_back(shared(1));
        assert!(outgoing.is_too_much(&config(), 0));
    }

    #[test]
    fn bytes_that_were_taken_do_not_count_for_a_peer_that_reads_slowly() {
        let mut outgoing = Outgoing::default();
        for _ in 0..1_000 {
            outgoing.push_copy(&[0; 100]);
            if outgoing.front().expect("a piece").len() > 200 {
                outgoing.take(100);
            }
            assert!(!outgoing.is_too_much(&config(), 0));
        }
    }

    #[test]
    fn sums_follow_the_pieces_and_the_last_user_frees_a_buffer() {
        let buffer: Arc<[u8]> = vec![1; 100].into();
        let mut outgoing = Outgoing::default();
        outgoing.push_copy(&[0; 10]);
        outgoing.push_back(Piece::Shared {
            bytes: Arc::clone(&buffer),
            from: 40,
        });
        outgoing.push_back(Piece::Static(&[2; 30]));
        for count in [4, 6, 20, 40, 29, 1] {
            assert!(outgoing.is_counted());
            outgoing.take(count);
        }
        assert!(outgoing.is_empty() && outgoing.is_counted());
        assert_eq!(Arc::strong_count(&buffer), 1);
    }
}
