//! The responder: reads requests, drops their bodies, and sends the same response to each.
//!
//! ```text
//!          bytes                 head complete, body to come       body complete
//!   Idle ────────► Head ────────────────────────────────► Body ─────────────► Idle (answered)
//!     │              │ refused (400, 408, 413, ...)          │
//!     └──────────────┴───────────────► Closing ◄─────────────┘  the last response said so; further bytes are dropped
//! ```
//!
//! A head that equals the one before it byte for byte is not parsed again: clients repeat
//! themselves.
//! Invariants: every complete request is answered once, in order; a refusal is the last response of
//! its connection; a connection between requests owns no buffer; each phase has a timeout, and the
//! timer is set only when a phase begins in the middle of a buffer, so requests that arrive whole
//! cost no timer.
//! Must not depend on: rings, threads, clocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_engine::{CloseReason, Conn, Handler};
use holdfast_http1::{
    Body, Chunked, EMPTY_LINES_MAX, Limits, RequestError, RequestHead, parse_request,
};

use super::response::{Persistence, Responses};

/// What one callback may queue for a peer before it waits until the kernel has accepted it, bytes.
/// Below the engine's carry limit.
const QUEUE_BYTES_MAX: usize = 32 * 1024;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// A connection that has been idle for this long is closed at once when the server stops; others
/// may still send a request.
const STOP_GRACE_MS: u32 = 500;
/// The statuses a request can be refused with.
pub const REFUSALS: [u16; 8] = [400, 408, 413, 414, 417, 431, 501, 505];

/// How long each phase of a connection may take, milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From the first byte of a head to its last.
    pub header_ms: u32,
    /// From the first byte of a request to its last.
    pub read_ms: u32,
    /// Without the peer reading any of a response that waits.
    pub write_ms: u32,
    /// Without a request.
    pub idle_ms: u32,
}

/// Which timeout a connection ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutKind {
    /// [`Timeouts::header_ms`].
    Header,
    /// [`Timeouts::read_ms`].
    Read,
    /// [`Timeouts::write_ms`].
    Write,
    /// [`Timeouts::idle_ms`].
    Idle,
}

impl TimeoutKind {
    /// Every one with its name in reports.
    pub const ALL: [(TimeoutKind, &'static str); 4] = [
        (TimeoutKind::Header, "header"),
        (TimeoutKind::Read, "body"),
        (TimeoutKind::Write, "write"),
        (TimeoutKind::Idle, "idle"),
    ];
}

/// Counters for the control plane.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResponderReport {
    /// Requests answered with the response.
    pub answered: u64,
    /// Requests refused, by place in [`REFUSALS`].
    pub refused: [u64; REFUSALS.len()],
    /// Connections ended by a timeout, by [`TimeoutKind`] number.
    pub timed_out: [u64; TimeoutKind::ALL.len()],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    Head,
    Body,
    Closing,
}

/// How the current body is framed.
#[derive(Debug, Clone, Copy)]
enum Framing {
    Length,
    Chunked(Chunked),
}

/// State of a connection, 32 bytes.
#[derive(Debug, Clone, Copy)]
pub struct HttpConn {
    /// Body bytes to come, or room left for chunks.
    left: u64,
    framing: Framing,
    /// When the phase began, milliseconds of engine time; compared by difference.
    since_ms: u32,
    phase: Phase,
    /// The Connection header of the next response.
    persistence: Persistence,
    /// See [`flag`].
    flags: u8,
}

const _: () = assert!(size_of::<HttpConn>() == 32);

/// Bits of [`HttpConn::flags`].
mod flag {
    /// The last send would block.
    pub const BLOCKED: u8 = 1;
    /// The server is stopping.
    pub const STOPPING: u8 = 2;
    /// The current request is HEAD.
    pub const HEAD: u8 = 4;
}

impl HttpConn {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn set(&mut self, flag: u8, is_on: bool) {
        self.flags = self.flags & !flag | if is_on { flag } else { 0 };
    }
}

impl Default for HttpConn {
    fn default() -> Self {
        HttpConn {
            left: 0,
            framing: Framing::Length,
            since_ms: 0,
            phase: Phase::Idle,
            persistence: Persistence::KeepAlive,
            flags: 0,
        }
    }
}

/// The responder of one core thread.
pub struct Responder {
    responses: Responses,
    limits: Limits,
    timeouts: Timeouts,
    /// Set before `on_stop` when another process has taken the listeners over.
    is_retiring: Arc<AtomicBool>,
    /// How long a connection may be idle when this process retires, milliseconds.
    retire_idle_ms: u32,
    /// How long a connection may be idle when the server stops, milliseconds.
    stop_idle_ms: u32,
    /// The last head that was parsed, and the result.
    cached_head: Option<(Vec<u8>, RequestHead)>,
    counts: ResponderReport,
}

/// Heads longer than this are parsed every time; bytes.
const CACHED_HEAD_BYTES_MAX: usize = 1_024;

fn millis(us: u64) -> u32 {
    (us / 1_000) as u32
}

/// Time since, never negative: a phase that began in the middle of a turn may be later than the
/// time of the turn.
fn elapsed_ms(now_us: u64, since_ms: u32) -> u32 {
    (millis(now_us).wrapping_sub(since_ms) as i32).max(0) as u32
}

fn after(now_us: u64, ms: u32) -> u64 {
    now_us + u64::from(ms) * 1_000
}

/// True if the request at the beginning of `bytes` has this method; `method` ends in a space.
fn has_method(mut bytes: &[u8], method: &[u8]) -> bool {
    for _ in 0..EMPTY_LINES_MAX {
        bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    }
    bytes.starts_with(method)
}

impl Responder {
    /// A responder without connections.
    pub fn new(responses: Responses, limits: Limits, timeouts: Timeouts) -> Self {
        Responder {
            responses,
            limits,
            timeouts,
            is_retiring: Arc::default(),
            retire_idle_ms: STOP_GRACE_MS,
            stop_idle_ms: STOP_GRACE_MS,
            cached_head: None,
            counts: ResponderReport::default(),
        }
    }

    /// With `is_retiring` set, stopping is no hurry: an idle connection may still send a request
    /// for `idle_ms` milliseconds. Its response says that the connection closes.
    #[must_use]
    pub fn with_retiring(mut self, is_retiring: Arc<AtomicBool>, idle_ms: u32) -> Self {
        self.is_retiring = is_retiring;
        self.retire_idle_ms = idle_ms;
        self
    }

    fn parse(&mut self, bytes: &[u8]) -> Result<Option<RequestHead>, RequestError> {
        if let Some((known, head)) = &self.cached_head
            && bytes.starts_with(known)
        {
            return Ok(Some(*head));
        }
        let head = parse_request(bytes, &self.limits)?;
        if head.is_some_and(|head| head.is_connect) {
            // A 2xx would begin a tunnel (RFC 9110, 9.3.6).
            return Err(RequestError {
                status: 501,
                reason: "this server makes no tunnels",
            });
        }
        if let Some(head) = head.filter(|head| head.length <= CACHED_HEAD_BYTES_MAX) {
            let (known, meaning) = self.cached_head.get_or_insert((Vec::new(), head));
            known.clear();
            known.extend_from_slice(&bytes[..head.length]);
            *meaning = head;
        }
        Ok(head)
    }

    /// A head is complete. Its request is answered now, or when its body is complete.
    fn on_head(&mut self, conn: &mut Conn<'_, HttpConn>, head: RequestHead, is_last: bool) {
        let now_us = conn.now_us();
        let state = &mut *conn.state;
        state.set(flag::HEAD, head.is_head);
        state.persistence = match (head.keep_alive, head.is_http10) {
            (false, _) => Persistence::Close,
            (true, true) => Persistence::ExplicitKeepAlive,
            (true, false) => Persistence::KeepAlive,
        };
        let (framing, left) = match head.body {
            Body::Length(length) => (Framing::Length, length),
            Body::Chunked => (
                Framing::Chunked(Chunked::default()),
                self.limits.body_bytes_max,
            ),
            Body::None | Body::UntilClose => return self.answer(conn, is_last),
        };
        state.framing = framing;
        state.left = left;
        if state.phase == Phase::Idle {
            // The head arrived whole: the request began now.
            state.since_ms = millis(now_us);
        }
        state.phase = Phase::Body;
        if is_last {
            let elapsed_ms = elapsed_ms(now_us, state.since_ms);
            conn.set_timer(after(
                now_us,
                self.timeouts.read_ms.saturating_sub(elapsed_ms),
            ));
            if head.expects_continue {
                conn.send_static(CONTINUE);
            }
        }
    }

    /// Drops body bytes; returns how many. Answers the request after the last one.
    fn on_body(&mut self, conn: &mut Conn<'_, HttpConn>, bytes: &[u8]) -> usize {
        let state = &mut *conn.state;
        let (used, is_over) = match &mut state.framing {
            Framing::Length => {
                let used = state.left.min(bytes.len() as u64);
                state.left -= used;
                (used as usize, state.left == 0)
            }
            Framing::Chunked(chunked) => {
                // What frames the chunks counts too: it could be made most of the body. Nothing
                // behind the limit is read, or what is wrong there would be named by a reader that
                // got all bytes at once and not by one that got them one by one.
                let allowed = state.left.min(bytes.len() as u64) as usize;
                let step = match chunked.step(&bytes[..allowed]) {
                    Ok(step) => step,
                    Err(malformed) => {
                        let reason = malformed.description();
                        let is_head = conn.state.has(flag::HEAD);
                        self.refuse(conn, 400, reason, is_head);
                        return bytes.len();
                    }
                };
                state.left -= step.used as u64;
                // A chunk that is too long need not arrive to be refused.
                let is_too_long = chunked.chunk_bytes_left() > state.left;
                let is_exhausted = state.left == 0 && !step.is_done && step.used < bytes.len();
                if is_too_long || is_exhausted {
                    let reason = "the body is longer than this server reads";
                    let is_head = conn.state.phase == Phase::Body && conn.state.has(flag::HEAD);
                    self.refuse(conn, 413, reason, is_head);
                    return bytes.len();
                }
                (step.used, step.is_done)
            }
        };
        if is_over {
            self.answer(conn, used == bytes.len());
        }
        used
    }

    /// Answers the current request. `is_last`: no byte of another one has arrived.
    fn answer(&mut self, conn: &mut Conn<'_, HttpConn>, is_last: bool) {
        let now_ms = millis(conn.now_us());
        let has_more = conn.has_more();
        let state = &mut *conn.state;
        let is_asked_for = state.persistence == Persistence::Close;
        let is_stopping = state.has(flag::STOPPING);
        let persistence = if is_stopping && is_last && !has_more {
            Persistence::Close
        } else {
            state.persistence
        };
        let is_head = state.has(flag::HEAD);
        let was_waited_for = state.phase != Phase::Idle;
        state.since_ms = now_ms;
        state.phase = if persistence == Persistence::Close {
            Phase::Closing
        } else {
            Phase::Idle
        };
        let (bytes, tail) = self.responses.rendered(persistence, is_head);
        conn.send_copy(bytes);
        if !tail.is_empty() {
            conn.send_static(tail);
        }
        self.counts.answered += 1;
        if persistence != Persistence::Close {
            if is_stopping {
                conn.set_timer(after(conn.now_us(), self.stop_idle_ms));
            } else if was_waited_for {
                conn.set_timer(after(conn.now_us(), self.timeouts.idle_ms));
            }
            return;
        }
        if is_asked_for && is_last {
            conn.close_after_send();
        } else {
            conn.close();
        }
    }

    /// Answers a request that is not served, and closes the connection. The answer to HEAD has no
    /// content (RFC 9110, 9.3.2).
    fn refuse(&mut self, conn: &mut Conn<'_, HttpConn>, status: u16, reason: &str, is_head: bool) {
        conn.state.phase = Phase::Closing;
        if let Some(place) = REFUSALS.iter().position(|s| *s == status) {
            self.counts.refused[place] += 1;
        }
        let bytes = self.responses.refusal(status, reason, is_head);
        conn.send_copy(&bytes);
        conn.close();
    }

    fn time_out(&mut self, conn: &mut Conn<'_, HttpConn>, limit: TimeoutKind) {
        self.counts.timed_out[limit as usize] += 1;
        match limit {
            TimeoutKind::Write => conn.abort(CloseReason::Stalled),
            TimeoutKind::Idle => {
                conn.state.phase = Phase::Closing;
                conn.close();
            }
            TimeoutKind::Header | TimeoutKind::Read => {
                self.responses.refresh(conn.now_us());
                let reason = "the request took too long to arrive";
                let is_head = conn.state.phase == Phase::Body && conn.state.has(flag::HEAD);
                self.refuse(conn, 408, reason, is_head);
            }
        }
    }

    /// The timeout of what the connection is doing.
    fn limit(&self, state: &HttpConn) -> (TimeoutKind, u32) {
        if state.has(flag::BLOCKED) {
            return (TimeoutKind::Write, self.timeouts.write_ms);
        }
        match state.phase {
            Phase::Idle if state.has(flag::STOPPING) => (TimeoutKind::Idle, self.stop_idle_ms),
            Phase::Idle | Phase::Closing => (TimeoutKind::Idle, self.timeouts.idle_ms),
            Phase::Head => (TimeoutKind::Header, self.timeouts.header_ms),
            Phase::Body => (TimeoutKind::Read, self.timeouts.read_ms),
        }
    }
}

impl Handler for Responder {
    type State = HttpConn;
    type Report = ResponderReport;
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, HttpConn>) {
        let now_us = conn.now_us();
        conn.state.since_ms = millis(now_us);
        conn.set_timer(after(now_us, self.timeouts.idle_ms));
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, HttpConn>, bytes: &[u8]) -> usize {
        let now_us = conn.now_us();
        self.responses.refresh(now_us);
        let mut used = 0;
        while used < bytes.len() {
            let rest = &bytes[used..];
            match conn.state.phase {
                Phase::Closing => return bytes.len(),
                Phase::Body => used += self.on_body(conn, rest),
                Phase::Idle | Phase::Head => match self.parse(rest) {
                    Ok(Some(head)) => {
                        used += head.length;
                        self.on_head(conn, head, used == bytes.len());
                    }
                    Ok(None) => {
                        if conn.state.phase == Phase::Idle {
                            conn.state.phase = Phase::Head;
                            conn.state.since_ms = millis(now_us);
                            conn.set_timer(after(now_us, self.timeouts.header_ms));
                        }
                        return used;
                    }
                    Err(refusal) => {
                        let is_head = has_method(rest, b"HEAD ");
                        self.refuse(conn, refusal.status, refusal.reason, is_head);
                        return bytes.len();
                    }
                },
            }
            let has_tail = conn.sent_bytes() > QUEUE_BYTES_MAX;
            if has_tail && used < bytes.len() && conn.state.phase != Phase::Closing {
                conn.pause_until_sent();
                return used;
            }
        }
        used
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, HttpConn>) {
        let now_us = conn.now_us();
        let (limit, limit_ms) = self.limit(conn.state);
        let elapsed_ms = elapsed_ms(now_us, conn.state.since_ms);
        if elapsed_ms >= limit_ms {
            self.time_out(conn, limit);
        } else {
            conn.set_timer(after(now_us, limit_ms - elapsed_ms));
        }
    }

    fn on_blocked(&mut self, conn: &mut Conn<'_, HttpConn>) {
        let now_us = conn.now_us();
        conn.state.set(flag::BLOCKED, true);
        conn.state.since_ms = millis(now_us);
        conn.set_timer(after(now_us, self.timeouts.write_ms));
    }

    fn on_writable(&mut self, conn: &mut Conn<'_, HttpConn>) {
        let now_us = conn.now_us();
        conn.state.set(flag::BLOCKED, false);
        conn.state.since_ms = millis(now_us);
        conn.set_timer(after(now_us, self.limit(conn.state).1));
    }

    fn on_stop(&mut self, conn: &mut Conn<'_, HttpConn>) {
        let now_us = conn.now_us();
        conn.state.set(flag::STOPPING, true);
        let idle_ms = elapsed_ms(now_us, conn.state.since_ms);
        if conn.state.phase != Phase::Idle || conn.state.has(flag::BLOCKED) {
            return;
        }
        if self.is_retiring.load(Ordering::Acquire) {
            self.stop_idle_ms = self.retire_idle_ms;
        }
        if idle_ms >= self.stop_idle_ms {
            conn.state.phase = Phase::Closing;
            conn.close();
        } else {
            conn.set_timer(after(now_us, self.stop_idle_ms - idle_ms));
        }
    }

    fn report(&mut self, report: &mut ResponderReport) {
        *report = self.counts;
    }
}
