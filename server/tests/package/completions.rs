//! Completions as a shell uses them: bash is asked what it would offer.

use std::process::Command;

use crate::common::{Folder, program};
use crate::{PROGRAMS, flags, helps, output};

/// Calls what the script registered, as bash does at the tab key; prints what it offers.
const TAB: &str = r#"
source "$1"; shift
[[ $(complete -p "$1") =~ -F\ ([^ ]+) ]]
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
"${BASH_REMATCH[1]}" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// What bash offers behind these words, the last of which is being typed.
fn offered(script: &str, words: &[&str]) -> Vec<String> {
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-euc", TAB, "tab", script])
        .args(words);
    output(&mut bash).lines().map(str::to_owned).collect()
}

#[test]
fn bash_offers_every_flag_of_every_subcommand() {
    let folder = Folder::new("completions");
    for name in PROGRAMS {
        let script = folder.file(name);
        std::fs::write(
            &script,
            output(Command::new(program(name)).args(["completions", "bash"])),
        )
        .expect("a file");
        for (words, help) in helps(name) {
            let typed: Vec<_> = [name]
                .into_iter()
                .chain(words.iter().map(String::as_str))
                .collect();
            let all = offered(&script, &[&typed[..], &["--"]].concat());
            for flag in flags(&help) {
                // `--web[=<PORT>]`: its value may be left out.
                let flag = flag.split('[').next().expect("a first part").to_owned();
                assert!(all.contains(&flag), "{typed:?}: no {flag} in {all:?}");
            }
        }
        assert!(offered(&script, &[name, "comp"]).contains(&"completions".to_owned()));
    }
    let script = folder.file("holdfast-client");
    assert_eq!(
        offered(&script, &["holdfast-client", "longconn", "--spawn"]),
        ["--spawn-rate"]
    );
    assert_eq!(
        offered(&script, &["holdfast-client", "http", "--progress", ""]),
        ["auto", "json", "none"]
    );
}

#[test]
fn every_shell_has_a_script_of_every_program() {
    for name in PROGRAMS {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = output(Command::new(program(name)).args(["completions", shell]));
            assert!(
                script.contains(name) && script.contains("help"),
                "{name} {shell}: {script}"
            );
        }
        let refused = Command::new(program(name))
            .args(["completions", "tcsh"])
            .output()
            .expect("runs");
        assert_eq!(refused.status.code(), Some(2));
    }
}
