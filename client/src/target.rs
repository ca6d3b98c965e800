//! Targets: names and ports into addresses of one IP version, at the start and again while the run
//! lasts.
//!
//! A name that has addresses of both IP versions is tried before the run: of the two, the version
//! that answers first is used, the resolver's first choice with a head start (RFC 8305 in spirit).
//! All addresses of that version are targets.
//! Invariants: `--resolve` goes before the resolver; an answer that cannot be had changes nothing
//! during a run.
//! Must not depend on: engines, what is sent.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::channel;
use std::time::Duration;

use holdfast_engine::Targets;

/// How long the resolver's second choice waits for the first one (RFC 8305, 5).
const HEAD_START: Duration = Duration::from_millis(250);
/// How long an attempt may take that decides between the IP versions.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// How often names are resolved again. getaddrinfo(3) does not say how long an answer holds, so this
/// is shorter than any TTL that names are moved with (5 s to 60 s): the resolver's cache, where there
/// is one, answers nearly all of these lookups and asks when the TTL is over. Where there is none, a
/// name costs one query in 3 s.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(3);
/// The least time between two lookups on average: of very many names, each is resolved less often.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(20);

/// An answer of `--resolve`: used instead of the resolver's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    host_port: String,
    addresses: Vec<SocketAddr>,
}

/// Parses `HOST:PORT:ADDRESS[,ADDRESS]`, as curl does.
///
/// # Errors
/// What is wrong, and an example.
pub fn parse_override(text: &str) -> Result<Override, String> {
    let wrong = || {
        format!(
            "'{text}' is not HOST:PORT:ADDRESS; next: give one such as example.com:80:192.0.2.1"
        )
    };
    // The host may be an address in brackets.
    let host_end = text
        .find("]:")
        .map_or_else(|| text.find(':'), |at| Some(at + 1));
    let (host, rest) = text.split_at(host_end.ok_or_else(wrong)?);
    let (port, addresses) = rest[1..].split_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().ok().filter(|p| *p > 0).ok_or_else(wrong)?;
    let address = |text: &str| -> Option<SocketAddr> {
        let text = text.trim();
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        Some((inner.unwrap_or(text).parse::<IpAddr>().ok()?, port).into())
    };
    let addresses: Option<Vec<_>> = addresses.split(',').map(address).collect();
    Ok(Override {
        host_port: format!("{host}:{port}").to_ascii_lowercase(),
        addresses: addresses.filter(|a| !a.is_empty()).ok_or_else(wrong)?,
    })
}

/// Resolves `HOST:PORT` texts into addresses of one IP version: that of the first target that has
/// only one, or the one that answers.
///
/// # Errors
/// One line naming the text and the cause.
pub fn resolve(texts: &[String], overrides: &[Override]) -> Result<Vec<SocketAddr>, anyhow::Error> {
    let mut found = Vec::new();
    for text in texts {
        let addresses = look_up(text, overrides)?;
        if addresses.iter().any(|a| a.port() == 0) {
            anyhow::bail!("target '{text}' has port 0; next: give the port the server listens on");
        }
        found.push((text, addresses));
    }
    let is_single = |addresses: &[SocketAddr]| {
        let is_ipv6 = addresses.first()?.is_ipv6();
        addresses
            .iter()
            .all(|a| a.is_ipv6() == is_ipv6)
            .then_some(is_ipv6)
    };
    let given = found.iter().find_map(|(_, addresses)| is_single(addresses));
    let first = found.first().map_or(&[][..], |(_, addresses)| addresses);
    let is_ipv6 = given.unwrap_or_else(|| answering_version(first));
    let mut targets: Vec<SocketAddr> = Vec::new();
    for (text, addresses) in found {
        let before = targets.len();
        targets.extend(addresses.iter().filter(|a| a.is_ipv6() == is_ipv6));
        if targets.len() == before {
            anyhow::bail!(
                "target '{text}' has no IPv{} address, as the first target has; next: give targets of one address family",
                if is_ipv6 { 6 } else { 4 }
            );
        }
    }
    let mut seen = HashSet::new();
    targets.retain(|t| seen.insert(*t));
    Ok(targets)
}

/// A server: what leads to the same addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `HOST:PORT` texts.
    pub names: Vec<String>,
    /// Addresses of one IP version.
    pub addresses: Vec<SocketAddr>,
}

/// Resolves `HOST:PORT` texts into servers, each by itself. Returns these, and the number of the
/// server that each text leads to.
///
/// # Errors
/// One line naming the text and the cause.
pub fn resolve_servers<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    overrides: &[Override],
) -> Result<(Vec<Server>, Vec<u16>), anyhow::Error> {
    let mut servers: Vec<Server> = Vec::new();
    let mut by_name: HashMap<String, u16> = HashMap::new();
    let mut by_addresses: HashMap<BTreeSet<SocketAddr>, u16> = HashMap::new();
    let mut numbers = Vec::new();
    for text in texts {
        let name = text.to_ascii_lowercase();
        if let Some(number) = by_name.get(&name) {
            numbers.push(*number);
            continue;
        }
        let Ok(next) = u16::try_from(servers.len()) else {
            anyhow::bail!(
                "more than 65536 servers are given; next: run holdfast-client once for each part of them"
            );
        };
        let addresses = resolve(&[text.to_owned()], overrides)?;
        let set = addresses.iter().copied().collect();
        let number = *by_addresses.entry(set).or_insert(next);
        if number < next {
            servers[usize::from(number)].names.push(text.to_owned());
        } else {
            servers.push(Server {
                names: vec![text.to_owned()],
                addresses,
            });
        }
        by_name.insert(name, number);
        numbers.push(number);
    }
    Ok((servers, numbers))
}

/// The first of some names, for people.
pub fn list(names: &[&str]) -> String {
    const SHOWN_MAX: usize = 4;
    let shown = names[..names.len().min(SHOWN_MAX)].join(", ");
    match names.len().saturating_sub(SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn look_up(text: &str, overrides: &[Override]) -> Result<Vec<SocketAddr>, anyhow::Error> {
    let lower = text.to_ascii_lowercase();
    if let Some(found) = overrides.iter().rev().find(|o| o.host_port == lower) {
        return Ok(found.addresses.clone());
    }
    // Without a port there is no name to look up, and --resolve could not name it.
    let has_port = |(_, port): (&str, &str)| port.parse::<u16>().is_ok();
    if !text.rsplit_once(':').is_some_and(has_port) {
        anyhow::bail!(
            "target '{text}' is not HOST:PORT; next: give one such as 192.0.2.1:7070 or [::1]:7070"
        );
    }
    let found = text.to_socket_addrs().map_err(|e| {
        let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
        anyhow::anyhow!(
            "cannot resolve target '{text}' ({e}); next: check the name (getent hosts {host}), or give its address with --resolve \
             {text}:ADDRESS"
        )
    })?;
    Ok(found.collect())
}

/// True if IPv6 is to be used of addresses of both versions: the version whose first address
/// accepts a connection first, or the resolver's first choice when none does.
fn answering_version(addresses: &[SocketAddr]) -> bool {
    let Some(first) = addresses.first().copied() else {
        return false;
    };
    let Some(second) = addresses.iter().find(|a| a.is_ipv6() != first.is_ipv6()) else {
        return first.is_ipv6();
    };
    let (sender, answers) = channel();
    for address in [first, *second] {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let is_open = TcpStream::connect_timeout(&address, PROBE_MAX).is_ok();
            // Nobody listens any more when the other one was first.
            let _ = sender.send((address, is_open));
        });
        if address == first
            && let Ok((_, true)) = answers.recv_timeout(HEAD_START)
        {
            return first.is_ipv6();
        }
    }
    drop(sender);
    let open = answers.iter().find(|(_, is_open)| *is_open);
    open.map_or(first.is_ipv6(), |(address, _)| address.is_ipv6())
}

/// Resolves the names of servers again at intervals, and moves the plan's targets to their
/// addresses, on a thread of its own: a resolver may take long to answer. Ends with the plan.
/// Nothing is done where all targets are addresses.
pub fn keep_resolved(servers: Vec<(Vec<String>, Targets)>, overrides: &[Override]) {
    let is_name = |text: &String| {
        let lower = text.to_ascii_lowercase();
        text.parse::<SocketAddr>().is_err() && !overrides.iter().any(|o| o.host_port == lower)
    };
    let mut servers = servers;
    servers.retain(|(names, _)| names.iter().any(is_name));
    if servers.is_empty() {
        return;
    }
    let name_count: usize = servers.iter().map(|(names, _)| names.len()).sum();
    let interval = RESOLVE_INTERVAL.max(LOOKUP_INTERVAL * name_count as u32);
    let overrides = overrides.to_vec();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(interval);
            for (names, targets) in &servers {
                let found: Result<Vec<_>, _> =
                    names.iter().map(|t| look_up(t, &overrides)).collect();
                // A name that cannot be resolved now keeps its addresses.
                let mut addresses = found.unwrap_or_default().concat();
                let mut seen = HashSet::new();
                addresses.retain(|a| seen.insert(*a));
                if !targets.set(&addresses) {
                    return;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn resolve_all(texts: &[&str]) -> Result<Vec<SocketAddr>, anyhow::Error> {
        resolve(
            &texts.iter().map(ToString::to_string).collect::<Vec<_>>(),
            &[],
        )
    }

    #[test]
    fn each_ip_version_alone_but_not_together() {
        let targets = ["127.0.0.1:80", "127.0.0.2:80", "127.0.0.1:80"];
        assert_eq!(resolve_all(&targets).unwrap().len(), 2);
        assert_eq!(resolve_all(&["[::1]:80"]).unwrap().len(), 1);
        assert!(resolve_all(&["127.0.0.1:80", "[::1]:80"]).is_err());
        assert!(resolve_all(&["127.0.0.1"]).is_err());
        assert!(resolve_all(&["127.0.0.1:0"]).is_err());
    }

    #[test]
    fn texts_of_the_same_addresses_are_one_server() {
        let overrides = [
            "a.test:80:127.0.0.1",
            "b.test:80:127.0.0.2",
            "c.test:80:::1",
        ];
        let overrides = overrides.map(|text| parse_override(text).unwrap());
        let texts = [
            "a.test:80",
            "127.0.0.1:80",
            "A.test:80",
            "b.test:80",
            "127.0.0.1:81",
            "c.test:80",
        ];
        let (servers, numbers) = resolve_servers(texts, &overrides).unwrap();
        assert_eq!(numbers, [0, 0, 0, 1, 2, 3]);
        assert_eq!(servers[0].names, ["a.test:80", "127.0.0.1:80"]);
        let addresses = servers.iter().map(|s| s.addresses[0].to_string());
        assert_eq!(
            addresses.collect::<Vec<_>>(),
            ["127.0.0.1:80", "127.0.0.2:80", "127.0.0.1:81", "[::1]:80"]
        );
        assert!(resolve_servers(["127.0.0.1:80", "127.0.0.1:0"], &[]).is_err());
        assert_eq!(list(&["a", "b"]), "a, b");
        assert_eq!(list(&["a"; 7]), "a, a, a, a and 3 more");
    }

    #[test]
    fn overrides_are_read_as_curl_reads_them() {
        let parsed = parse_override("Example.com:81:192.0.2.1,[2001:db8::1]").unwrap();
        assert_eq!(parsed.host_port, "example.com:81");
        let expected = ["192.0.2.1:81", "[2001:db8::1]:81"].map(|a| a.parse().unwrap());
        assert_eq!(parsed.addresses, expected);
        assert_eq!(
            resolve(
                &["example.COM:81".to_owned(), "127.0.0.1:9".to_owned()],
                &[parsed]
            )
            .unwrap(),
            ["192.0.2.1:81", "127.0.0.1:9"].map(|a| a.parse().unwrap())
        );
        for text in [
            "",
            "a",
            "a:80",
            "a:80:",
            "a:x:127.0.0.1",
            "a:80:b",
            "a:0:127.0.0.1",
        ] {
            let error = parse_override(text).unwrap_err();
            assert!(error.contains("; next: "), "{text}: {error}");
        }
    }

    #[test]
    fn of_both_ip_versions_the_one_that_answers_is_used() {
        // Nobody listens on ::1 at this port.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let name = "service.test";
        let both = parse_override(&format!("{name}:{port}:[::1],127.0.0.1")).unwrap();
        let found = resolve(&[format!("{name}:{port}")], std::slice::from_ref(&both)).unwrap();
        assert_eq!(found, [listener.local_addr().unwrap()]);
        drop(listener);
        let found = resolve(&[format!("{name}:{port}")], &[both]).unwrap();
        assert!(found[0].is_ipv6(), "nobody answers: the first choice");
    }
}
