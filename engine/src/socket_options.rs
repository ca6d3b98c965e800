//! Options of a connection's socket that a handler may choose: keep-alive, timeouts, Nagle's algorithm.
//!
//! Invariants: what is not chosen costs nothing: no call, no request.
//! Must not depend on: rings, slots, handlers.

use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Probes of a silent peer (SO_KEEPALIVE): the connection ends with
/// [`CloseReason::TimedOut`](crate::CloseReason::TimedOut) if it answers none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe, 1 s to 32,767 s (TCP_KEEPIDLE).
    pub idle: Duration,
    /// Time between probes, 1 s to 32,767 s (TCP_KEEPINTVL).
    pub interval: Duration,
    /// Probes without an answer until the connection ends, 1 to 127 (TCP_KEEPCNT).
    pub count: u32,
}

/// Options of a socket. The default sets none.
///
/// Connections inherit them from their listener: [`SocketOptions::set_on`] it. A connection that is dialled gets them before it
/// connects: [`Dial::options`](crate::Dial::options), one request each, which needs Linux 6.7; an option that the kernel refuses is
/// left out and counted in [`Stats::options_refused`](crate::Stats::options_refused).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SocketOptions {
    /// Send small segments at once (TCP_NODELAY). A relay needs it, or a message may wait for the acknowledgement of the one before.
    /// Listeners of [`listen::listeners`](crate::listen::listeners) have it.
    pub no_delay: bool,
    /// Probe silent peers.
    pub keep_alive: Option<KeepAlive>,
    /// How long sent bytes may stay unacknowledged until the connection ends, 1 ms to 24 days (TCP_USER_TIMEOUT).
    pub user_timeout: Option<Duration>,
}

/// One option as setsockopt(2) has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOption {
    /// SOL_SOCKET, IPPROTO_TCP, ...
    pub level: i32,
    /// The option's number in its level.
    pub name: i32,
    /// Its value.
    pub value: i32,
}

/// The kernel chooses the port when the socket connects, not when it is bound.
pub(crate) const LATE_PORT: SocketOption = SocketOption {
    level: libc::SOL_IP,
    name: libc::IP_BIND_ADDRESS_NO_PORT,
    value: 1,
};

/// An ACK that waits is sent.
pub(crate) const SEND_ACK: SocketOption = SocketOption {
    level: libc::IPPROTO_TCP,
    name: libc::TCP_QUICKACK,
    value: 1,
};

/// The socket may be bound to an address that is not this machine's.
pub(crate) const fn transparent(is_ipv6: bool) -> SocketOption {
    let (level, name) = match is_ipv6 {
        false => (libc::SOL_IP, libc::IP_TRANSPARENT),
        true => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    SocketOption {
        level,
        name,
        value: 1,
    }
}

fn seconds(time: Duration) -> i32 {
    time.as_secs().clamp(1, 32_767) as i32
}

fn milliseconds(time: Duration) -> i32 {
    time.as_millis().clamp(1, i32::MAX as u128) as i32
}

impl SocketOptions {
    /// Sets them on a socket; on a listener, for the connections it will accept.
    ///
    /// # Errors
    /// That of setsockopt(2): the descriptor is no TCP socket.
    pub fn set_on(&self, socket: &impl AsFd) -> std::io::Result<()> {
        let socket = SockRef::from(socket);
        if self.no_delay {
            socket.set_tcp_nodelay(true)?;
        }
        if let Some(KeepAlive {
            idle,
            interval,
            count,
        }) = self.keep_alive
        {
            let probes = TcpKeepalive::new()
                .with_time(Duration::from_secs(seconds(idle) as u64))
                .with_interval(Duration::from_secs(seconds(interval) as u64))
                .with_retries(count.clamp(1, 127));
            socket.set_tcp_keepalive(&probes)?;
        }
        if let Some(time) = self.user_timeout {
            let time = Duration::from_millis(milliseconds(time) as u64);
            socket.set_tcp_user_timeout(Some(time))?;
        }
        Ok(())
    }

    /// Each that is set.
    pub(crate) fn each(&self) -> impl Iterator<Item = SocketOption> + use<> {
        let tcp = |name, value| SocketOption {
            level: libc::IPPROTO_TCP,
            name,
            value,
        };
        let probes = self.keep_alive.map(|probes| {
            [
                SocketOption {
                    level: libc::SOL_SOCKET,
                    name: libc::SO_KEEPALIVE,
                    value: 1,
                },
                tcp(libc::TCP_KEEPIDLE, seconds(probes.idle)),
                tcp(libc::TCP_KEEPINTVL, seconds(probes.interval)),
                tcp(libc::TCP_KEEPCNT, probes.count.clamp(1, 127) as i32),
            ]
        });
        let no_delay = self.no_delay.then(|| tcp(libc::TCP_NODELAY, 1));
        let timeout = self.user_timeout;
        let timeout = timeout.map(|time| tcp(libc::TCP_USER_TIMEOUT, milliseconds(time)));
        let probes = probes.into_iter().flatten();
        no_delay.into_iter().chain(probes).chain(timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_set_unless_chosen_and_values_stay_within_what_the_kernel_takes() {
        assert_eq!(SocketOptions::default().each().count(), 0);
        let all = SocketOptions {
            no_delay: true,
            keep_alive: Some(KeepAlive {
                idle: Duration::ZERO,
                interval: Duration::MAX,
                count: 1_000,
            }),
            user_timeout: Some(Duration::MAX),
        };
        let values: Vec<i32> = all.each().map(|option| option.value).collect();
        assert_eq!(values, [1, 1, 1, 32_767, 127, i32::MAX]);
    }
}
