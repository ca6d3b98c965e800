//! The charts that README.md shows are those that the committed records give.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use holdfast_report::report::readme_charts;

#[test]
fn committed_charts_show_the_committed_records() {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let drawn = readme_charts::draw(&results.join("runs")).expect("the records are there");
    let folder = results.join("charts");
    for (name, svg) in &drawn {
        let committed = fs::read_to_string(folder.join(name));
        let committed = committed.unwrap_or_else(|e| panic!("{name}: {e}; next: make charts"));
        assert_eq!(&committed, svg, "{name} differs; next: make charts");
    }
    let names: BTreeSet<String> = drawn.into_iter().map(|(name, _)| name).collect();
    let files = fs::read_dir(folder).expect("results/charts").flatten();
    let files: BTreeSet<String> = files
        .map(|file| file.file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, names, "nothing else is in results/charts");
}

#[test]
fn missing_record_is_an_error_that_names_it() {
    let error = readme_charts::draw(Path::new("/nowhere")).expect_err("there is no record");
    assert!(
        error.contains("/nowhere/reference-http-2026-11-28: "),
        "{error}"
    );
}
