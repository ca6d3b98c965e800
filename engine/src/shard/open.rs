//! How a connection begins: taken from a listener, or dialled.
//!
//! Invariants: a slot is taken before the request that may fill it is pushed, and given back when
//! it did not.
//! Must not depend on: what is received or sent.

use std::net::SocketAddr;
use std::os::fd::RawFd;

use super::receive::Wait;
use super::turn::{CoreContext, Shard};
use crate::attempt::{Dial, DialId, Source};
use crate::config::{Config, TIME_MAX};
use crate::error::{CloseReason, Error, OpenFailure, PartnerEnd};
use crate::handler::{Conn, Handler, Origin};
use crate::ring::{Request, Ring};
use crate::slot::Phase;
use crate::socket_options::{LATE_PORT, transparent};
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

    /// Waits for another thread to signal a descriptor.
    pub fn poll_waker(&mut self, fd: RawFd) -> Result<(), Error> {
        let token = Token::new(Op::Wake, 0, 0);
        self.ring.push(token, Request::PollWaker { fd })
    }

    /// Takes up to `count` connections from a listener. The limiter has room for them, and so has
    /// this shard.
    pub fn accept(
        &mut self,
        number: usize,
        listener: RawFd,
        count: u32,
        tells_peer: bool,
    ) -> Result<(), Error> {
        for _ in 0..count {
            let slot = self
                .slots
                .take()
                .expect("the caller asked for no more than there is room");
            self.slots[slot].accept_from(number as u32);
            self.unpaired_count += u32::from(self.pairs);
            let token = self.token(Op::Accept, slot);
            let request = Request::Accept {
                listener,
                slot,
                tells_peer,
            };
            self.ring.push(token, request)?;
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
                Request::Accept {
                    listener,
                    slot,
                    tells_peer: false,
                },
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

    /// Starts a connection from an address, or from one that the kernel chooses. There is room. Returns
    /// the slot.
    pub fn dial(
        &mut self,
        state: H::State,
        own_tuple: u32,
        (source, target): (Option<SocketAddr>, SocketAddr),
        dial: Option<&Dial>,
        ctx: &mut CoreContext<'_, H>,
    ) -> Result<u32, Error> {
        let slot = self
            .slots
            .take()
            .expect("the caller asked a shard with room");
        self.slots[slot].start_connecting(state, own_tuple);
        ctx.stats.connecting_now += 1;
        self.ring.reserve(5)?;
        let is_ipv6 = target.is_ipv6();
        let socket = self.token(Op::Socket, slot);
        self.ring.push(socket, Request::Socket { slot, is_ipv6 })?;
        if ctx.config.sends_on_open || dial.is_some_and(|dial| dial.delays_ack) {
            let option = self.token(Op::Option, slot);
            self.ring.push(option, Request::DelayFirstAck { slot })?;
        }
        let mut timeout = ctx.config.connect_timeout;
        if let Some(dial) = dial {
            timeout = dial.timeout.unwrap_or(timeout).min(TIME_MAX);
            self.set_options(slot, dial, source)?;
        }
        if let Some(source) = source {
            let option = self.token(Op::Option, slot);
            self.ring.push(option, Request::ReuseAddress { slot })?;
            // The connect is linked to it.
            self.ring.reserve(2)?;
            let bind = self.token(Op::Bind, slot);
            self.ring.push(bind, Request::Bind { slot, source })?;
        }
        let connect = self.token(Op::Connect, slot);
        self.ring.push(connect, Request::Connect { slot, target })?;
        self.set_timer(slot, ctx.now_us + timeout.as_micros() as u64);
        Ok(slot)
    }

    /// Sets the options of a socket that is to be bound and connected.
    fn set_options(
        &mut self,
        slot: u32,
        dial: &Dial,
        source: Option<SocketAddr>,
    ) -> Result<(), Error> {
        let is_transparent = matches!(dial.source, Source::Transparent(_));
        let transparent = is_transparent.then(|| transparent(dial.target.is_ipv6()));
        let has_late_port = source.is_some_and(|source| source.port() == 0);
        let options = dial.options.each().chain(transparent);
        for option in options.chain(has_late_port.then_some(LATE_PORT)) {
            let token = self.token(Op::Option, slot);
            self.ring.push(token, Request::SetOption { slot, option })?;
        }
        Ok(())
    }

    pub(super) fn on_accept(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        result: i32,
    ) -> Result<(), Error> {
        let peer = match ctx.config.peer_addresses {
            true => self.ring.take_peer(slot),
            false => None,
        };
        if result < 0 {
            self.unpaired_count -= u32::from(self.pairs);
            self.slots.release(slot);
            ctx.limiter.cancel(1);
            // A connection that was reset while it waited leaves the queue, and an accept without
            // one.
            if result != -libc::EAGAIN {
                ctx.stats.accept_failed[OpenFailure::from_errno(-result) as usize] += 1;
            }
            return Ok(());
        }
        let listener = self.slots[slot].accepted() as usize;
        ctx.limiter.commit();
        ctx.stats.accepted += 1;
        let accepted = Origin::Accepted {
            listener,
            peer,
            local: ctx.listener_addresses.get(listener).copied().flatten(),
        };
        self.on_open(ctx, slot, None, accepted)
    }

    /// An attempt ended: the bind failed, or the connect did or did not.
    pub(super) fn on_connect(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        result: i32,
        op: Op,
    ) -> Result<(), Error> {
        self.wheel.clear(&mut self.slots, slot);
        ctx.stats.connecting_now -= 1;
        let attempts = &mut ctx.recorder.thread.attempts;
        let id = attempts.displace((self.number, slot));
        let attempt = id.and_then(|id| attempts.get_mut(id)).copied();
        let is_cancelled = attempt.is_some_and(|attempt| attempt.is_cancelled);
        let earlier = self.slots[slot].dial_failure();
        if result >= 0 && earlier.is_none() && !is_cancelled {
            if let Some(id) = id {
                attempts.remove(id);
            }
            self.slots[slot].connected();
            ctx.stats.opened += 1;
            let dialled = id.zip(attempt.map(|attempt| attempt.dial));
            self.on_open(ctx, slot, dialled, Origin::Unknown)?;
            if self.slots[slot].phase() == Phase::Open {
                self.tell_opened(slot, attempt.is_some_and(|attempt| attempt.dial.delays_ack));
            }
            return Ok(());
        }
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
        let target = match (attempt, &ctx.tuples) {
            (Some(attempt), _) => Some(attempt.dial.target),
            (None, Some(tuples)) => Some(tuples.addresses(own_tuple).1),
            (None, None) => None,
        };
        let has_tuple = self.slots[slot].has_tuple();
        let id = id.unwrap_or_else(|| {
            let tuples = ctx.tuples.as_ref().filter(|_| has_tuple);
            DialId::planned(tuples.map_or(0, |tuples| tuples.group(own_tuple)))
        });
        let failure = earlier.unwrap_or_else(|| match (op, -result) {
            _ if is_cancelled => OpenFailure::Cancelled,
            // A blackhole route.
            (Op::Connect, libc::EINVAL) => OpenFailure::Unreachable,
            // No port is left to the target.
            (Op::Connect, libc::EADDRNOTAVAIL) => OpenFailure::AddrExhausted,
            (_, errno) => OpenFailure::from_errno(errno),
        });
        self.release(ctx, slot, PartnerEnd::OpenFailed(failure));
        if is_taken && !is_cancelled && has_tuple {
            ctx.stats.address_in_use += 1;
            ctx.redial.push((id, state));
            return Ok(());
        }
        ctx.fail(id, &state, failure, target);
        Ok(())
    }

    /// `dialled`: the attempt, if it had an id; `accepted`: where it was accepted.
    fn on_open(
        &mut self,
        ctx: &mut CoreContext<'_, H>,
        slot: u32,
        dialled: Option<(DialId, Dial)>,
        accepted: Origin<'_>,
    ) -> Result<(), Error> {
        ctx.stats.open_now += 1;
        ctx.stats.open_max = ctx.stats.open_max.max(ctx.stats.open_now);
        self.newest = self.newest.max(slot + 1);
        let id = self.id(ctx, slot);
        let entry = &self.slots[slot];
        let planned = ctx.tuples.as_ref().filter(|_| entry.has_tuple());
        let origin = match (dialled, planned) {
            (Some((dial, Dial { target, source, .. })), _) => Origin::Dialled {
                dial,
                source: match source {
                    Source::Kernel => None,
                    Source::Addr(source) | Source::Transparent(source) => {
                        (source.port() != 0).then_some(source)
                    }
                    Source::Plan => planned.map(|tuples| tuples.addresses(entry.tuple).0),
                },
                target,
            },
            (None, Some(tuples)) => Origin::Planned(tuples, entry.tuple),
            (None, None) => accepted,
        };
        let link = self.link_of(ctx, slot);
        let entry = &mut self.slots[slot];
        let mut conn = Conn::new(&mut entry.state, ctx.now_us, false, &mut ctx.recorder)
            .with_id(id)
            .with_link(link)
            .with_origin(origin);
        ctx.has_called = true;
        ctx.handler.on_open(&mut conn);
        let actions = conn.into_actions();
        self.perform(ctx, slot, actions, false)?;
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
