//! Handlers on a running engine: real sockets, the public API only. The echo example is one of
//! them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_engine::{
    CloseReason, Config, Conn, ConnId, Context, DialPlan, Engine, Handler, Shutdown,
};

mod common;

use common::{PATIENCE, PENDING_BYTES_MAX, Running};

#[path = "../examples/echo.rs"]
#[allow(dead_code)] // Its main.
mod echo;

/// Answers each whole line with the same in capitals, and uses nothing of an unfinished one.
struct Lines;

impl Handler for Lines {
    type State = u32;
    type Report = ();
    type Command = ();

    fn on_open(&mut self, _: &mut Conn<'_, u32>) {}

    fn on_bytes(&mut self, conn: &mut Conn<'_, u32>, bytes: &[u8]) -> usize {
        let Some(end) = bytes.iter().position(|b| *b == b'\n').map(|i| i + 1) else {
            return 0;
        };
        *conn.state += 1;
        let answer = format!(
            "{} {}",
            conn.state,
            String::from_utf8_lossy(&bytes[..end]).to_uppercase()
        );
        conn.send_copy(answer.as_bytes());
        // More whole lines may follow in the same bytes.
        end + if end < bytes.len() {
            self.on_bytes(conn, &bytes[end..])
        } else {
            0
        }
    }

    fn on_timer(&mut self, _: &mut Conn<'_, u32>) {}
}

fn answers(peer: &mut TcpStream, expected: &str) {
    let mut back = vec![0; expected.len()];
    peer.read_exact(&mut back).expect("an answer");
    assert_eq!(String::from_utf8_lossy(&back), expected);
}

#[test]
fn example_echoes() {
    let running = Running::start(|_| echo::Echo);
    let mut peers: Vec<_> = (0..20).map(|_| running.connect()).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.write_all(format!("hello {number:02}").as_bytes())
            .unwrap();
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        answers(peer, &format!("hello {number:02}"));
    }
    for peer in &mut peers {
        peer.write_all(b"last").unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        peer.read_to_end(&mut back).expect("FIN");
        assert_eq!(back, b"last");
    }
    running.until_closed(CloseReason::PeerClosed, 20);
    assert_eq!(running.stats().accepted, 20);
}

#[test]
fn unused_bytes_are_redelivered_with_later_bytes() {
    let running = Running::start(|_| Lines);
    let mut peer = running.connect();
    for byte in b"a line, byte by byte\n" {
        peer.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    answers(&mut peer, "1 A LINE, BYTE BY BYTE\n");
    peer.write_all(b"two\nthree\nand the beginning of").unwrap();
    answers(&mut peer, "2 TWO\n3 THREE\n");
    peer.write_all(b" four\n").unwrap();
    answers(&mut peer, "4 AND THE BEGINNING OF FOUR\n");
    // As long as the pending limit, over many receive buffers.
    let long = "x".repeat(PENDING_BYTES_MAX);
    peer.write_all(long.as_bytes()).unwrap();
    peer.write_all(b"\n").unwrap();
    answers(&mut peer, &format!("5 {}\n", long.to_uppercase()));
}

#[test]
fn message_over_the_pending_limit_closes_only_its_connection() {
    let running = Running::start(|_| Lines);
    let mut other = running.connect();
    other.write_all(b"begun").unwrap();
    let mut peer = running.connect();
    peer.set_write_timeout(Some(PATIENCE)).unwrap();
    // The server may end it while this is under way.
    let _ = peer.write_all(&vec![b'x'; PENDING_BYTES_MAX + 1]);
    match peer.read(&mut [0]) {
        Ok(count) => assert_eq!(count, 0),
        Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
    }
    running.until_closed(CloseReason::BufferLimit, 1);
    other.write_all(b" and ended\n").unwrap();
    answers(&mut other, "1 BEGUN AND ENDED\n");
}

/// Greets, and ends at once or after the first byte.
struct Goodbye {
    is_at_once: bool,
}

impl Handler for Goodbye {
    type State = ();
    type Report = Vec<CloseReason>;
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        conn.send_static(b"good");
        if self.is_at_once {
            conn.send_copy(b"bye");
            conn.close();
        }
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        conn.send_static(b"bye");
        conn.close();
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, ()>) {}
}

#[test]
fn bytes_sent_before_a_close_arrive_before_the_fin() {
    for is_at_once in [true, false] {
        let running = Running::start(|_| Goodbye { is_at_once });
        for number in 1..=20 {
            let mut peer = running.connect();
            if !is_at_once {
                peer.write_all(b"!").unwrap();
            }
            let mut heard = Vec::new();
            peer.read_to_end(&mut heard).expect("FIN");
            assert_eq!(heard, b"goodbye");
            drop(peer);
            running.until_closed(CloseReason::LocallyClosed, number);
        }
    }
}

/// Sends more than the pending limit, without being asked.
struct Flood;

impl Handler for Flood {
    type State = ();
    type Report = ();
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        conn.set_timer(conn.now_us());
    }

    fn on_bytes(&mut self, _: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, ()>) {
        conn.send_copy(&[b'f'; 4_096]);
        conn.set_timer(conn.now_us() + 1_000);
    }
}

#[test]
fn peer_that_stops_reading_is_closed_as_stalled() {
    let running = Running::start(|_| Flood);
    let deaf = running.connect();
    let mut reading = running.connect();
    let mut piece = [0; 65_536];
    let since = Instant::now();
    while running.stats().closed[CloseReason::Stalled as usize] == 0 {
        assert!(reading.read(&mut piece).expect("served") > 0);
        assert!(since.elapsed() < PATIENCE, "{:?}", running.stats());
    }
    assert_eq!(
        (
            running.stats().open_now,
            running.stats().closed[CloseReason::Stalled as usize]
        ),
        (1, 1)
    );
    drop(deaf);
}

/// One connection after the other: the next is dialled when the last has been closed.
#[derive(Default)]
struct Reconnects {
    is_connected: bool,
    opened: u64,
}

impl Handler for Reconnects {
    type State = ();
    type Report = u64;
    type Command = ();

    fn on_open(&mut self, _: &mut Conn<'_, ()>) {
        self.opened += 1;
    }

    fn on_bytes(&mut self, _: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, ()>) {}

    fn on_close(&mut self, _: &mut Context<'_, ()>, _: ConnId, (): &(), _: CloseReason) {
        self.is_connected = false;
    }

    fn on_turn(&mut self, cx: &mut Context<'_, ()>) -> Option<u64> {
        if !self.is_connected && cx.dial_room() > 0 {
            self.is_connected = true;
            cx.dial_planned(());
        }
        None
    }

    fn report(&mut self, report: &mut u64) {
        *report = self.opened;
    }
}

#[test]
fn deadline_asked_for_in_a_callback_does_not_wait_for_the_next_event() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let target = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let config = Config::builder().capacity(10).ring_slots(100).build();
    let sources = vec![Ipv4Addr::LOCALHOST.into()];
    let plan = DialPlan::new(sources, 20_000..=29_999, vec![target], u64::MAX).expect("a plan");
    let started = Instant::now();
    let engine = Engine::start(config.unwrap(), vec![], Some(plan), |_| {
        Reconnects::default()
    })
    .expect("an engine");
    // An engine that hears of them 50 ms late takes 30 s.
    while *engine.reports().map(|r| r.handler).max().as_ref().unwrap() < 600 {
        assert!(started.elapsed() < PATIENCE / 4, "600 reconnects");
        std::thread::sleep(Duration::from_millis(10));
    }
    engine.stop(Shutdown::Immediate);
    engine.join().expect("an end");
}

/// One connection after the other, each reported through `opened` at once.
struct Opens {
    opened: Arc<AtomicU64>,
    is_connected: bool,
}

impl Handler for Opens {
    type State = ();
    type Report = ();
    type Command = ();

    fn on_open(&mut self, _: &mut Conn<'_, ()>) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    fn on_bytes(&mut self, _: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, ()>) {}

    fn on_close(&mut self, _: &mut Context<'_, ()>, _: ConnId, (): &(), _: CloseReason) {
        self.is_connected = false;
    }

    fn on_turn(&mut self, cx: &mut Context<'_, ()>) -> Option<u64> {
        if !self.is_connected && cx.dial_room() > 0 {
            self.is_connected = true;
            cx.dial_planned(());
        }
        None
    }
}

#[test]
fn connection_that_sends_on_open_acknowledges_the_handshake_with_what_it_sends() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let target = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let config = Config::builder().capacity(10).ring_slots(100);
    let config = config.sends_on_open(true).build();
    let sources = vec![Ipv4Addr::LOCALHOST.into()];
    let plan = DialPlan::new(sources, 30_000..=30_999, vec![target], u64::MAX).expect("a plan");
    let opened = Arc::new(AtomicU64::new(0));
    let engine = Engine::start(config.unwrap(), vec![], Some(plan), |_| Opens {
        opened: Arc::clone(&opened),
        is_connected: false,
    })
    .expect("an engine");
    // Nothing is sent, so the kernel acknowledges by itself after up to 200 ms. A test that is not
    // run for as long comes too late to see that.
    let mut was_delayed = false;
    for number in 1..=20 {
        let started = Instant::now();
        while opened.load(Ordering::Relaxed) < number {
            assert!(started.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        let started = Instant::now();
        let accepted = loop {
            let waited = started.elapsed();
            match listener.accept() {
                Ok((accepted, _)) => break accepted,
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
            was_delayed |= waited > Duration::from_millis(10);
            assert!(waited < PATIENCE, "accepted in the end");
            std::thread::sleep(Duration::from_millis(1));
        };
        if was_delayed {
            break;
        }
        drop(accepted);
    }
    assert!(was_delayed, "no ACK of its own follows the handshake");
    engine.stop(Shutdown::Immediate);
    engine.join().expect("an end");
}

/// What [`Farewell`] sends: more than socket buffers hold.
static LARGE: [u8; 16 << 20] = [b'l'; 16 << 20];

/// Answers the first byte at length, and closes.
struct Farewell;

impl Handler for Farewell {
    type State = ();
    type Report = ();
    type Command = ();

    fn on_open(&mut self, _: &mut Conn<'_, ()>) {}

    fn on_bytes(&mut self, conn: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        conn.send_static(&LARGE);
        conn.close_after_send();
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, ()>) {}
}

#[test]
fn bytes_sent_after_the_last_request_do_not_destroy_the_answer() {
    let running = Running::start(|_| Farewell);
    for number in 1..=5 {
        let mut peer = running.connect();
        peer.write_all(b"request").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        peer.write_all(b"more").unwrap();
        let mut heard = vec![0; LARGE.len() - 1000];
        peer.read_exact(&mut heard).expect("nearly all of it");
        peer.write_all(b"and more").unwrap();
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).expect("the rest, and FIN");
        assert_eq!(rest.len(), 1000);
        drop(peer);
        running.until_closed(CloseReason::LocallyClosed, number);
    }
}
