//! What may go wrong, how often in this run, and how often it did.
//!
//! How likely each fault is, is drawn from the seed (swarm testing): most runs have few kinds, some none, some all at once, so that each
//! kind is met alone, and beside any other.
//! Must not depend on: how a fault shows.

use super::random::Random;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident $label:literal $parts_max:literal,)*) => {
        /// A kind of trouble. Some are struck by chance, others come about by themselves and are only counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Fault { $($(#[$doc])* $name,)* }

        impl Fault {
            /// Every kind, in the order of their numbers.
            pub const ALL: &'static [Fault] = &[$(Fault::$name,)*];
            /// Its name.
            pub fn label(self) -> &'static str {
                match self { $(Fault::$name => $label,)* }
            }
            /// Most often it strikes, in 65,536 chances; 0: it comes about by itself.
            fn parts_max(self) -> u32 {
                match self { $(Fault::$name => $parts_max,)* }
            }
        }
    };
}

faults! {
    /// A receive gives less than there is.
    RecvShort "recv_short" 40_000,
    /// A receive is interrupted.
    RecvInterrupted "recv_interrupted" 2_000,
    /// The end comes with an empty buffer, as older kernels give it.
    EndWithBuffer "end_with_buffer" 65_536,
    /// A receive found no buffer.
    NoBuffer "no_buffer" 0,
    /// A stream of receives ended for no reason.
    StreamEnded "stream_ended" 8_000,
    /// A stream ended because the completion queue was full.
    StreamEndedFull "stream_ended_full" 0,
    /// A send takes less than there is room for.
    SendShort "send_short" 20_000,
    /// A send takes nothing.
    SendNothing "send_nothing" 12_000,
    /// The kernel has no memory for a send.
    SendFailed "send_failed" 150,
    /// A send met a full socket.
    SendFull "send_full" 0,
    /// A poll says ready, and nothing is.
    PollSpurious "poll_spurious" 2_000,
    /// A poll cannot be set up.
    PollFailed "poll_failed" 150,
    /// An accept fails, and the connection stays in the queue.
    AcceptFailed "accept_failed" 10_000,
    /// An accept fails, and the connection is lost.
    AcceptLost "accept_lost" 6_000,
    /// An accept found nothing.
    AcceptNothing "accept_nothing" 0,
    /// More wait at a listener than it says, or fewer.
    WaitingWrong "waiting_wrong" 10_000,
    /// No socket can be made.
    SocketFailed "socket_failed" 6_000,
    /// A source address is taken.
    AddressTaken "address_taken" 30_000,
    /// A source address is not ours, or may not be used.
    AddrNotAvailable "address_not_ours" 2_000,
    /// A connect finds the pair of addresses in use.
    PairTaken "pair_taken" 8_000,
    /// A connect fails at once.
    ConnectFailed "connect_failed" 8_000,
    /// Nobody listens where a connect goes.
    ConnectRefused "connect_refused" 0,
    /// The first packet of a connect is lost.
    SynLost "syn_lost" 40_000,
    /// The network says no while connecting.
    ConnectUnreachable "connect_unreachable" 5_000,
    /// The kernel gave up connecting.
    ConnectTimedOut "connect_timed_out" 0,
    /// A request was cancelled before its linked predecessor had started it.
    CancelBeforeStart "cancel_before_start" 0,
    /// A cancel came too late: the request completes.
    CancelLate "cancel_late" 20_000,
    /// A cancel found nothing.
    CancelNothing "cancel_nothing" 0,
    /// A link was cancelled with its predecessor.
    LinkCancelled "link_cancelled" 0,
    /// A shutdown runs late.
    ShutdownLate "shutdown_late" 65_536,
    /// Work of the kernel waits for another entry.
    WorkLater "work_later" 16_000,
    /// Completions come in another order.
    WorkShuffled "work_shuffled" 65_536,
    /// A completion comes that is of an earlier life of its slot.
    Stale "stale" 3_000,
    /// The submission queue was full.
    QueueFull "queue_full" 0,
    /// The completion queue overflowed.
    Overflow "overflow" 0,
    /// A connection is reset by the network.
    Reset "reset" 700,
    /// A reset is lost on its way.
    ResetLost "reset_lost" 20_000,
    /// The kernel gives up on a connection.
    TimedOut "timed_out" 250,
    /// The network says that a peer cannot be reached.
    Unreachable "unreachable" 250,
    /// A connection carries nothing any more, and nobody is told.
    Cut "cut" 500,
    /// A segment takes long.
    SlowSegment "slow_segment" 6_000,
    /// A segment is small.
    SmallSegment "small_segment" 40_000,
    /// Closing with unread bytes resets.
    ResetByClose "reset_by_close" 0,
    /// Nothing can be received because the peer's program does not read.
    WindowClosed "window_closed" 0,
    /// Time passes inside an entry.
    SlowEntry "slow_entry" 1_500,
    /// A thread is woken late.
    WokenLate "woken_late" 6_000,
    /// A thread sleeps through a jump of the clock.
    TimeJump "time_jump" 300,
    /// A thread is woken for nothing.
    WokenForNothing "woken_for_nothing" 10_000,
    /// A ring cannot be made.
    NoRing "no_ring" 12_000,
    /// A thread is told to stop at once while requests wait to be submitted.
    StoppedBetween "stopped_between" 65_536,
    /// The kernel takes only the first requests of a queue.
    SubmittedPart "submitted_part" 20_000,
    /// A shutdown finds no descriptor to spare.
    ShutdownRefused "shutdown_refused" 30_000,
    /// A thread is told something between its last look and its sleep.
    ToldBetween "told_between" 20_000,
    /// The kernel does not say what a peer has acknowledged.
    OutQueueUnknown "out_queue_unknown" 3_000,
    /// The kernel refuses a socket option.
    OptionRefused "option_refused" 20_000,
}

/// Kinds whose chances were there from the start. Those added later are drawn apart, or every seed would mean another run.
const FIRST_COUNT: usize = Fault::SubmittedPart as usize;

/// How often each fault strikes in one run, and how often it did.
#[derive(Debug, Clone)]
pub struct Faults {
    parts: [u32; Fault::ALL.len()],
    counts: [u64; Fault::ALL.len()],
}

impl Faults {
    /// Drawn from a seed: a calm run, a run with some kinds, or a storm.
    pub fn draw(random: &mut Random) -> Self {
        let share = random.pick(&[0, 16, 16, 32, 32, 48, 64]);
        let mut parts = [0; Fault::ALL.len()];
        let draw = |random: &mut Random, fault: Fault| {
            let is_on = random.below(64) < share;
            let most = fault.parts_max();
            if is_on && most > 0 {
                random.magnitude(u64::from(most / 64).max(1), u64::from(most)) as u32
            } else {
                0
            }
        };
        let mut apart = None;
        for (number, (fault, parts)) in Fault::ALL.iter().zip(&mut parts).enumerate() {
            *parts = if number < FIRST_COUNT {
                draw(random, *fault)
            } else {
                let apart = apart.get_or_insert_with(|| Random::new(random.clone().next()));
                draw(apart, *fault)
            };
        }
        Faults {
            parts,
            counts: [0; Fault::ALL.len()],
        }
    }

    /// No faults but those that come about by themselves.
    pub fn none() -> Self {
        Faults {
            parts: [0; Fault::ALL.len()],
            counts: [0; Fault::ALL.len()],
        }
    }

    /// True if `fault` is to happen now; then it is counted.
    pub fn strikes(&mut self, fault: Fault, random: &mut Random) -> bool {
        let parts = self.parts[fault as usize];
        if parts == 0 || !random.strikes(parts) {
            return false;
        }
        self.count(fault);
        true
    }

    /// Counts one that came about by itself.
    pub fn count(&mut self, fault: Fault) {
        self.counts[fault as usize] += 1;
    }

    /// How often each happened, by number.
    pub fn counts(&self) -> &[u64; Fault::ALL.len()] {
        &self.counts
    }
}
