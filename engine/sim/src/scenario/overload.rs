//! More to do than a turn has time for: each request costs time on one processor that all threads share.
//!
//! In one run of 64, a calm one, users are dialed as fast as it goes while others get messages, then most of them close at once. The processor has
//! time for all of it, so no message may be late by more than a few turns. In the other runs, shares of one piece of work meet every fault.

use holdfast_client::load::Load;
use holdfast_client::longconn::user::{UserConfig, UserReport, Users};
use holdfast_engine::sim::{
    Canary, ConnectionLimiter, CoreListener, Node, Orders, Outside, Shares, Steps, World, drive,
    mailboxes,
};
use holdfast_engine::{CloseReason, Config, DialPlan, Handler};
use holdfast_server::longconn::heartbeat::{HeartbeatConfig, HeartbeatServer};

use super::longconn;
use super::sides::SERVER;
use crate::coverage::Coverage;
use crate::run::{Outcome, Run};

/// What one request costs.
const REQUEST_US: u64 = 300;
const INTERVAL_US: u64 = 2_000_000;
/// Users who stay, and users who close at once.
const STAYING: u64 = 150;
const LEAVING: u64 = 750;
/// When they are to close, and when the run is to end, from its start.
const LEAVE_US: u64 = 5_000_000;
const END_US: u64 = 8_000_000;
/// Most that a message or a timer may be late. With shares it is 0.3 s, without them 0.5 s and more.
const LATE_US_MAX: u64 = 400_000;
/// Connections that may wait at the listener: the backlog of such a world.
const BACKLOG: u64 = 512;

const UNBOUNDED: Shares = Shares {
    events: 1 << 20,
    accepts: (1 << 20, 1 << 20),
    dials: (1 << 20, 1 << 20),
};

fn shares(canary: Option<Canary>) -> Shares {
    match canary {
        Some(Canary::SharesUnbounded) => UNBOUNDED,
        // Smaller than those of a real engine, as requests are slower.
        _ => Shares {
            events: 32,
            accepts: (8, 64),
            dials: (4, 64),
        },
    }
}

fn config(canary: Option<Canary>) -> Config {
    Config::builder()
        .capacity(STAYING + LEAVING)
        .ring_slots(2 * (STAYING + LEAVING) as u32)
        .buffer_bytes(64)
        .shares(shares(canary))
        .build()
        .expect("sizes an engine can have")
}

fn orders(in_order_us: u64) -> Orders {
    Orders {
        release_us: u64::MAX,
        in_order_us,
        now_us: u64::MAX,
    }
}

pub(super) fn run(run: Run) -> Outcome {
    if !run.seed.is_multiple_of(64) && run.canary.is_none() {
        return longconn::run(run);
    }
    let world = World::with_cost(run.seed, REQUEST_US);
    let (start_us, listener) = {
        let mut world = world.lock().expect("it is new");
        if run.is_told {
            world.tell();
        }
        (world.now_us(), world.listen(SERVER))
    };
    let config = config(run.canary);
    let heartbeat = HeartbeatConfig {
        message: b"ok",
        interval_us: INTERVAL_US,
        idle_timeout_us: None,
        echo: false,
    };
    let user = UserConfig {
        expect: b"ok",
        interval_us: INTERVAL_US,
        send: None,
        reconnect: None,
    };
    let limiters = [(); 3].map(|()| ConnectionLimiter::new(config.capacity()));
    let server_handle = mailboxes(&world, &config, 1);
    let handles = [(); 2].map(|()| mailboxes(&world, &config, 1));
    let plans = [1, 2].map(|last| {
        let source = std::net::IpAddr::from([10, 0, 1, last]);
        DialPlan::new(vec![source], 1_024..=9_999, vec![SERVER], u64::MAX).expect("a plan")
    });
    let listeners = [CoreListener {
        fd: listener,
        address: Some(SERVER),
        is_shared: false,
    }];
    let outside = |place: usize, after_us: u64| {
        let orders = orders(start_us + after_us);
        Outside::new(&handles[place - 1], 0, orders, Vec::new())
    };
    let mut server = Node::new(
        &world,
        &config,
        &limiters[0],
        HeartbeatServer::new(heartbeat),
        &listeners,
        None,
        Outside::new(
            &server_handle,
            0,
            orders(start_us + END_US + INTERVAL_US),
            Vec::new(),
        ),
        run.canary,
    );
    let client = |place: usize, users: u64, leave_us: u64| {
        let load = Load::new(users, Load::MAX);
        Node::new(
            &world,
            &config,
            &limiters[place],
            Users::new(user, load, 0, 1),
            &[],
            Some(&plans[place - 1]),
            outside(place, leave_us),
            run.canary,
        )
    };
    let mut staying = client(1, STAYING, END_US);
    let mut leaving = client(2, LEAVING, LEAVE_US);
    let nodes: &mut [&mut dyn Steps] = &mut [&mut staying, &mut leaving, &mut server];
    drive(&world, nodes);

    let mut coverage = Coverage::of(&world.lock().expect("nobody panicked with it"));
    for (client, users) in [(&mut staying, STAYING), (&mut leaving, LEAVING)] {
        let mut report = UserReport::default();
        client.handler().report(&mut report);
        let late_us = report.lateness_us.max();
        assert!(late_us <= LATE_US_MAX, "a message came {late_us} us late");
        let stats = client.stats();
        let closed = stats.closed[CloseReason::LocallyClosed as usize];
        assert_eq!((stats.opened, closed), (users, users), "all were served");
        coverage.count("messages", report.received);
        coverage.stats.merge(stats);
    }
    let stats = server.stats();
    let late_us = stats.timer_late_us_max;
    assert!(late_us <= LATE_US_MAX, "a timer fired {late_us} us late");
    let queue_max = stats.accept_queue_max;
    assert!(queue_max < BACKLOG, "the listen queue was full");
    coverage.stats.merge(stats);
    for (name, count) in coverage.stats.turns() {
        coverage.count(name, count);
    }
    drop((staying, leaving, server));
    let trace = world.lock().expect("nobody panicked with it").trace();
    Outcome { trace, coverage }
}
