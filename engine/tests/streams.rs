//! Half-open connections, paused reading and resets, on real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use holdfast_engine::{CloseReason, Conn, ConnId, Context, Handler};
use socket2::SockRef;

mod common;

use common::{PATIENCE, Running};

/// How connections wait: parked on a poll, or with a receive in the kernel.
const WAITS: [Duration; 2] = [Duration::ZERO, Duration::from_secs(10)];

/// More than socket buffers hold.
static LARGE: [u8; 16 << 20] = [b'l'; 16 << 20];

/// How long to look at what must not change.
const WHILE: Duration = Duration::from_millis(300);

/// What handlers here saw.
#[derive(Debug, Default, Clone)]
struct Report {
    /// Bytes used, and whether each was the one expected after those before it.
    used: usize,
    is_in_order: bool,
    ends: u32,
    pauses: u32,
}

/// The byte at a place of every stream that a peer sends here.
fn byte_at(place: usize) -> u8 {
    (place % 251) as u8
}

fn stream_bytes(count: usize) -> Vec<u8> {
    (0..count).map(byte_at).collect()
}

/// What a [`Streamer`] does when the peer has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtEnd {
    /// What the trait does.
    Close,
    /// Says three words with rests between them, then closes.
    Talk,
    /// As `Talk`, and ends its side instead of closing.
    TalkAndShut,
    /// Sends [`LARGE`] and closes.
    SendLarge,
    Nothing,
}

/// One connection a test, so that the handler counts for it.
struct Streamer {
    /// Sends a greeting and ends its side at once.
    ends_first: bool,
    at_end: AtEnd,
    /// Pauses at the first bytes, uses half of them, and resumes after this time, if ever.
    pauses_for: Option<Duration>,
    has_paused: bool,
    report: Report,
}

impl Streamer {
    fn new(at_end: AtEnd) -> Self {
        Streamer {
            ends_first: false,
            at_end,
            pauses_for: None,
            has_paused: false,
            report: Report {
                is_in_order: true,
                ..Report::default()
            },
        }
    }
}

impl Handler for Streamer {
    /// Words said since the peer ended.
    type State = u32;
    type Report = Report;
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, u32>) {
        if self.ends_first {
            conn.send_static(b"greeting");
            conn.shutdown_write();
        }
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, u32>, bytes: &[u8]) -> usize {
        let mut used = bytes.len();
        if let Some(time) = self.pauses_for.filter(|_| !self.has_paused) {
            self.has_paused = true;
            self.report.pauses += 1;
            conn.pause_reading();
            used /= 2;
            if time < PATIENCE {
                conn.set_timer(conn.now_us() + time.as_micros() as u64);
            }
        }
        let mut places = self.report.used..;
        self.report.is_in_order &= bytes[..used]
            .iter()
            .all(|byte| *byte == byte_at(places.next().expect("no end")));
        self.report.used += used;
        if self.ends_first {
            // Nobody hears it.
            conn.send_static(b"too late");
        }
        used
    }

    fn on_eof(&mut self, conn: &mut Conn<'_, u32>) {
        self.report.ends += 1;
        match self.at_end {
            AtEnd::Close => conn.close(),
            AtEnd::Talk | AtEnd::TalkAndShut => conn.set_timer(conn.now_us()),
            AtEnd::SendLarge => {
                conn.send_static(&LARGE);
                conn.close();
            }
            AtEnd::Nothing => {}
        }
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, u32>) {
        if self.report.ends == 0 {
            return conn.resume_reading();
        }
        *conn.state += 1;
        match (*conn.state, self.at_end) {
            (1..=3, _) => {
                conn.send_static(b"word");
                conn.set_timer(conn.now_us() + 100_000);
            }
            (_, AtEnd::Talk) => conn.close(),
            _ => conn.shutdown_write(),
        }
    }

    fn on_close(&mut self, _: &mut Context<'_, u32>, _: ConnId, _: &u32, _: CloseReason) {}

    fn report(&mut self, report: &mut Report) {
        *report = self.report.clone();
    }
}

type Engine = Running<Report>;

fn start(wait: Duration, make: impl Fn() -> Streamer) -> Engine {
    start_with_buffers(64, wait, make)
}

fn start_with_buffers(bytes: u32, wait: Duration, make: impl Fn() -> Streamer) -> Engine {
    let config = Engine::config().thread_count(1).park_after(wait);
    Running::with_config(config.buffer_bytes(bytes), |_| make())
}

fn report(engine: &Engine) -> Report {
    let mut reports = engine.engine.as_ref().unwrap().reports();
    reports.next().expect("a thread").handler.clone()
}

fn until(engine: &Engine, what: &str, is_so: impl Fn(&Report) -> bool) {
    let since = Instant::now();
    while !is_so(&report(engine)) {
        let passed = since.elapsed();
        assert!(passed < PATIENCE, "{what}: {:?}", report(engine));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn reset(peer: TcpStream) {
    SockRef::from(&peer)
        .set_linger(Some(Duration::ZERO))
        .expect("an option");
    drop(peer);
}

fn read_all(peer: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    peer.read_to_end(&mut heard).expect("FIN");
    heard
}

#[test]
fn peer_that_ends_its_side_gets_its_answer() {
    for wait in WAITS {
        for at_end in [AtEnd::Talk, AtEnd::TalkAndShut] {
            let engine = start(wait, || Streamer::new(at_end));
            let mut peer = engine.connect();
            peer.write_all(&stream_bytes(1_000)).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&mut peer), b"wordwordword");
            // Without the peer's close.
            engine.until_closed(CloseReason::PeerClosed, 1);
            let report = report(&engine);
            assert_eq!((report.used, report.ends), (1_000, 1), "{report:?}");
        }
    }
}

#[test]
fn default_closes_when_the_peer_has() {
    for wait in WAITS {
        let engine = start(wait, || Streamer::new(AtEnd::Close));
        let mut peer = engine.connect();
        peer.write_all(&stream_bytes(100)).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut peer), b"");
        engine.until_closed(CloseReason::PeerClosed, 1);
    }
}

#[test]
fn server_that_ends_first_reads_on() {
    for wait in WAITS {
        let engine = start(wait, || Streamer {
            ends_first: true,
            ..Streamer::new(AtEnd::Nothing)
        });
        let mut peer = engine.connect();
        assert_eq!(read_all(&mut peer), b"greeting");
        peer.write_all(&stream_bytes(1_000_000)).unwrap();
        until(&engine, "all used", |report| report.used == 1_000_000);
        assert!(report(&engine).is_in_order);
        assert_eq!(engine.stats().open_now, 1);
        peer.shutdown(Shutdown::Write).unwrap();
        // Both have ended, and the engine was first.
        engine.until_closed(CloseReason::LocallyClosed, 1);
        assert_eq!(report(&engine).ends, 1);
    }
}

#[test]
fn reset_of_a_half_open_connection_is_noticed() {
    for wait in WAITS {
        let engine = start(wait, || Streamer::new(AtEnd::Nothing));
        let peer = engine.connect();
        peer.shutdown(Shutdown::Write).unwrap();
        until(&engine, "told of the end", |report| report.ends == 1);
        std::thread::sleep(WHILE);
        assert_eq!(engine.stats().open_now, 1);
        reset(peer);
        engine.until_closed(CloseReason::Reset, 1);
    }
}

#[test]
fn reset_while_reading_is_paused_is_noticed() {
    for wait in WAITS {
        for ends_first in [false, true] {
            let engine = start(wait, || Streamer {
                pauses_for: Some(Duration::MAX),
                ends_first,
                ..Streamer::new(AtEnd::Close)
            });
            let mut peer = engine.connect();
            peer.write_all(&stream_bytes(10)).unwrap();
            until(&engine, "paused", |report| report.pauses == 1);
            peer.write_all(&stream_bytes(10)).unwrap();
            std::thread::sleep(WHILE);
            assert_eq!((engine.stats().open_now, report(&engine).used), (1, 5));
            reset(peer);
            engine.until_closed(CloseReason::Reset, 1);
        }
    }
}

#[test]
fn paused_reading_slows_the_peer_down_and_goes_on_in_order() {
    for wait in WAITS {
        let engine = start_with_buffers(16_384, wait, || Streamer {
            pauses_for: Some(Duration::from_secs(4)),
            ..Streamer::new(AtEnd::Close)
        });
        let mut peer = engine.connect();
        let bytes = stream_bytes(20 << 20);
        peer.set_write_timeout(Some(WHILE)).unwrap();
        let mut written = 0;
        let stopped = loop {
            match peer.write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(e) => break e,
            }
            assert!(written < bytes.len(), "nothing slows the peer down");
        };
        assert_eq!(stopped.kind(), ErrorKind::WouldBlock);
        let used = report(&engine).used;
        assert!(used <= 16_384, "{used} bytes while paused");
        peer.set_write_timeout(Some(PATIENCE)).unwrap();
        peer.write_all(&bytes[written..]).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        engine.until_closed(CloseReason::PeerClosed, 1);
        let report = report(&engine);
        assert_eq!((report.used, report.ends), (bytes.len(), 1), "{report:?}");
        assert!(report.is_in_order);
    }
}

#[test]
fn end_that_comes_while_reading_is_paused_is_told_behind_the_bytes() {
    for wait in WAITS {
        let engine = start(wait, || Streamer {
            pauses_for: Some(2 * WHILE),
            ..Streamer::new(AtEnd::TalkAndShut)
        });
        let mut peer = engine.connect();
        peer.write_all(&stream_bytes(1_001)).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        until(&engine, "paused", |report| report.pauses == 1);
        assert_eq!(report(&engine).ends, 0);
        assert_eq!(read_all(&mut peer), b"wordwordword");
        engine.until_closed(CloseReason::PeerClosed, 1);
        let report = report(&engine);
        assert_eq!((report.used, report.ends), (1_001, 1), "{report:?}");
        assert!(report.is_in_order);
    }
}

#[test]
fn peer_that_ends_and_reads_slowly_costs_nothing_meanwhile() {
    for wait in WAITS {
        let engine = start(wait, || Streamer::new(AtEnd::SendLarge));
        let mut peer = engine.connect();
        peer.shutdown(Shutdown::Write).unwrap();
        until(&engine, "told of the end", |report| report.ends == 1);
        std::thread::sleep(Duration::from_millis(250));
        let before = engine.stats().sends_short;
        std::thread::sleep(3 * WHILE);
        let short = engine.stats().sends_short - before;
        assert_eq!(short, 0, "sends are tried while the peer does not read");
        let mut heard = 0;
        let mut piece = vec![0; 1 << 20];
        while heard < LARGE.len() {
            let count = peer.read(&mut piece).expect("the rest");
            assert!(count > 0, "FIN after {heard} bytes");
            heard += count;
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(read_all(&mut peer), b"");
        engine.until_closed(CloseReason::PeerClosed, 1);
    }
}
