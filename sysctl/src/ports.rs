//! Source ports of outgoing connections: which of a range a client may bind.
//!
//! A client that names its source ports must leave out those the administrator reserved
//! (`net.ipv4.ip_local_reserved_ports`, which bind(2) does not enforce) and those its targets
//! listen on: a server on the same machine could not listen there again.
//! Must not depend on: addresses, routes, how many connections are asked for.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use crate::values::{Now, Values};

/// The source ports a client uses unless `--ports` says otherwise.
pub const SOURCE_PORTS: RangeInclusive<u16> = 1024..=65_535;

/// The kernel setting with the ports that are not for outgoing connections, both of IPv4 and of
/// IPv6.
pub const RESERVED_PORTS_KEY: &str = "net.ipv4.ip_local_reserved_ports";

/// The ports of `range` that a client may use for `targets` on this machine, ascending.
pub fn usable_ports(range: RangeInclusive<u16>, targets: &[SocketAddr]) -> Vec<u16> {
    let target_ports: Vec<u16> = targets.iter().map(SocketAddr::port).collect();
    usable_ports_of(&Values::Here, range, &target_ports)
}

/// The ports of `range` that are neither reserved according to `values` nor one of `target_ports`,
/// ascending.
pub fn usable_ports_of(
    values: &Values,
    range: RangeInclusive<u16>,
    target_ports: &[u16],
) -> Vec<u16> {
    let reserved = match values.sysctl(RESERVED_PORTS_KEY) {
        Now::Is(list) => parse_port_list(&list).unwrap_or_default(),
        // A kernel or namespace without the setting reserves nothing.
        Now::Absent | Now::Unreadable(_) => Vec::new(),
    };
    range
        .filter(|port| !target_ports.contains(port))
        .filter(|port| !reserved.iter().any(|range| range.contains(port)))
        .collect()
}

/// Parses a list as the kernel prints it: `22,8080-8089`; empty for none. `None` if it is not a
/// list of ports.
pub fn parse_port_list(list: &str) -> Option<Vec<RangeInclusive<u16>>> {
    list.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn usable(reserved: &str, range: RangeInclusive<u16>, target_ports: &[u16]) -> Vec<u16> {
        let values = BTreeMap::from([(RESERVED_PORTS_KEY.to_owned(), reserved.to_owned())]);
        usable_ports_of(&Values::Described(values), range, target_ports)
    }

    #[test]
    fn reserved_and_target_ports_are_left_out() {
        assert_eq!(usable("", 10..=12, &[]), [10, 11, 12]);
        assert_eq!(usable("11", 10..=12, &[12]), [10]);
        assert_eq!(usable("1,12-14,16", 11..=17, &[16, 80]), [11, 15, 17]);
        assert!(usable("1-65535", 1..=65_535, &[]).is_empty());
        // 64,512 ports, less 1,100, 1,101 and the target's 7,070.
        assert_eq!(usable("1100,1101", SOURCE_PORTS, &[7070]).len(), 64_509);
        // A described machine that does not mention the setting reserves nothing.
        let none = Values::Described(BTreeMap::new());
        assert_eq!(usable_ports_of(&none, SOURCE_PORTS, &[7070]).len(), 64_511);
    }

    #[test]
    fn port_lists() {
        assert_eq!(parse_port_list(""), Some(vec![]));
        assert_eq!(
            parse_port_list("22,8080-8082"),
            Some(vec![22..=22, 8080..=8082])
        );
        assert_eq!(parse_port_list("ssh"), None);
        assert_eq!(parse_port_list("70000"), None);
    }
}
