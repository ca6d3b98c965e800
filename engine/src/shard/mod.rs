//! One shard: a ring, its slots, its wheel. `turn` is what it does each time it is called; the life
//! of a connection is in the files beside it, in order: `open` -> `receive` -> `call` (the handler)
//! -> `send` -> `end`.
//!
//! Must not depend on: threads, other shards, protocols.

#[cfg(feature = "sim")]
pub(crate) mod audit;
mod by_id;
mod call;
mod end;
mod link;
mod open;
mod pending;
mod receive;
mod send;
mod stream;
mod sweep;
mod turn;

pub(crate) use by_id::ById;
pub(crate) use turn::{CoreContext, Shard};
