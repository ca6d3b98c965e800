//! `holdfast-tune`: the command line.
//!
//! Turns flags into plans and outcomes into exit codes: 0 success, 1 fell short (plan, check: the
//! connections cannot be held; apply, restore: a setting could not be set), 2 usage or set-up
//! error.
//! Must not depend on: how settings are compared or written.
#![forbid(unsafe_code)]

mod explain;
mod table;

use std::fs;
use std::io::{IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{Args, Parser, Subcommand};
use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_sysctl::apply::{self, to_write};
use holdfast_sysctl::cli_docs::CliDocs;
use holdfast_sysctl::plan::{Plan, Request};
use holdfast_sysctl::profile::{PROFILE_BYTES_MAX, built_in, joined};
use holdfast_sysctl::setting::Setting;
use holdfast_sysctl::state::{self, State};
use holdfast_sysctl::values::{Now, Values};
use holdfast_sysctl::{Machine, Profile, Role, cli, persist, routes};
use holdfast_units::parse::count_in;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Calculate what a machine needs to hold many TCP connections, and set it
#[derive(Parser)]
#[command(
    name = "holdfast-tune",
    version,
    after_help = "Exit codes: 0 success; 1 fell short: the connections cannot be held (plan: not even after apply; check: not now), or a setting could not be set (apply, restore); 2 usage or set-up error."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what connections need on this machine: settings, memory, rings, addresses, and which
    /// limit decides
    Plan(PlanFlags),
    /// Compare each setting with the wanted value; exit code 1 if the connections cannot be held
    /// now
    Check(CheckFlags),
    /// Save the present values, then write the wanted ones; values that were raised further are
    /// kept
    Apply(ApplyFlags),
    /// Restore the values from before the first apply
    Restore(RestoreFlags),
    /// Explain a setting [default: list all]
    Explain(ExplainFlags),
    /// Describe this machine as JSON, for plan --machine on another one
    Machine,
    #[command(flatten)]
    CliDocs(CliDocs),
}

#[derive(Args)]
struct Want {
    /// Hold this many connections at once: a count such as 64k or 2.4M
    #[arg(short, long, value_name = "COUNT", default_value = "1000000", value_parser = count_in::<u64>(1..=1_000_000_000))]
    connections: u64,
    /// Use the profiles for this role of the machine
    #[arg(short, long, value_enum, default_value = "both")]
    role: Role,
    /// Assume that clients on this machine connect to this many addresses and ports
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = count_in::<u64>(1..=65_535))]
    targets: u64,
    /// Count the source addresses that reach this target, by the routing table; repeatable
    /// [default: those of the default route]
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "targets")]
    target: Vec<String>,
    /// Use this profile, sysctl.conf or sysctl.d file instead of the role's; repeatable [default:
    /// none]
    #[arg(long, value_name = "FILE")]
    profile: Vec<PathBuf>,
    /// Want values exactly as in the profile, even if that lowers a raised one [default: off]
    #[arg(long)]
    exact: bool,
    /// Print JSON [default: off]
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct PlanFlags {
    #[command(flatten)]
    want: Want,
    /// Show only how many connections this machine can hold, now and after apply, and which limit
    /// decides [default: off]
    #[arg(long)]
    max: bool,
    /// Plan for the machine that `holdfast-tune machine` described in this file [default: this one]
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    machine: Option<PathBuf>,
}

#[derive(Args)]
struct CheckFlags {
    #[command(flatten)]
    want: Want,
}

#[derive(Args)]
struct ApplyFlags {
    #[command(flatten)]
    want: Want,
    /// Show what would be done, and do nothing [default: off]
    #[arg(long)]
    dry_run: bool,
    /// Also write files that keep the settings after a reboot: sysctl.d, limits.d, a systemd
    /// drop-in [default: off]
    #[arg(long)]
    persist: bool,
    /// Do not ask for confirmation on a terminal [default: off]
    #[arg(short, long)]
    yes: bool,
    /// Save the previous values in this file [default: one per network namespace in /run/holdfast]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

#[derive(Args)]
struct RestoreFlags {
    /// Show what would be done, and do nothing [default: off]
    #[arg(long)]
    dry_run: bool,
    /// Also remove the files that apply --persist wrote [default: off]
    #[arg(long)]
    persist: bool,
    /// Read the previous values from this file [default: one per network namespace in
    /// /run/holdfast]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Also restore the keys of this profile that are neither in a built-in profile nor in net.*;
    /// repeatable [default: none]
    #[arg(long, value_name = "FILE")]
    profile: Vec<PathBuf>,
    /// Print JSON [default: off]
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ExplainFlags {
    /// The setting, such as net.core.somaxconn
    key: Option<String>,
    /// Print the tables of sysctl/SETTINGS.md [default: off]
    #[arg(long, hide = true)]
    markdown: bool,
}

/// A described machine.
#[derive(Serialize, Deserialize)]
struct Description {
    machine: Machine,
    values: Values,
}

fn main() -> ExitCode {
    match run(cli::parse::<Cli>().command) {
        Ok(code) => match STDOUT_ERROR.get() {
            None => code,
            Some(error) => fail(error),
        },
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    // Stderr may be closed: the exit code remains.
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::from(2)
}

fn run(command: Command) -> Result<ExitCode, SetupError> {
    match command {
        Command::Plan(flags) => plan(&flags),
        Command::Check(flags) => check(&flags),
        Command::Apply(flags) => apply(&flags),
        Command::Restore(flags) => restore(&flags),
        Command::Explain(flags) => explain(&flags),
        Command::Machine => machine(),
        Command::CliDocs(command) => Ok(command.run::<Cli>()),
    }
}

/// Standard output could not be written: an error at the end, since what was asked for may be done
/// already.
static STDOUT_ERROR: OnceLock<String> = OnceLock::new();

fn print(text: impl AsRef<str>) {
    if let Err(error) = cli::print(text.as_ref().as_bytes()) {
        let _ = STDOUT_ERROR.set(error);
    }
}

fn print_json(document: &serde_json::Value) {
    print(serde_json::to_string_pretty(document).unwrap_or_default() + "\n");
}

/// 0 for success, 1 for a result that fell short.
fn code(is_met: bool) -> ExitCode {
    if is_met {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}

/// Reads a file the user named, up to a bound.
fn read_file(file: &std::path::Path, what: &str, next: &str) -> Result<String, SetupError> {
    let failed = |error: std::io::Error| {
        SetupError::from_io(
            format_args!("{what} {} cannot be read", file.display()),
            error,
            next,
        )
    };
    let mut text = String::new();
    let open = fs::File::open(file).map_err(failed)?;
    let mut open = std::io::Read::take(open, PROFILE_BYTES_MAX as u64 + 1);
    std::io::Read::read_to_string(&mut open, &mut text).map_err(failed)?;
    if text.len() > PROFILE_BYTES_MAX {
        let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "it is larger than 1 MiB");
        return Err(failed(error));
    }
    Ok(text)
}

fn read_profiles(files: &[PathBuf]) -> Result<Vec<Profile>, SetupError> {
    let read = |file: &PathBuf| {
        let text = read_file(file, "the profile", "name a file such as /etc/sysctl.conf")?;
        let name = file.display().to_string();
        Profile::parse(&name, &text).map_err(|error| {
            SetupError::new(
                SetupErrorKind::InvalidInput,
                error.to_string(),
                "correct that line, then run this again",
            )
        })
    };
    files.iter().map(read).collect()
}

impl Want {
    fn request(&self, targets: &[SocketAddr]) -> Request {
        Request {
            connections: self.connections,
            role: self.role,
            targets: match targets.len() {
                0 => self.targets,
                count => count as u64,
            },
            target_ports: targets.iter().map(SocketAddr::port).collect(),
            exact: self.exact,
            options: self.options(),
        }
    }

    /// The flags that a next command must repeat.
    fn options(&self) -> String {
        let mut options = String::new();
        if self.targets != 1 {
            options += &format!(" --targets {}", self.targets);
        }
        for target in &self.target {
            options += &format!(" --target {target}");
        }
        for file in &self.profile {
            options += &format!(" --profile {}", cli::shell_word(file));
        }
        if self.exact {
            options += " --exact";
        }
        options
    }

    fn settings(&self, values: &Values) -> Result<Vec<Setting>, SetupError> {
        if self.profile.is_empty() {
            return Ok(joined(&built_in(self.role)));
        }
        let profiles = read_profiles(&self.profile)?;
        let excluded: Vec<String> = profiles.iter().flat_map(|p| p.excluded.clone()).collect();
        Ok(values.expand(joined(&profiles), &excluded))
    }

    /// The addresses of `--target`.
    fn target_addresses(&self) -> Result<Vec<SocketAddr>, SetupError> {
        let resolve = |target: &String| {
            let invalid = |why: &str| {
                SetupError::new(
                    SetupErrorKind::InvalidInput,
                    format!(
                        "--target {} cannot be resolved: {why}",
                        target.escape_debug()
                    ),
                    "give HOST:PORT, such as 192.0.2.7:80 or [2001:db8::7]:80",
                )
            };
            let mut found = target
                .to_socket_addrs()
                .map_err(|error| invalid(&error.to_string()))?;
            found.next().ok_or_else(|| invalid("no address"))
        };
        self.target.iter().map(resolve).collect()
    }

    fn plan(&self, machine: &Machine, values: &Values) -> Result<Plan, SetupError> {
        let targets = self.target_addresses()?;
        let request = self.request(&targets);
        let settings = self.settings(values)?;
        if targets.is_empty() {
            return Ok(Plan::new(machine, values, &settings, request));
        }
        let machine = Machine {
            address_count: routes::source_addresses(&targets, 1 << 20)?.len() as u64,
            ..machine.clone()
        };
        Ok(Plan::new(&machine, values, &settings, request))
    }
}

fn plan(flags: &PlanFlags) -> Result<ExitCode, SetupError> {
    let (machine, values) = match &flags.machine {
        None => (Machine::read()?, Values::Here),
        Some(file) => {
            let next = "make one with: holdfast-tune machine > FILE";
            let text = read_file(file, "the description", next)?;
            let described: Description = serde_json::from_str(&text).map_err(|error| {
                SetupError::new(
                    SetupErrorKind::InvalidInput,
                    format!("{} describes no machine: {error}", file.display()),
                    next,
                )
            })?;
            (described.machine, described.values)
        }
    };
    let plan = flags.want.plan(&machine, &values)?;
    if flags.want.json {
        print_json(&json!({"schema": "holdfast-tune/1", "machine": machine, "plan": plan}));
    } else if flags.max {
        print(table::holds(&plan));
    } else {
        print(table::plan(&plan, &machine));
    }
    Ok(code(flags.max || plan.can_be_met()))
}

fn check(flags: &CheckFlags) -> Result<ExitCode, SetupError> {
    let machine = Machine::read()?;
    let plan = flags.want.plan(&machine, &Values::Here)?;
    if flags.want.json {
        print_json(&json!({"schema": "holdfast-tune/1", "machine": machine, "plan": plan}));
    } else {
        print(table::rows(plan.rows.iter()));
        print(table::closing(&plan));
    }
    Ok(code(plan.is_met()))
}

fn apply(flags: &ApplyFlags) -> Result<ExitCode, SetupError> {
    let machine = Machine::read()?;
    let before = flags.want.plan(&machine, &Values::Here)?;
    let is_json = flags.want.json;
    if !is_json {
        print(table::rows(before.rows.iter()));
        print(table::closing(&before));
    }
    let mut outcome = apply::Outcome::default();
    let mut after = None;
    if !flags.dry_run {
        let count = to_write(&before).count();
        if count + usize::from(flags.persist) > 0 && !flags.yes && !is_json && !is_agreed(count) {
            print("nothing was changed\n");
            return Ok(code(false));
        }
        let file = state_file(flags.state.as_ref(), &machine);
        outcome = apply::apply(&before, || State::open(&file, machine.network_namespace))?;
        after = Some(flags.want.plan(&machine, &Values::Here)?);
    }
    let after = after.unwrap_or_else(|| before.clone());
    let mut files = Vec::new();
    if flags.persist {
        // A value that the kernel refused now is not written for the next boot.
        let is_refused = |key: &str| {
            let mut changes = outcome.changes.iter();
            changes.any(|c| c.error.is_some() && c.key == key)
        };
        let mut kept = after.clone();
        kept.rows.retain(|row| !is_refused(&row.key));
        files = persist::write(&kept, flags.dry_run);
    }
    let failed = outcome.failed_count()
        + files.iter().filter(|f| f.error.is_some()).count()
        + after.rows.iter().filter(|row| row.is_failure).count();
    if is_json {
        print_json(&json!({
            "schema": "holdfast-tune/1", "machine": machine, "before": before, "outcome": outcome,
            "files": files, "after": after, "dry_run": flags.dry_run,
        }));
    } else {
        if !flags.dry_run && !outcome.changes.is_empty() {
            print("\n");
            print(table::outcome(&outcome, false));
            print("\n");
            print(table::rows(after.rows.iter()));
            print(table::closing(&after));
            print(format!(
                "{} set, {} failed; undo with: holdfast-tune restore{}\n",
                outcome.changes.len() - outcome.failed_count(),
                outcome.failed_count(),
                flags.restore_options(&outcome),
            ));
        }
        print(table::files(&files, flags.dry_run));
    }
    Ok(code(failed == 0))
}

impl ApplyFlags {
    /// The options with which `restore` undoes this.
    fn restore_options(&self, outcome: &apply::Outcome) -> String {
        let mut options = String::new();
        if let Some(file) = &self.state {
            options += &format!(" --state {}", cli::shell_word(file));
        }
        let built_in = built_in(Role::Both);
        let needs_profile = outcome.changes.iter().any(|change| {
            !change.key.starts_with("net.") && !built_in.iter().any(|p| p.has_key(&change.key))
        });
        for file in self.want.profile.iter().filter(|_| needs_profile) {
            options += &format!(" --profile {}", cli::shell_word(file));
        }
        options
    }
}

/// Asks before settings of the machine are changed, if there is a terminal.
fn is_agreed(count: usize) -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return true;
    }
    print(format!("change these {count} settings? [y/N] "));
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

fn state_file(named: Option<&PathBuf>, machine: &Machine) -> PathBuf {
    named.map_or_else(
        || state::default_file(machine.network_namespace),
        PathBuf::clone,
    )
}

fn restore(flags: &RestoreFlags) -> Result<ExitCode, SetupError> {
    let machine = Machine::read()?;
    let file = state_file(flags.state.as_ref(), &machine);
    let mut outcome = apply::Outcome::default();
    // A dangling symbolic link exists as well: opening it is an error.
    if file.symlink_metadata().is_ok() {
        let profiles = read_profiles(&flags.profile)?;
        let state = State::open(&file, machine.network_namespace)?;
        outcome = apply::restore(state, &profiles, flags.dry_run)?;
    } else {
        outcome.note = Some(format!(
            "nothing to restore: {} does not exist",
            file.display()
        ));
    }
    let files = if flags.persist {
        persist::remove(flags.dry_run)
    } else {
        Vec::new()
    };
    let failed = outcome.failed_count() + files.iter().filter(|f| f.error.is_some()).count();
    if flags.json {
        print_json(&json!({
            "schema": "holdfast-tune/1", "outcome": outcome, "files": files, "dry_run": flags.dry_run,
        }));
    } else {
        print(table::outcome(&outcome, flags.dry_run));
        print(table::files(&files, flags.dry_run));
    }
    Ok(code(failed == 0))
}

fn explain(flags: &ExplainFlags) -> Result<ExitCode, SetupError> {
    if flags.markdown {
        print(explain::markdown());
        return Ok(ExitCode::SUCCESS);
    }
    let Some(key) = &flags.key else {
        print(explain::keys().join("\n") + "\n");
        return Ok(ExitCode::SUCCESS);
    };
    let text = explain::explain(key).ok_or_else(|| {
        SetupError::new(
            SetupErrorKind::NotFound,
            format!("no profile has '{}'", key.escape_debug()),
            "holdfast-tune explain (lists the settings)",
        )
    })?;
    print(text);
    Ok(ExitCode::SUCCESS)
}

/// Describes this machine with the values that a plan reads.
fn machine() -> Result<ExitCode, SetupError> {
    let machine = Machine::read()?;
    let mut keys = explain::keys();
    keys.extend(
        [
            "fs.file-nr",
            "net.ipv4.tcp_ehash_entries",
            "net.netfilter.nf_conntrack_count",
        ]
        .map(str::to_owned),
    );
    let present = keys
        .into_iter()
        .filter_map(|key| match Values::Here.sysctl(&key) {
            Now::Is(value) => Some((key, value)),
            _ => None,
        });
    let mut values: std::collections::BTreeMap<String, String> = present.collect();
    values.insert("limit nofile".into(), machine.nofile_hard.to_string());
    print_json(&json!(Description {
        machine,
        values: Values::Described(values),
    }));
    Ok(ExitCode::SUCCESS)
}
