//! The `relay` example between clients and a backend that keep accounts of each pair: what one side
//! sent is what the other received, in order and once; a FIN comes behind all of it, and a reset
//! never comes as a FIN.
//!
//! Peers send at random times, stop reading, end one direction or both, or vanish; scripted peers
//! do worse.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_engine::sim::{
    ConnectionLimiter, CoreListener, Node, Outside, Random, Steps, drive, mailboxes,
};
use holdfast_engine::{
    CloseReason, Conn, ConnId, Context, DialId, Handler, OpenFailure, PartnerEnd,
};

use super::sides::{HOSTILE, NOBODY, SILENT, add_hostile, address, config, orders, plan, world};
use crate::coverage::Coverage;
use crate::run::{Outcome, Run};

#[path = "../../../examples/relay.rs"]
#[allow(dead_code)] // Its main.
mod example;

/// Where the backend listens.
const BACKEND: SocketAddr = address([10, 0, 0, 5], 80);
/// What a client of this file sends first, before its number.
const MAGIC: &[u8; 4] = b"pair";

/// The accounts of one direction of a pair.
#[derive(Debug, Default, Clone, Copy)]
struct Direction {
    sent: u64,
    /// The sender has ended it in order: everything sent must arrive before the FIN.
    has_ended: bool,
    /// The sender's connection closed in another way.
    is_broken: bool,
    received: u64,
    /// The receiver was told of the FIN.
    is_end_told: bool,
}

/// The accounts of a run.
#[derive(Debug, Default)]
struct Book {
    /// By number: from the client, and to it.
    pairs: HashMap<u32, [Direction; 2]>,
    /// The relay was told to stop, or gave up on a connection: ends say nothing any more.
    is_relay_broken: bool,
    /// The relay's connections, as it counts them.
    open: i64,
    links: u64,
    unlinked: u64,
    failed: u64,
}

type SharedBook = Arc<Mutex<Book>>;

fn lock(book: &SharedBook) -> std::sync::MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The relay, and what it is told.
struct Observed {
    inner: example::Relay,
    book: SharedBook,
}

impl Handler for Observed {
    type State = ();
    type Report = ();
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        lock(&self.book).open += 1;
        self.inner.on_open(conn);
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        self.inner.on_bytes(conn, bytes)
    }

    fn on_eof(&mut self, conn: &mut Conn<'_, ()>) {
        self.inner.on_eof(conn);
    }

    fn on_blocked(&mut self, conn: &mut Conn<'_, ()>) {
        self.inner.on_blocked(conn);
    }

    fn on_writable(&mut self, conn: &mut Conn<'_, ()>) {
        self.inner.on_writable(conn);
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, ()>) {
        self.inner.on_timer(conn);
    }

    fn on_linked(&mut self, conn: &mut Conn<'_, ()>) {
        assert!(conn.partner().is_some(), "linked without a partner");
        lock(&self.book).links += 1;
        self.inner.on_linked(conn);
    }

    fn on_unlinked(&mut self, conn: &mut Conn<'_, ()>, end: PartnerEnd) {
        assert!(conn.partner().is_none(), "unlinked with a partner");
        lock(&self.book).unlinked += 1;
        self.inner.on_unlinked(conn, end);
    }

    fn on_stop(&mut self, conn: &mut Conn<'_, ()>) {
        lock(&self.book).is_relay_broken = true;
        self.inner.on_stop(conn);
    }

    fn on_close(&mut self, cx: &mut Context<'_, ()>, id: ConnId, state: &(), reason: CloseReason) {
        let mut book = lock(&self.book);
        book.open -= 1;
        assert!(
            reason != CloseReason::BufferLimit,
            "reading pauses before too much waits"
        );
        book.is_relay_broken |= !matches!(
            reason,
            CloseReason::PeerClosed
                | CloseReason::LocallyClosed
                | CloseReason::Reset
                | CloseReason::TimedOut
                | CloseReason::Unreachable
        );
        drop(book);
        self.inner.on_close(cx, id, state, reason);
    }

    fn on_open_failed(
        &mut self,
        cx: &mut Context<'_, ()>,
        dial: DialId,
        state: &(),
        failure: OpenFailure,
    ) {
        lock(&self.book).failed += 1;
        self.inner.on_open_failed(cx, dial, state, failure);
    }

    fn on_turn(&mut self, cx: &mut Context<'_, ()>) -> Option<u64> {
        self.inner.on_turn(cx)
    }
}

/// How the talkers of one side behave.
#[derive(Debug, Clone, Copy)]
struct Temper {
    /// Most bytes a connection sends.
    total_max: u64,
    chunk_max: u64,
    pace_us_max: u64,
    pauses_one_in: u64,
    aborts_one_in: u64,
}

impl Temper {
    fn draw(random: &mut Random) -> Self {
        Temper {
            total_max: random.magnitude(1, 60_000),
            chunk_max: random.magnitude(1, 4_000),
            pace_us_max: random.magnitude(1, 20_000),
            pauses_one_in: random.magnitude(2, 500),
            aborts_one_in: random.magnitude(20, 10_000),
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Talk {
    /// The number of the pair, once it is known.
    pair: Option<u32>,
    is_stranger: bool,
    sent: u32,
    total: u32,
    received: u32,
    has_ended: bool,
    is_paused: bool,
}

/// A client, or the backend.
struct Talker {
    /// 0: clients; 1: the backend.
    side: usize,
    temper: Temper,
    random: Random,
    book: SharedBook,
    dials: u32,
    next_pair: u32,
    /// The relay's target is not the backend of this file.
    is_backend_strange: bool,
}

/// The byte at a place of what a side sends.
fn byte_at(pair: u32, side: usize, place: u32) -> u8 {
    if side == 0 && place < 8 {
        let number = pair.to_le_bytes();
        return [
            MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], number[0], number[1], number[2], number[3],
        ][place as usize];
    }
    let mixed = place.wrapping_mul(0x9E37_79B1) ^ pair.wrapping_mul(0x85EB_CA6B);
    (mixed >> 13) as u8 ^ side as u8
}

impl Talker {
    fn direction<U>(
        &self,
        talk: &Talk,
        side: usize,
        look: impl FnOnce(&mut Direction) -> U,
    ) -> Option<U> {
        let pair = talk.pair?;
        let mut book = lock(&self.book);
        Some(look(&mut book.pairs.entry(pair).or_default()[side]))
    }

    fn say(&mut self, conn: &mut Conn<'_, Talk>) {
        let Some(pair) = conn.state.pair.filter(|_| !conn.state.has_ended) else {
            return;
        };
        let left = conn.state.total - conn.state.sent;
        let count = self.random.magnitude(1, self.temper.chunk_max) as u32;
        let count = count.min(left);
        let from = conn.state.sent;
        let bytes: Vec<u8> = (from..from + count)
            .map(|place| byte_at(pair, self.side, place))
            .collect();
        conn.state.sent += count;
        conn.send_copy(&bytes);
        self.direction(conn.state, self.side, |d| d.sent += u64::from(count));
        if conn.state.sent == conn.state.total {
            match self.random.below(8) {
                0 => self.end(conn, true),
                1 => {}
                _ => self.end(conn, false),
            }
        }
    }

    /// Ends its direction, or both.
    fn end(&mut self, conn: &mut Conn<'_, Talk>, closes: bool) {
        self.direction(conn.state, self.side, |d| d.has_ended = true);
        // Of which pair it is, nobody knows.
        lock(&self.book).is_relay_broken |= conn.state.pair.is_none() && !conn.state.is_stranger;
        conn.state.has_ended = true;
        match closes {
            true => conn.close(),
            false => conn.shutdown_write(),
        }
    }

    fn next(&mut self, conn: &mut Conn<'_, Talk>) {
        let after_us = self.random.magnitude(1, self.temper.pace_us_max);
        conn.set_timer(conn.now_us() + after_us);
    }
}

impl Handler for Talker {
    type State = Talk;
    type Report = ();
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, Talk>) {
        conn.state.total = 8 + self.random.magnitude(1, self.temper.total_max) as u32;
        if self.side == 0 {
            let pair = conn.state.pair.expect("it was dialled with a number");
            lock(&self.book).pairs.entry(pair).or_default();
            self.say(conn);
        }
        self.next(conn);
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, Talk>, bytes: &[u8]) -> usize {
        if self.side == 1 && conn.state.pair.is_none() && !conn.state.is_stranger {
            let Some(first) = bytes.first_chunk::<8>() else {
                return 0;
            };
            match &first[..4] == MAGIC {
                true => {
                    let number = [first[4], first[5], first[6], first[7]];
                    conn.state.pair = Some(u32::from_le_bytes(number));
                }
                false => conn.state.is_stranger = true,
            }
        }
        if let Some(pair) = conn.state.pair.filter(|_| !self.is_backend_strange) {
            for (place, byte) in (conn.state.received..).zip(bytes) {
                let expected = byte_at(pair, 1 - self.side, place);
                assert_eq!(
                    *byte, expected,
                    "pair {pair}, side {}: byte {place}",
                    self.side
                );
            }
            conn.state.received += bytes.len() as u32;
            let received = self.direction(conn.state, 1 - self.side, |d| {
                d.received += bytes.len() as u64;
                d.received <= d.sent
            });
            assert_eq!(received, Some(true), "no more is received than was sent");
        }
        if self.random.once_in(self.temper.pauses_one_in) && !conn.state.is_paused {
            conn.state.is_paused = true;
            conn.pause_reading();
        }
        if self.random.once_in(4) {
            self.say(conn);
        }
        bytes.len()
    }

    fn on_eof(&mut self, conn: &mut Conn<'_, Talk>) {
        let direction = self.direction(conn.state, 1 - self.side, |d| {
            d.is_end_told = true;
            *d
        });
        if let Some(direction) = direction
            && !self.is_backend_strange
            && !lock(&self.book).is_relay_broken
            && !direction.is_broken
            // A connection that the backend lost before it was known ends too.
            && direction.sent > 0
        {
            assert!(direction.has_ended, "a FIN that nobody sent: {direction:?}");
            assert_eq!(
                direction.received, direction.sent,
                "a FIN before the data: {direction:?}"
            );
        }
        if conn.state.has_ended || self.random.once_in(3) {
            self.end(conn, true);
        }
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Talk>) {
        if std::mem::take(&mut conn.state.is_paused) {
            conn.resume_reading();
        }
        if self.random.once_in(self.temper.aborts_one_in) {
            self.direction(conn.state, self.side, |d| d.is_broken = true);
            return conn.abort(CloseReason::Aborted);
        }
        if !conn.is_blocked() {
            self.say(conn);
        }
        self.next(conn);
    }

    fn on_stop(&mut self, conn: &mut Conn<'_, Talk>) {
        self.end(conn, true);
    }

    fn on_close(&mut self, _: &mut Context<'_, Talk>, _: ConnId, talk: &Talk, reason: CloseReason) {
        if !talk.has_ended
            || !matches!(reason, CloseReason::PeerClosed | CloseReason::LocallyClosed)
        {
            self.direction(talk, self.side, |d| d.is_broken = true);
            // Of which pair it is, nobody knows.
            lock(&self.book).is_relay_broken |= talk.pair.is_none() && !talk.is_stranger;
        }
    }

    fn on_turn(&mut self, cx: &mut Context<'_, Talk>) -> Option<u64> {
        while self.dials > 0 && cx.dial_room() > 0 {
            self.dials -= 1;
            self.next_pair += 1;
            cx.dial_planned(Talk {
                pair: Some(self.next_pair),
                ..Talk::default()
            });
        }
        None
    }
}

pub(super) fn run(run: Run) -> Outcome {
    let world = world(run);
    let book = SharedBook::default();
    let (configs, plan, tempers, target, dials, orders, listeners, randoms) = {
        let mut world = world.lock().expect("it is new");
        world.be_silent(SILENT);
        let content = vec![b"hello".to_vec(), vec![b'x'; 1_000]];
        add_hostile(&mut world, &content, Some(&content));
        let random = world.random();
        let relay = config(random)
            .to_builder()
            .pairs(true)
            .forward_bytes_max(random.magnitude(1, 10_000) as usize)
            .build()
            .expect("sizes an engine can have");
        let configs = [config(random), relay, config(random)];
        let plan = plan(random, false);
        let tempers = [Temper::draw(random), Temper::draw(random)];
        let target = match random.below(12) {
            0 => NOBODY,
            1 => SILENT,
            2 => HOSTILE,
            _ => BACKEND,
        };
        let dials = random.magnitude(1, 30) as u32;
        let randoms = [Random::new(random.next()), Random::new(random.next())];
        let orders = [(); 3].map(|()| orders(&mut world, 6_000_000));
        let listeners = [super::sides::SERVER, BACKEND].map(|address| CoreListener {
            fd: world.listen(address),
            is_shared: false,
            address: Some(address),
        });
        (
            configs, plan, tempers, target, dials, orders, listeners, randoms,
        )
    };
    let [client_config, relay_config, backend_config] = &configs;
    let limiters = [client_config, relay_config, backend_config]
        .map(|config| ConnectionLimiter::new(config.capacity()));
    let talks = [client_config, backend_config].map(|config| mailboxes(&world, config, 1));
    let relays = mailboxes(&world, relay_config, 1);
    let [client_random, backend_random] = randoms;
    let talker = |side: usize, random, dials| Talker {
        side,
        temper: tempers[side],
        random,
        book: Arc::clone(&book),
        dials,
        next_pair: 0,
        is_backend_strange: target != BACKEND,
    };
    let mut client = Node::new(
        &world,
        client_config,
        &limiters[0],
        talker(0, client_random, dials),
        &[],
        Some(&plan),
        Outside::new(&talks[0], 0, orders[0], Vec::new()),
        run.canary,
    );
    let mut relay = Node::new(
        &world,
        relay_config,
        &limiters[1],
        Observed {
            inner: example::Relay::new(target),
            book: Arc::clone(&book),
        },
        &listeners[..1],
        None,
        Outside::new(&relays, 0, orders[1], Vec::new()),
        run.canary,
    );
    let mut backend = Node::new(
        &world,
        backend_config,
        &limiters[2],
        talker(1, backend_random, 0),
        &listeners[1..],
        None,
        Outside::new(&talks[1], 0, orders[2], Vec::new()),
        run.canary,
    );
    drive(
        &world,
        &mut [&mut client as &mut dyn Steps, &mut relay, &mut backend],
    );
    let world = world.lock().expect("nobody panicked with it");
    let mut coverage = Coverage::of(&world);
    coverage.stats.merge(client.stats());
    coverage.stats.merge(relay.stats());
    coverage.stats.merge(backend.stats());
    let book = lock(&book);
    coverage.count("links", book.links);
    coverage.count("unlinked", book.unlinked);
    coverage.count("links_failed", book.failed);
    coverage.count("forwarded", relay.stats().bytes_forwarded);
    coverage.count("forwarded_copied", relay.stats().bytes_forwarded_copied);
    let unacknowledged = relay.stats().resets_unacknowledged;
    assert!(
        book.is_relay_broken || world.resets_with_loss() <= unacknowledged,
        "a reset came before the bytes"
    );
    assert_eq!(book.open, 0, "a connection that closed is still counted");
    coverage.count("resets_unacknowledged", unacknowledged);
    let all =
        |direction: &&Direction| direction.is_end_told && direction.received == direction.sent;
    let whole = book.pairs.values().flatten().filter(all).count();
    coverage.count("directions_whole", whole as u64);
    let trace = world.trace();
    Outcome { trace, coverage }
}
