//! The send path: a turn in which every connection is sent a heartbeat, with peers that take it and
//! with peers that all stop reading at once.

use divan::{Bencher, counter::ItemsCount};
use holdfast_engine::internals::{ConnectionLimiter, Core, CoreListener, mailboxes};
use holdfast_engine::{Config, Conn, Handler, SetupError};

use crate::null_ring::NullRing;

const INTERVAL_US: u64 = 1_000;

/// Sends a heartbeat at each tick.
struct Heartbeats;

impl Handler for Heartbeats {
    type State = [u32; 2];
    type Report = ();
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, Self::State>) {
        // All at the same tick, when every connection is open.
        conn.set_timer(OPEN_US);
    }

    fn on_bytes(&mut self, _: &mut Conn<'_, Self::State>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self::State>) {
        conn.send_static(b"heartbeat");
        conn.set_timer(conn.now_us() + INTERVAL_US);
    }
}

const OPEN_US: u64 = 1_000_000;

type MakeRing = Box<dyn FnMut() -> Result<NullRing, SetupError>>;
type NullCore = Core<'static, NullRing, Heartbeats, MakeRing>;

/// A core with `count` connections, whose heartbeats are due at [`OPEN_US`]. What it refers to is
/// leaked: a benchmark makes few.
fn core(count: u32, is_stalled: bool) -> NullCore {
    let config = Config::builder()
        .capacity(u64::from(count))
        .ring_slots(count + 64)
        .build();
    let config = Box::leak(Box::new(config.expect("a config")));
    let limiter = Box::leak(Box::new(ConnectionLimiter::new(u64::from(count))));
    let handle = Box::leak(Box::new(mailboxes(config).expect("a descriptor")));
    let make_ring: MakeRing = Box::new(move || Ok(NullRing::new(count, is_stalled)));
    let listener = CoreListener {
        fd: 0,
        is_shared: false,
        address: None,
    };
    let core = Core::new(
        config,
        limiter,
        (handle, 0),
        Heartbeats,
        make_ring,
        &[listener],
        None,
    );
    let mut core = core.expect("a ring");
    for turn in 0.. {
        core.turn(turn).expect("a turn");
        core.wait(std::time::Duration::from_millis(1), |_| {})
            .expect("a wait");
        if core.stats().open_now == u64::from(count) {
            break;
        }
        assert!(turn < 1_000, "{:?}", core.stats());
    }
    core
}

const CONNECTIONS: [u32; 3] = [1_000, 10_000, 19_000];

/// Every send goes out whole.
#[divan::bench(args = CONNECTIONS)]
fn heartbeats(bencher: Bencher, count: u32) {
    let mut core = core(count, false);
    let mut now_us = OPEN_US;
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        core.turn(now_us).expect("a turn");
        core.wait(std::time::Duration::from_millis(1), |_| {})
            .expect("a wait");
        now_us += INTERVAL_US;
    });
    assert!(core.stats().sends >= u64::from(count));
}

/// Every peer has stopped reading: each send of the turn comes back short, and its bytes are kept.
#[divan::bench(args = CONNECTIONS, sample_count = 10, sample_size = 1)]
fn all_peers_stall(bencher: Bencher, count: u32) {
    bencher
        .counter(ItemsCount::new(count))
        .with_inputs(|| core(count, true))
        .bench_local_refs(|core| {
            for turn in 0..4 {
                core.turn(OPEN_US + turn).expect("a turn");
                core.wait(std::time::Duration::from_millis(1), |_| {})
                    .expect("a wait");
            }
            assert_eq!(core.stats().sends_short, u64::from(count));
        });
}
