//! Who is in the lab's network: names, addresses, roles, and how that looks.
//!
//! Invariants: no address is given twice, and all are of 10.77.0.0/16, which exists only in the
//! lab. There are no more of them than the kernel's table of neighbours holds.
//! Must not depend on: namespaces, interfaces, how any of it is made.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use holdfast_sysctl::profile::Role;
use serde::{Deserialize, Serialize};

pub use holdfast_telemetry::hosts::{BACKEND, BALANCER, MASTER, client};

use holdfast_engine::{SetupError, SetupErrorKind};

/// The network of the lab.
pub const SUBNET: &str = "10.77.0.0/16";
/// Bits of [`SUBNET`].
pub const PREFIX: u8 = 16;
/// The bridge, and the namespace it lives in.
pub const BRIDGE: (&str, &str) = ("br0", "bridge");
/// Connections that one address opens to one other address and port: the client uses ports from
/// 1024.
pub const PORTS: u64 = 64_511;

/// Neighbours beyond a thousand are forgotten again (`net.ipv4.neigh.default.gc_thresh3`), counted
/// over all namespaces: half of that for the clients' addresses.
const CLIENT_ADDRESSES_MAX: u32 = 512;

/// How many client hosts, with how many addresses each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    clients: u8,
    addresses: u8,
}

/// One host as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name, which is also its namespace's.
    pub name: String,
    /// What its kernel settings are for.
    pub role: Role,
    /// Its addresses, the first of them its main one.
    pub addresses: Vec<Ipv4Addr>,
}

impl Layout {
    /// Checks both numbers.
    ///
    /// # Errors
    /// When there are none, or more than the network has room for.
    pub fn new(clients: u8, addresses: u8) -> Result<Self, SetupError> {
        let all = u32::from(clients) * u32::from(addresses);
        if all == 0 || all > CLIENT_ADDRESSES_MAX || addresses > 250 || clients > 64 {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!(
                    "{clients} client hosts with {addresses} addresses each are outside 1 to {CLIENT_ADDRESSES_MAX} addresses of 1 to 64 hosts, at most 250 each"
                ),
                "give others, --clients 4 --addresses 16",
            ));
        }
        Ok(Self { clients, addresses })
    }

    /// Client hosts.
    #[must_use]
    pub fn clients(&self) -> u8 {
        self.clients
    }

    /// Every host.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let place = |name: &str, role, third, count| Place {
            name: name.to_owned(),
            role,
            addresses: (1..=count)
                .map(|fourth| Ipv4Addr::new(10, 77, third, fourth))
                .collect(),
        };
        let mut places = vec![
            place(BACKEND, Role::Server, 1, 1),
            place(BALANCER, Role::Both, 2, 1),
            place(MASTER, Role::Host, 3, 1),
        ];
        for number in 1..=self.clients {
            places.push(place(
                &client(number),
                Role::Client,
                10 + number,
                self.addresses,
            ));
        }
        places
    }

    /// The network as text.
    #[must_use]
    pub fn picture(&self) -> String {
        let places = self.places();
        let mut text = format!("  {} in namespace {}, {SUBNET}\n", BRIDGE.0, BRIDGE.1);
        for (number, place) in places.iter().enumerate() {
            let corner = if number + 1 == places.len() {
                "└──"
            } else {
                "├──"
            };
            let last = match &place.addresses[..] {
                [_, .., last] => format!(" to .{}", last.octets()[3]),
                _ => String::new(),
            };
            let addresses = format!("{}{last}", place.addresses[0]);
            let _ = writeln!(
                text,
                "   {corner} eth0 in {:<10}{addresses:<20}kernel settings: {}",
                place.name,
                place.role.name()
            );
        }
        text
    }

    /// Lines of `/etc/hosts` for all of it.
    #[must_use]
    pub fn names(&self) -> String {
        let mut text = String::from("127.0.0.1 localhost\n");
        for place in self.places() {
            let _ = writeln!(text, "{} {}", place.addresses[0], place.name);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_address_twice_and_none_outside() {
        let layout = Layout::new(32, 16).expect("there is room");
        let places = layout.places();
        let all: Vec<_> = places.iter().flat_map(|p| &p.addresses).collect();
        assert_eq!(all.len(), 3 + 32 * 16);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert!(all.iter().all(|a| a.octets()[..2] == [10, 77]));
        assert!(Layout::new(0, 1).is_err() && Layout::new(1, 0).is_err());
        assert!(Layout::new(64, 16).is_err() && Layout::new(1, 251).is_err());
    }

    #[test]
    fn network_diagram_names_every_host() {
        let layout = Layout::new(2, 16).expect("there is room");
        let picture = layout.picture();
        for words in ["10.77.1.1 ", "10.77.12.1 to .16", "balancer", "br0"] {
            assert!(picture.contains(words), "{picture}");
        }
        assert!(layout.names().contains("10.77.11.1 client1\n"));
    }
}
