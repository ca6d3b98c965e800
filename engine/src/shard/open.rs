//! How a connection begins: taken from a listener, or dialled.
//!
//! Invariants: a slot is taken before the request that may fill it is pushed, and given back when
//! it did not.
//! Must not depend on: what is received or sent.

use std::net::SocketAddr;
use std::os::fd::RawFd;

use super::receive::Wait;
use super::turn::{Context, Shard};
use crate::config::Config;
use crate::context::DialId;
use crate::error::{CloseReason, Error, OpenFailure};
use crate::handler::Handler;
use crate::ring::{Request, Ring};
use crate::slot::Phase;
use crate::token::{Op, Token};

impl<R: Ring, H: Handler> Shard<R, H> {
    /// Waits for a listener to have connections.
    pub fn listen(&mut self, number: usize, listener: RawFd) -> Result<(), Error> {
        self.ring.push(
            Token::new(Op::PollListener, number as u32, 0),
            Request::PollListener { listener },
        )
    }

    /// Waits for a listener no longer.
    pub fn stop_listening(&mut self, number: usize) -> Result<(), Error> {
        let token = Token::new(Op::PollListener, number as u32, 0);
        // The cancel belongs to no slot, so its token is of the listener too.
        let own = Token::new(Op::PollListener, number as u32, 1);
        self.ring.push(own, Request::Cancel { token })
    }

    /// Takes up to `count` connections from a listener. The limiter has room for them, and so has
    /// this shard.
    pub fn accept(&mut self, listener: RawFd, count: u32) -> Result<(), Error> {
        for _ in 0..count {
            let slot = self
                .slots
                .take()
                .expect("the caller asked for no more than there is room");
            let token = self.token(Op::Accept, slot);
            self.ring.push(token, Request::Accept { listener, slot })?;
        }
        Ok(())
    }

    /// Takes up to `count` connections from a listener and resets them at once. They pass through
    /// the spare slots.
    pub fn refuse(&mut self, listener: RawFd, count: u32, config: &Config) -> Result<(), Error> {
        for spare in 0..count {
            let slot = config.ring_capacity() + spare;
            self.ring.push(
                Token::new(Op::Refuse, slot, 0),
                Request::Accept { listener, slot },
            )?;
            self.ring.push(
                Token::new(Op::Refuse, slot, 1),
                Request::ResetOnClose { slot },
            )?;
            self.ring
                .push(Token::new(Op::Refuse, slot, 1), Request::Close { slot })?;
        }
        Ok(())
    }

    /// Starts a connection. There is room.
    pub fn dial(
        &mut self,
        state: H::State,
        own_tuple: u32,
        source: SocketAddr,
        target: SocketAddr,
        ctx: &mut Context<'_, H>,
    ) -> Result<(), Error> {
        let slot = self
            .slots
            .take()
            .expect("the caller asked a shard with room");
        self.slots[slot].start_connecting(state, own_tuple);
        ctx.stats.connecting_now += 1;
        self.ring.reserve(4)?;
        let is_ipv6 = target.is_ipv6();
        for (op, request) in [
            (Op::Socket, Request::Socket { slot, is_ipv6 }),
            (Op::Option, Request::ReuseAddress { slot }),
            (Op::Bind, Request::Bind { slot, source }),
            (Op::Connect, Request::Connect { slot, target }),
        ] {
            self.ring.push(self.token(op, slot), request)?;
        }
        self.set_timer(
            slot,
            ctx.now_us + ctx.config.connect_timeout.as_micros() as u64,
        );
        Ok(())
    }

    pub(super) fn on_accept(
        &mut self,
        ctx: &mut Context<'_, H>,
        slot: u32,
        result: i32,
    ) -> Result<(), Error> {
        if result < 0 {
            self.slots.release(slot);
            ctx.limiter.cancel(1);
            // A connection that was reset while it waited leaves the queue, and an accept without
            // one.
            if result != -libc::EAGAIN {
                ctx.stats.accept_failed[OpenFailure::from_errno(-result) as usize] += 1;
            }
            return Ok(());
        }
        self.slots[slot].accepted();
        ctx.limiter.commit();
        ctx.stats.accepted += 1;
        self.on_open(ctx, slot)
    }

    /// An attempt ended: the bind failed, or the connect did or did not.
    pub(super) fn on_connect(
        &mut self,
        ctx: &mut Context<'_, H>,
        slot: u32,
        result: i32,
        op: Op,
    ) -> Result<(), Error> {
        self.wheel.clear(&mut self.slots, slot);
        ctx.stats.connecting_now -= 1;
        if result >= 0 && self.slots[slot].dial_failure().is_none() {
            self.slots[slot].connected();
            ctx.stats.opened += 1;
            return self.on_open(ctx, slot);
        }
        let earlier = self.slots[slot].dial_failure();
        let is_taken = earlier.is_none()
            && (result == -libc::EADDRINUSE
                || (op == Op::Connect && result == -libc::EADDRNOTAVAIL));
        let state = self.slots[slot].state;
        let has_socket = !matches!(
            earlier,
            Some(OpenFailure::NoDescriptor | OpenFailure::NoMemory)
        );
        if has_socket {
            self.ring
                .push(self.token(Op::Close, slot), Request::Close { slot })?;
        }
        let own_tuple = self.slots[slot].tuple;
        let target = ctx.tuples.as_ref().map(|tuples| tuples.target(own_tuple));
        self.release(ctx, slot);
        if is_taken {
            ctx.stats.address_in_use += 1;
            ctx.redial.push(state);
        } else {
            let failure = earlier.unwrap_or_else(|| match (op, -result) {
                // A blackhole route.
                (Op::Connect, libc::EINVAL) => OpenFailure::Unreachable,
                (_, errno) => OpenFailure::from_errno(errno),
            });
            ctx.stats.count_failed(failure, target);
            ctx.has_called = true;
            let mut cx = ctx.recorder.context(ctx.now_us);
            ctx.handler
                .on_open_failed(&mut cx, DialId::PLANNED, &state, failure);
        }
        Ok(())
    }

    fn on_open(&mut self, ctx: &mut Context<'_, H>, slot: u32) -> Result<(), Error> {
        ctx.stats.open_now += 1;
        ctx.stats.open_max = ctx.stats.open_max.max(ctx.stats.open_now);
        self.newest = self.newest.max(slot + 1);
        self.call(ctx, slot, |handler, conn| handler.on_open(conn))?;
        let phase = self.slots[slot].phase();
        if ctx.is_aborting && (phase.is_open() || phase == Phase::Draining) {
            // Its accept was under way when the others were aborted.
            return self.close(ctx, slot, CloseReason::Aborted);
        }
        if ctx.is_stopping && phase.is_open() {
            // It opened after `on_stop` had been called for the others.
            self.call(ctx, slot, |handler, conn| handler.on_stop(conn))?;
        }
        self.arm_read(ctx, slot, Wait::Once)
    }
}
