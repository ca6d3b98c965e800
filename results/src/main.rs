//! `holdfast-bench`: the command line.
//!
//! Purpose: flags to scenarios and reports, outcomes to exit codes: 0 passed, 1 fell short, 2 not started, 130 interrupted.
//! Must not depend on: how anything is measured or shown.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_report::{compare, list, report};
use holdfast_results::http::{self, Http};
use holdfast_results::locust::{self, Locust};
use holdfast_results::longconn::{self, Longconn};
use holdfast_results::proxy::{self, Proxy};
use holdfast_results::scenario::bench;
use holdfast_sysctl::cli_docs::CliDocs;
use holdfast_telemetry::output;
use holdfast_testbed::child_signals;
use holdfast_testbed::network::shell;

/// Loads a server with a client, both on this machine, and proves the result.
#[derive(Debug, Parser)]
#[command(name = "holdfast-bench", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Long connections: opened, held, each with a heartbeat; client, server and kernel must agree on every one.
    Longconn(Box<longconn::Flags>),
    /// HTTP requests: our server and client beside others, each on its half of the cores, alternating over rounds.
    Http(Box<http::Flags>),
    /// A network of hosts on this machine, in namespaces of its own: a shell in it, or one command
    Lab(shell::Flags),
    /// A system between client and server (haproxy): what it adds, and where it stops, direct and through it in one run
    Proxy(Box<proxy::Flags>),
    /// Users through a real Locust master: a worker of ours on each client host of the lab, all counts compared with Locust's
    Locust(Box<locust::Flags>),
    /// Make report.html and report.md of a run again, from the files in its folder alone.
    Report(Report),
    /// Two sides of runs side by side: what changed, what is noise, what became worse.
    Compare(Compare),
    /// The runs there are, newest first.
    List(List),
    /// The page a run ended with, again.
    Show(Show),
    #[command(flatten)]
    CliDocs(CliDocs),
}

#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 nothing became worse as far as one can tell, 1 something did (with --gate: a threshold is passed), 2 not comparable or not asked rightly."
)]
struct Compare {
    /// Runs before: folders, names among the runs, latest, folders of runs; several separated by commas
    #[arg(value_name = "BEFORE")]
    before: String,

    /// Runs after, likewise
    #[arg(value_name = "AFTER")]
    after: String,

    /// Folder that holds the runs' folders [default: results/runs of this workspace]
    #[arg(long, alias = "runs", value_name = "DIR")]
    results_dir: Option<PathBuf>,

    /// TOML file of thresholds, which alone decide then [default: whatever became worse beyond noise and --tolerance]
    #[arg(long, value_name = "FILE")]
    gate: Option<PathBuf>,

    /// A change for the worse below this fails nothing, percent
    #[arg(long, value_name = "PERCENT", default_value_t = compare::TOLERANCE_PERCENT, allow_negative_numbers = true)]
    tolerance: f64,

    /// Compare runs that differ in machine, kernel, settings or what was asked too [default: off]
    #[arg(long, alias = "anyway")]
    force: bool,

    /// Where the page with charts goes [default: compare.html in the folder of the last run of AFTER]
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
    /// Folder that holds the runs' folders [default: results/runs of this workspace]
    #[arg(long, alias = "runs", value_name = "DIR")]
    results_dir: Option<PathBuf>,

    /// Print JSON instead of the table [default: off]
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 shown, 2 not shown.")]
struct Show {
    /// Folder of a run, or its name among the runs
    #[arg(value_name = "RUN", default_value = "latest")]
    run: String,

    /// Folder that holds the runs' folders [default: results/runs of this workspace]
    #[arg(long, alias = "runs", value_name = "DIR")]
    results_dir: Option<PathBuf>,

    /// Print run.json instead of the page [default: off]
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 made, 2 not made.")]
struct Report {
    /// Folder of a run, or its name among the runs
    #[arg(value_name = "RUN", default_value = "latest")]
    run: String,

    /// Folder that holds the runs' folders [default: results/runs of this workspace]
    #[arg(long, alias = "runs", value_name = "DIR")]
    results_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    const NOT_STARTED: u8 = 2;
    child_signals::reset_for_children();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e)
            if e.use_stderr()
                && e.kind() != clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand =>
        {
            output::log_last(format_args!("error: {}", usage(&e)));
            return ExitCode::from(NOT_STARTED);
        }
        Err(e) => e.exit(),
    };
    let done = match cli.what {
        What::Longconn(flags) => Longconn::new(*flags).and_then(bench),
        What::Http(flags) => Http::new(*flags).and_then(bench),
        What::Lab(flags) => shell::open(&flags),
        What::Proxy(flags) => Proxy::new(*flags).and_then(bench),
        What::Locust(flags) => Locust::new(*flags).and_then(bench),
        What::CliDocs(command) => return command.run::<Cli>(),
        What::Report(flags) => report::again(&flags.run, flags.results_dir.as_deref()),
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

/// The first paragraph of what clap says, on one line.
fn usage(e: &clap::Error) -> SetupError {
    let text = e.render().to_string();
    let cause = text.split("\n\n").next().unwrap_or_default();
    let named = std::env::args().nth(1);
    let named = named.filter(|name| Cli::command().find_subcommand(name).is_some());
    let named = named.as_deref().unwrap_or("longconn");
    let cause = cause.trim_start_matches("error: ");
    let help = format!("holdfast-bench {named} --help");
    // A value's parser names what it accepts.
    let (cause, next) = cause.split_once("; next: ").unwrap_or((cause, &help));
    SetupError::new(SetupErrorKind::InvalidInput, cause, next)
}
