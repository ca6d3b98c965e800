//! Present values of settings: of this machine, or of a described one.
//!
//! Invariants: reading changes nothing; `write` is the only function of this crate that changes a
//! kernel setting, and it reads the value back.
//! Must not depend on: which values are wanted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::setting::{Kind, Setting, is_same, normalised, sysctl_key};

/// Error for a key that only root can write.
pub const NOT_PERMITTED: &str = "not permitted: only root may";

/// Longest value: a list of every second port.
const VALUE_BYTES_MAX: usize = 1 << 18;

/// The result of reading a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Now {
    /// Its value.
    Is(String),
    /// This kernel, or this namespace, does not have the key.
    Absent,
    /// It exists and cannot be read, with the reason.
    Unreadable(String),
}

impl Now {
    /// The value, if there is one.
    pub fn value(&self) -> Option<&str> {
        match self {
            Now::Is(value) => Some(value),
            _ => None,
        }
    }
}

/// Where present values are read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Values {
    /// This machine, as this process sees it.
    Here,
    /// A described machine: its settings by key; it lacks those that are not named.
    Described(BTreeMap<String, String>),
}

/// The key that shows the effect of a kernel command line parameter.
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
                // Negative if the table is shared with another namespace; its size is the same.
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
                .map_or(Now::Absent, |value| Now::Is(normalised(value))),
        }
    }

    /// Replaces each setting whose key is a glob by one for each key that it matches, as
    /// sysctl.d(5) has it: keys that stand on their own and `excluded` ones are left out, and of
    /// several globs the later counts.
    pub fn expand(&self, settings: Vec<Setting>, excluded: &[String]) -> Vec<Setting> {
        let excluded: Vec<glob::Pattern> = excluded.iter().filter_map(|key| pattern(key)).collect();
        let (globs, mut expanded): (Vec<_>, Vec<_>) =
            settings.into_iter().partition(Setting::is_glob);
        let explicit: Vec<String> = expanded.iter().map(|s| s.key.clone()).collect();
        for setting in globs {
            for key in self.matching(&setting.key) {
                let is_excluded = excluded
                    .iter()
                    .any(|p| p.matches_path_with(&path(&key), MATCH));
                if is_excluded || explicit.contains(&key) {
                    continue;
                }
                expanded.retain(|s| s.kind != Kind::Sysctl || s.key != key);
                expanded.push(Setting {
                    key,
                    ..setting.clone()
                });
            }
        }
        expanded
    }

    /// The keys that a glob matches, sorted.
    fn matching(&self, glob: &str) -> Vec<String> {
        match self {
            Values::Here => {
                let found = glob::glob_with(&path(glob).to_string_lossy(), MATCH);
                let paths = found.into_iter().flatten().flatten();
                paths
                    .filter(|path| path.is_file())
                    .filter_map(|path| sysctl_key(path.strip_prefix("/proc/sys").ok()?.to_str()?))
                    .collect()
            }
            Values::Described(values) => {
                let Some(pattern) = pattern(glob) else {
                    return Vec::new();
                };
                let keys = values.keys();
                keys.filter(|key| pattern.matches_path_with(&path(key), MATCH))
                    .cloned()
                    .collect()
            }
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
                .map_or(Now::Absent, |value| Now::Is(normalised(value))),
        }
    }
}

/// A star does not match a slash.
const MATCH: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// Whether `key` is the key, or one of the keys, that `pattern_key` stands for.
pub fn glob_matches(pattern_key: &str, key: &str) -> bool {
    pattern(pattern_key).is_some_and(|pattern| pattern.matches_path_with(&path(key), MATCH))
}

fn pattern(key: &str) -> Option<glob::Pattern> {
    glob::Pattern::new(&path(key).to_string_lossy()).ok()
}

/// The file of a key: dots separate, and a slash stands for a dot within a name (`eth0/1`).
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

/// The present value, white space normalised.
pub fn read(key: &str) -> Now {
    match read_whole(&path(key)) {
        Ok(text) => Now::Is(normalised(&text)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENOTDIR) => Now::Absent,
            _ => Now::Unreadable(error.to_string()),
        },
    }
}

/// Reads everything at once: the kernel gives a list to the first read only, truncated to its size.
fn read_whole(path: &Path) -> std::io::Result<String> {
    let mut bytes = vec![0; VALUE_BYTES_MAX];
    let count = fs::File::open(path)?.read(&mut bytes)?;
    bytes.truncate(count);
    String::from_utf8(bytes).map_err(|_| std::io::ErrorKind::InvalidData.into())
}

/// Whether a key can be written, without writing it.
///
/// # Errors
/// The reason why not, one line.
pub fn check_writable(key: &str) -> Result<(), String> {
    fs::OpenOptions::new()
        .write(true)
        .open(path(key))
        .map(|_| ())
        .map_err(|error| why(&error))
}

/// Writes a value and verifies that the kernel has it.
///
/// # Errors
/// Why the kernel refused it, or the different value it has now, one line.
pub fn write(key: &str, value: &str) -> Result<(), String> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(path(key))
        .map_err(|error| why(&error))?;
    // One write, since the kernel takes a value as a whole. An empty line empties a list of ports.
    let written = file.write_all(format!("{value}\n").as_bytes());
    written.map_err(|error| why(&error))?;
    match read(key) {
        Now::Is(now) if is_same(&now, value) => Ok(()),
        Now::Is(now) => Err(format!("the kernel has {now} instead")),
        // Some keys are write-only.
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
    fn described_machines_have_the_named_values_only() {
        let values = Values::Described(BTreeMap::from([(
            "net.ipv4.tcp_mem".to_owned(),
            "1\t2\t3".to_owned(),
        )]));
        assert_eq!(values.sysctl("net.ipv4.tcp_mem"), Now::Is("1 2 3".into()));
        assert_eq!(values.sysctl("fs.file-max"), Now::Absent);
    }
}
