//! Folders of runs that hold something else than a run left there.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use holdfast_report::folder::RunFolder;
use holdfast_report::record::Record;
use holdfast_report::report;

fn folder(name: &str) -> PathBuf {
    let name = format!("holdfast-folders-{name}-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

#[test]
fn pipe_instead_of_a_record_does_not_block() {
    let folder = folder("pipe");
    for name in ["run.json", "series.csv", "histograms.hlog"] {
        let made = Command::new("mkfifo").arg(folder.join(name)).status();
        assert!(made.expect("mkfifo runs").success());
    }
    let error = Record::read(&folder).expect_err("a pipe");
    assert!(error.contains("not a file"), "{error}");
    let error = report::make(&folder).expect_err("nothing to report on");
    assert!(error.to_string().contains("not a file"), "{error}");
    let _ = fs::remove_dir_all(&folder);
}

#[test]
fn file_that_cannot_be_written_leaves_no_part_of_it() {
    let folder = folder("part");
    // A folder of this name cannot be replaced by a file.
    fs::create_dir_all(folder.join("report.html/x")).expect("a folder");
    let run = RunFolder::at(&folder);
    run.write("report.html", b"x").expect_err("it is a folder");
    let names: Vec<_> = fs::read_dir(&folder)
        .expect("the folder")
        .flatten()
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let _ = fs::remove_dir_all(&folder);
}
