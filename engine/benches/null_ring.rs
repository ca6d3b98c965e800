//! A ring without a kernel: what is pushed is done at the next `enter`, and only what fails or is
//! waited for completes.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use holdfast_engine::SetupError;
use holdfast_engine::internals::{
    AtHand, Completion, Op, Request, Ring, SharedBuffers, Staged, Token,
};

/// Connections that wait at the one listener, and what peers do with what they are sent.
#[derive(Debug, Default)]
pub struct NullRing {
    /// Connections not accepted yet.
    waiting: u32,
    /// Peers take nothing: every send comes back with EAGAIN.
    is_stalled: bool,
    /// Peers answer each send with a byte; counts the sends.
    answered: Option<Arc<AtomicU32>>,
    /// Receives that wait, by slot, and whether they go on.
    receives: HashMap<u32, (Token, bool)>,
    /// Slots that were sent something and are not answered yet.
    unanswered: Vec<u32>,
    /// Goes on by a microsecond each time it is read.
    clock_us: Cell<u64>,
    queued: Vec<Completion>,
    done: VecDeque<Completion>,
    is_dirty: bool,
    staging: Vec<u8>,
    staged_bytes: [usize; 2],
    shared: SharedBuffers,
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

    /// A ring whose listener has `waiting` connections, and whose peers answer everything they are
    /// sent with a byte. `sends` counts what they are sent.
    pub fn answering(waiting: u32, sends: Arc<AtomicU32>) -> Self {
        NullRing {
            waiting,
            answered: Some(sends),
            clock_us: Cell::new(1_000_000),
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
            Request::SendStatic { .. }
            | Request::SendStaged { .. }
            | Request::SendShared { .. }
            | Request::SendReceived { .. }
                if self.is_stalled =>
            {
                -libc::EAGAIN
            }
            Request::SendStatic { slot, .. }
            | Request::SendStaged { slot, .. }
            | Request::SendShared { slot, .. }
            | Request::SendReceived { slot, .. } => {
                if let Some(sends) = &self.answered {
                    sends.fetch_add(1, Ordering::Relaxed);
                    self.unanswered.push(slot);
                }
                return Ok(());
            }
            Request::RecvOneshot { slot } => {
                self.receives.insert(slot, (token, false));
                return Ok(());
            }
            Request::RecvMultishot { slot } => {
                self.receives.insert(slot, (token, true));
                return Ok(());
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
        let receives = &mut self.receives;
        self.unanswered.retain(|slot| {
            let Some(&(token, has_more)) = receives.get(slot) else {
                return true;
            };
            if !has_more {
                receives.remove(slot);
            }
            self.done.push_back(Completion {
                token,
                result: 1,
                buffer: Some(0),
                has_more,
                has_left: false,
            });
            false
        });
        Ok(true)
    }

    fn now_us(&self) -> u64 {
        self.clock_us.set(self.clock_us.get() + 1);
        self.clock_us.get()
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

    fn bytes(&self, _buffer: u16, length: usize) -> &[u8] {
        &b"x"[..length]
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

    fn share(&mut self, half: usize, buffer: &Arc<[u8]>) -> u32 {
        self.shared.keep(half, buffer)
    }

    fn shared(&self, number: u32) -> &Arc<[u8]> {
        self.shared.get(number)
    }

    fn unstage(&mut self, half: usize) {
        self.shared.empty(half);
        self.staged_bytes[half] = 0;
    }

    fn take_peer(&mut self, _slot: u32) -> Option<std::net::SocketAddr> {
        None
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
