//! The three severities: a setup error, a counted end of a connection, and (an `assert!` elsewhere) the impossible.
//!
//! Purpose: names. Invariants: a setup [`Error`] always says the likely cause and what to do next; every connection and
//! every attempt ends in exactly one [`CloseReason`] or [`OpenFailure`], and each has one stable label.
//! Must not know: how an end came about.

use std::fmt;

/// Why an engine could not be set up: the likely cause, and the next command to type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    cause: String,
    next: String,
}

impl Error {
    /// An error with its cause and its remedy.
    pub fn new(cause: impl Into<String>, next: impl Into<String>) -> Self {
        Error {
            cause: cause.into(),
            next: next.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; next: {}", self.cause, self.next)
    }
}

impl std::error::Error for Error {}

macro_rules! labelled {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every value, in the order of their numbers.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// The stable name in reports and metrics.
            pub fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }
        }
    };
}

labelled! {
    /// Why an open connection ended.
    CloseReason {
        /// The peer ended it in order (FIN).
        PeerClosed = "peer_closed",
        /// The peer, or its kernel, reset it (RST).
        Reset = "reset",
        /// The kernel gave up on the peer: nothing was acknowledged.
        TimedOut = "timed_out",
        /// The network said the peer cannot be reached.
        Unreachable = "unreachable",
        /// The peer did not read what was sent, for longer or by more than allowed.
        Stalled = "stalled",
        /// The peer sent nothing for longer than allowed.
        Idle = "idle",
        /// The peer sent more of an unfinished message than allowed.
        BufferLimit = "too_much",
        /// We ended it, and the peer's end came back in order.
        LocallyClosed = "by_us",
        /// We ended it, and the peer's end did not come in time.
        Aborted = "cut",
        /// Any other error of the socket.
        Other = "other",
    }
}

labelled! {
    /// Why an attempt to connect did not open.
    OpenFailure {
        /// Nobody listens there, or the listener refused.
        Refused = "refused",
        /// No answer within the connect time-out.
        TimedOut = "timed_out",
        /// Reset during the handshake.
        Reset = "reset",
        /// Every source address and port in the plan is in use.
        AddrExhausted = "no_address_left",
        /// A source address is not this machine's.
        AddrNotAvailable = "address_not_ours",
        /// No direct descriptor or no file left.
        NoDescriptor = "no_descriptor",
        /// The kernel had no memory for it.
        NoMemory = "no_memory",
        /// No route, or the network said no.
        Unreachable = "unreachable",
        /// Not allowed: a firewall, a privileged port, a security module.
        NotPermitted = "not_permitted",
        /// We stopped before it opened.
        Cancelled = "cancelled",
        /// Any other error.
        Other = "other",
    }
}

impl CloseReason {
    /// The class of an error a socket operation ended with. `errno` is positive.
    pub(crate) fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED => CloseReason::Reset,
            libc::ETIMEDOUT => CloseReason::TimedOut,
            libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN => CloseReason::Unreachable,
            _ => CloseReason::Other,
        }
    }
}

impl OpenFailure {
    /// The class of an error an attempt ended with. `errno` is positive.
    pub(crate) fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ECONNREFUSED => OpenFailure::Refused,
            libc::ETIMEDOUT => OpenFailure::TimedOut,
            libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE => OpenFailure::Reset,
            libc::EADDRINUSE => OpenFailure::AddrExhausted,
            libc::EADDRNOTAVAIL => OpenFailure::AddrNotAvailable,
            libc::EMFILE | libc::ENFILE => OpenFailure::NoDescriptor,
            libc::ENOMEM | libc::ENOBUFS => OpenFailure::NoMemory,
            libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN => OpenFailure::Unreachable,
            libc::EACCES | libc::EPERM => OpenFailure::NotPermitted,
            libc::ECANCELED => OpenFailure::Cancelled,
            _ => OpenFailure::Other,
        }
    }
}
