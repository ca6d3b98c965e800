//! An HTTP/1.1 server that says hello: keep-alive, pipelining, back-pressure, timeouts. Run it with
//! `cargo run --release -p holdfast-engine --example http_hello -- 127.0.0.1:8080`, ask it with
//! `curl -i http://127.0.0.1:8080/`, end it with Ctrl-C.

use holdfast_engine::{CloseReason, Config, Conn, Engine, Handler, allowed_cores, listen};
use holdfast_http1::{Body, Limits, parse_request, status_reason};

const HELLO: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n";
const HELLO_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\n";
const HELLO_LAST: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";

/// How long a connection may be silent, and how long a peer may take to read, microseconds.
const PATIENCE_US: u64 = 10_000_000;
/// What a peer may be sent in one callback before it has to read.
const QUEUE_BYTES_MAX: usize = 32 * 1024;

/// The server of one core thread. A connection has no state: between requests nothing is known of it.
pub struct Hello {
    limits: Limits,
}

impl Hello {
    /// A server without connections.
    pub fn new() -> Self {
        Hello {
            limits: Limits::default(),
        }
    }

    /// Answers a request that is not served. Where the next one begins is unknown, so the connection closes.
    fn refuse(conn: &mut Conn<'_, ()>, status: u16) {
        let reason = status_reason(status);
        let answer =
            format!("HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        conn.send_copy(answer.as_bytes());
        conn.close_after_send();
    }
}

impl Default for Hello {
    fn default() -> Self {
        Hello::new()
    }
}

impl Handler for Hello {
    type State = ();
    type Report = ();
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        conn.set_timer(conn.now_us() + PATIENCE_US);
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        let mut used = 0;
        while used < bytes.len() {
            let head = match parse_request(&bytes[used..], &self.limits) {
                Ok(Some(head)) => head,
                // The rest comes again with what follows it.
                Ok(None) => break,
                Err(error) => {
                    Self::refuse(conn, error.status);
                    return bytes.len();
                }
            };
            if head.body != Body::None {
                Self::refuse(conn, 413);
                return bytes.len();
            }
            used += head.length;
            match (head.keep_alive && !head.is_http10, head.is_head) {
                (true, false) => conn.send(HELLO),
                (true, true) => conn.send(HELLO_HEAD),
                (false, is_head) => {
                    let body_bytes = if is_head { b"hello\n".len() } else { 0 };
                    conn.send(&HELLO_LAST[..HELLO_LAST.len() - body_bytes]);
                    conn.close_after_send();
                    return bytes.len();
                }
            }
            conn.set_timer(conn.now_us() + PATIENCE_US);
            if conn.sent_bytes() > QUEUE_BYTES_MAX {
                // A peer that sends without reading is answered when it has read.
                conn.pause_until_sent();
                break;
            }
        }
        used
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, ()>) {
        if conn.is_blocked() {
            conn.abort(CloseReason::Stalled);
        } else {
            conn.close();
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1);
    let address = address.as_deref().unwrap_or("127.0.0.1:8080").parse()?;
    let cores = allowed_cores();
    let (listeners, bound) = listen::listeners(&[address], cores.len(), None)?;
    let config = Config::builder()
        .thread_count(cores.len())
        .cores(cores)
        .build()?;
    let engine = Engine::start(config, listeners, None, |_| Hello::new())?;
    println!("saying hello on http://{}/", bound[0]);
    Ok(engine.join()?)
}
