//! An echo server. Run it with `cargo run --release -p holdfast-engine --example echo -- 127.0.0.1:7777`, talk to it with
//! `nc 127.0.0.1 7777`, end it with Ctrl-C.

use holdfast_engine::{Config, Conn, Engine, Handler, allowed_cores, listen::listeners};

/// Sends back what comes.
pub struct Echo;

impl Handler for Echo {
    type State = ();
    type Report = ();
    type Command = ();

    fn on_open(&mut self, _: &mut Conn<'_, ()>) {}

    fn on_bytes(&mut self, conn: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        conn.send_copy(bytes);
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, ()>) {}
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
    let engine = Engine::start(config, listeners, None, |_| Echo)?;
    println!("echoing on {}", bound[0]);
    Ok(engine.join()?)
}
