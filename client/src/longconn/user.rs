//! The user of a long connection: connects once, then receives, checks and times what the server pushes.
//!
//! Lateness is measured on the grid the server promised: messages of one user are an interval apart, so the earliest one seen fixes
//! when all the others are due. The first one is due one interval after the opening at the latest.
//! Invariants: each attempt ends in exactly one class, each opened connection in exactly one [`Ended`]; memory of a user is its slot,
//! but for those that wait to reconnect.
//! Must not know: rings, threads, clocks, output.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;
use holdfast_engine::{CloseReason, Conn, Dial, Handler, OpenFailure};

/// Engine time in steps of 10 microseconds, wrapping after 11.9 hours; compared by difference.
type Step = u32;
const STEP_US: u64 = 10;
/// 2^64 / golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
/// Largest latency a histogram distinguishes: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// What users are to do.
#[derive(Debug, Clone, Copy)]
pub struct UserConfig {
    /// What each message must be; empty: whatever comes is right.
    pub expect: &'static [u8],
    /// The interval messages are expected at, microseconds; 0: none is expected.
    pub every_us: u64,
    /// What to send upward, and how often, microseconds.
    pub send: Option<(&'static [u8], u64)>,
    /// Connect again after a failure or an end that was not ours: first and longest pause, microseconds.
    pub reconnect_us: Option<(u64, u64)>,
}

/// How many users there are to be, and how fast; may change while running.
#[derive(Debug)]
pub struct Load {
    /// Users over all threads.
    pub users: AtomicU64,
    /// Users to start a second over all threads, in thousandths; [`Load::MAX`] for as fast as it goes.
    pub spawn_rate_milli: AtomicU64,
}

impl Load {
    /// As fast as it goes.
    pub const MAX: u64 = u64::MAX;
}

/// How an opened connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Held to the end of the run, every due message received and right.
    Held,
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
    /// The server did not answer our end in time.
    Cut,
    /// Any other error.
    Other,
}

impl Ended {
    /// Every class with its name in reports.
    pub const ALL: [(Ended, &'static str); 9] = [
        (Ended::Held, "held"),
        (Ended::WrongData, "wrong_data"),
        (Ended::MissedMessage, "missed_message"),
        (Ended::ClosedByServer, "closed_by_server"),
        (Ended::Reset, "reset"),
        (Ended::TimedOut, "timed_out"),
        (Ended::ClosedByUs, "closed_by_us"),
        (Ended::Cut, "cut"),
        (Ended::Other, "other"),
    ];
}

/// What the control plane reads from one thread.
#[derive(Debug)]
pub struct UserReport {
    /// Opened connections that ended, by [`Ended`] number.
    pub ended: [u64; Ended::ALL.len()],
    /// Whole right messages.
    pub received: u64,
    /// Messages that were not what was expected.
    pub wrong: u64,
    /// Messages that did not come when due.
    pub missed: u64,
    /// Messages sent upward.
    pub sent: u64,
    /// Every user of this thread was attempted once, and none is under way.
    pub is_ramped: bool,
    /// Engine time of the first attempt and of the last opening.
    pub ramp_us: Option<(u64, u64)>,
    /// Connect times from the intended start since the reader last emptied it, microseconds.
    pub connect_us: Histogram<u64>,
    /// Lateness of messages since the reader last emptied it, microseconds.
    pub lateness_us: Histogram<u64>,
}

/// An empty histogram of microseconds up to an hour, 3 significant digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("constant bounds are valid")
}

impl Default for UserReport {
    fn default() -> Self {
        UserReport {
            ended: [0; Ended::ALL.len()],
            received: 0,
            wrong: 0,
            missed: 0,
            sent: 0,
            is_ramped: false,
            ramp_us: None,
            connect_us: histogram(),
            lateness_us: histogram(),
        }
    }
}

const ANCHORED: u16 = 1;
const WRONG: u16 = 2;
const MISSED: u16 = 4;
const RETRIES_SHIFT: u32 = 8;

/// 8 bytes a user.
#[derive(Debug, Clone, Copy, Default)]
pub struct User {
    /// While connecting: the intended start. When open: when the next message is due.
    at: Step,
    /// Bytes of an unfinished message received.
    position: u16,
    /// Bits above, and in the upper byte how often it reconnected in a row.
    flags: u16,
}

/// One thread's users.
pub struct Users {
    config: UserConfig,
    load: Arc<Load>,
    share: u64,
    share_count: u64,
    /// Users started.
    started: u64,
    /// Attempts under way.
    under_way: u64,
    /// Since when the rate counts, and how many had been started by then.
    pace_from: Option<(u64, u64, u64)>,
    /// Users that wait to connect again: when, how often they have in a row.
    waiting: BinaryHeap<Reverse<(u64, u16)>>,
    stopping_us: Option<u64>,
    random: u64,
    mine: UserReport,
}

impl Users {
    /// The users of thread `share` of `share_count`.
    pub fn new(config: UserConfig, load: Arc<Load>, share: usize, share_count: usize) -> Self {
        Users {
            config,
            load,
            share: share as u64,
            share_count: share_count as u64,
            started: 0,
            under_way: 0,
            pace_from: None,
            waiting: BinaryHeap::new(),
            stopping_us: None,
            random: GOLDEN.wrapping_mul(share as u64 + 1),
            mine: UserReport::default(),
        }
    }

    /// This thread's share of all users.
    fn target(&self) -> u64 {
        let users = self.load.users.load(Ordering::Relaxed);
        (users + self.share_count - 1 - self.share) / self.share_count
    }

    /// How many users may have been started by now, and when the next one is due.
    fn pace(&mut self, now_us: u64) -> (u64, Option<u64>) {
        let rate_milli = self.load.spawn_rate_milli.load(Ordering::Relaxed);
        if rate_milli == Load::MAX {
            return (u64::MAX, None);
        }
        let (from_us, from_count) = match self.pace_from {
            Some((rate, from_us, from_count)) if rate == rate_milli => (from_us, from_count),
            _ => {
                self.pace_from = Some((rate_milli, now_us, self.started));
                (now_us, self.started)
            }
        };
        // User k of this thread is due at from + (k * threads + share) / rate, so that threads take turns.
        let due_us = |k: u64| {
            let place =
                u128::from(k - from_count) * u128::from(self.share_count) + u128::from(self.share);
            from_us + (place * 1_000_000_000 / u128::from(rate_milli.max(1))) as u64
        };
        let elapsed = u128::from(now_us - from_us) * u128::from(rate_milli);
        let places = elapsed / 1_000_000_000;
        let mut count = from_count;
        if places >= u128::from(self.share) {
            count += ((places - u128::from(self.share)) / u128::from(self.share_count)) as u64 + 1;
        }
        (count, Some(due_us(count)))
    }

    fn random_fraction(&mut self) -> f64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts a user back in line, if users reconnect.
    fn come_again(&mut self, retries: u16, now_us: u64) {
        let Some((first_us, longest_us)) = self.config.reconnect_us else {
            return;
        };
        if self.stopping_us.is_some() {
            return;
        }
        let pause_us = first_us
            .saturating_mul(1 << retries.min(20))
            .min(longest_us);
        // Half to whole, so that users who were lost together do not come back together.
        let pause_us = (pause_us as f64 * (0.5 + 0.5 * self.random_fraction())) as u64;
        self.waiting
            .push(Reverse((now_us + pause_us, (retries + 1).min(255))));
    }

    fn on_message(&mut self, user: &mut User, now: Step) {
        self.mine.received += 1;
        let every_us = self.config.every_us;
        if every_us == 0 {
            return;
        }
        if self.stopping_us.is_some() {
            // The run is over: what still arrives counts, but a million connections being closed is not what is timed.
            return;
        }
        let every = (every_us / STEP_US) as u32;
        let late = now.wrapping_sub(user.at) as i32;
        if user.flags & ANCHORED == 0 || late < 0 {
            // Before now, only the latest possible time was known: this message fixes the grid.
            self.mine
                .lateness_us
                .saturating_record(late.max(0) as u64 * STEP_US);
            user.flags |= ANCHORED;
            user.at = now.wrapping_add(every);
            return;
        }
        self.mine
            .lateness_us
            .saturating_record(late as u64 * STEP_US);
        let missed = late as u32 / every;
        if missed > 0 {
            self.mine.missed += u64::from(missed);
            user.flags |= MISSED;
        }
        user.at = user.at.wrapping_add(every * (missed + 1));
    }
}

fn step(us: u64) -> Step {
    (us / STEP_US) as Step
}

impl Handler for Users {
    type State = User;
    type Report = UserReport;

    fn on_turn(&mut self, dial: &mut Dial<'_, User>) -> Option<u64> {
        let now_us = dial.now_us();
        if dial.is_stopping() {
            self.stopping_us.get_or_insert(now_us);
            self.waiting.clear();
            return None;
        }
        while dial.room() > 0
            && self
                .waiting
                .peek()
                .is_some_and(|Reverse((due_us, _))| *due_us <= now_us)
        {
            let Reverse((due_us, retries)) = self.waiting.pop().expect("peeked");
            self.under_way += 1;
            dial.connect(User {
                at: step(due_us),
                position: 0,
                flags: retries << RETRIES_SHIFT,
            });
        }
        let (paced, due_us) = self.pace(now_us);
        let target = self.target();
        let allowed = target.min(paced);
        while dial.room() > 0 && self.started < allowed {
            let intended_us = match due_us {
                // The intended start of this very user, not of the batch.
                Some(next_us) => {
                    let rate_milli = self.load.spawn_rate_milli.load(Ordering::Relaxed);
                    let behind = u128::from(paced - self.started)
                        * u128::from(self.share_count)
                        * 1_000_000_000;
                    next_us.saturating_sub((behind / u128::from(rate_milli.max(1))) as u64)
                }
                None => now_us,
            };
            self.mine.ramp_us.get_or_insert((now_us, now_us));
            self.started += 1;
            self.under_way += 1;
            dial.connect(User {
                at: step(intended_us),
                position: 0,
                flags: 0,
            });
        }
        let next_user_us = if self.started < target {
            due_us.or(Some(now_us))
        } else {
            None
        };
        let next_again_us = self.waiting.peek().map(|Reverse((due_us, _))| *due_us);
        next_user_us.into_iter().chain(next_again_us).min()
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
            at: step(now_us + self.config.every_us),
            position: 0,
            flags: conn.state.flags,
        };
        if let Some((_, every_us)) = self.config.send {
            let first_us = (every_us as f64 * self.random_fraction()) as u64;
            conn.set_timer(now_us + first_us);
        }
    }

    fn on_open_failed(&mut self, state: &User, _failure: OpenFailure, now_us: u64) {
        self.under_way -= 1;
        self.come_again(state.flags >> RETRIES_SHIFT, now_us);
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, User>, bytes: &[u8]) -> usize {
        let now = step(conn.now_us());
        let expect = self.config.expect;
        let user = &mut *conn.state;
        // A server that talks is one worth coming back to soon.
        user.flags &= (1 << RETRIES_SHIFT) - 1;
        if expect.is_empty() {
            self.on_message(user, now);
            return bytes.len();
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let wanted = &expect[usize::from(user.position)..];
            let length = wanted.len().min(rest.len());
            if rest[..length] != wanted[..length] {
                // What follows a wrong byte has no known beginning: the chunk counts as one wrong message.
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
        let Some((message, every_us)) = self.config.send else {
            return;
        };
        if conn.is_blocked() {
            return conn.cut(CloseReason::Stalled);
        }
        conn.send_static(message);
        self.mine.sent += 1;
        conn.set_timer(conn.now_us() + every_us);
    }

    fn on_close(&mut self, state: &User, reason: CloseReason, now_us: u64) {
        let mut flags = state.flags;
        let until_us = self.stopping_us.unwrap_or(now_us);
        if self.config.every_us > 0 {
            // Due and not there when the next one was due already: missed.
            let overdue = step(until_us).wrapping_sub(state.at) as i32;
            let every = (self.config.every_us / STEP_US) as i32;
            if overdue >= every {
                self.mine.missed += (overdue / every) as u64;
                flags |= MISSED;
            }
        }
        let ended = match reason {
            CloseReason::PeerClosed => Ended::ClosedByServer,
            CloseReason::Reset => Ended::Reset,
            CloseReason::TimedOut | CloseReason::Unreachable => Ended::TimedOut,
            CloseReason::ByUs if flags & WRONG != 0 => Ended::WrongData,
            CloseReason::ByUs if flags & MISSED != 0 => Ended::MissedMessage,
            CloseReason::ByUs if self.stopping_us.is_some() => Ended::Held,
            CloseReason::ByUs => Ended::ClosedByUs,
            CloseReason::Cut => Ended::Cut,
            CloseReason::Stalled
            | CloseReason::Idle
            | CloseReason::TooMuch
            | CloseReason::Other => Ended::Other,
        };
        self.mine.ended[ended as usize] += 1;
        if reason != CloseReason::ByUs {
            self.come_again(state.flags >> RETRIES_SHIFT, now_us);
        }
    }

    fn report(&mut self, report: &mut UserReport) {
        report.ended = self.mine.ended;
        report.received = self.mine.received;
        report.wrong = self.mine.wrong;
        report.missed = self.mine.missed;
        report.sent = self.mine.sent;
        report.ramp_us = self.mine.ramp_us;
        report.is_ramped = self.started >= self.target() && self.under_way == 0;
        hand_over(&mut self.mine.connect_us, &mut report.connect_us);
        hand_over(&mut self.mine.lateness_us, &mut report.lateness_us);
    }
}

/// Moves what one histogram has recorded into another.
fn hand_over(from: &mut Histogram<u64>, into: &mut Histogram<u64>) {
    if !from.is_empty() {
        into.add(&*from).expect("both have the same bounds");
        from.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(rate_milli: u64, every_us: u64) -> Users {
        let load = Load {
            users: AtomicU64::new(1_000),
            spawn_rate_milli: AtomicU64::new(rate_milli),
        };
        let config = UserConfig {
            expect: b"ok",
            every_us,
            send: None,
            reconnect_us: None,
        };
        Users::new(config, Arc::new(load), 0, 1)
    }

    fn dialled(users: &mut Users, now_us: u64) -> Vec<User> {
        let mut wanted = Vec::new();
        users.on_turn(&mut Dial::new(now_us, 10_000, false, &mut wanted));
        wanted
    }

    #[test]
    fn pacing_is_smooth_inside_the_second() {
        let mut users = users(100_000, 0);
        let mut total = 0;
        for ms in 0..=1_000 {
            let new = dialled(&mut users, ms * 1_000).len();
            assert!(new <= 1, "a batch of {new} at {ms} ms");
            total += new;
        }
        assert_eq!(total, 101, "one at 0 and one every 10 ms");
    }

    #[test]
    fn a_late_turn_starts_everybody_due_with_their_own_intended_time() {
        let mut users = users(100_000, 0);
        dialled(&mut users, 0);
        let late = dialled(&mut users, 50_000);
        let at: Vec<_> = late.iter().map(|u| u64::from(u.at) * STEP_US).collect();
        assert_eq!(at, [10_000, 20_000, 30_000, 40_000, 50_000]);
    }

    fn receive(users: &mut Users, user: &mut User, now_us: u64, bytes: &[u8]) {
        let mut outgoing = Vec::new();
        users.on_bytes(&mut Conn::new(user, now_us, false, &mut outgoing), bytes);
    }

    fn opened(users: &mut Users, now_us: u64) -> User {
        let mut user = dialled(users, now_us).remove(0);
        let mut outgoing = Vec::new();
        users.on_open(&mut Conn::new(&mut user, now_us, false, &mut outgoing));
        user
    }

    #[test]
    fn messages_split_anywhere_or_joined_are_the_same() {
        let mut users = users(Load::MAX, 0);
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
        let mut users = users(Load::MAX, 1_000_000);
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
    fn a_server_that_only_closes_is_come_back_to_ever_later() {
        let mut users = users(Load::MAX, 0);
        users.config.reconnect_us = Some((1_000_000, 60_000_000));
        let mut outgoing = Vec::new();
        let mut user = opened(&mut users, 0);
        let mut last_pause_us = 0;
        for _ in 0..3 {
            users.on_close(&user, CloseReason::PeerClosed, 0);
            let Reverse((due_us, retries)) = users.waiting.pop().expect("it comes again");
            assert!(due_us > last_pause_us, "{due_us} after {last_pause_us}");
            // At most twice the half of the pause before.
            last_pause_us = due_us;
            user = User {
                at: 0,
                position: 0,
                flags: retries << RETRIES_SHIFT,
            };
            users.under_way += 1;
            users.on_open(&mut Conn::new(&mut user, 0, false, &mut outgoing));
        }
        receive(&mut users, &mut user, 0, b"ok");
        users.on_close(&user, CloseReason::PeerClosed, 0);
        assert!(
            users.waiting.pop().expect("again").0.0 <= 1_000_000,
            "it talked: back to the first pause"
        );
    }

    #[test]
    fn silence_to_the_end_is_missed_not_held() {
        let mut users = users(Load::MAX, 1_000_000);
        let user = opened(&mut users, 0);
        let mut none = Vec::new();
        users.on_turn(&mut Dial::new(2_000_000, 0, true, &mut none));
        users.on_close(&user, CloseReason::ByUs, 2_100_000);
        assert_eq!(users.mine.ended[Ended::MissedMessage as usize], 1);
        assert_eq!(users.mine.missed, 1);
    }
}
