//! `holdfast-bench`: the command line.
//!
//! Purpose: flags to scenarios and reports, outcomes to exit codes: 0 passed, 1 fell short, 2 not
//! started, 130 interrupted.
//! Must not depend on: how anything is measured or shown.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use holdfast_report::{compare, list, report};
use holdfast_results::chat::{self, Chat};
use holdfast_results::http::{self, Http};
use holdfast_results::locust::{self, Locust};
use holdfast_results::longconn::{self, Longconn};
use holdfast_results::proxy::{self, Proxy};
use holdfast_results::relay::{self, Relays, bulk};
use holdfast_results::scenario::bench;
use holdfast_sysctl::cli;
use holdfast_sysctl::cli_docs::CliDocs;
use holdfast_telemetry::output;
use holdfast_testbed::child_signals;
use holdfast_testbed::network::shell;

/// Load a server with a client, both on this machine, and prove the result
#[derive(Debug, Parser)]
#[command(
    name = "holdfast-bench",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 passed, 1 fell short, 2 usage or set-up error, 130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Open and hold many TCP connections with heartbeats; client, server and kernel must agree on
    /// every one
    Longconn(Box<longconn::Flags>),
    /// Measure HTTP servers and clients beside each other, each on its half of the cores,
    /// alternating over rounds
    Http(Box<http::Flags>),
    /// Send each message to very many members of a chat: our example beside a baseline, Go and
    /// tokio, alternating over rounds
    Chat(Box<chat::Flags>),
    /// Open a shell, or run a command, in a network of hosts on this machine, in namespaces of its
    /// own
    Lab(shell::Flags),
    /// Measure what a system between client and server (haproxy) adds and where it stops, direct
    /// and through it in one run
    Proxy(Box<proxy::Flags>),
    /// Measure layer-4 relays beside each other: no relay, a bare loop, ours, haproxy and nginx, in
    /// one run
    Relay(Box<relay::Flags>),
    /// Send as much as goes through a relay, and check that exactly that arrives
    #[command(hide = true)]
    Bulk(bulk::Flags),
    /// Drive users through a real Locust master and a worker on each client host of the lab, and
    /// compare all counts
    Locust(Box<locust::Flags>),
    /// Make report.html and report.md of a run again, from the files in its folder alone
    Report(Report),
    /// Compare runs: what changed, what is noise, what became worse
    Compare(Compare),
    /// List all runs, newest first
    List(List),
    /// Show the page of a run again
    Show(Show),
    #[command(flatten)]
    CliDocs(CliDocs),
}

#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 nothing became measurably worse, 1 something did (with --gate: a threshold is exceeded), 2 not comparable, or a usage error."
)]
struct Compare {
    /// Compare these runs: folders, names of runs, latest, or folders of runs, separated by commas
    #[arg(value_name = "BEFORE")]
    before: String,

    /// With these runs, likewise
    #[arg(value_name = "AFTER")]
    after: String,

    /// Look for runs in this folder [default: results/runs of this workspace]
    #[arg(long, alias = "runs", value_name = "DIR")]
    results_dir: Option<PathBuf>,

    /// Decide by the thresholds in this TOML file alone [default: by what became worse beyond noise
    /// and --tolerance]
    #[arg(long, value_name = "FILE")]
    gate: Option<PathBuf>,

    /// Ignore changes for the worse below this, percent
    #[arg(long, value_name = "PERCENT", default_value_t = compare::TOLERANCE_PERCENT, value_parser = holdfast_units::parse::percent, allow_negative_numbers = true)]
    tolerance: f64,

    /// Compare even if machine, kernel, settings or request differ [default: off]
    #[arg(long, alias = "anyway")]
    force: bool,

    /// Write the page with charts to this file [default: compare.html in the folder of the last run
    /// of AFTER]
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Print JSON instead of the table [default: off]
    #[arg(long)]
    json: bool,
}

impl From<&Compare> for compare::Options {
    fn from(flags: &Compare) -> Self {
        Self {
            before: flags.before.clone(),
            after: flags.after.clone(),
            runs: flags.results_dir.clone(),
            gate: flags.gate.clone(),
            tolerance_percent: flags.tolerance,
            is_forced: flags.force,
            html: flags.html.clone(),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 listed, 2 not listed.")]
struct List {
    /// Look for runs in this folder [default: results/runs of this workspace]
    #[arg(long, alias = "runs", value_name = "DIR")]
    results_dir: Option<PathBuf>,

    /// Print JSON instead of the table [default: off]
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 shown, 2 not shown.")]
struct Show {
    /// Take this run: its folder, or its name among the runs
    #[arg(value_name = "RUN", default_value = "latest")]
    run: String,

    /// Look for runs in this folder [default: results/runs of this workspace]
    #[arg(long, alias = "runs", value_name = "DIR")]
    results_dir: Option<PathBuf>,

    /// Print run.json instead of the page [default: off]
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 made, 2 not made.")]
struct Report {
    /// Take this run: its folder, or its name among the runs
    #[arg(value_name = "RUN", default_value = "latest")]
    run: String,

    /// Look for runs in this folder [default: results/runs of this workspace]
    #[arg(long, alias = "runs", value_name = "DIR")]
    results_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    const NOT_STARTED: u8 = 2;
    child_signals::reset_for_children();
    let cli = cli::parse::<Cli>();
    let done = match cli.what {
        What::Longconn(flags) => Longconn::new(*flags).and_then(bench),
        What::Http(flags) => Http::new(*flags).and_then(bench),
        What::Chat(flags) => Chat::new(*flags).and_then(bench),
        What::Lab(flags) => shell::open(&flags),
        What::Proxy(flags) => Proxy::new(*flags).and_then(bench),
        What::Relay(flags) => Relays::new(*flags).and_then(bench),
        What::Bulk(flags) => bulk::run(&flags),
        What::Locust(flags) => Locust::new(*flags).and_then(bench),
        What::CliDocs(command) => return command.run::<Cli>(),
        What::Report(flags) => report::rebuild(&flags.run, flags.results_dir.as_deref()),
        What::Compare(flags) => compare::compare(&(&flags).into(), flags.json),
        What::List(flags) => list::list(flags.results_dir.as_deref(), flags.json),
        What::Show(flags) => list::show(&flags.run, flags.results_dir.as_deref(), flags.json),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::log_last(format_args!("error: {error}"));
            ExitCode::from(NOT_STARTED)
        }
    }
}
