//! A graceful close takes a descriptor of the process for a moment, keeps none, and needs none.
//!
//! One test, since it changes the limit of its process and counts all descriptors.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use holdfast_engine::{CloseReason, Config, Conn, Engine, Handler, listen};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Far more than any of this takes on a busy machine, and less than the drain timeout.
const PATIENCE: Duration = Duration::from_secs(60);

/// Closes a connection when bytes arrive.
struct Closer;

impl Handler for Closer {
    type State = ();
    type Report = ();
    type Command = ();

    fn on_open(&mut self, _: &mut Conn<'_, ()>) {}

    fn on_bytes(&mut self, conn: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        conn.close();
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, ()>) {}
}

/// Descriptors of this process, the one that looks included.
fn descriptor_count() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("a directory of descriptors")
        .count()
}

fn connect(address: SocketAddr) -> TcpStream {
    let peer = TcpStream::connect(address).expect("a connection");
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer
}

/// Makes the engine close `peer`, and waits for its end.
fn have_closed(peer: &mut TcpStream) {
    peer.write_all(b"x").unwrap();
    assert_eq!(peer.read(&mut [0]).expect("the engine's end"), 0);
}

/// Waits until `count` connections have closed, all of them gracefully.
fn await_closed(engine: &Engine<()>, count: u64) {
    let since = Instant::now();
    loop {
        let closed = engine.reports().next().expect("one thread").stats.closed;
        if closed.iter().sum::<u64>() == count {
            assert_eq!(closed[CloseReason::LocallyClosed as usize], count);
            return;
        }
        assert!(since.elapsed() < PATIENCE, "{closed:?} of {count}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn graceful_close_keeps_no_descriptor_and_needs_none() {
    let config = Config::builder().capacity(100).drain_timeout(PATIENCE * 2);
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let (listeners, bound) = listen::listeners(&[anywhere], 1, None).expect("a port");
    let config = config.build().expect("valid");
    let engine = Engine::start(config, listeners, None, |_| Closer).expect("an engine");

    let before = descriptor_count();
    for _ in 0..100 {
        have_closed(&mut connect(bound[0]));
    }
    await_closed(&engine, 100);
    assert_eq!(descriptor_count(), before);

    let mut peers: Vec<TcpStream> = (0..20).map(|_| connect(bound[0])).collect();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 200, hard).unwrap();
    let fillers: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(File::open("/dev/null").is_err(), "no descriptor is left");
    peers.iter_mut().for_each(have_closed);
    drop((peers, fillers));
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    await_closed(&engine, 120);
}
