//! `holdfast-bench`: the command line.
//!
//! Purpose: flags to [`longconn::Options`] and [`http::Options`], outcomes to exit codes: 0 passed, 1 fell short, 2 not started,
//! 130 interrupted.
//! Must not know: anything else.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use holdfast_report::{compare, list, report};
use holdfast_results::frame::RunFlags;
use holdfast_results::longconn::{self, Options, SpawnRate, WarmUp};
use holdfast_results::{http, locust, proxy};
use holdfast_sysctl::cli_docs::CliDocs;
use holdfast_telemetry::refusal::Refusal;
use holdfast_testbed::network::visit;

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
    Longconn(Longconn),
    /// HTTP requests: our server and client beside others, each on its half of the cores, alternating over rounds.
    Http(Http),
    /// A network of hosts on this machine, in namespaces of its own: a shell in it, or one command
    Lab(visit::Flags),
    /// A system between client and server (haproxy): what it adds, and where it stops, direct and through it in one run
    Proxy(proxy::Flags),
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
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,

    /// TOML file of thresholds, which alone decide then [default: whatever became worse beyond noise and --tolerance]
    #[arg(long, value_name = "FILE")]
    gate: Option<PathBuf>,

    /// A change for the worse below this fails nothing, percent
    #[arg(long, value_name = "PERCENT", default_value_t = compare::TOLERANCE_PERCENT, allow_negative_numbers = true)]
    tolerance: f64,

    /// Compare runs that differ in machine, kernel, settings or what was asked too [default: off]
    #[arg(long)]
    anyway: bool,

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
            runs: flags.runs.clone(),
            gate: flags.gate.clone(),
            tolerance_percent: flags.tolerance,
            is_forced: flags.anyway,
            html: flags.html.clone(),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 listed, 2 not listed.")]
struct List {
    /// Folder that holds the runs' folders [default: results/runs of this workspace]
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,

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
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,

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
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 passed, 1 fell short (run.json says in what), 2 not started, 130 interrupted."
)]
struct Longconn {
    /// Connections to open and hold [default: 1000000, or what memory can hold]
    #[arg(long, short = 'u', value_name = "COUNT", value_parser = parse_count)]
    users: Option<u64>,

    /// Users to open a second, a number or `max`
    #[arg(long, short = 'r', value_name = "PER_SECOND", default_value = "max", value_parser = parse_rate, allow_negative_numbers = true)]
    rate: SpawnRate,

    /// Interval between two heartbeats to one connection (1s, 550s, 10m)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    every: Duration,

    /// How long to hold all connections after the ramp [default: two intervals]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    hold: Option<Duration>,

    /// Source addresses for the client: addresses, ranges, CIDR or `auto` [default: the client's choice]
    #[arg(long, value_name = "ADDRESSES")]
    source: Option<String>,

    /// The heartbeat
    #[arg(long, value_name = "TEXT", default_value = "ok")]
    message: String,

    /// Port the server listens on
    #[arg(long, value_name = "PORT", default_value_t = 999, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,

    /// Core threads of the server [default: the server's choice]
    #[arg(long, value_name = "COUNT")]
    server_threads: Option<u32>,

    /// Core threads of the client [default: the client's choice]
    #[arg(long, value_name = "COUNT")]
    client_threads: Option<u32>,

    /// One more argument for the server, as it is; may be repeated [default: none]
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    server_arg: Vec<String>,

    /// One more argument for the client, as it is; may be repeated [default: none]
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    client_arg: Vec<String>,

    /// Stay in the host's network: no setting is changed, other traffic is in the kernel's figures [default: off]
    #[arg(long)]
    no_namespace: bool,

    /// Leave the namespace's settings as the kernel makes them, instead of the kernel profiles (holdfast-tune) [default: off]
    #[arg(long)]
    no_profile: bool,

    /// One net.* setting of the namespace, as it is; may be repeated [default: none]
    #[arg(long, value_name = "KEY=VALUE")]
    sysctl: Vec<String>,

    /// Before the ramp, take and give back the memory it needs, so that the host of a virtual machine backs it: auto does so on
    /// a virtual machine that reports free memory to its host
    #[arg(long, value_enum, default_value = "auto")]
    warm: WarmUp,

    /// Start even if memory will not suffice [default: off]
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    run: RunFlags,
}

#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 passed, 1 fell short (run.json says in what), 2 not started, 130 interrupted."
)]
struct Http {
    /// Scenarios to measure, separated by commas [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help = scenarios_help())]
    scenarios: Vec<String>,

    /// Servers to measure, separated by commas
    #[arg(
        long,
        value_enum,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "holdfast,floor,nginx,haproxy,go"
    )]
    subjects: Vec<http::scenario::Subject>,

    /// Programs that make the load, separated by commas
    #[arg(
        long,
        value_enum,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "wrk,holdfast"
    )]
    generators: Vec<http::Generator>,

    /// How often everything is measured; figures are medians
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    rounds: u32,

    /// Length of one measurement, after its warm-up [default: 1.5s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    slice: Option<Duration>,

    /// Leave out nginx, haproxy, Go and wrk [default: off]
    #[arg(long)]
    no_peers: bool,

    /// Port the servers listen on
    #[arg(long, value_name = "PORT", default_value_t = 900, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,

    /// Stay in the host's network: no setting is changed [default: off]
    #[arg(long)]
    no_namespace: bool,

    #[command(flatten)]
    run: RunFlags,
}

fn scenarios_help() -> String {
    let names: Vec<&str> = http::SCENARIOS.iter().map(|s| s.name).collect();
    format!(
        "Scenarios to measure, separated by commas: {} [default: all]",
        names.join(", ")
    )
}

impl From<Http> for http::Options {
    fn from(flags: Http) -> Self {
        Self {
            scenarios: flags.scenarios,
            subjects: flags.subjects,
            generators: flags.generators,
            rounds: flags.rounds,
            slice: flags.slice.unwrap_or(http::SLICE_DEFAULT),
            has_peers: !flags.no_peers,
            port: flags.port,
            label: flags.run.name,
            runs: flags.run.runs,
            is_private: !flags.no_namespace,
            bin_dir: flags.run.bin_dir,
        }
    }
}

fn parse_count(text: &str) -> Result<u64, String> {
    text.replace('_', "")
        .parse()
        .map_err(|_| "not a whole number".to_string())
}

fn parse_rate(text: &str) -> Result<SpawnRate, String> {
    if text == "max" {
        return Ok(SpawnRate::Max);
    }
    text.replace('_', "")
        .parse()
        .map(SpawnRate::PerSecond)
        .map_err(|_| "neither a number nor `max`".to_string())
}

impl From<Longconn> for Options {
    fn from(flags: Longconn) -> Self {
        Self {
            users: flags.users,
            rate: flags.rate,
            every: flags.every,
            hold: flags.hold,
            source: flags.source,
            message: flags.message,
            port: flags.port,
            label: flags.run.name,
            runs: flags.run.runs,
            server_threads: flags.server_threads,
            client_threads: flags.client_threads,
            server_args: flags.server_arg,
            client_args: flags.client_arg,
            is_private: !flags.no_namespace,
            has_profile: !flags.no_profile,
            sysctl: flags.sysctl,
            is_forced: flags.force,
            warm: flags.warm,
            bin_dir: flags.run.bin_dir,
        }
    }
}

fn main() -> ExitCode {
    const NOT_STARTED: u8 = 2;
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e)
            if e.use_stderr()
                && e.kind() != clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand =>
        {
            eprintln!("{}", usage(&e));
            return ExitCode::from(NOT_STARTED);
        }
        Err(e) => e.exit(),
    };
    let done = match cli.what {
        What::Longconn(flags) => {
            let is_json = flags.run.json;
            let live = flags.run.live;
            longconn::bench(flags.into(), is_json, live)
        }
        What::Http(flags) => {
            let is_json = flags.run.json;
            let live = flags.run.live;
            http::bench(flags.into(), is_json, live)
        }
        What::Lab(flags) => visit::visit(&flags),
        What::Proxy(flags) => proxy::bench(&flags),
        What::Locust(flags) => locust::bench(*flags),
        What::CliDocs(command) => return command.run::<Cli>(),
        What::Report(flags) => report::again(&flags.run, flags.runs.as_deref()),
        What::Compare(flags) => compare::compare(&(&flags).into(), flags.json),
        What::List(flags) => list::list(flags.runs.as_deref(), flags.json),
        What::Show(flags) => list::show(&flags.run, flags.runs.as_deref(), flags.json),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(refusal) => {
            eprintln!("{refusal}");
            ExitCode::from(NOT_STARTED)
        }
    }
}

/// The first paragraph of what clap says, on one line.
fn usage(e: &clap::Error) -> Refusal {
    let text = e.render().to_string();
    let cause = text.split("\n\n").next().unwrap_or_default();
    let named = std::env::args().nth(1);
    let named = named.filter(|name| Cli::command().find_subcommand(name).is_some());
    let named = named.as_deref().unwrap_or("longconn");
    Refusal::new(
        cause.trim_start_matches("error: "),
        format!("holdfast-bench {named} --help"),
    )
}
