//! Source addresses: which addresses of this machine reach a target, by asking the kernel's routing
//! table.
//!
//! Invariants: no packet is sent and nothing is changed: connecting a UDP socket only looks the
//! route up.
//! Must not depend on: ports, settings, how many connections are asked for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use holdfast_engine::{SetupError, SetupErrorKind};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct InterfaceAddress {
    interface: String,
    address: IpAddr,
    is_running: bool,
}

/// Addresses of this machine from which all of `targets`, of one IP version, can be reached: at
/// most `count_max`, the one the kernel would choose first.
///
/// These are the addresses of the interface that the route to each target leaves by. An address of
/// another interface (a bridge of containers, an interface that is down) would send requests whose
/// answers never return. To loopback targets over IPv4 they are 127.0.0.1 and what follows, since
/// all of 127.0.0.0/8 is local.
///
/// # Errors
/// When there is no route to a target, or no address reaches all of them.
pub fn source_addresses(
    targets: &[SocketAddr],
    count_max: usize,
) -> Result<Vec<IpAddr>, SetupError> {
    let mut remote = targets.iter().filter(|t| !t.ip().is_loopback()).peekable();
    if remote.peek().is_none() && targets.iter().all(SocketAddr::is_ipv4) {
        // 127.0.0.1 to 127.255.255.254.
        let all = 0x7f00_0001..0x7fff_ffff;
        return Ok(all
            .take(count_max)
            .map(|bits| Ipv4Addr::from_bits(bits).into())
            .collect());
    }
    if remote.peek().is_none() {
        return Ok(vec![Ipv6Addr::LOCALHOST.into()]);
    }
    // Any address of this machine reaches a loopback target: the others decide.
    let interfaces = interface_addresses();
    let mut common: Option<Vec<IpAddr>> = None;
    for target in remote {
        let preferred = preferred_source(*target).map_err(|error| no_route(*target, error))?;
        let here = addresses_beside(preferred, &interfaces);
        common = Some(match common {
            None => here,
            Some(before) => before.into_iter().filter(|a| here.contains(a)).collect(),
        });
    }
    let mut addresses = common.unwrap_or_default();
    if addresses.is_empty() {
        return Err(SetupError::new(
            SetupErrorKind::AddressUnavailable,
            "the targets are reached through different interfaces: no source address reaches all of them",
            "ip route get TARGET for each of them, then name the source addresses with --source",
        ));
    }
    addresses.truncate(count_max);
    Ok(addresses)
}

/// How many IPv4 addresses reach targets that are not known: those of the interface with the
/// default route; without one, those of the running interface with the most.
pub fn address_count() -> u64 {
    // 192.0.2.0/24 is reserved for documentation: only a default route leads there.
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 9));
    let interfaces = interface_addresses();
    let count = match preferred_source(elsewhere) {
        Ok(preferred) => addresses_beside(preferred, &interfaces).len(),
        Err(_) => most_on_one_interface(&interfaces),
    };
    count as u64
}

/// The source address that the kernel chooses for `target`.
fn preferred_source(target: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

fn no_route(target: SocketAddr, error: io::Error) -> SetupError {
    SetupError::from_io(
        format_args!("no route to {}", target.ip()),
        error,
        format!("ip route get {}", target.ip()),
    )
}

/// `preferred` and the other usable addresses of its interface.
fn addresses_beside(preferred: IpAddr, interfaces: &[InterfaceAddress]) -> Vec<IpAddr> {
    let own = interfaces.iter().find(|i| i.address == preferred);
    let mut addresses = vec![preferred];
    for other in interfaces
        .iter()
        .filter(|i| Some(&i.interface) == own.map(|own| &own.interface))
    {
        if is_alike(other.address, preferred) && !addresses.contains(&other.address) {
            addresses.push(other.address);
        }
    }
    addresses
}

/// Whether two addresses are routed alike: of one IP version, and for IPv6 of one scope. The
/// Internet does not route unique local addresses, and nobody routes link-local ones.
fn is_alike(one: IpAddr, other: IpAddr) -> bool {
    match (one, other) {
        (IpAddr::V4(_), IpAddr::V4(_)) => true,
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            one.is_unique_local() == other.is_unique_local()
                && one.is_unicast_link_local() == other.is_unicast_link_local()
        }
        _ => false,
    }
}

fn most_on_one_interface(interfaces: &[InterfaceAddress]) -> usize {
    let usable: Vec<&InterfaceAddress> = interfaces
        .iter()
        .filter(|i| i.is_running && i.address.is_ipv4() && !i.address.is_loopback())
        .collect();
    let counts = usable
        .iter()
        .map(|one| usable.iter().filter(|i| i.interface == one.interface));
    counts.map(Iterator::count).max().unwrap_or(0)
}

/// Addresses of all interfaces of this network namespace.
fn interface_addresses() -> Vec<InterfaceAddress> {
    let interfaces = getifaddrs().into_iter().flatten();
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
            let address = v4.or_else(|| address.as_sockaddr_in6().map(|a| a.ip().into()))?;
            // An IPv4 address with a label is listed as eth0:label.
            let name = interface.interface_name;
            let name = name.split(':').next().unwrap_or_default();
            Some(InterfaceAddress {
                interface: name.to_owned(),
                address,
                is_running: interface
                    .flags
                    .contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces() -> Vec<InterfaceAddress> {
        [
            ("lo", "127.0.0.1", true),
            ("eth0", "10.99.0.1", true),
            ("docker0", "172.17.0.1", false),
            ("eth0", "fe80::1", true),
            ("eth0", "10.99.0.2", true),
            ("eth0", "2001:db8::1", true),
            ("eth0", "fd00::1", true),
            ("eth0", "2001:db8::2", true),
        ]
        .map(|(interface, address, is_running)| InterfaceAddress {
            interface: interface.to_owned(),
            address: address.parse().unwrap(),
            is_running,
        })
        .into()
    }

    fn beside(preferred: &str) -> Vec<String> {
        let addresses = addresses_beside(preferred.parse().unwrap(), &interfaces());
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_of_the_interface_the_route_leaves_by() {
        assert_eq!(beside("10.99.0.2"), ["10.99.0.2", "10.99.0.1"]);
        assert_eq!(beside("2001:db8::1"), ["2001:db8::1", "2001:db8::2"]);
        assert_eq!(beside("fd00::1"), ["fd00::1"]);
        // The kernel may choose an address that no interface has: it is then the only one.
        assert_eq!(beside("198.18.0.1"), ["198.18.0.1"]);
        // docker0 has no carrier.
        assert_eq!(most_on_one_interface(&interfaces()), 2);
    }

    #[test]
    fn loopback_targets() {
        let sources = |targets: &[&str], count_max| -> Vec<String> {
            let targets: Vec<SocketAddr> = targets.iter().map(|t| t.parse().unwrap()).collect();
            let found = source_addresses(&targets, count_max).unwrap();
            found.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            sources(&["127.0.0.1:1", "127.0.0.9:2"], 3),
            ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        );
        assert_eq!(sources(&["[::1]:1"], 3), ["::1"]);
    }
}
