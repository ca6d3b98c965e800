//! What the tests of `holdfast-bench` share: a folder with stand-ins for our programs, signals, and
//! how refusals and reasons are checked.
//!
//! Invariants: a stage leaves nothing behind; no two stages, whatever test program they belong to,
//! share a folder.
//! Must not depend on: what a load measures.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use holdfast_report::header::{Header, Verdict};
use holdfast_telemetry::proc::{all_pids, command_line};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

/// A stand-in for `holdfast-server longconn`: it says that ten connections are open.
#[allow(dead_code, reason = "not every test program has long connections")]
pub const LONGCONN_SERVER: &str = r#"
line() { echo '{"schema":"holdfast.server.longconn/1","is_final":'$1',"at_us":1,"listen":[],"thread_count":1,"shard_count":1,"capacity":10,"ring_slots":10,"open_now":10,"open_max":10,"accepted":10,"refused_full":0,"accept_failed":{},"closed":{},"messages_sent":0,"bytes_received":0,"anomalies":{}}'; }
trap 'line true; exit 0' TERM
line false
while :; do sleep 0.2; line false; done"#;

/// A folder for one test, with shell scripts for both programs, removed afterwards.
pub struct Stage {
    dir: PathBuf,
    flags: &'static [&'static str],
}

impl Stage {
    /// `server` and `client` are the bodies of the scripts, `flags` what every run of the bench
    /// here begins with.
    pub fn new(name: &str, server: &str, client: &str, flags: &'static [&'static str]) -> Self {
        let dir = std::env::temp_dir().join(format!(
            "holdfast-{}-{}-{name}",
            env!("CARGO_CRATE_NAME"),
            std::process::id()
        ));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("bin")).expect("a folder");
        for (program, body) in [("holdfast-server", server), ("holdfast-client", client)] {
            write_program(
                &dir.join("bin").join(program),
                &format!("#!/bin/sh\n{body}\n"),
            );
        }
        Self { dir, flags }
    }

    pub fn runs(&self) -> PathBuf {
        self.dir.join("runs")
    }

    /// Writes a file beside the scripts, by its path within the stage.
    #[allow(dead_code, reason = "not every test program needs more than scripts")]
    pub fn file(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).expect("a file");
    }

    /// The bench with the stage's flags, then `args`.
    pub fn bench(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-bench"));
        command
            .args(self.flags)
            .arg("--runs")
            .arg(self.runs())
            .arg("--bin-dir")
            .arg(self.dir.join("bin"))
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// [`Stage::bench`], started, with its output kept.
    pub fn start(&self, args: &[&str]) -> Child {
        self.bench(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts")
    }

    /// The record of the newest run.
    pub fn record<R: DeserializeOwned>(&self) -> R {
        let text = fs::read_to_string(self.runs().join("latest/run.json")).expect("a record");
        serde_json::from_str(&text).expect("of this schema")
    }

    /// Nothing that this stage started still runs.
    pub fn assert_nothing_runs(&self) {
        let ours = format!("{}/", self.dir.display());
        for pid in all_pids() {
            let line = command_line(pid).join(&b' ');
            let line = String::from_utf8_lossy(&line);
            assert!(!line.contains(&ours), "left running: {line}");
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Writes a script that can be run.
pub fn write_program(path: &Path, text: &str) {
    fs::write(path, text).expect("a script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its mode");
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Exit code 2, nothing printed, and one line that names the cause with `words` and the next
/// command.
#[track_caller]
pub fn assert_refused(output: &Output, words: &str) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let errors: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{said}");
    assert!(
        errors[0].contains(words) && errors[0].contains("; next: "),
        "{said}"
    );
    assert!(output.stdout.is_empty());
}

/// One of `reasons` has these words.
#[track_caller]
pub fn assert_named(reasons: &[String], words: &str) {
    assert!(reasons.iter().any(|r| r.contains(words)), "{reasons:?}");
}

/// Exit code 130, and a record that says why it fell short.
#[track_caller]
#[allow(dead_code, reason = "not every test program interrupts a run")]
pub fn assert_interrupted(output: &Output, head: &Header) {
    assert_eq!(output.status.code(), Some(130), "{}", stderr(output));
    assert_eq!(head.verdict, Verdict::Fail);
    assert_named(&head.reasons, "interrupted");
}

/// Sends `signal` to a bench that still runs.
pub fn send(bench: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(bench.id()).expect("a pid"));
    kill(pid, signal).expect("still runs");
}
