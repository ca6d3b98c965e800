//! An engine that is stopped with the value, and peers that connect to it.
//!
//! Must not depend on: what its handlers do.
#![allow(dead_code)] // Each test file uses a part.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use holdfast_engine::{
    CloseReason, Config, ConfigBuilder, Engine, Handler, Shutdown, Stats, listen,
};

pub const PATIENCE: Duration = Duration::from_secs(60);
pub const PENDING_BYTES_MAX: usize = 4_096;

/// An engine with one handler a thread, stopped with the value.
pub struct Running<P: Default + Send + 'static> {
    pub engine: Option<Engine<P>>,
    pub address: SocketAddr,
}

impl<P: Default + Send + 'static> Running<P> {
    /// Small sizes, so that buffers are full soon.
    pub fn config() -> ConfigBuilder {
        Config::builder()
            .capacity(100)
            .thread_count(2)
            .ring_slots(100)
            .buffer_bytes(64)
            .pending_bytes_max(PENDING_BYTES_MAX)
    }

    pub fn start<H: Handler<Report = P, Command = ()> + 'static>(
        make_handler: impl FnMut(usize) -> H,
    ) -> Self {
        Self::with_config(Self::config(), make_handler)
    }

    pub fn with_config<H: Handler<Report = P, Command = ()> + 'static>(
        config: ConfigBuilder,
        make_handler: impl FnMut(usize) -> H,
    ) -> Self {
        let config = config.build().expect("a config");
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let threads = config.thread_count();
        let (listeners, bound) = listen::listeners(&[anywhere], threads, None).expect("a port");
        let engine = Engine::start(config, listeners, None, make_handler).expect("an engine");
        Running {
            engine: Some(engine),
            address: bound[0],
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.engine
            .as_ref()
            .unwrap()
            .reports()
            .for_each(|report| stats.merge(&report.stats));
        stats
    }

    pub fn until_closed(&self, reason: CloseReason, count: u64) {
        let since = Instant::now();
        while self.stats().closed[reason as usize] != count {
            assert!(
                since.elapsed() < PATIENCE,
                "{reason:?} {count} times: {:?}",
                self.stats()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl<P: Default + Send + 'static> Drop for Running<P> {
    fn drop(&mut self) {
        let engine = self.engine.take().unwrap();
        engine.stop(Shutdown::Immediate);
        let ended = engine.join();
        assert!(ended.is_ok() || std::thread::panicking(), "{ended:?}");
    }
}
