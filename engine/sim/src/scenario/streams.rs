//! Streams by themselves: handlers that end either direction, pause and resume reading, and close
//! or abort, at random, in every phase and every order. What they send and use is as random as a
//! [`Babbler`]'s.
//!
//! They check nothing themselves: the simulator checks the order of bytes, ends and callbacks.

use holdfast_engine::sim::Random;
use holdfast_engine::{CloseReason, Conn, ConnId, Context, DialId, Handle, Handler, OpenFailure};

use super::babble::{Babbler, Temper};
use super::notes::Note;
use super::sides::{Sides, babbling, plan, world};
use crate::run::{Outcome, Run};

/// How often the handlers of one run do what.
#[derive(Debug, Clone, Copy)]
struct Habits {
    /// One in so many callbacks pauses reading.
    pauses_one_in: u64,
    /// One in so many callbacks resumes it.
    resumes_one_in: u64,
    /// One in so many callbacks ends our side.
    shuts_one_in: u64,
    /// One in so many ends of the peer leaves our side open.
    stays_one_in: u64,
}

impl Habits {
    fn draw(random: &mut Random) -> Self {
        Habits {
            pauses_one_in: random.magnitude(2, 200),
            resumes_one_in: random.magnitude(1, 8),
            shuts_one_in: random.magnitude(4, 400),
            stays_one_in: random.magnitude(1, 4),
        }
    }
}

/// What handlers did and were told.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    ends: u64,
    half_open: u64,
    sent_half_open: u64,
    shutdowns: u64,
    resets_half_open: u64,
    pauses: u64,
    resumes: u64,
    resets_paused: u64,
}

const IS_PAUSED: u32 = 1 << 31;
const HAS_END: u32 = 1 << 30;

/// See the file's head.
struct Streamer {
    babbler: Babbler,
    random: Random,
    habits: Habits,
    counts: Counts,
}

impl Streamer {
    /// Behind what the babbler did in a callback.
    fn act(&mut self, conn: &mut Conn<'_, u32>) {
        let random = &mut self.random;
        if random.once_in(self.habits.pauses_one_in) {
            conn.pause_reading();
            *conn.state |= IS_PAUSED;
            self.counts.pauses += 1;
            if random.once_in(2) {
                conn.set_timer(conn.now_us() + random.magnitude(1, 500_000));
            }
        } else if random.once_in(self.habits.resumes_one_in) {
            conn.resume_reading();
            self.counts.resumes += u64::from(*conn.state & IS_PAUSED != 0);
            *conn.state &= !IS_PAUSED;
        }
        if random.once_in(self.habits.shuts_one_in) {
            conn.shutdown_write();
            self.counts.shutdowns += 1;
        }
        let has_sent = conn.sent_bytes() > 0 && *conn.state & HAS_END != 0;
        self.counts.sent_half_open += u64::from(has_sent);
    }

    /// Runs a callback of the babbler, whose own bits of the state are the lower ones.
    fn babble<U>(
        &mut self,
        conn: &mut Conn<'_, u32>,
        callback: impl FnOnce(&mut Babbler, &mut Conn<'_, u32>) -> U,
    ) -> U {
        let bits = *conn.state & (IS_PAUSED | HAS_END);
        let result = callback(&mut self.babbler, conn);
        *conn.state = *conn.state & !(IS_PAUSED | HAS_END) | bits;
        self.act(conn);
        result
    }
}

impl Handler for Streamer {
    type State = u32;
    type Report = ();
    type Command = Note;

    fn on_start(&mut self, cx: &mut Context<'_, u32>, handle: &Handle<Note>) {
        self.babbler.on_start(cx, handle);
    }

    fn on_command(&mut self, cx: &mut Context<'_, u32>, note: Note) {
        self.babbler.on_command(cx, note);
    }

    fn on_open(&mut self, conn: &mut Conn<'_, u32>) {
        self.babble(conn, |inner, conn| inner.on_open(conn));
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, u32>, bytes: &[u8]) -> usize {
        self.babble(conn, |inner, conn| inner.on_bytes(conn, bytes))
    }

    fn on_eof(&mut self, conn: &mut Conn<'_, u32>) {
        self.counts.ends += 1;
        *conn.state |= HAS_END;
        if !self.random.once_in(self.habits.stays_one_in) {
            return self.babble(conn, |inner, conn| inner.on_eof(conn));
        }
        self.counts.half_open += 1;
        conn.set_timer(conn.now_us() + self.random.magnitude(1, 1_000_000));
        // Sends, or ends at once, or neither.
        self.babble(conn, |inner, conn| inner.on_timer(conn));
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, u32>) {
        self.babble(conn, |inner, conn| inner.on_timer(conn));
    }

    fn on_blocked(&mut self, conn: &mut Conn<'_, u32>) {
        self.babble(conn, |inner, conn| inner.on_blocked(conn));
    }

    fn on_writable(&mut self, conn: &mut Conn<'_, u32>) {
        self.babble(conn, |inner, conn| inner.on_writable(conn));
    }

    fn on_stop(&mut self, conn: &mut Conn<'_, u32>) {
        self.babble(conn, |inner, conn| inner.on_stop(conn));
    }

    fn on_close(
        &mut self,
        cx: &mut Context<'_, u32>,
        id: ConnId,
        state: &u32,
        reason: CloseReason,
    ) {
        let is_reset = u64::from(reason == CloseReason::Reset);
        self.counts.resets_half_open += is_reset * u64::from(state & HAS_END != 0);
        self.counts.resets_paused += is_reset * u64::from(state & IS_PAUSED != 0);
        self.babbler.on_close(cx, id, state, reason);
    }

    fn on_open_failed(
        &mut self,
        cx: &mut Context<'_, u32>,
        dial: DialId,
        state: &u32,
        failure: OpenFailure,
    ) {
        self.babbler.on_open_failed(cx, dial, state, failure);
    }

    fn on_turn(&mut self, cx: &mut Context<'_, u32>) -> Option<u64> {
        self.babbler.on_turn(cx)
    }
}

pub(super) fn run(run: Run) -> Outcome {
    let world = world(run);
    let (server, client, plan, tempers, habits, count) = {
        let mut world = world.lock().expect("it is new");
        let (server, client) = babbling(&mut world, true);
        let random = world.random();
        let tempers = (Temper::draw(random), Temper::draw(random));
        let habits = (Habits::draw(random), Habits::draw(random));
        let plan = plan(random, true);
        (
            server,
            client,
            plan,
            tempers,
            habits,
            random.magnitude(1, 40),
        )
    };
    let sides = Sides {
        world: &world,
        server: &server,
        client: &client,
        plan: &plan,
        canary: run.canary,
        seed: run.seed,
    };
    let streamer = |temper, habits, count| {
        let mut world = world.lock().expect("nobody panicked with it");
        let babbler = Babbler::new(temper, world.random(), count);
        Streamer {
            babbler,
            random: Random::new(world.random().next()),
            habits,
            counts: Counts::default(),
        }
    };
    sides.run(
        || streamer(tempers.0, habits.0, 0),
        streamer(tempers.1, habits.1, count),
        |coverage, servers, client| {
            let servers = servers.iter_mut().map(|node| node.handler().counts);
            for counts in servers.chain([client.handler().counts]) {
                coverage.count("ends_told", counts.ends);
                coverage.count("half_open", counts.half_open);
                coverage.count("sent_half_open", counts.sent_half_open);
                coverage.count("shutdowns", counts.shutdowns);
                coverage.count("resets_half_open", counts.resets_half_open);
                coverage.count("pauses", counts.pauses);
                coverage.count("resumes", counts.resumes);
                coverage.count("resets_paused", counts.resets_paused);
            }
        },
    )
}
