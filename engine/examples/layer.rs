//! A layer: an echo server whose bytes are all combined with a key by XOR, in both directions. Run it with
//! `cargo run --release -p holdfast-engine --example layer -- 127.0.0.1:7777`, end it with Ctrl-C.
//!
//! The server inside knows nothing of the layer. A real layer, such as TLS, has the same shape.

use holdfast_engine::{
    Config, Engine, Handler, InnerActions, Layer, LayerConn, allowed_cores, listen::listeners,
};

#[path = "echo.rs"]
#[allow(dead_code)] // Its main.
mod echo;

/// What all bytes are combined with.
pub const KEY: u8 = 0x55;

/// The server inside.
pub type Inside = echo::Echo;

/// A handler whose bytes are combined with [`KEY`].
pub struct Xor<H> {
    inner: H,
    /// Bytes for the inner handler: one buffer for all connections of the thread.
    plain: Vec<u8>,
}

impl<H> Xor<H> {
    /// A layer around `inner`.
    pub fn new(inner: H) -> Self {
        Xor {
            inner,
            plain: Vec::new(),
        }
    }
}

impl<H: Handler> Layer for Xor<H> {
    type Inner = H;
    /// Bytes received: the layer's own state of a connection, beside the inner handler's.
    type State = u64;

    fn inner(&mut self) -> &mut H {
        &mut self.inner
    }

    fn on_bytes(&mut self, conn: &mut LayerConn<'_, Self>, bytes: &[u8]) -> usize {
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        plain.extend(bytes.iter().map(|byte| byte ^ KEY));
        // What the inner handler leaves comes again, so its count is this layer's too.
        let used = self.call(conn, |inner, conn| inner.on_bytes(conn, &plain));
        conn.state.own += used as u64;
        self.plain = plain;
        used
    }

    fn on_actions(&mut self, conn: &mut LayerConn<'_, Self>, mut actions: InnerActions) {
        for piece in actions.sends() {
            let cipher: Vec<u8> = piece.iter().map(|byte| byte ^ KEY).collect();
            conn.send_copy(&cipher);
        }
        actions.clear_sends();
        // Timers, pauses and closes are what the inner handler wants them to be.
        conn.apply(actions);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1);
    let address = address.as_deref().unwrap_or("127.0.0.1:7777").parse()?;
    let cores = allowed_cores();
    let (listeners, bound) = listeners(&[address], cores.len(), None)?;
    let config = Config::builder()
        .thread_count(cores.len())
        .cores(cores)
        .build()?;
    let engine = Engine::start(config, listeners, None, |_| Xor::new(echo::Echo))?;
    println!("echoing on {}, every byte ^ {KEY:#x}", bound[0]);
    Ok(engine.join()?)
}
