//! What single kernel settings are worth: the same long-connection run with and without each,
//! alternating over rounds, each in a network namespace of its own: `make bench-tune`.
//!
//! Prints a table in Markdown: medians of the ramp and of what the kernel counted, and how many
//! runs passed.
//! Invariants: net.ipv4.tcp_mem belongs to the whole machine; for its run it is made small with
//! holdfast-tune, and restored.
//! Must not depend on: how the bench measures. What it reads of a record are keys of `run.json`.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use serde_json::Value;

/// One setting: name, arguments of the bench, and `tcp_mem` if it is made small.
type Variant = (&'static str, &'static [&'static str], Option<&'static str>);

const VARIANTS: [Variant; 10] = [
    ("profile", &[], None),
    ("kernel defaults", &["--no-profile"], None),
    (
        "hash of 262,144 buckets",
        &["--sysctl", "net.ipv4.tcp_child_ehash_entries=262144"],
        None,
    ),
    (
        "hash of 4,194,304 buckets",
        &["--sysctl", "net.ipv4.tcp_child_ehash_entries=4194304"],
        None,
    ),
    (
        "somaxconn 128",
        &["--sysctl", "net.core.somaxconn=128"],
        None,
    ),
    (
        "somaxconn 4096",
        &["--sysctl", "net.core.somaxconn=4096"],
        None,
    ),
    (
        "tcp_max_syn_backlog 128",
        &["--sysctl", "net.ipv4.tcp_max_syn_backlog=128"],
        None,
    ),
    (
        "port range 32768-33767",
        &["--sysctl", "net.ipv4.ip_local_port_range=32768 33767"],
        None,
    ),
    (
        "tcp_max_tw_buckets 4096",
        &["--sysctl", "net.ipv4.tcp_max_tw_buckets=4096"],
        None,
    ),
    ("tcp_mem 64 128 256 pages", &[], Some("64 128 256")),
];

/// Column and counter of the kernel.
const COUNTERS: [(&str, &str); 4] = [
    ("SYNs sent again", "TCPSynRetrans"),
    ("accept queue overflows", "ListenOverflows"),
    ("TIME_WAIT overflows", "TCPTimeWaitOverflow"),
    ("memory pressures", "TCPMemoryPressures"),
];

/// Measure what single kernel settings are worth to a ramp of long connections
#[derive(Debug, Parser)]
#[command(
    after_help = "Exit codes: 0 every run with the profile passed, 1 one did not, 2 usage or set-up error."
)]
struct Args {
    /// Connections of each run
    #[arg(default_value_t = 300_000)]
    users: u64,

    /// Runs with each setting
    #[arg(default_value_t = 3)]
    rounds: usize,

    /// Folder of holdfast-bench and holdfast-tune
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    bin_dir: PathBuf,
}

/// A folder for the records, removed at the end; `tcp_mem` is restored before.
struct Work<'a> {
    folder: PathBuf,
    bin_dir: &'a Path,
}

impl Work<'_> {
    fn tune(&self, args: &[&str]) -> Result<(), String> {
        let mut command = Command::new(self.bin_dir.join("holdfast-tune"));
        command.args(args).arg("--state").arg(self.state());
        let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).ok_or(said)
    }

    fn state(&self) -> PathBuf {
        self.folder.join("tcp_mem.json")
    }

    fn restore(&self) -> Result<(), String> {
        if self.state().exists() {
            self.tune(&["restore"])?;
        }
        Ok(())
    }

    /// One run; its record.
    fn run(&self, users: u64, (_, args, tcp_mem): &Variant) -> Result<Value, String> {
        if let Some(value) = tcp_mem {
            let profile = self.folder.join("tcp_mem.conf");
            fs::write(&profile, format!("net.ipv4.tcp_mem = {value}\n"))
                .map_err(|e| e.to_string())?;
            let profile = profile.display().to_string();
            self.tune(&["apply", "--exact", "--yes", "--profile", &profile])?;
        }
        // Heartbeats every 5 s: what bites under traffic shows too.
        let output = Command::new(self.bin_dir.join("holdfast-bench"))
            .args(["longconn", "--interval", "5s", "--hold", "5s", "--json"])
            .args(["--users", &users.to_string(), "--results-dir"])
            .arg(&self.folder)
            .args(*args)
            .stdin(Stdio::null())
            .output();
        self.restore()?;
        let output = output.map_err(|e| format!("holdfast-bench: {e}; next: make build"))?;
        match output.status.code() {
            Some(0 | 1) => serde_json::from_slice(&output.stdout).map_err(|e| e.to_string()),
            _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if let Err(why) = self.restore() {
            eprintln!("net.ipv4.tcp_mem is not restored: {why}");
            return;
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(why) => {
            eprintln!("{}", why.trim_end());
            ExitCode::from(2)
        }
    }
}

/// Runs every variant in turn and prints the table; whether every run with the profile passed.
fn measure(args: &Args) -> Result<bool, String> {
    let folder = std::env::temp_dir().join(format!("holdfast-settings-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let work = Work {
        folder,
        bin_dir: &args.bin_dir,
    };
    let mut runs: [Vec<Value>; VARIANTS.len()] = Default::default();
    for round in 1..=args.rounds {
        for (variant, runs) in VARIANTS.iter().zip(&mut runs) {
            eprintln!("round {round} of {}: {}", args.rounds, variant.0);
            runs.push(work.run(args.users, variant)?);
        }
    }
    let heads = COUNTERS.map(|(title, _)| title).join(" | ");
    let (users, rounds) = (args.users, args.rounds);
    println!(
        "| {users} connections, medians of {rounds} | ramp, connections/s | to profile | {heads} | passed |"
    );
    println!("{}|", "|---".repeat(4 + COUNTERS.len()));
    let ramp = |run: &Value| run["ramp"]["per_second"].as_f64().unwrap_or(0.0);
    let base = median(&runs[0], ramp);
    for ((name, ..), runs) in VARIANTS.iter().zip(&runs) {
        let own = median(runs, ramp);
        let counts = COUNTERS.map(|(_, key)| {
            let count = median(runs, |run| {
                run["kernel"]["counters"][key].as_f64().unwrap_or(0.0)
            });
            format!("{count:.0}")
        });
        let passed = runs.iter().filter(|run| is_pass(run)).count();
        println!(
            "| {name} | {own:.0} | {:.2} | {} | {passed} of {rounds} |",
            own / base,
            counts.join(" | ")
        );
        for reason in runs.iter().filter_map(|run| run["reasons"][0].as_str()) {
            eprintln!("   {name}: {reason}");
        }
    }
    Ok(runs[0].iter().all(is_pass))
}

fn is_pass(run: &Value) -> bool {
    run["verdict"] == "pass"
}

fn median(runs: &[Value], figure: impl Fn(&Value) -> f64) -> f64 {
    let mut figures: Vec<_> = runs.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    let half = figures.len() / 2;
    match figures.len() % 2 {
        0 if half > 0 => f64::midpoint(figures[half - 1], figures[half]),
        _ => figures.get(half).copied().unwrap_or(0.0),
    }
}
