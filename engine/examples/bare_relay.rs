//! The floor of a TCP relay: one thread and one ring that move bytes between two sockets of a pair. No slots, no timers, no accounts, no
//! back-pressure beyond the sockets' own: a peer that does not take what is sent ends its pair.
//!
//! `bare_relay LISTEN TARGET`; prints `listening` when it does, ends on SIGTERM. Place `2n` of the table is the accepted side of a pair,
//! `2n + 1` the dialled one.
//! Invariants: a pair's places are free only when both closes are queued; what takes them next is queued later. A receive buffer goes
//! back after the entry that submitted the send from it.
//! Must not depend on: the engine's shards, slots, handlers.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use holdfast_engine::internals::{Completion, KernelRing, Op, Received, Request, Ring, Token};
use holdfast_engine::{Config, SetupError, listen::listeners};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const SLOTS: u32 = 16_384;

struct Relay {
    ring: KernelRing,
    listener: RawFd,
    target: SocketAddr,
    /// Free pairs, by the place of their accepted side.
    free: Vec<u32>,
    /// Generations tell late completions of earlier pairs.
    generations: Vec<u32>,
    /// Buffers that sends of this entry read.
    lent: Vec<u16>,
}

impl Relay {
    fn token(&self, op: Op, slot: u32) -> Token {
        Token::new(op, slot, self.generations[slot as usize / 2])
    }

    fn accept(&mut self) -> Result<(), SetupError> {
        let listener = self.listener;
        for _ in 0..self.ring.accept_queue_len(listener) {
            let Some(slot) = self.free.pop() else { break };
            let request = Request::Accept {
                listener,
                slot,
                tells_peer: false,
            };
            self.ring.push(self.token(Op::Accept, slot), request)?;
        }
        let token = Token::new(Op::PollListener, 0, 0);
        self.ring.push(token, Request::PollListener { listener })
    }

    fn dial(&mut self, slot: u32) -> Result<(), SetupError> {
        let target = self.target;
        let is_ipv6 = target.is_ipv6();
        self.ring.push(
            self.token(Op::Socket, slot),
            Request::Socket { slot, is_ipv6 },
        )?;
        self.ring.push(
            self.token(Op::Connect, slot),
            Request::Connect { slot, target },
        )
    }

    fn end(&mut self, slot: u32) -> Result<(), SetupError> {
        let first = slot & !1;
        for slot in [first, first + 1] {
            let token = self.token(Op::Recv, slot);
            let cancel = self.token(Op::Cancel, slot);
            self.ring.push(cancel, Request::Cancel { token })?;
            self.ring
                .push(self.token(Op::Close, slot), Request::Close { slot })?;
        }
        self.generations[first as usize / 2] += 1;
        self.free.push(first);
        Ok(())
    }

    fn complete(&mut self, completion: Completion) -> Result<(), SetupError> {
        let Completion {
            token,
            result,
            buffer,
            has_more,
            ..
        } = completion;
        let slot = token.slot();
        if token.op() == Op::PollListener {
            return self.accept();
        }
        if token.generation() != self.generations[slot as usize / 2] {
            if let Some(buffer) = buffer {
                self.ring.recycle(buffer);
            }
            return Ok(());
        }
        match (token.op(), result) {
            (Op::Accept, 0..) => self.dial(slot + 1),
            (Op::Accept, _) => {
                self.free.push(slot);
                Ok(())
            }
            (Op::Connect, 0..) => [slot - 1, slot].into_iter().try_for_each(|slot| {
                self.ring
                    .push(self.token(Op::Recv, slot), Request::RecvMultishot { slot })
            }),
            (Op::Recv, 1..) => {
                let buffer = buffer.expect("received bytes lie in a buffer");
                let received = Received {
                    buffer,
                    offset: 0,
                    length: result as u32,
                };
                self.lent.push(buffer);
                let other = slot ^ 1;
                let send = Request::SendReceived {
                    slot: other,
                    received,
                };
                self.ring.push(self.token(Op::Send, other), send)?;
                if !has_more {
                    self.ring
                        .push(self.token(Op::Recv, slot), Request::RecvMultishot { slot })?;
                }
                Ok(())
            }
            (Op::Cancel | Op::Close, _) => Ok(()),
            // An end, an error, or a peer that does not take what is sent.
            _ => self.end(slot),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut addresses = std::env::args().skip(1);
    let (Some(listen), Some(target)) = (addresses.next(), addresses.next()) else {
        return Err("an address is missing; next: bare_relay 127.0.0.1:7777 127.0.0.1:80".into());
    };
    let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?;
    let slots = SLOTS.min(limit as u32) & !1;
    let (own, _) = listeners(&[listen.parse()?], 1, None)?;
    let config = Config::builder()
        .ring_slots(slots)
        .buffer_bytes(16_384)
        .buffer_count_max(1_024)
        .staging_bytes(4_096)
        .build()?;
    let mut relay = Relay {
        ring: KernelRing::without_waker(&config, Instant::now())?,
        listener: own[0][0].as_raw_fd(),
        target: target.parse()?,
        free: (0..slots / 2).rev().map(|pair| pair * 2).collect(),
        generations: vec![0; slots as usize / 2],
        lent: Vec::new(),
    };
    while relay.ring.add_buffers() > 0 {}
    println!("listening");
    relay.accept()?;
    loop {
        relay.ring.enter(Some(Duration::MAX))?;
        for buffer in std::mem::take(&mut relay.lent) {
            relay.ring.recycle(buffer);
        }
        while let Some(completion) = relay.ring.reap() {
            relay.complete(completion)?;
        }
    }
}
