//! The state of one connection, and the table of them.
//!
//! ```text
//!              dial                   connected             close                 sent
//!   Free ──────────────► Connecting ─────────────► Open ───────────► Flushing ───────────► Draining
//!    ▲ │    accepted          │                    ▲ │    close after sending ► Finishing       │
//!    │ └────────────────────────────────────────────┘ │                              │          │
//!    │                        │ failed                │ end, error, abort            │ sent     │ peer's end, abort
//!    │                        ▼                       ▼                              ▼          ▼
//!    └───────────────── (released: close submitted, generation + 1) ◄─────────────────────── Closing
//! ```
//!
//! (`Finishing` passes through `Resetting` if the connection is to end with a reset.)
//!
//! Each direction has a state of its own, and a connection may have a *watch*: a poll that stays in
//! flight and tells of errors and of room to send, but not of bytes. Between turns only these
//! combinations exist; [`LEGAL`] is this table, the simulator audits it after every turn, and every
//! transition asserts the state it comes from:
//!
//! ```text
//! phase               read                                write                         watch timer
//! ------------------  ----------------------------------  ----------------------------  ----- -----
//! Free                Idle                                Idle                          no    off
//! Connecting          Idle                                Idle                          no    on
//! Open                Parked Receiving Hot Quiet Cooling  Idle, sends, shut             any   any
//! Open                Paused Ended                        sends                         any   any
//! Open                Paused Ended                        Idle, shut                    yes   any
//! Open                EndDelivered                        sends                         any   any
//! Open                EndDelivered                        Idle                          yes   any
//! Flushing Finishing  any but EndDelivered                sends                         any   any
//! Finishing           EndDelivered                        sends                         any   any
//! Open                Parked Receiving Hot Quiet Cooling  Failed                        any   any
//! Open                Paused                              Failed                        any   any
//! Draining            Parked Receiving Hot Quiet Cooling  shut                          any   on
//! Resetting           any                                 Idle, shut                    any   any
//! Closing             Idle                                Blocked ShuttingDown          any   off
//! Closing             Idle                                Idle Sending ShutDown         yes   off
//! Closing             Parked Receiving Cooling            Idle Sending Blocked, shut    any   off
//!
//! sends = Sending SendingMore Queued Blocked Watched Resending Requeued; Watched only with a watch
//! shut  = ShuttingDown ShutDown
//! ```
//!
//! Half-open are `Open` with `EndDelivered` (the peer's FIN came, and the handler goes on sending)
//! and `Open` with `shut` (our FIN is sent or being sent, and the handler goes on receiving). When
//! both directions have ended, the connection closes.
//!
//! In `Open` with read `Paused` or `Ended`, delivery waits: until what was sent is with the kernel,
//! or, with [`Slot::is_reading_paused`], until the handler resumes; then a watch tells of a reset;
//! or, with [`Slot::is_partner_awaited`], until the partner of a linked slot opens or takes bytes;
//! then there is a watch unless the partner is connecting.
//! With delivery `Paused`, and in `Flushing` and `Finishing`, something is being sent. A close in
//! stages is a graceful close whose delivery is `Discarded`. A slot that is `Closing` waits for
//! what is in flight: a poll, a receive, a shutdown.
//!
//! A linked slot whose peer reset it while bytes were sent to it is `Failed`: what the peer sent
//! before is still read and forwarded, then it closes. `Finishing` with [`Slot::is_reset_wanted`]
//! goes on to `Resetting`: everything is with the kernel, which is asked until the peer's kernel
//! has it too.
//!
//! Invariants: the slot index *is* the index in the ring's direct-descriptor table; state changes
//! by the named transitions only; a slot is free exactly when it is on the free list or was never
//! used; a release makes a new generation, so that what is still on its way for the old one is
//! recognised.
//! Must not depend on: rings, sockets, time.

use crate::config::{SLOT_INDEX_BITS, TUPLE_COUNT_MAX};
use crate::error::{CloseReason, OpenFailure};

/// No slot: the end of a list.
pub const NONE: u32 = u32::MAX;
/// [`Slot::tuple`] of a slot that was dialled without the plan.
pub const UNPLANNED: u32 = u32::MAX - 1;
/// [`Slot::tuple`] of an accepted slot whose partner is about to be dialled.
const AWAITS_DIAL: u32 = u32::MAX - 2;
/// Bit of [`Slot::tuple`]: the slot has a partner, whose index is in the low bits.
const LINKED: u32 = 1 << 31;
/// Bit beside [`LINKED`]: the slot was dialled.
const LINKED_DIALLED: u32 = 1 << 30;
/// [`Slot::prev`] of a slot that is not on the wheel.
pub const OFF_WHEEL: u32 = u32::MAX - 1;

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Phase {
    /// No connection.
    #[default]
    Free,
    /// Asked for, not open yet.
    Connecting,
    /// Open. Either direction may have ended.
    Open,
    /// Open both ways; a graceful close follows when everything has been sent.
    Flushing,
    /// Open both ways; closed at once when everything has been sent.
    Finishing,
    /// Our end is sent; the peer's is awaited and its bytes still count.
    Draining,
    /// Everything is with the kernel; a reset follows when the peer's kernel has acknowledged it.
    Resetting,
    /// Over; requests in flight are cancelled and awaited.
    Closing,
}

impl Phase {
    /// True while the handler may send: `Open`, `Flushing` or `Finishing`.
    #[inline]
    pub fn is_open(self) -> bool {
        matches!(self, Phase::Open | Phase::Flushing | Phase::Finishing)
    }
}

/// How bytes come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Read {
    /// Nothing waits. Only within a turn, and while a close waits for sends.
    #[default]
    Idle,
    /// A poll is in flight.
    Parked,
    /// A receive that does not wait is in flight, or waits for a buffer.
    Receiving,
    /// A receive waits in the kernel; bytes came since the last sweep.
    Hot,
    /// A receive waits in the kernel; no bytes came since the last sweep.
    Quiet,
    /// The receive that waits in the kernel is being cancelled.
    Cooling,
    /// Nothing waits until the handler may be given bytes again.
    Paused,
    /// The peer's FIN was received. The handler is not told yet, because bytes before it are still
    /// to be delivered, or is not told any more, because it has closed the connection.
    Ended,
    /// The handler was told of the peer's FIN, and goes on sending.
    EndDelivered,
}

/// How bytes go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Write {
    /// Nothing to send.
    #[default]
    Idle,
    /// A send is under way and may still fail or come short.
    Sending,
    /// A send is under way, and bytes wait behind it.
    SendingMore,
    /// Bytes wait for room in the staging region.
    Queued,
    /// Bytes wait for the peer: a poll for room to send is in flight. The handler was told.
    Blocked,
    /// As `Blocked`, but the watch tells when there is room.
    Watched,
    /// As `SendingMore`, after `Blocked`.
    Resending,
    /// As `Queued`, after `Blocked`.
    Requeued,
    /// The shutdown that sends our end is in flight.
    ShuttingDown,
    /// Our end is sent.
    ShutDown,
    /// A send failed, because the peer has reset the connection. What it sent before is still read.
    Failed,
}

/// What the handler has been given of what was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Delivery {
    /// All of it, and it used all.
    #[default]
    Direct,
    /// All of it; it left some, which is kept for when more comes.
    Partial,
    /// It wants nothing before what it sent is with the kernel. Whatever is kept is given again
    /// then.
    Paused,
    /// Some is kept back from it.
    Held,
    /// None any more: what comes is discarded, until the peer ends.
    Discarded,
}

impl Delivery {
    const ALL: [Delivery; 5] = [
        Delivery::Direct,
        Delivery::Partial,
        Delivery::Paused,
        Delivery::Held,
        Delivery::Discarded,
    ];

    /// The bits of [`Slot::detail`] it takes.
    const MASK: u8 = 7;
}

const WAITING: &[Read] = &[
    Read::Parked,
    Read::Receiving,
    Read::Hot,
    Read::Quiet,
    Read::Cooling,
];
const SENDS: &[Write] = &[
    Write::Sending,
    Write::SendingMore,
    Write::Queued,
    Write::Blocked,
    Write::Watched,
    Write::Resending,
    Write::Requeued,
];
const SHUT: &[Write] = &[Write::ShuttingDown, Write::ShutDown];

/// Whether a connection in these states has a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// It must not.
    No,
    /// It must.
    Yes,
    /// It may.
    Any,
}

/// Phases, reads and writes that may stand together, each with each, and the watch they need.
pub type LegalRow = (&'static [Phase], &'static [Read], &'static [Write], Watch);

/// Combinations of phase, read, write and watch that exist between turns: the table at the top of
/// this file.
pub const LEGAL: &[LegalRow] = &[
    (
        &[Phase::Free, Phase::Connecting],
        &[Read::Idle],
        &[Write::Idle],
        Watch::No,
    ),
    (&[Phase::Open], WAITING, &[Write::Idle], Watch::Any),
    (&[Phase::Open], WAITING, SENDS, Watch::Any),
    (&[Phase::Open], WAITING, SHUT, Watch::Any),
    (
        &[Phase::Open],
        &[Read::Paused, Read::Ended, Read::EndDelivered],
        SENDS,
        Watch::Any,
    ),
    (
        &[Phase::Open],
        &[Read::Paused, Read::Ended, Read::EndDelivered],
        &[Write::Idle],
        Watch::Yes,
    ),
    (
        &[Phase::Open],
        &[Read::Paused, Read::Ended],
        SHUT,
        Watch::Yes,
    ),
    (
        &[Phase::Flushing, Phase::Finishing],
        &[Read::Idle, Read::Paused, Read::Ended],
        SENDS,
        Watch::Any,
    ),
    (
        &[Phase::Flushing, Phase::Finishing],
        WAITING,
        SENDS,
        Watch::Any,
    ),
    (
        &[Phase::Finishing],
        &[Read::EndDelivered],
        SENDS,
        Watch::Any,
    ),
    (&[Phase::Open], WAITING, &[Write::Failed], Watch::Any),
    (
        &[Phase::Open],
        &[Read::Paused],
        &[Write::Failed],
        Watch::Any,
    ),
    (&[Phase::Draining], WAITING, SHUT, Watch::Any),
    (
        &[Phase::Resetting],
        WAITING,
        &[Write::Idle, Write::ShuttingDown, Write::ShutDown],
        Watch::Any,
    ),
    (
        &[Phase::Resetting],
        &[Read::Idle, Read::Paused, Read::Ended, Read::EndDelivered],
        &[Write::Idle, Write::ShuttingDown, Write::ShutDown],
        Watch::Any,
    ),
    (
        &[Phase::Closing],
        &[Read::Idle],
        &[Write::Blocked, Write::ShuttingDown],
        Watch::Any,
    ),
    (
        &[Phase::Closing],
        &[Read::Idle],
        &[Write::Idle, Write::Sending, Write::ShutDown],
        Watch::Yes,
    ),
    (
        &[Phase::Closing],
        &[Read::Parked, Read::Receiving, Read::Cooling],
        &[
            Write::Idle,
            Write::Sending,
            Write::Blocked,
            Write::ShuttingDown,
            Write::ShutDown,
        ],
        Watch::Any,
    ),
];

/// Bit of [`Slot::detail`]: something was sent on this connection.
const HAS_SENT: u8 = 1 << 3;
/// Bit of [`Slot::detail`]: the handler wants no bytes until it resumes reading.
const READING_PAUSED: u8 = 1 << 4;
/// Bit of [`Slot::detail`]: our end is to be sent when everything else is; in `Finishing`, a reset.
const SHUTDOWN_WANTED: u8 = 1 << 5;
/// Bit of [`Slot::detail`]: it is not read until its partner takes bytes.
const PARTNER_AWAITED: u8 = 1 << 6;
/// Bit of [`Slot::detail`], also while closing: a watch is in flight.
const WATCHED: u8 = 1 << 7;

const _: () = assert!(CloseReason::ALL.len() <= 16, "a reason lies below the bits");

/// One connection: 24 bytes of the engine and the handler's state.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Slot<S> {
    /// Which life of the slot this is.
    pub generation: u32,
    /// Next on the wheel, or on the free list.
    pub next: u32,
    /// Previous on the wheel, or [`OFF_WHEEL`].
    pub prev: u32,
    /// When its timer is due, in ticks.
    pub deadline: u32,
    /// Where it comes from, and what it is linked with: [`NONE`] or [`AWAITS_DIAL`] if it was
    /// accepted, the number of the plan's tuple if it was dialled with one, [`UNPLANNED`] if it was
    /// dialled without; with
    /// [`LINKED`] the index of its partner, and [`LINKED_DIALLED`] besides if it was dialled.
    pub tuple: u32,
    phase: Phase,
    read: Read,
    write: Write,
    /// Connecting: the first error of the attempt, or 0. Closing: the number of the reason, and
    /// [`WATCHED`]. Resetting: how often the kernel was asked, and [`WATCHED`]. Otherwise a [`Delivery`] and bits.
    detail: u8,
    /// The handler's part.
    pub state: S,
}

// A linked slot cannot be taken for one that is not.
const _: () = assert!(LINKED_DIALLED > 1 << SLOT_INDEX_BITS && TUPLE_COUNT_MAX <= LINKED as u64);
const _: () = assert!(LINKED | LINKED_DIALLED | (1 << SLOT_INDEX_BITS) < AWAITS_DIAL);
const _: () = assert!(size_of::<Slot<()>>() == 24);
const _: () = assert!(size_of::<Slot<[u32; 2]>>() == 32);

/// A transition from a state it cannot come from: a mistake of the engine.
#[cold]
#[track_caller]
fn illegal(transition: &str, from: &dyn std::fmt::Debug) -> ! {
    panic!("{transition} from {from:?}")
}

impl<S: Copy + Default> Slot<S> {
    fn empty() -> Self {
        Slot {
            generation: 0,
            next: NONE,
            prev: OFF_WHEEL,
            deadline: 0,
            tuple: NONE,
            phase: Phase::Free,
            read: Read::Idle,
            write: Write::Idle,
            detail: 0,
            state: S::default(),
        }
    }

    /// Where it is in its life.
    #[inline]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How bytes come in.
    #[inline]
    pub fn read(&self) -> Read {
        self.read
    }

    /// How bytes go out.
    #[inline]
    pub fn write(&self) -> Write {
        self.write
    }

    /// What the handler has been given. In `Open` to `Draining`.
    #[inline]
    pub fn delivery(&self) -> Delivery {
        debug_assert!(self.phase.is_open() || self.phase == Phase::Draining);
        Delivery::ALL[usize::from(self.detail & Delivery::MASK)]
    }

    /// Whether phase, read, write and watch may stand together between turns.
    pub fn is_legal(&self) -> bool {
        let is_watched = self.phase != Phase::Connecting && self.is_watched();
        let is_row = LEGAL.iter().any(|(phases, reads, writes, watch)| {
            phases.contains(&self.phase)
                && reads.contains(&self.read)
                && writes.contains(&self.write)
                && match watch {
                    Watch::No => !is_watched,
                    Watch::Yes => {
                        is_watched || self.phase == Phase::Open && self.is_partner_awaited()
                    }
                    Watch::Any => true,
                }
        });
        is_row && (self.write != Write::Watched || is_watched)
    }

    /// True if its timer is on the wheel.
    #[inline]
    pub fn is_timed(&self) -> bool {
        self.prev != OFF_WHEEL
    }

    /// True if it was taken from a listener.
    #[inline]
    pub fn is_accepted(&self) -> bool {
        let is_own = matches!(self.tuple, NONE | AWAITS_DIAL)
            || self.partner().is_some() && self.tuple & LINKED_DIALLED == 0;
        is_own && !matches!(self.phase, Phase::Free | Phase::Connecting)
    }

    /// The slot it is linked with.
    #[inline]
    pub fn partner(&self) -> Option<u32> {
        let is_linked = (LINKED..AWAITS_DIAL).contains(&self.tuple);
        is_linked.then_some(self.tuple & !(LINKED | LINKED_DIALLED))
    }

    /// True if it was dialled with a tuple of the plan.
    #[inline]
    pub fn has_tuple(&self) -> bool {
        self.tuple < LINKED
    }

    /// True if its receive waits in the kernel.
    #[inline]
    pub fn is_hot(&self) -> bool {
        matches!(self.read, Read::Hot | Read::Quiet | Read::Cooling)
    }

    /// True if a send is under way.
    #[inline]
    pub fn has_send(&self) -> bool {
        matches!(
            self.write,
            Write::Sending | Write::SendingMore | Write::Resending
        )
    }

    /// True if bytes wait that the kernel has not taken yet, behind a send or for room.
    #[inline]
    pub fn is_blocked(&self) -> bool {
        matches!(
            self.write,
            Write::SendingMore
                | Write::Queued
                | Write::Blocked
                | Write::Watched
                | Write::Resending
                | Write::Requeued
        )
    }

    /// True if something is to be sent, or being sent, before our end.
    #[inline]
    pub fn is_sending(&self) -> bool {
        self.write != Write::Idle && !self.is_shut()
    }

    /// True if our end is sent, or being sent, or nothing can be sent any more.
    #[inline]
    pub fn is_shut(&self) -> bool {
        matches!(
            self.write,
            Write::ShuttingDown | Write::ShutDown | Write::Failed
        )
    }

    /// True if its peer has reset it, which a send has told.
    #[inline]
    pub fn is_failed(&self) -> bool {
        self.write == Write::Failed
    }

    /// True if it is to be reset when everything is sent. In `Finishing`.
    pub fn is_reset_wanted(&self) -> bool {
        self.phase == Phase::Finishing && self.detail & SHUTDOWN_WANTED != 0
    }

    /// True if a request is in flight that must end before the descriptor is closed.
    #[inline]
    pub fn is_in_flight(&self) -> bool {
        !matches!(
            self.read,
            Read::Idle | Read::Paused | Read::Ended | Read::EndDelivered
        ) || matches!(self.write, Write::Blocked | Write::ShuttingDown)
            || self.is_watched()
    }

    /// True if something is to be done when its send is settled, beyond counting it as sent.
    #[inline]
    pub fn awaits_sent(&self) -> bool {
        self.write != Write::Sending
            || self.phase != Phase::Open
            || self.detail & (Delivery::MASK | SHUTDOWN_WANTED) != Delivery::Direct as u8
    }

    /// True if a watch is in flight. Not in `Connecting`.
    #[inline]
    pub fn is_watched(&self) -> bool {
        debug_assert_ne!(self.phase, Phase::Connecting);
        self.detail & WATCHED != 0
    }

    /// True if the handler wants no bytes until it resumes reading. In `Open` to `Draining`.
    #[inline]
    pub fn is_reading_paused(&self) -> bool {
        debug_assert!(self.phase.is_open() || self.phase == Phase::Draining);
        self.detail & READING_PAUSED != 0
    }

    /// True if it is not read until its partner takes bytes, or opens. In `Open` to `Draining`.
    #[inline]
    pub fn is_partner_awaited(&self) -> bool {
        debug_assert!(self.phase.is_open() || self.phase == Phase::Draining);
        self.detail & PARTNER_AWAITED != 0
    }

    /// True if its partner's bytes may be sent on it.
    pub fn takes_forwarded(&self) -> bool {
        self.phase == Phase::Open && !self.is_shut() && !self.is_shutdown_wanted()
    }

    /// True if our end is to be sent when everything else is. In `Open` to `Draining`.
    #[inline]
    pub fn is_shutdown_wanted(&self) -> bool {
        debug_assert!(self.phase.is_open() || self.phase == Phase::Draining);
        self.detail & SHUTDOWN_WANTED != 0
    }

    /// True if only a watch tells that the connection was reset: nothing else is in flight, and
    /// nothing is to be sent before it ends.
    pub fn needs_watch(&self) -> bool {
        if self.phase != Phase::Open || self.is_failed() {
            return self.write == Write::Watched;
        }
        let waits = match self.read {
            Read::Paused | Read::Ended => self.is_reading_paused(),
            Read::EndDelivered => !self.is_shutdown_wanted(),
            _ => false,
        };
        waits || self.write == Write::Watched
    }

    /// True if something was sent on this connection.
    pub fn has_sent(&self) -> bool {
        debug_assert!(self.phase.is_open());
        self.detail & HAS_SENT != 0
    }

    /// The first error of a dial, if one was met.
    pub fn dial_failure(&self) -> Option<OpenFailure> {
        debug_assert_eq!(self.phase, Phase::Connecting);
        (self.detail != 0).then(|| OpenFailure::from_errno(i32::from(self.detail)))
    }

    /// Why it is closing.
    pub fn close_reason(&self) -> CloseReason {
        assert_eq!(self.phase, Phase::Closing);
        CloseReason::ALL[usize::from(self.detail & !WATCHED)]
    }

    // Its life.

    /// Free to Connecting.
    pub fn start_connecting(&mut self, state: S, tuple: u32) {
        assert_eq!(self.phase, Phase::Free);
        self.phase = Phase::Connecting;
        self.detail = 0;
        self.tuple = tuple;
        self.state = state;
    }

    /// No socket could be made for the attempt.
    pub fn socket_failed(&mut self, errno: i32) {
        assert_eq!(self.phase, Phase::Connecting);
        self.detail = errno as u8;
    }

    /// The attempt is being cancelled; an earlier error stays the reason.
    pub fn connect_cancelled(&mut self, errno: i32) {
        assert_eq!(self.phase, Phase::Connecting);
        if self.detail == 0 {
            self.detail = errno as u8;
        }
    }

    /// Connecting to Open.
    pub fn connected(&mut self) {
        assert_eq!(self.phase, Phase::Connecting);
        self.phase = Phase::Open;
        self.detail = Delivery::Direct as u8;
    }

    /// It is taken for an accept from this listener of the thread. The number lies where an open
    /// connection has its tuple or partner.
    pub fn accept_from(&mut self, listener: u32) {
        assert_eq!(self.phase, Phase::Free);
        self.tuple = listener;
    }

    /// Free to Open.
    pub fn accepted(&mut self) -> u32 {
        assert_eq!(self.phase, Phase::Free);
        self.phase = Phase::Open;
        self.detail = Delivery::Direct as u8;
        self.state = S::default();
        std::mem::replace(&mut self.tuple, NONE)
    }

    /// Open to Flushing. One that is Finishing already goes on so, unless it is to be closed in
    /// stages.
    pub fn start_flushing(&mut self) {
        self.phase = match self.phase {
            Phase::Open | Phase::Flushing => Phase::Flushing,
            Phase::Finishing if self.is_reset_wanted() => Phase::Finishing,
            Phase::Finishing if self.delivery() == Delivery::Discarded => Phase::Flushing,
            Phase::Finishing => Phase::Finishing,
            from => illegal("start_flushing", &from),
        };
    }

    /// Open or Flushing to Finishing.
    pub fn start_finishing(&mut self) {
        assert!(self.phase.is_open());
        self.phase = Phase::Finishing;
        self.detail &= !SHUTDOWN_WANTED;
    }

    /// Likewise, to be reset then.
    pub fn start_finishing_with_reset(&mut self) {
        self.start_finishing();
        self.detail |= SHUTDOWN_WANTED;
    }

    /// Any open phase to Resetting: everything is with the kernel.
    pub fn start_resetting(&mut self) {
        assert!(self.phase.is_open());
        assert!(
            !self.is_sending(),
            "start_resetting while it is {:?}",
            self.write
        );
        self.phase = Phase::Resetting;
        self.detail &= WATCHED;
    }

    /// How often the kernel was asked what the peer has not acknowledged. In `Resetting`.
    pub fn asked_count(&self) -> u8 {
        assert_eq!(self.phase, Phase::Resetting);
        self.detail & !WATCHED
    }

    /// The kernel was asked once more.
    pub fn asked_again(&mut self) {
        assert!(self.asked_count() < !WATCHED);
        self.detail += 1;
    }

    /// Open or Flushing to Draining. True if the shutdown that sends our end must be pushed;
    /// otherwise it was.
    pub fn start_draining(&mut self) -> bool {
        let is_new = match (self.phase, self.write) {
            (Phase::Open | Phase::Flushing, Write::Idle) => true,
            (Phase::Open, Write::ShuttingDown | Write::ShutDown) => false,
            from => illegal("start_draining", &from),
        };
        self.phase = Phase::Draining;
        if is_new {
            self.write = Write::ShuttingDown;
        }
        is_new
    }

    /// Any open phase, Draining or Resetting to Closing; what waits in the kernel is being cancelled from now
    /// on. Its timer must be off.
    pub fn start_closing(&mut self, reason: CloseReason) {
        assert!(self.phase.is_open() || matches!(self.phase, Phase::Draining | Phase::Resetting));
        self.phase = Phase::Closing;
        self.detail = self.detail & WATCHED | reason as u8;
        self.read = match self.read {
            Read::Hot | Read::Quiet => Read::Cooling,
            Read::Paused | Read::Ended | Read::EndDelivered => Read::Idle,
            read => read,
        };
        self.write = match self.write {
            Write::SendingMore | Write::Resending => Write::Sending,
            Write::Queued | Write::Requeued | Write::Watched | Write::Failed => Write::Idle,
            write => write,
        };
    }

    /// Its partner is about to be dialled.
    pub fn dial_queued(&mut self) {
        assert_eq!(self.phase, Phase::Open);
        if self.tuple == NONE {
            self.tuple = AWAITS_DIAL;
        }
    }

    /// True if its partner is about to be dialled.
    pub fn awaits_dial(&self) -> bool {
        self.tuple == AWAITS_DIAL
    }

    /// Its partner is not dialled after all.
    pub fn dial_dropped(&mut self) {
        if self.tuple == AWAITS_DIAL {
            self.tuple = NONE;
        }
    }

    /// Gains a partner. It has no tuple of the plan.
    pub fn linked(&mut self, partner: u32) {
        let dialled = match self.tuple {
            NONE | AWAITS_DIAL => 0,
            UNPLANNED => LINKED_DIALLED,
            from => illegal("linked", &from),
        };
        self.tuple = LINKED | dialled | partner;
    }

    /// Loses its partner.
    pub fn unlinked(&mut self) {
        self.tuple = match self.partner() {
            Some(_) if self.tuple & LINKED_DIALLED == 0 => NONE,
            Some(_) => UNPLANNED,
            None => illegal("unlinked", &self.tuple),
        };
    }

    // Reading.

    /// A poll was pushed.
    #[inline]
    pub fn read_parked(&mut self) {
        self.read = match self.read {
            Read::Idle => Read::Parked,
            from => illegal("read_parked", &from),
        };
    }

    /// A receive that does not wait is queued.
    #[inline]
    pub fn read_queued(&mut self) {
        self.read = match self.read {
            Read::Idle => Read::Receiving,
            from => illegal("read_queued", &from),
        };
    }

    /// A receive that waits was pushed.
    #[inline]
    pub fn read_hot(&mut self) {
        self.read = match self.read {
            Read::Idle => Read::Hot,
            from => illegal("read_hot", &from),
        };
    }

    /// Bytes came.
    #[inline]
    pub fn read_active(&mut self) {
        if self.read == Read::Quiet {
            self.read = Read::Hot;
        }
    }

    /// A sweep has seen it.
    #[inline]
    pub fn read_quiet(&mut self) {
        self.read = match self.read {
            Read::Hot => Read::Quiet,
            from => illegal("read_quiet", &from),
        };
    }

    /// The receive that waits is being cancelled.
    pub fn read_cancelled(&mut self) {
        self.read = match self.read {
            Read::Hot | Read::Quiet => Read::Cooling,
            from => illegal("read_cancelled", &from),
        };
    }

    /// The poll or the receive is over. Returns what it was.
    #[inline]
    pub fn read_completed(&mut self) -> Read {
        let was = self.read;
        if matches!(
            was,
            Read::Idle | Read::Paused | Read::Ended | Read::EndDelivered
        ) {
            illegal("read_completed", &was);
        }
        self.read = Read::Idle;
        was
    }

    /// Nothing is to wait until the handler may be given bytes again.
    pub fn read_paused(&mut self) {
        self.read = match self.read {
            Read::Idle => Read::Paused,
            from => illegal("read_paused", &from),
        };
    }

    /// The handler may be given bytes again. True if reading was paused: then it must be armed.
    pub fn read_resumed(&mut self) -> bool {
        let was_paused = self.read == Read::Paused;
        if was_paused {
            self.read = Read::Idle;
        }
        was_paused
    }

    /// The peer has sent its end.
    pub fn read_ended(&mut self) {
        assert!(self.phase.is_open());
        self.read = match self.read {
            Read::Idle => Read::Ended,
            from => illegal("read_ended", &from),
        };
    }

    /// The handler is told that the peer has ended. It was given everything; what it left is
    /// dropped.
    pub fn end_delivered(&mut self) {
        self.read = match (self.phase, self.read) {
            (Phase::Open, Read::Ended) => Read::EndDelivered,
            from => illegal("end_delivered", &from),
        };
        assert!(!matches!(
            self.delivery(),
            Delivery::Held | Delivery::Paused | Delivery::Discarded
        ));
        self.set_delivery(Delivery::Direct);
    }

    /// The handler wants no bytes until it resumes.
    pub fn reading_paused(&mut self) {
        assert_eq!(self.phase, Phase::Open);
        self.detail |= READING_PAUSED;
    }

    /// The handler wants bytes again, those it left too. True if it had paused.
    pub fn reading_resumed(&mut self) -> bool {
        let was_paused = self.is_reading_paused();
        self.detail &= !READING_PAUSED;
        if was_paused && self.delivery() == Delivery::Partial {
            self.set_delivery(Delivery::Held);
        }
        was_paused
    }

    /// It is not read until its partner takes bytes.
    pub fn partner_awaited(&mut self) {
        assert_eq!(self.phase, Phase::Open);
        self.detail |= PARTNER_AWAITED;
    }

    /// Its partner takes bytes, or there is no reason to wait any more. What the handler left may be
    /// given to it again. True if it waited.
    pub fn partner_came(&mut self) -> bool {
        let was_awaited = self.is_partner_awaited();
        self.detail &= !PARTNER_AWAITED;
        if was_awaited && self.delivery() == Delivery::Partial {
            self.set_delivery(Delivery::Held);
        }
        was_awaited
    }

    // The watch.

    /// A watch was pushed.
    pub fn watch_started(&mut self) {
        assert!(self.phase.is_open() && !self.is_watched());
        self.detail |= WATCHED;
    }

    /// The watch is over.
    pub fn watch_completed(&mut self) {
        assert!(self.is_watched());
        self.detail &= !WATCHED;
    }

    // Delivery to the handler.

    fn set_delivery(&mut self, delivery: Delivery) {
        debug_assert!(self.phase.is_open() || self.phase == Phase::Draining);
        self.detail = self.detail & !Delivery::MASK | delivery as u8;
    }

    /// The handler is given all there is.
    #[inline]
    pub fn delivered(&mut self) {
        assert_ne!(self.delivery(), Delivery::Paused);
        self.set_delivery(Delivery::Direct);
    }

    /// The handler was given all there is, and left some.
    pub fn delivered_in_part(&mut self) {
        assert_eq!(self.delivery(), Delivery::Direct);
        self.set_delivery(Delivery::Partial);
    }

    /// Bytes came that the handler may not be given now.
    pub fn delivery_held(&mut self) {
        assert_ne!(self.delivery(), Delivery::Discarded);
        if self.delivery() != Delivery::Paused {
            self.set_delivery(Delivery::Held);
        }
    }

    /// The handler wants nothing before what it sent is with the kernel; something is being sent.
    /// What is discarded stays so.
    pub fn delivery_paused(&mut self) {
        assert!(self.is_sending());
        if self.delivery() != Delivery::Discarded {
            self.set_delivery(Delivery::Paused);
        }
    }

    /// What the handler sent is with the kernel: if it paused for that, it is given what is kept,
    /// if anything.
    pub fn delivery_resumed(&mut self, is_kept: bool) {
        if self.delivery() == Delivery::Paused {
            self.set_delivery(match is_kept {
                true => Delivery::Held,
                false => Delivery::Direct,
            });
        }
    }

    /// What comes from now on is discarded; what is kept must be too.
    pub fn delivery_discarded(&mut self) {
        self.set_delivery(Delivery::Discarded);
    }

    // Writing.

    /// A send was pushed.
    #[inline]
    pub fn send_submitted(&mut self) {
        self.write = match self.write {
            Write::Idle => Write::Sending,
            Write::Queued => Write::SendingMore,
            Write::Requeued => Write::Resending,
            from => illegal("send_submitted", &from),
        };
        self.detail |= HAS_SENT;
    }

    /// More bytes are to be sent than the ones under way, if any.
    pub fn send_queued(&mut self) {
        self.write = match self.write {
            Write::Idle => Write::Queued,
            Write::Sending => Write::SendingMore,
            Write::ShuttingDown | Write::ShutDown | Write::Failed => {
                illegal("send_queued", &self.write)
            }
            same => same,
        };
    }

    /// The send went out whole.
    #[inline]
    pub fn send_settled(&mut self) {
        self.write = match self.write {
            Write::Sending => Write::Idle,
            Write::SendingMore => Write::Queued,
            Write::Resending => Write::Requeued,
            from => illegal("send_settled", &from),
        };
    }

    /// The send came short: what is left is kept. True if the handler knows that it is blocked.
    pub fn send_short(&mut self) -> bool {
        let was_blocked = self.write == Write::Resending;
        self.write = match self.write {
            Write::Sending | Write::SendingMore | Write::Resending => Write::Requeued,
            from => illegal("send_short", &from),
        };
        was_blocked
    }

    /// The send failed; nothing more is sent, but bytes are still read.
    pub fn send_failed(&mut self) {
        self.write = match (self.phase, self.write) {
            (Phase::Open, Write::Sending | Write::SendingMore | Write::Resending) => Write::Failed,
            from => illegal("send_failed", &from),
        };
        self.detail &= !SHUTDOWN_WANTED;
    }

    /// The bytes left of a send wait for room. True if a poll for it must be pushed; otherwise the
    /// watch tells.
    pub fn send_blocked(&mut self) -> bool {
        let is_watched = self.is_watched();
        self.write = match self.write {
            Write::Requeued if is_watched => Write::Watched,
            Write::Requeued => Write::Blocked,
            from => illegal("send_blocked", &from),
        };
        !is_watched
    }

    /// The poll for room to send, or the watch, said that there is some.
    pub fn send_unblocked(&mut self) {
        self.write = match self.write {
            Write::Blocked if self.phase == Phase::Closing => Write::Idle,
            Write::Blocked | Write::Watched => Write::Requeued,
            from => illegal("send_unblocked", &from),
        };
    }

    /// The poll for room to send ended because the peer did: from now on the watch tells.
    pub fn send_watched(&mut self) {
        self.write = match self.write {
            Write::Blocked => Write::Watched,
            from => illegal("send_watched", &from),
        };
    }

    /// Nothing is kept any more. True if it was blocked.
    pub fn all_sent(&mut self) -> bool {
        let was_blocked = self.write == Write::Requeued;
        self.write = match self.write {
            Write::Idle | Write::Queued | Write::Requeued => Write::Idle,
            from => illegal("all_sent", &from),
        };
        was_blocked
    }

    /// Our end is to be sent when everything else is.
    pub fn shutdown_wanted(&mut self) {
        assert_eq!(self.phase, Phase::Open);
        self.detail |= SHUTDOWN_WANTED;
    }

    /// The shutdown that sends our end was pushed; the connection stays open.
    pub fn shutdown_started(&mut self) {
        self.write = match (self.phase, self.write) {
            (Phase::Open, Write::Idle) => Write::ShuttingDown,
            from => illegal("shutdown_started", &from),
        };
    }

    /// The shutdown is over.
    pub fn shutdown_completed(&mut self) {
        self.write = match self.write {
            Write::ShuttingDown => Write::ShutDown,
            from => illegal("shutdown_completed", &from),
        };
    }
}

/// The slots of one shard. Slots are touched in index order first, so memory follows what is really
/// held.
#[derive(Debug)]
pub struct Slots<S> {
    slots: Vec<Slot<S>>,
    capacity: u32,
    free: u32,
    used_count: u32,
}

impl<S: Copy + Default> Slots<S> {
    /// A table for `capacity` connections; memory is taken now and touched as it is used.
    pub fn new(capacity: u32) -> Self {
        Slots {
            slots: Vec::with_capacity(capacity as usize),
            capacity,
            free: NONE,
            used_count: 0,
        }
    }

    /// Slots not free.
    pub fn used_count(&self) -> u32 {
        self.used_count
    }

    /// Slots free.
    pub fn room(&self) -> u32 {
        self.capacity - self.used_count
    }

    /// Slots that were ever used; higher indices are free.
    pub fn touched_count(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Takes a free slot off the list; its phase stays Free until a transition. `None` when full.
    pub fn take(&mut self) -> Option<u32> {
        let index = if self.free != NONE {
            let index = self.free;
            self.free = self[index].next;
            self[index].next = NONE;
            index
        } else if (self.slots.len() as u32) < self.capacity {
            self.slots.push(Slot::empty());
            self.slots.len() as u32 - 1
        } else {
            return None;
        };
        self.used_count += 1;
        Some(index)
    }

    /// Frees a slot and begins its next generation. It must be off the wheel.
    pub fn release(&mut self, index: u32) {
        let free = self.free;
        let slot = &mut self[index];
        assert!(!slot.is_timed());
        slot.phase = Phase::Free;
        slot.read = Read::Idle;
        slot.write = Write::Idle;
        slot.detail = 0;
        slot.tuple = NONE;
        slot.generation = slot.generation.wrapping_add(1);
        slot.next = free;
        self.free = index;
        self.used_count -= 1;
    }

    /// The slot at `index`, if it was ever used.
    pub fn at(&self, index: u32) -> Option<&Slot<S>> {
        self.slots.get(index as usize)
    }
}

impl<S> std::ops::Index<u32> for Slots<S> {
    type Output = Slot<S>;
    #[inline]
    fn index(&self, index: u32) -> &Slot<S> {
        &self.slots[index as usize]
    }
}

impl<S> std::ops::IndexMut<u32> for Slots<S> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut Slot<S> {
        &mut self.slots[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_in_order_then_last_released_first_then_none() {
        let mut slots = Slots::<u64>::new(3);
        assert_eq!(
            (slots.take(), slots.take(), slots.take(), slots.take()),
            (Some(0), Some(1), Some(2), None)
        );
        slots.release(1);
        slots.release(0);
        assert_eq!(
            (slots.room(), slots.take(), slots.take(), slots.take()),
            (2, Some(0), Some(1), None)
        );
    }

    #[test]
    fn release_starts_a_new_generation() {
        let mut slots = Slots::<u64>::new(1);
        let index = slots.take().unwrap();
        slots[index].accepted();
        let before = slots[index].generation;
        slots.release(index);
        assert_eq!(slots[index].generation, before + 1);
        assert_eq!(slots[index].phase(), Phase::Free);
    }

    #[test]
    #[should_panic(expected = "Free")]
    fn free_slot_cannot_drain() {
        let mut slots = Slots::<u64>::new(1);
        let index = slots.take().unwrap();
        slots[index].start_draining();
    }

    /// Does `transition` to an open slot brought to `write`, and returns the write state after it;
    /// `None` if it is refused.
    fn after(write: Write, transition: fn(&mut Slot<u64>)) -> Option<Write> {
        let mut slots = Slots::<u64>::new(1);
        let index = slots.take().unwrap();
        slots[index].accepted();
        slots[index].write = write;
        let mut slot = slots[index];
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| transition(&mut slot)));
        done.ok().map(|()| slot.write)
    }

    #[test]
    fn sends_move_through_their_states_and_no_other_way() {
        use Write::*;
        type Step = fn(&mut Slot<u64>);
        let table: [(Step, &[(Write, Write)]); 12] = [
            (
                |s| s.send_submitted(),
                &[
                    (Idle, Sending),
                    (Queued, SendingMore),
                    (Requeued, Resending),
                ],
            ),
            (
                |s| s.send_queued(),
                &[
                    (Idle, Queued),
                    (Sending, SendingMore),
                    (SendingMore, SendingMore),
                    (Queued, Queued),
                    (Blocked, Blocked),
                    (Watched, Watched),
                    (Resending, Resending),
                    (Requeued, Requeued),
                ],
            ),
            (
                |s| s.send_settled(),
                &[
                    (Sending, Idle),
                    (SendingMore, Queued),
                    (Resending, Requeued),
                ],
            ),
            (
                |s| {
                    s.send_short();
                },
                &[
                    (Sending, Requeued),
                    (SendingMore, Requeued),
                    (Resending, Requeued),
                ],
            ),
            (
                |s| s.send_failed(),
                &[
                    (Sending, Failed),
                    (SendingMore, Failed),
                    (Resending, Failed),
                ],
            ),
            (
                |s| {
                    s.send_blocked();
                },
                &[(Requeued, Blocked)],
            ),
            (
                |s| {
                    s.watch_started();
                    s.send_blocked();
                },
                &[(Requeued, Watched)],
            ),
            (
                |s| s.send_unblocked(),
                &[(Blocked, Requeued), (Watched, Requeued)],
            ),
            (|s| s.send_watched(), &[(Blocked, Watched)]),
            (|s| s.shutdown_started(), &[(Idle, ShuttingDown)]),
            (|s| s.shutdown_completed(), &[(ShuttingDown, ShutDown)]),
            (
                |s| {
                    s.all_sent();
                },
                &[(Idle, Idle), (Queued, Idle), (Requeued, Idle)],
            ),
        ];
        let all = [
            Idle,
            Sending,
            SendingMore,
            Queued,
            Blocked,
            Watched,
            Resending,
            Requeued,
            ShuttingDown,
            ShutDown,
            Failed,
        ];
        for (step, moves) in table {
            for from in all {
                let to = moves.iter().find(|(f, _)| *f == from).map(|(_, to)| *to);
                assert_eq!(after(from, step), to, "from {from:?}");
            }
        }
    }

    #[test]
    fn half_open_slots_are_legal_only_with_a_watch() {
        let mut slots = Slots::<u64>::new(1);
        let index = slots.take().unwrap();
        let slot = &mut slots[index];
        slot.accepted();
        slot.read_ended();
        assert!(!slot.is_legal(), "somebody must be told of the end");
        slot.end_delivered();
        assert!(slot.needs_watch() && !slot.is_legal());
        slot.watch_started();
        assert!(slot.is_legal());
        slot.start_closing(CloseReason::BufferLimit);
        assert!(slot.is_in_flight() && slot.is_legal());
        assert_eq!(slot.close_reason(), CloseReason::BufferLimit);
        slot.watch_completed();
        assert!(!slot.is_in_flight() && !slot.is_legal());
    }

    #[test]
    fn slot_that_sent_its_end_is_read_until_the_peers() {
        let mut slots = Slots::<u64>::new(1);
        let index = slots.take().unwrap();
        let slot = &mut slots[index];
        slot.accepted();
        slot.read_parked();
        slot.shutdown_started();
        slot.shutdown_completed();
        assert!(slot.is_legal() && slot.is_shut());
        slot.read_completed();
        slot.read_ended();
        slot.end_delivered();
        assert!(!slot.is_legal(), "both ended: it must be closed");
    }

    #[test]
    fn fresh_and_released_slots_are_legal() {
        let mut slots = Slots::<u64>::new(1);
        let index = slots.take().unwrap();
        assert!(slots[index].is_legal());
        slots[index].start_connecting(1, 7);
        assert!(slots[index].is_legal());
        slots[index].connected();
        assert!(!slots[index].is_legal(), "an open connection is read");
        slots[index].read_hot();
        assert!(slots[index].is_legal());
        slots[index].start_closing(CloseReason::Aborted);
        assert!(slots[index].is_legal());
        assert_eq!(slots[index].close_reason(), CloseReason::Aborted);
        slots[index].read_completed();
        slots.release(index);
        assert!(slots[index].is_legal());
    }
}
