//! A TCP relay. Run it with `cargo run --release -p holdfast-engine --example relay -- 127.0.0.1:7777 127.0.0.1:80`: what comes to the
//! first address goes to the second, and back. End it with Ctrl-C.
//!
//! Each accepted connection dials a partner. Bytes are forwarded from the receive buffer; a side whose peer does not read stops the
//! other side's reading. An end (FIN) and a reset propagate behind the bytes that came before them.

use std::net::SocketAddr;

use holdfast_engine::{
    CloseReason, Config, ConfigBuilder, Conn, Dial, Engine, Handler, SocketOptions, allowed_cores,
    listen::listeners,
};

/// How long a peer may take none of the bytes that wait for it, microseconds.
const PATIENCE_US: u64 = 60_000_000;

/// Forwards everything.
pub struct Relay {
    target: SocketAddr,
}

impl Relay {
    /// To `target`.
    pub fn new(target: SocketAddr) -> Self {
        Relay { target }
    }
}

impl Handler for Relay {
    type State = ();
    type Report = ();
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        if conn.partner().is_some() {
            return;
        }
        let mut options = SocketOptions::default();
        options.no_delay = true;
        let dial = Dial::to(self.target).options(options).delay_ack();
        if conn.dial_partner(dial, ()).is_err() {
            conn.reset(CloseReason::Aborted);
        }
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        conn.forward(bytes)
    }

    fn on_eof(&mut self, conn: &mut Conn<'_, ()>) {
        conn.forward_eof();
    }

    fn on_blocked(&mut self, conn: &mut Conn<'_, ()>) {
        conn.set_timer(conn.now_us() + PATIENCE_US);
    }

    fn on_writable(&mut self, conn: &mut Conn<'_, ()>) {
        conn.clear_timer();
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, ()>) {
        conn.abort(CloseReason::Stalled);
    }

    fn on_stop(&mut self, conn: &mut Conn<'_, ()>) {
        conn.close_after_send();
    }
}

/// What a relay needs: room for the partner of each connection, large buffers, and receives that wait in the kernel.
pub fn config() -> ConfigBuilder {
    Config::builder()
        .pairs(true)
        .buffer_bytes(65_536)
        .buffer_count_max(1_024)
        .park_after(std::time::Duration::from_secs(5))
        .batch_delay(std::time::Duration::ZERO)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut addresses = std::env::args().skip(1);
    let (Some(listen), Some(target)) = (addresses.next(), addresses.next()) else {
        return Err("an address is missing; next: relay 127.0.0.1:7777 127.0.0.1:80".into());
    };
    let (listen, target) = (listen.parse()?, target.parse()?);
    let cores = allowed_cores();
    let (listeners, bound) = listeners(&[listen], cores.len(), None)?;
    let config = config().thread_count(cores.len()).cores(cores).build()?;
    let engine = Engine::start(config, listeners, None, |_| Relay::new(target))?;
    println!("relaying from {} to {target}", bound[0]);
    Ok(engine.join()?)
}
