//! Linked slots: two connections of one shard, each of which is sent what the other receives.
//!
//! Bytes are sent from the receive buffer that they came in; the buffer goes back to the ring when
//! the send is settled. What the partner's socket does not take is copied, and the other side is not
//! read until it has gone.
//! Invariants: a link has two ends, both in use, each of which names the other; it ends when one of
//! them is released, so it is never stale. A buffer is with the ring, or one send reads it.
//! Must not depend on: what the bytes mean.

use super::pending::SendSource;
use super::turn::{Context, Shard};
use crate::error::Error;
use crate::handler::Handler;
use crate::ring::{Received, Request, Ring};
use crate::slot::Write;

impl<R: Ring, H: Handler> Shard<R, H> {
    /// Sends bytes in a receive buffer on the connection in `slot`. True if the send has the buffer
    /// from now on; else the bytes were copied.
    #[expect(dead_code)] // Until handlers forward.
    fn send_received(
        &mut self,
        ctx: &mut Context<'_, H>,
        slot: u32,
        received: Received,
    ) -> Result<bool, Error> {
        if self.slots[slot].write() == Write::Idle {
            self.lent_count += 1;
            let request = Request::SendReceived { slot, received };
            self.submit_send(ctx, slot, request, SendSource::Received(received))?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Gives a buffer back that a send has read.
    pub(super) fn give_back(&mut self, received: Received) {
        self.lent_count -= 1;
        self.ring.recycle(received.buffer);
    }
}
