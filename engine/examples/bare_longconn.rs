//! The baseline of a long-connection benchmark: the least a program can do to hold N loopback pairs
//! and send 2 bytes to each at an interval. Its cost is the kernel's; the difference to Holdfast is
//! Holdfast's.
//!
//! `cargo build --release -p holdfast-engine --example bare_longconn`, then, with a connection
//! table of its own as `holdfast-bench longconn` has it (see `results/testbed/src/namespace.rs`;
//! two buckets for each socket, a power of two):
//!
//! ```sh
//! unshare -n sh -c 'sysctl -qw net.ipv4.tcp_child_ehash_entries=2097152 && exec unshare -n sh -c "ip link set lo up &&
//!   sysctl -qw net.core.somaxconn=65535 net.ipv4.tcp_max_syn_backlog=65535 net.ipv4.ip_local_port_range=\"1024 65535\" &&
//!   exec target/release/examples/bare_longconn --connections 300000 --interval 6s --seconds 10"'
//! ```
//!
//! `--interval` is the time between two messages to a connection, such as `6s`, `500ms` or `1us`
//! (as often as the cores can); 0 sends nothing. Sending starts when all pairs are open, so ramp
//! and heartbeats are measured separately; give `holdfast-bench` an interval longer than its ramp
//! to compare ramps. `--stream` has the client receive with one request that stays (864 bytes in
//! the kernel) instead of a poll and a receive each time (256). The server is the thread on core 0,
//! the client that on core 1.
//!
//! Invariants: the ramp ends after [`RAMP_MAX`] and the pushing after `--seconds`, whatever
//! happens; nobody is connected to outside 127.0.0.0/8. There are no slots, no timers and no
//! accounts beyond counts: connections are numbered in the order they come, a place in a ring's
//! table is never used twice but for an attempt that met a taken address.
//! Must not depend on: the engine's shards, slots, handlers.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use holdfast_engine::internals::{Completion, KernelRing, Op, Request, Ring, Token};
use holdfast_engine::listen::{Listener, listeners};
use holdfast_engine::{Config, DialPlan, SetupError};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Pid, gettid};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const MESSAGE: &[u8] = b"ok";
/// As in `holdfast-bench`: below 1024, so that no client port collides with it; and the same number
/// of targets, which share a client's ports.
const PORT: u16 = 997;
const TARGET_COUNT: u8 = 16;
/// As in the engine: a longer turn would delay the other side.
const DIALS_PER_TURN: usize = 1_024;
const CONNECTING_MAX: u64 = 2_048;
const ACCEPT_BATCH: u32 = 256;
const SENDS_PER_TURN: u64 = 8_192;
/// Completions handled before the next submission: no more receives than a ring has buffers.
const REAP_BATCH: usize = 256;
/// Batch delay, as in the engine.
const TURN: Duration = Duration::from_millis(1);
const RAMP_MAX: Duration = Duration::from_secs(120);
const SECONDS_MAX: u64 = 600;

/// State shared between the threads.
#[derive(Default)]
struct Shared {
    accepted: AtomicU64,
    opened: AtomicU64,
    connecting: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    /// Connections that ended, and requests that failed otherwise.
    lost: AtomicU64,
    is_pushing: AtomicBool,
    is_over: AtomicBool,
    /// Thread numbers of server and client, for their CPU time.
    threads: [AtomicI32; 2],
}

#[derive(Clone, Copy)]
struct Flags {
    connections: u64,
    every: Duration,
    seconds: u64,
    streams: bool,
}

/// One side: its rings; the next one is made when the last one is full.
struct Side {
    rings: Vec<KernelRing>,
    /// Places taken in the newest ring.
    used: u32,
    config: Config,
    started_at: Instant,
    /// What to receive with, or `None` on the side that only waits for the end.
    receives: Option<Receive>,
    shared: &'static Shared,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Receive {
    Polled,
    Streamed,
}

/// What the side's loop must do after a completion.
enum Event {
    /// This listener has connections.
    Listening(usize),
    /// A connection was taken into this place.
    Accepted(u32),
    /// This attempt, with this place, met a taken address.
    Taken(u32),
    Nothing,
}

impl Side {
    fn new(
        core: usize,
        receives: Option<Receive>,
        shared: &'static Shared,
    ) -> Result<Self, Failure> {
        let mut cores = CpuSet::new();
        cores.set(core)?;
        sched_setaffinity(Pid::from_raw(0), &cores)?;
        shared.threads[core].store(gettid().as_raw(), Relaxed);
        let mut side = Side {
            rings: Vec::new(),
            used: 0,
            config: Config::builder()
                .ring_slots(getrlimit(Resource::RLIMIT_NOFILE)?.1.min(1 << 20) as u32)
                .buffer_bytes(64)
                .buffer_count_max(REAP_BATCH as u16)
                .staging_bytes(4_096)
                .build()?,
            started_at: Instant::now(),
            receives,
            shared,
        };
        side.add_ring()?;
        Ok(side)
    }

    fn add_ring(&mut self) -> Result<(), SetupError> {
        let mut ring = KernelRing::without_waker(&self.config, self.started_at)?;
        while ring.add_buffers() > 0 {}
        self.rings.push(ring);
        self.used = 0;
        Ok(())
    }

    /// Places left in the newest ring; at least one.
    fn room(&mut self) -> Result<u32, SetupError> {
        if self.used == self.config.ring_slots() {
            self.add_ring()?;
        }
        Ok(self.config.ring_slots() - self.used)
    }

    /// Polls for the peer's next event.
    fn park(&mut self, ring: usize, slot: u32) -> Result<(), SetupError> {
        let (op, request) = match self.receives {
            Some(Receive::Streamed) => (Op::Recv, Request::RecvMultishot { slot }),
            _ => {
                let writable = false;
                (Op::Poll, Request::Poll { slot, writable })
            }
        };
        self.rings[ring].push(Token::new(op, slot, 0), request)
    }

    /// Enters the rings that have work, and hands every completion to `on`. True if there was any.
    fn turn(
        &mut self,
        mut on: impl FnMut(&mut Self, usize, Event) -> Result<(), SetupError>,
    ) -> Result<bool, SetupError> {
        let mut worked = false;
        for ring in 0..self.rings.len() {
            while self.rings[ring].wants_enter() || self.rings[ring].has_completion() {
                worked = true;
                if self.rings[ring].wants_enter() {
                    self.rings[ring].enter(None)?;
                }
                for _ in 0..REAP_BATCH {
                    let Some(completion) = self.rings[ring].reap() else {
                        break;
                    };
                    let event = self.complete(ring, completion)?;
                    on(self, ring, event)?;
                }
            }
        }
        Ok(worked)
    }

    fn complete(&mut self, ring: usize, completion: Completion) -> Result<Event, SetupError> {
        let (slot, result) = (completion.token.slot(), completion.result);
        match completion.token.op() {
            Op::PollListener => return Ok(Event::Listening(slot as usize)),
            Op::Accept if result >= 0 => return Ok(Event::Accepted(slot)),
            Op::Accept if result == -libc::EAGAIN => {}
            Op::Bind => return Ok(Event::Taken(slot)),
            Op::Connect if result == -libc::EADDRINUSE || result == -libc::EADDRNOTAVAIL => {
                return Ok(Event::Taken(slot));
            }
            Op::Connect => {
                self.shared.connecting.fetch_sub(1, Relaxed);
                if result == 0 {
                    self.shared.opened.fetch_add(1, Relaxed);
                    self.park(ring, slot)?;
                } else {
                    self.shared.lost.fetch_add(1, Relaxed);
                }
            }
            Op::Poll if self.receives.is_some() && result >= 0 => {
                // One after the other in one submission: the poll sees what came after the receive.
                self.rings[ring].push(Token::new(Op::Recv, slot, 0), Request::Recv { slot })?;
                self.park(ring, slot)?;
            }
            Op::Recv if result > 0 => {
                let buffer = completion.buffer.expect("received bytes are in a buffer");
                self.rings[ring].recycle(buffer);
                let messages = result as u64 / MESSAGE.len() as u64;
                self.shared.received.fetch_add(messages, Relaxed);
                if self.receives == Some(Receive::Streamed) && !completion.has_more {
                    self.park(ring, slot)?;
                }
            }
            Op::Recv if result == -libc::EAGAIN => {}
            Op::Recv if result == -libc::ENOBUFS => match self.receives {
                Some(Receive::Streamed) => self.park(ring, slot)?,
                _ => {
                    self.rings[ring].push(Token::new(Op::Recv, slot, 0), Request::Recv { slot })?;
                }
            },
            _ => {
                self.shared.lost.fetch_add(1, Relaxed);
            }
        }
        Ok(Event::Nothing)
    }
}

/// Accepts connections and pushes to all of them in order of arrival, repeatedly.
fn serve(flags: Flags, listeners: &[Listener], shared: &'static Shared) -> Result<(), Failure> {
    let mut side = Side::new(0, None, shared)?;
    let mut readable: Vec<usize> = (0..listeners.len()).collect();
    // Ring and place of every connection, in the order they came.
    let mut held: Vec<(u32, u32)> = Vec::new();
    let mut next = 0;
    let mut pushing_since: Option<Instant> = None;
    let mut sent = 0;
    while !shared.is_over.load(Relaxed) {
        let started_at = Instant::now();
        while let Some(number) = readable.pop() {
            accept(
                &mut side,
                number,
                &listeners[number],
                &mut readable,
                &mut held,
            )?;
            shared.accepted.store(held.len() as u64, Relaxed);
        }
        if shared.is_pushing.load(Relaxed) {
            let elapsed = pushing_since.get_or_insert(started_at).elapsed();
            let due = elapsed.as_nanos() * held.len() as u128 / flags.every.as_nanos();
            let count = (due as u64).saturating_sub(sent).min(SENDS_PER_TURN);
            for _ in 0..count {
                let (ring, slot) = held[next];
                let bytes = MESSAGE;
                side.rings[ring as usize].push(
                    Token::new(Op::Send, slot, 0),
                    Request::SendStatic {
                        slot,
                        bytes,
                        is_last: false,
                    },
                )?;
                next = (next + 1) % held.len();
            }
            sent += count;
            shared.sent.store(sent, Relaxed);
        }
        side.turn(|_, _, event| {
            if let Event::Listening(number) = event {
                readable.push(number);
            }
            Ok(())
        })?;
        if readable.is_empty() {
            std::thread::sleep(TURN.saturating_sub(started_at.elapsed()));
        }
    }
    Ok(())
}

/// Accepts a batch at most from one listener; polls it again when no more connections wait, else
/// keeps it among the readable ones.
fn accept(
    side: &mut Side,
    number: usize,
    listener: &Listener,
    readable: &mut Vec<usize>,
    held: &mut Vec<(u32, u32)>,
) -> Result<(), SetupError> {
    let listener = listener.as_raw_fd();
    let waiting = side.rings[0].accept_queue_len(listener);
    let batch = waiting.min(ACCEPT_BATCH).min(side.room()?);
    let (ring, first) = (side.rings.len() - 1, side.used);
    for slot in first..first + batch {
        side.rings[ring].push(
            Token::new(Op::Accept, slot, 0),
            Request::Accept {
                listener,
                slot,
                tells_peer: false,
            },
        )?;
    }
    let before = held.len();
    side.turn(|side, _, event| {
        match event {
            Event::Accepted(slot) => {
                // A connection may arrive between two accepts; an earlier place then stays empty.
                side.used = slot + 1;
                held.push((ring as u32, slot));
                side.park(ring, slot)?;
            }
            Event::Listening(other) => readable.push(other),
            _ => {}
        }
        Ok(())
    })?;
    if batch == waiting || held.len() - before < batch as usize {
        let token = Token::new(Op::PollListener, number as u32, 0);
        side.rings[0].push(token, Request::PollListener { listener })?;
    } else {
        readable.push(number);
    }
    Ok(())
}

/// Connects, each from an address of its own, and receives.
fn dial(flags: Flags, plan: &DialPlan, shared: &'static Shared) -> Result<(), Failure> {
    let receive = if flags.streams {
        Receive::Streamed
    } else {
        Receive::Polled
    };
    let mut side = Side::new(1, Some(receive), shared)?;
    let mut started = 0;
    let mut tuple = 0;
    let mut again: Vec<(usize, u32)> = Vec::new();
    while !shared.is_over.load(Relaxed) {
        let turn_at = Instant::now();
        for (ring, slot) in std::mem::take(&mut again) {
            side.rings[ring].push(Token::new(Op::Close, slot, 0), Request::Close { slot })?;
            connect(&mut side.rings[ring], slot, plan, &mut tuple)?;
        }
        for _ in 0..DIALS_PER_TURN {
            let is_full = shared.connecting.load(Relaxed) >= CONNECTING_MAX;
            if started == flags.connections || is_full {
                break;
            }
            side.room()?;
            let (ring, slot) = (side.rings.len() - 1, side.used);
            side.used += 1;
            started += 1;
            shared.connecting.fetch_add(1, Relaxed);
            connect(&mut side.rings[ring], slot, plan, &mut tuple)?;
        }
        side.turn(|_, ring, event| {
            if let Event::Taken(slot) = event {
                again.push((ring, slot));
            }
            Ok(())
        })?;
        std::thread::sleep(TURN.saturating_sub(turn_at.elapsed()));
    }
    Ok(())
}

fn connect(
    ring: &mut KernelRing,
    slot: u32,
    plan: &DialPlan,
    tuple: &mut u64,
) -> Result<(), SetupError> {
    let (source, target) = plan.tuple(*tuple % plan.tuple_count());
    *tuple += 1;
    // The bind is linked to the connect: no entry into the kernel may come between.
    ring.reserve(4)?;
    let is_ipv6 = false;
    ring.push(
        Token::new(Op::Socket, slot, 0),
        Request::Socket { slot, is_ipv6 },
    )?;
    ring.push(
        Token::new(Op::Option, slot, 0),
        Request::ReuseAddress { slot },
    )?;
    ring.push(
        Token::new(Op::Bind, slot, 0),
        Request::Bind { slot, source },
    )?;
    ring.push(
        Token::new(Op::Connect, slot, 0),
        Request::Connect { slot, target },
    )
}

/// CPU seconds of server and client so far.
fn cpu(shared: &Shared) -> [f64; 2] {
    [0, 1].map(|thread| {
        let number = shared.threads[thread].load(Relaxed);
        let text = std::fs::read_to_string(format!("/proc/self/task/{number}/schedstat"));
        let first = text.ok().and_then(|t| t.split(' ').next()?.parse().ok());
        first.map_or(0.0, |ns: u64| ns as f64 / 1e9)
    })
}

fn main() -> Result<(), Failure> {
    let flags = flags()?;
    let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?;
    let targets: Vec<_> = (1..=TARGET_COUNT)
        .map(|n| ([127, 0, 0, n], PORT).into())
        .collect();
    let ports_each = 64_000 * u64::from(TARGET_COUNT);
    // One source more than needed, so that a run directly after another finds free ports.
    let sources = (0..=flags.connections / ports_each + 1)
        .map(|n| [127, 1, (n / 250) as u8, (n % 250) as u8 + 1].into())
        .collect();
    let plan = DialPlan::new(sources, 1_024..=65_535, targets.clone(), u64::MAX)?;
    let listeners = listeners(&targets, 1, None).map_err(|e| e.to_string())?.0;
    let shared: &'static Shared = Box::leak(Box::default());

    let (tell, ended) = channel();
    let server_tell = tell.clone();
    let started_at = Instant::now();
    std::thread::spawn(move || server_tell.send(serve(flags, &listeners[0], shared)));
    std::thread::spawn(move || tell.send(dial(flags, &plan, shared)));

    let stands = |s: &Shared| {
        s.opened.load(Relaxed) >= flags.connections && s.accepted.load(Relaxed) >= flags.connections
    };
    while !stands(shared) && started_at.elapsed() < RAMP_MAX {
        wait(&ended, Duration::from_millis(5))?;
    }
    let ramp = started_at.elapsed().as_secs_f64();
    let ramp_cpu = cpu(shared);
    let pairs = shared
        .opened
        .load(Relaxed)
        .min(shared.accepted.load(Relaxed));
    println!(
        "{pairs} pairs in {ramp:.2} s: {:.0} a second; CPU s per million: server {:.2}, client {:.2}",
        pairs as f64 / ramp,
        ramp_cpu[0] / pairs as f64 * 1e6,
        ramp_cpu[1] / pairs as f64 * 1e6,
    );
    shared.is_pushing.store(!flags.every.is_zero(), Relaxed);
    let (from, cpu_from) = (Instant::now(), cpu(shared));
    wait(&ended, Duration::from_secs(flags.seconds))?;
    let (time, cpu_to) = (from.elapsed().as_secs_f64(), cpu(shared));
    let sent = shared.sent.load(Relaxed) as f64;
    let received = shared.received.load(Relaxed) as f64;
    println!(
        "{:.0} sent and {:.0} received a second for {time:.1} s; CPU s per million: server {:.2}, client {:.2}; \
         CPU s a second: server {:.3}, client {:.3}; lost {}",
        sent / time,
        received / time,
        (cpu_to[0] - cpu_from[0]) / sent.max(1.0) * 1e6,
        (cpu_to[1] - cpu_from[1]) / received.max(1.0) * 1e6,
        (cpu_to[0] - cpu_from[0]) / time,
        (cpu_to[1] - cpu_from[1]) / time,
        shared.lost.load(Relaxed),
    );
    shared.is_over.store(true, Relaxed);
    // The kernel closes open connections; no graceful shutdown.
    std::process::exit(i32::from(pairs < flags.connections));
}

/// Waits; fails when a thread failed.
fn wait(ended: &Receiver<Result<(), Failure>>, time: Duration) -> Result<(), Failure> {
    match ended.recv_timeout(time) {
        Ok(result) => result,
        Err(_) => Ok(()),
    }
}

fn flags() -> Result<Flags, Failure> {
    let mut flags = Flags {
        connections: 10_000,
        every: Duration::from_secs(6),
        seconds: 10,
        streams: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let mut value = || words.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--connections" => flags.connections = value()?.parse::<u64>()?.max(1),
            "--interval" | "--every" => flags.every = time(&value()?)?,
            "--seconds" => flags.seconds = value()?.parse::<u64>()?.min(SECONDS_MAX),
            "--stream" => flags.streams = true,
            _ => {
                return Err(
                    "flags: --connections N, --interval 6s|500ms|1us|0, --seconds N, --stream"
                        .into(),
                );
            }
        }
    }
    Ok(flags)
}

fn time(text: &str) -> Result<Duration, Failure> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = digits.parse()?;
    Ok(match &text[digits.len()..] {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        _ => Duration::from_secs(number),
    })
}
