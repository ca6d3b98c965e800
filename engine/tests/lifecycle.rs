//! Starting, stopping and dropping an engine, by its public API.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_engine::{Config, Conn, Engine, Handler, SetupErrorKind, Shutdown, listen};

/// Far more than any of this takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends back what comes; panics at `!`; at `?` it hangs until `release` is dropped.
struct Moody {
    release: Arc<Mutex<Receiver<()>>>,
}

impl Handler for Moody {
    type State = ();
    type Report = ();
    type Command = ();

    fn on_open(&mut self, _: &mut Conn<'_, ()>) {}

    fn on_bytes(&mut self, conn: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        assert!(!bytes.contains(&b'!'), "as the peer wishes");
        conn.send_copy(bytes);
        if bytes.contains(&b'?') {
            let _ = self.release.lock().unwrap().recv();
        }
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, ()>) {}
}

/// Two threads, the address they listen on, and what releases a handler that hangs.
fn start() -> (Engine<()>, SocketAddr, Sender<()>) {
    let config = Config::builder().capacity(100).thread_count(2).build();
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let (listeners, bound) = listen::listeners(&[anywhere], 2, None).expect("a port");
    let (release, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    let make_handler = |_| Moody {
        release: Arc::clone(&receiver),
    };
    let engine = Engine::start(config.expect("valid"), listeners, None, make_handler);
    (engine.expect("an engine"), bound[0], release)
}

/// A connection whose first bytes were echoed, so that the engine holds it.
fn connect(address: SocketAddr) -> TcpStream {
    let mut peer = TcpStream::connect(address).expect("a connection");
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.write_all(b"hello").unwrap();
    peer.read_exact(&mut [0; 5]).expect("an echo");
    peer
}

fn assert_ended(peer: &mut TcpStream) {
    match peer.read(&mut [0]) {
        Ok(count) => assert_eq!(count, 0),
        Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
    }
}

#[test]
fn dropped_engine_aborts_its_connections_and_frees_its_port() {
    let (engine, address, _release) = start();
    let mut peers: Vec<_> = (0..20).map(|_| connect(address)).collect();
    drop(engine);
    peers.iter_mut().for_each(assert_ended);
    TcpListener::bind(address).expect("the port is free");
}

#[test]
fn dropping_an_engine_does_not_wait_for_a_handler_that_hangs() {
    let (engine, address, release) = start();
    let mut peer = connect(address);
    peer.write_all(b"?").unwrap();
    // Not before the handler hangs, or it would be stopped before it is given the byte.
    std::thread::sleep(Duration::from_millis(200));
    let since = Instant::now();
    drop(engine);
    let passed = since.elapsed();
    assert!(
        (Duration::from_secs(4)..PATIENCE).contains(&passed),
        "{passed:?}"
    );
    drop(release);
    assert_ended_after_echo(&mut peer);
}

/// What was echoed before the abort may still arrive.
fn assert_ended_after_echo(peer: &mut TcpStream) {
    match peer.read(&mut [0]) {
        Ok(1) => assert_ended(peer),
        Ok(count) => assert_eq!(count, 0),
        Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
    }
}

#[test]
fn panic_of_a_handler_stops_all_threads_and_reaches_join() {
    let (engine, address, _release) = start();
    let mut peer = connect(address);
    peer.write_all(b"!").unwrap();
    let since = Instant::now();
    while !engine.is_done() {
        assert!(since.elapsed() < PATIENCE, "the other thread goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    let joined = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.join()));
    let panic = joined.expect_err("join passes the panic on");
    assert_eq!(panic.downcast_ref(), Some(&"as the peer wishes"));
}

#[test]
fn graceful_shutdown_ends_when_the_peers_close() {
    let (engine, address, _release) = start();
    let mut peer = connect(address);
    engine.stop(Shutdown::Graceful);
    assert_ended(&mut peer);
    drop(peer);
    engine.join().expect("it ended");
}

#[test]
fn more_listeners_than_threads_are_refused() {
    let (listeners, _) =
        listen::listeners(&[SocketAddr::from(([127, 0, 0, 1], 0))], 2, None).expect("a port");
    let config = Config::builder().capacity(100).build().expect("valid");
    let (_release, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    let engine = Engine::start(config, listeners, None, |_| Moody {
        release: Arc::clone(&receiver),
    });
    let error = engine.err().expect("refused");
    assert_eq!(error.kind(), SetupErrorKind::InvalidInput, "{error}");
}

#[test]
fn table_beyond_the_descriptor_limit_is_refused_with_its_cause() {
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .expect("a limit");
    if soft >= 1 << 20 {
        return; // No table can be too large here.
    }
    let config = Config::builder()
        .ring_slots(soft as u32 + 1)
        .thread_count(3);
    let (_release, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    let engine = Engine::start(config.build().expect("valid"), Vec::new(), None, |_| {
        Moody {
            release: Arc::clone(&receiver),
        }
    });
    let error = engine.err().expect("refused");
    assert_eq!(error.kind(), SetupErrorKind::LimitExceeded, "{error}");
    assert!(error.to_string().contains("ulimit -n"), "{error}");
}

/// Opens and echoes until told to stop; returns how many connections it had. Each must be accepted
/// and answered.
fn keep_connecting(
    address: SocketAddr,
    is_over: Arc<std::sync::atomic::AtomicBool>,
) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut count = 0;
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            connect(address);
            count += 1;
        }
        count
    })
}

/// The listeners of `threads`, for another engine: every one at least once.
fn shared(listeners: &[Vec<listen::Listener>], thread_count: usize) -> Vec<Vec<listen::Listener>> {
    let all = listeners.iter().flatten();
    let all = all
        .map(|listener| listen::Listener::shared(listener.as_fd().try_clone_to_owned().unwrap()));
    listen::spread(all.collect(), thread_count).expect("descriptors")
}

/// Engines follow each other on the same listeners, with more threads and fewer: nobody is refused
/// or reset.
#[test]
fn listeners_move_to_successors_without_losing_a_connection() {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let (listeners, bound) = listen::listeners(&[anywhere], 2, None).expect("a port");
    let (_release, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    let start = |listeners: Vec<Vec<listen::Listener>>| {
        let config = Config::builder()
            .capacity(1_000)
            .thread_count(listeners.len());
        let config = config.build().expect("valid");
        Engine::start(config, listeners, None, |_| Moody {
            release: Arc::clone(&receiver),
        })
        .expect("an engine")
    };
    let mut engine = start(shared(&listeners, 2));
    let is_over = Arc::default();
    let clients = [(); 3].map(|()| keep_connecting(bound[0], Arc::clone(&is_over)));
    let mut held = connect(bound[0]);
    for (round, thread_count) in [3, 1, 2, 4].into_iter().enumerate() {
        let successor = start(shared(&listeners, thread_count));
        std::thread::sleep(Duration::from_millis(100));
        let predecessor = std::mem::replace(&mut engine, successor);
        if round % 2 == 0 {
            predecessor.release_listeners();
            std::thread::sleep(Duration::from_millis(100));
            // Its connections go on.
            held.write_all(b"still").unwrap();
            held.read_exact(&mut [0; 5]).expect("an echo");
        }
        predecessor.stop(Shutdown::Graceful);
        assert_ended(&mut held);
        held = connect(bound[0]);
        predecessor.join().expect("it ended");
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    let counts = clients.map(|client| client.join().expect("nobody was refused"));
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

/// Connections that wait when nobody accepts from a shared listener wait for the successor.
#[test]
fn stopped_engine_leaves_waiting_connections_to_the_successor() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (_release, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    let start = || {
        let own = listen::Listener::shared(listener.try_clone().unwrap());
        let config = Config::builder().capacity(10).build().expect("valid");
        let make_handler = |_| Moody {
            release: Arc::clone(&receiver),
        };
        Engine::start(config, vec![vec![own]], None, make_handler).expect("an engine")
    };
    let first = start();
    drop(connect(address));
    first.stop(Shutdown::Graceful);
    first.join().expect("it ended");
    let mut waiting = TcpStream::connect(address).expect("the kernel accepts it");
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    waiting.write_all(b"hello").unwrap();
    let _second = start();
    waiting.read_exact(&mut [0; 5]).expect("an echo");
}
