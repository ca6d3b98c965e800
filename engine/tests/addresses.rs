//! What a handler knows of an accepted connection: its peer, its listener, its own address.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};

use holdfast_engine::{Config, Conn, Engine, Handler, listen};
use socket2::{Domain, Socket, Type};

/// Tells each peer what is known of its connection.
struct Telling;

impl Handler for Telling {
    type State = ();
    type Report = ();
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        let known = (conn.peer_addr(), conn.local_addr(), conn.listener());
        conn.send_copy(format!("{known:?}").as_bytes());
        conn.close();
    }

    fn on_bytes(&mut self, _: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, ()>) {}
}

/// What is known of a connection from `source`, and the address it had.
fn told(source: &str, target: SocketAddr) -> (String, SocketAddr) {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
    let source: SocketAddr = source.parse().unwrap();
    socket.bind(&source.into()).unwrap();
    socket.connect(&target.into()).unwrap();
    let mut stream: TcpStream = socket.into();
    let source = stream.local_addr().unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    (text, source)
}

fn engine(addresses: &[SocketAddr], are_known: bool) -> (Engine<()>, Vec<SocketAddr>) {
    let config = Config::builder()
        .capacity(100)
        .thread_count(2)
        .peer_addresses(are_known)
        .build()
        .expect("valid");
    let (listeners, bound) = listen::listeners(addresses, 2, None).expect("ports");
    let engine = Engine::start(config, listeners, None, |_| Telling).expect("an engine");
    (engine, bound)
}

#[test]
fn accepted_connection_knows_its_peer_and_its_listener() {
    let addresses = ["127.0.0.1:0", "[::1]:0"].map(|a| a.parse().unwrap());
    let (_engine, bound) = engine(&addresses, true);
    for round in 0..100_u8 {
        let (source, listener) = match round % 3 {
            0 => ("[::1]:0".to_owned(), 1),
            _ => (format!("127.0.{round}.7:0"), 0),
        };
        let (text, source) = told(&source, bound[listener]);
        let known = (Some(source), Some(bound[listener]), Some(listener));
        assert_eq!(text, format!("{known:?}"));
    }
}

#[test]
fn addresses_are_unknown_unless_requested() {
    let (_engine, bound) = engine(&["0.0.0.0:0".parse().unwrap()], false);
    let target = ([127, 0, 0, 1], bound[0].port()).into();
    let unknown: (Option<SocketAddr>, Option<SocketAddr>, _) = (None, None, Some(0));
    assert_eq!(told("127.0.0.1:0", target).0, format!("{unknown:?}"));
}
