//! The layer on a running engine, with tungstenite as the peer of both roles.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_engine::{
    CloseReason, Config, Conn, ConnId, Context, Dial, DialId, Engine, Handler, OpenFailure,
    Shutdown,
};
use holdfast_websocket::layer::{
    ClientOptions, Delivery, Options, ServerOptions, Stats, WebSocket,
};
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::{Error, Message};

#[path = "../../tests/common/mod.rs"]
mod running;

use running::{PATIENCE, Running};

type Peer = tungstenite::WebSocket<TcpStream>;

/// Echoes; two texts are orders. Keeps what it was told.
struct Echo(Arc<Mutex<Vec<String>>>);

impl Echo {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().expect("no panic").push(what.into());
    }
}

impl Handler for Echo {
    type State = u64;
    type Report = ();
    type Command = ();

    fn on_open(&mut self, _: &mut Conn<'_, u64>) {
        self.note("open");
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, u64>, bytes: &[u8]) -> usize {
        *conn.state += bytes.len() as u64;
        match bytes {
            b"close" => conn.close(),
            b"shutdown" => conn.shutdown_write(),
            b"half" => conn.send_static(b"half a message"),
            // Used at the second call.
            b"twice" => {
                conn.send_static(b"once");
                conn.pause_until_sent();
                return if *conn.state > 5 { 5 } else { 0 };
            }
            _ => conn.send_copy(bytes),
        }
        bytes.len()
    }

    fn on_eof(&mut self, conn: &mut Conn<'_, u64>) {
        self.note("eof");
        conn.send_static(b"bye");
        conn.close();
    }

    fn on_timer(&mut self, _: &mut Conn<'_, u64>) {}

    fn on_close(&mut self, _: &mut Context<'_, u64>, _: ConnId, _: &u64, reason: CloseReason) {
        self.note(reason.label());
    }
}

/// A server with what its handler was told and its layer counted.
struct Server {
    running: Running<()>,
    told: Arc<Mutex<Vec<String>>>,
    stats: Arc<Mutex<Stats>>,
}

impl Server {
    fn start(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::server(ServerOptions {
            path: Some("/echo".to_owned()),
            protocols: vec!["second".to_owned(), "third".to_owned()],
            origins: vec!["http://here.test".to_owned()],
        });
        options.delivery = Delivery::Echo;
        change(&mut options);
        let options = Arc::new(options);
        let (told, stats) = (Arc::default(), Arc::default());
        let config = Running::<()>::config().pending_bytes_max(400_000);
        let running = Running::with_config(config, |_| {
            WebSocket::new(
                Echo(Arc::clone(&told)),
                Arc::clone(&options),
                Arc::clone(&stats),
            )
        });
        Server {
            running,
            told,
            stats,
        }
    }

    fn connect(&self) -> Peer {
        let url = format!("ws://{}/echo", self.running.address);
        tungstenite::client(url, self.running.connect())
            .expect("upgraded")
            .0
    }

    /// Waits until the handler was told `expected`, in order.
    fn expect(&self, expected: &[&str]) {
        until(
            || *self.told.lock().expect("no panic") == expected,
            || format!("{:?}", self.told),
        );
    }
}

fn until(is_so: impl Fn() -> bool, what: impl Fn() -> String) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "{}", what());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Everything up to the end of the connection, which is then closed; with the code of the Close frame, if one came.
fn rest(mut peer: Peer) -> (Vec<Message>, Option<u16>) {
    let (mut messages, mut code) = (Vec::new(), None);
    loop {
        match peer.read() {
            Ok(Message::Close(frame)) => code = Some(frame.map_or(1005, |f| f.code.into())),
            Ok(message) => messages.push(message),
            Err(Error::ConnectionClosed) => return (messages, code),
            Err(error) => panic!("{error} after {messages:?}, {code:?}"),
        }
    }
}

fn frame(opcode: OpCode, is_final: bool, payload: &[u8]) -> Message {
    Message::Frame(Frame::message(payload.to_vec(), opcode, is_final))
}

#[test]
fn messages_of_every_form_are_echoed_with_their_kind() {
    let server = Server::start(|_| {});
    let mut peer = server.connect();
    for length in [0, 1, 125, 126, 127, 5_000, 65_535, 65_536, 100_000] {
        for message in [
            Message::text("x".repeat(length)),
            Message::binary(vec![0xfe; length]),
        ] {
            peer.send(message.clone()).expect("sent");
            assert_eq!(peer.read().expect("an echo"), message, "{length}");
        }
    }
    // Fragments with a ping between and behind.
    peer.send(frame(OpCode::Data(Data::Text), false, "κ".as_bytes()))
        .expect("sent");
    peer.send(Message::Ping(b"between".to_vec().into()))
        .expect("sent");
    peer.send(frame(OpCode::Data(Data::Continue), false, b""))
        .expect("sent");
    peer.send(Message::Pong(b"unasked".to_vec().into()))
        .expect("sent");
    peer.send(frame(OpCode::Data(Data::Continue), true, b"osme"))
        .expect("sent");
    assert_eq!(
        peer.read().expect("a pong"),
        Message::Pong(b"between".to_vec().into())
    );
    assert_eq!(peer.read().expect("an echo"), Message::text("κosme"));
    let frame = CloseFrame {
        code: CloseCode::Library(4_321),
        reason: "done".into(),
    };
    peer.close(Some(frame)).expect("sent");
    // What the handler sends when the peer has closed precedes the Close frame.
    let (messages, code) = rest(peer);
    assert_eq!(
        (messages, code),
        (vec![Message::binary(&b"bye"[..])], Some(4_321))
    );
    server.expect(&["open", "eof", "peer_closed"]);
    let stats = server.stats.lock().expect("no panic").clone();
    assert_eq!((stats.upgraded, stats.pings, stats.pongs), (1, 1, 1));
    assert_eq!(
        stats.close_codes.into_iter().collect::<Vec<_>>(),
        [(4_321, 1)]
    );
    assert_eq!(stats.ended_without_close, 0);
}

#[test]
fn each_end_may_close_first() {
    let server = Server::start(|_| {});
    for (order, told) in [
        ("close", &["open", "by_us"][..]),
        ("shutdown", &["open", "eof", "by_us"]),
    ] {
        server.told.lock().expect("no panic").clear();
        let mut peer = server.connect();
        peer.send(Message::text(order)).expect("sent");
        // tungstenite answers our Close when it reads it.
        assert_eq!(rest(peer), (Vec::new(), Some(1_000)), "{order}");
        server.expect(told);
    }
    server.told.lock().expect("no panic").clear();
    let mut peer = server.connect();
    peer.close(None).expect("sent");
    assert_eq!(rest(peer).1, Some(1_005));
    server.expect(&["open", "eof", "peer_closed"]);

    // Without Close frames.
    server.told.lock().expect("no panic").clear();
    drop(server.connect());
    server.expect(&["open", "peer_closed"]);
    assert_eq!(
        server.stats.lock().expect("no panic").ended_without_close,
        1
    );
}

#[test]
fn stop_sends_going_away() {
    let server = Server::start(|_| {});
    let mut peer = server.connect();
    peer.send(Message::text("here")).expect("sent");
    peer.read().expect("an echo");
    let engine = server.running.engine.as_ref().expect("runs");
    engine.stop(Shutdown::Graceful);
    assert_eq!(rest(peer), (Vec::new(), Some(1_001)));
    server.expect(&["open", "by_us"]);
}

#[test]
fn peer_that_never_answers_our_close_is_reset() {
    let server = Server::start(|options| options.close_timeout_us = 50_000);
    let mut peer = server.connect();
    peer.send(Message::text("close")).expect("sent");
    server.expect(&["open", "cut"]);
}

#[test]
fn protocol_errors_are_answered_by_their_code() {
    let server = Server::start(|options| options.limits.message_bytes_max = 1_000);
    let cases: [(&[u8], u16, &str); 5] = [
        (b"\xf1\x80\0\0\0\0", 1_002, "reserved_bit"),
        (b"\x81\x02hi", 1_002, "not_masked"),
        (b"\x81\x81\0\0\0\0\xff", 1_007, "utf8"),
        (b"\x82\xfe\x03\xe9\0\0\0\0", 1_009, "message_too_long"),
        (b"\x88\x82\0\0\0\0\x03\xed", 1_002, "close_payload"),
    ];
    for (bytes, code, label) in cases {
        let mut peer = server.connect();
        peer.get_mut().write_all(bytes).expect("sent");
        assert_eq!(rest(peer), (Vec::new(), Some(code)), "{label}");
        let stats = server.stats.lock().expect("no panic");
        assert_eq!(stats.protocol_errors.get(label), Some(&1), "{label}");
    }
    until(
        || {
            server
                .told
                .lock()
                .unwrap()
                .iter()
                .filter(|t| *t == "other")
                .count()
                == 5
        },
        || format!("{:?}", server.told),
    );
}

/// The response to `request`, whole.
fn respond(server: &Server, request: &str) -> String {
    let mut stream = server.running.connect();
    stream.write_all(request.as_bytes()).expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    response
}

#[test]
fn upgrades_are_refused_by_status_and_subprotocols_are_chosen() {
    let server = Server::start(|options| options.upgrade_timeout_us = 200_000);
    let request = "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for (from, to, status) in [
        ("/echo", "/other", 404),
        ("Version: 13", "Version: 7", 426),
        ("Host: a", "Host: a\r\nOrigin: http://there.test", 403),
        ("GET", "POST", 405),
        // Unfinished: no empty line.
        ("==\r\n\r\n", "==\r\n", 408),
    ] {
        let response = respond(&server, &request.replacen(from, to, 1));
        let start = format!("HTTP/1.1 {status} ");
        assert!(response.starts_with(&start), "{to}: {response}");
    }
    let stats = server.stats.lock().expect("no panic").clone();
    let refused: Vec<_> = stats.refused.into_iter().collect();
    assert_eq!(refused, [(403, 1), (404, 1), (405, 1), (426, 1)]);
    assert_eq!((stats.timed_out, stats.upgraded), (1, 0));
    server.expect(&[]);

    let mut stream = server.running.connect();
    let headers =
        "Origin: http://HERE.test\r\nSec-WebSocket-Protocol: first, third , second\r\nHost";
    // A message in the same packet as the request.
    let request = request.replacen("Host", headers, 1) + "\x01";
    let bytes = [
        &request.as_bytes()[..request.len() - 1],
        b"\x81\x82\0\0\0\0hi",
    ]
    .concat();
    stream.write_all(&bytes).expect("sent");
    let (mut response, mut buffer) = (Vec::new(), [0; 512]);
    while !response.ends_with(b"\r\n\r\n\x81\x02hi") {
        let length = stream.read(&mut buffer).expect("a response");
        assert!(length > 0, "{}", response.escape_ascii());
        response.extend_from_slice(&buffer[..length]);
    }
    let response = String::from_utf8_lossy(&response);
    assert!(
        response.contains("Sec-WebSocket-Protocol: second\r\n"),
        "{response}"
    );
}

#[test]
fn message_that_is_left_comes_again_whole() {
    let server = Server::start(|_| {});
    let mut peer = server.connect();
    peer.send(Message::text("twice")).expect("sent");
    peer.send(Message::text("next")).expect("sent");
    // Its second call, after the first answer was sent.
    for expected in ["once", "once", "next"] {
        assert_eq!(peer.read().expect("an answer"), Message::text(expected));
    }
}

/// Uses lines only, whatever frames they come in.
struct Lines;

impl Handler for Lines {
    type State = ();
    type Report = ();
    type Command = ();

    fn on_open(&mut self, _: &mut Conn<'_, ()>) {}

    fn on_bytes(&mut self, conn: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return 0;
        };
        conn.send_copy(&bytes[..=end]);
        // The next line has to wait.
        conn.pause_until_sent();
        end + 1
    }

    fn on_timer(&mut self, _: &mut Conn<'_, ()>) {}
}

#[test]
fn stream_ignores_frames_and_answers_each_ping_once() {
    let options = Arc::new(Options::server(ServerOptions::default()));
    let stats: Arc<Mutex<Stats>> = Arc::default();
    let running =
        Running::start(|_| WebSocket::new(Lines, Arc::clone(&options), Arc::clone(&stats)));
    let url = format!("ws://{}/", running.address);
    let mut peer = tungstenite::client(url, running.connect())
        .expect("upgraded")
        .0;
    let text = b"one\ntwo\nthree and more\nfour\n";
    for cut in 0..text.len() {
        let (first, second) = text.split_at(cut);
        peer.send(frame(OpCode::Data(Data::Binary), false, first))
            .expect("sent");
        peer.send(Message::Ping(b"1".to_vec().into()))
            .expect("sent");
        let (second, third) = second.split_at(second.len() / 2);
        peer.send(frame(OpCode::Data(Data::Continue), true, second))
            .expect("sent");
        peer.send(Message::Ping(b"2".to_vec().into()))
            .expect("sent");
        peer.send(Message::binary(third.to_vec())).expect("sent");
        let (mut lines, mut pongs) = (Vec::new(), Vec::new());
        while lines.len() < text.len() || pongs.len() < 2 {
            match peer.read().expect("an answer") {
                Message::Binary(bytes) => lines.extend_from_slice(&bytes),
                Message::Pong(bytes) => pongs.extend_from_slice(&bytes),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(
            (&lines[..], &pongs[..]),
            (&text[..], &b"12"[..]),
            "cut at {cut}"
        );
    }
    assert_eq!(stats.lock().expect("no panic").pings, 2 * text.len() as u64);
}

/// Dials once, sends a message, and keeps what it is told.
struct Caller {
    target: std::net::SocketAddr,
    has_dialled: bool,
    told: Arc<Mutex<Vec<String>>>,
}

impl Caller {
    fn note(&self, what: impl Into<String>) {
        self.told.lock().expect("no panic").push(what.into());
    }
}

impl Handler for Caller {
    type State = u64;
    type Report = ();
    type Command = ();

    fn on_turn(&mut self, cx: &mut Context<'_, u64>) -> Option<u64> {
        if !self.has_dialled {
            self.has_dialled = true;
            cx.dial(Dial::to(self.target), 77).expect("room");
        }
        None
    }

    fn on_open(&mut self, conn: &mut Conn<'_, u64>) {
        assert_eq!(*conn.state, 77);
        self.note("open");
        conn.send_copy(b"one ");
        conn.send_copy(b"message");
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, u64>, bytes: &[u8]) -> usize {
        self.note(String::from_utf8_lossy(bytes));
        if bytes.ends_with(b"!") {
            conn.close();
        }
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, u64>) {}

    fn on_open_failed(
        &mut self,
        _: &mut Context<'_, u64>,
        dial: DialId,
        state: &u64,
        failure: OpenFailure,
    ) {
        assert_ne!(dial, DialId::PLANNED);
        assert_eq!(*state, 77);
        self.note(format!("failed {}", failure.label()));
    }

    fn on_close(&mut self, _: &mut Context<'_, u64>, _: ConnId, _: &u64, reason: CloseReason) {
        self.note(reason.label());
    }
}

/// What a client is told whose only connection `serve` is given.
fn call(expected: &[&str], serve: impl FnOnce(TcpStream)) -> Stats {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = listener.local_addr().expect("bound");
    let mut options = Options::client(ClientOptions {
        host: target.to_string(),
        path: "/chat?x=1".to_owned(),
        protocols: vec!["chat".to_owned()],
        headers: vec![("Authorization".to_owned(), "Bearer 1".to_owned())],
    });
    options.upgrade_timeout_us = 300_000;
    let options = Arc::new(options);
    let (told, stats): (Arc<Mutex<Vec<String>>>, Arc<Mutex<Stats>>) = Default::default();
    let config = Config::builder()
        .capacity(100)
        .ring_slots(100)
        .buffer_bytes(64)
        .build()
        .expect("valid");
    let engine = Engine::start(config, Vec::new(), None, |_| {
        let caller = Caller {
            target,
            has_dialled: false,
            told: Arc::clone(&told),
        };
        WebSocket::new(caller, Arc::clone(&options), Arc::clone(&stats))
    })
    .expect("an engine");
    serve(listener.accept().expect("the client").0);
    until(
        || *told.lock().expect("no panic") == expected,
        || format!("{told:?}"),
    );
    drop(engine);
    stats.lock().expect("no panic").clone()
}

#[test]
fn client_upgrades_talks_and_closes() {
    let stats = call(&["open", "hello", "bye!", "by_us"], |stream| {
        #[allow(clippy::result_large_err)] // tungstenite's.
        let callback =
            |request: &tungstenite::handshake::server::Request,
             mut response: tungstenite::handshake::server::Response| {
                assert_eq!(request.uri(), "/chat?x=1");
                assert_eq!(request.headers()["authorization"], "Bearer 1");
                let protocol = request.headers()["sec-websocket-protocol"].clone();
                response
                    .headers_mut()
                    .insert("sec-websocket-protocol", protocol);
                Ok(response)
            };
        let mut peer = tungstenite::accept_hdr(stream, callback).expect("upgraded");
        // tungstenite refuses frames that are not masked.
        assert_eq!(
            peer.read().expect("a message"),
            Message::binary(&b"one message"[..])
        );
        peer.send(Message::text("hello")).expect("sent");
        peer.send(Message::Ping(b"?".to_vec().into()))
            .expect("sent");
        assert_eq!(
            peer.read().expect("a pong"),
            Message::Pong(b"?".to_vec().into())
        );
        peer.send(Message::text("bye!")).expect("sent");
        let close = peer.read().expect("a close");
        assert!(matches!(close, Message::Close(Some(frame)) if u16::from(frame.code) == 1_000));
        assert!(matches!(peer.read(), Err(Error::ConnectionClosed)));
    });
    assert_eq!(
        (stats.upgraded, stats.pings, stats.ended_without_close),
        (1, 1, 0)
    );
}

#[test]
fn client_is_told_when_the_server_closes() {
    call(&["open", "peer_closed"], |stream| {
        #[allow(clippy::result_large_err)] // tungstenite's.
        let mut peer = tungstenite::accept(stream).expect("upgraded");
        peer.read().expect("a message");
        peer.close(None).expect("sent");
        assert!(matches!(peer.read(), Ok(Message::Close(None))));
        assert!(matches!(peer.read(), Err(Error::ConnectionClosed)));
    });
}

/// Reads a request, and answers `response`.
fn answer(mut stream: TcpStream, response: &str) {
    let mut buffer = [0; 4_096];
    assert!(stream.read(&mut buffer).expect("a request") > 0);
    stream.write_all(response.as_bytes()).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("ended");
    let _ = stream.read(&mut buffer);
}

#[test]
fn refused_upgrade_is_an_attempt_that_failed() {
    let stats = call(&["failed refused"], |stream| {
        answer(
            stream,
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy",
        );
    });
    assert_eq!(stats.refused.into_iter().collect::<Vec<_>>(), [(503, 1)]);
    let stats = call(&["failed other"], |stream| {
        answer(
            stream,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
    });
    assert_eq!(
        stats.invalid.into_iter().collect::<Vec<_>>(),
        [("wrong_accept", 1)]
    );
    let stats = call(&["failed other"], |stream| {
        answer(stream, "HTTP/1.1 101 Swit")
    });
    assert_eq!(stats.ended_early, 1);
    let stats = call(&["failed timed_out"], |mut stream| {
        // Nothing is answered until the client gives up.
        while stream.read(&mut [0; 512]).is_ok_and(|length| length > 0) {}
    });
    assert_eq!(stats.timed_out, 1);
}
