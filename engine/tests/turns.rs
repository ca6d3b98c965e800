//! Turns of a core over a ring without a kernel, whose peers answer everything they are sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use holdfast_engine::internals::{ConnectionLimiter, Core, CoreListener, mailboxes};
use holdfast_engine::{Config, Conn, Handler, SetupError};

#[path = "../benches/null_ring.rs"]
#[allow(dead_code)] // What only the benchmarks use.
mod null_ring;

use null_ring::NullRing;

/// No more than the first turn accepts, so that all are served in rounds.
const CONNECTIONS: u32 = 250;

/// Sends at once, and again after each answer.
struct PingPong {
    /// Sends the ring has been given.
    pushed: Arc<AtomicU32>,
    served: u32,
    /// Callbacks in which the send of the one before had not been pushed.
    late: u32,
    last_us: u64,
    first_us: u64,
}

impl Handler for PingPong {
    type State = u32;
    type Report = ();
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, u32>) {
        conn.send_static(b"ping");
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, u32>, bytes: &[u8]) -> usize {
        self.late += u32::from(self.pushed.load(Ordering::Relaxed) != CONNECTIONS + self.served);
        self.served += 1;
        self.last_us = conn.now_us();
        if self.served % CONNECTIONS == 1 {
            self.first_us = conn.now_us();
        }
        assert!(
            *conn.state * CONNECTIONS < self.served,
            "served {} times of {}",
            *conn.state + 1,
            self.served
        );
        *conn.state += 1;
        conn.send_static(b"ping");
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, u32>) {}
}

#[test]
fn responses_are_in_order_with_immediate_sends_and_moving_clock() {
    let config = Config::builder()
        .capacity(u64::from(CONNECTIONS))
        .ring_slots(CONNECTIONS + 64)
        .park_after(Duration::from_secs(10))
        .build()
        .expect("a config");
    let limiter = ConnectionLimiter::new(u64::from(CONNECTIONS));
    let pushed = Arc::new(AtomicU32::new(0));
    let handler = PingPong {
        pushed: Arc::clone(&pushed),
        served: 0,
        late: 0,
        last_us: 0,
        first_us: 0,
    };
    let make_ring = || -> Result<NullRing, SetupError> {
        Ok(NullRing::answering(CONNECTIONS, Arc::clone(&pushed)))
    };
    let listener = CoreListener {
        fd: 0,
        is_shared: false,
        address: None,
    };
    let handle = mailboxes(&config).expect("a descriptor");
    let core = Core::new(
        &config,
        &limiter,
        (&handle, 0),
        handler,
        make_ring,
        &[listener],
        None,
    );
    let mut core = core.expect("a ring");
    for turn in 0..20 {
        core.turn(turn * 10_000).expect("a turn");
        core.wait(Duration::from_millis(1), |_| {}).expect("a wait");
    }
    let handler = core.handler();
    assert!(handler.served >= 5 * CONNECTIONS, "{}", handler.served);
    assert_eq!(handler.late, 0, "sends that waited to be settled");
    assert!(
        handler.last_us > handler.first_us,
        "a turn's last answer comes later than its first"
    );
}
