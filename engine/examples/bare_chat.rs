//! The baseline of a chat server: the least a program can do to hold N connections and to send what one of them sends to all of them. One
//! thread, rings of as many places as the descriptor limit allows, and a `SEND` for each connection from one buffer. No slots, no lines, no
//! timers, no turns shared with anything else. A member that does not take what is sent ends the program.
//!
//! `bare_chat LISTEN`; prints `listening` when it does, ends on SIGTERM.
//! Invariants: a place in a ring's table is never used twice, so no completion is of an earlier connection.
//! Must not depend on: the engine's shards, slots, handlers.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_engine::internals::{Completion, KernelRing, Op, Request, Ring, Token};
use holdfast_engine::{Config, SetupError, listen::listeners};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Places of one ring at most.
const SLOTS_MAX: u64 = 20_000;
const ACCEPTS: u32 = 256;
/// How long the rings are asked in turn when there is more than one, as the engine gathers work.
const REST: Duration = Duration::from_millis(1);

struct Chat {
    config: Config,
    rings: Vec<KernelRing>,
    /// Which places of each ring hold a connection.
    members: Vec<Vec<u32>>,
    /// Places that the newest ring has given away.
    used: u32,
    listener: RawFd,
    started_at: Instant,
}

impl Chat {
    fn add_ring(&mut self) -> Result<(), SetupError> {
        let mut ring = KernelRing::without_waker(&self.config, self.started_at)?;
        while ring.add_buffers() > 0 {}
        self.rings.push(ring);
        self.members.push(Vec::new());
        self.used = 0;
        Ok(())
    }

    fn accept(&mut self) -> Result<(), SetupError> {
        let listener = self.listener;
        let waiting = self.rings[0].accept_queue_len(listener).min(ACCEPTS);
        for _ in 0..waiting {
            if self.used == self.config.ring_slots() {
                self.add_ring()?;
            }
            let slot = self.used;
            self.used += 1;
            let newest = self.rings.last_mut().expect("there is one");
            let request = Request::Accept {
                listener,
                slot,
                tells_peer: false,
            };
            newest.push(Token::new(Op::Accept, slot, 0), request)?;
        }
        let token = Token::new(Op::PollListener, 0, 0);
        self.rings[0].push(token, Request::PollListener { listener })
    }

    fn poll(&mut self, ring: usize, slot: u32) -> Result<(), SetupError> {
        let writable = false;
        self.rings[ring].push(
            Token::new(Op::Poll, slot, 0),
            Request::Poll { slot, writable },
        )
    }

    fn send_to_all(&mut self, bytes: &[u8]) -> Result<(), SetupError> {
        let bytes: Arc<[u8]> = bytes.into();
        for (ring, members) in self.rings.iter_mut().zip(&self.members) {
            let number = ring.share(0, &bytes);
            let shared = holdfast_engine::internals::Shared {
                number,
                length: bytes.len() as u32,
                offset: 0,
            };
            for slot in members.iter().copied() {
                let is_last = false;
                ring.push(
                    Token::new(Op::Send, slot, 0),
                    Request::SendShared {
                        slot,
                        shared,
                        is_last,
                    },
                )?;
            }
            // Every send has finished when the ring was entered.
            ring.enter(None)?;
            ring.unstage(0);
        }
        Ok(())
    }

    fn complete(&mut self, ring: usize, completion: Completion) -> Result<(), SetupError> {
        let (slot, result) = (completion.token.slot(), completion.result);
        match (completion.token.op(), result) {
            (Op::PollListener, _) => self.accept(),
            (Op::Accept, 0..) => {
                self.members[ring].push(slot);
                self.poll(ring, slot)
            }
            (Op::Accept, _) => Ok(()),
            (Op::Poll, 0..) => {
                self.rings[ring].push(Token::new(Op::Recv, slot, 0), Request::Recv { slot })
            }
            (Op::Recv, 1..) => {
                let buffer = completion.buffer.expect("received bytes lie in a buffer");
                let bytes = self.rings[ring].bytes(buffer, result as usize).to_vec();
                self.rings[ring].recycle(buffer);
                self.poll(ring, slot)?;
                self.send_to_all(&bytes)
            }
            (Op::Send, _) => panic!("a member does not take what is sent: {result}"),
            // An end or an error.
            _ => {
                self.members[ring].retain(|member| *member != slot);
                self.rings[ring].push(Token::new(Op::Close, slot, 0), Request::Close { slot })
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(address) = std::env::args().nth(1) else {
        return Err("an address is missing; next: bare_chat 127.0.0.1:7777".into());
    };
    let address: SocketAddr = address.parse()?;
    let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?;
    let (own, _) = listeners(&[address], 1, None)?;
    let config = Config::builder()
        .ring_slots(SLOTS_MAX.min(limit) as u32)
        .staging_bytes(4_096)
        .build()?;
    let mut chat = Chat {
        config,
        rings: Vec::new(),
        members: Vec::new(),
        used: 0,
        listener: own[0][0].as_raw_fd(),
        started_at: Instant::now(),
    };
    chat.add_ring()?;
    println!("listening");
    chat.accept()?;
    loop {
        for ring in 0..chat.rings.len() {
            // With one ring there is nothing else to look after.
            let wait = (chat.rings.len() == 1).then_some(Duration::MAX);
            if wait.is_some() || chat.rings[ring].wants_enter() {
                chat.rings[ring].enter(wait)?;
            }
            while let Some(completion) = chat.rings[ring].reap() {
                chat.complete(ring, completion)?;
            }
        }
        if chat.rings.len() > 1 && !chat.rings.iter().any(Ring::wants_enter) {
            std::thread::sleep(REST);
        }
    }
}
