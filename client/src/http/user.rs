//! The user of an HTTP server: sends a request, judges the response, sends the next request when it
//! is due.
//!
//! ```text
//!   started ──► connecting ──► idle ──► awaiting ──► idle ...      keep-alive: one connection for all requests
//!                  ▲  │ failed            │
//!                  │  ▼                   │ closed, or to be closed after the response
//!                waiting ◄────────────────┘                        until the next request is due, or a pause is over
//! ```
//!
//! Requests are sent in batches (`--pipeline`, else of one): all requests of a batch are due, sent
//! and awaited together. In the closed model the next batch is due a wait after the response; in
//! the open model its [`Schedule`] says when, and a batch that became due while another one was
//! outstanding is sent right after it.
//! The timer is set lazily: it never moves to a later deadline, but is set again when it fires.
//! Invariants: each request begun ends in exactly one [`Outcome`], also when it is sent again;
//! bytes that arrive while no request is outstanding are no request's; a connection that a user has
//! left changes nothing any more; the memory of a user is its slot, or its place in the reconnect
//! queue.
//! Must not depend on: rings, threads, clocks, output.

use std::sync::Arc;

use holdfast_engine::config::TICK_US;
use holdfast_engine::{CloseReason, Conn, ConnId, Context, DialId, Handler, OpenFailure};

use holdfast_http1::Malformed;

use super::counters::Counters;
use super::mix::Mix;
use super::outcome::{OUTCOME_COUNT, Outcome};
use super::request_limit::RequestLimit;
use super::response::{self, Expectations, Parsed, Position, Progress, Verdict};
use super::schedule::Schedule;
use crate::load::{Load, Spawn};
use crate::reconnect::{Backoff, Random, ReconnectQueue};

/// Pauses of a user whose connections end without a single answer. Shorter than those of long
/// connections: a server that is back should have its load back.
const BACKOFF: Backoff = Backoff {
    first_us: 100_000,
    longest_us: 5_000_000,
};

/// How long a server that said it ends a connection may take to do so.
const DETACHED_US_MAX: u64 = 1_000_000;

/// The reason why a response with more bytes than its framing says is malformed.
pub const EXCESS_BYTES: &str = "excess_bytes";

/// When users ask.
#[derive(Debug, Clone, Copy)]
pub enum Model {
    /// So long after the answer, shortest and longest, microseconds.
    Closed(u64, u64),
    /// On a schedule.
    Open(Schedule),
}

/// What users are to do.
#[derive(Debug, Clone)]
pub struct UserConfig {
    /// When to ask.
    pub model: Model,
    /// What to send.
    pub mix: Mix,
    /// What is right.
    pub expectations: Expectations,
    /// A new connection for each batch.
    pub is_reconnecting: bool,
    /// Closed model: the first request of a user is due when the user starts, not when it is
    /// connected.
    pub is_connecting_timed: bool,
    /// Send unanswered requests again on another connection: the method is idempotent, and
    /// `--no-retry` was not given.
    pub is_retrying: bool,
    /// How long an answer may take from the sending, microseconds.
    pub timeout_us: u64,
    /// Requests there may be.
    pub request_limit: Arc<RequestLimit>,
}

/// The user has left this connection, which closes by itself.
const DETACHED: u8 = 1;
/// A request was answered on this connection.
const ANSWERED: u8 = 2;
/// The timer is set, and fires no later than anything the user waits for.
const TIMER_SET: u8 = 4;
/// The user's first attempt to connect is under way.
const FIRST_ATTEMPT: u8 = 8;
/// The number of users went down: this one ends when its outstanding requests are answered.
const RETIRING: u8 = 16;
/// Bytes of the next response have arrived.
const RESPONSE_STARTED: u8 = 32;
/// Requests of the URL that the connection was made for were begun.
const URL_USED: u8 = 64;

/// 40 bytes a user: a slot of one cache line.
#[derive(Debug, Clone, Copy, Default)]
pub struct User {
    /// The batch under way or next: closed model its due time, engine time; open model its turn.
    due: u64,
    /// Lower 48 bits: when the batch under way was sent, engine time; while connecting, when the attempt was due. The others: the
    /// number of the batch in the mix.
    sent: u64,
    position: Position,
    progress: Progress,
    /// Responses outstanding.
    awaited: u8,
    /// Connections in a row that ended without an answer.
    retries: u8,
    flags: u8,
    /// Requests of an earlier connection to send again: begun and counted, not answered.
    resend: u8,
}

const _: () = assert!(size_of::<User>() <= 40);

/// The bits of [`User::sent`] that are a time: nine years.
const TIME_MASK: u64 = (1 << 48) - 1;

impl User {
    #[inline]
    fn sent_us(&self) -> u64 {
        self.sent & TIME_MASK
    }

    #[inline]
    fn set_sent_us(&mut self, at_us: u64) {
        self.sent = self.sent & !TIME_MASK | at_us;
    }

    /// The number in the mix of the batch under way or to be sent again. Before the first one: one
    /// of the same server's.
    #[inline]
    fn url(&self) -> u16 {
        (self.sent >> 48) as u16
    }

    #[inline]
    fn set_url(&mut self, number: u16) {
        self.sent = self.sent & TIME_MASK | u64::from(number) << 48;
    }
}

/// One thread's users.
pub struct Users {
    config: UserConfig,
    /// Every connection is made for a URL: there are several servers, and a new connection for each
    /// batch.
    dials_for_url: bool,
    spawn: Spawn,
    waiting: ReconnectQueue<User>,
    /// First attempts under way.
    first_attempts: u64,
    random: Random,
    counters: Counters,
}

impl Users {
    /// The users of thread `share` of `share_count`; what ends before `warm_up_us` is not measured.
    pub fn new(
        mut config: UserConfig,
        load: Load,
        share: usize,
        share_count: usize,
        warm_up_us: u64,
    ) -> Self {
        config.mix.start_at(share, share_count);
        let mut counters = Counters::new(warm_up_us);
        if config.mix.batch_count() > 1 {
            counters.by_url = vec![[0; OUTCOME_COUNT]; config.mix.batch_count()];
        }
        Users {
            dials_for_url: config.is_reconnecting && config.mix.has_servers(),
            config,
            spawn: Spawn::new(load, share, share_count),
            waiting: ReconnectQueue::default(),
            first_attempts: 0,
            random: Random::new(share),
            counters,
        }
    }

    /// When the user's batch is due, engine time.
    #[inline]
    fn due_us(&self, user: &User) -> u64 {
        match &self.config.model {
            Model::Closed(..) => user.due,
            Model::Open(schedule) => schedule.due_us(user.due),
        }
    }

    /// Sets when the user wants to ask next.
    #[inline]
    fn schedule_next(&mut self, user: &mut User, now_us: u64) {
        user.due = match &self.config.model {
            Model::Open(schedule) => user.due + schedule.users,
            Model::Closed(_, 0) => now_us,
            Model::Closed(shortest_us, longest_us) => {
                let span_us = (longest_us - shortest_us) as f64 * self.random.fraction();
                // On a tick, or the timer's rounding would count as the server's latency.
                (now_us + shortest_us + span_us as u64).next_multiple_of(TICK_US)
            }
        };
    }

    /// Nothing is outstanding: sends the batch that is due, or sets the timer to its due time.
    #[inline]
    fn send_or_wait(&mut self, conn: &mut Conn<'_, User>) {
        let now_us = conn.now_us();
        let due_us = self.due_us(conn.state);
        if due_us > now_us {
            conn.state.flags |= TIMER_SET;
            return conn.set_timer(due_us);
        }
        let count = match std::mem::take(&mut conn.state.resend) {
            0 => self.begin_batch(conn.state),
            again => again,
        };
        if count == 0 {
            return;
        }
        conn.send_static(self.config.mix.batch(conn.state.url()).last(count));
        let user = &mut *conn.state;
        user.set_sent_us(now_us);
        user.awaited = count;
        user.position = Position::Head;
        if user.flags & TIMER_SET == 0 {
            user.flags |= TIMER_SET;
            conn.set_timer(now_us + self.config.timeout_us);
        }
    }

    /// Takes the requests of the next batch from the limit, and counts them. 0: the limit is
    /// reached.
    #[inline]
    fn begin_batch(&mut self, user: &mut User) -> u8 {
        let count = self.config.request_limit.take(self.config.mix.count());
        if self.dials_for_url {
            user.flags |= URL_USED;
        } else {
            user.set_url(self.config.mix.take_turn_beside(user.url()));
        }
        self.counters.requests += u64::from(count);
        self.counters.turns_taken += u64::from(count > 0);
        count
    }

    /// One outstanding request was answered.
    #[inline]
    fn on_answered(&mut self, user: &User, verdict: Verdict, now_us: u64) {
        let due_us = self.due_us(user);
        self.counters
            .answered(verdict, due_us, user.sent_us(), now_us);
        self.counters.count_url(user.url(), verdict.into(), 1);
    }

    /// Some outstanding requests failed.
    fn on_failed(&mut self, user: &User, outcome: Outcome, count: u64, now_us: u64) {
        let due_us = self.due_us(user);
        self.counters.failed(outcome, count, due_us, now_us);
        self.counters.count_url(user.url(), outcome, count);
    }

    /// The run ends, or the user, with requests that were begun and not answered.
    fn on_stopped(&mut self, user: &User) {
        let count = u64::from(user.awaited) + u64::from(user.resend);
        self.counters.stopped(count);
        self.counters.count_url(user.url(), Outcome::Stopped, count);
    }

    /// All outstanding requests fail.
    fn fail_awaited(&mut self, user: &mut User, outcome: Outcome, now_us: u64) {
        self.on_failed(user, outcome, u64::from(user.awaited), now_us);
        user.awaited = 0;
        self.schedule_next(user, now_us);
    }

    /// What arrived is no response to the outstanding requests.
    #[cold]
    fn fail_malformed(&mut self, conn: &mut Conn<'_, User>, why: &'static str, bytes: &[u8]) {
        let count = u64::from(conn.state.awaited);
        self.counters.malformed.record(why, count, bytes);
        self.fail_awaited(conn.state, Outcome::Malformed, conn.now_us());
        conn.abort(CloseReason::LocallyClosed);
    }

    /// The connection ends with requests outstanding: they are sent again on another one where that
    /// is safe (RFC 9110, 9.2.2; RFC 9112, 9.3.1 and 9.3.2), or fail.
    fn on_unanswered(&mut self, user: &mut User, outcome: Outcome, now_us: u64) {
        if user.flags & RESPONSE_STARTED != 0 {
            // The server has acted on the first one.
            self.on_failed(user, outcome, 1, now_us);
            user.awaited -= 1;
            if user.awaited == 0 {
                return self.schedule_next(user, now_us);
            }
        }
        // A connection without a single answer would be tried for ever.
        if self.config.is_retrying && user.flags & ANSWERED != 0 {
            self.counters.retried += u64::from(user.awaited);
            user.resend = std::mem::take(&mut user.awaited);
        } else {
            self.fail_awaited(user, outcome, now_us);
        }
    }

    /// True if a 408 is the end of an idle connection that crossed the batch, which is sent again. On
    /// connections without any other response that happens once in a row.
    fn may_repeat(&self, user: &User) -> bool {
        self.config.is_retrying
            && user.awaited == self.config.mix.count()
            && (user.flags & ANSWERED != 0 || user.retries == 0)
    }

    /// Sends the batch again on another connection, instead of taking a 408 as the response.
    #[cold]
    fn repeat(&mut self, conn: &mut Conn<'_, User>, byte_count: usize) -> usize {
        self.counters.responses.statuses[408] -= 1;
        self.counters.retried += u64::from(conn.state.awaited);
        conn.state.resend = std::mem::take(&mut conn.state.awaited);
        self.reconnect(*conn.state, conn.now_us());
        conn.state.flags |= DETACHED;
        conn.abort(CloseReason::LocallyClosed);
        byte_count
    }

    /// The class of outstanding requests whose connection closed.
    fn close_outcome(&self, user: &User, reason: CloseReason) -> Outcome {
        let is_race = matches!(reason, CloseReason::PeerClosed | CloseReason::Reset)
            && user.flags & (ANSWERED | RESPONSE_STARTED) == ANSWERED
            && user.awaited == self.config.mix.count();
        match is_race {
            true => Outcome::ClosedIdle,
            false => Outcome::from_close(reason),
        }
    }

    /// Queues a user without a connection for another one.
    fn reconnect(&mut self, mut user: User, now_us: u64) {
        if user.flags & RETIRING != 0 {
            return self.on_stopped(&user);
        }
        let mut dial_us = now_us;
        if user.flags & ANSWERED != 0 {
            user.retries = 0;
        } else {
            dial_us += BACKOFF.pause_us(u16::from(user.retries), &mut self.random);
            user.retries = user.retries.saturating_add(1);
        }
        let dial_us = dial_us.max(self.due_us(&user));
        if let (Model::Closed(..), 0) = (self.config.model, user.resend) {
            // The pause is the client's: the next request is due at its end.
            user.due = dial_us;
        }
        let again = User {
            due: user.due,
            sent: user.sent,
            retries: user.retries,
            resend: user.resend,
            flags: user.flags & URL_USED,
            ..User::default()
        };
        self.waiting.push(dial_us, again);
    }

    /// Ends a user with nothing outstanding: the number of users went down.
    fn retire(conn: &mut Conn<'_, User>) {
        conn.state.flags |= DETACHED;
        conn.close();
    }

    /// The last response of a batch is complete, and nothing came behind it.
    #[inline]
    fn on_batch_answered(&mut self, conn: &mut Conn<'_, User>, is_last: bool) {
        if conn.state.flags & RETIRING != 0 {
            return Self::retire(conn);
        }
        self.schedule_next(conn.state, conn.now_us());
        if is_last || self.config.is_reconnecting {
            self.reconnect(*conn.state, conn.now_us());
            conn.state.flags |= DETACHED;
            if is_last {
                // The server announced the close: TIME_WAIT then stays on its side, not on ours.
                conn.set_timer(conn.now_us() + DETACHED_US_MAX);
            } else {
                conn.abort(CloseReason::LocallyClosed);
            }
        } else {
            self.send_or_wait(conn);
        }
    }

    /// Connects the waiting users whose time has come.
    fn dial_waiting(&mut self, cx: &mut Context<'_, User>) {
        while cx.dial_room() > 0
            && let Some((dial_us, mut user)) = self.waiting.pop_due(cx.now_us())
        {
            user.set_sent_us(dial_us);
            if user.flags & URL_USED != 0 && user.resend == 0 {
                user.flags &= !URL_USED;
                user.set_url(self.config.mix.take_turn());
            }
            cx.dial_planned_to(self.config.mix.server(user.url()), user);
        }
    }

    /// Turns of this thread's users that are due for a tick at least and were not taken.
    fn backlog(&self, schedule: &Schedule, now_us: u64) -> u64 {
        let Some(by_us) = now_us.checked_sub(TICK_US) else {
            return 0;
        };
        let (rounds, more) = schedule.rounds(by_us);
        let started = self.spawn.present();
        let due = rounds * started + self.spawn.share_of(more).min(started);
        let gone = self.counters.turns_skipped + self.counters.turns_taken;
        due.saturating_sub(gone) * schedule.batch
    }
}

impl Handler for Users {
    type State = User;
    type Report = Counters;
    type Command = Load;

    fn on_command(&mut self, _: &mut Context<'_, User>, load: Load) {
        self.spawn.set_load(load);
    }

    fn on_turn(&mut self, cx: &mut Context<'_, User>) -> Option<u64> {
        let now_us = cx.now_us();
        if cx.is_stopping() {
            self.counters.stopped_us.get_or_insert(now_us);
            for user in std::mem::take(&mut self.waiting).drain() {
                self.on_stopped(&user);
            }
            return None;
        }
        if self.config.request_limit.is_exhausted() {
            // Only requests that are begun are still sent.
            self.waiting.retain(|user| user.resend > 0);
            self.dial_waiting(cx);
            return self.waiting.next_us();
        }
        if let Model::Open(schedule) = self.config.model {
            let backlog = self.backlog(&schedule, now_us);
            self.counters.backlog_now = backlog;
            self.counters.backlog_max = self.counters.backlog_max.max(backlog);
        }
        let due = self.spawn.due(now_us);
        // Of fewer users, those go first who have no connection, then the newest.
        while self.spawn.excess() > 0
            && let Some(user) = self.waiting.pop_first()
        {
            self.on_stopped(&user);
            self.spawn.leave();
        }
        cx.close_newest(self.spawn.excess());
        self.dial_waiting(cx);
        while cx.dial_room() > 0 {
            let number = self.spawn.next_number();
            let Some(intended_us) = self.spawn.start_next(&due) else {
                break;
            };
            self.counters.ramp_us.get_or_insert((now_us, now_us));
            self.first_attempts += 1;
            let first = match self.config.model {
                Model::Closed(..) => intended_us,
                Model::Open(schedule) => {
                    // The schedule starts with the load, not with the engine: the first turns are
                    // nobody's else.
                    let turn =
                        schedule.first_turn(number, intended_us.saturating_sub(due.started_us()));
                    self.counters.turns_skipped += turn / schedule.users;
                    turn
                }
            };
            let mut user = User {
                due: first,
                sent: intended_us,
                flags: FIRST_ATTEMPT,
                ..User::default()
            };
            user.set_url(match self.dials_for_url {
                true => self.config.mix.take_turn(),
                false => self.config.mix.url_of_user(number),
            });
            cx.dial_planned_to(self.config.mix.server(user.url()), user);
        }
        let next_user_us = self.spawn.next_us(&due);
        next_user_us.into_iter().chain(self.waiting.next_us()).min()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, User>) {
        let now_us = conn.now_us();
        if conn.state.flags & FIRST_ATTEMPT != 0 {
            self.first_attempts -= 1;
            if let Some((_, last_us)) = &mut self.counters.ramp_us {
                *last_us = now_us;
            }
            if matches!(self.config.model, Model::Closed(..)) && !self.config.is_connecting_timed {
                // Of thousands of users that start at once, most wait for the others' connections: that is in `connect_us`.
                conn.state.due = now_us;
            }
        }
        conn.state.flags &= URL_USED;
        let took_us = now_us.saturating_sub(conn.state.sent_us());
        self.counters.connect_us.saturating_record(took_us);
        if self.spawn.excess() > 0 && self.counters.stopped_us.is_none() {
            self.spawn.leave();
            self.on_stopped(conn.state);
            return Self::retire(conn);
        }
        if self.counters.stopped_us.is_none() {
            self.send_or_wait(conn);
        }
    }

    fn on_open_failed(
        &mut self,
        cx: &mut Context<'_, User>,
        _dial: DialId,
        state: &User,
        failure: OpenFailure,
    ) {
        let now_us = cx.now_us();
        let mut user = *state;
        if user.flags & FIRST_ATTEMPT != 0 {
            self.first_attempts -= 1;
            user.flags = 0;
        }
        if failure == OpenFailure::Cancelled || self.counters.stopped_us.is_some() {
            return self.on_stopped(&user);
        }
        // In the open model the connection is made ahead of the request, which fails only if it is
        // due.
        if user.resend > 0 || self.due_us(&user) <= now_us {
            user.awaited = match std::mem::take(&mut user.resend) {
                0 => self.begin_batch(&mut user),
                again => again,
            };
            self.fail_awaited(&mut user, Outcome::from_open(failure), now_us);
        }
        if self.spawn.excess() > 0 {
            return self.spawn.leave();
        }
        self.reconnect(user, now_us);
    }

    fn on_stop(&mut self, conn: &mut Conn<'_, User>) {
        if self.counters.stopped_us.is_some() {
            return conn.close();
        }
        if conn.state.flags & (DETACHED | RETIRING) != 0 {
            return;
        }
        self.spawn.leave();
        if conn.state.awaited == 0 {
            return Self::retire(conn);
        }
        conn.state.flags |= RETIRING;
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, User>, bytes: &[u8]) -> usize {
        if conn.state.flags & DETACHED != 0 || self.counters.stopped_us.is_some() {
            return bytes.len();
        }
        let now_us = conn.now_us();
        if conn.state.awaited == 0 {
            // No request is outstanding, so this answers none (RFC 9110, 15.5.9: a server may send
            // 408 on an idle connection). What would follow on this connection could not be told
            // from it.
            self.counters.unsolicited += 1;
            conn.abort(CloseReason::LocallyClosed);
            return bytes.len();
        }
        let mut at = 0;
        loop {
            let user = &mut *conn.state;
            let parsed = response::read(
                &mut user.position,
                &mut user.progress,
                &bytes[at..],
                &self.config.expectations,
                &mut self.counters.responses,
            );
            let (used, verdict, is_last) = match parsed {
                Ok(Parsed::Partial(used)) => {
                    if at < bytes.len() {
                        user.flags |= RESPONSE_STARTED;
                    }
                    return at + used;
                }
                Ok(Parsed::Complete {
                    used,
                    verdict,
                    is_last,
                }) => (used, verdict, is_last),
                Err(malformed) => {
                    self.fail_malformed(conn, malformed.label(), &bytes[at..]);
                    return bytes.len();
                }
            };
            at += used;
            if user.awaited == 1 && at < bytes.len() {
                self.fail_malformed(conn, EXCESS_BYTES, &bytes[at..]);
                return bytes.len();
            }
            if verdict == Verdict::RequestTimeout && self.may_repeat(user) {
                return self.repeat(conn, bytes.len());
            }
            user.awaited -= 1;
            user.flags = user.flags & !RESPONSE_STARTED | ANSWERED;
            let user = *conn.state;
            self.on_answered(&user, verdict, now_us);
            if user.awaited == 0 {
                self.on_batch_answered(conn, is_last);
                return at;
            }
            if is_last {
                self.on_unanswered(conn.state, Outcome::ClosedEarly, now_us);
                conn.abort(CloseReason::LocallyClosed);
                return bytes.len();
            }
        }
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, User>) {
        conn.state.flags &= !TIMER_SET;
        if conn.state.flags & DETACHED != 0 {
            return conn.abort(CloseReason::LocallyClosed);
        }
        if self.counters.stopped_us.is_some() {
            return;
        }
        if conn.state.awaited == 0 {
            return self.send_or_wait(conn);
        }
        let deadline_us = conn.state.sent_us() + self.config.timeout_us;
        if deadline_us > conn.now_us() {
            conn.state.flags |= TIMER_SET;
            return conn.set_timer(deadline_us);
        }
        self.fail_awaited(conn.state, Outcome::TimedOut, conn.now_us());
        conn.abort(CloseReason::LocallyClosed);
    }

    fn on_close(
        &mut self,
        cx: &mut Context<'_, User>,
        _id: ConnId,
        state: &User,
        reason: CloseReason,
    ) {
        let now_us = cx.now_us();
        let mut user = *state;
        if user.flags & DETACHED != 0 {
            return;
        }
        if self.counters.stopped_us.is_some() || reason == CloseReason::Aborted {
            return self.on_stopped(&user);
        }
        if user.awaited > 0
            && reason == CloseReason::PeerClosed
            && let Some(verdict) =
                response::end(user.position, user.progress, &self.config.expectations)
        {
            user.awaited -= 1;
            user.flags = user.flags & !RESPONSE_STARTED | ANSWERED;
            self.on_answered(&user, verdict, now_us);
            if user.awaited == 0 {
                self.schedule_next(&mut user, now_us);
            }
        }
        if user.awaited > 0 {
            if reason == CloseReason::BufferLimit {
                let why = Malformed::HeadTooLong.label();
                self.counters
                    .malformed
                    .record(why, u64::from(user.awaited), b"");
            }
            let outcome = self.close_outcome(&user, reason);
            self.on_unanswered(&mut user, outcome, now_us);
        }
        self.reconnect(user, now_us);
    }

    fn report(&mut self, report: &mut Counters) {
        self.counters.present = self.spawn.present();
        self.counters.is_ramped = self.spawn.is_settled() && self.first_attempts == 0;
        self.counters.publish(report);
    }
}

#[cfg(test)]
mod tests;
