//! Canaries: engines broken on purpose, to see that the simulator notices.
//!
//! Each breaks what passes between the shard and its ring, or between the shard and its handler, as a shard with that mistake would. So
//! the mistakes are made outside the engine, and its code has no switch for them: nothing a build could leave on by accident,
//! nothing on the hot path. Without a canary everything passes through.
//! Must not know: how a mistake is noticed.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::Duration;

use super::ring::SimRing;
use crate::error::Error;
use crate::ring::{AtHand, Completion, Request, Ring, Staged};
use crate::shard::audit::Books;
use crate::token::{Op, Token};

macro_rules! canaries {
    ($($(#[doc = $doc:literal])* $name:ident $label:literal,)*) => {
        /// A mistake.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Canary { $($(#[doc = $doc])* $name,)* }

        impl Canary {
            /// Every one.
            pub const ALL: &'static [Canary] = &[$(Canary::$name,)*];
            /// Its name.
            pub fn label(self) -> &'static str {
                match self { $(Canary::$name => $label,)* }
            }
            /// What it does.
            pub fn describe(self) -> &'static str {
                match self { $(Canary::$name => concat!($($doc),*).trim_ascii(),)* }
            }
        }
    };
}

canaries! {
    /// A receive buffer is given back before the handler has read it.
    RecycledEarly "recycled_early",
    /// A receive buffer is not given back.
    BufferLeaked "buffer_leaked",
    /// Generations are not compared.
    GenerationIgnored "generation_ignored",
    /// A connection is closed without awaiting what is in flight.
    CloseUnawaited "close_unawaited",
    /// A slot is used again without awaiting its shutdown.
    ShutdownUnawaited "shutdown_unawaited",
    /// A poll is not armed again.
    PollLost "poll_lost",
    /// A receive is not armed again.
    RecvLost "recv_lost",
    /// A send that came short counts as whole.
    ShortSendUnheard "short_send_unheard",
    /// A send is submitted twice.
    SendRepeated "send_repeated",
    /// Staged bytes are given up while requests use them.
    UnstagedEarly "unstaged_early",
    /// An attempt that met a taken address is forgotten.
    RedialLost "redial_lost",
    /// An attempt that failed is not told.
    FailureUntold "failure_untold",
    /// A cancel is not submitted.
    CancelLost "cancel_lost",
    /// A timer is filed too early.
    TimerEarly "timer_early",
    /// A timer is filed too late.
    TimerLate "timer_late",
    /// The deadline that counts is the one `on_turn` gave a turn before.
    DeadlineStale "deadline_stale",
    /// Bytes are handed over twice.
    BytesRepeated "bytes_repeated",
    /// The rest of a queue that was submitted in part counts as submitted.
    RestUnsubmitted "rest_unsubmitted",
}

/// A ring with a shard's mistake between them, if there is one.
pub struct Broken {
    inner: SimRing,
    canary: Option<Canary>,
    /// Completions made up.
    made_up: VecDeque<Completion>,
    /// Tokens whose real completion is not to be seen.
    unseen: Vec<Token>,
    /// Buffers given back already.
    given_back: Vec<u16>,
    /// By slot, the life that was begun last.
    generations: Vec<u32>,
    count: u64,
}

impl Broken {
    /// A ring with a mistake before it, or none.
    pub fn new(inner: SimRing, canary: Option<Canary>) -> Self {
        Broken {
            generations: vec![0; inner.pages.len()],
            inner,
            canary,
            made_up: VecDeque::new(),
            unseen: Vec::new(),
            given_back: Vec::new(),
            count: 0,
        }
    }

    /// The ring itself.
    pub(super) fn inner(&self) -> &SimRing {
        &self.inner
    }

    fn is(&self, canary: Canary) -> bool {
        self.canary == Some(canary)
    }

    /// True for every `times`-th chance of a canary to make its mistake.
    fn errs(&mut self, canary: Canary, times: u64) -> bool {
        if !self.is(canary) {
            return false;
        }
        self.count += 1;
        self.count.is_multiple_of(times)
    }

    /// Completes a request before it is done.
    fn make_up(&mut self, token: Token, result: i32) {
        self.unseen.push(token);
        self.made_up.push_back(Completion {
            token,
            result,
            buffer: None,
            has_more: false,
            has_left: false,
        });
    }
}

impl Ring for Broken {
    fn push(&mut self, token: Token, request: Request) -> Result<(), Error> {
        match request {
            Request::Accept { slot, .. } | Request::Socket { slot, .. } => {
                self.generations[slot as usize] = token.generation();
            }
            Request::Poll {
                writable: false, ..
            } if self.errs(Canary::PollLost, 8) => {
                return Ok(());
            }
            Request::RecvOneshot { .. } | Request::RecvMultishot { .. }
                if self.errs(Canary::RecvLost, 8) =>
            {
                return Ok(());
            }
            Request::Cancel { token: other } => {
                if self.errs(Canary::CancelLost, 2) {
                    return Ok(());
                }
                if other.op() != Op::Connect && self.is(Canary::CloseUnawaited) {
                    self.make_up(other, -libc::ECANCELED);
                }
            }
            Request::Shutdown { .. } if self.is(Canary::ShutdownUnawaited) => {
                self.make_up(token, 0);
            }
            Request::SendStatic { .. } | Request::SendStaged { .. }
                if self.errs(Canary::SendRepeated, 16) =>
            {
                self.inner.push(token, request)?;
            }
            _ => {}
        }
        self.inner.push(token, request)
    }

    fn wants_enter(&self) -> bool {
        self.inner.wants_enter()
    }

    fn submit(&mut self, wait: Option<Duration>) -> Result<bool, Error> {
        let is_empty = self.inner.submit(wait)?;
        Ok(is_empty || self.is(Canary::RestUnsubmitted))
    }

    fn now_us(&self) -> u64 {
        self.inner.now_us()
    }

    fn has_completion(&self) -> bool {
        !self.made_up.is_empty() || self.inner.has_completion()
    }

    fn at_hand(&mut self) -> AtHand {
        let mut at_hand = self.inner.at_hand();
        at_hand.count += self.made_up.len();
        at_hand
    }

    fn reap(&mut self) -> Option<Completion> {
        if let Some(completion) = self.made_up.pop_front() {
            return Some(completion);
        }
        loop {
            let mut completion = self.inner.reap()?;
            let Completion { token, result, .. } = completion;
            if !completion.has_more
                && let Some(place) = self.unseen.iter().position(|t| *t == token)
            {
                self.unseen.swap_remove(place);
                if let Some(buffer) = completion.buffer {
                    self.inner.recycle(buffer);
                }
                continue;
            }
            if token.op() == Op::Send && self.errs(Canary::ShortSendUnheard, 4) {
                continue;
            }
            let is_taken = token.op() == Op::Bind && result == -libc::EADDRINUSE;
            if is_taken && self.errs(Canary::RedialLost, 4) {
                continue;
            }
            if self.is(Canary::GenerationIgnored)
                && !matches!(token.op(), Op::PollListener | Op::Refuse | Op::Send)
            {
                let generation = self.generations[token.slot() as usize];
                completion.token = Token::new(token.op(), token.slot(), generation);
            }
            if let Some(buffer) = completion.buffer
                && result > 0
                && self.errs(Canary::RecycledEarly, 16)
            {
                self.inner.recycle(buffer);
                self.given_back.push(buffer);
            }
            return Some(completion);
        }
    }

    fn bytes(&self, buffer: u16, length: usize) -> &[u8] {
        self.inner.bytes(buffer, length)
    }

    fn recycle(&mut self, buffer: u16) {
        if let Some(place) = self.given_back.iter().position(|b| *b == buffer) {
            self.given_back.swap_remove(place);
        } else if !self.errs(Canary::BufferLeaked, 16) {
            self.inner.recycle(buffer);
        }
    }

    fn add_buffers(&mut self) -> u16 {
        self.inner.add_buffers()
    }

    fn reserve(&mut self, count: usize) -> Result<(), Error> {
        self.inner.reserve(count)
    }

    fn trim(&mut self) {
        self.inner.trim();
    }

    fn stage(&mut self, half: usize, bytes: &[u8]) -> Option<Staged> {
        self.inner.stage(half, bytes)
    }

    fn staged(&self, staged: Staged) -> &[u8] {
        self.inner.staged(staged)
    }

    fn unstage(&mut self, half: usize) {
        self.inner.unstage(half);
        if self.errs(Canary::UnstagedEarly, 8) {
            self.inner.unstage(1 - half);
        }
    }

    fn accept_queue_len(&self, listener: RawFd) -> u32 {
        self.inner.accept_queue_len(listener)
    }

    fn is_overflowing(&self) -> bool {
        self.inner.is_overflowing()
    }

    fn overflow_count(&self) -> u64 {
        self.inner.overflow_count()
    }
}

impl Books for Broken {
    fn under_way(&self, op: Op, slot: u32) -> u8 {
        self.inner.under_way(op, slot)
    }

    fn has_descriptor(&self, slot: u32) -> bool {
        self.inner.has_descriptor(slot)
    }

    fn buffer_count(&self) -> u16 {
        self.inner.buffer_count()
    }

    fn audit(&self) -> Result<(), String> {
        self.inner.audit()
    }
}
