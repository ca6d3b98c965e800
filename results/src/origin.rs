//! Where a record comes from: the machine, the command, the commit.
//!
//! Purpose: what makes two records comparable, or explains why they are not.
//! Invariants: never fails; what cannot be found out is `unknown`, empty or zero. Read before the lab is entered.
//! Must not know: what was measured.

use std::time::SystemTime;

use holdfast_report::folder::{rfc3339, workspace};
use holdfast_report::head::{Head, Machine, Rlimit};
use holdfast_testbed::child::shell_line;

/// The head of a run that begins now: all that is known before anything is measured, but its lab.
#[must_use]
pub fn head(schema: &str, name: &str, label: Option<&str>, started: SystemTime) -> Head {
    Head {
        schema: schema.into(),
        name: name.into(),
        label: label.map(str::to_owned),
        command: command_line(),
        commit: commit(),
        started_at: rfc3339(started),
        machine: machine(),
        ..Head::default()
    }
}

/// The machine this runs on.
#[must_use]
pub fn machine() -> Machine {
    use nix::sys::resource::{Resource, getrlimit};
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = text("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    Machine {
        kernel: text("/proc/sys/kernel/osrelease").trim().to_string(),
        cpu: model.map_or_else(
            || std::env::consts::ARCH.to_string(),
            |(_, model)| model.trim().to_string(),
        ),
        core_count: std::thread::available_parallelism().map_or(0, usize::from),
        memory_bytes: holdfast_telemetry::sample::kib_line(&text("/proc/meminfo"), "MemTotal")
            .unwrap_or(0),
        rlimit_nofile: Rlimit { soft, hard },
        tcp_mem_pages: three(&text("/proc/sys/net/ipv4/tcp_mem")),
    }
}

fn three(text: &str) -> Option<[u64; 3]> {
    let numbers: Option<Vec<u64>> = text.split_whitespace().map(|w| w.parse().ok()).collect();
    numbers?.try_into().ok()
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
