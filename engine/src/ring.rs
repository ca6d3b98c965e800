//! The seam to the kernel: requests in, completions out. The kernel's rings implement it, and so
//! can a simulated one.
//!
//! Invariants every implementation keeps: requests start in the order they were pushed; a request
//! that must not wait (accept, socket, option, bind, receive, send, probe, close) has finished when the
//! `enter` that submits it returns, so the bytes it reads are free again; each request gives
//! exactly one completion, but those marked silent give none when they succeed, and a stream gives
//! several.
//! Must not depend on: slots, phases, handlers.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, SetupErrorKind};
use crate::socket_options::SocketOption;
use crate::token::Token;

/// One request. `slot` is an index into the ring's direct-descriptor table.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)] // The fields say what they are; the requests say what they do.
pub enum Request {
    /// Wait until a listener has connections. One completion.
    PollListener { listener: RawFd },
    /// Wait until another thread signals a descriptor. One completion.
    PollWaker { fd: RawFd },
    /// Take one connection from a listener into `slot`; EAGAIN when there is none. With `tells_peer`, [`Ring::take_peer`]
    /// tells the peer's address when the completion has been reaped.
    Accept {
        listener: RawFd,
        slot: u32,
        tells_peer: bool,
    },
    /// Make a stream socket in `slot`. Silent.
    Socket { slot: u32, is_ipv6: bool },
    /// Let the socket's address be used beside connections that have it or had it (SO_REUSEADDR).
    /// Silent.
    ReuseAddress { slot: u32 },
    /// Let the ACK that ends the handshake wait for the first bytes that are sent (TCP_QUICKACK 0).
    /// Silent.
    DelayFirstAck { slot: u32 },
    /// Make closing send a reset at once (SO_LINGER 0). Silent.
    ResetOnClose { slot: u32 },
    /// Set an option. Silent.
    SetOption { slot: u32, option: SocketOption },
    /// Give the socket its source address. Silent. Linked: the next request, which must be pushed
    /// without another between, only starts if this one succeeded, and gives no completion
    /// otherwise.
    Bind { slot: u32, source: SocketAddr },
    /// Connect; may wait.
    Connect { slot: u32, target: SocketAddr },
    /// Wait until the connection has bytes, an end or an error, or with `writable` takes bytes or
    /// has an end or an error. One completion, with the poll mask.
    Poll { slot: u32, writable: bool },
    /// Tell that the connection takes bytes again after a send came short, has an end or an error,
    /// each time that happens and at once if it has; not that it has bytes. Gives completions with
    /// the poll mask that say there are more, and a last one that does not.
    Watch { slot: u32 },
    /// Tell which error the connection has, by sending nothing. One completion: 0 if it has none.
    Probe { slot: u32 },
    /// Tell how many bytes that were sent, our end included, the peer has not acknowledged. One
    /// completion; EOPNOTSUPP before Linux 6.7.
    OutQueue { slot: u32 },
    /// Receive what is there into a buffer of the ring; EAGAIN when nothing is, ENOBUFS when no
    /// buffer is free.
    Recv { slot: u32 },
    /// Wait for bytes and receive them into a buffer of the ring. One completion.
    RecvOneshot { slot: u32 },
    /// Receive whatever comes, each time into a buffer of the ring, until the end, an error, a
    /// shortage of buffers or a cancel. Gives completions that say there are more, and a last one
    /// that does not.
    RecvMultishot { slot: u32 },
    /// Send bytes that live for ever, whole or as far as the peer takes them now. Silent when
    /// whole. With `is_last` they wait for the end that follows, to leave in one segment with it.
    SendStatic {
        slot: u32,
        bytes: &'static [u8],
        is_last: bool,
    },
    /// Send staged bytes, likewise.
    SendStaged {
        slot: u32,
        staged: Staged,
        is_last: bool,
    },
    /// Send bytes of a buffer that the ring keeps, likewise.
    SendShared {
        slot: u32,
        shared: Shared,
        is_last: bool,
    },
    /// Send bytes from the receive buffer that they came in. The buffer must not be given back before
    /// the request is done.
    SendReceived { slot: u32, received: Received },
    /// End our side. May be done by a worker of the kernel later, which takes the slot for what is
    /// in it *then*: nothing may take the slot before the completion. EMFILE: it was not done, and is
    /// to be asked for again.
    Shutdown { slot: u32 },
    /// Give up the descriptor in `slot`. Silent.
    Close { slot: u32 },
    /// Cancel the request with this token; that request completes with ECANCELED. Silent.
    Cancel { token: Token },
}

/// Bytes copied to where the kernel may read them. There are two halves: while the requests that
/// use one are under way, the other is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staged {
    /// Offset in the staging region.
    pub offset: u32,
    /// Length in bytes.
    pub length: u32,
}

/// A part of a buffer that a ring keeps: see [`Ring::share`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// The number that the ring gave the buffer.
    pub number: u32,
    /// Length in bytes.
    pub length: u32,
    /// Offset in the buffer.
    pub offset: usize,
}

/// Bytes in a receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// The buffer, which a completion named.
    pub buffer: u16,
    /// Offset in the buffer.
    pub offset: u32,
    /// Length in bytes.
    pub length: u32,
}

/// The buffers that a ring keeps while requests read them, in two halves like staged bytes.
///
/// A buffer that goes to many connections, one send after the other, is kept once for all of them.
#[derive(Debug, Default)]
pub struct SharedBuffers {
    halves: [Vec<Arc<[u8]>>; 2],
}

impl SharedBuffers {
    /// Keeps `buffer` until `half` is emptied. Returns its number.
    #[inline]
    pub fn keep(&mut self, half: usize, buffer: &Arc<[u8]>) -> u32 {
        let buffers = &mut self.halves[half];
        if buffers.last().is_none_or(|last| !Arc::ptr_eq(last, buffer)) {
            buffers.push(Arc::clone(buffer));
        }
        (buffers.len() as u32 - 1) << 1 | half as u32
    }

    /// The buffer with this number.
    #[inline]
    pub fn get(&self, number: u32) -> &Arc<[u8]> {
        &self.halves[number as usize & 1][number as usize >> 1]
    }

    /// A part of a buffer.
    #[inline]
    pub fn bytes(&self, shared: Shared) -> &[u8] {
        &self.get(shared.number)[shared.offset..][..shared.length as usize]
    }

    /// Gives the buffers of a half up.
    pub fn empty(&mut self, half: usize) {
        self.halves[half].clear();
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy)]
pub struct Completion {
    /// The request's token.
    pub token: Token,
    /// Not negative: success, a count or a mask; negative: minus errno.
    pub result: i32,
    /// The receive buffer that holds the bytes.
    pub buffer: Option<u16>,
    /// The request goes on and will give another completion.
    pub has_more: bool,
    /// The socket holds more than was received.
    pub has_left: bool,
}

/// Completions at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtHand {
    /// How many.
    pub count: usize,
    /// One of them is of a send: it failed or came short.
    pub has_send: bool,
    /// More wait in the kernel, because the queue was full.
    pub is_overflowing: bool,
}

/// How often the rest of a queue is submitted again: at a rest of a millisecond each, for about a
/// second.
const SUBMISSIONS_MAX: u32 = 1_000;

/// Requests in, completions out.
pub trait Ring {
    /// Queues a request, entering the kernel first when the queue is full.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses to be entered at all.
    fn push(&mut self, token: Token, request: Request) -> Result<(), Error>;
    /// True if requests are queued, or the kernel holds completions back until it is entered.
    fn wants_enter(&self) -> bool;
    /// Submits what is queued, lets the kernel finish its work for this ring, and with `wait`
    /// sleeps until a completion or until the time is over; [`Duration::MAX`] never is. Everything
    /// queued was submitted when this returns.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses to be entered at all, or has no memory for requests for
    /// long.
    fn enter(&mut self, wait: Option<Duration>) -> Result<(), Error> {
        for _ in 0..SUBMISSIONS_MAX {
            if self.submit(wait)? {
                return Ok(());
            }
        }
        Err(Error::new(
            SetupErrorKind::OutOfMemory,
            "the kernel has no memory left for requests",
            "free memory; see dmesg",
        ))
    }
    /// Does the work of [`Ring::enter`] once. False if requests are still queued: short of memory,
    /// the kernel takes only the first ones, and does not wait. This rests a little then.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses to be entered at all.
    fn submit(&mut self, wait: Option<Duration>) -> Result<bool, Error>;
    /// Microseconds of engine time.
    fn now_us(&self) -> u64;
    /// True if a completion is at hand.
    fn has_completion(&self) -> bool;
    /// The completions at hand, before any is reaped.
    fn at_hand(&mut self) -> AtHand;
    /// The next completion at hand.
    fn reap(&mut self) -> Option<Completion>;
    /// The first `length` bytes of a buffer a completion named.
    fn bytes(&self, buffer: u16, length: usize) -> &[u8];
    /// Gives a buffer back; its bytes are gone.
    fn recycle(&mut self, buffer: u16);
    /// Brings more buffers into use, as many again; returns how many, 0 when all are.
    fn add_buffers(&mut self) -> u16;
    /// Makes sure that `count` requests can be pushed without entering the kernel between them.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses to be entered at all.
    fn reserve(&mut self, count: usize) -> Result<(), Error>;
    /// Gives the memory behind buffers and staging back to the system until it is used again. Only
    /// while no receive is under way, no completion waits and nothing is staged: their bytes are
    /// gone.
    fn trim(&mut self);
    /// Copies bytes into `half` of the staging region; `None` when there is no room until it is
    /// emptied.
    fn stage(&mut self, half: usize, bytes: &[u8]) -> Option<Staged>;
    /// Staged bytes, until their half is emptied.
    fn staged(&self, staged: Staged) -> &[u8];
    /// Keeps a shared buffer for requests that send from it, until `half` is emptied. Returns its
    /// number.
    fn share(&mut self, half: usize, buffer: &Arc<[u8]>) -> u32;
    /// The shared buffer with this number, until its half is emptied.
    fn shared(&self, number: u32) -> &Arc<[u8]>;
    /// Empties a half, of staged bytes and shared buffers: no request under way uses it.
    fn unstage(&mut self, half: usize);
    /// The peer of the accept into `slot` that told it, whose completion was reaped, failed or not. Once for each.
    fn take_peer(&mut self, slot: u32) -> Option<SocketAddr>;
    /// Connections that wait at a listener to be accepted.
    fn accept_queue_len(&self, listener: RawFd) -> u32;
    /// True while completions wait in the kernel because the queue was full.
    fn is_overflowing(&self) -> bool;
    /// How often the completion queue has overflowed.
    fn overflow_count(&self) -> u64;
}
