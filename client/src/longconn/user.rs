//! The user of a long connection: connects once, then receives, checks and times what the server
//! sends.
//!
//! Messages of one user are an interval apart, so the earliest one seen fixes when all others are
//! due; the first one is due one interval after the opening at the latest. A message is late by the
//! time since it was due, and missed once another interval has passed, even if it arrives later.
//! How a connection was held ([`Ended`]) and how it was closed ([`UserReport::closed`]) are two
//! things: a server that never answers our close, or answers it with a reset, has held it all the
//! same.
//! Where users send and no interval is expected, the next message answers what was sent: that is
//! the response time.
//! Invariants: each attempt ends in exactly one class, each opened connection in exactly one
//! [`Ended`]; memory of a user is its slot, except for users that wait to reconnect.
//! Must not depend on: rings, threads, clocks, output.

use hdrhistogram::Histogram;
use holdfast_engine::{CloseReason, Conn, ConnId, Context, DialId, Handler, OpenFailure};

use crate::aggregate::{drain_into, histogram};
use crate::load::{Load, Spawn};
use crate::reconnect::{Backoff, Random, ReconnectQueue};
use crate::turns::Turns;

/// Engine time in steps of 10 microseconds, wrapping after 11.9 hours; compared by difference.
type Step = u32;
const STEP_US: u64 = 10;

/// What users are to do.
#[derive(Debug, Clone, Copy)]
pub struct UserConfig {
    /// What each message must be; empty: whatever comes is right.
    pub expect: &'static [u8],
    /// The interval messages are expected at, microseconds; 0: none is expected.
    pub interval_us: u64,
    /// What to send upward, and how often, microseconds.
    pub send: Option<(&'static [u8], u64)>,
    /// Connect again after a failure or an end that was not ours.
    pub reconnect: Option<Backoff>,
}

/// How an opened connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Held to the end of the run, every due message received and right.
    Held,
    /// The same, until there were to be fewer users.
    Stopped,
    /// Something else than what was expected came.
    WrongData,
    /// A due message did not come in time.
    MissedMessage,
    /// The server ended it.
    ClosedByServer,
    /// It was reset.
    Reset,
    /// The kernel gave up on the server.
    TimedOut,
    /// We ended it before the end of the run.
    ClosedByUs,
    /// We closed it before the end of the run, and the server did not answer in time.
    Cut,
    /// The server accepted no more data.
    Stalled,
    /// The network said that the server cannot be reached.
    Unreachable,
    /// Any other error.
    Other,
}

impl Ended {
    /// Every class with its name in reports.
    pub const ALL: [(Ended, &'static str); 12] = [
        (Ended::Held, "held"),
        (Ended::Stopped, "stopped"),
        (Ended::WrongData, "wrong_data"),
        (Ended::MissedMessage, "missed_message"),
        (Ended::ClosedByServer, "closed_by_server"),
        (Ended::Reset, "reset"),
        (Ended::TimedOut, "timed_out"),
        (Ended::ClosedByUs, "closed_by_us"),
        (Ended::Cut, "cut"),
        (Ended::Stalled, "stalled"),
        (Ended::Unreachable, "unreachable"),
        (Ended::Other, "other"),
    ];
}

/// How a connection that we closed at the end was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The server closed its side too.
    Gracefully,
    /// The server did not close its side in time: `--drain-timeout`.
    Aborted,
    /// The server, or the network, answered with an error.
    Reset,
}

impl Closed {
    /// Every class with its name in reports.
    pub const ALL: [(Closed, &'static str); 3] = [
        (Closed::Gracefully, "gracefully"),
        (Closed::Aborted, "aborted"),
        (Closed::Reset, "reset"),
    ];
}

/// What the control plane reads from one thread.
#[derive(Debug)]
pub struct UserReport {
    /// Opened connections that ended, by [`Ended`] number.
    pub ended: [u64; Ended::ALL.len()],
    /// Connections that we closed at the end, by [`Closed`] number.
    pub closed: [u64; Closed::ALL.len()],
    /// Whole right messages.
    pub received: u64,
    /// Messages that were not what was expected.
    pub wrong: u64,
    /// Messages that did not come when due.
    pub missed: u64,
    /// Messages sent upward.
    pub sent: u64,
    /// Users of this thread.
    pub present: u64,
    /// There are as many of them as there are to be, and no attempt is under way.
    pub is_ramped: bool,
    /// Engine time of the first attempt and of the last opening.
    pub ramp_us: Option<(u64, u64)>,
    /// Connect times from the intended start since the reader last emptied it, microseconds.
    pub connect_us: Histogram<u64>,
    /// Lateness of messages since the reader last emptied it, microseconds.
    pub lateness_us: Histogram<u64>,
    /// Response times since the reader last emptied it, microseconds.
    pub response_us: Histogram<u64>,
}

impl Default for UserReport {
    fn default() -> Self {
        UserReport {
            ended: [0; Ended::ALL.len()],
            closed: [0; Closed::ALL.len()],
            received: 0,
            wrong: 0,
            missed: 0,
            sent: 0,
            present: 0,
            is_ramped: false,
            ramp_us: None,
            connect_us: histogram(),
            lateness_us: histogram(),
            response_us: histogram(),
        }
    }
}

const ANCHORED: u16 = 1;
const WRONG: u16 = 2;
const MISSED: u16 = 4;
/// The number of users went down: this one is closing.
const LEAVING: u16 = 8;
/// We closed it, because the run or the user ends.
const CLOSING: u16 = 16;
/// What was sent last is not answered.
const AWAITING: u16 = 32;
/// How often it reconnected in a row.
const RETRIES_MASK: u16 = 0x3C0;
const RETRIES_SHIFT: u32 = 6;
/// After so many retries every pause is the longest.
const RETRIES_MAX: u16 = RETRIES_MASK >> RETRIES_SHIFT;
/// The server that it keeps to.
const SERVER_SHIFT: u32 = 10;
/// Most servers that users keep to.
pub const SERVER_COUNT_MAX: usize = 1 << (u16::BITS - SERVER_SHIFT);

/// 8 bytes a user.
#[derive(Debug, Clone, Copy, Default)]
pub struct User {
    /// While connecting: the intended start. When open: when the next message is due, or, where
    /// none is, when the oldest unanswered message was sent.
    at: Step,
    /// Bytes of an unfinished message received.
    position: u16,
    /// Bits above.
    flags: u16,
}

/// One thread's users.
pub struct Users {
    config: UserConfig,
    spawn: Spawn,
    /// Attempts under way.
    under_way: u64,
    /// Users that wait to connect again: flags of the next attempt.
    waiting: ReconnectQueue<u16>,
    /// The servers of users, by their numbers.
    servers: Option<Turns>,
    stopping_us: Option<u64>,
    random: Random,
    mine: UserReport,
}

impl Users {
    /// The users of thread `share` of `share_count`.
    pub fn new(config: UserConfig, load: Load, share: usize, share_count: usize) -> Self {
        Users {
            config,
            spawn: Spawn::new(load, share, share_count),
            under_way: 0,
            waiting: ReconnectQueue::default(),
            servers: None,
            stopping_us: None,
            random: Random::new(share),
            mine: UserReport::default(),
        }
    }

    /// Has each user keep to the server whose turn its number is, of the groups of the plan: at most
    /// [`SERVER_COUNT_MAX`].
    #[must_use]
    pub fn with_servers(mut self, servers: Turns) -> Self {
        self.servers = Some(servers);
        self
    }

    /// Puts a user with these flags back in line, if users reconnect.
    fn come_again(&mut self, flags: u16, now_us: u64) {
        let Some(backoff) = self.config.reconnect else {
            return;
        };
        if self.stopping_us.is_some() {
            return;
        }
        let retries = (flags & RETRIES_MASK) >> RETRIES_SHIFT;
        let pause_us = backoff.pause_us(retries, &mut self.random);
        let retries = (retries + 1).min(RETRIES_MAX);
        let server = flags >> SERVER_SHIFT;
        let flags = server << SERVER_SHIFT | retries << RETRIES_SHIFT;
        self.waiting.push(now_us + pause_us, flags);
    }

    /// Connects a user that was due at `due_us`.
    fn dial(&mut self, cx: &mut Context<'_, User>, due_us: u64, flags: u16) {
        self.under_way += 1;
        let user = User {
            at: step(due_us),
            position: 0,
            flags,
        };
        cx.dial_planned_to(flags >> SERVER_SHIFT, user);
    }

    /// Counts what was due by a time and not there when the one after it was due already.
    fn count_missed(&mut self, user: &mut User, until_us: u64) {
        if self.config.interval_us == 0 {
            return;
        }
        let overdue = step(until_us).wrapping_sub(user.at) as i32;
        let every = (self.config.interval_us / STEP_US) as i32;
        if overdue >= every {
            self.mine.missed += (overdue / every) as u64;
            user.flags |= MISSED;
        }
    }

    /// There are to be fewer users, and this one goes.
    fn leave(&mut self, conn: &mut Conn<'_, User>) {
        self.spawn.leave();
        self.count_missed(conn.state, conn.now_us());
        conn.state.flags |= LEAVING | CLOSING;
        conn.close();
    }

    fn on_message(&mut self, user: &mut User, now: Step) {
        self.mine.received += 1;
        let interval_us = self.config.interval_us;
        // Messages that arrive after the stop count, but are not timed: closing a million
        // connections takes its time.
        let is_over = self.stopping_us.is_some() || user.flags & LEAVING != 0;
        if is_over {
            return;
        }
        let late = now.wrapping_sub(user.at) as i32;
        if interval_us == 0 {
            if user.flags & AWAITING != 0 {
                user.flags &= !AWAITING;
                let response_us = late.max(0) as u64 * STEP_US;
                self.mine.response_us.saturating_record(response_us);
            }
            return;
        }
        self.mine
            .lateness_us
            .saturating_record(late.max(0) as u64 * STEP_US);
        let every = (interval_us / STEP_US) as u32;
        let missed = late.max(0) as u32 / every;
        if missed > 0 {
            self.mine.missed += u64::from(missed);
            user.flags |= MISSED;
        }
        if user.flags & ANCHORED == 0 || late < 0 {
            // Before now, only the latest possible time was known: this message fixes the grid.
            user.flags |= ANCHORED;
            user.at = now.wrapping_add(every);
        } else {
            user.at = user.at.wrapping_add(every * (missed + 1));
        }
    }
}

fn step(us: u64) -> Step {
    (us / STEP_US) as Step
}

impl Handler for Users {
    type State = User;
    type Report = UserReport;
    type Command = Load;

    fn on_command(&mut self, _: &mut Context<'_, User>, load: Load) {
        self.spawn.set_load(load);
    }

    fn on_turn(&mut self, cx: &mut Context<'_, User>) -> Option<u64> {
        let now_us = cx.now_us();
        if cx.is_stopping() {
            self.stopping_us.get_or_insert(now_us);
            drop(self.waiting.drain());
            return None;
        }
        let due = self.spawn.due(now_us);
        // Of fewer users, those go first who have no connection, then the newest.
        while self.spawn.excess() > 0 && self.waiting.pop_first().is_some() {
            self.spawn.leave();
        }
        cx.close_newest(self.spawn.excess());
        while cx.dial_room() > 0 {
            let Some((due_us, flags)) = self.waiting.pop_due(now_us) else {
                break;
            };
            self.dial(cx, due_us, flags);
        }
        while cx.dial_room() > 0 {
            let number = self.spawn.next_number();
            let Some(intended_us) = self.spawn.start_next(&due) else {
                break;
            };
            self.mine.ramp_us.get_or_insert((now_us, now_us));
            let server = self.servers.as_ref().map_or(0, |turns| turns.at(number));
            self.dial(cx, intended_us, server << SERVER_SHIFT);
        }
        let next_user_us = self.spawn.next_us(&due);
        next_user_us.into_iter().chain(self.waiting.next_us()).min()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, User>) {
        let now_us = conn.now_us();
        self.under_way -= 1;
        if let Some((_, last_us)) = &mut self.mine.ramp_us {
            *last_us = now_us;
        }
        let took = step(now_us).wrapping_sub(conn.state.at) as i32;
        self.mine
            .connect_us
            .saturating_record(took.max(0) as u64 * STEP_US);
        *conn.state = User {
            at: step(now_us + self.config.interval_us),
            position: 0,
            flags: conn.state.flags,
        };
        if self.spawn.excess() > 0 {
            return self.leave(conn);
        }
        if let Some((_, interval_us)) = self.config.send {
            let first_us = (interval_us as f64 * self.random.fraction()) as u64;
            conn.set_timer(now_us + first_us);
        }
    }

    fn on_open_failed(
        &mut self,
        cx: &mut Context<'_, User>,
        _dial: DialId,
        state: &User,
        _failure: OpenFailure,
    ) {
        self.under_way -= 1;
        if self.spawn.excess() > 0 {
            return self.spawn.leave();
        }
        self.come_again(state.flags, cx.now_us());
    }

    fn on_stop(&mut self, conn: &mut Conn<'_, User>) {
        if self.stopping_us.is_some() {
            conn.state.flags |= CLOSING;
            conn.close();
        } else if conn.state.flags & LEAVING == 0 {
            self.leave(conn);
        }
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, User>, bytes: &[u8]) -> usize {
        let now = step(conn.now_us());
        let expect = self.config.expect;
        let user = &mut *conn.state;
        // A server that sends is worth reconnecting to soon.
        user.flags &= !RETRIES_MASK;
        if expect.is_empty() {
            self.on_message(user, now);
            return bytes.len();
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let wanted = &expect[usize::from(user.position)..];
            let length = wanted.len().min(rest.len());
            if rest[..length] != wanted[..length] {
                // What follows a wrong byte has no known beginning: the chunk counts as one wrong
                // message.
                user.position = 0;
                user.flags |= WRONG;
                self.mine.wrong += 1;
                break;
            }
            rest = &rest[length..];
            if length == wanted.len() {
                user.position = 0;
                self.on_message(user, now);
            } else {
                user.position += length as u16;
            }
        }
        bytes.len()
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, User>) {
        let Some((message, interval_us)) = self.config.send else {
            return;
        };
        if conn.is_blocked() {
            return conn.abort(CloseReason::Stalled);
        }
        conn.send_static(message);
        self.mine.sent += 1;
        if self.config.interval_us == 0 && conn.state.flags & AWAITING == 0 {
            conn.state.flags |= AWAITING;
            conn.state.at = step(conn.now_us());
        }
        conn.set_timer(conn.now_us() + interval_us);
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
        let is_leaving = user.flags & LEAVING != 0;
        if !is_leaving {
            self.count_missed(&mut user, self.stopping_us.unwrap_or(now_us));
        }
        let is_closing = user.flags & CLOSING != 0;
        if is_closing {
            let closed = match reason {
                CloseReason::LocallyClosed | CloseReason::PeerClosed => Closed::Gracefully,
                CloseReason::Aborted => Closed::Aborted,
                _ => Closed::Reset,
            };
            self.mine.closed[closed as usize] += 1;
        }
        let ended = match reason {
            _ if is_closing && user.flags & WRONG != 0 => Ended::WrongData,
            _ if is_closing && user.flags & MISSED != 0 => Ended::MissedMessage,
            // Lost before we closed it: our close only brought it to light.
            CloseReason::TimedOut => Ended::TimedOut,
            CloseReason::Unreachable => Ended::Unreachable,
            _ if is_leaving => Ended::Stopped,
            _ if is_closing => Ended::Held,
            CloseReason::PeerClosed => Ended::ClosedByServer,
            CloseReason::Reset => Ended::Reset,
            CloseReason::Stalled | CloseReason::BufferLimit => Ended::Stalled,
            CloseReason::LocallyClosed if user.flags & WRONG != 0 => Ended::WrongData,
            CloseReason::LocallyClosed if user.flags & MISSED != 0 => Ended::MissedMessage,
            CloseReason::LocallyClosed if self.stopping_us.is_some() => Ended::Held,
            CloseReason::LocallyClosed => Ended::ClosedByUs,
            CloseReason::Aborted => Ended::Cut,
            _ => Ended::Other,
        };
        self.mine.ended[ended as usize] += 1;
        if reason != CloseReason::LocallyClosed && !is_leaving {
            self.come_again(state.flags, now_us);
        }
    }

    fn report(&mut self, report: &mut UserReport) {
        report.ended = self.mine.ended;
        report.closed = self.mine.closed;
        report.received = self.mine.received;
        report.wrong = self.mine.wrong;
        report.missed = self.mine.missed;
        report.sent = self.mine.sent;
        report.ramp_us = self.mine.ramp_us;
        report.present = self.spawn.present();
        report.is_ramped = self.spawn.is_settled() && self.under_way == 0;
        drain_into(&mut self.mine.connect_us, &mut report.connect_us);
        drain_into(&mut self.mine.lateness_us, &mut report.lateness_us);
        drain_into(&mut self.mine.response_us, &mut report.response_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callbacks::{dialled, end, fail, stop};
    use holdfast_engine::Recorder;

    fn users(interval_us: u64) -> Users {
        let config = UserConfig {
            expect: b"ok",
            interval_us,
            send: None,
            reconnect: None,
        };
        Users::new(config, crate::load::fixed(1_000, Load::MAX), 0, 1)
    }

    fn receive(users: &mut Users, user: &mut User, now_us: u64, bytes: &[u8]) {
        let mut recorder = Recorder::default();
        users.on_bytes(&mut Conn::new(user, now_us, false, &mut recorder), bytes);
    }

    fn opened(users: &mut Users, now_us: u64) -> User {
        let mut user = dialled(users, now_us).remove(0);
        let mut recorder = Recorder::default();
        users.on_open(&mut Conn::new(&mut user, now_us, false, &mut recorder));
        user
    }

    #[test]
    fn messages_split_anywhere_or_joined_are_the_same() {
        let mut users = users(0);
        let mut user = opened(&mut users, 0);
        for chunk in [&b"o"[..], b"k", b"ok", b"oko", b"kok"] {
            receive(&mut users, &mut user, 1_000, chunk);
        }
        assert_eq!((users.mine.received, users.mine.wrong), (5, 0));
        receive(&mut users, &mut user, 1_000, b"no");
        assert_eq!((users.mine.received, users.mine.wrong), (5, 1));
    }

    #[test]
    fn lateness_is_on_the_grid_of_the_earliest_message() {
        let mut users = users(1_000_000);
        let mut user = opened(&mut users, 0);
        for at_us in [400_000, 1_400_000, 2_450_000, 3_400_000] {
            receive(&mut users, &mut user, at_us, b"ok");
        }
        assert_eq!((users.mine.missed, users.mine.received), (0, 4));
        assert!(
            (49_900..=50_100).contains(&users.mine.lateness_us.max()),
            "the third was 50 ms late"
        );
        receive(&mut users, &mut user, 6_500_000, b"ok");
        assert_eq!(users.mine.missed, 2, "those due at 4.4 and 5.4");
    }

    #[test]
    fn pauses_grow_while_the_server_only_closes() {
        let mut users = users(0);
        users.config.reconnect = Some(Backoff {
            first_us: 1_000_000,
            longest_us: 60_000_000,
        });
        let mut recorder = Recorder::default();
        let mut user = opened(&mut users, 0);
        let mut last_pause_us = 0;
        for _ in 0..3 {
            end(&mut users, &user, CloseReason::PeerClosed, 0);
            let (due_us, flags) = users.waiting.pop_due(u64::MAX).expect("it comes again");
            assert!(due_us > last_pause_us, "{due_us} after {last_pause_us}");
            // At most twice the half of the pause before.
            last_pause_us = due_us;
            user = User {
                at: 0,
                position: 0,
                flags,
            };
            users.under_way += 1;
            users.on_open(&mut Conn::new(&mut user, 0, false, &mut recorder));
        }
        receive(&mut users, &mut user, 0, b"ok");
        end(&mut users, &user, CloseReason::PeerClosed, 0);
        assert!(
            users.waiting.next_us().expect("again") <= 1_000_000,
            "it talked: back to the first pause"
        );
    }

    #[test]
    fn users_keep_to_their_server_through_failures_and_messages() {
        let mut users = users(0).with_servers(Turns::new(&[1; SERVER_COUNT_MAX]).unwrap());
        users.config.reconnect = Some(Backoff {
            first_us: 10_000,
            longest_us: 60_000_000,
        });
        let server = |user: &User| usize::from(user.flags >> SERVER_SHIFT);
        let all = dialled(&mut users, 0);
        assert!(
            all.iter()
                .enumerate()
                .all(|(n, u)| server(u) == n % SERVER_COUNT_MAX)
        );
        let mut user = all[63];
        for retry in 0..30 {
            fail(&mut users, &user, OpenFailure::Refused, 0);
            let (due_us, flags) = users.waiting.pop_due(u64::MAX).expect("it comes again");
            if retry >= 13 {
                assert!(due_us >= 30_000_000, "{due_us}");
            }
            user.flags = flags;
            assert_eq!(server(&user), 63);
            users.under_way += 1;
        }
        receive(&mut users, &mut user, 0, b"ok");
        assert_eq!((server(&user), user.flags & RETRIES_MASK), (63, 0));
    }

    fn closed(users: &mut Users, user: &mut User, reason: CloseReason) -> Option<Ended> {
        let before = users.mine.ended;
        let mut recorder = Recorder::default();
        users.on_stop(&mut Conn::new(user, 1_100_000, false, &mut recorder));
        end(users, user, reason, 1_200_000);
        let grown =
            |(ended, _): &&(Ended, _)| users.mine.ended[*ended as usize] > before[*ended as usize];
        Ended::ALL.iter().find(grown).map(|(ended, _)| *ended)
    }

    #[test]
    fn close_class_is_independent_of_hold_class() {
        let mut users = users(1_000_000);
        let all: Vec<User> = dialled(&mut users, 0);
        stop(&mut users, 1_000_000);
        for (reason, expected) in [
            (CloseReason::LocallyClosed, Ended::Held),
            (CloseReason::Aborted, Ended::Held),
            (CloseReason::Reset, Ended::Held),
            (CloseReason::TimedOut, Ended::TimedOut),
        ] {
            let mut user = User {
                at: step(1_500_000),
                ..all[0]
            };
            assert_eq!(closed(&mut users, &mut user, reason), Some(expected));
        }
        assert_eq!(users.mine.closed, [1, 1, 2]);
    }

    #[test]
    fn a_first_message_later_than_its_interval_is_missed() {
        let mut users = users(1_000_000);
        let mut user = opened(&mut users, 0);
        // Due at 1 s at the latest, and missed when the next one is due.
        receive(&mut users, &mut user, 1_900_000, b"ok");
        assert_eq!(users.mine.missed, 0);
        let mut users = super::tests::users(1_000_000);
        let mut user = opened(&mut users, 1_900_000);
        receive(&mut users, &mut user, 8_000_000, b"ok");
        assert_eq!(users.mine.missed, 5);
        end(&mut users, &user, CloseReason::LocallyClosed, 8_100_000);
        assert_eq!(users.mine.ended[Ended::MissedMessage as usize], 1);
    }

    #[test]
    fn next_message_answers_the_sent_one() {
        let mut users = users(0);
        users.config.send = Some((b"ping", 200_000));
        let mut user = opened(&mut users, 0);
        let mut recorder = Recorder::default();
        users.on_timer(&mut Conn::new(&mut user, 100_000, false, &mut recorder));
        receive(&mut users, &mut user, 130_000, b"o");
        assert_eq!(users.mine.response_us.len(), 0, "not whole");
        receive(&mut users, &mut user, 131_000, b"k");
        receive(&mut users, &mut user, 150_000, b"ok");
        let times = &users.mine.response_us;
        assert_eq!((times.len(), times.max() / 1_000), (1, 31));
    }

    #[test]
    fn silence_to_the_end_is_missed_not_held() {
        let mut users = users(1_000_000);
        let user = opened(&mut users, 0);
        stop(&mut users, 2_000_000);
        end(&mut users, &user, CloseReason::LocallyClosed, 2_100_000);
        assert_eq!(users.mine.ended[Ended::MissedMessage as usize], 1);
        assert_eq!(users.mine.missed, 1);
    }
}
