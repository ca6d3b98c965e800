//! Shared buffers on real sockets: one buffer for many connections, whatever their peers do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use holdfast_engine::{CloseReason, Config, Conn, Engine, Handler, Shutdown, Stats, listen};

const PATIENCE: Duration = Duration::from_secs(60);
const PEERS: usize = 50;
/// More than socket buffers hold.
const LARGE_BYTES: usize = 12 << 20;
const QUEUED_BYTES_MAX: usize = 1 << 20;

/// Sends every peer the same buffer, once for each byte it sends.
struct Broadcast {
    buffer: Arc<[u8]>,
}

impl Handler for Broadcast {
    type State = ();
    type Report = ();
    type Command = ();

    fn on_open(&mut self, _: &mut Conn<'_, ()>) {}

    fn on_bytes(&mut self, conn: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        for byte in bytes {
            conn.send_copy(&[*byte]);
            conn.send_shared(Arc::clone(&self.buffer));
        }
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, ()>) {}
}

struct Running {
    engine: Option<Engine<()>>,
    address: SocketAddr,
    buffer: Weak<[u8]>,
}

impl Running {
    fn start(length: usize) -> Self {
        let config = Config::builder()
            .capacity(100)
            .ring_slots(200)
            .shared_bytes_max(QUEUED_BYTES_MAX)
            .build()
            .expect("a config");
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (listeners, bound) = listen::listeners(&[anywhere], 1, None).expect("a port");
        let buffer: Arc<[u8]> = (0..length).map(|i| (i % 251) as u8).collect();
        let weak = Arc::downgrade(&buffer);
        let handler = move |_| Broadcast {
            buffer: Arc::clone(&buffer),
        };
        let engine = Engine::start(config, listeners, None, handler).expect("an engine");
        Running {
            engine: Some(engine),
            address: bound[0],
            buffer: weak,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        let reports = self.engine.as_ref().expect("it runs").reports();
        reports.for_each(|report| stats.merge(&report.stats));
        stats
    }

    fn until(&self, what: &str, is_so: impl Fn(&Stats) -> bool) {
        let since = Instant::now();
        while !is_so(&self.stats()) {
            assert!(since.elapsed() < PATIENCE, "{what}: {:?}", self.stats());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it: then nobody has the buffer any more.
    fn end(mut self) {
        let engine = self.engine.take().expect("it runs");
        engine.stop(Shutdown::Immediate);
        engine.join().expect("an end");
        assert_eq!(self.buffer.strong_count(), 0, "the buffer is released");
    }
}

fn expect_message(peer: &mut TcpStream, first: u8, length: usize) {
    let mut message = vec![0; 1 + length];
    peer.read_exact(&mut message).expect("a message");
    assert_eq!(message[0], first);
    let is_right = message[1..]
        .iter()
        .enumerate()
        .all(|(i, b)| *b == (i % 251) as u8);
    assert!(is_right, "the bytes of the buffer");
}

#[test]
fn every_peer_is_sent_the_shared_buffer_and_only_the_handler_keeps_it() {
    for length in [1, 5_000, 300_000] {
        let running = Running::start(length);
        let mut peers: Vec<_> = (0..PEERS).map(|_| running.connect()).collect();
        for peer in &mut peers {
            peer.write_all(b"ab").unwrap();
        }
        for peer in &mut peers {
            expect_message(peer, b'a', length);
            expect_message(peer, b'b', length);
        }
        // The handler has one. A send is settled by the entry that follows it.
        let since = Instant::now();
        while running.buffer.strong_count() > 1 {
            assert!(since.elapsed() < PATIENCE);
            peers[0].write_all(b"c").unwrap();
            expect_message(&mut peers[0], b'c', length);
        }
        running.end();
    }
}

#[test]
fn large_buffer_is_sent_from_where_the_peer_left_off() {
    let running = Running::start(LARGE_BYTES);
    let mut peer = running.connect();
    peer.write_all(b"x").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    expect_message(&mut peer, b'x', LARGE_BYTES);
    running.end();
}

#[test]
fn stalled_receiver_is_closed_and_the_buffer_released() {
    let running = Running::start(LARGE_BYTES);
    let mut stalled = running.connect();
    stalled.write_all(b"a").unwrap();
    running.until("a short send", |stats| stats.sends_short > 0);
    // One buffer may be of any size; a second one behind it is too much.
    assert_eq!(running.stats().closed[CloseReason::Stalled as usize], 0);
    assert!(running.buffer.strong_count() > 1, "a piece keeps it");
    let mut other = running.connect();
    other.write_all(b"ab").unwrap();
    running.until("two are stalled", |stats| {
        stats.closed[CloseReason::Stalled as usize] == 1
    });
    // A peer that vanishes while it is sent the buffer gives it back too.
    drop(stalled);
    running.until("all have ended", |stats| stats.open_now == 0);
    running.end();
}
