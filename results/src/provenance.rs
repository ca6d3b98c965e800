//! Provenance of a record: the machine, the command, the commit.
//!
//! Purpose: what makes two records comparable, or explains why they are not.
//! Invariants: never fails; what cannot be found out is `unknown`, empty or zero. Read before the
//! lab is entered.
//! Must not depend on: what was measured.

use std::time::SystemTime;

use holdfast_report::folder::{rfc3339, workspace};
use holdfast_report::header::{Header, Machine, Rlimit};
use holdfast_telemetry::proc::machine;
use holdfast_testbed::child::shell_line;

/// The head of a run that begins now: all that is known before anything is measured, but its lab.
#[must_use]
pub fn head(schema: &str, name: &str, label: Option<&str>, started: SystemTime) -> Header {
    Header {
        schema: schema.into(),
        name: name.into(),
        label: label.map(str::to_owned),
        command: command_line(),
        commit: commit(),
        started_at: rfc3339(started),
        machine: machine(),
        ..Header::default()
    }
}

/// The machine this runs on.
#[must_use]
pub fn machine() -> Machine {
    use nix::sys::resource::{Resource, getrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    Machine {
        kernel: machine::kernel_release(),
        cpu: machine::cpu_model(),
        core_count: std::thread::available_parallelism().map_or(0, usize::from),
        memory_bytes: machine::memory_bytes(),
        rlimit_nofile: Rlimit { soft, hard },
        tcp_mem_pages: machine::tcp_memory_pages(),
    }
}

/// The command line of this process, as a shell would read it.
#[must_use]
pub fn command_line() -> String {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_default();
    shell_line(program.as_ref(), &words.collect::<Vec<_>>())
}

/// The commit of the working tree, `-dirty` if tracked files differ, `unknown` without git.
#[must_use]
pub fn commit() -> String {
    let Some(dir) = workspace() else {
        return "unknown".into();
    };
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git")
            // Otherwise `git status` writes the index anew, and a measurement is no reason to write
            // to somebody's repository.
            .arg("--no-optional-locks")
            .arg("-C")
            .arg(&dir)
            .args(args)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    match (
        git(&["rev-parse", "HEAD"]),
        git(&["status", "--porcelain", "--untracked-files=no"]),
    ) {
        (Some(head), Some(changes)) => head + if changes.is_empty() { "" } else { "-dirty" },
        (Some(head), None) => head,
        _ => "unknown".into(),
    }
}
