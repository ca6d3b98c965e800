//! What became of a client: every accepted connection ends in exactly one class.
//!
//! Must not depend on: engines, how it came about.

use holdfast_engine::{CloseReason, OpenFailure, PartnerEnd};

macro_rules! classes {
    ($($(#[$doc:meta])* $variant:ident = $label:literal,)*) => {
        /// What became of a client.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Class { $($(#[$doc])* $variant,)* }

        impl Class {
            /// Every class, in the order of their numbers.
            pub const ALL: &'static [Class] = &[$(Class::$variant,)*];

            /// The stable name in reports, metrics and logs.
            pub fn label(self) -> &'static str {
                match self { $(Class::$variant => $label,)* }
            }
        }
    };
}

classes! {
    /// Client and backend ended their directions (FIN).
    Closed = "closed",
    /// The client reset it.
    ResetByClient = "reset_by_client",
    /// The backend reset it.
    ResetByBackend = "reset_by_backend",
    /// The kernel gave up on the client: nothing was acknowledged, or it is unreachable.
    ClientLost = "client_lost",
    /// The kernel gave up on the backend.
    BackendLost = "backend_lost",
    /// The client left before it had a backend.
    ClientLeft = "client_left",
    /// Every attempt to connect failed; the last one was refused.
    ConnectRefused = "connect_refused",
    /// The last one was not answered in time.
    ConnectTimeout = "connect_timeout",
    /// There was no route for the last one.
    ConnectUnreachable = "connect_unreachable",
    /// No source address and port is left for the backend.
    NoAddress = "no_address_left",
    /// The last one failed otherwise.
    ConnectFailed = "connect_failed",
    /// No backend is available.
    NoBackend = "no_backend",
    /// Every backend has `maxconn` connections, and the queue is full.
    QueueFull = "queue_full",
    /// It waited in the queue for too long.
    QueueTimeout = "queue_timeout",
    /// Its PROXY header or ClientHello did not arrive in time.
    HeaderTimeout = "header_timeout",
    /// Its PROXY header is none.
    HeaderInvalid = "header_invalid",
    /// No byte passed for longer than allowed.
    Idle = "idle",
    /// It lasted longer than allowed.
    MaxDuration = "max_duration",
    /// It was cut because its backend went down, or by the operator.
    Cut = "cut",
    /// The relay stopped.
    Stopped = "stopped",
    /// Its source has too many connections a second.
    RateLimit = "rate_limit",
    /// Any other error of one of the sockets.
    Failed = "failed",
}

impl Class {
    /// The class of this number.
    pub fn of(number: u32) -> Self {
        *Class::ALL.get(number as usize).unwrap_or(&Class::Failed)
    }

    /// Of a client that closed itself.
    pub fn of_client(reason: CloseReason, is_stopping: bool) -> Self {
        match reason {
            CloseReason::PeerClosed | CloseReason::LocallyClosed => Class::Closed,
            CloseReason::Reset => Class::ResetByClient,
            CloseReason::TimedOut | CloseReason::Unreachable => Class::ClientLost,
            CloseReason::Idle => Class::Idle,
            CloseReason::Aborted if is_stopping => Class::Stopped,
            CloseReason::Aborted => Class::Cut,
            _ => Class::Failed,
        }
    }

    /// Of a client whose backend's connection ended first.
    pub fn of_backend(end: PartnerEnd, is_stopping: bool) -> Self {
        match end {
            PartnerEnd::OpenFailed(failure) => Class::of_failure(failure),
            PartnerEnd::Closed(CloseReason::Reset) => Class::ResetByBackend,
            PartnerEnd::Closed(CloseReason::TimedOut | CloseReason::Unreachable) => {
                Class::BackendLost
            }
            PartnerEnd::Closed(reason) => Class::of_client(reason, is_stopping),
        }
    }

    /// Of a client whose last attempt failed.
    pub fn of_failure(failure: OpenFailure) -> Self {
        match failure {
            OpenFailure::Refused | OpenFailure::Reset => Class::ConnectRefused,
            OpenFailure::TimedOut => Class::ConnectTimeout,
            OpenFailure::Unreachable => Class::ConnectUnreachable,
            OpenFailure::AddrExhausted | OpenFailure::AddrNotAvailable => Class::NoAddress,
            _ => Class::ConnectFailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_labels_name_one_class_each() {
        let labels: std::collections::HashSet<_> = Class::ALL.iter().map(|c| c.label()).collect();
        assert_eq!(labels.len(), Class::ALL.len());
        for class in Class::ALL {
            assert_eq!(Class::of(*class as u32), *class);
        }
    }
}
