//! Listeners that come and go while an engine runs, on real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use holdfast_engine::listen::{self, Listener};
use holdfast_engine::{Config, Conn, Context, Engine, Handler, Shutdown};

const PATIENCE: Duration = Duration::from_secs(30);

enum Command {
    Add(Listener),
    Remove(usize),
}

/// Sends each connection the number of its listener and the port, and echoes what comes.
struct Numbers;

impl Handler for Numbers {
    type State = ();
    type Report = usize;
    type Command = Command;

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        let number = conn.listener().expect("it was accepted");
        let port = conn.local_addr().expect("one address").port();
        conn.send_copy(format!("{number:03} {port:05}").as_bytes());
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        conn.send_copy(bytes);
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, ()>) {}

    fn on_command(&mut self, cx: &mut Context<'_, ()>, command: Command) {
        match command {
            Command::Add(listener) => drop(cx.add_listener(listener)),
            Command::Remove(number) => cx.remove_listener(number),
        }
    }
}

struct Running {
    engine: Engine<usize, Command>,
    address: SocketAddr,
}

impl Running {
    fn start() -> Self {
        let config = Config::builder().capacity(2_000).ring_slots(4_096);
        let config = config.build().expect("a config");
        let (listeners, bound) = listen::listeners(&[anywhere()], 1, None).expect("a port");
        let engine = Engine::start(config, listeners, None, |_| Numbers).expect("an engine");
        Running {
            engine,
            address: bound[0],
        }
    }

    fn send(&self, command: Command) {
        self.engine.handle().send(0, command).expect("it runs");
    }

    /// Adds a listener, and returns its address.
    fn add(&self) -> SocketAddr {
        let (mut listeners, bound) = listen::listeners(&[anywhere()], 1, None).expect("a port");
        self.send(Command::Add(listeners.remove(0).remove(0)));
        bound[0]
    }

    fn stop(self) {
        self.engine.stop(Shutdown::Graceful);
        self.engine.join().expect("no error");
    }
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads the greeting of listener `number`.
fn expect_greeting(stream: &mut TcpStream, number: usize, address: SocketAddr) {
    let mut greeting = [0; 9];
    stream.read_exact(&mut greeting).expect("a greeting");
    let expected = format!("{number:03} {:05}", address.port());
    assert_eq!(String::from_utf8_lossy(&greeting), expected);
}

fn expect_echo(stream: &mut TcpStream) {
    stream.write_all(b"hello").expect("open");
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).expect("an echo");
    assert_eq!(&echo, b"hello");
}

/// Waits until nobody listens at `address`.
fn expect_closed(address: SocketAddr) {
    let since = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
            _ => assert!(since.elapsed() < PATIENCE, "{address} is still open"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // Not even a poll holds the socket.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).expect("a free port");
    drop(socket);
}

#[test]
fn listeners_are_added_and_removed_while_connections_go_on() {
    let server = Running::start();
    let mut first = connect(server.address);
    expect_greeting(&mut first, 0, server.address);

    let added = server.add();
    let mut second = connect(added);
    expect_greeting(&mut second, 1, added);

    server.send(Command::Remove(0));
    // Twice, and one that never was.
    server.send(Command::Remove(0));
    server.send(Command::Remove(17));
    expect_closed(server.address);
    expect_echo(&mut first);
    expect_echo(&mut second);
    expect_greeting(&mut connect(added), 1, added);

    // A number is never used again.
    let third = server.add();
    expect_greeting(&mut connect(third), 2, third);
    server.send(Command::Remove(1));
    server.send(Command::Remove(2));
    expect_closed(added);
    expect_closed(third);
    expect_echo(&mut first);
    drop((first, second));
    server.stop();
}

/// Closing a listener resets what waits in its queue: it is accepted first.
#[test]
fn connections_that_wait_at_a_removed_listener_are_accepted() {
    let server = Running::start();
    for round in 0..10 {
        let address = server.add();
        let mut streams: Vec<_> = (0..100).map(|_| connect(address)).collect();
        server.send(Command::Remove(round + 1));
        for stream in &mut streams {
            expect_greeting(stream, round + 1, address);
        }
        expect_closed(address);
    }
    server.stop();
}

#[test]
fn listeners_added_to_an_engine_that_stops_are_closed() {
    let server = Running::start();
    let mut open = connect(server.address);
    expect_greeting(&mut open, 0, server.address);
    server.engine.release_listeners();
    expect_closed(server.address);
    let added = server.add();
    expect_closed(added);
    expect_echo(&mut open);
    drop(open);
    server.stop();
}
