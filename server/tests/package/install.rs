//! `make install` and `make uninstall`: what is installed, and that exactly that is removed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Folder;
use crate::{PROGRAMS, make, output};

/// Every file and folder below.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let mut found: Vec<_> = entries
        .flat_map(|entry| {
            let path = entry.path();
            let more = if path.is_dir() {
                below(&path)
            } else {
                Vec::new()
            };
            [path].into_iter().chain(more)
        })
        .collect();
    found.sort();
    found
}

#[test]
#[ignore = "needs make: make test"]
fn uninstall_removes_everything_installed() {
    let folder = Folder::new("install");
    let root = folder.0.join("root");
    for variables in [vec![], vec!["PREFIX=/usr".to_owned()]] {
        let variables = [&[format!("DESTDIR={}", root.display())], &variables[..]].concat();
        output(&mut make("install", &variables));
        let prefix = if variables.len() == 1 {
            "usr/local"
        } else {
            "usr"
        };
        for name in PROGRAMS {
            let version =
                output(Command::new(root.join(prefix).join("bin").join(name)).arg("--version"));
            assert!(version.starts_with(name), "{version}");
            for file in [
                format!("share/man/man1/{name}.1"),
                format!("share/bash-completion/completions/{name}"),
                format!("share/zsh/site-functions/_{name}"),
                format!("share/fish/vendor_completions.d/{name}.fish"),
            ] {
                assert!(root.join(prefix).join(&file).is_file(), "{file}");
            }
        }
        // Installing again changes nothing about that.
        let before = below(&root);
        output(&mut make("install", &variables));
        assert_eq!(below(&root), before);
        output(&mut make("uninstall", &variables));
        assert!(
            !root.exists() || below(&root).is_empty(),
            "{:?}",
            below(&root)
        );
    }
}

#[test]
#[ignore = "needs make: make test"]
fn no_placeholder_is_left() {
    let folder = Folder::new("install-placeholders");
    output(&mut make(
        "install",
        &[format!("DESTDIR={}", folder.0.display())],
    ));
    for protocol in ["longconn", "http"] {
        for path in [
            format!("etc/default/holdfast-{protocol}"),
            format!("usr/local/lib/systemd/system/holdfast-{protocol}.service"),
            format!("usr/local/lib/systemd/system/holdfast-{protocol}.socket"),
        ] {
            let text = std::fs::read_to_string(folder.0.join(&path)).expect("it is installed");
            let words = text.split(|c: char| c.is_whitespace() || c == '/' || c == '-');
            let left: Vec<&str> = words.filter(|word| word.matches('@').count() > 1).collect();
            assert!(left.is_empty(), "{path}: {left:?}");
            assert!(
                text.contains(&format!("holdfast-{protocol}")),
                "{path}: {text}"
            );
        }
    }
}

#[test]
#[ignore = "needs make: make test"]
fn files_of_others_stay() {
    let folder = Folder::new("install-beside");
    let variables = [format!("DESTDIR={}", folder.0.display())];
    let others = [
        "usr/local/bin/other",
        "usr/local/share/man/man1/other.1",
        "etc/default/holdfast-http",
    ];
    for other in others {
        let path = folder.0.join(other);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        std::fs::write(path, "theirs").expect("a file");
    }
    let empty = folder.0.join("usr/local/lib/systemd");
    std::fs::create_dir_all(empty).expect("folders");
    let before = below(&folder.0);
    output(&mut make("install", &variables));
    output(&mut make("uninstall", &variables));
    assert_eq!(below(&folder.0), before);
    for other in others {
        assert_eq!(
            std::fs::read_to_string(folder.0.join(other)).expect("it is there"),
            "theirs"
        );
    }
}

#[test]
#[ignore = "needs make: make test"]
fn errors_are_one_line() {
    let folder = Folder::new("install-refused");
    let nowhere = [format!("DESTDIR={}", folder.0.display())];
    let no_programs = [&nowhere[..], &[format!("BIN_DIR={}", folder.0.display())]].concat();
    let not_ours = ["DESTDIR=/proc/nowhere".to_owned()];
    for (target, variables, words) in [
        ("uninstall", &nowhere[..], "nothing is installed"),
        ("install", &no_programs, "holdfast-server is missing"),
        ("install", &not_ours, "/proc/nowhere cannot be written"),
    ] {
        let refused = make(target, variables).output().expect("make runs");
        let said = String::from_utf8_lossy(&refused.stderr);
        let errors: Vec<_> = said
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert!(!refused.status.success() && errors.len() == 1, "{said}");
        assert!(
            errors[0].contains(words) && errors[0].contains("; next: "),
            "{said}"
        );
    }
    assert_eq!(below(&folder.0), Vec::<PathBuf>::new());
}
