//! Users without an engine: what they send, when they want to be called again, and how their books
//! stand.

use holdfast_engine::{CloseReason, Conn, Handler, OpenFailure, Recorder};

use super::*;
use crate::callbacks::{dialled, end, fail, stop};
use crate::http::request::{self, Parts};
use crate::http::response::{Statuses, parse_statuses};
use crate::http::url;
use crate::load::fixed;

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

fn statuses() -> Statuses {
    parse_statuses("2xx").unwrap()
}

fn users(model: Model, pipeline: u8, requests: Option<u64>) -> Users {
    let parts = Parts {
        method: "GET".to_owned(),
        count: pipeline,
        ..Parts::default()
    };
    let config = UserConfig {
        model,
        mix: Mix::one(request::render(&url::parse("http://a").unwrap(), &parts).unwrap()),
        expectations: Expectations {
            was_head: false,
            limits: holdfast_http1::Limits::default(),
            statuses: statuses(),
            body: None,
        },
        is_reconnecting: false,
        is_connecting_timed: false,
        is_retrying: true,
        timeout_us: 1_000_000,
        request_limit: Arc::new(RequestLimit::new(requests)),
    };
    let user_count = match model {
        Model::Closed(..) => 1,
        Model::Open(schedule) => schedule.users,
    };
    Users::new(config, fixed(user_count, Load::MAX), 0, 1, 0)
}

/// Calls back and gives the requests that were sent.
fn call(
    users: &mut Users,
    user: &mut User,
    now_us: u64,
    callback: impl FnOnce(&mut Users, &mut Conn<'_, User>),
) -> usize {
    let request_bytes = users.config.mix.batch(0).last(1).len();
    let mut recorder = Recorder::default();
    let mut conn = Conn::new(user, now_us, false, &mut recorder);
    callback(users, &mut conn);
    conn.sent_bytes() / request_bytes
}

fn opened(users: &mut Users, user: &mut User, now_us: u64) -> usize {
    call(users, user, now_us, |users, conn| users.on_open(conn))
}

fn received(users: &mut Users, user: &mut User, now_us: u64, bytes: &[u8]) -> usize {
    call(users, user, now_us, |users, conn| {
        users.on_bytes(conn, bytes);
    })
}

fn timed(users: &mut Users, user: &mut User, now_us: u64) -> usize {
    call(users, user, now_us, |users, conn| users.on_timer(conn))
}

fn count(users: &Users, outcome: Outcome) -> u64 {
    users.counters.outcomes[outcome as usize]
}

#[test]
fn without_a_wait_an_answer_brings_the_next_request() {
    let mut users = users(Model::Closed(0, 0), 1, None);
    let mut user = dialled(&mut users, 0)[0];
    assert_eq!(opened(&mut users, &mut user, 300), 1);
    for n in 1..=5 {
        assert_eq!(received(&mut users, &mut user, 300 + n * 100, HELLO), 1);
    }
    assert_eq!(
        (users.counters.requests, count(&users, Outcome::Ok)),
        (6, 5)
    );
    // The first was due when the user was connected, which is timed apart.
    let mut tally = Counters::default();
    users.report(&mut tally);
    assert_eq!((tally.due_us.max(), tally.raw_us.max()), (100, 100));
    assert_eq!(tally.connect_us.max(), 300);
    assert_eq!((tally.due_us.len(), tally.raw_us.len()), (5, 5));
}

#[test]
fn wait_is_within_its_bounds_and_latency_counts_from_its_end() {
    let mut users = users(Model::Closed(100_000, 200_000), 1, None);
    let mut user = dialled(&mut users, 0)[0];
    opened(&mut users, &mut user, 0);
    assert_eq!(received(&mut users, &mut user, 1_000, HELLO), 0);
    assert!((101_000..=201_000).contains(&user.due) && user.due.is_multiple_of(1_000));
    let due_us = user.due;
    let early = timed(&mut users, &mut user, due_us - 1);
    assert_eq!(early, 0, "not before it is due");
    assert_eq!(timed(&mut users, &mut user, due_us + 7_000), 1);
    received(&mut users, &mut user, due_us + 10_000, HELLO);
    let mut tally = Counters::default();
    users.report(&mut tally);
    assert_eq!(
        (tally.due_us.max() / 1_000, tally.raw_us.max() / 1_000),
        (10, 3)
    );
}

#[test]
fn connecting_is_no_latency_unless_it_is_to_be() {
    for (is_timed, latency_us) in [(false, 500), (true, 90_500)] {
        let mut users = users(Model::Closed(0, 0), 1, None);
        users.config.is_connecting_timed = is_timed;
        let mut user = dialled(&mut users, 0).remove(0);
        opened(&mut users, &mut user, 90_000);
        received(&mut users, &mut user, 90_500, HELLO);
        let mut all = Counters::default();
        users.report(&mut all);
        let longest = |histogram: &hdrhistogram::Histogram<u64>, us| {
            assert!(histogram.equivalent(histogram.max(), us), "{is_timed}");
        };
        longest(&all.due_us, latency_us);
        longest(&all.raw_us, 500);
        longest(&all.connect_us, 90_000);
    }
}

#[test]
fn timeout_response_that_crosses_a_request_has_it_sent_again_once() {
    const TIMEOUT: &[u8] =
        b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let mut users = users(Model::Closed(0, 0), 1, None);
    let mut user = dialled(&mut users, 0).remove(0);
    opened(&mut users, &mut user, 0);
    received(&mut users, &mut user, 100, TIMEOUT);
    assert_eq!(users.counters.retried, 1);
    assert_eq!(users.counters.responses.statuses[408], 0);
    let mut again = dialled(&mut users, 1_000_000).remove(0);
    assert_eq!(opened(&mut users, &mut again, 1_000_000), 1, "sent again");
    received(&mut users, &mut again, 1_000_100, TIMEOUT);
    assert_eq!(
        (users.counters.requests, users.counters.retried),
        (1, 1),
        "a server that always says so is no idle connection"
    );
    assert_eq!(count(&users, Outcome::WrongStatus), 1);
}

#[test]
fn the_schedule_is_kept_however_late_the_answers_are() {
    let schedule = Schedule {
        users: 2,
        batch: 1,
        rate_milli: 100_000,
    };
    let mut users = users(Model::Open(schedule), 1, None);
    let mut both = dialled(&mut users, 0);
    // 100 a second over two users: one at 0, 20, 40 ms, the other at 10, 30, 50 ms.
    assert_eq!(opened(&mut users, &mut both[0], 0), 1);
    assert_eq!(opened(&mut users, &mut both[1], 0), 0);
    assert_eq!(timed(&mut users, &mut both[1], 10_000), 1);
    // No answer until 95 ms: eight are due by 70 ms and two were sent.
    dialled(&mut users, 71_000);
    assert_eq!(users.counters.backlog_now, 6);
    let mut sent = 0;
    for user in &mut both {
        for ms in 95..105 {
            sent += received(&mut users, user, ms * 1_000, HELLO);
            if user.awaited == 0 {
                break;
            }
        }
    }
    // At 20, 40, 60, 80 ms, and at 30, 50, 70, 90 ms; those of 100 and 110 ms are not due yet.
    assert_eq!(sent, 8);
    assert_eq!(users.counters.requests, users.counters.turns_taken);
}

#[test]
fn a_timer_that_fires_early_looks_again() {
    let mut users = users(Model::Closed(0, 0), 1, None);
    let mut user = dialled(&mut users, 0)[0];
    opened(&mut users, &mut user, 0);
    received(&mut users, &mut user, 900_000, HELLO);
    timed(&mut users, &mut user, 1_000_000);
    assert_eq!(
        count(&users, Outcome::TimedOut),
        0,
        "that was the first request's"
    );
    timed(&mut users, &mut user, 1_900_000);
    assert_eq!(count(&users, Outcome::TimedOut), 1);
    end(&mut users, &user, CloseReason::LocallyClosed, 1_900_000);
    assert_eq!(
        dialled(&mut users, 1_900_000).len(),
        1,
        "it was answered before: at once"
    );
}

#[test]
fn request_budget_is_used_exactly() {
    let mut users = users(Model::Closed(0, 0), 4, Some(6));
    let mut user = dialled(&mut users, 0)[0];
    assert_eq!(opened(&mut users, &mut user, 0), 4);
    assert_eq!(received(&mut users, &mut user, 1_000, &HELLO.repeat(3)), 0);
    assert_eq!(received(&mut users, &mut user, 2_000, HELLO), 2);
    assert_eq!(received(&mut users, &mut user, 3_000, &HELLO.repeat(2)), 0);
    assert_eq!(
        (users.counters.requests, count(&users, Outcome::Ok)),
        (6, 6)
    );
}

#[test]
fn failed_attempt_fails_the_due_request_and_pauses() {
    let mut closed = users(Model::Closed(0, 0), 1, None);
    let user = dialled(&mut closed, 0)[0];
    fail(&mut closed, &user, OpenFailure::Refused, 500);
    assert_eq!(
        (closed.counters.requests, count(&closed, Outcome::Refused)),
        (1, 1)
    );
    assert!(dialled(&mut closed, 50_000).is_empty());
    let again = dialled(&mut closed, 101_000);
    assert_eq!(again.len(), 1);
    assert!(
        (50_500..=100_500).contains(&again[0].due),
        "due when the pause is over"
    );

    // A request a second: user 1 connects ahead of its first one, at 1 s.
    let schedule = Schedule {
        users: 2,
        batch: 1,
        rate_milli: 1_000,
    };
    let mut open = users(Model::Open(schedule), 1, None);
    let both = dialled(&mut open, 0);
    fail(&mut open, &both[1], OpenFailure::Refused, 500);
    assert_eq!(open.counters.requests, 0, "not due yet");
    fail(&mut open, &both[0], OpenFailure::Refused, 500);
    assert_eq!(count(&open, Outcome::Refused), 1);
}

#[test]
fn requests_pending_at_the_stop_count_as_stopped() {
    let mut users = users(Model::Closed(0, 0), 2, None);
    let mut user = dialled(&mut users, 0)[0];
    opened(&mut users, &mut user, 0);
    stop(&mut users, 1_000);
    assert_eq!(received(&mut users, &mut user, 2_000, HELLO), 0);
    end(&mut users, &user, CloseReason::LocallyClosed, 3_000);
    assert_eq!(
        (users.counters.requests, count(&users, Outcome::Stopped)),
        (2, 2)
    );
}

#[test]
fn bytes_ahead_of_the_first_request_are_no_request() {
    let schedule = Schedule {
        users: 2,
        batch: 1,
        rate_milli: 1_000,
    };
    let mut users = users(Model::Open(schedule), 1, None);
    let mut user = dialled(&mut users, 0)[1];
    assert_eq!(opened(&mut users, &mut user, 500), 0, "due at 1 s");
    received(&mut users, &mut user, 400_000, b"HTTP/1.1 408 x\r\n\r\n");
    end(&mut users, &user, CloseReason::LocallyClosed, 400_000);
    assert_eq!(
        (users.counters.requests, users.counters.unsolicited),
        (0, 1)
    );
    let again = dialled(&mut users, 1_000_000);
    assert_eq!(again.len(), 1, "connected again when its request is due");
    assert_eq!(opened(&mut users, &mut again[0].clone(), 1_000_000), 1);
}

#[test]
fn the_first_turn_is_sent_at_once_however_late_the_thread_starts() {
    let schedule = Schedule {
        users: 1,
        batch: 1,
        rate_milli: 200,
    };
    let mut users = users(Model::Open(schedule), 1, None);
    let mut user = dialled(&mut users, 12_345)[0];
    assert_eq!(opened(&mut users, &mut user, 12_500), 1);
    assert_eq!(received(&mut users, &mut user, 13_000, HELLO), 0);
    assert_eq!(timed(&mut users, &mut user, 5_000_000), 1, "then every 5 s");
}

#[test]
fn requests_to_send_again_are_stopped_with_the_run() {
    let mut users = users(Model::Closed(0, 0), 1, None);
    let mut user = dialled(&mut users, 0)[0];
    opened(&mut users, &mut user, 0);
    received(&mut users, &mut user, 1_000, HELLO);
    end(&mut users, &user, CloseReason::PeerClosed, 2_000);
    assert_eq!((users.counters.requests, users.counters.retried), (2, 1));
    stop(&mut users, 2_000);
    assert_eq!(count(&users, Outcome::Stopped), 1);
}
