//! `holdfast-sim`: run seeds of the simulator.
//!
//! Must not depend on: what a run does.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use holdfast_engine::sim::Canary;
use holdfast_sim::campaign::{Campaign, attempt};
use holdfast_sim::{Run, Scenario};

/// Seeds a canary may need at most.
const CANARY_SEEDS_MAX: u64 = 10_000;

/// Run the engine and its protocols in a simulated world, one run per seed, and check the
/// invariants
#[derive(Parser)]
#[command(name = "holdfast-sim", version)]
struct Flags {
    #[command(subcommand)]
    command: Option<Command>,
    /// Run this many seeds
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    seeds: u64,
    /// Start at this seed
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    from: u64,
    /// Run only this seed and print everything that happens
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Run only this scenario: echo, longconn, http, streams, mesh, relay, chat, overload or websocket [default: alternate]
    #[arg(long, value_name = "NAME", value_parser = parse_scenario)]
    scenario: Option<Scenario>,
    /// Make this deliberate mistake; holdfast-sim canaries lists them
    #[arg(long, value_name = "NAME", value_parser = parse_canary)]
    canary: Option<Canary>,
    /// Use this many threads [default: one per core]
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,
    /// With --seed, do not print what happens
    #[arg(long)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Try each mistake until a seed detects it, and print how many seeds it took
    Canaries,
}

fn parse_scenario(text: &str) -> Result<Scenario, String> {
    let found = Scenario::ALL.into_iter().find(|s| s.label() == text);
    found.ok_or_else(|| {
        let labels = Scenario::ALL.map(Scenario::label);
        format!("not a scenario; next: give one of {}", labels.join(", "))
    })
}

fn parse_canary(text: &str) -> Result<Canary, String> {
    let found = Canary::ALL.iter().copied().find(|c| c.label() == text);
    found.ok_or_else(|| "not a canary; next: list them with holdfast-sim canaries".to_owned())
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Some(Command::Canaries) = flags.command {
        return canaries();
    }
    if let Some(seed) = flags.seed {
        return one(&flags, seed);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let campaign = Campaign {
        from: flags.from,
        count: flags.seeds,
        scenario: flags.scenario,
        canary: flags.canary,
        threads: flags.threads.unwrap_or(cores).max(1),
        is_told: true,
    };
    match campaign.run() {
        Ok(coverage) => {
            print!("{}", coverage.text());
            println!("{} seeds, no violation", flags.seeds);
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn one(flags: &Flags, seed: u64) -> ExitCode {
    let run = Run {
        scenario: flags
            .scenario
            .unwrap_or(Scenario::of_run(seed, flags.canary)),
        seed,
        canary: flags.canary,
        is_told: !flags.quiet,
    };
    match attempt(run) {
        Ok(outcome) => {
            println!("trace {:016x}, no violation", outcome.trace);
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Each canary runs in a process of its own, since a panic ends the process in release builds.
fn canaries() -> ExitCode {
    let own = std::env::current_exe().expect("this program has a path");
    let mut all_caught = true;
    println!("{:<20} {:>6}  what is broken", "canary", "seeds");
    for canary in Canary::ALL {
        let seeds = CANARY_SEEDS_MAX.to_string();
        let output = std::process::Command::new(&own)
            .args([
                "--canary",
                canary.label(),
                "--seeds",
                &seeds,
                "--threads",
                "1",
            ])
            .output()
            .expect("this program can be started");
        let said = String::from_utf8_lossy(&output.stderr);
        let seed = said
            .lines()
            .find_map(|l| l.strip_prefix("FAILED: ")?.split("seed ").nth(1));
        let count = match seed.and_then(|seed| seed.trim().parse::<u64>().ok()) {
            Some(seed) => (seed + 1).to_string(),
            None => {
                all_caught = false;
                "never".to_owned()
            }
        };
        let lines: Vec<&str> = said.lines().collect();
        let place = lines.iter().position(|l| l.contains("panicked at"));
        let wrong = place.and_then(|p| lines.get(p + 1)).copied().unwrap_or("");
        println!(
            "{:<20} {count:>6}  {}; caught: {wrong}",
            canary.label(),
            canary.describe()
        );
    }
    match all_caught {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
