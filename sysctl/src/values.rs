//! The present values of settings: of this machine, or of one that is only described.
//!
//! Invariants: reading changes nothing; `write` is the only function of this crate that changes a kernel setting, and it reads back what the
//! kernel made of the value.
//! Must not know: which values are wanted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::setting::{Kind, Setting, evened, is_same};

/// Why a plain user cannot write a key that root can.
pub const NOT_PERMITTED: &str = "not permitted: only root may";

/// Longest value: a list of every second port.
const VALUE_BYTES_MAX: usize = 1 << 18;

/// What became of asking for a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Now {
    /// The kernel has it.
    Is(String),
    /// This kernel, or this namespace, does not have the key.
    Absent,
    /// It is there and cannot be read, and why.
    Unreadable(String),
}

impl Now {
    /// The value, where there is one.
    pub fn value(&self) -> Option<&str> {
        match self {
            Now::Is(value) => Some(value),
            _ => None,
        }
    }
}

/// Where present values come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Values {
    /// This machine, as this process sees it.
    Here,
    /// A machine that is only described: its settings by key; what is not named it does not have.
    Described(BTreeMap<String, String>),
}

/// What shows a parameter of the kernel's command line at work.
fn boot_key(parameter: &str) -> Option<&'static str> {
    match parameter {
        "thash_entries" => Some("net.ipv4.tcp_ehash_entries"),
        _ => None,
    }
}

impl Values {
    /// The present value of a setting.
    pub fn now(&self, setting: &Setting) -> Now {
        match setting.kind {
            Kind::Sysctl => self.sysctl(&setting.key),
            Kind::Limit => self.limit(&setting.key),
            Kind::Boot => match boot_key(&setting.key).map(|key| self.sysctl(key)) {
                // Negative: the table is shared with another namespace, which does not change its size.
                Some(Now::Is(value)) => Now::Is(value.trim_start_matches('-').to_owned()),
                Some(other) => other,
                None => Now::Absent,
            },
            Kind::Advice => Now::Absent,
        }
    }

    /// The present value of a key below `/proc/sys`.
    pub fn sysctl(&self, key: &str) -> Now {
        match self {
            Values::Here => read(key),
            Values::Described(values) => values
                .get(key)
                .map_or(Now::Absent, |value| Now::Is(evened(value))),
        }
    }

    fn limit(&self, name: &str) -> Now {
        match (self, name) {
            (Values::Here, "nofile") => match getrlimit(Resource::RLIMIT_NOFILE) {
                Ok((_, hard)) => Now::Is(hard.to_string()),
                Err(errno) => Now::Unreadable(errno.desc().to_owned()),
            },
            (Values::Here, _) => Now::Absent,
            (Values::Described(values), _) => values
                .get(&format!("limit {name}"))
                .map_or(Now::Absent, |value| Now::Is(evened(value))),
        }
    }
}

/// The file of a key: dots separate, and what was a dot within a name is a slash (`eth0/1`).
pub fn path(key: &str) -> PathBuf {
    let below: String = key
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect();
    PathBuf::from("/proc/sys").join(below)
}

/// A value as it is now, white space evened.
pub fn read(key: &str) -> Now {
    match read_whole(&path(key)) {
        Ok(text) => Now::Is(evened(&text)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENOTDIR) => Now::Absent,
            _ => Now::Unreadable(error.to_string()),
        },
    }
}

/// Reads with room for all of it: a list or a row of numbers is given to the first read only, cut to its length.
fn read_whole(path: &Path) -> std::io::Result<String> {
    let mut bytes = vec![0; VALUE_BYTES_MAX];
    let count = fs::File::open(path)?.read(&mut bytes)?;
    bytes.truncate(count);
    String::from_utf8(bytes).map_err(|_| std::io::ErrorKind::InvalidData.into())
}

/// Why a key could not be written now, without writing it.
pub fn check_writable(key: &str) -> Result<(), String> {
    fs::OpenOptions::new()
        .write(true)
        .open(path(key))
        .map(|_| ())
        .map_err(|error| why(&error))
}

/// Writes a value, and makes sure that the kernel has it.
///
/// # Errors
/// Why the kernel did not take it, or what it made of it, one line.
pub fn write(key: &str, value: &str) -> Result<(), String> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(path(key))
        .map_err(|error| why(&error))?;
    // One write: the kernel takes a value as a whole. A list of ports is emptied by an empty line.
    let written = file.write_all(format!("{value}\n").as_bytes());
    written.map_err(|error| why(&error))?;
    match read(key) {
        Now::Is(now) if is_same(&now, value) => Ok(()),
        Now::Is(now) => Err(format!("the kernel made {now} of it")),
        // Some keys can be written only.
        Now::Absent | Now::Unreadable(_) => Ok(()),
    }
}

fn why(error: &std::io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES | Errno::EPERM) if geteuid().is_root() => "read-only here".into(),
        Some(Errno::EACCES | Errno::EPERM) => NOT_PERMITTED.into(),
        Some(Errno::EROFS) => "/proc/sys is mounted read-only here (a container?)".into(),
        Some(Errno::EINVAL | Errno::ERANGE) => {
            "the kernel refuses this value (out of range, or not of its kind)".into()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_keys() {
        assert_eq!(
            path("net.core.somaxconn"),
            PathBuf::from("/proc/sys/net/core/somaxconn")
        );
        assert_eq!(
            path("net.ipv4.conf.eth0/1.rp_filter"),
            PathBuf::from("/proc/sys/net/ipv4/conf/eth0.1/rp_filter")
        );
    }

    #[test]
    fn described_machines_have_what_is_said() {
        let values = Values::Described(BTreeMap::from([(
            "net.ipv4.tcp_mem".to_owned(),
            "1\t2\t3".to_owned(),
        )]));
        assert_eq!(values.sysctl("net.ipv4.tcp_mem"), Now::Is("1 2 3".into()));
        assert_eq!(values.sysctl("fs.file-max"), Now::Absent);
    }
}
