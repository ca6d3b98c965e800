//! The lab: a network namespace of our own, tuned for the load and gone with the last process in it.
//!
//! Purpose: room for millions of connections without touching a setting of the host.
//! The way in, while this process still has one thread:
//!
//! ```text
//!   (user namespace, if not root) -> namespace A: tcp_child_ehash_entries = N -> namespace B: a table of N of its own
//! ```
//!
//! Namespace A exists only to hold the one setting its child reads; it is freed when B is entered. Both ends of the
//! load run in B, so one count of established sockets there is exactly two a connection.
//! Invariants: nothing outside the namespace is written. In the host's network no setting is changed at all.
//! A setting that this kernel lacks is recorded, never fatal.
//! Must not know: what load will run, beyond how many users it has.

use std::fs;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use nix::unistd::{getgid, getuid};

use crate::run::{LabRecord, SettingRecord};

/// One line of the lab's settings.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Name as `sysctl` spells it.
    pub key: &'static str,
    /// Value wanted.
    pub value: &'static str,
    /// What goes wrong without it.
    pub why: &'static str,
}

/// What the namespace is given, in order. All of it is `net.*`, so all of it ends with the namespace.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "net.core.somaxconn",
        value: "65535",
        why: "an accept queue of 4096 overflows within milliseconds of a fast ramp",
    },
    Setting {
        key: "net.ipv4.tcp_max_syn_backlog",
        value: "65535",
        why: "half-open connections of a fast ramp must not be dropped",
    },
    Setting {
        key: "net.ipv4.tcp_syncookies",
        value: "1",
        why: "stays on, as any public server has it; its counters show whether the ramp met it",
    },
    Setting {
        key: "net.ipv4.ip_local_port_range",
        value: "1024 65535",
        why: "64,511 connections for each source address instead of 28,232",
    },
    Setting {
        key: "net.ipv4.tcp_max_tw_buckets",
        value: "8388608",
        why: "the end of a large run is counted in TIME_WAIT instead of overflowing it",
    },
];

/// The setting whose value a new namespace takes as the size of its own connection table.
const CHILD_HASH: &str = "net.ipv4.tcp_child_ehash_entries";
/// Size of this namespace's table; negative where it shares the host's.
const OWN_HASH: &str = "net.ipv4.tcp_ehash_entries";

/// Buckets for `users` connections with both ends here: about two a socket, a power of two within the kernel's bounds.
#[must_use]
pub fn connection_hash_buckets(users: u64) -> u64 {
    const BUCKETS_MIN: u64 = 1 << 18;
    const BUCKETS_MAX: u64 = 1 << 24;
    users
        .saturating_mul(4)
        .min(BUCKETS_MAX)
        .next_power_of_two()
        .clamp(BUCKETS_MIN, BUCKETS_MAX)
}

/// Enters a private namespace for `users` connections, or stays in the host's network when `is_private` is false or
/// the system forbids namespaces; the record says which, and why.
///
/// Call while this process has one thread: a user namespace cannot be entered otherwise.
#[must_use]
pub fn enter(users: u64, is_private: bool) -> LabRecord {
    let mut lab = LabRecord::default();
    let wanted = connection_hash_buckets(users);
    lab.connection_hash_buckets_wanted = wanted;

    if !is_private {
        lab.namespace = "host".into();
        lab.notes.push("in the host's network by --no-namespace: no setting is changed, kernel figures are differences".into());
    } else {
        match enter_private(wanted, &mut lab) {
            Ok(kind) => lab.namespace = kind.into(),
            Err(why) => {
                lab.namespace = "host".into();
                lab.notes.push(format!(
                    "no private network namespace ({why}): in the host's network, no setting is changed, kernel figures are differences"
                ));
            }
        }
    }

    let is_ours = lab.namespace != "host";
    lab.settings = SETTINGS
        .iter()
        .map(|setting| apply(setting, is_ours))
        .collect();
    lab.connection_hash_buckets = read(OWN_HASH).and_then(|v| v.parse().ok());
    if is_ours
        && lab
            .connection_hash_buckets
            .is_none_or(|buckets| buckets <= 0)
    {
        lab.notes.push(format!(
            "the connection table is the host's, not {wanted} buckets of our own: long chains slow large runs ({CHILD_HASH} came with Linux 6.1)"
        ));
    }
    lab
}

/// The unshare calls in their order; says which kind of namespace it became.
fn enter_private(buckets: u64, lab: &mut LabRecord) -> Result<&'static str, String> {
    let kind = match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => "private",
        Err(Errno::EPERM) => {
            enter_user_namespace()?;
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|e| format!("unshare of the network as plain user: {e}"))?;
            "private (user namespace)"
        }
        Err(e) => return Err(format!("unshare of the network: {e}")),
    };
    if let Err(e) = write(CHILD_HASH, &buckets.to_string()) {
        lab.notes
            .push(format!("{CHILD_HASH} could not be set: {e}"));
    } else if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
        lab.notes.push(format!(
            "no second namespace, so no connection table of our own: {e}"
        ));
    }
    loopback_up()?;
    Ok(kind)
}

/// A user namespace in which this user is root, so that network namespaces may be made in it.
fn enter_user_namespace() -> Result<(), String> {
    let (uid, gid) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| {
        format!("unshare as plain user: {e}; run as root, or allow it with sysctl kernel.unprivileged_userns_clone=1 or user.max_user_namespaces=1000")
    })?;
    let map = |path: &str, line: String| fs::write(path, line).map_err(|e| format!("{path}: {e}"));
    map("/proc/self/setgroups", "deny".into())?;
    map("/proc/self/uid_map", format!("0 {uid} 1"))?;
    map("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Brings `lo` up by one netlink message (the ioctl for it cannot be called without unsafe code).
fn loopback_up() -> Result<(), String> {
    let say = |what: &str, e: Errno| format!("loopback: {what}: {e}");
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )
    .map_err(|e| say("netlink socket", e))?;
    use std::os::fd::AsRawFd;
    sendto(
        fd.as_raw_fd(),
        &loopback_up_request(),
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )
    .map_err(|e| say("netlink request", e))?;
    let mut answer = [0u8; 128];
    let length = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())
        .map_err(|e| say("netlink answer", e))?;
    match netlink_errno(&answer[..length]) {
        Some(0) => Ok(()),
        Some(code) => Err(say("netlink", Errno::from_raw(-code))),
        None => Err("loopback: netlink answered something else than an acknowledgement".into()),
    }
}

/// RTM_NEWLINK for interface 1 (a new namespace's `lo`) with IFF_UP set, acknowledgement asked.
fn loopback_up_request() -> [u8; 32] {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;
    const IFF_UP: u32 = 1;
    let mut m = [0u8; 32];
    m[0..4].copy_from_slice(&32u32.to_ne_bytes()); // nlmsghdr: length, type, flags, sequence, port
    m[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
    m[6..8].copy_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    m[8..12].copy_from_slice(&1u32.to_ne_bytes());
    m[20..24].copy_from_slice(&1i32.to_ne_bytes()); // ifinfomsg: family, type, index, flags, change mask
    m[24..28].copy_from_slice(&IFF_UP.to_ne_bytes());
    m[28..32].copy_from_slice(&IFF_UP.to_ne_bytes());
    m
}

/// The error number inside an NLMSG_ERROR answer: 0 for done, negative otherwise.
fn netlink_errno(answer: &[u8]) -> Option<i32> {
    const NLMSG_ERROR: u16 = 2;
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then_some(code)
}

fn apply(setting: &Setting, is_ours: bool) -> SettingRecord {
    let before = read(setting.key);
    let mut error = None;
    if !is_ours {
        error = Some("host's network: left as it is".to_string());
    } else if before.is_none() {
        error = Some("this kernel does not have it here".to_string());
    } else if before.as_deref() != Some(setting.value) {
        error = write(setting.key, setting.value)
            .err()
            .map(|e| e.to_string());
    }
    SettingRecord {
        key: setting.key.into(),
        wanted: setting.value.into(),
        after: read(setting.key),
        before,
        why: setting.why.into(),
        error,
    }
}

fn path(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

/// A setting's value with its white space evened, as the namespace of this task sees it.
fn read(key: &str) -> Option<String> {
    let text = fs::read_to_string(path(key)).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn write(key: &str, value: &str) -> std::io::Result<()> {
    fs::write(path(key), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_a_power_of_two_within_bounds() {
        assert_eq!(connection_hash_buckets(1), 1 << 18);
        assert_eq!(connection_hash_buckets(1_000_000), 1 << 22);
        assert_eq!(connection_hash_buckets(2_400_000), 1 << 24);
        assert_eq!(connection_hash_buckets(u64::MAX), 1 << 24);
    }

    #[test]
    fn netlink_answers_are_read() {
        let mut answer = [0u8; 36];
        answer[4..6].copy_from_slice(&2u16.to_ne_bytes());
        assert_eq!(netlink_errno(&answer), Some(0));
        answer[16..20].copy_from_slice(&(-1i32).to_ne_bytes());
        assert_eq!(netlink_errno(&answer), Some(-1));
        assert_eq!(netlink_errno(&answer[..8]), None);
    }

    #[test]
    fn settings_are_of_the_namespace_only() {
        assert!(
            SETTINGS
                .iter()
                .all(|s| s.key.starts_with("net.") && !s.why.is_empty())
        );
    }
}
