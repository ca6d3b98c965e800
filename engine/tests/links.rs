//! Partners on real sockets: what they are dialled with, what they are sent first, how many there may be.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_engine::{
    CloseReason, Config, ConfigBuilder, Conn, ConnId, Context, Dial, DialId, Engine, Handler,
    KeepAlive, OpenFailure, PartnerEnd, Shutdown, SocketOptions, Source, Stats, listen,
};

const PATIENCE: Duration = Duration::from_secs(60);
const HEADER: &[u8] = b"PROXY UNKNOWN\r\n";

/// What the handler was told, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Failed(OpenFailure),
    Unlinked(PartnerEnd),
    Timer,
    Closed(CloseReason),
}

/// Forwards, behind a header, through the dials of a list: if one fails, the next.
struct Proxy {
    dials: Vec<Dial>,
    /// What a partner is sent first.
    header: &'static [u8],
    /// Bytes of the client that it takes before it dials.
    peek: usize,
    told: Arc<Mutex<Vec<Told>>>,
    peers: HashMap<ConnId, usize>,
}

impl Proxy {
    fn tell(&self, told: Told) {
        self.told.lock().unwrap().push(told);
    }

    fn dial(&mut self, conn: &mut Conn<'_, u32>) {
        let next = *conn.state as usize;
        *conn.state += 1;
        match self.dials.get(next) {
            Some(dial) => assert!(conn.dial_partner(*dial, 0).is_ok()),
            None => conn.reset(CloseReason::LocallyClosed),
        }
    }
}

impl Handler for Proxy {
    type State = u32;
    type Report = ();
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, u32>) {
        match conn.partner() {
            Some(client) => {
                conn.send_static(self.header);
                self.peers.insert(client, 1);
            }
            None if self.peek == 0 => self.dial(conn),
            None => {}
        }
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, u32>, bytes: &[u8]) -> usize {
        if conn.partner().is_none() {
            if bytes.len() >= self.peek && *conn.state == 0 {
                self.dial(conn);
            }
            return 0;
        }
        conn.forward(bytes)
    }

    fn on_eof(&mut self, conn: &mut Conn<'_, u32>) {
        conn.forward_eof();
        conn.set_timer(conn.now_us() + 300_000);
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, u32>) {
        self.tell(Told::Timer);
        conn.reset(CloseReason::Idle);
    }

    fn on_unlinked(&mut self, conn: &mut Conn<'_, u32>, end: PartnerEnd) {
        self.tell(Told::Unlinked(end));
        match end {
            PartnerEnd::OpenFailed(_) => self.dial(conn),
            PartnerEnd::Closed(_) => conn.reset_after_send(),
        }
    }

    fn on_open_failed(
        &mut self,
        _: &mut Context<'_, u32>,
        _: DialId,
        _: &u32,
        failure: OpenFailure,
    ) {
        self.tell(Told::Failed(failure));
    }

    fn on_close(&mut self, _: &mut Context<'_, u32>, id: ConnId, _: &u32, reason: CloseReason) {
        self.peers.remove(&id);
        self.tell(Told::Closed(reason));
    }
}

struct Running {
    engine: Option<Engine<()>>,
    address: SocketAddr,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Running {
    fn start(config: ConfigBuilder, peek: usize, dials: &[Dial]) -> Self {
        Running::start_with(config, peek, dials, HEADER)
    }

    fn start_with(
        config: ConfigBuilder,
        peek: usize,
        dials: &[Dial],
        header: &'static [u8],
    ) -> Self {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (listeners, bound) = listen::listeners(&[anywhere], 1, None).expect("a port");
        let config = config.pairs(true).build().expect("a config");
        let told = Arc::new(Mutex::new(Vec::new()));
        let engine = Engine::start(config, listeners, None, |_| Proxy {
            dials: dials.to_vec(),
            header,
            peek,
            told: Arc::clone(&told),
            peers: HashMap::new(),
        });
        Running {
            engine: Some(engine.expect("an engine")),
            address: bound[0],
            told,
        }
    }

    fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(self.address).expect("a connection"))
    }

    fn until(&self, what: &str, is_so: impl Fn(&Stats) -> bool) -> Stats {
        let since = Instant::now();
        loop {
            let mut stats = Stats::default();
            let reports = self.engine.as_ref().unwrap().reports();
            reports.for_each(|report| stats.merge(&report.stats));
            if is_so(&stats) {
                return stats;
            }
            assert!(since.elapsed() < PATIENCE, "{what}: {stats:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
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

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn backend() -> (TcpListener, SocketAddr) {
    let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = backend.local_addr().expect("an address");
    (backend, address)
}

/// An address where nothing listens, and nothing can: the port stays taken.
fn nobody() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&anywhere.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address
}

fn small() -> ConfigBuilder {
    Config::builder().capacity(100).ring_slots(200)
}

fn read_exactly(stream: &mut TcpStream, expected: &[u8]) {
    let mut received = vec![0; expected.len()];
    stream.read_exact(&mut received).expect("bytes");
    assert_eq!(received, expected);
}

#[test]
fn header_precedes_forwarded_bytes_and_leaves_without_any() {
    for park_after in [Duration::ZERO, Duration::from_secs(5)] {
        let (listener, target) = backend();
        let running = Running::start(small().park_after(park_after), 0, &[Dial::to(target)]);
        let silent = running.connect();
        let (server, _) = listener.accept().unwrap();
        read_exactly(&mut patient(server), HEADER);
        drop(silent);
        let mut client = running.connect();
        client.write_all(b"hello").unwrap();
        let (server, _) = listener.accept().unwrap();
        let mut server = patient(server);
        read_exactly(&mut server, HEADER);
        read_exactly(&mut server, b"hello");
        server.write_all(b"answer").unwrap();
        read_exactly(&mut client, b"answer");
    }
}

#[test]
fn delayed_ack_travels_with_the_first_bytes_or_leaves_at_once() {
    let (listener, target) = backend();
    let dial = Dial::to(target).delay_ack();
    let running = Running::start_with(small(), 0, &[dial], b"");
    for is_silent in [true, false] {
        let mut times: Vec<Duration> = (0..5)
            .map(|_| {
                let since = Instant::now();
                let mut client = running.connect();
                if !is_silent {
                    client.write_all(b"hello").unwrap();
                }
                // A backend that speaks first: it gets the connection when the ACK has come.
                let (server, _) = listener.accept().unwrap();
                let mut server = patient(server);
                server.write_all(b"greeting").unwrap();
                read_exactly(&mut client, b"greeting");
                if !is_silent {
                    read_exactly(&mut server, b"hello");
                }
                since.elapsed()
            })
            .collect();
        times.sort_unstable();
        assert!(times[1] < Duration::from_millis(40), "{times:?}");
    }
}

#[test]
fn bytes_looked_at_before_the_dial_are_forwarded_once() {
    let (listener, target) = backend();
    let dials = [Dial::to(nobody()), Dial::to(target)];
    let running = Running::start(small(), 8, &dials);
    let mut client = running.connect();
    client.write_all(b"hell").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    client.write_all(b"o server").unwrap();
    let (server, _) = listener.accept().unwrap();
    let mut server = patient(server);
    read_exactly(&mut server, HEADER);
    read_exactly(&mut server, b"hello server");
    let refused = OpenFailure::Refused;
    let end = PartnerEnd::OpenFailed(refused);
    assert_eq!(running.told(), [Told::Failed(refused), Told::Unlinked(end)]);
}

#[test]
fn dials_have_sources_and_limits_of_their_own() {
    let (listener, target) = backend();
    let source = |address: [u8; 4], port: u16| SocketAddr::from((address, port));
    let free_port = nobody().port();
    let dials = [
        // An address that is nobody's.
        Dial::to(target).from(Source::Addr(source([192, 0, 2, 1], 0))),
        Dial::to(target).from(Source::Addr(source([127, 0, 0, 9], free_port))),
    ];
    let running = Running::start(small(), 0, &dials);
    let mut clients = vec![running.connect()];
    let (_first, peer) = listener.accept().unwrap();
    assert_eq!(peer, source([127, 0, 0, 9], free_port));
    // The same source to the same target once more: the client is told.
    clients.push(running.connect());
    let error = clients[1].read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let failures: Vec<_> = running.told().into_iter().collect();
    let not_ours = Told::Failed(OpenFailure::AddrNotAvailable);
    let taken = Told::Failed(OpenFailure::AddrExhausted);
    assert_eq!(failures.iter().filter(|t| **t == not_ours).count(), 2);
    assert_eq!(failures.iter().filter(|t| **t == taken).count(), 1);
}

#[test]
fn port_0_is_chosen_from_the_range_of_local_ports() {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let (listener, target) = backend();
    let source = SocketAddr::from(([127, 0, 0, 11], 0));
    let running = Running::start(small(), 0, &[Dial::to(target).from(Source::Addr(source))]);
    let _client = running.connect();
    let (_server, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), source.ip());
    let range: Vec<u16> = range
        .split_whitespace()
        .map(|p| p.parse().unwrap())
        .collect();
    assert!((range[0]..=range[1]).contains(&peer.port()), "{peer}");
    assert_eq!(running.until("open", |s| s.opened == 1).options_refused, 0);
}

#[test]
fn transparent_source_needs_a_privilege_and_is_any_address() {
    let (listener, target) = backend();
    // Of loopback, so that answers find their way; the option is set all the same.
    let source = SocketAddr::from(([127, 7, 7, 7], 0));
    let dial = Dial::to(target).from(Source::Transparent(source));
    let running = Running::start(small(), 0, &[dial]);
    let mut client = running.connect();
    listener.set_nonblocking(true).unwrap();
    let since = Instant::now();
    loop {
        if let Ok((_, peer)) = listener.accept() {
            assert_eq!(peer.ip(), source.ip());
            break;
        }
        if let Some(Told::Failed(failure)) = running.told().first() {
            assert_eq!(*failure, OpenFailure::NotPermitted);
            assert!(client.read(&mut [0]).is_err());
            break;
        }
        assert!(since.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn dial_with_a_short_limit_times_out_before_the_configured_one() {
    // A full accept queue answers nothing.
    let (listener, target) = backend();
    let socket = socket2::SockRef::from(&listener);
    socket.listen(0).unwrap();
    let _fill: Vec<_> = (0..3)
        .map(|_| TcpStream::connect_timeout(&target, Duration::from_millis(100)))
        .collect();
    let dial = Dial::to(target).timeout(Duration::from_millis(200));
    let running = Running::start(small(), 0, &[dial]);
    let since = Instant::now();
    let mut client = running.connect();
    assert!(client.read(&mut [0]).is_err(), "reset");
    assert!((Duration::from_millis(200)..Duration::from_secs(20)).contains(&since.elapsed()));
    assert_eq!(running.told()[0], Told::Failed(OpenFailure::TimedOut));
}

#[test]
fn ring_without_room_for_two_accepts_nothing_more() {
    let (listener, target) = backend();
    // 32 spare slots leave 33: 16 pairs.
    let config = Config::builder().capacity(100).ring_slots(65);
    let running = Running::start(config, 0, &[Dial::to(target)]);
    let limit = 16;
    let held: Vec<_> = (0..limit).map(|_| running.connect()).collect();
    let servers: Vec<_> = (0..limit).map(|_| listener.accept().unwrap()).collect();
    let stats = running.until("pairs", |stats| stats.open_now == 2 * limit);
    // The engine makes another ring when one is full: its capacity counts pairs.
    let more: Vec<_> = (0..4).map(|_| running.connect()).collect();
    let _others: Vec<_> = (0..4).map(|_| listener.accept().unwrap()).collect();
    assert_eq!(stats.refused_full, 0);
    running.until("another ring", |stats| stats.shard_count == 2);
    drop((held, servers, more));
}

#[test]
fn capacity_counts_pairs_and_never_half_of_one() {
    let (listener, target) = backend();
    let config = Config::builder().capacity(5);
    let running = Running::start(config, 0, &[Dial::to(target)]);
    let mut clients: Vec<_> = (0..8).map(|_| running.connect()).collect();
    let mut servers: Vec<_> = (0..5).map(|_| listener.accept().unwrap().0).collect();
    let stats = running.until("refusals", |stats| stats.refused_full == 3);
    assert_eq!((stats.open_now, stats.attempts), (10, 5), "{stats:?}");
    let mut refused = 0;
    for client in &mut clients {
        client
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let error = client.read(&mut [0]).expect_err("nothing was sent");
        refused += u64::from(error.kind() == ErrorKind::ConnectionReset);
    }
    assert_eq!(refused, 3);
    servers
        .iter_mut()
        .for_each(|s| s.write_all(b"still here").unwrap());
}

#[test]
fn options_are_set_on_both_sides() {
    let (listener, target) = backend();
    let mut options = SocketOptions::default();
    options.no_delay = true;
    options.keep_alive = Some(KeepAlive {
        idle: Duration::from_secs(1),
        interval: Duration::from_secs(1),
        count: 2,
    });
    options.user_timeout = Some(Duration::from_secs(3));
    let running = Running::start(small(), 0, &[Dial::to(target).options(options)]);
    let _client = running.connect();
    let _server = listener.accept().unwrap();
    let stats = running.until("open", |stats| stats.opened == 1);
    assert_eq!(stats.options_refused, 0);
    // Direct descriptors cannot be asked: the kernel's list of sockets tells of their timers.
    let own = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!("0100007F:{:04X}", target.port());
    let dialled: Vec<_> = own
        .lines()
        .filter(|line| line.split_whitespace().nth(2) == Some(&port[..]))
        .collect();
    assert_eq!(dialled.len(), 1, "{own}");
    let timer = dialled[0].split_whitespace().nth(5).unwrap();
    assert!(timer.starts_with("02:"), "a keep-alive timer: {timer}");
    // And a listener gives them to what it accepts.
    options.set_on(&listener).unwrap();
    let stream = TcpStream::connect(target).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let accepted = socket2::SockRef::from(&accepted);
    assert!(accepted.keepalive().unwrap() && accepted.tcp_nodelay().unwrap());
    assert_eq!(
        accepted.tcp_keepalive_time().unwrap(),
        Duration::from_secs(1)
    );
    assert_eq!(
        accepted.tcp_user_timeout().unwrap(),
        Some(Duration::from_secs(3))
    );
    drop(stream);
}

#[test]
fn timer_fires_while_half_closed_and_reset_is_a_reset() {
    let (listener, target) = backend();
    let running = Running::start(small(), 0, &[Dial::to(target)]);
    let mut client = running.connect();
    let (server, _) = listener.accept().unwrap();
    let mut server = patient(server);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut received = Vec::new();
    server.read_to_end(&mut received).expect("a FIN");
    assert_eq!(received, HEADER);
    // The backend does not end: the handler's timer does, with a reset of both.
    for stream in [&mut client, &mut server] {
        let error = stream.read(&mut [0]).err();
        let error = error.or_else(|| {
            std::thread::sleep(Duration::from_millis(500));
            stream.write(b"x").and_then(|_| stream.write(b"x")).err()
        });
        let kind = error.expect("a reset").kind();
        assert!(matches!(
            kind,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ));
    }
    running.until("closed", |stats| stats.open_now == 0);
    let told = running.told();
    assert_eq!(told[0], Told::Timer);
    assert!(told.contains(&Told::Closed(CloseReason::Idle)), "{told:?}");
}
