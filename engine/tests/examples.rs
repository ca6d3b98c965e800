//! The examples on real sockets. In the simulator they run in `engine/sim/tests/examples.rs`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use holdfast_engine::{Config, Engine, Handler, Shutdown, listen};

#[path = "../examples/http_hello.rs"]
#[allow(dead_code)] // Its main.
mod http_hello;
#[path = "../examples/layer.rs"]
#[allow(dead_code)]
mod layer;

/// Sends to an engine of `make_handler`s, and returns what comes until `is_all` or the end.
fn exchange<H: Handler + 'static>(
    make_handler: impl FnMut(usize) -> H,
    sent: &[u8],
    is_all: impl Fn(&[u8]) -> bool,
) -> Vec<u8>
where
    H::Report: 'static,
{
    let config = Config::builder().capacity(100).ring_slots(100).build();
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let (listeners, bound) = listen::listeners(&[anywhere], 1, None).expect("a port");
    let engine = Engine::start(config.unwrap(), listeners, None, make_handler).expect("an engine");
    let mut peer = TcpStream::connect(bound[0]).expect("a connection");
    peer.set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    // Cut anywhere.
    for piece in sent.chunks(7) {
        peer.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut heard = Vec::new();
    let mut buffer = [0; 1_024];
    while !is_all(&heard) {
        match peer.read(&mut buffer).expect("bytes or the end") {
            0 => break,
            count => heard.extend_from_slice(&buffer[..count]),
        }
    }
    engine.stop(Shutdown::Immediate);
    engine.join().expect("an end");
    heard
}

#[test]
fn layer_changes_bytes_both_ways() {
    let plain = b"the server inside sees this";
    let cipher: Vec<u8> = plain.iter().map(|byte| byte ^ layer::KEY).collect();
    let make_handler = |_| layer::Xor::new(Sizes::default());
    let heard = exchange(make_handler, &cipher, |heard| heard.len() == plain.len());
    assert_eq!(heard, cipher, "echoed");
}

/// Echoes, and checks that it sees plain bytes.
#[derive(Default)]
struct Sizes(usize);

impl Handler for Sizes {
    type State = ();
    type Report = ();
    type Command = ();

    fn on_open(&mut self, _: &mut holdfast_engine::Conn<'_, ()>) {}

    fn on_bytes(&mut self, conn: &mut holdfast_engine::Conn<'_, ()>, bytes: &[u8]) -> usize {
        assert!(b"the server inside sees this"[self.0..].starts_with(bytes));
        self.0 += bytes.len();
        conn.send_copy(bytes);
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut holdfast_engine::Conn<'_, ()>) {}
}

#[test]
fn http_hello_answers_pipelined_requests_and_closes_when_asked() {
    let requests = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nHEAD /x HTTP/1.1\r\nHost: a\r\n\r\n\
        GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let heard = exchange(|_| http_hello::Hello::new(), requests, |_| false);
    let heard = String::from_utf8(heard).expect("text");
    assert_eq!(heard.matches("HTTP/1.1 200 OK").count(), 3, "{heard}");
    assert_eq!(heard.matches("hello\n").count(), 2, "{heard}");
    assert_eq!(heard.matches("Connection: close").count(), 1, "{heard}");
}

#[test]
fn http_hello_refuses_what_it_does_not_read() {
    for (request, status) in [
        (
            &b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"[..],
            413,
        ),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ] {
        let heard = exchange(|_| http_hello::Hello::new(), request, |_| false);
        let heard = String::from_utf8(heard).expect("text");
        let expected = format!("HTTP/1.1 {status} ");
        assert!(heard.starts_with(&expected), "{heard}");
    }
}
