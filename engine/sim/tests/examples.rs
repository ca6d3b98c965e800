//! The examples of the engine in a simulated world, with the faults of many seeds: the simulator checks the engine's promises to them,
//! and a client checks what they say.

use std::net::SocketAddr;

use holdfast_engine::sim::{
    ConnectionLimiter, CoreListener, Node, Orders, Outside, Steps, World, drive, mailboxes,
};
use holdfast_engine::{CloseReason, Config, Conn, ConnId, Context, Dial, Handler};

#[path = "../../examples/http_hello.rs"]
#[allow(dead_code)] // Its main.
mod http_hello;
#[path = "../../examples/layer.rs"]
#[allow(dead_code)]
mod layer;

/// Connections that a run makes.
const DIALS: u64 = 20;

/// Connects again and again, sends the same and checks that what comes is the beginning of what is to come.
struct Asker {
    target: SocketAddr,
    sends: &'static [u8],
    expects: Vec<u8>,
    dials_left: u64,
    /// Connections on which everything came.
    answered: u64,
}

impl Handler for Asker {
    /// Bytes received.
    type State = u32;
    type Report = ();
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, u32>) {
        conn.send(self.sends);
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, u32>, bytes: &[u8]) -> usize {
        let rest = &self.expects[*conn.state as usize..];
        assert!(rest.starts_with(bytes), "{}", bytes.escape_ascii());
        *conn.state += bytes.len() as u32;
        if rest.len() == bytes.len() {
            self.answered += 1;
            conn.close();
        }
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, u32>) {}

    fn on_close(&mut self, _: &mut Context<'_, u32>, _: ConnId, _: &u32, _: CloseReason) {}

    fn on_turn(&mut self, cx: &mut Context<'_, u32>) -> Option<u64> {
        while self.dials_left > 0 && cx.dial(Dial::to(self.target), 0).is_ok() {
            self.dials_left -= 1;
        }
        (self.dials_left > 0 && !cx.is_stopping()).then_some(cx.now_us())
    }
}

/// Runs a server against an [`Asker`] for `seeds`. Returns the connections on which everything came.
fn run<H: Handler>(
    seeds: u64,
    make_handler: impl Fn() -> H,
    sends: &'static [u8],
    expects: &[u8],
) -> u64 {
    let target = SocketAddr::from(([10, 0, 0, 1], 80));
    let mut answered = 0;
    for seed in 0..seeds {
        let world = World::new(seed);
        let config = Config::builder().capacity(64).ring_slots(70).build();
        let config = config.expect("sizes an engine can have");
        let limiters = [(); 2].map(|()| ConnectionLimiter::new(64));
        let listener = CoreListener {
            fd: world.lock().expect("it is new").listen(target),
            is_shared: false,
            address: Some(target),
        };
        let orders = Orders {
            release_us: u64::MAX,
            in_order_us: 5_000_000,
            now_us: 20_000_000,
        };
        let server_handle = mailboxes(&world, &config, 1);
        let client_handle = mailboxes(&world, &config, 1);
        let mut server = Node::new(
            &world,
            &config,
            &limiters[0],
            make_handler(),
            &[listener],
            None,
            Outside::new(&server_handle, 0, orders, Vec::new()),
            None,
        );
        let asker = Asker {
            target,
            sends,
            expects: expects.to_vec(),
            dials_left: DIALS,
            answered: 0,
        };
        let mut client = Node::new(
            &world,
            &config,
            &limiters[1],
            asker,
            &[],
            None,
            Outside::new(&client_handle, 0, orders, Vec::new()),
            None,
        );
        let nodes: &mut [&mut dyn Steps] = &mut [&mut server, &mut client];
        drive(&world, nodes);
        answered += client.handler().answered;
    }
    answered
}

#[test]
fn echo_in_the_simulator() {
    let answered = run(100, || layer::Inside {}, b"hello", b"hello");
    assert!(answered > 1_000, "{answered}");
}

#[test]
fn layer_in_the_simulator() {
    // XOR twice, so the layer's echo of "hello" is "hello".
    let make_handler = || layer::Xor::new(layer::Xor::new(layer::Inside {}));
    let answered = run(100, make_handler, b"hello", b"hello");
    assert!(answered > 1_000, "{answered}");
}

#[test]
fn http_hello_in_the_simulator() {
    let requests =
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let response = |more| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n{more}\r\nhello\n"
        )
    };
    let expects = response("") + &response("Connection: close\r\n");
    let answered = run(100, http_hello::Hello::new, requests, expects.as_bytes());
    assert!(answered > 1_000, "{answered}");
}
