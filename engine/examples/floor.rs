//! The floor under an HTTP responder: EXPERIMENT
#![allow(unsafe_code)]
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use holdfast_engine::ring::{Completion, Request, Ring};
use holdfast_engine::token::{Op, Token};
use holdfast_engine::{Config, Error, KernelRing, listen::listeners};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

struct Floor {
    ring: KernelRing,
    listener: RawFd,
    free: Vec<u32>,
    batch: u32,
    taken: u32,
    answer: &'static [u8],
    close: bool,
    stream: bool,
    eager: bool,
}

fn token(op: Op, slot: u32) -> Token {
    Token::new(op, slot, 0)
}

impl Floor {
    fn accept(&mut self) -> Result<(), Error> {
        if self.stream {
            return self.ring.push(
                token(Op::Listen, 0),
                Request::AcceptStream {
                    listener: self.listener,
                },
            );
        }
        self.taken = 0;
        for i in 0..self.batch {
            let Some(slot) = self.free.pop() else { break };
            self.ring.push(
                Token::new(Op::Accept, slot, u32::from(i + 1 == self.batch)),
                Request::Accept {
                    listener: self.listener,
                    slot,
                },
            )?;
            if self.eager {
                self.receive(slot)?;
            }
        }
        Ok(())
    }

    fn receive(&mut self, slot: u32) -> Result<(), Error> {
        let request = if self.close {
            Request::RecvNext { slot }
        } else {
            Request::RecvStream { slot }
        };
        self.ring.push(token(Op::Recv, slot), request)
    }

    fn on(&mut self, c: Completion) -> Result<(), Error> {
        let slot = c.token.slot();
        match c.token.op() {
            Op::Listen if self.stream => {
                if c.result >= 0 {
                    self.receive(c.result as u32)?;
                }
                if !c.has_more {
                    self.accept()?;
                }
                Ok(())
            }
            Op::Listen => self.accept(),
            Op::Accept => {
                if c.result >= 0 {
                    self.taken += 1;
                    if !self.eager {
                        self.receive(slot)?;
                    }
                } else {
                    self.free.push(slot);
                }
                if c.token.generation() == 1 {
                    if self.taken == self.batch {
                        self.batch = (self.batch * 2).min(64);
                        return self.accept();
                    }
                    self.batch = (self.taken + 1).max(2);
                    return self.ring.push(
                        token(Op::Listen, 0),
                        Request::Listen {
                            listener: self.listener,
                        },
                    );
                }
                Ok(())
            }
            Op::Recv => {
                if let Some(buffer) = c.buffer {
                    self.ring.recycle(buffer);
                }
                if c.result > 0 {
                    self.ring.push(
                        token(Op::Send, slot),
                        Request::SendStatic {
                            slot,
                            bytes: self.answer,
                        },
                    )?;
                    if self.close {
                        return self.end(slot);
                    }
                    if !c.has_more {
                        return self.receive(slot);
                    }
                    return Ok(());
                }
                if c.result == -libc::ENOBUFS {
                    self.ring.add_buffers();
                    return self.receive(slot);
                }
                if c.result == -libc::EBADF {
                    return Ok(());
                }
                self.end(slot)
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self, slot: u32) -> Result<(), Error> {
        if !self.stream {
            self.free.push(slot);
        }
        self.ring
            .push(token(Op::Close, slot), Request::Close { slot })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let has = |f: &str| args.iter().any(|a| a == f);
    let value = |f: &str| {
        args.iter()
            .position(|a| a == f)
            .map(|i| args[i + 1].clone())
    };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let address = value("--listen").unwrap().parse()?;
    let pipeline: usize = value("--pipeline").map_or(1, |v| v.parse().unwrap());
    let close = has("--close");
    let connection = if close { "Connection: close\r\n" } else { "" };
    let answer = format!("HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 18:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n{connection}\r\nok").repeat(pipeline);
    let (own, _) = listeners(&[address], 1, None).map_err(|e| format!("{e:?}"))?;
    let fd = &own[0][0];
    if has("--cork") {
        socket2::SockRef::from(fd).set_tcp_cork(true)?;
    }
    if has("--defer") {
        let one = 1i32;
        unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_DEFER_ACCEPT,
                (&raw const one).cast(),
                4,
            )
        };
    }
    let config = Config {
        ring_slots: 16_384,
        buffer_bytes: 2_048,
        buffer_count_max: 1_024,
        staging_bytes: 4096,
        ..Config::default()
    };
    let ring = if has("--bell") {
        Err(Error::new("", ""))
    } else {
        KernelRing::without_bell(&config, Instant::now())
    }?;
    let mut f = Floor {
        ring,
        listener: fd.as_raw_fd(),
        free: (0..16_384).rev().collect(),
        batch: 4,
        taken: 0,
        answer: Box::leak(answer.into_bytes().into_boxed_slice()),
        close,
        stream: has("--stream"),
        eager: has("--eager"),
    };
    println!("listening");
    f.accept()?;
    let forever = if has("--timed") {
        Duration::from_secs(1)
    } else {
        Duration::MAX
    };
    loop {
        f.ring.enter(Some(forever))?;
        while let Some(c) = f.ring.reap() {
            f.on(c)?;
        }
    }
}
