//! Every command that a message or a document tells to type exists: subcommands, flags, make
//! targets, files.
//!
//! The sources are searched for what a reader would type, so that a renamed flag cannot leave a
//! stale hint behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{PROGRAMS, help, subcommands};

/// Flags of programs that others wrote, which our messages name.
const FLAGS_OF_OTHERS: &[&str] = &[
    // cargo
    "--release",
    "--locked",
    "--workspace",
    "--example",
    "--bin",
    "--package",
    "--all",
    "--test",
    "--no-default-features",
    // Locust
    "--master-bind-port",
    // Ours, for README only: not in --help.
    "--markdown",
    // nsenter, docker, Locust
    "--pid",
    "--mount",
    "--net",
    "--user",
    "--preserve-credentials",
    "--security-opt",
    "--host",
];

/// Words after `make` that are English.
const PROSE_AFTER_MAKE: &[&str] = &[
    "a",
    "an",
    "another",
    "due",
    "it",
    "its",
    "listeners",
    "more",
    "namespaces",
    "one",
    "room",
    "some",
    "the",
    "them",
    "this",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files below `folder` whose names end with `ending`; not those of tests, build products and
/// recorded runs.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let is_left_out = [
            "target", "tests", "runs", "corpus", "fuzz", "sim", "examples",
        ]
        .contains(&&*name);
        if path.is_dir() && !is_left_out && !name.starts_with('.') {
            files(&path, ending, found);
        } else if name.ends_with(ending) && name != "tests.rs" {
            found.push(path);
        }
    }
}

/// The string literals of Rust code outside its tests, lines joined as the compiler joins them.
fn literals(code: &str) -> Vec<String> {
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let mut chars = code.chars().peekable();
    let mut found = Vec::new();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => {
                chars.by_ref().find(|c| *c == '\n');
            }
            // A quote as a character.
            '"' if before == '\'' => {}
            '"' => {
                let mut text = String::new();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' if chars.peek() == Some(&'\n') => {
                            while chars.peek().is_some_and(|c| c.is_whitespace()) {
                                chars.next();
                            }
                        }
                        '\\' => text.extend(chars.next().filter(|c| *c != 'n')),
                        c => text.push(c),
                    }
                }
                found.push(text);
            }
            _ => {}
        }
        before = c;
    }
    found
}

/// Long flags in a text.
fn flags(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
    let flags = words.filter(|word| {
        let name = word.strip_prefix("--").unwrap_or_default();
        name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('-')
    });
    flags.map(str::to_owned).collect()
}

/// The word after each `lead`.
fn words_after<'a>(text: &'a str, lead: &str) -> Vec<&'a str> {
    let starts = text.match_indices(lead).filter(|(at, _)| {
        text[..*at]
            .chars()
            .next_back()
            .is_none_or(|c| !c.is_alphanumeric() && c != '-' && c != '/')
    });
    let words = starts.map(|(at, _)| {
        let rest = &text[at + lead.len()..];
        rest.split(|c: char| !(c.is_ascii_lowercase() || c == '-'))
            .next()
            .unwrap_or_default()
    });
    words
        .filter(|word| !word.is_empty() && !word.starts_with('-'))
        .collect()
}

/// What can be typed.
struct Known {
    flags: BTreeSet<String>,
    commands: Vec<(&'static str, BTreeSet<String>)>,
    targets: BTreeSet<String>,
}

impl Known {
    fn new() -> Self {
        let mut known = FLAGS_OF_OTHERS
            .iter()
            .map(|flag| (*flag).to_owned())
            .collect::<BTreeSet<_>>();
        let mut commands = Vec::new();
        for name in PROGRAMS {
            let own = help(&[name]);
            known.extend(flags(&own));
            let names = subcommands(&own);
            for command in names.iter().filter(|command| *command != "help") {
                known.extend(flags(&help(&[name, command])));
            }
            commands.push((name, names));
        }
        let makefile = fs::read_to_string(root().join("Makefile")).expect("a Makefile");
        let rules = makefile.lines().filter_map(|line| line.split_once(':'));
        let targets = rules.map(|(target, _)| target.to_owned());
        Self {
            flags: known,
            commands,
            targets: targets.collect(),
        }
    }

    /// What in `text` cannot be typed.
    fn unknown(&self, text: &str) -> Vec<String> {
        let flags = flags(text)
            .into_iter()
            .filter(|flag| !self.flags.contains(flag));
        let mut found: Vec<_> = flags.collect();
        for (name, commands) in &self.commands {
            // What begins with a letter and is not a subcommand is prose unless flags follow.
            let lead = format!("holdfast-{name} ");
            let words = words_after(text, &lead).into_iter();
            let typed = words.filter(|word| text.contains(&format!("{lead}{word} --")));
            let wrong = typed.filter(|word| !commands.contains(*word));
            found.extend(wrong.map(|word| format!("{lead}{word}")));
        }
        let targets = words_after(text, "make ").into_iter();
        let wrong = targets
            .filter(|word| !self.targets.contains(*word) && !PROSE_AFTER_MAKE.contains(word));
        found.extend(wrong.map(|word| format!("make {word}")));
        found
    }
}

#[test]
fn what_messages_tell_to_type_exists() {
    let known = Known::new();
    let mut sources = Vec::new();
    for folder in [
        "server/src",
        "client/src",
        "sysctl/src",
        "results",
        "engine/src",
    ] {
        files(&root().join(folder), ".rs", &mut sources);
    }
    assert!(sources.len() > 100, "{}", sources.len());
    let mut wrong = Vec::new();
    for path in sources {
        let code = fs::read_to_string(&path).expect("a source");
        // A sentence has a space; a single word is an argument for some program.
        for text in literals(&code).iter().filter(|text| text.contains(' ')) {
            for what in known.unknown(text) {
                wrong.push(format!("{}: {what} in {text:?}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} stale:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn make_targets_in_documents_exist() {
    let known = Known::new();
    let mut documents = Vec::new();
    files(&root(), ".md", &mut documents);
    let mut wrong = Vec::new();
    for path in documents
        .iter()
        .filter(|path| !path.ends_with("CHANGELOG.md"))
    {
        let text = fs::read_to_string(path).expect("a document");
        // Code only: the sentences between are English.
        let code = text.split('`').skip(1).step_by(2);
        let targets = code.flat_map(|code| words_after(code, "make "));
        // make bench-* stands for all of them.
        let missing = targets.filter(|word| !word.ends_with('-') && !known.targets.contains(*word));
        wrong.extend(missing.map(|word| format!("{}: make {word}", path.display())));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn stale_advice_is_found() {
    let known = Known::new();
    let code = "fn a() { let q = '\"'; f(\"x; next: holdfast-tune chekc --role server, or \\\n    make nothing --nope\"); }
        #[cfg(test)] mod t { const T: &str = \"--only-in-tests a\"; }";
    let found: Vec<_> = literals(code)
        .iter()
        .flat_map(|text| known.unknown(text))
        .collect();
    assert_eq!(found, ["--nope", "holdfast-tune chekc", "make nothing"]);
    assert!(
        known
            .unknown("holdfast-tune check --role server; make lab; make a folder")
            .is_empty()
    );
}
