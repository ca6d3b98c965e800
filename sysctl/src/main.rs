//! `holdfast-tune`: the command line.
//!
//! Purpose: flags to plans, outcomes to exit codes: 0 done, 1 something stops the connections asked (plan, check) or a setting could not be set (apply,
//! restore), 2 wrong usage.
//! Must not know: how settings are compared or written.
#![forbid(unsafe_code)]

mod explain;
mod table;

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use holdfast_sysctl::apply::{self, to_write};
use holdfast_sysctl::cli_docs::CliDocs;
use holdfast_sysctl::plan::{Asked, Plan};
use holdfast_sysctl::profile::{PROFILE_BYTES_MAX, built_in, joined};
use holdfast_sysctl::setting::Setting;
use holdfast_sysctl::state::{self, State};
use holdfast_sysctl::values::{Now, Values};
use holdfast_sysctl::{Machine, Profile, Role, Shortfall, persist};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Says what a machine needs to hold very many TCP connections, and sets it.
#[derive(Parser)]
#[command(
    name = "holdfast-tune",
    version,
    after_help = "Exit codes: 0 done; 1 something stops the connections asked (plan, check), or a setting could not be set (apply, restore); 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What so many connections need here: settings, memory, rings, addresses, and what bounds their number
    Plan(PlanFlags),
    /// Each setting: now, wanted, verdict, why; exit code 1 when something would stop the connections asked
    Check(CheckFlags),
    /// Write what is wanted, after saving what is there; what somebody raised further is kept
    Apply(ApplyFlags),
    /// Put back everything that was there before the first apply
    Restore(RestoreFlags),
    /// Everything known about a setting [default: list them]
    Explain(ExplainFlags),
    /// Describe this machine as JSON, for plan --machine elsewhere
    Machine,
    #[command(flatten)]
    CliDocs(CliDocs),
}

#[derive(Args)]
struct Want {
    /// Connections to hold at once: a number, or such as 64k, 2.4M
    #[arg(short, long, value_name = "COUNT", default_value = "1000000", value_parser = parse_count)]
    connections: u64,
    /// What this machine is to be
    #[arg(short, long, value_enum, default_value = "both")]
    role: Role,
    /// Addresses and ports that the clients here connect to
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=65_535))]
    targets: u64,
    /// A profile or sysctl.conf of your own, instead of those of the role; may be repeated [default: none]
    #[arg(long, value_name = "FILE")]
    profile: Vec<PathBuf>,
    /// Values exactly as the profile has them, also where that lowers what somebody raised [default: off]
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
    /// Only how many connections this machine can hold, now and after apply, and what bites first [default: off]
    #[arg(long)]
    max: bool,
    /// Plan for the machine described in this file, as `holdfast-tune machine` prints it [default: this one]
    #[arg(long, value_name = "FILE")]
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
    /// Only say what would be done [default: off]
    #[arg(long)]
    dry_run: bool,
    /// Also write files so that it holds after a reboot: sysctl.d, limits.d, a systemd drop-in [default: off]
    #[arg(long)]
    persist: bool,
    /// Do not ask on a terminal [default: off]
    #[arg(short, long)]
    yes: bool,
    /// Where to save what was there [default: /run/holdfast, one file for each network namespace]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

#[derive(Args)]
struct RestoreFlags {
    /// Only say what would be done [default: off]
    #[arg(long)]
    dry_run: bool,
    /// Also remove the files that apply --persist wrote [default: off]
    #[arg(long)]
    persist: bool,
    /// Where what was there is saved [default: /run/holdfast, one file for each network namespace]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Print JSON [default: off]
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ExplainFlags {
    /// The setting, such as net.core.somaxconn
    key: Option<String>,
    /// The tables of sysctl/README.md [default: off]
    #[arg(long, hide = true)]
    markdown: bool,
}

/// A machine that is described.
#[derive(Serialize, Deserialize)]
struct Description {
    machine: Machine,
    values: Values,
}

/// `1000000`, `1_000_000`, `64k`, `2.4M`.
fn parse_count(text: &str) -> Result<u64, String> {
    let expected = || {
        format!(
            "'{text}' is no number of connections; next: give 1 to 1000000000, or such as 64k, 2.4M"
        )
    };
    let plain = text.replace(['_', ','], "");
    let (digits, unit) = match plain.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1e3),
        None => match plain.strip_suffix(['m', 'M']) {
            Some(digits) => (digits, 1e6),
            None => (plain.as_str(), 1.0),
        },
    };
    let is_number = digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    let value: f64 = digits.parse().map_err(|_| expected())?;
    let count = (value * unit).round();
    let is_whole = (value * unit - count).abs() < 1e-3;
    if is_number && is_whole && (1.0..=1e9).contains(&count) {
        Ok(count as u64)
    } else {
        Err(expected())
    }
}

/// One line, the way every program here says why it does not go on.
fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(shortfall) => {
            // Nobody may read that either any more.
            let _ = writeln!(std::io::stderr(), "error: {shortfall}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Shortfall> {
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

fn say(text: impl AsRef<str>) {
    // A reader that has seen enough is no error.
    let _ = std::io::stdout().write_all(text.as_ref().as_bytes());
}

fn say_json(document: &serde_json::Value) {
    say(serde_json::to_string_pretty(document).unwrap_or_default() + "\n");
}

fn code(is_good: bool) -> ExitCode {
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Reads a file the user named, bounded.
fn read_file(file: &std::path::Path, what: &str, next: &str) -> Result<String, Shortfall> {
    let trouble = |error: String| {
        Shortfall::new(
            format!("{what} {} cannot be read: {error}", file.display()),
            next,
        )
    };
    let mut text = String::new();
    let open = fs::File::open(file).map_err(|error| trouble(error.to_string()))?;
    std::io::Read::read_to_string(
        &mut std::io::Read::take(open, PROFILE_BYTES_MAX as u64 + 1),
        &mut text,
    )
    .map_err(|error| trouble(error.to_string()))?;
    if text.len() > PROFILE_BYTES_MAX {
        return Err(trouble("it is larger than 1 MiB".into()));
    }
    Ok(text)
}

impl Want {
    fn asked(&self) -> Asked {
        Asked {
            connections: self.connections,
            role: self.role,
            targets: self.targets,
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
        for file in &self.profile {
            options += &format!(" --profile {}", file.display());
        }
        if self.exact {
            options += " --exact";
        }
        options
    }

    fn settings(&self) -> Result<Vec<Setting>, Shortfall> {
        if self.profile.is_empty() {
            return Ok(joined(&built_in(self.role)));
        }
        let mut profiles = Vec::new();
        for file in &self.profile {
            let text = read_file(file, "the profile", "name a file such as /etc/sysctl.conf")?;
            let name = file.display().to_string();
            let profile = Profile::parse(&name, &text).map_err(|error| {
                Shortfall::new(error.to_string(), "mend that line, then run it again")
            })?;
            profiles.push(profile);
        }
        Ok(joined(&profiles))
    }

    fn plan(&self, machine: &Machine, values: &Values) -> Result<Plan, Shortfall> {
        Ok(Plan::new(machine, values, &self.settings()?, self.asked()))
    }
}

fn plan(flags: &PlanFlags) -> Result<ExitCode, Shortfall> {
    let (machine, values) = match &flags.machine {
        None => (Machine::read()?, Values::Here),
        Some(file) => {
            let next = "make one with: holdfast-tune machine > FILE";
            let text = read_file(file, "the description", next)?;
            let described: Description = serde_json::from_str(&text).map_err(|error| {
                Shortfall::new(
                    format!("{} describes no machine: {error}", file.display()),
                    next,
                )
            })?;
            (described.machine, described.values)
        }
    };
    let plan = flags.want.plan(&machine, &values)?;
    if flags.want.json {
        say_json(&json!({"schema": "holdfast-tune/1", "machine": machine, "plan": plan}));
    } else if flags.max {
        say(table::holds(&plan));
    } else {
        say(table::plan(&plan, &machine));
    }
    Ok(code(flags.max || plan.can_be_met()))
}

fn check(flags: &CheckFlags) -> Result<ExitCode, Shortfall> {
    let machine = Machine::read()?;
    let plan = flags.want.plan(&machine, &Values::Here)?;
    if flags.want.json {
        say_json(&json!({"schema": "holdfast-tune/1", "machine": machine, "plan": plan}));
    } else {
        say(table::rows(plan.rows.iter()));
        say(table::closing(&plan));
    }
    Ok(code(plan.is_met()))
}

fn apply(flags: &ApplyFlags) -> Result<ExitCode, Shortfall> {
    let machine = Machine::read()?;
    let before = flags.want.plan(&machine, &Values::Here)?;
    let is_json = flags.want.json;
    if !is_json {
        say(table::rows(before.rows.iter()));
        say(table::closing(&before));
    }
    let mut outcome = apply::Outcome::default();
    let mut after = None;
    if !flags.dry_run {
        let count = to_write(&before).count();
        if count + usize::from(flags.persist) > 0 && !flags.yes && !is_json && !is_agreed(count) {
            say("nothing was changed\n");
            return Ok(ExitCode::FAILURE);
        }
        let file = state_file(flags.state.as_ref(), &machine);
        outcome = apply::apply(&before, || State::open(&file, machine.network_namespace))?;
        after = Some(flags.want.plan(&machine, &Values::Here)?);
    }
    let after = after.unwrap_or_else(|| before.clone());
    let mut files = Vec::new();
    if flags.persist {
        // Of what is there now: what the kernel did not take is not asked of it at the next boot.
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
        say_json(&json!({
            "schema": "holdfast-tune/1", "machine": machine, "before": before, "outcome": outcome,
            "files": files, "after": after, "dry_run": flags.dry_run,
        }));
    } else {
        if !flags.dry_run && !outcome.changes.is_empty() {
            say("\n");
            say(table::outcome(&outcome, false));
            say("\n");
            say(table::rows(after.rows.iter()));
            say(table::closing(&after));
            say(format!(
                "{} set, {} failed; put back with: holdfast-tune restore{}\n",
                outcome.changes.len() - outcome.failed_count(),
                outcome.failed_count(),
                flags
                    .state
                    .as_ref()
                    .map_or(String::new(), |file| format!(" --state {}", file.display()))
            ));
        }
        say(table::files(&files, flags.dry_run));
    }
    Ok(code(failed == 0))
}

/// Asks before settings of a whole machine are changed, where there is somebody to ask.
fn is_agreed(count: usize) -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return true;
    }
    say(format!("change these {count} settings? [y/N] "));
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

fn restore(flags: &RestoreFlags) -> Result<ExitCode, Shortfall> {
    let machine = Machine::read()?;
    let file = state_file(flags.state.as_ref(), &machine);
    let mut outcome = apply::Outcome::default();
    if file.exists() {
        let state = State::open(&file, machine.network_namespace)?;
        outcome = apply::restore(state, flags.dry_run)?;
    } else {
        outcome.note = Some(format!(
            "nothing to put back: {} is not there",
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
        say_json(&json!({
            "schema": "holdfast-tune/1", "outcome": outcome, "files": files, "dry_run": flags.dry_run,
        }));
    } else {
        say(table::outcome(&outcome, flags.dry_run));
        say(table::files(&files, flags.dry_run));
    }
    Ok(code(failed == 0))
}

fn explain(flags: &ExplainFlags) -> Result<ExitCode, Shortfall> {
    if flags.markdown {
        say(explain::markdown());
        return Ok(ExitCode::SUCCESS);
    }
    let Some(key) = &flags.key else {
        say(explain::keys().join("\n") + "\n");
        return Ok(ExitCode::SUCCESS);
    };
    let text = explain::explain(key).ok_or_else(|| {
        Shortfall::new(
            format!("no profile has '{}'", key.escape_debug()),
            "holdfast-tune explain lists what they have",
        )
    })?;
    say(text);
    Ok(ExitCode::SUCCESS)
}

/// Describes this machine with the values a plan looks at.
fn machine() -> Result<ExitCode, Shortfall> {
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
    say_json(&json!(Description {
        machine,
        values: Values::Described(values),
    }));
    Ok(ExitCode::SUCCESS)
}
