//! The user of an HTTP server: asks, awaits the answer, judges it, asks again when that is due.
//!
//! ```text
//!   started ──► connecting ──► idle ──► awaiting ──► idle ...      keep-alive: one connection for all requests
//!                  ▲  │ failed            │
//!                  │  ▼                   │ ended, or to be ended after the response
//!                in line ◄────────────────┘                        until the next request is due, or a pause is over
//! ```
//!
//! Requests are sent in batches (`--pipeline`, else of one): all of a batch are due, sent and awaited together.
//! The closed model asks again a wait after the answer; the open model when its [`Schedule`] says so, and what is due while an answer
//! is awaited is sent right after it, one batch at a time.
//! The timer is set lazily: it never moves to a later deadline, but looks again when it fires.
//! Invariants: each request begun ends in exactly one [`Outcome`]; a connection that a user has left does nothing any more; memory of
//! a user is its slot, or its position in line.
//! Must not know: rings, threads, clocks, output.

use std::sync::Arc;

use holdfast_engine::config::TICK_US;
use holdfast_engine::{CloseReason, Conn, Dial, Handler, OpenFailure};

use super::counters::Counters;
use super::outcome::Outcome;
use super::request::Batch;
use super::request_limit::RequestLimit;
use super::response::{self, Expectations, Parsed, Position, Progress};
use super::schedule::Schedule;
use crate::load::{Load, Spawn};
use crate::reconnect::{Backoff, Random, ReconnectQueue};

/// Pauses of a user whose connections end without a single answer. Shorter than those of long connections: a server that is back
/// should have its load back.
const BACKOFF: Backoff = Backoff {
    first_us: 100_000,
    longest_us: 5_000_000,
};

/// How long a server that said it ends a connection may take to do so.
const LEFT_US_MAX: u64 = 1_000_000;

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
    pub batch: Batch,
    /// What is right.
    pub expectations: Expectations,
    /// A new connection for each batch.
    pub is_reconnecting: bool,
    /// How long an answer may take from the sending, microseconds.
    pub timeout_us: u64,
    /// Requests there may be.
    pub request_limit: Arc<RequestLimit>,
}

/// The user's connection was left to end by itself.
const LEFT: u8 = 1;
/// A batch was answered on this connection.
const ANSWERED: u8 = 2;
/// The timer is set, and not to later than anything that is to happen.
const TIMED: u8 = 4;
/// No attempt to connect of this user has ended yet.
const FIRST: u8 = 8;
/// There were to be fewer users: it ends when what it awaits has come.
const LEAVING: u8 = 16;

/// 40 bytes a user: a slot of one cache line.
#[derive(Debug, Clone, Copy, Default)]
pub struct User {
    /// The batch under way or next: closed model when it is due, engine time; open model its turn.
    due: u64,
    /// When the batch under way was sent. While connecting: when that was to begin.
    sent_us: u64,
    position: Position,
    progress: Progress,
    /// Responses awaited.
    awaited: u8,
    /// Connections in a row that ended without an answer.
    retries: u8,
    flags: u8,
}

const _: () = assert!(size_of::<User>() <= 40);

/// One thread's users.
pub struct Users {
    config: UserConfig,
    spawn: Spawn,
    waiting: ReconnectQueue<User>,
    /// First attempts under way.
    under_way: u64,
    random: Random,
    mine: Counters,
}

impl Users {
    /// The users of thread `share` of `share_count`; what ends before `warm_up_us` is not measured.
    pub fn new(
        config: UserConfig,
        load: Arc<Load>,
        share: usize,
        share_count: usize,
        warm_up_us: u64,
    ) -> Self {
        Users {
            config,
            spawn: Spawn::new(load, share, share_count),
            waiting: ReconnectQueue::default(),
            under_way: 0,
            random: Random::new(share),
            mine: Counters::new(warm_up_us),
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
    fn want_next(&mut self, user: &mut User, now_us: u64) {
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

    /// Nothing is under way: sends the batch that is due, or waits until one is.
    #[inline]
    fn go_on(&mut self, conn: &mut Conn<'_, User>) {
        let now_us = conn.now_us();
        let due_us = self.due_us(conn.state);
        if due_us > now_us {
            conn.state.flags |= TIMED;
            return conn.set_timer(due_us);
        }
        let count = self.config.request_limit.take(self.config.batch.count());
        if count == 0 {
            return;
        }
        conn.send_static(self.config.batch.last(count));
        self.mine.requests += u64::from(count);
        self.mine.turns_taken += 1;
        let user = &mut *conn.state;
        user.sent_us = now_us;
        user.awaited = count;
        user.position = Position::Head;
        if user.flags & TIMED == 0 {
            user.flags |= TIMED;
            conn.set_timer(now_us + self.config.timeout_us);
        }
    }

    /// All that is awaited has ended, other than by being answered.
    fn fail_awaited(&mut self, user: &mut User, outcome: Outcome, now_us: u64) {
        self.mine.failed(outcome, u64::from(user.awaited), now_us);
        user.awaited = 0;
        self.want_next(user, now_us);
    }

    /// The request that was to be next cannot be sent.
    fn fail_unsent(&mut self, user: &mut User, outcome: Outcome, now_us: u64) {
        let count = self.config.request_limit.take(self.config.batch.count());
        self.mine.requests += u64::from(count);
        self.mine.turns_taken += 1;
        user.awaited = count;
        self.fail_awaited(user, outcome, now_us);
    }

    /// Puts a user without a connection in line for another one.
    fn come_again(&mut self, mut user: User, now_us: u64) {
        if user.flags & LEAVING != 0 {
            return;
        }
        let mut dial_us = now_us;
        if user.flags & ANSWERED != 0 {
            user.retries = 0;
        } else {
            dial_us += BACKOFF.pause_us(u16::from(user.retries), &mut self.random);
            user.retries = user.retries.saturating_add(1);
        }
        let dial_us = dial_us.max(self.due_us(&user));
        if let Model::Closed(..) = self.config.model {
            // A pause is the user's own: what it wants to ask is due when it is over.
            user.due = dial_us;
        }
        let again = User {
            due: user.due,
            retries: user.retries,
            ..User::default()
        };
        self.waiting.push(dial_us, again);
    }

    /// There are to be fewer users, and this one goes: it awaits nothing.
    fn end(conn: &mut Conn<'_, User>) {
        conn.state.flags |= LEFT;
        conn.close();
    }

    /// The last answer of a batch has come, and nothing behind it.
    #[inline]
    fn on_answered(&mut self, conn: &mut Conn<'_, User>, is_last: bool) {
        conn.state.flags |= ANSWERED;
        if conn.state.flags & LEAVING != 0 {
            return Self::end(conn);
        }
        self.want_next(conn.state, conn.now_us());
        if is_last || self.config.is_reconnecting {
            self.come_again(*conn.state, conn.now_us());
            conn.state.flags |= LEFT;
            if is_last {
                // The server said it ends the connection, and so keeps its addresses busy for a while (TIME_WAIT), not ours.
                conn.set_timer(conn.now_us() + LEFT_US_MAX);
            } else {
                conn.abort(CloseReason::LocallyClosed);
            }
        } else {
            self.go_on(conn);
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
        let gone = self.mine.turns_skipped + self.mine.turns_taken;
        due.saturating_sub(gone) * schedule.batch
    }
}

impl Handler for Users {
    type State = User;
    type Report = Counters;

    fn on_turn(&mut self, dial: &mut Dial<'_, User>) -> Option<u64> {
        let now_us = dial.now_us();
        if dial.is_stopping() {
            self.mine.stopped_us.get_or_insert(now_us);
            self.waiting.clear();
            return None;
        }
        if self.config.request_limit.is_exhausted() {
            self.waiting.clear();
            return None;
        }
        if let Model::Open(schedule) = self.config.model {
            let backlog = self.backlog(&schedule, now_us);
            self.mine.backlog_now = backlog;
            self.mine.backlog_max = self.mine.backlog_max.max(backlog);
        }
        let due = self.spawn.due(now_us);
        // Of fewer users, those go first who have no connection, then the newest.
        while self.spawn.excess() > 0 && self.waiting.drop_first() {
            self.spawn.leave();
        }
        dial.close_newest(self.spawn.excess());
        while dial.room() > 0 {
            let Some((dial_us, user)) = self.waiting.pop_due(now_us) else {
                break;
            };
            dial.connect(User {
                sent_us: dial_us,
                ..user
            });
        }
        while dial.room() > 0 {
            let number = self.spawn.next_number();
            let Some(intended_us) = self.spawn.start_next(&due) else {
                break;
            };
            self.mine.ramp_us.get_or_insert((now_us, now_us));
            self.under_way += 1;
            let first = match self.config.model {
                Model::Closed(..) => intended_us,
                Model::Open(schedule) => {
                    let turn = schedule.first_turn(number, intended_us);
                    self.mine.turns_skipped += turn / schedule.users;
                    turn
                }
            };
            dial.connect(User {
                due: first,
                sent_us: intended_us,
                flags: FIRST,
                ..User::default()
            });
        }
        let next_user_us = self.spawn.next_us(&due);
        next_user_us.into_iter().chain(self.waiting.next_us()).min()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, User>) {
        let now_us = conn.now_us();
        if conn.state.flags & FIRST != 0 {
            self.under_way -= 1;
            if let Some((_, last_us)) = &mut self.mine.ramp_us {
                *last_us = now_us;
            }
        }
        conn.state.flags = 0;
        let took_us = now_us.saturating_sub(conn.state.sent_us);
        self.mine.connect_us.saturating_record(took_us);
        if self.spawn.excess() > 0 && self.mine.stopped_us.is_none() {
            self.spawn.leave();
            return Self::end(conn);
        }
        if self.mine.stopped_us.is_none() {
            self.go_on(conn);
        }
    }

    fn on_open_failed(&mut self, state: &User, failure: OpenFailure, now_us: u64) {
        let mut user = *state;
        if user.flags & FIRST != 0 {
            self.under_way -= 1;
            user.flags = 0;
        }
        if failure == OpenFailure::Cancelled || self.mine.stopped_us.is_some() {
            return;
        }
        // In the open model the connection is made ahead of the request, which is lost only if it is due.
        if self.due_us(&user) <= now_us {
            self.fail_unsent(&mut user, Outcome::from_open(failure), now_us);
        }
        if self.spawn.excess() > 0 {
            return self.spawn.leave();
        }
        self.come_again(user, now_us);
    }

    fn on_stop(&mut self, conn: &mut Conn<'_, User>) {
        if self.mine.stopped_us.is_some() {
            return conn.close();
        }
        if conn.state.flags & (LEFT | LEAVING) != 0 {
            return;
        }
        self.spawn.leave();
        if conn.state.awaited == 0 {
            return Self::end(conn);
        }
        conn.state.flags |= LEAVING;
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, User>, bytes: &[u8]) -> usize {
        if conn.state.flags & LEFT != 0 || self.mine.stopped_us.is_some() {
            return bytes.len();
        }
        let now_us = conn.now_us();
        if conn.state.awaited == 0 {
            // Nobody asked. What is to be asked next could not be told from it.
            self.fail_unsent(conn.state, Outcome::Malformed, now_us);
            conn.abort(CloseReason::LocallyClosed);
            return bytes.len();
        }
        let mut at = 0;
        loop {
            let user = &mut *conn.state;
            let found = response::read(
                &mut user.position,
                &mut user.progress,
                &bytes[at..],
                &self.config.expectations,
                &mut self.mine.responses,
            );
            let (used, verdict, is_last) = match found {
                Ok(Parsed::Partial(used)) => return at + used,
                Ok(Parsed::Complete {
                    used,
                    verdict,
                    is_last,
                }) => (used, verdict, is_last),
                Err(_) => break,
            };
            at += used;
            if user.awaited == 1 && at < bytes.len() {
                // More than was asked for.
                break;
            }
            user.awaited -= 1;
            let (user, due_us) = (*conn.state, self.due_us(conn.state));
            self.mine.answered(verdict, due_us, user.sent_us, now_us);
            if user.awaited == 0 {
                self.on_answered(conn, is_last);
                return at;
            }
            if is_last {
                // Those sent behind it will not be answered.
                conn.state.flags |= ANSWERED;
                self.fail_awaited(conn.state, Outcome::ClosedEarly, now_us);
                conn.abort(CloseReason::LocallyClosed);
                return bytes.len();
            }
        }
        self.fail_awaited(conn.state, Outcome::Malformed, now_us);
        conn.abort(CloseReason::LocallyClosed);
        bytes.len()
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, User>) {
        conn.state.flags &= !TIMED;
        if conn.state.flags & LEFT != 0 {
            return conn.abort(CloseReason::LocallyClosed);
        }
        if self.mine.stopped_us.is_some() {
            return;
        }
        if conn.state.awaited == 0 {
            return self.go_on(conn);
        }
        let deadline_us = conn.state.sent_us + self.config.timeout_us;
        if deadline_us > conn.now_us() {
            conn.state.flags |= TIMED;
            return conn.set_timer(deadline_us);
        }
        self.fail_awaited(conn.state, Outcome::TimedOut, conn.now_us());
        conn.abort(CloseReason::LocallyClosed);
    }

    fn on_close(&mut self, state: &User, reason: CloseReason, now_us: u64) {
        let mut user = *state;
        if user.flags & LEFT != 0 {
            return;
        }
        if self.mine.stopped_us.is_some() || reason == CloseReason::Aborted {
            return self.mine.stopped(u64::from(user.awaited));
        }
        if user.awaited > 0
            && reason == CloseReason::PeerClosed
            && let Some(verdict) =
                response::end(user.position, user.progress, &self.config.expectations)
        {
            user.awaited -= 1;
            user.flags |= ANSWERED;
            let due_us = self.due_us(&user);
            self.mine.answered(verdict, due_us, user.sent_us, now_us);
            if user.awaited == 0 {
                self.want_next(&mut user, now_us);
            }
        }
        if user.awaited > 0 {
            self.fail_awaited(&mut user, Outcome::from_close(reason), now_us);
        }
        self.come_again(user, now_us);
    }

    fn report(&mut self, report: &mut Counters) {
        self.mine.present = self.spawn.present();
        self.mine.is_ramped = self.spawn.is_settled() && self.under_way == 0;
        self.mine.publish(report);
    }
}

#[cfg(test)]
mod tests;
