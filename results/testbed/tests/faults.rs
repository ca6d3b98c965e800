//! The short ones of the fault-injection tests; `make faults` runs all of them.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

#[test]
#[ignore = "needs root: make test"]
fn promises_are_kept_when_processes_disks_and_descriptors_fail() {
    let own = std::env::current_exe().expect("a test program");
    // target/PROFILE/deps/THIS
    let bin_dir = own
        .parent()
        .and_then(Path::parent)
        .expect("a folder of programs");
    let output = Command::new(bin_dir.join("examples/faults"))
        .arg("--bin-dir")
        .arg(bin_dir)
        .args(["killed", "disk-full", "descriptors"])
        .output()
        .expect("cargo test builds examples");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert_eq!(said.matches("pass  ").count(), 3, "{said}{errors}");
}
