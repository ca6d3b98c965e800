//! The 64 bits that travel with a request through the kernel and come back with its completion.
//!
//! Layout, from the top: operation 8, slot index 24, generation 32. A send has the number of its
//! record where others have the generation.
//! Invariants: packing and unpacking are inverse; a completion whose generation differs from the
//! slot's is stale.
//! Must not depend on: what any operation does.

use crate::config::SLOT_INDEX_BITS;

/// What a request was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// A listener became readable.
    PollListener = 1,
    /// A connection was taken from a listener into a slot.
    Accept,
    /// A connection was taken from a listener to be turned away.
    Refuse,
    /// A socket was made in a slot.
    Socket,
    /// A socket option was set.
    Option,
    /// A source address was given to a socket.
    Bind,
    /// A socket was connected.
    Connect,
    /// A connection has bytes, an end or an error.
    Poll,
    /// A connection takes bytes again.
    Writable,
    /// A connection takes bytes again, has an end or an error.
    Watch,
    /// A connection was asked for its error.
    Probe,
    /// A connection was asked what its peer has not acknowledged.
    OutQueue,
    /// Bytes were received.
    Recv,
    /// Bytes were sent.
    Send,
    /// A connection was shut down.
    Shutdown,
    /// A slot's descriptor was closed.
    Close,
    /// A request was cancelled.
    Cancel,
    /// The thread was woken by another.
    Wake,
}

const OPS: [Op; 18] = [
    Op::PollListener,
    Op::Accept,
    Op::Refuse,
    Op::Socket,
    Op::Option,
    Op::Bind,
    Op::Connect,
    Op::Poll,
    Op::Writable,
    Op::Watch,
    Op::Probe,
    Op::OutQueue,
    Op::Recv,
    Op::Send,
    Op::Shutdown,
    Op::Close,
    Op::Cancel,
    Op::Wake,
];

impl Op {
    /// True if it is done to what is in a slot. Others belong to the thread.
    #[cfg(feature = "sim")]
    pub(crate) fn has_slot(self) -> bool {
        !matches!(self, Op::PollListener | Op::Wake)
    }
}

/// Operation, slot and generation of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(u64);

impl Token {
    /// Packs the three parts. `slot` must fit [`SLOT_INDEX_BITS`] bits.
    #[inline]
    pub fn new(op: Op, slot: u32, generation: u32) -> Self {
        debug_assert!(slot < 1 << SLOT_INDEX_BITS);
        Token((op as u64) << 56 | u64::from(slot) << 32 | u64::from(generation))
    }

    /// The kernel's `user_data`.
    #[inline]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// A token from a completion's `user_data`; `None` if no token of ours packs to it.
    #[inline]
    pub fn from_bits(bits: u64) -> Option<Self> {
        let op = (bits >> 56) as usize;
        (1..=OPS.len()).contains(&op).then_some(Token(bits))
    }

    /// What was asked.
    #[inline]
    pub fn op(self) -> Op {
        OPS[(self.0 >> 56) as usize - 1]
    }

    /// For which slot.
    #[inline]
    pub fn slot(self) -> u32 {
        (self.0 >> 32) as u32 & ((1 << SLOT_INDEX_BITS) - 1)
    }

    /// For which life of that slot; for a send, with which record.
    #[inline]
    pub fn generation(self) -> u32 {
        self.0 as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_and_unpacking_are_inverse() {
        for op in OPS {
            for slot in [0, 1, 19_999, (1 << SLOT_INDEX_BITS) - 1] {
                for generation in [0, 1, u32::MAX] {
                    let token =
                        Token::from_bits(Token::new(op, slot, generation).to_bits()).unwrap();
                    assert_eq!(
                        (token.op(), token.slot(), token.generation()),
                        (op, slot, generation)
                    );
                }
            }
        }
    }

    #[test]
    fn unknown_bits_are_no_token() {
        assert_eq!(Token::from_bits(0), None);
        assert_eq!(Token::from_bits(u64::MAX), None);
        assert_eq!(Token::from_bits((OPS.len() as u64 + 1) << 56), None);
    }
}
