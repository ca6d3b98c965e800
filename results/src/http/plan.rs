//! What an HTTP run will do, settled before anything starts.
//!
//! Purpose: flags checked and completed; programs found, or their absence noted; the slices in
//! their order; how long it takes.
//! Invariants: nothing is started, made or changed here, but for asking foreign programs for their
//! version. Slices alternate: every round holds every slice once, so what drifts in the machine
//! drifts for all.
//! Must not depend on: namespaces, run folders, how a slice is measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use nix::sys::resource::{Resource, getrlimit};

use super::cores::{Halves, allowed};
use super::programs::Programs;
use super::scenario::{Generator, Kind, SCENARIOS, Scenario, Subject};
use crate::run_harness::RunFlags;

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_report::folder::check_label;
use holdfast_report::http::record::HttpAsked;
use holdfast_testbed::programs::{bin_dir_or_own, find, is_program, program};
use holdfast_units::parse;

/// Load on a new server before it is measured.
pub const WARM_UP: Duration = Duration::from_millis(500);
/// Users of `users-*` that start per second.
pub const USERS_PER_SECOND: u64 = 10_000;
/// After the last user's start: the longest wait, so that every user has asked before the
/// measurement.
pub const USERS_SETTLE: Duration = Duration::from_secs(1);

/// How long connections are idle before what they cost is read: a server may take seconds to give
/// back what it used to get there.
pub const IDLE_SETTLE: Duration = Duration::from_secs(6);

/// Port in a network namespace of its own.
const PRIVATE_PORT: u16 = 900;
const SLICE_MIN: Duration = Duration::from_millis(200);
const SLICE_MAX: Duration = Duration::from_secs(600);
const ROUNDS_MAX: u32 = 1_000;

/// The flags of `holdfast-bench http`.
#[derive(Debug, Clone, Args)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 passed, 1 fell short (run.json says in what), 2 not started, 130 interrupted."
)]
pub struct Flags {
    /// Measure these scenarios, separated by commas [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help = scenarios_help())]
    scenarios: Vec<String>,

    /// Measure these servers, separated by commas
    #[arg(
        long,
        value_enum,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "holdfast,baseline,nginx,haproxy,go"
    )]
    subjects: Vec<Subject>,

    /// Load them with these programs, separated by commas
    #[arg(
        long,
        value_enum,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "wrk,holdfast"
    )]
    generators: Vec<Generator>,

    /// Measure everything this many times; figures are medians
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = parse::count_in::<u32>(1..=u64::from(ROUNDS_MAX)))]
    pub rounds: u32,

    /// Measure this long each time, after a warm-up
    #[arg(long, value_name = "TIME", default_value = "1500ms", value_parser = parse::time)]
    pub slice: Duration,

    /// Leave out nginx, haproxy, Go and wrk [default: off]
    #[arg(long, alias = "no-peers")]
    no_competitors: bool,

    /// Have the servers listen on this port [default: 900; in the host's network one that is free]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,

    /// Stay in the host's network: no setting is changed [default: off]
    #[arg(long)]
    pub no_namespace: bool,

    /// The flags that every run has.
    #[command(flatten)]
    pub run: RunFlags,
}

fn scenarios_help() -> String {
    let names: Vec<&str> = SCENARIOS.iter().map(|s| s.name).collect();
    format!(
        "Measure these scenarios, separated by commas: {} [default: all]",
        names.join(", ")
    )
}

/// One measurement to be made.
#[derive(Debug, Clone, Copy)]
pub struct Slice {
    /// Round, from 1.
    pub round: u32,
    /// What is asked of the connections.
    pub scenario: &'static Scenario,
    /// Server.
    pub subject: Subject,
    /// Load.
    pub generator: Generator,
}

/// A checked request.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The flags as given.
    pub flags: Flags,
    /// Port the servers listen on.
    pub port: u16,
    /// Every slice, in order.
    pub slices: Vec<Slice>,
    /// Programs.
    pub programs: Programs,
    /// What foreign programs say about their version; `None`: not here.
    pub versions: BTreeMap<String, Option<String>>,
    /// Cores of both sides.
    pub halves: Halves,
    /// Descriptors one process may have at most.
    pub descriptors: u64,
    /// Folder of our programs, and of what is built for a run.
    pub bin_dir: PathBuf,
    /// What a person should know before the start, one line each.
    pub notices: Vec<String>,
    asked: HttpAsked,
}

impl Plan {
    /// Slice `number` in words.
    #[must_use]
    pub fn slice_name(&self, number: usize) -> String {
        let slice = &self.slices[number];
        format!(
            "{} of {}: round {}, {} {} by {}",
            number + 1,
            self.slices.len(),
            slice.round,
            slice.scenario.name,
            slice.subject.name(),
            slice.generator.name()
        )
    }

    /// Checks `flags` against sense and the programs there are.
    ///
    /// # Errors
    /// The first thing that stands in the way.
    pub fn new(mut flags: Flags) -> Result<Self, SetupError> {
        check_figures(&flags)?;
        check_label(flags.run.name.as_deref())?;
        let scenarios = chosen(&flags.scenarios)?;
        if flags.no_competitors {
            flags.subjects.retain(|s| !s.is_competitor());
            flags.generators.retain(|g| *g != Generator::Wrk);
        }
        let mut notices = Vec::new();
        let bin_dir = bin_dir_or_own(flags.run.bin_dir.as_deref());
        let programs = Programs {
            server: program(flags.run.bin_dir.as_deref(), "holdfast-server").ok(),
            client: program(flags.run.bin_dir.as_deref(), "holdfast-client").ok(),
            baseline: Some(bin_dir.join("examples/baseline")).filter(|p| is_program(p)),
            nginx: find("nginx"),
            haproxy: find("haproxy"),
            go: find("go"),
            wrk: find("wrk"),
            setpriv: find("setpriv"),
            unshare: find("unshare"),
        };
        leave_out_absent(&mut flags, &programs, &mut notices);
        let slices = slices(&scenarios, &flags.subjects, &flags.generators, flags.rounds);
        check_slices(&slices, &flags)?;
        let halves = Halves::of(&allowed());
        if halves.is_shared() {
            notices.push(format!(
                "one core (number {}) for server and client together: figures are not those of a server with a core of its own",
                halves.server[0]
            ));
        }
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(_, hard)| hard.max(1));
        notices.extend(too_few_descriptors(&slices, descriptors));
        Ok(Self {
            descriptors,
            versions: versions(&flags, &programs),
            asked: asked(&flags, &scenarios),
            bin_dir,
            port: flags.port.unwrap_or(PRIVATE_PORT),
            flags,
            slices,
            programs,
            halves,
            notices,
        })
    }

    /// The request as the record holds it.
    #[must_use]
    pub fn asked(&self) -> HttpAsked {
        self.asked.clone()
    }

    /// The cores of a slice's two ends.
    #[must_use]
    pub fn halves_of(&self, slice: &Slice) -> Halves {
        if slice.scenario.is_same_core {
            Halves::same(&self.halves.server)
        } else {
            self.halves.clone()
        }
    }

    /// About how long the slices from number `first` on take.
    #[must_use]
    pub fn estimate(&self, first: usize) -> Duration {
        self.slices
            .iter()
            .skip(first)
            .map(|slice| estimate(slice, self.flags.slice))
            .sum()
    }
}

/// Start of a server, end of both: what a slice takes besides its load, as measured where this was
/// written.
const AROUND: Duration = Duration::from_millis(350);

fn estimate(slice: &Slice, time: Duration) -> Duration {
    let scenario = slice.scenario;
    let connections = scenario.connections_of(slice.subject);
    AROUND
        + match scenario.kind {
            Kind::Users => ramp(connections) + USERS_SETTLE + time + Duration::from_secs(1),
            Kind::IdleMemory => {
                Duration::from_secs_f64(connections as f64 / 20_000.0)
                    + IDLE_SETTLE
                    + Duration::from_secs(2)
            }
            Kind::Saturation if scenario.idle > 0 => WARM_UP + time + Duration::from_secs(2),
            Kind::Saturation => WARM_UP + time,
        }
}

/// How long it takes to start `users` of `users-*`.
#[must_use]
pub fn ramp(users: u64) -> Duration {
    Duration::from_secs_f64(users as f64 / USERS_PER_SECOND as f64)
}

fn check_figures(o: &Flags) -> Result<(), SetupError> {
    if !(SLICE_MIN..=SLICE_MAX).contains(&o.slice) {
        return Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            format!(
                "a slice of {} is outside 200ms to 10m",
                humantime::format_duration(o.slice)
            ),
            "give another with --slice 2s",
        ));
    }
    Ok(())
}

/// The scenarios of these names, all of them for none, in the order of the table.
fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>, SetupError> {
    if let Some(name) = names.iter().find(|name| Scenario::named(name).is_none()) {
        let all: Vec<&str> = SCENARIOS.iter().map(|s| s.name).collect();
        return Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            format!("{name:?} is no scenario"),
            format!("--scenarios with some of {}", all.join(",")),
        ));
    }
    Ok(SCENARIOS
        .iter()
        .filter(|s| names.is_empty() || names.iter().any(|name| name == s.name))
        .collect())
}

/// Leaves out whose program is not here, and says so.
fn leave_out_absent(flags: &mut Flags, programs: &Programs, notices: &mut Vec<String>) {
    const BASELINE: &str = "cargo build --release -p holdfast-engine --example baseline";
    flags.subjects.retain(|subject| {
        let (is_here, next) = match subject {
            Subject::Holdfast => (true, ""),
            Subject::Baseline => (programs.baseline.is_some(), BASELINE),
            Subject::Nginx => (programs.nginx.is_some(), "apt-get install nginx-light"),
            Subject::Haproxy => (programs.haproxy.is_some(), "apt-get install haproxy"),
            Subject::Go => (programs.go.is_some(), "apt-get install golang-go"),
        };
        if !is_here {
            notices.push(format!(
                "{} is left out: it is not here; next: {next}",
                subject.name()
            ));
        }
        is_here
    });
    if programs.wrk.is_none() && flags.generators.contains(&Generator::Wrk) {
        notices.push("wrk is left out: it is not here; next: apt-get install wrk".into());
        flags.generators.retain(|g| *g != Generator::Wrk);
    }
    if programs.setpriv.is_none() || programs.unshare.is_none() {
        notices.push(
            "setpriv or unshare is missing: competitors may stay behind if this program is killed; next: apt-get install util-linux"
                .into(),
        );
    }
}

fn slices(
    scenarios: &[&'static Scenario],
    subjects: &[Subject],
    generators: &[Generator],
    rounds: u32,
) -> Vec<Slice> {
    let mut slices = Vec::new();
    for round in 1..=rounds {
        for scenario in scenarios {
            // Memory does not vary between rounds; a hundred thousand connections take their time.
            if scenario.kind == Kind::IdleMemory && round > 1 {
                continue;
            }
            for (subject, generator) in scenario.pairs(subjects, generators) {
                slices.push(Slice {
                    round,
                    scenario,
                    subject,
                    generator,
                });
            }
        }
    }
    slices
}

/// There is something to do, and our own programs for it are here.
fn check_slices(slices: &[Slice], flags: &Flags) -> Result<(), SetupError> {
    if slices.is_empty() {
        return Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            "none of these scenarios is measured with these subjects and generators",
            "leave --scenarios, --subjects or --generators out; users-* need the generator holdfast",
        ));
    }
    let bin_dir = flags.run.bin_dir.as_deref();
    if slices.iter().any(|s| s.subject == Subject::Holdfast) {
        program(bin_dir, "holdfast-server")?;
    }
    if slices
        .iter()
        .any(|s| s.generator == Generator::Holdfast || s.scenario.idle > 0)
    {
        program(bin_dir, "holdfast-client")?;
    }
    Ok(())
}

/// Subjects of one process that keeps a descriptor for each connection: where these do not suffice,
/// the last users wait for others to leave. nginx gets more workers instead, and our own sockets
/// are in tables that the limit does not count.
fn too_few_descriptors(slices: &[Slice], descriptors: u64) -> Option<String> {
    const OTHERS: u64 = 64;
    let mut names: Vec<&str> = slices
        .iter()
        .filter(|s| matches!(s.subject, Subject::Go | Subject::Haproxy))
        .filter(|s| s.scenario.connections_of(s.subject) + OTHERS > descriptors)
        .map(|s| s.scenario.name)
        .collect();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then(|| {
        format!(
            "one process may have {descriptors} descriptors: in {} a few connections to go wait unanswered",
            names.join(", ")
        )
    })
}

fn asked(flags: &Flags, scenarios: &[&Scenario]) -> HttpAsked {
    HttpAsked {
        scenarios: scenarios.iter().map(|s| s.name.into()).collect(),
        subjects: flags.subjects.iter().map(|s| s.name().into()).collect(),
        generators: flags.generators.iter().map(|g| g.name().into()).collect(),
        rounds: flags.rounds,
        slice_seconds: flags.slice.as_secs_f64(),
        warm_up_seconds: WARM_UP.as_secs_f64(),
        users_per_second: USERS_PER_SECOND,
        messages: None,
    }
}

fn versions(flags: &Flags, programs: &Programs) -> BTreeMap<String, Option<String>> {
    if flags.no_competitors {
        return BTreeMap::new();
    }
    [
        ("nginx", &programs.nginx, "-v"),
        ("haproxy", &programs.haproxy, "-v"),
        ("go", &programs.go, "version"),
        ("wrk", &programs.wrk, "-v"),
    ]
    .into_iter()
    .map(|(name, path, arg)| {
        let said = path.as_deref().and_then(|path| version(path, arg));
        (name.to_string(), said)
    })
    .collect()
}

/// The first line a program says when asked for its version; wrk and nginx say it on standard
/// error.
pub(crate) fn version(path: &Path, arg: &str) -> Option<String> {
    let output = Command::new(path)
        .arg(arg)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().map(|line| line.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_alternate_and_memory_is_taken_once() {
        let scenarios = chosen(&["idle-memory-100000".into(), "keepalive-64".into()]).expect("two");
        let slices = slices(
            &scenarios,
            &[Subject::Holdfast, Subject::Nginx],
            &[Generator::Holdfast],
            2,
        );
        let names: Vec<String> = slices
            .iter()
            .map(|s| format!("{} {} {}", s.round, s.scenario.name, s.subject.name()))
            .collect();
        assert_eq!(
            names,
            [
                "1 keepalive-64 holdfast",
                "1 keepalive-64 nginx",
                "1 idle-memory-100000 holdfast",
                "1 idle-memory-100000 nginx",
                "2 keepalive-64 holdfast",
                "2 keepalive-64 nginx",
            ]
        );
    }

    #[test]
    fn a_process_with_too_few_descriptors_is_named() {
        let all = chosen(&["users-15000".into(), "users-20000".into()]).expect("two");
        let slices = slices(&all, Subject::ALL, Generator::ALL, 2);
        let said = too_few_descriptors(&slices, 20_000).expect("said");
        assert!(said.contains("in users-20000 a few"), "{said}");
        assert_eq!(too_few_descriptors(&slices, 1 << 20), None);
    }

    #[test]
    fn unknown_scenarios_are_refused_with_the_known_ones() {
        let refusal = chosen(&["keepalive".into()])
            .expect_err("refused")
            .to_string();
        assert!(
            refusal.contains("\"keepalive\" is no scenario"),
            "{refusal}"
        );
        assert!(refusal.contains("keepalive-64,keepalive-512"), "{refusal}");
        assert_eq!(chosen(&[]).expect("all").len(), SCENARIOS.len());
    }

    #[test]
    fn the_default_takes_less_than_ten_minutes() {
        let all = chosen(&[]).expect("all");
        let total: Duration = slices(&all, Subject::ALL, Generator::ALL, 3)
            .iter()
            .map(|slice| estimate(slice, Duration::from_millis(1_500)))
            .sum();
        assert!(total < Duration::from_secs(600), "{total:?}");
    }
}
