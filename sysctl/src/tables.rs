//! Sizes of the kernel's table of connections: one entry for each socket and one for each
//! connection in TIME_WAIT.
//!
//! Invariant: a table that is sized here has at least one bucket for each entry that can be in it,
//! so that look-ups do not walk chains, however short the connections are: a client that opens a
//! new connection for each request leaves up to `tcp_max_tw_buckets` of them behind, whatever the
//! number open at once.
//! Must not depend on: how settings are read or written.

use crate::setting::Setting;

/// Buckets of the table that the next network namespace made from this one gets.
pub const CHILD_HASH_KEY: &str = "net.ipv4.tcp_child_ehash_entries";
/// Buckets of the initial namespace's table: a parameter of the kernel's command line.
pub const BOOT_HASH_KEY: &str = "thash_entries";
/// Most connections that a network namespace keeps in TIME_WAIT.
pub const TIME_WAIT_MAX_KEY: &str = "net.ipv4.tcp_max_tw_buckets";

/// Buckets of the table of connections for `connections`, by the profiles' `settings`
/// ([`crate::profile::joined`]), where the namespace keeps up to `time_wait_max` connections in
/// TIME_WAIT; `None` if the settings do not size that table.
///
/// The profiles have two buckets for each socket, and as many more as they add to
/// [`TIME_WAIT_MAX_KEY`] beside the connections. A limit that somebody raised further adds its own
/// number instead.
pub fn hash_buckets(settings: &[Setting], connections: u64, time_wait_max: u64) -> Option<u64> {
    let find = |key: &str| settings.iter().find(|setting| setting.key == key);
    let hash = find(CHILD_HASH_KEY).or_else(|| find(BOOT_HASH_KEY))?;
    let mut scale = *hash.scale.first()?;
    let profile_max = find(TIME_WAIT_MAX_KEY)
        .and_then(|setting| setting.wanted(connections).parse().ok())
        .unwrap_or(0);
    if time_wait_max > profile_max {
        scale.plus = scale.plus.max(time_wait_max);
    }
    Some(scale.at(connections))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Role, built_in, joined};

    #[test]
    fn each_entry_has_a_bucket() {
        for role in [Role::Server, Role::Client, Role::Both] {
            let settings = joined(&built_in(role));
            let wanted = |key: &str, connections: u64| -> u64 {
                let setting = settings.iter().find(|s| s.key == key).unwrap();
                setting.wanted(connections).parse().unwrap()
            };
            // 2^24 buckets are the most the kernel makes: enough for 5,000,000 connections with
            // both ends here.
            for connections in [1, 64, 10_000, 64_511, 1_000_000, 4_000_000] {
                let time_wait_max = wanted(TIME_WAIT_MAX_KEY, connections);
                let entries = role.ends() * connections + time_wait_max;
                for key in [CHILD_HASH_KEY, BOOT_HASH_KEY] {
                    let buckets = wanted(key, connections);
                    assert!(
                        buckets >= entries,
                        "{role:?} {connections} {key}: {buckets} buckets for {entries} entries"
                    );
                }
                assert_eq!(
                    hash_buckets(&settings, connections, time_wait_max),
                    Some(wanted(CHILD_HASH_KEY, connections))
                );
            }
        }
    }

    #[test]
    fn time_wait_beyond_the_profile_has_buckets_too() {
        let settings = joined(&built_in(Role::Both));
        // 64 x 4 + 65,536, rounded up; with 131,072 in TIME_WAIT, a host's default, 131,328 rounded
        // up.
        assert_eq!(hash_buckets(&settings, 64, 0), Some(131_072));
        assert_eq!(hash_buckets(&settings, 64, 131_072), Some(262_144));
        // A million connections leave more in TIME_WAIT than that: the profile has counted them.
        assert_eq!(hash_buckets(&settings, 1_000_000, 131_072), Some(4_194_304));
        assert_eq!(hash_buckets(&[], 64, 0), None);
    }
}
