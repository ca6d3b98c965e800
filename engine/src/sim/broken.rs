//! Canaries: engines with deliberate mistakes, to prove that the simulator detects them.
//!
//! Each changes what passes between the shard and its ring, or between the shard and its handler, as a shard with that mistake would.
//! The mistakes are made outside the engine, so its code has no switch for them: nothing that a build could leave on, nothing
//! on the hot path. Without a canary everything passes unchanged.
//! Must not depend on: how a mistake is detected.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use super::ring::SimRing;
use crate::error::Error;
use crate::ring::{AtHand, Completion, Request, Ring, Staged};
use crate::shard::audit::RingAudit;
use crate::token::{Op, Token};

macro_rules! canaries {
    ($($(#[doc = $doc:literal])* $name:ident $label:literal,)*) => {
        /// A deliberate mistake.
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
    /// A receive buffer is returned before the handler has read it.
    RecycledEarly "recycled_early",
    /// A receive buffer is not returned.
    BufferLeaked "buffer_leaked",
    /// Generations are not compared.
    GenerationIgnored "generation_ignored",
    /// A connection is closed without awaiting what is in flight.
    CloseUnawaited "close_unawaited",
    /// A slot is reused without awaiting its shutdown.
    ShutdownUnawaited "shutdown_unawaited",
    /// A poll is not armed again.
    PollLost "poll_lost",
    /// A receive is not armed again.
    RecvLost "recv_lost",
    /// A short send counts as complete.
    ShortSendUnheard "short_send_unheard",
    /// A send is submitted twice.
    SendRepeated "send_repeated",
    /// Staged bytes are released while requests use them.
    UnstagedEarly "unstaged_early",
    /// A shared buffer is given up while a send reads it.
    SharedReleasedEarly "shared_released_early",
    /// A shared buffer is never given up.
    SharedLeaked "shared_leaked",
    /// The rest of a shared buffer is sent from another place of it.
    SharedTailMisplaced "shared_tail_misplaced",
    /// A receive buffer is returned while its bytes are forwarded from it.
    ForwardRecycledEarly "forward_recycled_early",
    /// What a partner does not take of forwarded bytes is lost.
    ForwardTailLost "forward_tail_lost",
    /// Bytes are forwarded to another connection than the partner.
    ForwardMisdirected "forward_misdirected",
    /// A partner that has closed is sent bytes in the next life of its slot.
    PartnerStale "partner_stale",
    /// A connection is not told that its partner has closed.
    PartnerUntold "partner_untold",
    /// A handler is not told that a connection has closed, and counts it for ever.
    CloseUntold "close_untold",
    /// A descriptor is closed twice.
    ClosedTwice "closed_twice",
    /// A connection is reset before its peer has the bytes sent before.
    ResetEarly "reset_early",
    /// What a peer sent before its reset is lost.
    ResetTailLost "reset_tail_lost",
    /// The partner's peer is sent the end before the last bytes.
    ForwardEofEarly "forward_eof_early",
    /// An attempt whose address was in use is forgotten.
    RedialLost "redial_lost",
    /// An attempt goes to the target of the one before it.
    DialMisdirected "dial_misdirected",
    /// A failed attempt is not reported to the handler.
    FailureUntold "failure_untold",
    /// A cancel is not submitted.
    CancelLost "cancel_lost",
    /// A poll of a listener that is given up is not cancelled.
    ListenerPollKept "listener_poll_kept",
    /// A connection is given the address of the peer accepted before it.
    PeerStale "peer_stale",
    /// A listener that another process has is shut down.
    SharedListenerShut "shared_listener_shut",
    /// A timer is set too early.
    TimerEarly "timer_early",
    /// A timer is set too late.
    TimerLate "timer_late",
    /// The deadline that counts is the one `on_turn` gave a turn before.
    DeadlineStale "deadline_stale",
    /// Bytes are delivered twice.
    BytesRepeated "bytes_repeated",
    /// A handler is told of the peer's end before bytes that were held while it paused.
    EndEarly "end_early",
    /// A handler is told of the peer's end twice.
    EndRepeated "end_repeated",
    /// Bytes that were held while a handler paused are lost.
    HeldLost "held_lost",
    /// Our end is sent while bytes before it wait for room.
    ShutdownEarly "shutdown_early",
    /// A half-open or paused connection is not watched.
    WatchLost "watch_lost",
    /// What a watch says is not heard.
    WatchUnheard "watch_unheard",
    /// What is sent by the id of a closed connection reaches the next one in its slot.
    StaleIdAccepted "stale_id_accepted",
    /// An action by id is not performed.
    ActionLost "action_lost",
    /// A cancelled attempt goes on.
    DialCancelLost "dial_cancel_lost",
    /// A cancelled attempt is not reported to the handler.
    CancelUntold "cancel_untold",
    /// The rest of a queue that was submitted in part counts as submitted.
    RestUnsubmitted "rest_unsubmitted",
    /// A turn does everything at hand.
    SharesUnbounded "shares_unbounded",
    /// The poll that wakes a thread is not armed again.
    WakeupLost "wakeup_lost",
    /// A command is not given to the handler.
    CommandLost "command_lost",
    /// A command overtakes the one before it.
    CommandOvertakes "command_overtakes",
    /// A fragment of a client's message is not masked. This and the two below are made by the scenario `websocket`.
    MaskForgotten "mask_forgotten",
    /// The fragments of a message change places.
    FragmentsSwapped "fragments_swapped",
    /// A control frame between fragments is lost.
    ControlFrameLost "control_frame_lost",
}

/// A ring behind a mistake, if there is one.
pub struct Broken {
    inner: SimRing,
    canary: Option<Canary>,
    /// Completions invented here.
    made_up: VecDeque<Completion>,
    /// Tokens whose real completion is hidden.
    unseen: Vec<Token>,
    /// Buffers returned already.
    given_back: Vec<u16>,
    /// The latest generation of each slot.
    generations: Vec<u32>,
    /// Where the latest attempt went.
    last_target: Option<SocketAddr>,
    count: u64,
    /// A slot that was forwarded bytes, and its generation then.
    forwarded_to: Option<(u32, u32)>,
    /// The peer told last.
    last_peer: Option<SocketAddr>,
}

impl Broken {
    /// `inner` behind a mistake, or none.
    pub fn new(inner: SimRing, canary: Option<Canary>) -> Self {
        Broken {
            generations: vec![0; inner.pages.len()],
            last_target: None,
            inner,
            canary,
            made_up: VecDeque::new(),
            unseen: Vec::new(),
            given_back: Vec::new(),
            count: 0,
            forwarded_to: None,
            last_peer: None,
        }
    }

    /// The ring itself.
    pub(super) fn inner(&self) -> &SimRing {
        &self.inner
    }

    fn is(&self, canary: Canary) -> bool {
        self.canary == Some(canary)
    }

    /// True at every `times`-th opportunity of a canary.
    fn errs(&mut self, canary: Canary, times: u64) -> bool {
        if !self.is(canary) {
            return false;
        }
        self.count += 1;
        self.count.is_multiple_of(times)
    }

    /// Invents the completion of a request that is still in flight.
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
                writable: true,
                slot,
            } if self.is(Canary::ShutdownEarly) => self.inner.shut_down_early(slot),
            Request::Watch { .. } if self.is(Canary::WatchLost) => return Ok(()),
            Request::Poll {
                writable: false, ..
            } if self.errs(Canary::PollLost, 8) => {
                return Ok(());
            }
            Request::PollWaker { .. } if self.errs(Canary::WakeupLost, 2) => return Ok(()),
            Request::RecvOneshot { .. } | Request::RecvMultishot { .. }
                if self.errs(Canary::RecvLost, 8) =>
            {
                return Ok(());
            }
            Request::Cancel { token: other } => {
                let is_listener = other.op() == Op::PollListener;
                if is_listener && self.is(Canary::ListenerPollKept)
                    || !is_listener && self.errs(Canary::CancelLost, 2)
                {
                    return Ok(());
                }
                if other.op() != Op::Connect && !is_listener && self.is(Canary::CloseUnawaited) {
                    self.make_up(other, -libc::ECANCELED);
                }
            }
            Request::Connect { slot, target } if self.is(Canary::DialMisdirected) => {
                let target = self.last_target.replace(target).unwrap_or(target);
                return self.inner.push(token, Request::Connect { slot, target });
            }
            Request::Shutdown { .. } if self.is(Canary::ShutdownUnawaited) => {
                self.make_up(token, 0);
            }
            Request::Close { .. }
                if token.op() == Op::Close && self.errs(Canary::ClosedTwice, 8) =>
            {
                self.inner.push(token, request)?;
            }
            Request::SendReceived { slot, .. } if self.is(Canary::PartnerStale) => {
                self.forwarded_to = Some((slot, self.generations[slot as usize]));
            }
            Request::Poll { slot, .. } | Request::RecvOneshot { slot }
                if self.is(Canary::PartnerStale)
                    && self.forwarded_to.is_some_and(|(to, generation)| {
                        to == slot && generation != self.generations[slot as usize]
                    }) =>
            {
                self.forwarded_to = None;
                let bytes = b"stale";
                let is_last = false;
                let stale = Token::new(Op::Send, slot, u32::MAX);
                let send = Request::SendStatic {
                    slot,
                    bytes,
                    is_last,
                };
                self.inner.push(stale, send)?;
            }
            Request::SendReceived { received, .. } if self.is(Canary::ForwardRecycledEarly) => {
                self.inner.push(token, request)?;
                self.given_back.push(received.buffer);
                self.inner.recycle(received.buffer);
                return Ok(());
            }
            Request::SendReceived { slot, received }
                if self.errs(Canary::ForwardMisdirected, 8) =>
            {
                let mut others = (0..8).filter(|s| *s != slot);
                let slot = others
                    .find(|s| self.inner.has_descriptor(*s))
                    .unwrap_or(slot);
                // The ring takes the slot from the token.
                let token = Token::new(Op::Send, slot, token.generation());
                return self
                    .inner
                    .push(token, Request::SendReceived { slot, received });
            }
            Request::SendReceived { slot, mut received }
                if received.length > 1 && self.errs(Canary::ForwardTailLost, 8) =>
            {
                received.length -= 1;
                return self
                    .inner
                    .push(token, Request::SendReceived { slot, received });
            }
            Request::SendShared { shared, .. } if self.is(Canary::SharedReleasedEarly) => {
                self.inner.push(token, request)?;
                self.inner.unstage(shared.number as usize & 1);
                return Ok(());
            }
            Request::SendShared {
                slot,
                mut shared,
                is_last,
            } if shared.offset > 0 && self.is(Canary::SharedTailMisplaced) => {
                shared.offset -= 1;
                let request = Request::SendShared {
                    slot,
                    shared,
                    is_last,
                };
                return self.inner.push(token, request);
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
            if token.op() == Op::Watch && completion.has_more && self.is(Canary::WatchUnheard) {
                continue;
            }
            if token.op() == Op::Send && self.errs(Canary::ShortSendUnheard, 4) {
                continue;
            }
            if token.op() == Op::OutQueue && self.is(Canary::ResetEarly) {
                completion.result = 0;
            }
            if token.op() == Op::Recv
                && result > 0
                && !completion.has_more
                && self.is(Canary::ResetTailLost)
                && self.inner.is_reset(token.slot())
                && let Some(buffer) = completion.buffer.take()
            {
                self.inner.recycle(buffer);
                completion.result = -libc::ECONNRESET;
                return Some(completion);
            }
            let is_taken = token.op() == Op::Bind && result == -libc::EADDRINUSE;
            if is_taken && self.errs(Canary::RedialLost, 4) {
                continue;
            }
            if self.is(Canary::GenerationIgnored)
                && token.op().has_slot()
                && !matches!(token.op(), Op::Refuse | Op::Send)
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

    fn share(&mut self, half: usize, buffer: &Arc<[u8]>) -> u32 {
        if self.errs(Canary::SharedLeaked, 4) {
            std::mem::forget(Arc::clone(buffer));
        }
        self.inner.share(half, buffer)
    }

    fn shared(&self, number: u32) -> &Arc<[u8]> {
        self.inner.shared(number)
    }

    fn unstage(&mut self, half: usize) {
        self.inner.unstage(half);
        if self.errs(Canary::UnstagedEarly, 8) {
            self.inner.unstage(1 - half);
        }
    }

    fn take_peer(&mut self, slot: u32) -> Option<SocketAddr> {
        let peer = self.inner.take_peer(slot);
        match self.is(Canary::PeerStale) {
            true => self.last_peer.replace(peer?).or(peer),
            false => peer,
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

impl RingAudit for Broken {
    fn under_way(&self, op: Op, slot: u32) -> u8 {
        self.inner.under_way(op, slot)
    }

    fn has_descriptor(&self, slot: u32) -> bool {
        self.inner.has_descriptor(slot)
    }

    fn buffer_count(&self) -> u16 {
        self.inner.buffer_count()
    }

    fn lent_count(&self) -> u16 {
        self.inner.lent_count()
    }

    fn audit(&self) -> Result<(), String> {
        self.inner.audit()
    }
}
