//! Manual pages as groff reads them.

use std::process::Command;

use crate::common::{Folder, program};
use crate::{PROGRAMS, flags, helps, output};

#[test]
#[ignore = "needs groff: make test"]
fn every_program_and_subcommand_has_a_page_that_groff_has_nothing_against() {
    let folder = Folder::new("manual");
    let mut page_count = 0;
    for name in PROGRAMS {
        output(Command::new(program(name)).arg("man").arg(&folder.0));
        for (words, help) in helps(name) {
            let page = [&[name.to_owned()], &words[..]].concat().join("-") + ".1";
            let mut groff = Command::new("groff");
            // -P-cbou: plain letters, neither colours nor letters struck over themselves.
            groff
                .args(["-ww", "-man", "-Tutf8", "-P-cbou", "-rLL=300n"])
                .arg(folder.file(&page));
            let rendered = groff.output().expect("groff runs; next: make need");
            assert_eq!(String::from_utf8_lossy(&rendered.stderr), "", "{page}");
            let text = String::from_utf8(rendered.stdout).expect("text");
            for flag in flags(&help) {
                assert!(text.contains(&flag), "{page}: no {flag} in {text}");
            }
            page_count += 1;
        }
    }
    assert_eq!(
        std::fs::read_dir(&folder.0).expect("pages").count(),
        page_count,
        "pages nobody knows"
    );
}

#[test]
#[ignore = "needs groff: make test"]
fn a_folder_that_cannot_be_written_is_refused_in_one_line() {
    for name in PROGRAMS {
        let refused = Command::new(program(name))
            .args(["man", "/proc/pages"])
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(
            said.lines().count() == 1 && said.contains("; next: "),
            "{said}"
        );
    }
}
