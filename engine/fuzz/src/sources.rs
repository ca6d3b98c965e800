//! `--source`, `--ports` and targets given as addresses: compared with a second parser, and
//! expanded.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use holdfast_client::source::{Source, addresses, parse, parse_ports};
use holdfast_client::target::resolve;

/// Most addresses asked for.
const NEEDED_MAX: u64 = 64;

/// An address as a number, and how many bits it has.
fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(v4) => (u32::from(v4).into(), 32),
        IpAddr::V6(v6) => (v6.into(), 128),
    }
}

/// First and last of a range, parsed by hand. `None`: no range. Numbers of networks have at most
/// three digits.
fn expected(text: &str) -> Option<(u128, u128, u32)> {
    if let Some((address, prefix)) = text.split_once('/') {
        let (address, width) = bits(address.parse().ok()?);
        let is_number = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u32 = prefix.parse().ok().filter(|p| is_number && *p <= width)?;
        let hosts = match width - prefix {
            0 => 0,
            128 => u128::MAX,
            free => (1 << free) - 1,
        };
        return Some((address & !hosts, address | hosts, width));
    }
    let (first, last) = match text.find('-') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, text),
    };
    let (first, width) = bits(first.trim().parse().ok()?);
    let (last, width_too) = bits(last.trim().parse().ok()?);
    (width == width_too && first <= last).then_some((first, last, width))
}

fn check_source(text: &str) -> Option<Source> {
    let parsed = parse(text);
    if let Err(error) = &parsed {
        assert!(error.contains("; next: "), "{error}");
    }
    let parsed = parsed.ok();
    match &parsed {
        Some(Source::Auto) => assert_eq!(text, "auto"),
        Some(Source::Range(first, last)) => {
            let ((first, width), (last, width_too)) = (bits(*first), bits(*last));
            assert_eq!(width, width_too);
            assert_eq!(Some((first, last, width)), expected(text), "{text:?}");
        }
        None => assert_eq!(expected(text), None, "{text:?}"),
    }
    if let Some(Source::Range(first, last)) = &parsed {
        assert_eq!(parse(&format!("{first}-{last}")).ok(), parsed, "again");
    }
    parsed
}

/// Checks an expansion: no address twice, each from a source, in order, as many as exist or are
/// needed.
fn check_addresses(sources: &[Source], is_ipv6: bool, needed: u64) {
    let target: SocketAddr = match is_ipv6 {
        true => ([0, 0, 0, 0, 0, 0, 0, 1], 80).into(),
        false => ([127, 0, 0, 1], 80).into(),
    };
    // The addresses of interfaces do not depend on the input.
    let has_auto = sources.contains(&Source::Auto);
    if has_auto && is_ipv6 {
        return;
    }
    let ranges = sources.iter().filter_map(|source| match source {
        Source::Range(first, _) if first.is_ipv6() != is_ipv6 => None,
        Source::Range(first, last) => Some((bits(*first).0, bits(*last).0)),
        Source::Auto => Some((0x7f00_0001, 0x7fff_fffe)),
    });
    let mut wanted = Vec::new();
    let mut seen = HashSet::new();
    for (first, last) in ranges {
        let mut next = Some(first);
        while let Some(address) = next.filter(|n| *n <= last && (wanted.len() as u64) < needed) {
            if seen.insert(address) {
                wanted.push(address);
            }
            next = address.checked_add(1);
        }
    }
    match addresses(sources, &[target], needed) {
        Ok(found) => {
            let found: Vec<u128> = found.iter().map(|address| bits(*address).0).collect();
            assert_eq!(found, wanted);
        }
        Err(error) => {
            assert!(
                wanted.is_empty() && error.to_string().contains("; next: "),
                "{error}"
            );
        }
    }
}

fn check_ports(text: &str) {
    let number = |text: &str| {
        let text = text.trim();
        let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|n| is_number && *n > 0)
    };
    let expected = match text.split('-').collect::<Vec<_>>()[..] {
        [one] => number(one).map(|n| n..=n),
        [first, last] => number(first)
            .zip(number(last))
            .filter(|(first, last)| first <= last)
            .map(|(first, last)| first..=last),
        _ => None,
    };
    assert_eq!(parse_ports(text).ok(), expected, "{text:?}");
}

/// Only texts without host names, which would need a name server.
fn check_targets(texts: &[&str]) {
    let parsed = |text: &&str| text.parse::<SocketAddr>().ok();
    let wanted: Vec<SocketAddr> = texts.iter().filter_map(parsed).collect();
    let texts: Vec<String> = texts
        .iter()
        .filter(|text| parsed(text).is_some())
        .map(ToString::to_string)
        .collect();
    let Ok(found) = resolve(&texts, &[]) else {
        let is_mixed = wanted.iter().any(|a| a.is_ipv6() != wanted[0].is_ipv6());
        assert!(
            is_mixed || wanted.iter().any(|a| a.port() == 0),
            "{texts:?}"
        );
        return;
    };
    let mut unique = Vec::new();
    for address in wanted {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    assert_eq!(found, unique);
}

/// Sources, ports and targets: an option byte, then lines, each read as each.
pub fn sources(data: &[u8]) {
    let Some((option, text)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let lines: Vec<&str> = text.split('\n').take(8).collect();
    let parsed: Vec<Source> = lines.iter().filter_map(|line| check_source(line)).collect();
    lines.iter().for_each(|line| check_ports(line));
    check_targets(&lines);
    check_addresses(
        &parsed,
        option & 1 == 1,
        u64::from(option >> 1) % NEEDED_MAX + 1,
    );
}
