//! One kernel setting: its name, the wanted value, how that scales with the number of connections,
//! and how it is compared.
//!
//! Invariants: comparing never asks for less than the present value (`merged` keeps what an
//! administrator raised). Text from files is bounded by the profile that read it.
//! Must not depend on: where values are read from or written to, nor why a value is wanted.

use serde::Serialize;

/// How a setting is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A key below `/proc/sys`.
    Sysctl,
    /// A process limit: `limits.d`, systemd.
    Limit,
    /// A parameter of the kernel's command line.
    Boot,
    /// Nothing to set: information.
    Advice,
}

/// How the present value is compared with the wanted one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Every element at least as large.
    AtLeast,
    /// Every element at most as large.
    AtMost,
    /// Equal.
    #[default]
    Exactly,
    /// A range that includes the wanted one.
    Covers,
    /// A comma-separated list with all wanted members.
    Contains,
}

/// What an insufficient value does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// Fewer connections than asked for can be held.
    Stops,
    /// They can be held, slower or less safely.
    #[default]
    Slows,
    /// Nothing breaks.
    None,
}

/// How one element of a value scales with the number of connections: `per_connection * N + plus`,
/// optionally rounded up, bounded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scale {
    /// Amount per connection.
    pub per_connection: f64,
    /// Constant part.
    pub plus: u64,
    /// Rounded up to a power of two.
    pub power_of_two: bool,
    /// Upper bound.
    pub max: u64,
}

impl Scale {
    /// A constant.
    pub fn fixed(value: u64) -> Self {
        Scale {
            per_connection: 0.0,
            plus: value,
            power_of_two: false,
            max: u64::MAX,
        }
    }

    /// The value for a number of connections.
    pub fn at(&self, connections: u64) -> u64 {
        // Below 2^53 the product is exact enough that rounding up never adds one: the factors are
        // short decimals.
        let share = (self.per_connection * connections as f64 - 1e-6)
            .ceil()
            .max(0.0) as u64;
        let value = share.saturating_add(self.plus);
        let value = if self.power_of_two {
            value.checked_next_power_of_two().unwrap_or(1 << 63)
        } else {
            value
        };
        value.min(self.max)
    }

    /// How many connections a value is enough for; `None` if it does not depend on them.
    pub fn holds(&self, value: u64) -> Option<u64> {
        if self.per_connection <= 0.0 || value >= self.max {
            return None;
        }
        Some((value.saturating_sub(self.plus) as f64 / self.per_connection) as u64)
    }

    /// Both ends on one machine: amounts per connection add up, the constant part is needed once.
    fn combined_with(&self, other: &Scale) -> Scale {
        Scale {
            per_connection: self.per_connection + other.per_connection,
            plus: self.plus.max(other.plus),
            power_of_two: self.power_of_two || other.power_of_two,
            max: self.max.max(other.max),
        }
    }
}

/// Conditions under which an insufficient value does not stop connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Unless {
    /// The limit is not enforced on processes with CAP_SYS_ADMIN.
    pub sys_admin: bool,
    /// It limits only tracked connections.
    pub untracked: bool,
}

/// One setting of a profile.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// Name as `sysctl` spells it, or of a limit, boot parameter or advice. May be a glob: see
    /// [`Setting::is_glob`].
    pub key: String,
    /// How it is set.
    pub kind: Kind,
    /// The value in the profile, white space normalised.
    pub value: String,
    /// How its elements scale with the number of connections; empty if they do not.
    pub scale: Vec<Scale>,
    /// How it is compared.
    pub rule: Rule,
    /// What an insufficient value does.
    pub weight: Weight,
    /// When it does not stop connections after all.
    pub unless: Unless,
    /// The profile allows it to be missing (a `-` before the key).
    pub may_be_absent: bool,
    /// What goes wrong without it, one line.
    pub why: String,
    /// What it means when this kernel lacks it.
    pub absent: Option<String>,
    /// Where it lives: `machine`, `namespace` or `initial`.
    pub scope: Option<String>,
    /// First kernel that has it.
    pub since: Option<String>,
    /// First kernel without it.
    pub until: Option<String>,
    /// Today's default, in words.
    pub default: Option<String>,
    /// What well-known old lists set, and what is wrong with it.
    pub original: Option<String>,
    /// Full explanation.
    pub prose: String,
    /// Line of the profile, from 1.
    pub line: usize,
}

/// A key in dotted form, whichever way it was spelt; `None` if it is not a key or would leave
/// `/proc/sys`.
///
/// As in `sysctl`: if the first separator is a slash, slashes separate and dots belong to names
/// (`net/ipv4/conf/eth0.1/...`).
pub(crate) fn sysctl_key(key: &str) -> Option<String> {
    dotted(key, "-_/:@")
}

/// As [`sysctl_key`], with `*`, `?` and `[...]` allowed, as in sysctl.d(5).
pub(crate) fn sysctl_pattern(key: &str) -> Option<String> {
    dotted(key, "-_/:@*?[]!")
}

/// Whether a key is a pattern that stands for several keys.
pub(crate) fn is_glob(key: &str) -> bool {
    key.contains(['*', '?', '['])
}

fn dotted(key: &str, punctuation: &str) -> Option<String> {
    let is_slashed = match (key.find('/'), key.find('.')) {
        (Some(slash), Some(dot)) => slash < dot,
        (slash, _) => slash.is_some(),
    };
    // Internally a dot separates, and a dot within a name is a slash, as `sysctl` prints it.
    let key: String = if is_slashed {
        key.chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                c => c,
            })
            .collect()
    } else {
        key.to_owned()
    };
    let is_name = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || punctuation.contains(c))
            && !part.chars().all(|c| c == '/')
    };
    // A leading dash is not part of a key: it says that the key may be missing.
    let is_key = key.len() <= 200
        && !key.starts_with('-')
        && key.contains('.')
        && key.split('.').all(is_name);
    is_key.then_some(key)
}

/// A value as the kernel prints it, with single spaces.
pub fn normalised(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn numbers(value: &str) -> Option<Vec<i64>> {
    value.split(' ').map(|part| part.parse().ok()).collect()
}

/// True for a value of words, numbers, addresses and lists, which is what `net.*` keys have:
/// nothing that a shell or a kernel helper would run.
pub fn is_plain(value: &str) -> bool {
    value
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || " \t_.,:+-".contains(c))
}

/// The members of a list of ports and port ranges, as ranges.
fn members(value: &str) -> Option<Vec<(u32, u32)>> {
    value
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.parse().ok()?, last.parse().ok()?))
        })
        .collect()
}

/// True if both mean the same: the kernel sorts a list of ports and joins neighbours to ranges.
pub fn is_same(one: &str, other: &str) -> bool {
    let ports = |value: &str| -> Option<Vec<(u32, u32)>> {
        // One number alone is a number, not a list.
        let mut ranges =
            members(value).filter(|_| value.is_empty() || value.contains([',', '-']))?;
        ranges.sort_unstable();
        ranges.dedup_by(|next, last| {
            let is_joined = next.0 <= last.1.saturating_add(1);
            if is_joined {
                last.1 = last.1.max(next.1);
            }
            is_joined
        });
        Some(ranges)
    };
    one == other || ports(one).is_some_and(|ranges| ports(other) == Some(ranges))
}

impl Setting {
    /// Whether the key is a pattern; see [`Values::expand`](crate::values::Values::expand).
    pub fn is_glob(&self) -> bool {
        self.kind == Kind::Sysctl && is_glob(&self.key)
    }

    /// Whether its profile allows it to be missing.
    pub fn may_be_missing(&self) -> bool {
        let is_said = [&self.until, &self.since, &self.absent]
            .iter()
            .any(|text| text.is_some());
        self.may_be_absent || is_said || self.is_set_elsewhere()
    }

    /// Whether it exists, or can be written, in the initial network namespace only.
    pub fn is_set_elsewhere(&self) -> bool {
        self.scope.as_deref() == Some("initial")
    }

    /// The value wanted for a number of connections.
    pub fn wanted(&self, connections: u64) -> String {
        if self.scale.is_empty() {
            return self.value.clone();
        }
        let values: Vec<String> = self
            .scale
            .iter()
            .map(|scale| scale.at(connections).to_string())
            .collect();
        values.join(" ")
    }

    /// True if `now` is enough for `wanted`. Values that are not numbers must be equal.
    pub fn suffices(&self, now: &str, wanted: &str, rule: Rule) -> bool {
        is_same(now, wanted) || self.merged(now, wanted, rule) == now
    }

    /// The value to write: `wanted`, without lowering what `now` has beyond it.
    pub fn merged(&self, now: &str, wanted: &str, rule: Rule) -> String {
        match rule {
            Rule::Exactly => wanted.to_owned(),
            Rule::Contains => match (members(now), members(wanted)) {
                (Some(present), Some(asked)) => {
                    let missing: Vec<String> = asked
                        .iter()
                        .filter(|(first, last)| {
                            !present.iter().any(|(f, l)| f <= first && last <= l)
                        })
                        .map(|(first, last)| {
                            if first == last {
                                first.to_string()
                            } else {
                                format!("{first}-{last}")
                            }
                        })
                        .collect();
                    let parts = std::iter::once(now.to_owned()).chain(missing);
                    let parts: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
                    parts.join(",")
                }
                _ => wanted.to_owned(),
            },
            Rule::AtLeast | Rule::AtMost | Rule::Covers => match (numbers(now), numbers(wanted)) {
                (Some(present), Some(asked)) if present.len() == asked.len() => {
                    let chosen = present.iter().zip(&asked).enumerate().map(|(i, (&p, &a))| {
                        let larger = match rule {
                            Rule::AtLeast => true,
                            Rule::AtMost => false,
                            _ => i > 0,
                        };
                        if larger { p.max(a) } else { p.min(a) }
                    });
                    let chosen: Vec<String> = chosen.map(|value| value.to_string()).collect();
                    chosen.join(" ")
                }
                _ => wanted.to_owned(),
            },
        }
    }

    /// Whether `value` can be a value of this setting at all: as many numbers, a list of ports, or
    /// a word, as the profile has it.
    pub fn is_plausible(&self, value: &str) -> bool {
        if let Some(own) = numbers(&self.value) {
            // A list with one member looks like a number.
            let is_list = self.rule == Rule::Contains && members(value).is_some();
            return is_list || numbers(value).is_some_and(|found| found.len() == own.len());
        }
        match self.rule {
            Rule::Contains => members(value).is_some(),
            _ => is_plain(value),
        }
    }

    /// How many connections `now` is enough for; `None` if it does not depend on them. The tightest
    /// element decides.
    pub fn holds(&self, now: &str) -> Option<u64> {
        let present = numbers(now)?;
        self.scale
            .iter()
            .zip(present)
            .filter_map(|(scale, value)| scale.holds(u64::try_from(value).unwrap_or(0)))
            .min()
    }

    /// The setting for both ends on one machine: amounts per connection add up, of constants the
    /// further one counts, and of exact values the later, as with `sysctl`.
    pub fn combined_with(&self, other: &Setting) -> Setting {
        let mut both = self.clone();
        both.value = if self.rule == Rule::Exactly {
            other.value.clone()
        } else {
            self.merged(&self.value, &other.value, self.rule)
        };
        if !self.scale.is_empty() && self.scale.len() == other.scale.len() {
            let pairs = self.scale.iter().zip(&other.scale);
            both.scale = pairs.map(|(a, b)| a.combined_with(b)).collect();
        } else if self.rule == Rule::Exactly {
            both.scale = other.scale.clone();
        }
        both
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(rule: Rule) -> Setting {
        Setting {
            key: "net.core.somaxconn".into(),
            kind: Kind::Sysctl,
            value: "65535".into(),
            scale: Vec::new(),
            rule,
            weight: Weight::Slows,
            unless: Unless::default(),
            may_be_absent: false,
            why: String::new(),
            absent: None,
            scope: None,
            since: None,
            until: None,
            default: None,
            original: None,
            prose: String::new(),
            line: 1,
        }
    }

    #[test]
    fn raised_values_are_kept() {
        let at_least = setting(Rule::AtLeast);
        let rule = Rule::AtLeast;
        assert!(at_least.suffices("65536", "65535", rule));
        assert!(!at_least.suffices("4096", "65535", rule));
        assert_eq!(at_least.merged("10 900 30", "20 20 20", rule), "20 900 30");
        // With --exact even a larger one differs.
        assert!(!at_least.suffices("65536", "65535", Rule::Exactly));
        let at_most = setting(Rule::AtMost);
        assert!(at_most.suffices("15", "30", Rule::AtMost));
        assert_eq!(at_most.merged("60", "30", Rule::AtMost), "30");
        let covers = setting(Rule::Covers);
        let ports = "1024 65535";
        assert_eq!(covers.merged("32768 60999", ports, Rule::Covers), ports);
        assert!(covers.suffices("1000 65535", ports, Rule::Covers));
        assert_eq!(
            covers.merged("1000 60999", ports, Rule::Covers),
            "1000 65535"
        );
    }

    #[test]
    fn missing_members_are_added_to_lists() {
        let list = setting(Rule::Contains);
        let merged = |now, wanted| list.merged(now, wanted, Rule::Contains);
        assert_eq!(merged("", "7070,8080"), "7070,8080");
        assert_eq!(merged("22,7000-7100", "7070,8080"), "22,7000-7100,8080");
        assert!(list.suffices("7000-9000", "7070,8080", Rule::Contains));
        assert!(!list.suffices("", "7070", Rule::Contains));
    }

    #[test]
    fn equivalent_lists_are_equal() {
        assert!(is_same("22,8080-8082", "8082,8080,8081,22"));
        assert!(is_same("1-3", "1-2,3"));
        assert!(!is_same("22,8080-8082", "22,8080-8083"));
        assert!(!is_same("", "22"));
        // Not lists.
        assert!(!is_same("010", "10"));
        assert!(!is_same("-1", "1"));
    }

    #[test]
    fn words_must_be_equal() {
        let word = setting(Rule::AtLeast);
        assert!(word.suffices("bbr", "bbr", Rule::AtLeast));
        assert_eq!(word.merged("cubic", "bbr", Rule::AtLeast), "bbr");
        // More elements than expected: nothing can be compared, so it is what the profile says.
        assert_eq!(word.merged("1 2", "3", Rule::AtLeast), "3");
    }

    #[test]
    fn plausible_values() {
        let one = setting(Rule::AtLeast);
        assert!(one.is_plausible("4096") && one.is_plausible("-1"));
        assert!(!one.is_plausible("4096 1") && !one.is_plausible("many") && !one.is_plausible(""));
        let list = Setting {
            value: "7070,8080".into(),
            ..setting(Rule::Contains)
        };
        assert!(list.is_plausible("") && list.is_plausible("22") && list.is_plausible("1-9,11"));
        assert!(!list.is_plausible("ssh"));
        let word = Setting {
            value: "bbr".into(),
            ..setting(Rule::Exactly)
        };
        assert!(word.is_plausible("cubic") && !word.is_plausible("|/tmp/x"));
        assert!(is_plain("fd00::1 eth0") && !is_plain("/bin/sh") && !is_plain("a\nb"));
    }

    #[test]
    fn scales_by_hand() {
        let files = Scale {
            per_connection: 1.0,
            plus: 65_536,
            power_of_two: false,
            max: u64::MAX,
        };
        assert_eq!(files.at(1_000_000), 1_065_536);
        assert_eq!(files.holds(1_065_536), Some(1_000_000));
        assert_eq!(files.holds(10), Some(0));
        let buckets = Scale {
            per_connection: 2.0,
            plus: 0,
            power_of_two: true,
            max: 1 << 24,
        };
        assert_eq!(buckets.at(1_000_000), 1 << 21);
        assert_eq!(buckets.combined_with(&buckets).at(1_000_000), 1 << 22);
        assert_eq!(buckets.at(1_000_000_000), 1 << 24);
        // At its bound it is all the kernel has: it no longer says how many fit.
        assert_eq!(buckets.holds(1 << 24), None);
        let tenth = Scale {
            per_connection: 0.1,
            ..files
        };
        assert_eq!(tenth.at(1_000_000), 165_536);
        assert_eq!(Scale::fixed(7).at(u64::MAX), 7);
        assert_eq!(Scale::fixed(7).holds(3), None);
    }
}
