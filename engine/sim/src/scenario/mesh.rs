//! Connections that address each other: handlers that send to, close, abort, pause and resume any
//! connection they have ever known by its id, dial from every callback with every kind of source,
//! and cancel attempts at any step.
//!
//! Besides, they do what a [`Babbler`] does. The simulator checks that ids reach whom they name.

use std::net::SocketAddr;
use std::sync::Arc;

use holdfast_engine::sim::Random;
use holdfast_engine::{
    Bytes, CloseReason, Conn, ConnId, Context, Dial, DialId, DialPlan, Handle, Handler,
    OpenFailure, Source,
};

use super::babble::{Babbler, Temper};
use super::notes::Note;
use super::sides::{HOSTILE, NOBODY, SERVER, SILENT, Sides, babbling, plan, world};
use crate::run::{Outcome, Run};

/// Ids that a handler remembers, of which most are stale after a while.
const REMEMBERED: usize = 48;

/// The state of attempts to the second group of targets until they open.
const SECOND: u32 = u32::MAX;

/// See the file's head.
struct Mesh {
    babbler: Babbler,
    random: Random,
    ids: Vec<ConnId>,
    dials: Vec<DialId>,
    /// One in so many callbacks acts.
    acts_one_in: u64,
    /// Attempts it may still start.
    dials_left: u64,
    has_plan: bool,
}

fn remember<T>(all: &mut Vec<T>, random: &mut Random, new: T) {
    if all.len() < REMEMBERED {
        all.push(new);
    } else {
        let place = random.below(REMEMBERED as u64) as usize;
        all[place] = new;
    }
}

impl Mesh {
    fn bytes(&mut self) -> Bytes {
        let length = self.random.magnitude(1, 3_000) as usize;
        match self.random.below(3) {
            0 => Bytes::Static(b"static"),
            1 => Bytes::Shared(Arc::from(vec![b's'; length])),
            _ => Bytes::Copied(vec![b'c'; length]),
        }
    }

    fn act_on(&mut self, cx: &mut Context<'_, u32>, id: ConnId) {
        let reason = self.random.pick(&[CloseReason::Idle, CloseReason::Stalled]);
        let done = match self.random.below(16) {
            0..=8 => cx.send(id, self.bytes()),
            9 | 10 => cx.pause_reading(id),
            11..=13 => cx.resume_reading(id),
            14 => cx.close(id),
            _ => cx.abort(id, reason),
        };
        done.expect("the queue has room");
    }

    fn dial(&mut self, cx: &mut Context<'_, u32>) {
        if self.dials_left == 0 || cx.dial_room() == 0 {
            return;
        }
        self.dials_left -= 1;
        let target = self.random.pick(&[SERVER, SERVER, HOSTILE, NOBODY, SILENT]);
        let port = self.random.pick(&[0, 4_000]);
        let own = SocketAddr::from(([10, 0, 1, 2], port));
        let source = match self.random.below(4) {
            0 if self.has_plan => {
                return match self.random.once_in(2) {
                    true => cx.dial_planned(0),
                    false => cx.dial_planned_to(1, SECOND),
                };
            }
            0 | 1 => Source::Kernel,
            2 => Source::Addr(own),
            _ => Source::Plan,
        };
        let id = cx.dial(Dial::to(target).from(source), 0);
        let id = id.expect("there is room");
        if self.random.once_in(6) {
            assert!(cx.cancel_dial(id), "it has not begun");
        }
        remember(&mut self.dials, &mut self.random, id);
    }

    /// Acts on anything.
    fn reach(&mut self, cx: &mut Context<'_, u32>) {
        if !self.random.once_in(self.acts_one_in) {
            return;
        }
        for _ in 0..self.random.magnitude(1, 3) {
            if !self.ids.is_empty() && !self.random.once_in(3) {
                let id = self.random.pick(&self.ids);
                self.act_on(cx, id);
            } else if self.dials.is_empty() || self.random.once_in(2) {
                self.dial(cx);
            } else {
                let dial = self.random.pick(&self.dials);
                cx.cancel_dial(dial);
            }
        }
    }
}

impl Handler for Mesh {
    type State = u32;
    type Report = ();
    type Command = Note;

    fn on_start(&mut self, cx: &mut Context<'_, u32>, handle: &Handle<Note>) {
        self.babbler.on_start(cx, handle);
    }

    fn on_command(&mut self, cx: &mut Context<'_, u32>, note: Note) {
        self.babbler.on_command(cx, note);
        self.reach(cx);
    }

    fn on_open(&mut self, conn: &mut Conn<'_, u32>) {
        assert!(conn.peer_addr().is_some(), "the peer is known");
        assert_eq!(
            conn.listener().is_none(),
            conn.dial_id().is_some(),
            "dialled or accepted"
        );
        if let Some(group) = conn.dial_id().and_then(DialId::planned_group) {
            assert_eq!(group == 1, *conn.state == SECOND, "the group asked for");
            assert_eq!(group == 1, conn.peer_addr() == Some(HOSTILE));
        }
        remember(&mut self.ids, &mut self.random, conn.id());
        self.babbler.on_open(conn);
        self.reach(conn.context());
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, u32>, bytes: &[u8]) -> usize {
        let used = self.babbler.on_bytes(conn, bytes);
        self.reach(conn.context());
        used
    }

    fn on_eof(&mut self, conn: &mut Conn<'_, u32>) {
        self.babbler.on_eof(conn);
        self.reach(conn.context());
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, u32>) {
        self.babbler.on_timer(conn);
        self.reach(conn.context());
    }

    fn on_blocked(&mut self, conn: &mut Conn<'_, u32>) {
        self.babbler.on_blocked(conn);
        self.reach(conn.context());
    }

    fn on_writable(&mut self, conn: &mut Conn<'_, u32>) {
        self.babbler.on_writable(conn);
        self.reach(conn.context());
    }

    fn on_send(&mut self, conn: &mut Conn<'_, u32>, bytes: Bytes) {
        conn.send(bytes);
        self.reach(conn.context());
    }

    fn on_close_requested(&mut self, conn: &mut Conn<'_, u32>) {
        if self.random.once_in(3) {
            conn.send(b"bye");
        }
        conn.close();
        self.reach(conn.context());
    }

    fn on_stop(&mut self, conn: &mut Conn<'_, u32>) {
        self.babbler.on_stop(conn);
        self.reach(conn.context());
    }

    fn on_close(&mut self, cx: &mut Context<'_, u32>, id: ConnId, _: &u32, _: CloseReason) {
        if self.random.once_in(8) {
            self.act_on(cx, id);
        }
        self.reach(cx);
    }

    fn on_open_failed(
        &mut self,
        cx: &mut Context<'_, u32>,
        dial: DialId,
        state: &u32,
        failure: OpenFailure,
    ) {
        assert!(!cx.cancel_dial(dial), "an attempt that failed is over");
        let is_second = dial.planned_group() == Some(1);
        assert_eq!(is_second, *state == SECOND, "the group asked for");
        self.babbler.on_open_failed(cx, dial, state, failure);
        self.reach(cx);
    }

    fn on_turn(&mut self, cx: &mut Context<'_, u32>) -> Option<u64> {
        self.reach(cx);
        if self.has_plan {
            self.babbler.on_turn(cx)
        } else {
            None
        }
    }
}

pub(super) fn run(run: Run) -> Outcome {
    let world = world(run);
    let (server, client, plan, tempers, count) = {
        let mut world = world.lock().expect("it is new");
        let (server, client) = babbling(&mut world, false);
        let random = world.random();
        let tempers = (Temper::draw(random), Temper::draw(random));
        // Both groups have the same sources: those of one are in use more often than they seem.
        let source = "10.0.1.1".parse().expect("an address");
        let ports = 1_024..=1_023 + random.magnitude(1, 20) as u16;
        let second = DialPlan::new(vec![source], ports, vec![HOSTILE], u64::MAX);
        let plans = [plan(random, false), second.expect("a plan")];
        let plan = DialPlan::joined(plans).expect("two groups");
        (server, client, plan, tempers, random.magnitude(1, 40))
    };
    let sides = Sides {
        world: &world,
        server: &server,
        client: &client,
        plan: &plan,
        canary: run.canary,
        seed: run.seed,
    };
    let mesh = |temper, has_plan| {
        let mut world = world.lock().expect("nobody panicked with it");
        let random = world.random();
        Mesh {
            babbler: Babbler::new(temper, random, if has_plan { count } else { 0 }),
            random: Random::new(random.next()),
            ids: Vec::new(),
            dials: Vec::new(),
            acts_one_in: random.magnitude(4, 40),
            dials_left: random.magnitude(1, 60),
            has_plan,
        }
    };
    sides.run(
        || mesh(tempers.0, false),
        mesh(tempers.1, true),
        |_, _, _| {},
    )
}
