//! What an engine is asked to be, and the limits it is built for.
//!
//! Purpose: every size and time of the engine in one place, with its unit in the name, checked before anything starts.
//! Invariants: a `Config` that passed [`Config::check`] can be built on any kernel that has the features; the
//! relations between constants are asserted at compile time.
//! Must not know: rings, sockets, protocols.

use std::time::Duration;

use crate::error::{SetupError, SetupErrorKind};

/// Bits of a slot index in a token; a direct-descriptor table has at most 2^20 entries (io_uring/rsrc.c).
pub const SLOT_INDEX_BITS: u32 = 24;
/// Largest direct-descriptor table the kernel registers: `IORING_MAX_FIXED_FILES`.
pub const RING_SLOTS_MAX: u32 = 1 << 20;
/// Entries at the end of each table kept free of connections, so that a full shard can still accept a newcomer for
/// as long as it takes to turn it away.
pub const SPARE_SLOTS: u32 = 32;
/// Fewest table entries a ring is worth making for.
pub const RING_SLOTS_MIN: u32 = SPARE_SLOTS * 2;
/// Submission entries of one ring (64 bytes each). Larger queues batch no better: a turn enters the kernel when the
/// queue is full, and at 53 rings every entry costs memory 53 times.
pub const SQ_ENTRIES: u32 = 256;
/// Completion entries of one ring (16 bytes each). What does not fit waits in the kernel's overflow list, in order.
pub const CQ_ENTRIES: u32 = 2048;
/// Receive buffers a ring begins with. More come into use when they run short, up to [`Config::buffer_count_max`].
pub const BUFFER_COUNT: u16 = 64;
/// Most receive buffers the kernel lets one ring have.
pub const BUFFER_COUNT_MAX: u16 = 32_768;
/// Most accepts one shard submits in one go.
pub const ACCEPT_BATCH_MAX: u32 = 1_024;
/// Timer granularity, microseconds: a timer is never early and at most one tick late while the shard keeps up.
pub const TICK_US: u64 = 1_000;
/// The longest an idle core thread sleeps before it looks at its orders, microseconds.
pub const COMMAND_INTERVAL_US: u64 = 50_000;
/// How often a core thread publishes its counters, microseconds.
pub const REPORT_INTERVAL_US: u64 = 200_000;

const _: () = assert!(RING_SLOTS_MAX <= 1 << SLOT_INDEX_BITS);
const _: () = assert!(RING_SLOTS_MIN > SPARE_SLOTS);
const _: () = assert!(SQ_ENTRIES.is_power_of_two() && CQ_ENTRIES.is_power_of_two());
const _: () = assert!(BUFFER_COUNT.is_power_of_two() && (BUFFER_COUNT as u32) < SQ_ENTRIES);
const _: () = assert!(ACCEPT_BATCH_MAX <= CQ_ENTRIES && CQ_ENTRIES >= SQ_ENTRIES);

/// What an [`Engine`](crate::Engine) is asked to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// Connections held at once, over all threads. More are refused and counted.
    pub capacity: u64,
    /// Core threads; each drives its own rings and is pinned to `cores[i % cores.len()]`.
    pub thread_count: usize,
    /// Cores to pin to, by number; empty leaves threads unpinned.
    pub cores: Vec<usize>,
    /// Direct descriptors in one ring's table, spare ones included: at most RLIMIT_NOFILE and [`RING_SLOTS_MAX`].
    pub ring_slots: u32,
    /// Size of one receive buffer, bytes. There are [`BUFFER_COUNT`] or more for a ring, none for a connection.
    pub buffer_bytes: u32,
    /// Most receive buffers of one ring, a power of two from [`BUFFER_COUNT`] to [`BUFFER_COUNT_MAX`]. Memory follows use.
    pub buffer_count_max: u16,
    /// Room for bytes to send that are not static, for one entry into the kernel, twice; bytes. Memory follows use.
    pub staging_bytes: usize,
    /// How long a connection that receives is kept ready to receive in the kernel (864 bytes there) before it is parked on a poll
    /// (256). Zero parks at once: right for connections that are nearly always idle.
    pub park_after: Duration,
    /// Hand over what arrives also while the peer does not take what was sent. A client that may be answered before it has sent
    /// everything wants this; a server is safer without: who does not read is not read.
    pub reads_while_blocked: bool,
    /// Most bytes kept for one connection whose peer does not read, or whose message is not complete. Static bytes are not kept, so
    /// they do not count.
    pub pending_bytes_max: usize,
    /// How long a busy thread lets work gather before it looks again, microseconds. 0 looks at once: lower latency, more
    /// wake-ups. A thread without work sleeps until an event in any case.
    pub batch_delay_us: u64,
    /// How long a connection attempt may take.
    pub connect_timeout: Duration,
    /// How long a connection closed by us may take to hear the peer's end before it is cut. When all are to end at once: how long
    /// after the last one that did.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            capacity: 1_000_000,
            thread_count: 1,
            cores: Vec::new(),
            ring_slots: 20_000,
            buffer_bytes: 2_048,
            buffer_count_max: BUFFER_COUNT,
            staging_bytes: 64 * 1024,
            park_after: Duration::ZERO,
            reads_while_blocked: false,
            pending_bytes_max: 16_384,
            batch_delay_us: 1_000,
            connect_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// Refuses what cannot be built, naming the cause and the remedy.
    ///
    /// # Errors
    /// [`SetupError`] for a zero or absurd size.
    pub fn check(&self) -> Result<(), SetupError> {
        if self.capacity == 0 {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                "a capacity of 0 connections holds nothing",
                "ask for at least 1",
            ));
        }
        if self.thread_count == 0 || self.thread_count > 1_024 {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!("{} core threads were asked for", self.thread_count),
                "ask for 1 to 1,024, best one for each core",
            ));
        }
        if self.ring_slots < RING_SLOTS_MIN {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!(
                    "a table of {} descriptors is too small to work with",
                    self.ring_slots
                ),
                format!("raise the descriptor limit to {RING_SLOTS_MIN} or more: ulimit -n 20000"),
            ));
        }
        if self.buffer_bytes == 0 || self.buffer_bytes > 1 << 20 {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!("a receive buffer of {} bytes", self.buffer_bytes),
                "ask for 1 to 1,048,576",
            ));
        }
        if !self.buffer_count_max.is_power_of_two()
            || !(BUFFER_COUNT..=BUFFER_COUNT_MAX).contains(&self.buffer_count_max)
        {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!("{} receive buffers for a ring", self.buffer_count_max),
                format!("ask for a power of two from {BUFFER_COUNT} to {BUFFER_COUNT_MAX}"),
            ));
        }
        if self.staging_bytes == 0 || self.staging_bytes > 1 << 28 {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!("{} bytes of room for what is sent", self.staging_bytes),
                "ask for 1 to 268,435,456",
            ));
        }
        Ok(())
    }

    /// Connections one ring holds.
    pub fn ring_capacity(&self) -> u32 {
        self.ring_slots.min(RING_SLOTS_MAX) - SPARE_SLOTS
    }

    /// Rings needed for the whole capacity when connections spread evenly over the threads.
    pub fn ring_count(&self) -> u64 {
        let thread_count = self.thread_count as u64;
        let share = self.capacity.div_ceil(thread_count);
        share.div_ceil(u64::from(self.ring_capacity())) * thread_count
    }
}
