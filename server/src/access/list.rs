//! Which addresses may connect.
//!
//! The longest prefix that contains an address decides, in whatever order the networks were given; of an allowed and a denied network
//! of the same length, the denied one does. An address in none is allowed, unless networks were allowed.
//! Invariants: IPv4-mapped IPv6 addresses and networks (`::ffff:192.0.2.1`) count as IPv4.
//! Must not depend on: connections.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Networks of one IP version: by length of the prefix, by network, whether it is allowed.
type Networks<A> = BTreeMap<u8, HashMap<A, bool>>;

/// See the file's head.
#[derive(Debug, Default)]
pub struct AccessList {
    v4: Networks<Ipv4Addr>,
    v6: Networks<Ipv6Addr>,
    denies_others: bool,
}

impl AccessList {
    /// The list of what `--allow` and `--deny` were given.
    ///
    /// # Errors
    /// One line: a text that is no network, or a file that cannot be read.
    pub fn parse(allow: &[String], deny: &[String]) -> Result<Self, anyhow::Error> {
        let mut list = AccessList {
            denies_others: !allow.is_empty(),
            ..AccessList::default()
        };
        for (flag, texts, is_allowed) in [("--allow", allow, true), ("--deny", deny, false)] {
            for text in texts {
                list.add(flag, text, is_allowed)?;
            }
        }
        Ok(list)
    }

    fn add(&mut self, flag: &str, text: &str, is_allowed: bool) -> Result<(), anyhow::Error> {
        if let Some(file) = text.strip_prefix('@') {
            let lines = std::fs::read_to_string(file).map_err(|e| {
                anyhow::anyhow!("cannot read {file} of {flag} ({e}); next: name a file that exists")
            })?;
            let lines = lines.lines().map(|line| line.split('#').next());
            let texts = lines.map(|line| line.unwrap_or_default().trim());
            let mut texts = texts.filter(|text| !text.is_empty());
            return texts.try_for_each(|text| self.add_network(flag, text, is_allowed));
        }
        self.add_network(flag, text, is_allowed)
    }

    fn add_network(
        &mut self,
        flag: &str,
        text: &str,
        is_allowed: bool,
    ) -> Result<(), anyhow::Error> {
        if text == "all" {
            self.insert(Ipv4Net::default().into(), is_allowed);
            self.insert(Ipv6Net::default().into(), is_allowed);
            return Ok(());
        }
        let network = text.parse::<IpNet>();
        let network = network.or_else(|e| text.parse::<IpAddr>().map(IpNet::from).map_err(|_| e));
        let network = network.map_err(|_| {
            anyhow::anyhow!(
                "{flag} '{text}' is no address or network; next: give one such as 192.0.2.0/24, 2001:db8::/32 or all"
            )
        })?;
        self.insert(network, is_allowed);
        Ok(())
    }

    fn insert(&mut self, network: IpNet, is_allowed: bool) {
        match network {
            IpNet::V4(v4) => insert(&mut self.v4, v4.prefix_len(), v4.network(), is_allowed),
            IpNet::V6(v6) => match v6.network().to_ipv4_mapped() {
                Some(v4) if v6.prefix_len() >= 96 => {
                    insert(&mut self.v4, v6.prefix_len() - 96, v4, is_allowed);
                }
                _ => insert(&mut self.v6, v6.prefix_len(), v6.network(), is_allowed),
            },
        }
    }

    /// True if a connection from this address may be there.
    pub fn allows(&self, address: IpAddr) -> bool {
        let found = match address.to_canonical() {
            IpAddr::V4(v4) => decide(&self.v4, |length| {
                Ipv4Net::new(v4, length).expect("32 bits at most").network()
            }),
            IpAddr::V6(v6) => decide(&self.v6, |length| {
                Ipv6Net::new(v6, length)
                    .expect("128 bits at most")
                    .network()
            }),
        };
        found.unwrap_or(!self.denies_others)
    }
}

fn insert<A: std::hash::Hash + Eq>(
    networks: &mut Networks<A>,
    length: u8,
    network: A,
    is_allowed: bool,
) {
    let networks = networks.entry(length).or_default();
    *networks.entry(network).or_insert(is_allowed) &= is_allowed;
}

/// What the longest prefix says.
fn decide<A: std::hash::Hash + Eq>(
    networks: &Networks<A>,
    network: impl Fn(u8) -> A,
) -> Option<bool> {
    let mut lengths = networks.iter().rev();
    lengths.find_map(|(length, networks)| networks.get(&network(*length)).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(allow: &[&str], deny: &[&str]) -> AccessList {
        let texts = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        AccessList::parse(&texts(allow), &texts(deny)).unwrap()
    }

    fn allows(list: &AccessList, address: &str) -> bool {
        list.allows(address.parse().unwrap())
    }

    #[test]
    fn longest_prefix_decides_and_deny_of_equal_ones() {
        let one = list(&["10.0.0.0/8", "10.1.2.3"], &["10.1.0.0/16", "10.9.0.0/16"]);
        for (address, expected) in [
            ("10.0.0.1", true),
            ("10.1.0.1", false),
            ("10.1.2.3", true),
            ("10.9.0.1", false),
            ("11.0.0.1", false),
            ("::ffff:10.0.0.1", true),
            ("::ffff:10.1.0.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(allows(&one, address), expected, "{address}");
        }
        let equal = list(&["10.0.0.0/8"], &["10.0.0.0/8"]);
        assert!(!allows(&equal, "10.0.0.1"));
    }

    #[test]
    fn without_allowed_networks_everybody_else_is_allowed() {
        let denying = list(&[], &["127.0.0.0/8", "2001:db8::/32", "::1"]);
        for (address, expected) in [
            ("127.255.255.255", false),
            ("128.0.0.1", true),
            ("2001:db8:ffff::", false),
            ("2001:db9::", true),
            ("::1", false),
            ("::2", true),
        ] {
            assert_eq!(allows(&denying, address), expected, "{address}");
        }
        assert!(allows(&list(&[], &[]), "192.0.2.1"));
    }

    #[test]
    fn versions_are_apart_and_mapped_networks_are_of_ipv4() {
        let v4 = list(&["0.0.0.0/0"], &["::/0"]);
        assert!(allows(&v4, "1.2.3.4") && allows(&v4, "::ffff:1.2.3.4") && !allows(&v4, "::1"));
        let mapped = list(&["::ffff:10.0.0.0/104"], &[]);
        assert!(allows(&mapped, "10.2.3.4") && !allows(&mapped, "11.0.0.1"));
        let all = list(&["127.0.0.1"], &["all"]);
        assert!(allows(&all, "127.0.0.1") && !allows(&all, "127.0.0.2") && !allows(&all, "::1"));
        // Bits behind the prefix are of no account.
        assert!(allows(&list(&["10.1.2.3/8"], &[]), "10.200.0.1"));
    }

    #[test]
    fn files_hold_networks_and_comments_but_no_files() {
        let path = std::env::temp_dir().join(format!("holdfast-networks-{}", std::process::id()));
        let deny = format!("@{}", path.display());
        let read = |lines: &str| {
            std::fs::write(&path, lines).unwrap();
            AccessList::parse(&[], std::slice::from_ref(&deny)).map_err(|e| e.to_string())
        };
        let networks = read("# ours\n10.0.0.0/8 # all\n\n::1\n").unwrap();
        assert!(!allows(&networks, "10.1.2.3") && !allows(&networks, "::1"));
        assert!(allows(&networks, "11.0.0.1"));
        // A network that is not denied after all would be let in.
        let error = read("10.0.0.0/8\n@more\n").unwrap_err();
        assert!(
            error.contains("'@more' is no address or network"),
            "{error}"
        );
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_network_is_named() {
        for text in [
            "",
            "10.0.0/8",
            "10.0.0.0/33",
            "::/129",
            "localhost",
            "@/nowhere",
        ] {
            let error = AccessList::parse(&[], &[text.to_owned()]).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("--deny") && error.contains("; next: "),
                "{error}"
            );
        }
    }
}
