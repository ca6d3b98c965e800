//! Source addresses: what `--source` and `--ports` say, turned into addresses.
//!
//! Invariants: the list has no address twice and no more addresses than are needed; ranges are
//! bounded before they are expanded.
//! Must not depend on: tuples, connections.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use holdfast_sysctl::routes;
use ipnet::IpNet;

/// Most addresses a list is expanded to.
const ADDRESSES_MAX: u64 = 1 << 20;

/// One item of `--source`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The addresses that reach the targets, by the routing table; for loopback targets, as much of
    /// 127.0.0.0/8 as is needed.
    Auto,
    /// First and last address.
    Range(IpAddr, IpAddr),
}

/// Parses an address, `FIRST-LAST`, a CIDR range or `auto`.
///
/// # Errors
/// What is wrong, and an example.
pub fn parse(text: &str) -> Result<Source, String> {
    let wrong = |what: &str| {
        format!("{what}; next: give an address, FIRST-LAST, a range such as 127.0.1.0/28, or auto")
    };
    if text == "auto" {
        return Ok(Source::Auto);
    }
    if let Some((address, prefix)) = text.split_once('/') {
        // Not by ipnet's parser, which takes 010 for ten: to others that is eight, and an address
        // alone may not be written so.
        let net = address.parse().ok().zip(number(prefix));
        let net = net.and_then(|(address, bits)| IpNet::new(address, bits).ok());
        let net = net.ok_or_else(|| wrong("not a CIDR range"))?;
        return Ok(Source::Range(net.network(), net.broadcast()));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first: IpAddr = first
        .trim()
        .parse()
        .map_err(|_| wrong("not an IP address"))?;
    let last: IpAddr = last
        .trim()
        .parse()
        .map_err(|_| wrong("not an IP address"))?;
    if first.is_ipv6() != last.is_ipv6() || first > last {
        return Err(wrong("the last address comes before the first"));
    }
    Ok(Source::Range(first, last))
}

/// Digits and nothing else: the parser of numbers would take a plus sign.
fn number<T: FromStr>(text: &str) -> Option<T> {
    let is_number = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// Parses `FIRST-LAST` or one port.
///
/// # Errors
/// What is wrong, and an example.
pub fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number::<u16>(first.trim()), number(last.trim())) {
        (Some(first), Some(last)) if first > 0 && first <= last => Ok(first..=last),
        _ => Err(
            "not a range of ports from 1 to 65535; next: give FIRST-LAST, such as 1024-65535"
                .to_owned(),
        ),
    }
}

/// The addresses of `sources` for `targets`, at most `needed` of them.
///
/// # Errors
/// One line when no address fits the targets' family.
pub fn addresses(
    sources: &[Source],
    targets: &[SocketAddr],
    needed: u64,
) -> Result<Vec<IpAddr>, anyhow::Error> {
    let is_ipv6 = targets.first().is_some_and(SocketAddr::is_ipv6);
    let limit = needed.clamp(1, ADDRESSES_MAX) as usize;
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let is_other_family =
        |source: &&Source| matches!(source, Source::Range(first, _) if first.is_ipv6() != is_ipv6);
    // A range of the other family may be very long: skip it as a whole.
    for source in sources.iter().filter(|source| !is_other_family(source)) {
        let items: Box<dyn Iterator<Item = IpAddr>> = match source {
            Source::Range(first, last) => range(*first, *last),
            Source::Auto => Box::new(routes::source_addresses(targets, limit)?.into_iter()),
        };
        for address in items.take(ADDRESSES_MAX as usize) {
            if found.len() == limit {
                break;
            }
            if address.is_ipv6() == is_ipv6 && seen.insert(address) {
                found.push(address);
            }
        }
    }
    if found.is_empty() {
        anyhow::bail!(
            "no IPv{} source address for {}; next: name one of this machine's with --source (see: ip address)",
            if is_ipv6 { 6 } else { 4 },
            targets
                .first()
                .map_or_else(String::new, ToString::to_string),
        );
    }
    Ok(found)
}

fn range(first: IpAddr, last: IpAddr) -> Box<dyn Iterator<Item = IpAddr>> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Box::new((u32::from(first)..=u32::from(last)).map(|bits| Ipv4Addr::from(bits).into()))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => Box::new(
            (u128::from(first)..=u128::from(last))
                .map(|bits| std::net::Ipv6Addr::from(bits).into()),
        ),
        _ => unreachable!("parse compared the families"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str, target: &str, needed: u64) -> Result<Vec<String>, String> {
        let source = parse(text)?;
        let targets = [target.parse().unwrap()];
        addresses(&[source], &targets, needed)
            .map(|list| list.iter().map(ToString::to_string).collect())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn addresses_ranges_and_nets() {
        assert_eq!(
            expand("127.0.0.9", "127.0.0.1:1", 5).unwrap(),
            ["127.0.0.9"]
        );
        assert_eq!(
            expand("127.0.0.254-127.0.1.1", "127.0.0.1:1", 99)
                .unwrap()
                .len(),
            4
        );
        assert_eq!(expand("127.0.1.0/28", "127.0.0.1:1", 99).unwrap().len(), 16);
        assert_eq!(
            expand("10.0.0.0/8", "127.0.0.1:1", 3).unwrap(),
            ["10.0.0.0", "10.0.0.1", "10.0.0.2"]
        );
        assert_eq!(expand("fd00::/126", "[fd00::9]:1", 99).unwrap().len(), 4);
    }

    #[test]
    fn auto_takes_as_much_loopback_as_needed() {
        assert_eq!(expand("auto", "127.0.0.1:1", 16).unwrap().len(), 16);
        assert_eq!(expand("auto", "[::1]:1", 16).unwrap(), ["::1"]);
    }

    #[test]
    fn nonsense_is_named() {
        for text in [
            "",
            "x",
            "127.0.0.1/33",
            "127.0.0.2-127.0.0.1",
            "127.0.0.1-::1",
            "127.0.0.1/",
            "127.0.0.010/24",
            "127.0.0.1/+8",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(
            expand("fd00::1", "127.0.0.1:1", 1)
                .unwrap_err()
                .contains("IPv4")
        );
        for text in ["", "0-9", "9-8", "70000", "1-", "-1", "+1", "1-+2"] {
            assert!(parse_ports(text).is_err(), "{text}");
        }
        assert_eq!(parse_ports("1024-65535"), Ok(1024..=65535));
    }
}
