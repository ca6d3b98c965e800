//! A kernel profile: a file that `sysctl -p` can read and whose comments say how each value scales
//! with the number of connections and how it is compared.
//!
//! ```text
//! # Prose: what it does, why this value, what goes wrong without it.
//! #: why an accept queue of 4096 overflows within milliseconds of a fast ramp
//! #: rule at-least
//! net.core.somaxconn = 65535
//! ```
//!
//! The directives are listed in `sysctl/README.md`. Any `sysctl.conf` or sysctl.d(5) file is a
//! profile too, every key exactly as written: with globs (`net.ipv4.conf.*.rp_filter = 2`),
//! exclusions from them (`-net.ipv4.conf.all.rp_filter`), keys that may be missing (`-key = value`)
//! and repeated keys, of which the last counts.
//! Invariants: a profile is read completely or not at all; the first malformed line is an error
//! with file, line and what was expected. Sizes are bounded, so no file can exhaust memory. No key
//! reaches outside `/proc/sys`.
//! Must not depend on: this machine.

use std::fmt;

use serde::Serialize;

use crate::setting::{
    Kind, Rule, Scale, Setting, Unless, Weight, is_glob, normalised, sysctl_key, sysctl_pattern,
};
use crate::values::glob_matches;

/// Longest profile, bytes.
pub const PROFILE_BYTES_MAX: usize = 1 << 20;
/// Longest value, bytes.
const VALUE_BYTES_MAX: usize = 4096;

/// Where a profile is malformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// The file, as the user named it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// The text found.
    pub found: String,
    /// What was expected.
    pub expected: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: found {}, expected {}",
            self.file, self.line, self.found, self.expected
        )
    }
}

impl std::error::Error for SyntaxError {}

/// A profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// `server`, `client`, `host`, or the file's path.
    pub name: String,
    /// Its settings in the order of the file.
    pub settings: Vec<Setting>,
    /// Keys, and globs of keys, that the globs among the settings do not stand for.
    pub excluded: Vec<String>,
}

/// The role of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Accepts and holds connections.
    Server,
    /// Opens them.
    Client,
    /// Both ends on one machine.
    Both,
    /// Forwards packets: a hypervisor, a container host, a router.
    Host,
}

impl Role {
    /// How many ends of each connection are on this machine.
    pub fn ends(self) -> u64 {
        match self {
            Role::Server | Role::Client => 1,
            Role::Both => 2,
            Role::Host => 0,
        }
    }

    /// True if connections are accepted on this machine.
    pub fn serves(self) -> bool {
        matches!(self, Role::Server | Role::Both)
    }

    /// True if connections are opened on this machine.
    pub fn opens(self) -> bool {
        matches!(self, Role::Client | Role::Both)
    }

    /// As typed on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Role::Server => "server",
            Role::Client => "client",
            Role::Both => "both",
            Role::Host => "host",
        }
    }
}

/// The built-in profiles: name and text.
pub const BUILT_IN: [(&str, &str); 3] = [
    ("server", include_str!("../profiles/server.conf")),
    ("client", include_str!("../profiles/client.conf")),
    ("host", include_str!("../profiles/host.conf")),
];

/// The built-in profiles of a role. Every machine is also a host to its own packets.
pub fn built_in(role: Role) -> Vec<Profile> {
    BUILT_IN
        .iter()
        .filter(|(name, _)| match *name {
            "server" => role.serves(),
            "client" => role.opens(),
            _ => true,
        })
        .map(|(name, text)| {
            Profile::parse(name, text).unwrap_or_else(|error| {
                panic!("a built-in profile is malformed, which tests rule out: {error}")
            })
        })
        .collect()
}

/// All settings of some profiles. A setting in several is wanted by each end of a connection:
/// amounts per connection add up.
pub fn joined(profiles: &[Profile]) -> Vec<Setting> {
    let mut all: Vec<Setting> = Vec::new();
    for setting in profiles.iter().flat_map(|profile| &profile.settings) {
        let same = |s: &&mut Setting| s.key == setting.key && s.kind == setting.kind;
        match all.iter_mut().find(same) {
            Some(known) => *known = known.combined_with(setting),
            None => all.push(setting.clone()),
        }
    }
    all
}

/// The comments before a setting, as far as they were read.
#[derive(Default)]
struct Block {
    prose: Vec<String>,
    rule: Option<Rule>,
    scale: Vec<Scale>,
    weight: Option<Weight>,
    unless: Unless,
    why: String,
    absent: Option<String>,
    scope: Option<String>,
    since: Option<String>,
    until: Option<String>,
    default: Option<String>,
    original: Option<String>,
    has_directives: bool,
}

impl Profile {
    /// Whether it sets `key`, by name or by a glob.
    pub fn has_key(&self, key: &str) -> bool {
        self.settings
            .iter()
            .any(|setting| setting.kind == Kind::Sysctl && glob_matches(&setting.key, key))
    }

    /// Parses a profile. `name` is its name in errors.
    ///
    /// # Errors
    /// The first malformed line.
    pub fn parse(name: &str, text: &str) -> Result<Self, SyntaxError> {
        let error = |line: usize, found: &str, expected: &str| {
            let mut found: String = found.trim().chars().take(80).collect();
            found.retain(|c| !c.is_control());
            SyntaxError {
                file: name.to_owned(),
                line,
                found: if found.is_empty() {
                    "nothing".to_owned()
                } else {
                    format!("'{found}'")
                },
                expected: expected.to_owned(),
            }
        };
        if text.len() > PROFILE_BYTES_MAX {
            return Err(error(1, "more than 1 MiB", "a profile of some kilobytes"));
        }
        let mut settings: Vec<Setting> = Vec::new();
        let mut excluded = Vec::new();
        let mut block = Block::default();
        let mut last = 0;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            last = number;
            let line = line.trim();
            if let Some(directive) = line.strip_prefix("#:") {
                let (word, rest) = directive
                    .trim()
                    .split_once(' ')
                    .unwrap_or((directive.trim(), ""));
                let (kind, name_value) = match word {
                    "limit" => (Kind::Limit, rest),
                    "boot" => (Kind::Boot, rest),
                    "advice" => (Kind::Advice, rest),
                    _ => {
                        block
                            .directive(word, rest.trim())
                            .map_err(|expected| error(number, directive, expected))?;
                        continue;
                    }
                };
                let (key, value) = match (kind, name_value.split_once('=')) {
                    (Kind::Advice, _) => (name_value.trim(), ""),
                    (_, Some((key, value))) => (key.trim(), value.trim()),
                    (_, None) => return Err(error(number, directive, "name = value")),
                };
                if key.is_empty() {
                    return Err(error(number, directive, "a name"));
                }
                if has_odd_number(value) {
                    return Err(error(number, value, PLAIN_NUMBERS));
                }
                settings.push(std::mem::take(&mut block).into_setting(key, value, kind, number));
            } else if let Some(prose) = line.strip_prefix(['#', ';']) {
                block
                    .prose
                    .push(prose.strip_prefix(' ').unwrap_or(prose).to_owned());
            } else if line.is_empty() {
                if block.has_directives {
                    return Err(error(
                        number,
                        line,
                        "key = value after the directives above it",
                    ));
                }
                block = Block::default();
            } else {
                let expected_key = "a key such as net.core.somaxconn before the =";
                let Some((key, value)) = line.split_once('=') else {
                    let key = line.strip_prefix('-').and_then(|key| pattern(key.trim()));
                    let key = key.ok_or_else(|| {
                        error(number, line, "key = value, -key, or a comment with #")
                    })?;
                    excluded.push(key);
                    block = Block::default();
                    continue;
                };
                let (key, may_be_absent) = match key.trim().strip_prefix('-') {
                    Some(key) => (key.trim(), true),
                    None => (key.trim(), false),
                };
                let key = pattern(key).ok_or_else(|| error(number, key, expected_key))?;
                let value = normalised(value);
                if value.is_empty() || value.len() > VALUE_BYTES_MAX {
                    return Err(error(number, &value, "a value after the ="));
                }
                if has_odd_number(&value) {
                    return Err(error(number, &value, PLAIN_NUMBERS));
                }
                // As with sysctl, the last of several assignments counts.
                settings.retain(|s| s.key != key || s.kind != Kind::Sysctl);
                let block = std::mem::take(&mut block);
                if !block.scale.is_empty() && block.scale.len() != value.split(' ').count() {
                    return Err(error(
                        number,
                        &value,
                        "as many elements as per-connection has terms",
                    ));
                }
                let mut setting = block.into_setting(&key, &value, Kind::Sysctl, number);
                setting.may_be_absent = may_be_absent;
                settings.push(setting);
            }
        }
        if block.has_directives {
            return Err(error(last, "", "key = value after the directives above it"));
        }
        Ok(Profile {
            name: name.to_owned(),
            settings,
            excluded,
        })
    }
}

impl Block {
    /// Reads one directive, or returns what was expected.
    fn directive(&mut self, word: &str, rest: &str) -> Result<(), &'static str> {
        self.has_directives = true;
        let text = || (!rest.is_empty()).then(|| rest.to_owned());
        match word {
            "why" => self.why = text().ok_or("a text after why")?,
            "absent" => self.absent = Some(text().ok_or("a text after absent")?),
            "default" => self.default = Some(text().ok_or("a text after default")?),
            "original" => self.original = Some(text().ok_or("a text after original")?),
            "since" => self.since = Some(text().ok_or("a kernel version after since")?),
            "until" => self.until = Some(text().ok_or("a kernel version after until")?),
            "scope" => {
                self.scope = match rest {
                    "machine" | "namespace" | "initial" => text(),
                    _ => return Err("scope machine, namespace or initial"),
                }
            }
            "rule" => {
                self.rule = Some(match rest {
                    "at-least" => Rule::AtLeast,
                    "at-most" => Rule::AtMost,
                    "exactly" => Rule::Exactly,
                    "covers" => Rule::Covers,
                    "contains" => Rule::Contains,
                    _ => return Err("rule at-least, at-most, exactly, covers or contains"),
                })
            }
            "shortfall" => {
                let (weight, conditions) = rest.split_once(' ').unwrap_or((rest, ""));
                self.weight = Some(match weight {
                    "stops" => Weight::Stops,
                    "slows" => Weight::Slows,
                    "none" => Weight::None,
                    _ => return Err("shortfall stops, slows or none"),
                });
                let conditions = normalised(conditions);
                self.unless = Unless {
                    sys_admin: conditions.contains("unless CAP_SYS_ADMIN"),
                    untracked: conditions.contains("when tracked"),
                };
                let said = [
                    (self.unless.sys_admin, "unless CAP_SYS_ADMIN"),
                    (self.unless.untracked, "when tracked"),
                ];
                let known: usize = said
                    .iter()
                    .filter(|(is_said, _)| *is_said)
                    .map(|(_, text)| text.len() + 1)
                    .sum();
                if known.saturating_sub(1) != conditions.len() {
                    return Err("after it: unless CAP_SYS_ADMIN, or: when tracked");
                }
            }
            "per-connection" => {
                let terms = rest.split(',').map(|term| scale(term.trim()));
                self.scale = terms.collect::<Option<_>>().ok_or(
                    "per-connection SHARE [plus N] [power-of-two] [max N], terms separated by commas",
                )?;
            }
            _ => {
                return Err(
                    "why, rule, per-connection, shortfall, scope, since, until, default, original, absent, limit, boot or advice",
                );
            }
        }
        Ok(())
    }

    fn into_setting(self, key: &str, value: &str, kind: Kind, line: usize) -> Setting {
        Setting {
            key: key.to_owned(),
            kind,
            value: value.to_owned(),
            scale: self.scale,
            rule: self.rule.unwrap_or_default(),
            weight: self.weight.unwrap_or_default(),
            unless: self.unless,
            may_be_absent: false,
            why: self.why,
            absent: self.absent,
            scope: self.scope,
            since: self.since,
            until: self.until,
            default: self.default,
            original: self.original,
            prose: self.prose.join("\n"),
            line,
        }
    }
}

/// A key, or a glob of keys.
fn pattern(key: &str) -> Option<String> {
    let key = sysctl_pattern(key)?;
    if is_glob(&key) {
        glob::Pattern::new(&key).ok()?;
        return Some(key);
    }
    sysctl_key(&key)
}

/// `1.5 plus 65536 power-of-two max 100`; a constant term is `0 plus N`.
fn scale(term: &str) -> Option<Scale> {
    let mut words = term.split_whitespace();
    let share: f64 = words.next()?.parse().ok()?;
    if !(0.0..=1e6).contains(&share) {
        return None;
    }
    let mut scale = Scale {
        per_connection: share,
        plus: 0,
        power_of_two: false,
        max: u64::MAX,
    };
    while let Some(word) = words.next() {
        match word {
            "plus" => scale.plus = words.next()?.parse().ok()?,
            "max" => scale.max = words.next()?.parse().ok()?,
            "power-of-two" => scale.power_of_two = true,
            _ => return None,
        }
    }
    Some(scale)
}

/// The expectation that [`has_odd_number`] violates.
const PLAIN_NUMBERS: &str = "plain numbers: the kernel reads 010 as octal, and no +5";

/// True if a number, alone or in a list, is not written as the kernel would write it.
fn has_odd_number(value: &str) -> bool {
    let is_odd = |word: &str| word.parse::<i64>().is_ok_and(|n| n.to_string() != word);
    value.split(' ').any(is_odd) || value.split([' ', ',', '-']).any(is_odd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Values;

    fn error(text: &str) -> String {
        Profile::parse("mine.conf", text).unwrap_err().to_string()
    }

    #[test]
    fn plain_sysctl_conf_is_a_profile() {
        let text = "# mine\n; too\n\nnet.core.somaxconn=65535\n\n-net/ipv4/conf/eth0.1/rp_filter = 0\nnet.ipv4.tcp_rmem =\t4096  87380\t6291456\n";
        let profile = Profile::parse("mine.conf", text).unwrap();
        let said: Vec<_> = profile
            .settings
            .iter()
            .map(|s| (s.key.as_str(), s.value.as_str(), s.may_be_absent))
            .collect();
        assert_eq!(
            said,
            [
                ("net.core.somaxconn", "65535", false),
                ("net.ipv4.conf.eth0/1.rp_filter", "0", true),
                ("net.ipv4.tcp_rmem", "4096 87380 6291456", false),
            ]
        );
        assert!(profile.settings.iter().all(|s| s.rule == Rule::Exactly));
    }

    #[test]
    fn what_sysctl_d_allows() {
        let text = "net.ipv4.conf.*.rp_filter = 2\n-net.ipv4.conf.all.rp_filter\n-net/ipv4/conf/eth[01].*/rp_filter\n\
                    net.core.somaxconn = 1\nnet.ipv4.tcp_fin_timeout = 30\nnet.core.somaxconn = 2\n";
        let profile = Profile::parse("mine.conf", text).unwrap();
        let shown: Vec<_> = profile
            .settings
            .iter()
            .map(|s| (s.key.as_str(), s.value.as_str(), s.is_glob()))
            .collect();
        assert_eq!(
            shown,
            [
                ("net.ipv4.conf.*.rp_filter", "2", true),
                ("net.ipv4.tcp_fin_timeout", "30", false),
                ("net.core.somaxconn", "2", false),
            ]
        );
        assert_eq!(
            profile.excluded,
            [
                "net.ipv4.conf.all.rp_filter",
                "net.ipv4.conf.eth[01]/*.rp_filter"
            ]
        );
        assert!(error("-net.core.somaxconn x\n").contains("expected key = value, -key"));
        assert!(error("net.ipv4.conf.[.rp_filter = 1\n").contains("expected a key"));
        assert!(error("-../../etc/*\n").contains("expected key = value"));
        assert!(error("net/../*/x = 1\n").contains("expected a key"));
    }

    #[test]
    fn globs_expand_to_keys() {
        let keys = ["all", "default", "eth0", "eth0/1"].map(|name| {
            let key = format!("net.ipv4.conf.{name}.rp_filter");
            (key, "0".to_owned())
        });
        let values = Values::Described(keys.into_iter().collect());
        let text = "net.ipv4.conf.*.rp_filter = 2\nnet.ipv4.conf.default.rp_filter = 1\n-net.ipv4.conf.all.rp_filter\n";
        let profile = Profile::parse("mine", text).unwrap();
        let expanded = values.expand(profile.settings, &profile.excluded);
        let shown: Vec<_> = expanded
            .iter()
            .map(|s| (s.key.as_str(), s.value.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("net.ipv4.conf.default.rp_filter", "1"),
                ("net.ipv4.conf.eth0.rp_filter", "2"),
                ("net.ipv4.conf.eth0/1.rp_filter", "2"),
            ]
        );
        // Of two globs the later counts.
        let text = "net.ipv4.conf.*.rp_filter = 2\nnet.ipv4.conf.eth?.rp_filter = 1\n";
        let profile = Profile::parse("mine", text).unwrap();
        let expanded = values.expand(profile.settings, &profile.excluded);
        let eth0: Vec<_> = expanded
            .iter()
            .filter(|s| s.key == "net.ipv4.conf.eth0.rp_filter")
            .collect();
        assert_eq!(
            (eth0.len(), eth0[0].value.as_str(), expanded.len()),
            (1, "1", 4)
        );
    }

    #[test]
    fn directives_extend_a_setting() {
        let text = "# Intro.\n\n# Files.\n# More.\n#: why each end is a file\n#: rule at-least\n#: per-connection 1 plus 65536\n\
                    #: shortfall stops unless CAP_SYS_ADMIN\n#: scope machine\nfs.file-max = 1065536\n\n\
                    #: why hash\n#: per-connection 2 power-of-two max 16777216\n#: boot thash_entries = 2097152\n";
        let profile = Profile::parse("mine.conf", text).unwrap();
        let [files, hash] = &profile.settings[..] else {
            panic!("{:?}", profile.settings)
        };
        assert_eq!(files.prose, "Files.\nMore.");
        assert_eq!(files.wanted(10), "65546");
        assert!(files.unless.sys_admin && !files.unless.untracked);
        assert_eq!(files.line, 10);
        assert_eq!(hash.kind, Kind::Boot);
        assert_eq!(hash.wanted(1_000_000), "2097152");
        // Server and client on one machine.
        let both = joined(&[profile.clone(), profile.clone()]);
        assert_eq!(both[0].wanted(1_000_000), "2065536");
        assert_eq!(both[1].wanted(1_000_000), "4194304");
    }

    #[test]
    fn errors_name_file_line_and_what_was_expected() {
        assert_eq!(
            error("a.b = 1\nnonsense\n"),
            "mine.conf:2: found 'nonsense', expected key = value, -key, or a comment with #"
        );
        assert_eq!(
            error("net.core.somaxconn ="),
            "mine.conf:1: found nothing, expected a value after the ="
        );
        assert_eq!(
            error("#: rule bigger\na.b = 1"),
            "mine.conf:1: found 'rule bigger', expected rule at-least, at-most, exactly, covers or contains"
        );
        assert_eq!(
            error("#: why x\n\na.b = 1"),
            "mine.conf:2: found nothing, expected key = value after the directives above it"
        );
        assert!(error("#: why x").contains("after the directives"));
        assert!(error("#: per-connection 1 plus\na.b = 1").contains("per-connection SHARE"));
        assert!(error("#: per-connection 1, 2\na.b = 1").contains("as many elements"));
        assert!(error("#: shortfall stops when tired\na.b = 1").contains("when tracked"));
        assert!(error("#: limit nofile\n").contains("name = value"));
        assert!(error(&"#".repeat(PROFILE_BYTES_MAX + 1)).contains("1 MiB"));
        assert!(error("a.\u{1b}[31m = 1").contains("expected a key"));
    }

    #[test]
    fn no_key_leaves_proc_sys() {
        for key in [
            "../../etc/passwd",
            "/etc/passwd",
            "net..ipv4",
            "net",
            "net.ipv4./../x",
            "a b.c",
            "net/../x",
            ".a.b",
        ] {
            assert!(
                error(&format!("{key} = 1")).contains("expected"),
                "{key} was taken"
            );
        }
        assert_eq!(
            sysctl_key("net/core/somaxconn").unwrap(),
            "net.core.somaxconn"
        );
    }
}
