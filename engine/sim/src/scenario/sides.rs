//! What all scenarios share: sizes drawn from the seed, the peers, and both sides run to their end.
//!
//! Must not depend on: any scenario.

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_engine::sim::{
    Canary, ConnectionLimiter, CoreListener, Node, Orders, Outside, Random, Reading, Script,
    Shared, Shares, Step, Steps, World, drive, mailboxes,
};
use holdfast_engine::{Config, DialPlan, Handler};

use crate::coverage::Coverage;
use crate::run::{Outcome, Run, Scenario};

/// Where servers listen.
pub(super) const SERVER: SocketAddr = address([10, 0, 0, 1], 80);
/// Where scripted servers listen.
pub(super) const HOSTILE: SocketAddr = address([10, 0, 0, 2], 80);
/// An address without a listener.
pub(super) const NOBODY: SocketAddr = address([10, 0, 0, 3], 80);
/// An address that never answers.
pub(super) const SILENT: SocketAddr = address([10, 0, 0, 4], 80);

pub(super) const fn address(ip: [u8; 4], port: u16) -> SocketAddr {
    let ip = std::net::Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]);
    SocketAddr::V4(std::net::SocketAddrV4::new(ip, port))
}

/// The smallest shares.
pub(super) const SMALLEST: Shares = Shares {
    events: 1,
    accepts: (1, 2),
    dials: (1, 2),
};

/// Sizes of an engine, small.
pub(super) fn config(random: &mut Random) -> Config {
    Config::builder()
        .peer_addresses(true)
        .capacity(random.magnitude(1, 70))
        .ring_slots(64 + random.below(8) as u32)
        .buffer_bytes(random.magnitude(1, 2_048) as u32)
        .buffer_count_max(random.pick(&[64, 64, 128, 256]))
        .staging_bytes(random.magnitude(16, 65_536) as usize)
        .park_after(Duration::from_micros(
            random.pick(&[0, 0, 2_000, 50_000, 1_000_000]),
        ))
        .sends_on_open(true)
        .pending_bytes_max(random.magnitude(64, 65_536) as usize)
        .commands_max(4)
        .batch_delay(Duration::from_micros(random.pick(&[0, 0, 200, 1_000])))
        .connect_timeout(Duration::from_micros(random.magnitude(10_000, 3_000_000)))
        .drain_timeout(Duration::from_micros(random.magnitude(1_000, 2_000_000)))
        .build()
        .expect("sizes an engine can have")
}

/// When one side is told to shut down: gracefully, at once, or the one after the other.
pub(super) fn orders(world: &mut World, last_us: u64) -> Orders {
    let now_us = world.now_us();
    let random = world.random();
    let first_us = now_us + random.magnitude(1, last_us);
    let harder_us = match random.below(4) {
        0 => first_us,
        1 => first_us + random.magnitude(1, 3_000_000),
        _ => u64::MAX,
    };
    Orders {
        release_us: u64::MAX,
        in_order_us: first_us,
        now_us: harder_us,
    }
}

/// The targets of a client: the server, and at times worse addresses too.
pub(super) fn plan(random: &mut Random, has_hostile: bool) -> DialPlan {
    let mut targets = vec![SERVER];
    if has_hostile {
        targets.push(HOSTILE);
    }
    for worse in [NOBODY, SILENT] {
        if random.once_in(5) {
            targets.push(worse);
        }
    }
    let first = 1_024;
    let last = first + random.magnitude(1, 200) as u16 - 1;
    let source = "10.0.1.1".parse().expect("an address");
    DialPlan::new(vec![source], first..=last, targets, u64::MAX).expect("a plan")
}

/// The sides of a run: any number of server threads with one limiter, and one client thread.
pub(super) struct Sides<'a> {
    pub(super) world: &'a Shared,
    pub(super) server: &'a Config,
    pub(super) client: &'a Config,
    pub(super) plan: &'a DialPlan,
    pub(super) canary: Option<Canary>,
    pub(super) seed: u64,
}

impl Sides<'_> {
    /// The successor of the server, in some runs: its orders and the listeners of each of its
    /// threads. It takes over the listeners of `servers` at any time, with fewer threads, as many,
    /// or more.
    fn successor(
        &self,
        servers: &mut [(Orders, CoreListener)],
    ) -> Vec<(Orders, Vec<CoreListener>)> {
        // Numbers of its own: other runs are what they were before there were successors.
        if !self.seed.is_multiple_of(8) {
            return Vec::new();
        }
        let mut random = Random::new(self.seed ^ 0x5CC3_5509);
        let mut world = self.world.lock().expect("nobody panicked with it");
        let own_orders = orders(&mut world, 2_000_000);
        let release_us = world.now_us() + random.magnitude(1, 1_000_000);
        let mut threads = vec![(own_orders, Vec::new()); random.between(1, 3) as usize];
        for place in 0..threads.len().max(servers.len()) {
            let (orders, listener) = &mut servers[place % servers.len()];
            orders.release_us = release_us;
            listener.is_shared = true;
            let fd = world.share_listener(listener.fd);
            let place = place % threads.len();
            threads[place].1.push(CoreListener {
                fd,
                is_shared: false,
                address: Some(SERVER),
            });
        }
        threads
    }

    /// Runs both sides to the end; `make_server` is called for each server thread.
    pub(super) fn run<S: Handler, C: Handler>(
        &self,
        make_server: impl FnMut() -> S,
        client: C,
        look: impl FnMut(&mut Coverage, &mut [Node<'_, S>], &mut Node<'_, C>),
    ) -> Outcome {
        self.run_commanded(make_server, client, |_| Vec::new(), Vec::new(), look)
    }

    /// The same, with threads outside that send commands at their times: to each server thread what
    /// `to_server` returns for its number, `to_client` to the client.
    pub(super) fn run_commanded<S: Handler, C: Handler>(
        &self,
        mut make_server: impl FnMut() -> S,
        client: C,
        mut to_server: impl FnMut(usize) -> Vec<(u64, S::Command)>,
        to_client: Vec<(u64, C::Command)>,
        mut look: impl FnMut(&mut Coverage, &mut [Node<'_, S>], &mut Node<'_, C>),
    ) -> Outcome {
        let server_limiter = ConnectionLimiter::new(self.server.capacity());
        let client_limiter = ConnectionLimiter::new(self.client.capacity());
        let successor_limiter = ConnectionLimiter::new(self.server.capacity());
        let (mut predecessor, client_orders) = {
            let mut world = self.world.lock().expect("nobody panicked with it");
            world.be_silent(SILENT);
            let threads = world.random().pick(&[1, 1, 2]);
            let server_orders = orders(&mut world, 2_000_000);
            let client_orders = orders(&mut world, 2_000_000);
            let listeners = (0..threads).map(|_| CoreListener {
                fd: world.listen(SERVER),
                is_shared: false,
                address: Some(SERVER),
            });
            let predecessor: Vec<_> = listeners.map(|l| (server_orders, l)).collect();
            (predecessor, client_orders)
        };
        let successor = self.successor(&mut predecessor);
        let has_successor = !successor.is_empty();
        let thread_count = predecessor.len() + successor.len();
        let predecessor = predecessor
            .into_iter()
            .map(|(orders, listener)| (&server_limiter, orders, vec![listener]));
        let successor = successor
            .into_iter()
            .map(|(orders, listeners)| (&successor_limiter, orders, listeners));
        let client_handle = mailboxes(self.world, self.client, 1);
        let server_handle = mailboxes(self.world, self.server, thread_count);
        let mut servers: Vec<Node<'_, S>> = predecessor
            .chain(successor)
            .enumerate()
            .map(|(thread, (limiter, orders, listeners))| {
                Node::new(
                    self.world,
                    self.server,
                    limiter,
                    make_server(),
                    &listeners,
                    None,
                    Outside::new(&server_handle, thread, orders, to_server(thread)),
                    self.canary,
                )
            })
            .collect();
        let mut client = Node::new(
            self.world,
            self.client,
            &client_limiter,
            client,
            &[],
            Some(self.plan),
            Outside::new(&client_handle, 0, client_orders, to_client),
            self.canary,
        );
        {
            let mut all: Vec<&mut dyn Steps> = vec![&mut client];
            all.extend(servers.iter_mut().map(|s| s as &mut dyn Steps));
            drive(self.world, &mut all);
        }
        let world = self.world.lock().expect("nobody panicked with it");
        let mut coverage = Coverage::of(&world);
        coverage.count("successors", u64::from(has_successor));
        drop(world);
        coverage.stats.merge(client.stats());
        for server in &mut servers {
            coverage.stats.merge(server.stats());
        }
        look(&mut coverage, &mut servers, &mut client);
        drop((client, servers));
        let world = self.world.lock().expect("nobody panicked with it");
        let shared_count = world.shared_count();
        assert_eq!(shared_count, 0, "shared buffers are kept at the end");
        let trace = world.trace();
        Outcome { trace, coverage }
    }
}

/// A world for a run.
pub(super) fn world(run: Run) -> Shared {
    let salt = Scenario::ALL.iter().position(|s| *s == run.scenario);
    let world = World::new(run.seed ^ (salt.unwrap_or(0) as u64) << 56);
    if run.is_told {
        world.lock().expect("it is new").tell();
    }
    world
}

/// A scripted peer that acts at random times, with `content` to send.
fn hostile(random: &mut Random, content: &[Vec<u8>]) -> Script {
    let mut steps = Vec::new();
    for _ in 0..random.magnitude(1, 8) {
        let step = match random.below(12) {
            0..=5 => {
                let mut bytes = content[random.below(content.len() as u64) as usize].clone();
                match random.below(8) {
                    0 => bytes.truncate(random.below(bytes.len() as u64 + 1) as usize),
                    1 if !bytes.is_empty() => {
                        let place = random.below(bytes.len() as u64) as usize;
                        bytes[place] = random.next() as u8;
                    }
                    2 => {
                        bytes = bytes.repeat(random.magnitude(2, 40) as usize);
                        bytes.truncate(10_000);
                    }
                    _ => {}
                }
                if bytes.is_empty() {
                    continue;
                }
                Step::Send(bytes, random.magnitude(1, 4_096) as usize)
            }
            6..=8 => Step::Pause(random.magnitude(10, 1_000_000)),
            9 => Step::Await(random.magnitude(1, 10_000) as usize),
            10 => Step::HalfClose,
            _ => Step::AwaitEnd,
        };
        steps.push(step);
    }
    match random.below(4) {
        0 => steps.push(Step::Reset),
        1 => steps.extend([Step::HalfClose, Step::AwaitEnd]),
        2 => steps.push(Step::AwaitEnd),
        _ => {}
    }
    let reading = match random.below(4) {
        0 => Reading::Never,
        1 => Reading::Slow(random.magnitude(1, 500) as usize),
        _ => Reading::All,
    };
    Script {
        steps,
        reading,
        lasts_us: random.magnitude(1_000, 6_000_000),
    }
}

/// Prepares a world for babblers, with scripted peers on both sides; returns the configs of server
/// and client. The client may read while it is blocked only if `may_read_while_blocked`.
pub(super) fn babbling(world: &mut World, may_read_while_blocked: bool) -> (Config, Config) {
    let content = [b"hello".to_vec(), vec![b'x'; 1_000]];
    add_hostile(world, &content, Some(&content));
    let random = world.random();
    let (server, client) = (config(random), config(random));
    let reads = may_read_while_blocked && random.once_in(2);
    let client = client.to_builder().reads_while_blocked(reads).build();
    (server, client.expect("sizes an engine can have"))
}

/// Adds scripted peers to a run: those that connect to the server, and with `to_client` those the
/// client connects to.
pub(super) fn add_hostile(world: &mut World, to_server: &[Vec<u8>], to_client: Option<&[Vec<u8>]>) {
    let count = match world.random().below(3) {
        0 => 0,
        _ => world.random().magnitude(1, 12),
    };
    for _ in 0..count {
        let script = hostile(world.random(), to_server);
        let after_us = world.random().magnitude(1, 2_000_000);
        world.connect_raw(after_us, SERVER, script);
    }
    if let Some(content) = to_client {
        let scripts = (0..4).map(|_| hostile(world.random(), content)).collect();
        world.listen_raw(HOSTILE, scripts);
    }
}
