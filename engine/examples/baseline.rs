//! The baseline of an HTTP responder: one thread and one ring that receive and send a constant response, without looking at what
//! came. What it costs is the kernel's; what a real responder costs beyond it is its own.
//!
//! `baseline --listen 127.0.0.1:PORT [--mode keepalive|close] [--pipeline N]`; prints `listening` when it does, ends on SIGTERM.
//! `--pipeline N` answers each receive with N responses: the generator must send N requests in one write. In
//! mode `close` the response and the end leave in one segment.
//!
//! A loop is one entry into the kernel: it submits what the last completions caused and waits for the next. In mode `close` the
//! receive is submitted behind the accept, unseen whether that takes a connection, since requests start in order.
//! Invariants: a place in the table is free only when its close is queued; what takes it next is queued later.
//! Must not depend on: the engine's shards, slots, handlers, and HTTP.

use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use holdfast_engine::internals::{Completion, KernelRing, Op, Request, Ring, Token};
use holdfast_engine::{Config, SetupError, listen::listeners};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const SLOTS: u32 = 16_384;
struct Baseline {
    ring: KernelRing,
    listener: RawFd,
    free: Vec<u32>,
    is_listening: bool,
    answer: &'static [u8],
    closes: bool,
}

impl Baseline {
    /// Takes what waits, and waits for more.
    fn accept(&mut self) -> Result<(), SetupError> {
        let listener = self.listener;
        for _ in 0..self.ring.accept_queue_len(listener) {
            let Some(slot) = self.free.pop() else { break };
            self.ring.push(
                Token::new(Op::Accept, slot, 0),
                Request::Accept {
                    listener,
                    slot,
                    tells_peer: false,
                },
            )?;
            if self.closes {
                self.receive(slot)?;
            }
        }
        self.is_listening = !self.free.is_empty();
        if self.is_listening {
            let token = Token::new(Op::PollListener, 0, 0);
            self.ring.push(token, Request::PollListener { listener })?;
        }
        Ok(())
    }

    fn receive(&mut self, slot: u32) -> Result<(), SetupError> {
        let request = if self.closes {
            Request::RecvOneshot { slot }
        } else {
            Request::RecvMultishot { slot }
        };
        self.ring.push(Token::new(Op::Recv, slot, 0), request)
    }

    fn end(&mut self, slot: u32) -> Result<(), SetupError> {
        self.free.push(slot);
        self.ring
            .push(Token::new(Op::Close, slot, 0), Request::Close { slot })?;
        // With every place taken nobody listened any more.
        if !self.is_listening {
            return self.accept();
        }
        Ok(())
    }

    fn complete(&mut self, completion: Completion) -> Result<(), SetupError> {
        let slot = completion.token.slot();
        match completion.token.op() {
            Op::PollListener => self.accept(),
            Op::Accept if completion.result < 0 => {
                self.free.push(slot);
                Ok(())
            }
            Op::Accept if self.closes => Ok(()),
            Op::Accept => self.receive(slot),
            Op::Recv => self.answer(completion),
            // A peer that does not take what is sent has no place in a measurement: its receive brings the end.
            Op::Send => {
                let token = Token::new(Op::Recv, slot, 0);
                let cancel = Token::new(Op::Cancel, slot, 0);
                self.ring.push(cancel, Request::Cancel { token })
            }
            // The rest is silent unless it fails, and fails only on a connection that is gone.
            _ => Ok(()),
        }
    }

    fn answer(&mut self, completion: Completion) -> Result<(), SetupError> {
        let slot = completion.token.slot();
        if let Some(buffer) = completion.buffer {
            self.ring.recycle(buffer);
        }
        match completion.result {
            1.. => {
                let bytes = self.answer;
                self.ring.push(
                    Token::new(Op::Send, slot, 0),
                    Request::SendStatic {
                        slot,
                        bytes,
                        is_last: self.closes,
                    },
                )?;
                if self.closes {
                    self.end(slot)
                } else if !completion.has_more {
                    self.receive(slot)
                } else {
                    Ok(())
                }
            }
            result if result == -libc::ENOBUFS => {
                self.ring.add_buffers();
                self.receive(slot)
            }
            // The accept before it took nothing.
            result if result == -libc::EBADF => Ok(()),
            _ => self.end(slot),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut address, mut closes, mut pipeline) = (None, false, 1_usize);
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let mut value = || words.next().ok_or(format!("{flag} wants a value"));
        match flag.as_str() {
            "--listen" => address = Some(value()?.parse()?),
            "--pipeline" => pipeline = value()?.parse::<usize>()?.clamp(1, 1_000),
            "--mode" => match value()?.as_str() {
                "keepalive" => closes = false,
                "close" => closes = true,
                _ => return Err("--mode is keepalive or close".into()),
            },
            _ => return Err(format!("{flag}: no such flag; see the head of baseline.rs").into()),
        }
    }
    let address = address.ok_or("--listen 127.0.0.1:PORT is wanted")?;

    // A table has at most as many places as the process may have descriptors.
    let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?;
    let slots = SLOTS.min(limit as u32);
    let (own, _) = listeners(&[address], 1, None).map_err(|e| e.to_string())?;
    let listener = &own[0][0];
    let config = Config::builder()
        .ring_slots(slots)
        .buffer_count_max(4_096)
        .staging_bytes(4_096)
        .build()?;
    let head =
        "HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 18:00:00 GMT\r\nContent-Type: text/plain\r\n";
    let connection = if closes { "Connection: close\r\n" } else { "" };
    let answer = format!("{head}Content-Length: 2\r\n{connection}\r\nok").repeat(pipeline);
    let mut baseline = Baseline {
        ring: KernelRing::without_waker(&config, Instant::now())?,
        listener: listener.as_raw_fd(),
        free: (0..slots).rev().collect(),
        is_listening: false,
        answer: Box::leak(answer.into_bytes().into_boxed_slice()),
        closes,
    };
    println!("listening");
    baseline.accept()?;
    loop {
        baseline.ring.enter(Some(Duration::MAX))?;
        while let Some(completion) = baseline.ring.reap() {
            baseline.complete(completion)?;
        }
    }
}
