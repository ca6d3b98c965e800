//! The profiles' knowledge of a setting, as text and as the tables of `sysctl/SETTINGS.md`.
//!
//! Must not depend on: this machine.

use std::fmt::Write;

use holdfast_sysctl::Profile;
use holdfast_sysctl::profile::{BUILT_IN, Role, built_in};
use holdfast_sysctl::setting::{Kind, Rule, Setting, Weight};

/// The built-in profiles.
pub fn all() -> Vec<Profile> {
    built_in(Role::Both)
}

/// Explains a setting, once per profile that has it; `None` for an unknown one.
pub fn explain(key: &str) -> Option<String> {
    let mut text = String::new();
    for profile in all() {
        for setting in profile.settings.iter().filter(|s| s.key == key) {
            let _ = writeln!(text, "{} ({} profile)\n", setting.key, profile.name);
            for line in setting.prose.lines() {
                let _ = writeln!(text, "  {line}");
            }
            text.push('\n');
            let mut fact = |name: &str, value: &str| {
                if !value.is_empty() {
                    let _ = writeln!(text, "  {name:<10} {value}");
                }
            };
            fact("value", &value(setting));
            fact("compared", rule(setting.rule));
            fact("without it", &setting.why);
            fact("effect", weight(setting));
            fact("scope", setting.scope.as_deref().unwrap_or(""));
            fact("default", setting.default.as_deref().unwrap_or(""));
            fact("since", setting.since.as_deref().unwrap_or(""));
            fact("until", setting.until.as_deref().unwrap_or(""));
            fact("old lists", setting.original.as_deref().unwrap_or(""));
            text.push('\n');
        }
    }
    (!text.is_empty()).then_some(text)
}

/// Names of all settings.
pub fn keys() -> Vec<String> {
    let mut keys: Vec<String> = all()
        .into_iter()
        .flat_map(|profile| profile.settings)
        .map(|setting| setting.key)
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

/// The value for a million connections, and how it scales.
fn value(setting: &Setting) -> String {
    if setting.kind == Kind::Advice {
        return String::new();
    }
    let terms: Vec<String> = setting
        .scale
        .iter()
        .map(|scale| {
            if scale.per_connection == 0.0 {
                return scale.plus.to_string();
            }
            let mut term = format!("{} per connection", scale.per_connection);
            if scale.plus > 0 {
                let _ = write!(term, " + {}", scale.plus);
            }
            if scale.power_of_two {
                term += ", a power of two";
            }
            if scale.max != u64::MAX {
                let _ = write!(term, ", at most {}", scale.max);
            }
            term
        })
        .collect();
    if terms.is_empty() {
        setting.value.clone()
    } else {
        format!("{} ({})", setting.value, terms.join("; "))
    }
}

fn rule(rule: Rule) -> &'static str {
    match rule {
        Rule::AtLeast => "at least this; a larger value is kept",
        Rule::AtMost => "at most this; a smaller value is kept",
        Rule::Exactly => "exactly this",
        Rule::Covers => "a range that includes this; a wider one is kept",
        Rule::Contains => "a list with these members; others are kept",
    }
}

fn weight(setting: &Setting) -> &'static str {
    if setting.kind == Kind::Advice {
        return "";
    }
    match setting.weight {
        Weight::Stops if setting.unless.sys_admin => {
            "stops new connections, except with CAP_SYS_ADMIN"
        }
        Weight::Stops if setting.unless.untracked => {
            "stops new connections if connections are tracked"
        }
        Weight::Stops => "stops new connections",
        Weight::Slows => "slower, or lossy under load or attack",
        Weight::None => "nothing breaks",
    }
}

/// The tables of `sysctl/SETTINGS.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Settings\n\nGenerated from the profiles: `holdfast-tune explain --markdown`. `holdfast-tune explain KEY` has the full text of each.\n\n",
    );
    for (name, _) in BUILT_IN {
        let profile = all().into_iter().find(|profile| profile.name == name);
        let Some(profile) = profile else { continue };
        let _ = writeln!(text, "## {name}.conf\n");
        text += "| setting | for 1,000,000 | without it | today's default | kernels | what old lists say |\n|---|---|---|---|---|---|\n";
        let cell = |text: &str| text.replace('|', "\\|");
        for setting in profile.settings.iter().filter(|s| s.kind != Kind::Advice) {
            let kernels = match (&setting.since, &setting.until) {
                (Some(since), Some(until)) => format!("{since} to {until}"),
                (Some(since), None) => format!("since {since}"),
                (None, Some(until)) => format!("gone in {until}"),
                (None, None) => String::new(),
            };
            let what = match setting.kind {
                Kind::Limit => " (process limit)",
                Kind::Boot => " (kernel command line)",
                Kind::Sysctl | Kind::Advice => "",
            };
            let _ = writeln!(
                text,
                "| `{}`{what} | {} | {} | {} | {} | {} |",
                setting.key,
                cell(&value(setting)),
                cell(&setting.why),
                cell(setting.default.as_deref().unwrap_or("")),
                cell(&kernels),
                cell(setting.original.as_deref().unwrap_or(""))
            );
        }
        text.push('\n');
        for setting in profile.settings.iter().filter(|s| s.kind == Kind::Advice) {
            let prose: Vec<&str> = setting.prose.lines().map(str::trim).collect();
            let _ = writeln!(text, "**{}.** {}\n", setting.key, prose.join(" "));
        }
    }
    text.trim_end().to_owned() + "\n"
}
