//! The relay example on real sockets: what one side sends is what the other receives, ends and resets included.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown as Half, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use holdfast_engine::{CloseReason, Engine, OpenFailure, Shutdown, Stats, listen};

#[path = "../examples/relay.rs"]
#[allow(dead_code)] // Its main.
mod relay;

const PATIENCE: Duration = Duration::from_secs(60);

/// A relay, and the backend it relays to.
struct Running {
    engine: Option<Engine<()>>,
    address: SocketAddr,
    backend: Option<TcpListener>,
}

impl Running {
    fn start() -> Self {
        let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let target = backend.local_addr().expect("an address");
        Running::start_to(target, Some(backend))
    }

    fn start_to(target: SocketAddr, backend: Option<TcpListener>) -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (listeners, bound) = listen::listeners(&[anywhere], 1, None).expect("a port");
        let config = relay::config().capacity(100).ring_slots(200);
        let config = config.build().expect("a config");
        let engine = Engine::start(config, listeners, None, |_| relay::Relay::new(target));
        Running {
            engine: Some(engine.expect("an engine")),
            address: bound[0],
            backend,
        }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).expect("a connection");
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_write_timeout(Some(PATIENCE)).unwrap();
        client
    }

    /// Both ends of a pair.
    fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.connect();
        let (server, _) = self.backend.as_ref().unwrap().accept().expect("a partner");
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        server.set_write_timeout(Some(PATIENCE)).unwrap();
        (client, server)
    }

    fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        let reports = self.engine.as_ref().unwrap().reports();
        reports.for_each(|report| stats.merge(&report.stats));
        stats
    }

    fn until(&self, what: &str, is_so: impl Fn(&Stats) -> bool) -> Stats {
        let since = Instant::now();
        loop {
            let stats = self.stats();
            if is_so(&stats) {
                return stats;
            }
            assert!(since.elapsed() < PATIENCE, "{what}: {stats:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let engine = self.engine.take().unwrap();
        engine.stop(Shutdown::Immediate);
        let ended = engine.join();
        assert!(ended.is_ok() || std::thread::panicking(), "{ended:?}");
    }
}

fn content(length: usize, salt: usize) -> Vec<u8> {
    (0..length).map(|i| ((i + salt) * 31 % 251) as u8).collect()
}

/// Sends `length` bytes from each end at once and compares what arrives.
fn exchange(client: &mut TcpStream, server: &mut TcpStream, length: usize) {
    std::thread::scope(|scope| {
        for (stream, own, other) in [(client, 0, 1), (server, 1, 0)] {
            let mut writer = stream.try_clone().unwrap();
            scope.spawn(move || writer.write_all(&content(length, own)).expect("sent"));
            scope.spawn(move || {
                let mut received = vec![0; length];
                stream.read_exact(&mut received).expect("received");
                assert!(
                    received == content(length, other),
                    "the bytes of the other end"
                );
            });
        }
    });
}

#[test]
fn bytes_cross_both_ways_and_messages_without_a_copy() {
    let running = Running::start();
    let (mut client, mut server) = running.pair();
    for length in [1, 100, 5_000] {
        client.write_all(&content(length, 2)).unwrap();
        let mut received = vec![0; length];
        server.read_exact(&mut received).unwrap();
        assert!(received == content(length, 2));
    }
    let stats = running.until("forwarded", |stats| stats.bytes_forwarded == 5_101);
    assert_eq!(stats.bytes_forwarded_copied, 0, "{stats:?}");
    exchange(&mut client, &mut server, 4 << 20);
}

#[test]
fn each_direction_ends_by_itself_and_behind_its_bytes() {
    for client_ends_first in [true, false] {
        let running = Running::start();
        let (client, server) = running.pair();
        let (mut first, mut second) = match client_ends_first {
            true => (client, server),
            false => (server, client),
        };
        let bytes = content(3 << 20, 5);
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            second.read_to_end(&mut received).expect("a FIN");
            (second, received)
        });
        first.write_all(&bytes).unwrap();
        first.shutdown(Half::Write).unwrap();
        let (mut second, received) = reader.join().expect("no panic");
        assert!(received == bytes, "{} bytes before the FIN", received.len());
        // The other direction is open.
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            first.read_to_end(&mut received).expect("a FIN");
            received
        });
        second.write_all(&bytes).unwrap();
        drop(second);
        assert!(reader.join().expect("no panic") == bytes);
        running.until("both close in order", |stats| {
            let orderly = [CloseReason::PeerClosed, CloseReason::LocallyClosed];
            let count: u64 = orderly.map(|r| stats.closed[r as usize]).iter().sum();
            stats.open_now == 0 && count == 2
        });
    }
}

/// Sends until neither the relay nor the sockets take more, and returns how many bytes they took.
fn fill(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let (mut sent, mut refusals) = (0, 0);
    while refusals < 20 {
        match stream.write(&bytes[sent..]) {
            Ok(count) => (sent, refusals) = (sent + count, 0),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                refusals += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(e) => panic!("{e}"),
        }
        assert!(sent < bytes.len(), "somebody keeps everything");
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

/// Makes dropping it a reset.
fn reset(stream: TcpStream) {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
}

#[test]
fn reset_crosses_behind_the_bytes_accepted_before() {
    for client_resets in [true, false] {
        let running = Running::start();
        let (client, server) = running.pair();
        let (mut first, mut second) = match client_resets {
            true => (client, server),
            false => (server, client),
        };
        first.write_all(b"before the reset").unwrap();
        running.until("forwarded", |stats| stats.bytes_forwarded == 16);
        reset(first);
        running.until("closed", |stats| stats.open_now == 0);
        let mut received = [0; 16];
        second.read_exact(&mut received).expect("the bytes before");
        assert_eq!(&received, b"before the reset");
        let error = second.read(&mut received).expect_err("a reset, not a FIN");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

/// Bytes that the peer's kernel has not acknowledged, of the socket from `local` to `remote`.
fn unacknowledged(local: SocketAddr, remote: SocketAddr) -> u64 {
    let name = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => {
            let ip = u32::from_le_bytes(v4.ip().octets());
            format!("{ip:08X}:{:04X}", v4.port())
        }
        SocketAddr::V6(_) => unreachable!("these tests use IPv4"),
    };
    let (local, remote) = (name(local), name(remote));
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's list");
    let queues = sockets.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields[1] == local && fields[2] == remote).then(|| fields[4].to_owned())
    });
    let queues = queues.expect("the socket is in the list");
    let (sent, _) = queues.split_once(':').expect("two queues");
    u64::from_str_radix(sent, 16).expect("hexadecimal")
}

#[test]
fn reset_crosses_behind_bytes_that_the_receiver_has_not_read() {
    for client_resets in [true, false] {
        let running = Running::start();
        let (client, server) = running.pair();
        let (mut first, mut second) = match client_resets {
            true => (client, server),
            false => (server, client),
        };
        let bytes = content(64 << 20, 3);
        let sent = fill(&mut first, &bytes);
        // All that the relay's socket has acknowledged: the rest goes with the reset.
        let addresses = (first.local_addr().unwrap(), first.peer_addr().unwrap());
        let accepted = sent as u64 - unacknowledged(addresses.0, addresses.1);
        let stats = running.until("bytes in the relay's socket", |stats| {
            stats.bytes_received < accepted
        });
        assert_eq!(stats.open_now, 2);
        reset(first);
        std::thread::sleep(Duration::from_millis(300));
        let mut received = Vec::new();
        let error = second.read_to_end(&mut received).expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let count = received.len();
        assert!(
            count as u64 >= accepted,
            "{count} of {accepted} bytes came before the reset"
        );
        assert!(received == bytes[..count]);
        let stats = running.until("closed", |stats| stats.open_now == 0);
        assert_eq!(stats.resets_unacknowledged, 0, "{stats:?}");
    }
}

#[test]
fn answer_before_a_reset_reaches_a_client_that_is_still_sending() {
    let running = Running::start();
    for _ in 0..20 {
        let (mut client, mut server) = running.pair();
        let mut writer = client.try_clone().unwrap();
        // As a server that refuses an upload: it answers, and closes with bytes unread.
        let upload = std::thread::spawn(move || {
            let bytes = content(65_536, 1);
            while writer.write_all(&bytes).is_ok() {}
        });
        server.read_exact(&mut [0; 1_000]).unwrap();
        server.write_all(b"no more, please").unwrap();
        drop(server);
        let mut answer = [0; 15];
        client.read_exact(&mut answer).expect("the answer");
        assert_eq!(&answer, b"no more, please");
        drop(client);
        upload.join().expect("no panic");
        running.until("closed", |stats| stats.open_now == 0);
    }
}

#[test]
fn client_of_a_backend_that_refuses_is_reset() {
    // Bound and not listening, so that no other test gets the port.
    let backend = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    backend.bind(&anywhere.into()).unwrap();
    let target = backend.local_addr().unwrap().as_socket().unwrap();
    let running = Running::start_to(target, None);
    let mut client = running.connect();
    // Sent before the dial fails, and not lost to a partner that is not there; or the reset comes first.
    let sent = client.write_all(b"hello");
    let error = sent.and_then(|()| client.read(&mut [0]).map(drop));
    let error = error.expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    running.until("closed", |stats| {
        stats.open_now == 0 && stats.failed[OpenFailure::Refused as usize] == 1
    });
}

#[test]
fn slow_reader_stops_the_other_side_and_memory_stays_bounded() {
    let running = Running::start();
    let (mut client, mut server) = running.pair();
    let bytes = content(64 << 20, 7);
    let sent = fill(&mut client, &bytes);
    let forwarded = running.stats().bytes_forwarded;
    std::thread::sleep(Duration::from_millis(300));
    let stats = running.stats();
    assert_eq!(
        stats.bytes_forwarded, forwarded,
        "nothing is read for a peer that does not read"
    );
    assert_eq!(stats.open_now, 2, "{stats:?}");
    // The other direction is not stopped.
    server.write_all(b"still here").unwrap();
    let mut received = [0; 10];
    client.read_exact(&mut received).unwrap();
    client.shutdown(Half::Write).unwrap();
    let mut received = Vec::new();
    server
        .read_to_end(&mut received)
        .expect("everything, then the FIN");
    assert!(received == bytes[..sent], "{} of {sent}", received.len());
}

#[test]
fn many_pairs_come_and_go() {
    let running = Running::start();
    for _ in 0..5 {
        let mut pairs: Vec<_> = (0..30).map(|_| running.pair()).collect();
        for (number, (client, _)) in pairs.iter_mut().enumerate() {
            client.write_all(&content(1_000 + number, number)).unwrap();
        }
        // Accepted in any order: each says whose it is by its length.
        for (client, _) in &pairs {
            client.shutdown(Half::Write).unwrap();
        }
        let mut lengths: Vec<usize> = pairs
            .iter_mut()
            .map(|(_, server)| {
                let mut received = Vec::new();
                server.read_to_end(&mut received).expect("a FIN");
                assert!(received == content(received.len(), received.len() - 1_000));
                received.len()
            })
            .collect();
        lengths.sort_unstable();
        assert_eq!(lengths, (1_000..1_030).collect::<Vec<_>>());
        drop(pairs);
        running.until("closed", |stats| stats.open_now == 0);
    }
}
