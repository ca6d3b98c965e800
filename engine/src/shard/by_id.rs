//! Actions on a connection that something else than its own callbacks asked for, by its id.
//!
//! Invariants: an id of an earlier connection in the slot reaches nothing.
//! Must not depend on: who asked.

use super::turn::{CoreContext, Shard};
use crate::bytes::Bytes;
use crate::error::{CloseReason, Error};
use crate::handler::Handler;
use crate::id::ConnId;
use crate::ring::Ring;
use crate::slot::Phase;

/// What to do with a connection.
pub(crate) enum ById {
    Send(Bytes),
    Close,
    Abort(CloseReason),
    Reset(CloseReason),
    PauseReading,
    ResumeReading,
}

impl<R: Ring, H: Handler> Shard<R, H> {
    /// Does something with the connection of an id. False if it has closed. One that is closing
    /// can only be aborted.
    pub fn act(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        id: ConnId,
        action: ById,
    ) -> Result<bool, Error> {
        let slot = id.slot;
        let entry = self.slots.at(slot);
        let Some(phase) = entry
            .filter(|s| s.generation == id.generation)
            .map(|s| s.phase())
            .filter(|phase| !matches!(phase, Phase::Free | Phase::Connecting))
        else {
            return Ok(false);
        };
        match action {
            ById::Abort(reason) => self.close(ctx, slot, reason)?,
            ById::Reset(reason) => self.reset(ctx, slot, reason)?,
            _ if phase != Phase::Open => {}
            ById::Send(bytes) => {
                self.call(ctx, slot, |handler, conn| handler.on_send(conn, bytes))?;
            }
            ById::PauseReading => self.pause_reading(slot)?,
            ById::ResumeReading => self.resume_reading(ctx, slot)?,
            ById::Close => {
                self.call(ctx, slot, |handler, conn| handler.on_close_requested(conn))?;
            }
        }
        self.tell_partners(ctx)?;
        Ok(true)
    }
}
