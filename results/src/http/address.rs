//! Addresses of slices on the loopback network.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// The address of slice `number`: each has one of its own, so that what earlier ones left in
/// TIME_WAIT is in nobody's way.
#[must_use]
pub fn address(number: usize, port: u16) -> SocketAddr {
    let byte = |n: usize| u8::try_from(n % 250 + 1).unwrap_or(1);
    SocketAddr::from((
        Ipv4Addr::new(127, 1, byte(number / 250), byte(number)),
        port,
    ))
}

/// Whether something listens at `address`.
#[must_use]
pub fn connects(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_loopback_and_differ() {
        let all: std::collections::BTreeSet<_> = (0..49_000).map(|n| address(n, 900)).collect();
        assert_eq!(all.len(), 49_000);
        assert!(all.iter().all(|a| a.ip().is_loopback()));
        assert_eq!(address(0, 900).to_string(), "127.1.1.1:900");
    }
}
