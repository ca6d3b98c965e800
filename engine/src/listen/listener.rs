//! One listening socket.
//!
//! Invariants: it is given up by closing its descriptor, never by shutdown(2), which would stop every process that has the socket.
//! Must not depend on: how it was made, rings.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// A listening socket, alone in this process or shared with another one.
///
/// An engine that stops gracefully accepts what waits at a listener that is its own, since closing the socket resets it. What waits
/// at a shared listener is left to the other processes.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    is_shared: bool,
}

impl Listener {
    /// A listening socket that no other process has.
    pub fn owned(socket: impl Into<OwnedFd>) -> Self {
        Listener {
            socket: socket.into(),
            is_shared: false,
        }
    }

    /// A listening socket that another process has as well: the service manager that made it, or a predecessor or successor of this
    /// process.
    pub fn shared(socket: impl Into<OwnedFd>) -> Self {
        Listener {
            socket: socket.into(),
            is_shared: true,
        }
    }

    /// True if another process has the socket as well.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// The descriptor is no socket, or one without an IP address.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        let address = socket2::SockRef::from(&self.socket).local_addr()?;
        address
            .as_socket()
            .ok_or_else(|| std::io::Error::other("a listener without an IP address"))
    }

    /// Another descriptor of the same socket, for another core thread or to pass it on.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Listener {
            socket: self.socket.try_clone()?,
            is_shared: self.is_shared,
        })
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> OwnedFd {
        listener.socket
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
