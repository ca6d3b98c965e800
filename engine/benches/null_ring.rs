//! A ring without a kernel: what is pushed is done at the next `enter`, and only what fails or is
//! waited for completes.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::Duration;

use holdfast_engine::SetupError;
use holdfast_engine::internals::{AtHand, Completion, Op, Request, Ring, Staged, Token};

/// Connections that wait at the one listener, and what peers do with what they are sent.
#[derive(Debug, Default)]
pub struct NullRing {
    /// Connections not accepted yet.
    waiting: u32,
    /// Peers take nothing: every send comes back with EAGAIN.
    is_stalled: bool,
    now_us: u64,
    queued: Vec<Completion>,
    done: VecDeque<Completion>,
    is_dirty: bool,
    staging: Vec<u8>,
    staged_bytes: [usize; 2],
}

impl NullRing {
    /// A ring whose listener has `waiting` connections, and whose peers take what they are sent or
    /// nothing.
    pub fn new(waiting: u32, is_stalled: bool) -> Self {
        NullRing {
            waiting,
            is_stalled,
            ..NullRing::default()
        }
    }
}

const STAGING_BYTES: usize = 1 << 20;

impl Ring for NullRing {
    fn push(&mut self, token: Token, request: Request) -> Result<(), SetupError> {
        self.is_dirty = true;
        let result = match request {
            Request::Accept { .. } => {
                self.waiting -= 1;
                0
            }
            Request::SendStatic { .. } | Request::SendStaged { .. } if self.is_stalled => {
                -libc::EAGAIN
            }
            Request::PollListener { .. } if self.waiting > 0 => 1,
            _ => return Ok(()),
        };
        self.queued.push(Completion {
            token,
            result,
            buffer: None,
            has_more: false,
            has_left: false,
        });
        Ok(())
    }

    fn wants_enter(&self) -> bool {
        self.is_dirty
    }

    fn submit(&mut self, _wait: Option<Duration>) -> Result<bool, SetupError> {
        self.is_dirty = false;
        self.done.extend(self.queued.drain(..));
        Ok(true)
    }

    fn now_us(&self) -> u64 {
        self.now_us
    }

    fn has_completion(&self) -> bool {
        !self.done.is_empty()
    }

    fn at_hand(&mut self) -> AtHand {
        let mut ops = self.done.iter().map(|c| c.token.op());
        AtHand {
            count: self.done.len(),
            has_send: ops.any(|op| op == Op::Send),
            is_overflowing: false,
        }
    }

    fn reap(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }

    fn bytes(&self, _buffer: u16, _length: usize) -> &[u8] {
        unreachable!("nothing is received")
    }

    fn recycle(&mut self, _buffer: u16) {}

    fn add_buffers(&mut self) -> u16 {
        0
    }

    fn reserve(&mut self, _count: usize) -> Result<(), SetupError> {
        Ok(())
    }

    fn trim(&mut self) {}

    fn stage(&mut self, half: usize, bytes: &[u8]) -> Option<Staged> {
        self.staging.resize(2 * STAGING_BYTES, 0);
        let from = self.staged_bytes[half];
        if from + bytes.len() > STAGING_BYTES {
            return None;
        }
        let offset = half * STAGING_BYTES + from;
        self.staging[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.staged_bytes[half] += bytes.len();
        Some(Staged {
            offset: offset as u32,
            length: bytes.len() as u32,
        })
    }

    fn staged(&self, staged: Staged) -> &[u8] {
        &self.staging[staged.offset as usize..][..staged.length as usize]
    }

    fn unstage(&mut self, half: usize) {
        self.staged_bytes[half] = 0;
    }

    fn accept_queue_len(&self, _listener: RawFd) -> u32 {
        self.waiting
    }

    fn is_overflowing(&self) -> bool {
        false
    }

    fn overflow_count(&self) -> u64 {
        0
    }
}
