//! The three severities: a set-up error, a counted end of a connection, and (an `assert!` elsewhere) the impossible.
//!
//! Invariants: a [`SetupError`] always states the likely cause and what to do next, in one line; every connection and every attempt
//! ends in exactly one [`CloseReason`] or [`OpenFailure`], and each has one stable label.
//! Must not depend on: rings, handlers, anything that raises these.

use std::error::Error as StdError;
use std::{fmt, io};

/// What kind of cause a [`SetupError`] has. For programs; people read the error's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SetupErrorKind {
    /// A value is malformed, out of range or contradicts another one.
    InvalidInput,
    /// A file, a program, a host or a setting does not exist.
    NotFound,
    /// An address, a file or a lock is in use by somebody else.
    InUse,
    /// An address is not assigned to this machine, or cannot reach the target.
    AddressUnavailable,
    /// A privilege is missing, or a security policy forbids it.
    NotPermitted,
    /// The kernel or the build lacks a feature.
    Unsupported,
    /// A limit on descriptors, processes, ports or locked memory is too low.
    LimitExceeded,
    /// There is not enough memory.
    OutOfMemory,
    /// Something did not happen in time.
    TimedOut,
    /// Any other error of the operating system.
    Io,
    /// None of the others.
    Other,
}

impl From<io::ErrorKind> for SetupErrorKind {
    fn from(kind: io::ErrorKind) -> Self {
        match kind {
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
                SetupErrorKind::InvalidInput
            }
            io::ErrorKind::NotFound => SetupErrorKind::NotFound,
            io::ErrorKind::AddrInUse
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::ResourceBusy
            | io::ErrorKind::WouldBlock => SetupErrorKind::InUse,
            io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => SetupErrorKind::AddressUnavailable,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                SetupErrorKind::NotPermitted
            }
            io::ErrorKind::Unsupported => SetupErrorKind::Unsupported,
            io::ErrorKind::OutOfMemory => SetupErrorKind::OutOfMemory,
            io::ErrorKind::TimedOut => SetupErrorKind::TimedOut,
            _ => SetupErrorKind::Io,
        }
    }
}

/// Why something could not be set up: the likely cause and the next step. Displays as one line, `cause; next: step`.
///
/// The step is a command or a change that works when typed. Also returned by a running engine when the kernel stops serving it.
///
/// ```
/// use holdfast_engine::{SetupError, SetupErrorKind};
///
/// let error = SetupError::new(SetupErrorKind::InUse, "port 7070 is in use", "stop its owner: ss -ltnp");
/// assert_eq!(error.to_string(), "port 7070 is in use; next: stop its owner: ss -ltnp");
/// assert_eq!(error.kind(), SetupErrorKind::InUse);
/// ```
pub struct SetupError(Box<Parts>);

struct Parts {
    kind: SetupErrorKind,
    cause: String,
    next_step: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl SetupError {
    /// An error of `kind`. Line breaks and other control characters in either text become spaces.
    pub fn new(
        kind: SetupErrorKind,
        cause: impl Into<String>,
        next_step: impl Into<String>,
    ) -> Self {
        SetupError(Box::new(Parts {
            kind,
            cause: one_line(cause.into()),
            next_step: one_line(next_step.into()),
            source: None,
        }))
    }

    /// An error of the operating system: its kind and its code come from `error`, which becomes the source, and its text follows
    /// `cause` in parentheses.
    pub fn from_io(
        cause: impl fmt::Display,
        error: impl Into<io::Error>,
        next_step: impl Into<String>,
    ) -> Self {
        let error = error.into();
        let kind = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::EDQUOT) => SetupErrorKind::LimitExceeded,
            Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => {
                SetupErrorKind::Unsupported
            }
            _ => error.kind().into(),
        };
        SetupError::new(kind, format!("{cause} ({error})"), next_step).with_source(error)
    }

    /// The same error with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error as another kind, where the context knows better than the error code.
    #[must_use]
    pub fn with_kind(mut self, kind: SetupErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// What kind of cause it has.
    pub fn kind(&self) -> SetupErrorKind {
        self.0.kind
    }

    /// The likely cause, one line.
    pub fn cause(&self) -> &str {
        &self.0.cause
    }

    /// What to do next, one line: a command, or what to change. May be empty.
    pub fn next_step(&self) -> &str {
        &self.0.next_step
    }
}

/// Every run of control characters becomes one space.
fn one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let lines = text.split(char::is_control).filter(|part| !part.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.cause)?;
        match self.0.next_step.as_str() {
            "" => Ok(()),
            next_step => write!(f, "; next: {next_step}"),
        }
    }
}

impl fmt::Debug for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetupError")
            .field("kind", &self.0.kind)
            .field("cause", &self.0.cause)
            .field("next_step", &self.0.next_step)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for SetupError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// What the loop of a core thread returns: the same type, raised only when the kernel stops serving a ring.
pub(crate) type Error = SetupError;

macro_rules! labelled {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
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
        /// The peer closed it (FIN).
        PeerClosed = "peer_closed",
        /// The peer, or its kernel, reset it (RST).
        Reset = "reset",
        /// The kernel gave up on the peer: nothing was acknowledged.
        TimedOut = "timed_out",
        /// The network reported the peer as unreachable.
        Unreachable = "unreachable",
        /// The peer did not read what was sent, for longer or by more than allowed.
        Stalled = "stalled",
        /// The peer sent nothing for longer than allowed.
        Idle = "idle",
        /// The peer sent more of an unfinished message than allowed.
        BufferLimit = "too_much",
        /// We closed it, and the peer's FIN followed.
        LocallyClosed = "by_us",
        /// We closed it, and the peer's FIN did not follow in time; or the engine shut down at once.
        Aborted = "cut",
        /// An access list does not allow its source address. It was reset.
        Denied = "denied",
        /// Its source address has all the connections that it may have. It was reset.
        SourceLimit = "source_limit",
        /// Any other error of the socket.
        Other = "other",
    }
}

labelled! {
    /// Why an attempt to connect did not open.
    OpenFailure {
        /// Nothing listens at the target, or it refused.
        Refused = "refused",
        /// No answer within the connect time-out.
        TimedOut = "timed_out",
        /// Reset during the handshake.
        Reset = "reset",
        /// Every source address and port in the plan is in use.
        AddrExhausted = "no_address_left",
        /// A source address is not assigned to this machine.
        AddrNotAvailable = "address_not_ours",
        /// No direct descriptor or file is left.
        NoDescriptor = "no_descriptor",
        /// The kernel is out of memory.
        NoMemory = "no_memory",
        /// There is no route, or the network reported the target as unreachable.
        Unreachable = "unreachable",
        /// Not allowed: a firewall, a privileged port, a security module.
        NotPermitted = "not_permitted",
        /// The engine shut down before it opened.
        Cancelled = "cancelled",
        /// Any other error.
        Other = "other",
    }
}

impl CloseReason {
    /// The class of a socket error. `errno` is positive.
    pub(crate) fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED => CloseReason::Reset,
            libc::ETIMEDOUT => CloseReason::TimedOut,
            libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN => CloseReason::Unreachable,
            _ => CloseReason::Other,
        }
    }
}

/// How the partner of a linked connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartnerEnd {
    /// It was open, and closed.
    Closed(CloseReason),
    /// It never opened.
    OpenFailed(OpenFailure),
}

impl OpenFailure {
    /// The class of a connect error. `errno` is positive.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setup_error_is_one_line() {
        let error = SetupError::new(
            SetupErrorKind::NotFound,
            "no\n\tfile\x1b[1m",
            "make\r\none\n",
        );
        assert_eq!(error.to_string(), "no file [1m; next: make one");
        let error = SetupError::new(SetupErrorKind::Other, "  two  spaces", "");
        assert_eq!(error.to_string(), "  two  spaces");
    }

    #[test]
    fn setup_error_keeps_kind_and_source_of_the_system() {
        let of =
            |code| SetupError::from_io("cannot open", io::Error::from_raw_os_error(code), "retry");
        let error = of(libc::EACCES);
        assert_eq!(error.kind(), SetupErrorKind::NotPermitted);
        assert_eq!(
            error.to_string(),
            "cannot open (Permission denied (os error 13)); next: retry"
        );
        let source = error
            .source()
            .and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.and_then(io::Error::raw_os_error), Some(libc::EACCES));
        for (code, kind) in [
            (libc::EMFILE, SetupErrorKind::LimitExceeded),
            (libc::ENOSYS, SetupErrorKind::Unsupported),
            (libc::EADDRINUSE, SetupErrorKind::InUse),
            (libc::EADDRNOTAVAIL, SetupErrorKind::AddressUnavailable),
            (libc::ENOMEM, SetupErrorKind::OutOfMemory),
            (libc::EIO, SetupErrorKind::Io),
        ] {
            assert_eq!(of(code).kind(), kind, "{code}");
        }
        assert_eq!(
            of(libc::EIO).with_kind(SetupErrorKind::Other).kind(),
            SetupErrorKind::Other
        );
    }

    #[test]
    fn every_label_is_unique() {
        let reasons: std::collections::HashSet<_> =
            CloseReason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(reasons.len(), CloseReason::ALL.len());
        let failures: std::collections::HashSet<_> =
            OpenFailure::ALL.iter().map(|f| f.label()).collect();
        assert_eq!(failures.len(), OpenFailure::ALL.len());
    }
}
