//! Sizes, times and limits of an engine.
//!
//! Invariants: a [`Config`] exists only if it passed [`ConfigBuilder::build`], so everything else may rely on its bounds; the
//! relations between constants are asserted at compile time.
//! Must not depend on: rings, sockets, protocols.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};

use crate::error::{SetupError, SetupErrorKind};
use crate::share::Shares;

/// Bits of a slot index in a token; a direct-descriptor table has at most 2^20 entries (io_uring/rsrc.c).
pub(crate) const SLOT_INDEX_BITS: u32 = 24;
/// Largest direct-descriptor table the kernel registers, entries: `IORING_MAX_FIXED_FILES` in io_uring/rsrc.c.
pub const RING_SLOTS_MAX: u32 = 1 << 20;
/// Entries at the end of each table kept free of connections, so that a full shard can still accept a connection for as long as it
/// takes to refuse it.
pub const SPARE_SLOTS: u32 = 32;
/// Smallest direct-descriptor table of a ring, entries.
pub const RING_SLOTS_MIN: u32 = SPARE_SLOTS * 2;
/// Submission entries of one ring (64 bytes each). Larger queues batch no better: a turn enters the kernel when the
/// queue is full, and at 53 rings every entry costs memory 53 times.
pub const SQ_ENTRIES: u32 = 256;
/// Completion entries of one ring (16 bytes each). What does not fit waits in the kernel's overflow list, in order.
pub const CQ_ENTRIES: u32 = 2048;
/// Receive buffers a ring starts with. More come into use when they run short, up to [`ConfigBuilder::buffer_count_max`].
pub const BUFFER_COUNT: u16 = 64;
/// Most receive buffers of one ring: the kernel's limit for a buffer ring, 2^15 (io_uring/kbuf.c).
pub const BUFFER_COUNT_MAX: u16 = 32_768;
/// Most combinations of addresses in a plan: their numbers fit 31 bits of a slot.
pub(crate) const TUPLE_COUNT_MAX: u64 = 1 << 31;
/// Timer granularity, microseconds: a timer is never early, and at most one tick late while the shard keeps up.
pub const TICK_US: u64 = 1_000;
/// How often a core thread publishes its counters, microseconds.
pub(crate) const REPORT_INTERVAL_US: u64 = 200_000;
/// Most core threads.
const THREAD_COUNT_MAX: usize = 1_024;
/// Longest time a config accepts: added to any engine time it stays far from the end of a `u64` of microseconds.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

const _: () = assert!(RING_SLOTS_MAX <= 1 << SLOT_INDEX_BITS);
const _: () = assert!(RING_SLOTS_MIN > SPARE_SLOTS);
const _: () = assert!(SQ_ENTRIES.is_power_of_two() && CQ_ENTRIES.is_power_of_two());
const _: () = assert!(BUFFER_COUNT.is_power_of_two() && (BUFFER_COUNT as u32) < SQ_ENTRIES);
const _: () = assert!(CQ_ENTRIES >= SQ_ENTRIES);

/// What an [`Engine`](crate::Engine) is built like. Made by a [`ConfigBuilder`], checked, and immutable from then on.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) capacity: u64,
    pub(crate) thread_count: usize,
    pub(crate) cores: Vec<usize>,
    pub(crate) ring_slots: u32,
    pub(crate) buffer_bytes: u32,
    pub(crate) buffer_count_max: u16,
    pub(crate) staging_bytes: usize,
    pub(crate) park_after: Duration,
    pub(crate) reads_while_blocked: bool,
    pub(crate) peer_addresses: bool,
    pub(crate) sends_on_open: bool,
    pub(crate) pending_bytes_max: usize,
    pub(crate) shared_bytes_max: usize,
    pub(crate) commands_max: usize,
    pub(crate) forward_bytes_max: usize,
    pub(crate) pairs: bool,
    pub(crate) batch_delay_us: u64,
    pub(crate) connect_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) shares: Shares,
}

impl Config {
    /// A builder with the defaults.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// A builder with these values, to change some of them.
    pub fn to_builder(&self) -> ConfigBuilder {
        ConfigBuilder {
            config: self.clone(),
            ring_slots: Some(self.ring_slots),
        }
    }

    /// Most connections at once, over all threads.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// [`ConfigBuilder::drain_timeout`].
    pub fn drain_timeout(&self) -> Duration {
        self.drain_timeout
    }

    /// Core threads.
    pub fn thread_count(&self) -> usize {
        self.thread_count
    }

    /// Cores the threads are pinned to; empty if they are not.
    pub fn cores(&self) -> &[usize] {
        &self.cores
    }

    /// Direct descriptors in the table of one ring, [`SPARE_SLOTS`] included.
    pub fn ring_slots(&self) -> u32 {
        self.ring_slots
    }

    /// Slots that an accepted connection takes, with its partner.
    fn slots_per_connection(&self) -> u64 {
        1 + u64::from(self.pairs)
    }

    /// Connections one ring holds.
    pub fn ring_capacity(&self) -> u32 {
        self.ring_slots - SPARE_SLOTS
    }

    /// Rings needed for the whole capacity when connections spread evenly over the threads.
    pub fn ring_count(&self) -> u64 {
        let thread_count = self.thread_count as u64;
        let share = self.capacity.div_ceil(thread_count) * self.slots_per_connection();
        share.div_ceil(u64::from(self.ring_capacity())) * thread_count
    }
}

/// Builds a [`Config`]. Every method sets one value; [`ConfigBuilder::build`] checks them all.
///
/// ```
/// use std::time::Duration;
/// use holdfast_engine::Config;
///
/// let config = Config::builder()
///     .capacity(100_000)
///     .buffer_bytes(512)
///     .drain_timeout(Duration::from_secs(5))
///     .build()?;
/// assert_eq!(config.capacity(), 100_000);
/// assert!(Config::builder().capacity(0).build().is_err());
/// # Ok::<(), holdfast_engine::SetupError>(())
/// ```
#[derive(Debug, Clone)]
pub struct ConfigBuilder {
    config: Config,
    ring_slots: Option<u32>,
}

impl Default for ConfigBuilder {
    fn default() -> Self {
        ConfigBuilder {
            config: Config {
                capacity: 1_000_000,
                thread_count: 1,
                cores: Vec::new(),
                ring_slots: 0,
                buffer_bytes: 2_048,
                buffer_count_max: BUFFER_COUNT,
                staging_bytes: 64 * 1024,
                park_after: Duration::ZERO,
                reads_while_blocked: false,
                peer_addresses: false,
                sends_on_open: false,
                pending_bytes_max: 16_384,
                shared_bytes_max: 1 << 20,
                commands_max: 16_384,
                forward_bytes_max: 65_536,
                pairs: false,
                batch_delay_us: 1_000,
                connect_timeout: Duration::from_secs(30),
                drain_timeout: Duration::from_secs(10),
                shares: Shares::default(),
            },
            ring_slots: None,
        }
    }
}

impl ConfigBuilder {
    /// Most accepted connections at once, over all threads; more are refused and counted. From 1 (default: 1,000,000).
    #[must_use]
    pub fn capacity(mut self, connections: u64) -> Self {
        self.config.capacity = connections;
        self
    }

    /// Core threads, from 1 to 1,024 (default: 1). Best one for each core.
    #[must_use]
    pub fn thread_count(mut self, threads: usize) -> Self {
        self.config.thread_count = threads;
        self
    }

    /// Cores to pin threads to, by number: thread `i` runs on `cores[i % cores.len()]`. Empty pins nothing (default).
    /// [`allowed_cores`](crate::allowed_cores) lists those this process may use.
    #[must_use]
    pub fn cores(mut self, cores: Vec<usize>) -> Self {
        self.config.cores = cores;
        self
    }

    /// Direct descriptors in the table of one ring, [`SPARE_SLOTS`] included, from [`RING_SLOTS_MIN`]; more than
    /// [`RING_SLOTS_MAX`] means that. The kernel allows at most the soft descriptor limit (RLIMIT_NOFILE) when the ring is made.
    /// (Default: what one thread's share of the capacity needs, up to that limit.) A thread makes another ring when its
    /// rings are full, so the table bounds nothing.
    #[must_use]
    pub fn ring_slots(mut self, slots: u32) -> Self {
        self.ring_slots = Some(slots);
        self
    }

    /// Size of one receive buffer, bytes, from 1 to 1,048,576 (default: 2,048). A ring has [`BUFFER_COUNT`] or more, an idle
    /// connection none.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: u32) -> Self {
        self.config.buffer_bytes = bytes;
        self
    }

    /// Most receive buffers of one ring, a power of two from [`BUFFER_COUNT`] to [`BUFFER_COUNT_MAX`] (default: `BUFFER_COUNT`).
    /// Memory is taken as they come into use.
    #[must_use]
    pub fn buffer_count_max(mut self, count: u16) -> Self {
        self.config.buffer_count_max = count;
        self
    }

    /// Room for copied bytes to send between two entries into the kernel, bytes, from 1 to 268,435,456 (default: 65,536). A ring
    /// reserves it twice; memory is taken as it is used.
    #[must_use]
    pub fn staging_bytes(mut self, bytes: usize) -> Self {
        self.config.staging_bytes = bytes;
        self
    }

    /// How long a connection that received keeps a receive in the kernel (864 bytes of kernel memory) before it is parked on a poll
    /// (256 bytes). Zero parks at once (default): right for connections that are nearly always idle.
    #[must_use]
    pub fn park_after(mut self, time: Duration) -> Self {
        self.config.park_after = time;
        self
    }

    /// Whether [`Conn::peer_addr`](crate::Conn::peer_addr) knows the peers of accepted connections (default: no). Costs nothing
    /// for a connection once it is open, and for an accept the writing of the address.
    #[must_use]
    pub fn peer_addresses(mut self, are_known: bool) -> Self {
        self.config.peer_addresses = are_known;
        self
    }

    /// Whether received bytes are delivered while bytes to send wait for the peer (default: no). A client whose server may
    /// answer before it has read the whole request needs this; a server is safer without: a peer that does not read is not read.
    #[must_use]
    pub fn reads_while_blocked(mut self, reads: bool) -> Self {
        self.config.reads_while_blocked = reads;
        self
    }

    /// Whether a dialled connection sends as soon as it opens (default: no). The ACK that ends the handshake then travels with these
    /// bytes: one packet less for both sides. Where nothing is sent, the kernel sends that ACK up to 200 ms later, and until
    /// then the connection does not reach the server's program.
    #[must_use]
    pub fn sends_on_open(mut self, sends: bool) -> Self {
        self.config.sends_on_open = sends;
        self
    }

    /// Most bytes kept for one connection whose peer does not read, or whose message is not complete (default: 16,384). Static bytes
    /// and shared buffers are not copied, so they do not count, except 32 bytes for each that waits. One that needs more is closed with
    /// [`CloseReason::Stalled`](crate::CloseReason::Stalled) or [`CloseReason::BufferLimit`](crate::CloseReason::BufferLimit).
    #[must_use]
    pub fn pending_bytes_max(mut self, bytes: usize) -> Self {
        self.config.pending_bytes_max = bytes;
        self
    }

    /// Most bytes of shared buffers that queue up for one connection whose peer does not read (default: 1,048,576). They take no memory
    /// of the connection but the piece that names each (32 bytes, which count in `pending_bytes_max`), and they keep their buffers
    /// alive. A single buffer may be larger: only those behind it count. One that needs more is closed with
    /// [`CloseReason::Stalled`](crate::CloseReason::Stalled).
    #[must_use]
    pub fn shared_bytes_max(mut self, bytes: usize) -> Self {
        self.config.shared_bytes_max = bytes;
        self
    }

    /// Most commands that wait for one core thread, from 1 (default: 16,384): the sender of another one is told that the mailbox is
    /// [full](crate::SendError::Full). Memory is taken as they come.
    #[must_use]
    pub fn commands_max(mut self, commands: usize) -> Self {
        self.config.commands_max = commands;
        self
    }

    /// Bytes that may wait for one side of a linked pair while its socket still takes bytes, before reading of the other side pauses
    /// (default: 65,536). When the socket takes no more, reading pauses at once. What one delivery brings may come on top.
    #[must_use]
    pub fn forward_bytes_max(mut self, bytes: usize) -> Self {
        self.config.forward_bytes_max = bytes;
        self
    }

    /// Whether every accepted connection will dial a partner, as in a relay (default: no). Partners live in the same ring, so a ring
    /// then accepts a connection only if it has room for two, and [`Dial::linked_to`](crate::Dial::linked_to) always finds room.
    /// Otherwise a linked dial fails with [`OpenFailure::NoDescriptor`](crate::OpenFailure::NoDescriptor) when the ring is full.
    #[must_use]
    pub fn pairs(mut self, pairs: bool) -> Self {
        self.config.pairs = pairs;
        self
    }

    /// How long a busy thread lets work gather before it looks again, up to 1 s (default: 1 ms); zero looks at once. More is
    /// cheaper, less is prompter. An idle thread sleeps until an event in any case.
    #[must_use]
    pub fn batch_delay(mut self, time: Duration) -> Self {
        self.config.batch_delay_us = time.as_micros().try_into().unwrap_or(u64::MAX);
        self
    }

    /// How long one attempt to connect may take (default: 30 s).
    #[must_use]
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.config.connect_timeout = time;
        self
    }

    /// How long a connection closed by us may wait for the peer's FIN before it is aborted (default: 10 s). In a graceful shutdown:
    /// how long after the last connection that closed.
    #[must_use]
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.config.drain_timeout = time;
        self
    }

    /// How much of each kind of work a thread does in one turn.
    #[cfg(feature = "sim")]
    #[doc(hidden)]
    #[must_use]
    pub fn shares(mut self, shares: Shares) -> Self {
        self.config.shares = shares;
        self
    }

    /// The config.
    ///
    /// # Errors
    /// [`SetupErrorKind::InvalidInput`] for a value out of its range, [`SetupErrorKind::LimitExceeded`] when the descriptor
    /// limit is below [`RING_SLOTS_MIN`]. Nothing is asked of io_uring yet.
    pub fn build(self) -> Result<Config, SetupError> {
        let mut config = self.config;
        let within =
            |is_within: bool, what: std::fmt::Arguments<'_>, next_step: &str| match is_within {
                true => Ok(()),
                false => Err(invalid(what, next_step)),
            };
        within(
            config.capacity > 0,
            format_args!("a capacity of 0 connections"),
            "give at least 1",
        )?;
        within(
            (1..=THREAD_COUNT_MAX).contains(&config.thread_count),
            format_args!("{} core threads", config.thread_count),
            "give 1 to 1024, best one for each core",
        )?;
        within(
            (1..=1 << 20).contains(&config.buffer_bytes),
            format_args!("a receive buffer of {} bytes", config.buffer_bytes),
            "give 1 to 1048576 bytes",
        )?;
        within(
            config.buffer_count_max.is_power_of_two()
                && (BUFFER_COUNT..=BUFFER_COUNT_MAX).contains(&config.buffer_count_max),
            format_args!("{} receive buffers for a ring", config.buffer_count_max),
            "give a power of two from 64 to 32768",
        )?;
        within(
            (1..=1 << 28).contains(&config.staging_bytes),
            format_args!("{} bytes of room for bytes to send", config.staging_bytes),
            "give 1 to 268435456 bytes",
        )?;
        within(
            config.commands_max > 0,
            format_args!("a mailbox for 0 commands"),
            "give at least 1",
        )?;
        within(
            config.batch_delay_us <= 1_000_000,
            format_args!("a batch delay of {} microseconds", config.batch_delay_us),
            "give at most 1000000",
        )?;
        for (name, time) in [
            ("park_after", config.park_after),
            ("connect_timeout", config.connect_timeout),
            ("drain_timeout", config.drain_timeout),
        ] {
            within(
                time <= TIME_MAX,
                format_args!("{name} is {time:?}"),
                "give at most 365 days",
            )?;
        }
        config.ring_slots = match self.ring_slots {
            Some(slots) => slots.min(RING_SLOTS_MAX),
            None => default_ring_slots(&config),
        };
        if config.ring_slots < RING_SLOTS_MIN {
            return Err(SetupError::new(
                SetupErrorKind::LimitExceeded,
                format!(
                    "a table of {} descriptors is too small to work with",
                    config.ring_slots
                ),
                format!("raise the descriptor limit to {RING_SLOTS_MIN} or more: ulimit -n 20000"),
            ));
        }
        Ok(config)
    }
}

fn invalid(what: std::fmt::Arguments<'_>, next_step: &str) -> SetupError {
    SetupError::new(
        SetupErrorKind::InvalidInput,
        format!("{what} is out of range"),
        next_step,
    )
}

/// As many as a thread's share of the capacity needs and the descriptor limit allows.
fn default_ring_slots(config: &Config) -> u32 {
    let share = config.capacity.div_ceil(config.thread_count as u64);
    let share = share.saturating_mul(config.slots_per_connection());
    let needed = share.saturating_add(u64::from(SPARE_SLOTS) * 2);
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    needed.min(limit).min(u64::from(RING_SLOTS_MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builder_rejects_every_value_out_of_range() {
        let year = Duration::from_secs(366 * 24 * 3_600);
        let builders = [
            Config::builder().capacity(0),
            Config::builder().thread_count(0),
            Config::builder().thread_count(1_025),
            Config::builder().buffer_bytes(0),
            Config::builder().buffer_bytes((1 << 20) + 1),
            Config::builder().buffer_count_max(65),
            Config::builder().buffer_count_max(32),
            Config::builder().staging_bytes(0),
            Config::builder().commands_max(0),
            Config::builder().staging_bytes((1 << 28) + 1),
            Config::builder().batch_delay(Duration::from_micros(1_000_001)),
            Config::builder().batch_delay(Duration::MAX),
            Config::builder().park_after(year),
            Config::builder().connect_timeout(Duration::MAX),
            Config::builder().drain_timeout(year),
        ];
        for builder in builders {
            let error = builder.clone().build().expect_err("out of range");
            assert_eq!(error.kind(), SetupErrorKind::InvalidInput, "{builder:?}");
        }
        let error = Config::builder().ring_slots(RING_SLOTS_MIN - 1).build();
        assert_eq!(
            error.expect_err("too few").kind(),
            SetupErrorKind::LimitExceeded
        );
    }

    #[test]
    fn ring_slots_follow_capacity_and_limits() {
        let config = Config::builder()
            .capacity(10)
            .thread_count(2)
            .build()
            .expect("valid");
        assert_eq!(config.ring_slots(), 5 + 2 * SPARE_SLOTS);
        let config = Config::builder().capacity(u64::MAX).build().expect("valid");
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        assert_eq!(u64::from(config.ring_slots()), limit.min(1 << 20));
        let config = Config::builder()
            .ring_slots(u32::MAX)
            .build()
            .expect("valid");
        assert_eq!(config.ring_slots(), RING_SLOTS_MAX);
        let again = config.to_builder().capacity(5).build().expect("valid");
        assert_eq!((again.ring_slots(), again.capacity()), (RING_SLOTS_MAX, 5));
    }

    #[test]
    fn ring_count_covers_the_capacity() {
        let config = Config::builder()
            .capacity(1_000)
            .thread_count(3)
            .ring_slots(64)
            .build()
            .expect("valid");
        // 334 connections a thread, 32 a ring.
        assert_eq!(config.ring_count(), 33);
    }
}
