//! Connections that address each other, and attempts to connect from callbacks, on real sockets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use holdfast_engine::{
    CloseReason, Config, Conn, ConnId, Context, Dial, DialId, DialPlan, Engine, Handler,
    OpenFailure, Shutdown, Source, Stats, listen,
};
use socket2::Socket;

const PATIENCE: Duration = Duration::from_secs(60);

/// What [`Switchboard`] saw.
#[derive(Debug, Clone, Default)]
struct Report {
    /// Attempts that opened, with the addresses that `on_open` knew.
    opened: Vec<(DialId, Option<SocketAddr>, Option<SocketAddr>)>,
    failed: Vec<(DialId, u8, OpenFailure)>,
    /// Results of `cancel_dial`.
    cancelled: Vec<bool>,
}

/// Does what two bytes order: an action and the number of the connection or target it is for.
struct Switchboard {
    targets: Vec<SocketAddr>,
    /// By the order of opening.
    ids: Vec<ConnId>,
    dials: Vec<DialId>,
    report: Report,
}

impl Switchboard {
    fn obey(&mut self, cx: &mut Context<'_, u8>, order: u8, number: u8) {
        let number = usize::from(number);
        let dial = |source| Dial::to(self.targets[number]).from(source);
        let own = |last, port| Source::Addr(SocketAddr::from(([127, 0, 0, last], port)));
        match order {
            b's' => cx.send(self.ids[number], b"hello").expect("room"),
            b'c' => cx.close(self.ids[number]).expect("room"),
            b'a' => cx.abort(self.ids[number], CloseReason::Idle).expect("room"),
            b'd' => self
                .dials
                .push(cx.dial(dial(Source::Kernel), order).expect("room")),
            b'D' => self
                .dials
                .push(cx.dial(dial(own(7, 0)), order).expect("room")),
            b'P' => self
                .dials
                .push(cx.dial(dial(Source::Plan), order).expect("room")),
            b'p' => cx.dial_planned(order),
            b'g' => cx.dial_planned_to(number as u16, order),
            b'x' => self
                .report
                .cancelled
                .push(cx.cancel_dial(self.dials[number])),
            order => panic!("{order} is no order"),
        }
    }
}

impl Handler for Switchboard {
    type State = u8;
    type Report = Report;
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, u8>) {
        if let Some(dial) = conn.dial_id() {
            let addresses = (conn.local_addr(), conn.peer_addr());
            self.report.opened.push((dial, addresses.0, addresses.1));
            conn.send(b"dialled");
        }
        self.ids.push(conn.id());
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, u8>, bytes: &[u8]) -> usize {
        for order in bytes.chunks_exact(2) {
            self.obey(conn.context(), order[0], order[1]);
        }
        bytes.len() / 2 * 2
    }

    fn on_timer(&mut self, _: &mut Conn<'_, u8>) {}

    fn on_close(&mut self, cx: &mut Context<'_, u8>, id: ConnId, _: &u8, _: CloseReason) {
        // The id is stale from now on.
        cx.send(id, b"too late").expect("room");
    }

    fn on_open_failed(
        &mut self,
        _: &mut Context<'_, u8>,
        dial: DialId,
        order: &u8,
        failure: OpenFailure,
    ) {
        self.report.failed.push((dial, *order, failure));
    }

    fn report(&mut self, report: &mut Report) {
        *report = self.report.clone();
    }
}

struct Running {
    engine: Option<Engine<Report>>,
    address: SocketAddr,
}

impl Running {
    fn start(targets: Vec<SocketAddr>, plan: Option<DialPlan>) -> Self {
        let config = Config::builder().capacity(100).ring_slots(100).build();
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (listeners, bound) = listen::listeners(&[anywhere], 1, None).expect("a port");
        let engine = Engine::start(config.unwrap(), listeners, plan, |_| Switchboard {
            targets: targets.clone(),
            ids: Vec::new(),
            dials: Vec::new(),
            report: Report::default(),
        });
        Running {
            engine: Some(engine.expect("an engine")),
            address: bound[0],
        }
    }

    fn connect(&self) -> TcpStream {
        let opened = self.stats().open_now;
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        self.until("it is open", |stats, _| stats.open_now > opened);
        stream
    }

    fn stats(&self) -> Stats {
        let engine = self.engine.as_ref().unwrap();
        engine.reports().next().unwrap().stats.clone()
    }

    /// Waits until the reports are as wanted, and gives the handler's.
    fn until(&self, what: &str, is_so: impl Fn(&Stats, &Report) -> bool) -> Report {
        let since = Instant::now();
        loop {
            let engine = self.engine.as_ref().unwrap();
            let report = engine.reports().next().unwrap().clone();
            if is_so(&report.stats, &report.handler) {
                return report.handler;
            }
            assert!(since.elapsed() < PATIENCE, "{what}: {report:?}");
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

fn heard(mut stream: &TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("bytes");
    bytes
}

#[test]
fn connections_address_each_other_and_stale_ids_reach_nobody() {
    let running = Running::start(vec![], None);
    let mut first = running.connect();
    let mut second = running.connect();
    // Several at once arrive in their order, also at the own connection.
    first.write_all(b"s\x01s\x01s\x00").unwrap();
    assert_eq!(heard(&second, 10), b"hellohello");
    assert_eq!(heard(&first, 5), b"hello");
    // Closed gracefully: what was sent before arrives.
    first.write_all(b"s\x01c\x01").unwrap();
    let mut rest = Vec::new();
    second.read_to_end(&mut rest).expect("FIN");
    assert_eq!(rest, b"hello");
    drop(second);
    running.until("it closed", |stats, _| {
        // on_close sent to the connection that had just closed.
        stats.closed[CloseReason::LocallyClosed as usize] == 1 && stats.stale_ids == 1
    });
    // Its slot has another connection now, which hears nothing that is for the earlier one.
    let third = running.connect();
    first.write_all(b"s\x01c\x01a\x01s\x02").unwrap();
    assert_eq!(heard(&third, 5), b"hello");
    running.until("three more stale ids", |stats, _| stats.stale_ids == 4);
    first.write_all(b"a\x02").unwrap();
    let ended = (&third).read(&mut [0; 16]);
    assert!(ended.as_ref().is_ok_and(|count| *count == 0) || ended.is_err());
    running.until("it was aborted", |stats, _| {
        stats.closed[CloseReason::Idle as usize] == 1
    });
}

#[test]
fn callbacks_dial_from_every_source() {
    let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = target.local_addr().unwrap();
    let sources = vec![Ipv4Addr::new(127, 0, 0, 9).into()];
    let plan = DialPlan::new(sources, 20_000..=20_999, vec![address], u64::MAX).expect("a plan");
    let running = Running::start(vec![address], Some(plan));
    let mut peer = running.connect();
    let mut dialled = Vec::new();
    for (order, source) in [
        (b"d\0", None),
        (b"D\0", Some([127, 0, 0, 7])),
        (b"P\0", Some([127, 0, 0, 9])),
        (b"p\0", Some([127, 0, 0, 9])),
    ] {
        peer.write_all(order).unwrap();
        let (stream, from) = target.accept().expect("an attempt");
        assert_eq!(heard(&stream, 7), b"dialled");
        if let Some(source) = source {
            assert_eq!(from.ip(), Ipv4Addr::from(source));
        }
        dialled.push((stream, from));
    }
    let report = running.until("all opened", |_, report| report.opened.len() == 4);
    for (number, (dial, local, peer)) in report.opened.iter().enumerate() {
        assert_eq!(*peer, Some(address));
        assert_eq!(*dial == DialId::PLANNED, number == 3);
        let is_known = number >= 2;
        assert_eq!(*local, is_known.then_some(dialled[number].1));
    }
    // Once open, an attempt cannot be cancelled.
    peer.write_all(b"x\0x\x01x\x02").unwrap();
    let report = running.until("three results", |_, report| report.cancelled.len() == 3);
    assert_eq!(report.cancelled, [false; 3]);
    assert!(report.failed.is_empty(), "{report:?}");
}

#[test]
fn handlers_choose_among_the_groups_of_a_joined_plan() {
    let taken = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 9), 0)).expect("a port");
    let port = taken.local_addr().unwrap().port();
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let second = TcpListener::bind("[::1]:0").expect("a port");
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let addresses = [&first, &second, &closed].map(|l| l.local_addr().unwrap());
    drop(closed);
    let group = |source: &str, ports: [u16; 2], target| {
        DialPlan::new(vec![source.parse().unwrap()], ports, vec![target], u64::MAX).expect("a plan")
    };
    let plan = DialPlan::joined([
        // One of its ports is taken: the attempt goes on with the other one, to the same group.
        group("127.0.0.9", [port, 20_001], addresses[0]),
        group("::1", [20_002, 20_003], addresses[1]),
        group("127.0.0.9", [20_004, 20_005], addresses[2]),
    ])
    .expect("three groups");
    let running = Running::start(addresses.to_vec(), Some(plan));
    let mut peer = running.connect();
    let mut streams = Vec::new();
    for (order, listener) in [(b"g\x01", &second), (b"g\0", &first), (b"g\x01", &second)] {
        peer.write_all(order).unwrap();
        let (stream, _) = listener.accept().expect("an attempt");
        assert_eq!(heard(&stream, 7), b"dialled");
        streams.push(stream);
    }
    peer.write_all(b"g\x02").unwrap();
    let report = running.until("one failed", |_, report| report.failed.len() == 1);
    assert_eq!(
        report.failed,
        [(DialId::planned(2), b'g', OpenFailure::Refused)]
    );
    let opened = report.opened.iter().map(|(dial, _, peer)| (*dial, *peer));
    let expected = [1, 0, 1].map(|g| (DialId::planned(g), Some(addresses[usize::from(g)])));
    assert_eq!(opened.collect::<Vec<_>>(), expected);
}

#[test]
fn cancelled_attempts_fail_once_at_every_step() {
    // Its queue is full: attempts get no answer.
    let full = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    full.bind(&anywhere.into()).expect("a port");
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _waiting = TcpStream::connect(address).expect("it fits");
    let nobody = TcpListener::bind(anywhere).unwrap().local_addr().unwrap();
    let running = Running::start(vec![address, nobody], None);
    let mut peer = running.connect();
    // In the same callback; twice.
    peer.write_all(b"d\0x\0x\0").unwrap();
    let report = running.until("it failed", |_, report| report.failed.len() == 1);
    assert_eq!(report.failed[0].2, OpenFailure::Cancelled);
    assert_eq!(report.cancelled, [true; 2]);
    // Under way.
    peer.write_all(b"d\0").unwrap();
    running.until("it is under way", |stats, _| stats.connecting_now == 1);
    peer.write_all(b"x\x01").unwrap();
    let report = running.until("it failed", |stats, report| {
        report.failed.len() == 2 && stats.connecting_now == 0
    });
    assert_eq!(report.failed[1].2, OpenFailure::Cancelled);
    // After it failed by itself.
    peer.write_all(b"d\x01").unwrap();
    let report = running.until("it failed", |_, report| report.failed.len() == 3);
    assert_eq!(report.failed[2].2, OpenFailure::Refused);
    peer.write_all(b"x\x02").unwrap();
    let report = running.until("four results", |_, report| report.cancelled.len() == 4);
    assert_eq!(report.cancelled, [true, true, true, false]);
    assert_ne!(report.failed[0].0, report.failed[1].0);
    // Without a plan, there is no address to dial from.
    peer.write_all(b"p\0P\x01").unwrap();
    let report = running.until("both failed", |_, report| report.failed.len() == 5);
    assert_eq!(report.failed[3].2, OpenFailure::AddrExhausted);
    assert_eq!(report.failed[4].2, OpenFailure::AddrExhausted);
    running.until("all are counted", |stats, _| {
        stats.attempts == 5 && stats.failed.iter().sum::<u64>() == 5
    });
}
