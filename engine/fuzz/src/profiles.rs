//! Kernel profiles and values of settings: a file the user names with `--profile`, and what the
//! kernel prints.

use holdfast_sysctl::profile::{Profile, joined};
use holdfast_sysctl::setting::{Kind, Rule};
use holdfast_sysctl::values::path;

/// The text before the first NUL is a profile, the rest a current value.
pub fn profiles(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (text, now) = text.split_once('\0').unwrap_or((text, "4096"));
    let profile = match Profile::parse("fuzz", text) {
        Ok(profile) => profile,
        Err(error) => {
            assert!((1..=text.lines().count().max(1)).contains(&error.line));
            assert!(!error.to_string().contains('\n') && !error.expected.is_empty());
            return;
        }
    };
    let now = now.split_whitespace().collect::<Vec<_>>().join(" ");
    for setting in &profile.settings {
        let mut last = 0;
        for connections in [0, 1, 64_511, 1_000_000, u64::MAX] {
            let wanted = setting.wanted(connections);
            // The merged value satisfies the setting, and merging again does not lower it.
            for rule in [
                Rule::AtLeast,
                Rule::AtMost,
                Rule::Exactly,
                Rule::Covers,
                Rule::Contains,
            ] {
                let written = setting.merged(&now, &wanted, rule);
                assert!(
                    setting.suffices(&written, &wanted, rule),
                    "{now:?} {wanted:?} {rule:?}"
                );
                assert_eq!(setting.merged(&written, &wanted, rule), written, "{rule:?}");
            }
            // More connections never need less.
            if let [scale] = &setting.scale[..] {
                assert!(scale.at(connections) >= last);
                last = scale.at(connections);
            }
        }
        if setting.kind != Kind::Sysctl {
            continue;
        }
        let file = path(&setting.key);
        assert!(file.starts_with("/proc/sys"), "{}", file.display());
        assert!(
            file.components()
                .all(|part| part != std::path::Component::ParentDir),
            "{}",
            file.display()
        );
        // A key and value in the format of sysctl are parsed back.
        let line = format!("{} = {}", setting.key, setting.value);
        let again = Profile::parse("again", &line).expect("a line of its own");
        assert_eq!(
            (&again.settings[0].key, &again.settings[0].value),
            (&setting.key, &setting.value)
        );
    }
    // Both roles on one machine need no less than one role.
    let both = joined(&[profile.clone(), profile.clone()]);
    assert!(both.len() <= profile.settings.len());
}
