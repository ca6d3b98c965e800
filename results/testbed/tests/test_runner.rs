//! `.ci/test-runner`, which cargo starts every test program through.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A shell script where cargo puts test programs, removed with the value.
struct TestProgram(PathBuf);

impl TestProgram {
    fn new(name: &str, script: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("holdfast-runner-{}-{name}", std::process::id()));
        fs::create_dir_all(folder.join("deps")).expect("a folder");
        let program = folder.join("deps/program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("permissions");
        TestProgram(folder)
    }

    /// Runs it as cargo does, under a shell that ignores SIGINT and SIGQUIT.
    fn run(&self, seconds_max: u32) -> Output {
        let runner = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.ci/test-runner");
        Command::new("sh")
            .args(["-c", "trap '' INT QUIT; exec \"$@\"", "sh"])
            .arg(runner)
            .arg(self.0.join("deps/program"))
            .env("HOLDFAST_TEST_SECONDS_MAX", seconds_max.to_string())
            .output()
            .expect("sh runs")
    }
}

impl Drop for TestProgram {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A mask of signals, bit 0 is signal 1. Without those from 32 on: the C library has some for
/// itself.
fn mask(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let mask = u64::from_str_radix(line.expect("a mask").trim(), 16);
    mask.expect("hexadecimal") & 0x7fff_ffff
}

#[test]
fn hung_test_is_named_and_ended_with_its_children() {
    let pid_file = std::env::temp_dir().join(format!("holdfast-runner-{}-pid", std::process::id()));
    let script = format!(
        "echo 'test quick ... ok'
        echo 'test also::slow has been running for over 60 seconds'
        echo 'test stuck::here has been running for over 60 seconds'
        echo 'test also::slow ... ok'
        sleep 600 & echo $! >{}
        wait",
        pid_file.display()
    );
    let output = TestProgram::new("hung", &script).run(61);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(124), "{errors}");
    assert!(errors.contains("after 61 s: stuck::here\n"), "{errors}");
    assert!(errors.contains("next: "), "{errors}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("test quick ... ok"));
    let pid = fs::read_to_string(&pid_file).expect("a process id");
    let _ = fs::remove_file(&pid_file);
    // A killed process is a zombie until its new parent waits for it.
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
}

#[test]
fn test_that_prints_nothing_is_ended_too() {
    let output = TestProgram::new("silent", "printf 'test one ... '; exec sleep 600").run(2);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(124), "{errors}");
    assert!(errors.contains("after 2 s: one\n"), "{errors}");
}

#[test]
fn test_program_begins_with_default_signals_and_its_exit_code_is_kept() {
    let script = "cat /proc/self/status; exit 3";
    let output = TestProgram::new("signals", script).run(60);
    assert_eq!(output.status.code(), Some(3));
    let status = String::from_utf8_lossy(&output.stdout);
    assert_eq!((mask(&status, "SigBlk:"), mask(&status, "SigIgn:")), (0, 0));
}

/// This very process: cargo starts it through the runner.
#[test]
fn cargo_uses_the_runner() {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    // The standard library itself ignores SIGPIPE.
    assert_eq!(mask(&status, "SigIgn:"), 1 << 12);
    let parent = fs::read_to_string(format!(
        "/proc/{}/cmdline",
        std::os::unix::process::parent_id()
    ));
    assert!(parent.expect("a parent").contains("test-runner"));
}
