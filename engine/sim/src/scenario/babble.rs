//! A handler that does, at random, whatever a handler may do: uses part of the bytes, sends copies,
//! static and shared bytes, pauses, sets and clears timers, and closes connections in every way, in
//! every callback.
//!
//! It checks nothing itself: the simulator checks that the engine keeps its promises to it.
//! Must not depend on: rings.

use std::sync::Arc;

use holdfast_engine::sim::Random;
use holdfast_engine::{CloseReason, Conn, Context, DialId, Handle, Handler, OpenFailure};

use super::notes::{Note, Notes};

/// Static bytes.
static FIXED: [u8; 20_000] = {
    let mut bytes = [0; 20_000];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = (at % 251) as u8;
        at += 1;
    }
    bytes
};

/// How the handlers of one run behave.
#[derive(Debug, Clone, Copy)]
pub struct Temper {
    /// Longest single send, bytes.
    send_bytes_max: u64,
    /// Sends back what comes.
    echoes: bool,
    /// One in so many callbacks says something of its own.
    speaks_one_in: u64,
    /// One in so many callbacks ends the connection.
    ends_one_in: u64,
    /// One in so many callbacks uses only a part.
    leaves_one_in: u64,
    /// One in so many callbacks pauses.
    pauses_one_in: u64,
    /// Longest timer, microseconds.
    timer_us_max: u64,
}

impl Temper {
    /// Drawn from a seed.
    pub fn draw(random: &mut Random) -> Self {
        Temper {
            send_bytes_max: random.magnitude(1, 8_000),
            echoes: random.once_in(2),
            speaks_one_in: random.magnitude(1, 50),
            ends_one_in: random.magnitude(8, 1_000),
            leaves_one_in: random.magnitude(2, 1_000),
            pauses_one_in: random.magnitude(2, 1_000),
            timer_us_max: random.magnitude(1, 3_000_000),
        }
    }
}

/// See the file's head.
pub struct Babbler {
    temper: Temper,
    random: Random,
    /// Connections it still wants, and when it wants the next: a client.
    dials: u64,
    next_us: u64,
    pace_us: u64,
    pub(super) notes: Notes,
}

impl Babbler {
    /// One that dials `dials` connections.
    pub fn new(temper: Temper, random: &mut Random, dials: u64) -> Self {
        Babbler {
            temper,
            notes: Notes::new(random),
            random: Random::new(random.next()),
            dials,
            next_us: 0,
            pace_us: random.magnitude(1, 200_000),
        }
    }

    fn act(&mut self, conn: &mut Conn<'_, u32>) {
        *conn.state = conn.state.wrapping_add(1);
        self.notes.may_send();
        let random = &mut self.random;
        let temper = &self.temper;
        if random.once_in(temper.speaks_one_in) {
            for _ in 0..random.magnitude(1, 4) {
                let length = random.magnitude(1, temper.send_bytes_max) as usize;
                let from = random.below((FIXED.len() - length) as u64 + 1) as usize;
                let bytes = &FIXED[from..from + length];
                match (random.once_in(2), length % 3) {
                    (_, 0) => conn.send_shared(Arc::from(bytes)),
                    (true, _) => conn.send_static(bytes),
                    (false, _) => conn.send_copy(bytes),
                }
            }
        }
        if random.once_in(temper.pauses_one_in) {
            conn.pause_until_sent();
        }
        match random.below(6) {
            0 => conn.clear_timer(),
            1 | 2 => {
                let after_us = random.magnitude(1, temper.timer_us_max);
                conn.set_timer((conn.now_us() + after_us).saturating_sub(2_000));
            }
            _ => {}
        }
        if random.once_in(temper.ends_one_in) {
            match random.below(4) {
                0 | 1 => conn.close(),
                2 => conn.close_after_send(),
                _ => conn.abort(random.pick(&[CloseReason::LocallyClosed, CloseReason::Idle])),
            }
        }
    }
}

impl Handler for Babbler {
    type State = u32;
    type Report = ();
    type Command = Note;

    fn on_start(&mut self, cx: &mut Context<'_, u32>, handle: &Handle<Note>) {
        self.notes.on_start(cx.thread(), handle);
    }

    fn on_command(&mut self, _: &mut Context<'_, u32>, note: Note) {
        self.notes.on_command(note);
    }

    fn on_open(&mut self, conn: &mut Conn<'_, u32>) {
        self.act(conn);
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, u32>, bytes: &[u8]) -> usize {
        let mut used = bytes.len();
        if self.random.once_in(self.temper.leaves_one_in) {
            used = self.random.below(bytes.len() as u64 + 1) as usize;
        }
        if self.temper.echoes {
            conn.send_copy(&bytes[..used]);
        }
        self.act(conn);
        used
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, u32>) {
        self.act(conn);
    }

    fn on_blocked(&mut self, conn: &mut Conn<'_, u32>) {
        if self.random.once_in(4) {
            self.act(conn);
        }
    }

    fn on_writable(&mut self, conn: &mut Conn<'_, u32>) {
        if self.random.once_in(2) {
            self.act(conn);
        }
    }

    fn on_stop(&mut self, conn: &mut Conn<'_, u32>) {
        match self.random.below(4) {
            0 => conn.close_after_send(),
            1 => {
                // Later.
                let after_us = self.random.magnitude(1, 1_000_000);
                conn.set_timer(conn.now_us() + after_us);
            }
            _ => conn.close(),
        }
    }

    fn on_open_failed(
        &mut self,
        _: &mut Context<'_, u32>,
        _: DialId,
        _: &u32,
        failure: OpenFailure,
    ) {
        if failure != OpenFailure::Cancelled && self.random.once_in(2) {
            self.dials += 1;
        }
    }

    fn on_turn(&mut self, cx: &mut Context<'_, u32>) -> Option<u64> {
        while self.dials > 0 && cx.dial_room() > 0 && self.next_us <= cx.now_us() {
            self.dials -= 1;
            self.next_us = cx.now_us() + self.random.below(self.pace_us);
            cx.dial_planned(0);
        }
        (self.dials > 0 && !cx.is_stopping()).then_some(self.next_us)
    }
}
