//! What a ring's books say of one slot.
//!
//! Invariants checked here: a life of a slot begins with a generation that none before it had; every request is of the life that
//! was begun last; newcomers are refused in spare slots, and nothing else is done there.
//! Must not depend on: what requests do.

use std::net::SocketAddr;

use crate::ring::Request;
use crate::token::{Op, Token};

/// Operations there are, and one more.
const OPS: usize = Op::Cancel as usize + 1;

/// See the file's head.
#[derive(Debug, Clone, Default)]
pub(super) struct Page {
    /// Requests of each operation from push to last completion.
    pub under_way: [u8; OPS],
    /// The life of the slot that was begun last.
    generation: Option<u32>,
    /// The socket in the direct-descriptor table.
    pub socket: Option<u32>,
    /// The peer of the accept that completed, until it is asked for.
    pub peer: Option<SocketAddr>,
}

impl Page {
    /// A token of the life before.
    pub fn token_before(&self, slot: u32, op: Op) -> Option<Token> {
        let generation = self.generation?.checked_sub(1)?;
        Some(Token::new(op, slot, generation))
    }

    /// A request was pushed.
    pub fn note_push(&mut self, token: Token, request: &Request, is_spare: bool) {
        self.under_way[token.op() as usize] += 1;
        if token.op() == Op::Refuse {
            assert!(is_spare, "a newcomer is refused in a slot of its own");
            return;
        }
        assert!(!is_spare, "a spare slot is used for {:?}", token.op());
        if token.op() == Op::Send {
            // Carries the number of its record, not a generation.
            return;
        }
        let generation = token.generation();
        match request {
            Request::Accept { .. } | Request::Socket { .. } => {
                assert!(
                    self.generation.is_none_or(|last| last < generation),
                    "generation {generation} of slot {} comes again",
                    token.slot()
                );
                self.generation = Some(generation);
            }
            _ => assert_eq!(
                self.generation,
                Some(generation),
                "a {:?} of another life of slot {}",
                token.op(),
                token.slot()
            ),
        }
    }
}
