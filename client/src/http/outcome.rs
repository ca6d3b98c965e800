//! What becomes of a request: one class each.
//!
//! Invariants: every way a connection can end or not begin maps to one class; each class has one
//! stable name.
//! Must not depend on: how an end came about.

use holdfast_engine::{CloseReason, OpenFailure};

use super::response::Verdict;

macro_rules! outcomes {
    ($($(#[$doc:meta])* $variant:ident = $label:literal,)*) => {
        /// What became of a request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Outcome { $($(#[$doc])* $variant,)* }

        impl Outcome {
            /// Every class with its name in reports, in the order of their numbers.
            pub const ALL: &'static [(Outcome, &'static str)] = &[$((Outcome::$variant, $label),)*];
        }
    };
}

outcomes! {
    /// Answered, whole and as expected.
    Ok = "ok",
    /// Answered with a status that was not expected.
    WrongStatus = "wrong_status",
    /// Answered with a body that was not expected.
    WrongBody = "wrong_body",
    /// What came back is no HTTP/1.1, or more than was asked for.
    Malformed = "malformed",
    /// Not answered in time, or not connected in time.
    TimedOut = "timed_out",
    /// The connection was reset.
    Reset = "reset",
    /// The server ended the connection before the response was complete.
    ClosedEarly = "closed_early",
    /// The server closed an idle connection as the request was sent on it, before any byte of a
    /// response. Sent again, and not counted here, unless the method is not idempotent or
    /// `--no-retry` was given.
    ClosedIdle = "closed_idle",
    /// Nobody listened.
    Refused = "refused",
    /// Every source address and port was in use.
    AddrExhausted = "no_address_left",
    /// A source address is not this machine's.
    AddrNotAvailable = "address_not_ours",
    /// No descriptor was left.
    NoDescriptor = "no_descriptor",
    /// The kernel had no memory.
    NoMemory = "no_memory",
    /// The network said the server cannot be reached.
    Unreachable = "unreachable",
    /// A firewall or a security module said no.
    NotPermitted = "not_permitted",
    /// The server did not take the request.
    Stalled = "stalled",
    /// Any other error of the socket.
    Other = "other",
    /// Still under way when the run ended.
    Stopped = "stopped",
}

/// Classes there are.
pub const OUTCOME_COUNT: usize = Outcome::ALL.len();

impl From<Verdict> for Outcome {
    #[inline]
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Expected => Outcome::Ok,
            Verdict::WrongStatus | Verdict::RequestTimeout => Outcome::WrongStatus,
            Verdict::WrongBody => Outcome::WrongBody,
        }
    }
}

impl Outcome {
    /// Of a request whose connection did not open.
    pub fn from_open(failure: OpenFailure) -> Self {
        match failure {
            OpenFailure::Refused => Outcome::Refused,
            OpenFailure::TimedOut => Outcome::TimedOut,
            OpenFailure::Reset => Outcome::Reset,
            OpenFailure::AddrExhausted => Outcome::AddrExhausted,
            OpenFailure::AddrNotAvailable => Outcome::AddrNotAvailable,
            OpenFailure::NoDescriptor => Outcome::NoDescriptor,
            OpenFailure::NoMemory => Outcome::NoMemory,
            OpenFailure::Unreachable => Outcome::Unreachable,
            OpenFailure::NotPermitted => Outcome::NotPermitted,
            OpenFailure::Cancelled => Outcome::Stopped,
            OpenFailure::Other | _ => Outcome::Other,
        }
    }

    /// Of a request whose connection ended before the response was complete.
    pub fn from_close(reason: CloseReason) -> Self {
        match reason {
            CloseReason::PeerClosed => Outcome::ClosedEarly,
            CloseReason::Reset => Outcome::Reset,
            CloseReason::TimedOut => Outcome::TimedOut,
            CloseReason::Unreachable => Outcome::Unreachable,
            CloseReason::Stalled => Outcome::Stalled,
            // A head longer than anybody keeps.
            CloseReason::BufferLimit => Outcome::Malformed,
            CloseReason::LocallyClosed | CloseReason::Aborted => Outcome::Stopped,
            CloseReason::Idle | CloseReason::Other | _ => Outcome::Other,
        }
    }
}
