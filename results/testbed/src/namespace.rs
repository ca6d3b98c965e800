//! A network namespace of our own, tuned for the load; it ends with the last process in it.
//!
//! Purpose: room for millions of connections without touching a setting of the host.
//! The way in, while this process still has one thread:
//!
//! ```text
//!   (user namespace, if not root) -> namespace A: tcp_child_ehash_entries = N -> namespace B: a table of N of its own
//! ```
//!
//! Namespace A exists only to hold the one setting its child reads; it is freed when B is entered.
//! Both ends of the load run in B, so one count of established sockets there is exactly two a
//! connection.
//! Invariants: nothing outside the namespace is written. In the host's network no setting is
//! changed at all. A setting that this kernel lacks is recorded, never fatal.
//! Must not depend on: what load will run, beyond how many users it has.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use nix::unistd::{getgid, getuid};

use holdfast_sysctl::profile::{Profile, Role, built_in, joined};
use holdfast_sysctl::setting::{Kind, Setting};
use holdfast_sysctl::tables::{CHILD_HASH_KEY, TIME_WAIT_MAX_KEY, hash_buckets};
use holdfast_sysctl::values::{Now, read, write};

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_telemetry::namespace::{NamespaceRecord, SettingRecord};

/// Size of this namespace's table; negative where it shares the host's.
const OWN_HASH: &str = "net.ipv4.tcp_ehash_entries";

/// How the namespace is set up.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// In a namespace of its own, not in the host's network.
    pub is_private: bool,
    /// The settings of the kernel profiles, scaled to the users; without it, the kernel's own.
    pub has_profile: bool,
    /// Settings exactly as given, over those of the profiles.
    pub settings: Vec<Setting>,
    /// Which ends of the connections are in it: whose profiles.
    pub role: Role,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            is_private: true,
            has_profile: true,
            settings: Vec::new(),
            role: Role::Both,
        }
    }
}

impl Tuning {
    /// Checks `overrides`, each `KEY=VALUE`.
    ///
    /// # Errors
    /// When one is not a setting of a network namespace, or there is none to set it in.
    pub fn new(
        is_private: bool,
        has_profile: bool,
        overrides: &[String],
    ) -> Result<Self, SetupError> {
        let mut tuning = Self {
            is_private,
            has_profile,
            ..Self::default()
        };
        for text in overrides {
            let next = "give --sysctl net.core.somaxconn=4096, or holdfast-tune apply for settings of the machine";
            let profile = Profile::parse("--sysctl", text).map_err(|error| {
                SetupError::new(SetupErrorKind::InvalidInput, error.to_string(), next)
            })?;
            let [setting] = &profile.settings[..] else {
                return Err(SetupError::new(
                    SetupErrorKind::InvalidInput,
                    format!("--sysctl '{text}' is no setting"),
                    next,
                ));
            };
            if !setting.key.starts_with("net.") {
                let cause = format!(
                    "--sysctl {}: only net.* belongs to a namespace",
                    setting.key
                );
                return Err(SetupError::new(SetupErrorKind::InvalidInput, cause, next));
            }
            if !is_private {
                let cause = "--sysctl with --no-namespace would change the host's network";
                return Err(SetupError::new(
                    SetupErrorKind::InvalidInput,
                    cause,
                    "leave one of the two out",
                ));
            }
            tuning.settings.push(setting.clone());
        }
        Ok(tuning)
    }

    /// What is set for so many users.
    fn settings(&self, users: u64) -> Vec<(String, String, String)> {
        let mut all = if self.has_profile {
            joined(&built_in(self.role))
        } else {
            Vec::new()
        };
        all.retain(|setting| {
            setting.kind == Kind::Sysctl
                && setting.key.starts_with("net.")
                && setting.until.is_none()
                && !self.settings.iter().any(|own| own.key == setting.key)
        });
        all.extend(self.settings.iter().cloned());
        let wanted = |setting: &Setting| match read(&setting.key) {
            // What the profile does not ask to lower stays; what is given on the command line is
            // meant.
            Now::Is(now) if !setting.why.is_empty() => {
                setting.merged(&now, &setting.wanted(users), setting.rule)
            }
            _ => setting.wanted(users),
        };
        let mut values: Vec<String> = all.iter().map(wanted).collect();
        // However few connections are open at once, short ones leave as many behind as TIME_WAIT
        // may hold.
        let at = |key: &str| all.iter().position(|setting| setting.key == key);
        if let (Some(hash), Some(time_wait)) = (at(CHILD_HASH_KEY), at(TIME_WAIT_MAX_KEY))
            && !all[hash].why.is_empty()
            && let Ok(time_wait_max) = values[time_wait].parse()
            && let Some(buckets) = hash_buckets(&all, users, time_wait_max)
        {
            values[hash] = buckets.to_string();
        }
        all.into_iter()
            .zip(values)
            .map(|(setting, value)| (setting.key, value, setting.why))
            .collect()
    }
}

/// Enters a private namespace for `users` connections, or stays in the host's network when that is
/// asked for or the system forbids namespaces; the record says which, and why.
///
/// Call while this process has one thread: a user namespace cannot be entered otherwise.
#[must_use]
pub fn enter(users: u64, tuning: &Tuning) -> NamespaceRecord {
    let mut lab = NamespaceRecord::default();
    let settings = tuning.settings(users);
    let buckets = settings.iter().find(|(key, ..)| key == CHILD_HASH_KEY);
    let wanted: u64 = buckets.map_or(0, |(_, value, _)| value.parse().unwrap_or(0));
    lab.connection_hash_buckets_wanted = wanted;

    if !tuning.is_private {
        lab.namespace = "host".into();
        lab.notes.push("in the host's network by --no-namespace: no setting is changed, kernel figures are differences".into());
    } else {
        match enter_private(wanted, &mut lab) {
            Ok(kind) => lab.namespace = kind.into(),
            Err(why) => {
                lab.namespace = "host".into();
                lab.notes.push(format!(
                    "no private network namespace ({why}): in the host's network, as with --no-namespace; no setting is changed, kernel figures are differences"
                ));
            }
        }
    }

    let is_ours = lab.is_private();
    lab.settings = settings
        .into_iter()
        .map(|setting| apply(setting, is_ours))
        .collect();
    lab.connection_hash_buckets = value(OWN_HASH).and_then(|v| v.parse().ok());
    if is_ours
        && wanted > 0
        && lab
            .connection_hash_buckets
            .is_none_or(|buckets| buckets <= 0)
    {
        lab.notes.push(format!(
            "the connection table is the host's, not {wanted} buckets of our own: long chains slow large runs ({CHILD_HASH_KEY} came with Linux 6.1)"
        ));
    }
    lab
}

/// The unshare calls in their order; says which kind of namespace it became.
fn enter_private(buckets: u64, lab: &mut NamespaceRecord) -> Result<&'static str, String> {
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
    if buckets == 0 {
        // The kernel's own way: the table is shared with the host.
    } else if let Err(e) = write(CHILD_HASH_KEY, &buckets.to_string()) {
        lab.notes
            .push(format!("{CHILD_HASH_KEY} could not be set: {e}"));
    } else if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
        lab.notes.push(format!(
            "no second namespace, so no connection table of our own: {e}"
        ));
    }
    loopback_up()?;
    Ok(kind)
}

/// A user namespace in which this user is root, so that network namespaces may be made in it.
pub(crate) fn enter_user_namespace() -> Result<(), String> {
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
pub(crate) fn loopback_up() -> Result<(), String> {
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

/// A TCP port of the loopback network that is free now and that a plain user may take.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16, SetupError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| Ok(listener.local_addr()?.port()))
        .map_err(|e| SetupError::from_io("no port is free", e, "choose one with --port 7070"))
}

fn value(key: &str) -> Option<String> {
    read(key).value().map(str::to_owned)
}

fn apply((key, wanted, why): (String, String, String), is_ours: bool) -> SettingRecord {
    let before = value(&key);
    let mut error = None;
    if !is_ours {
        error = Some("host's network: left as it is".to_string());
    } else if before.is_none() {
        error = Some("not in this namespace: the host's".to_string());
    } else if before.as_ref() != Some(&wanted) {
        error = write(&key, &wanted).err();
    }
    SettingRecord {
        after: value(&key),
        key,
        wanted,
        before,
        why,
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_given_are_of_a_namespace_and_over_the_profiles() {
        let refused = |is_private, text: &str| {
            Tuning::new(is_private, true, &[text.to_owned()])
                .unwrap_err()
                .to_string()
        };
        assert!(refused(true, "fs.file-max=1").contains("only net.*"));
        assert!(refused(true, "somaxconn").contains("expected key = value"));
        assert!(refused(true, "").contains("no setting"));
        assert!(refused(false, "net.core.somaxconn=1").contains("host's network"));
        let tuning = Tuning::new(true, true, &["net.core.somaxconn=128".into()]).unwrap();
        let settings = tuning.settings(1_000_000);
        let of = |key: &str| -> Vec<&str> {
            let same = settings.iter().filter(|(k, ..)| k == key);
            same.map(|(_, value, _)| value.as_str()).collect()
        };
        assert_eq!(of("net.core.somaxconn"), ["128"]);
        // Two buckets for each of two million sockets.
        assert_eq!(of(CHILD_HASH_KEY), ["4194304"]);
        assert!(settings.iter().all(|(key, ..)| key.starts_with("net.")));
        let bare = Tuning::new(true, false, &[]).unwrap();
        assert!(bare.settings(1_000_000).is_empty());
    }

    #[test]
    fn few_connections_have_room_for_all_that_time_wait_may_hold() {
        let settings = Tuning::default().settings(64);
        let of = |key: &str| -> u64 {
            let found = settings.iter().find(|(k, ..)| k == key);
            found.expect("set").1.parse().expect("a number")
        };
        let entries = 2 * 64 + of(TIME_WAIT_MAX_KEY);
        assert!(entries > 65_536 && of(CHILD_HASH_KEY) >= entries);
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
}
