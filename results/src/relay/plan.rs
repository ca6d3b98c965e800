//! What a run of `relay` will do, settled before anything starts.
//!
//! Invariants: nothing is started or changed here, but for asking foreign programs for their
//! version. Measurements alternate: every round holds each once, so what drifts in the machine
//! drifts for all.
//! Must not depend on: namespaces, run folders, how a measurement goes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use nix::sys::resource::{Resource, getrlimit};

use crate::http::cores::{Halves, allowed};
use crate::http::plan::version;
use crate::http::programs::Programs;
use crate::http::scenario::Generator;
use crate::proxy::nginx;
use crate::run_harness::RunFlags;

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_report::folder::check_label;
use holdfast_report::relay::record::RelayAsked;
use holdfast_telemetry::proc::KernelSample;
use holdfast_telemetry::units::count;
use holdfast_testbed::programs::{bin_dir_or_own, find, is_program, program};
use holdfast_units::parse;

use super::bulk::Direction;

/// Load on a relay before it is measured.
pub const WARM_UP: Duration = Duration::from_millis(400);
/// Users of `half-load`, and connections of `connections` and `reloads`.
pub const USERS: u64 = 64;
/// Heartbeats of `messages` come at this interval.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Backends of `storm`.
pub const BACKEND_COUNT: usize = 8;
/// Times that `reloads` reloads.
pub const RELOAD_COUNT: u32 = 100;
/// From one reload to the next.
pub const RELOAD_PAUSE: Duration = Duration::from_millis(50);
/// Pairs that get an address of the backend for themselves: half of its ports, so that the kernel
/// finds a free one at once.
pub const PAIRS_PER_BACKEND: u64 = 30_000;

/// Four sockets of a pair in the kernel, and what the programs at both ends and our relay keep.
const PAIR_BYTES: u64 = 16_800;
/// Memory left for everything else.
const SPARE_BYTES: u64 = 1_536 << 20;
const PAIRS: [u64; 2] = [500_000, 1_000_000];
const PRIVATE_PORT: u16 = 900;
const NAMES: &str = "requests-64, requests-512, requests-4096, connections, messages, bulk-1-up, bulk-1-down, bulk-64-up, \
    bulk-64-down, half-load, limit, pairs, storm, reloads";

/// The flags of `holdfast-bench relay`.
#[derive(Debug, Clone, Args)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 our relay lost nothing, 1 it did (run.json says in what), 2 not started, 130 interrupted."
)]
pub struct Flags {
    /// Measure these scenarios, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help = format!("Measure these scenarios, separated by commas: {NAMES}, or the first word of some [default: all]"))]
    scenarios: Vec<String>,

    /// Measure these relays, separated by commas
    #[arg(
        long,
        value_enum,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "direct,baseline,holdfast,haproxy,haproxy-splice,nginx"
    )]
    subjects: Vec<Subject>,

    /// Make requests with this program
    #[arg(long, value_enum, value_name = "NAME", default_value = "holdfast")]
    pub generator: Generator,

    /// Measure short and few: 1 round of 300ms, 500 pairs [default: off]
    #[arg(long)]
    quick: bool,

    /// Measure everything this many times; figures are medians [default: 3, with --quick 1]
    #[arg(long, value_name = "COUNT", value_parser = parse::count_in::<u32>(1..=100))]
    rounds: Option<u32>,

    /// Measure this long each time, after a warm-up [default: 1200ms, with --quick 300ms]
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    slice: Option<Duration>,

    /// Pass messages over this many pairs [default: 8000, with --quick 500]
    #[arg(long, short = 'u', value_name = "COUNT", value_parser = parse::count_in::<u64>(1..=9_900))]
    users: Option<u64>,

    /// Hold these numbers of pairs, separated by commas [default: 500000,1000000, or what memory
    /// allows; with --quick 2000]
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', value_parser = parse::count_in::<u64>(1..=4_000_000))]
    pairs: Vec<u64>,

    /// Reconnect this many users at once in storm [default: 200000, with --quick 4000]
    #[arg(long, value_name = "COUNT", value_parser = parse::count_in::<u64>(1..=400_000))]
    storm: Option<u64>,

    /// Open long connections at this rate, per second
    #[arg(long, short = 'r', value_name = "RATE", default_value_t = 20_000, value_parser = parse::count_in::<u64>(1..=1_000_000))]
    pub spawn_rate: u64,

    /// Send this many requests per second in half-load [default: half of what the slowest relay
    /// answers in requests-64]
    #[arg(long, value_name = "RATE", value_parser = parse::count_in::<u64>(1..=1_000_000))]
    pub rate: Option<u64>,

    /// Leave out haproxy and nginx [default: off]
    #[arg(long)]
    no_competitors: bool,

    /// Use this port and the one after it [default: 900; in the host's network one that is free]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub port: Option<u16>,

    /// Stay in the host's network: no setting is changed [default: off]
    #[arg(long)]
    pub no_namespace: bool,

    /// The flags that every run has.
    #[command(flatten)]
    pub run: RunFlags,
}

/// What stands between load and backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Subject {
    /// Nothing.
    Direct,
    /// The engine's example `bare_relay`: what any relay of this kind pays at least.
    #[value(alias = "floor")]
    Baseline,
    /// `holdfast-server relay`.
    Holdfast,
    /// haproxy in TCP mode.
    Haproxy,
    /// The same with `option splice-auto`.
    HaproxySplice,
    /// nginx with its stream module.
    Nginx,
}

impl Subject {
    /// Its name in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Baseline => "floor",
            Self::Holdfast => "holdfast",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy-splice",
            Self::Nginx => "nginx",
        }
    }

    fn is_competitor(self) -> bool {
        matches!(self, Self::Haproxy | Self::HaproxySplice | Self::Nginx)
    }
}

/// What a scenario measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As many requests as go over connections that stay.
    Requests,
    /// One request on each connection.
    Connections,
    /// Heartbeats between pairs that are idle otherwise; also memory per pair.
    Messages,
    /// As many bytes as go.
    Bulk(Direction),
    /// Latency at a fixed rate.
    HalfLoad,
    /// More pairs than descriptors allow others.
    Limit,
    /// Very many idle pairs.
    Pairs,
    /// Everybody reconnects at once; how evenly backends are used then.
    Storm,
    /// Reloads under load.
    Reloads,
}

/// One measurement to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePlan {
    /// Scenario, as records name it.
    pub scenario: String,
    /// What it measures.
    pub kind: Kind,
    /// Connections or users.
    pub connections: u64,
    /// Relay.
    pub subject: Subject,
    /// Round, from 1.
    pub round: u32,
}

/// A checked request.
#[derive(Debug)]
pub struct Plan {
    /// The flags as given.
    pub flags: Flags,
    /// Port of the relay; the next one is the backend's.
    pub port: u16,
    /// Length of a measurement.
    pub slice: Duration,
    /// Every measurement, in order.
    pub slices: Vec<SlicePlan>,
    /// Our server and client.
    pub ours: (PathBuf, PathBuf),
    /// Programs; `baseline` is the bare relay.
    pub programs: Programs,
    /// What foreign programs say about their version; `None`: not here.
    pub versions: BTreeMap<String, Option<String>>,
    /// `server`: the relay's core. `client`: that of load and backend.
    pub cores: Halves,
    /// Descriptors one process may have.
    pub descriptors: u64,
    /// What a person should know before the start, one line each.
    pub notices: Vec<String>,
    asked: RelayAsked,
}

impl Plan {
    /// Checks `flags` against sense, memory and the programs there are.
    ///
    /// # Errors
    /// The first thing that stands in the way.
    pub fn new(mut flags: Flags) -> Result<Self, SetupError> {
        check_label(flags.run.name.as_deref())?;
        let quick = |normal, quick| if flags.quick { quick } else { normal };
        let rounds = flags.rounds.unwrap_or(quick(3, 1) as u32);
        let slice = flags
            .slice
            .unwrap_or(Duration::from_millis(quick(1_200, 300)));
        let users = flags.users.unwrap_or(quick(8_000, 500));
        let storm = flags.storm.unwrap_or(quick(200_000, 4_000));
        if !(Duration::from_millis(100)..=Duration::from_secs(600)).contains(&slice) {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!(
                    "a slice of {} is outside 100ms to 10m",
                    humantime::format_duration(slice)
                ),
                "give another with --slice 2s",
            ));
        }
        let mut notices = Vec::new();
        let bin_dir = bin_dir_or_own(flags.run.bin_dir.as_deref());
        let ours = (
            program(flags.run.bin_dir.as_deref(), "holdfast-server")?,
            program(flags.run.bin_dir.as_deref(), "holdfast-client")?,
        );
        let programs = Programs {
            server: Some(ours.0.clone()),
            client: Some(ours.1.clone()),
            baseline: Some(bin_dir.join("examples/bare_relay")).filter(|p| is_program(p)),
            nginx: find("nginx").filter(|path| nginx::stream(path).is_some()),
            haproxy: find("haproxy"),
            go: None,
            wrk: find("wrk"),
            setpriv: find("setpriv"),
            unshare: find("unshare"),
        };
        if flags.no_competitors {
            flags.subjects.retain(|s| !s.is_competitor());
        }
        leave_out_absent(&mut flags, &programs, &mut notices)?;
        flags.subjects.sort_unstable();
        flags.subjects.dedup();
        let memory = KernelSample::read().mem_available_bytes;
        let pairs = match (&flags.pairs[..], flags.quick) {
            ([], true) => vec![2_000],
            ([], false) => fitting(&PAIRS, memory, &mut notices),
            (given, _) => fitting(given, memory, &mut notices),
        };
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(_, hard)| hard.max(1));
        let all = scenarios(users, &pairs, storm, descriptors);
        let chosen = chosen(&all, &flags.scenarios)?;
        let mut slices = Vec::new();
        for round in 1..=rounds {
            for (scenario, kind, connections) in &chosen {
                for subject in &flags.subjects {
                    if is_measured(*kind, *subject, round) {
                        slices.push(SlicePlan {
                            scenario: scenario.clone(),
                            kind: *kind,
                            connections: *connections,
                            subject: *subject,
                            round,
                        });
                    }
                }
            }
        }
        if slices.is_empty() {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                "none of these scenarios is measured with these relays",
                "leave --scenarios or --subjects out; pairs, storm and reloads need the subject holdfast",
            ));
        }
        // What is long and done once comes last.
        slices.sort_by_key(|s| (is_once(s.kind), s.round));
        let halves = Halves::of(&allowed());
        if halves.is_shared() {
            notices.push(format!(
                "one core (number {}) for the relay, load and backend together",
                halves.server[0]
            ));
        }
        let versions = [("nginx", &programs.nginx), ("haproxy", &programs.haproxy)];
        let versions = versions.into_iter().map(|(name, path)| {
            let said = path.as_deref().and_then(|path| version(path, "-v"));
            (name.to_string(), said)
        });
        Ok(Self {
            asked: RelayAsked {
                scenarios: chosen.iter().map(|(name, ..)| name.clone()).collect(),
                subjects: flags.subjects.iter().map(|s| s.name().into()).collect(),
                generator: flags.generator.name().into(),
                rounds,
                slice_seconds: slice.as_secs_f64(),
                message_pairs: users,
                pairs,
                spawn_rate_per_second: flags.spawn_rate as f64,
                descriptors,
            },
            port: flags.port.unwrap_or(PRIVATE_PORT),
            flags,
            slice,
            slices,
            versions: versions.collect(),
            ours,
            programs,
            cores: Halves {
                server: halves.server[..1].to_vec(),
                client: halves.client[..1].to_vec(),
            },
            descriptors,
            notices,
        })
    }

    /// The request as the record holds it.
    #[must_use]
    pub fn asked(&self) -> RelayAsked {
        self.asked.clone()
    }

    /// Measurement `number` in words.
    #[must_use]
    pub fn slice_name(&self, number: usize) -> String {
        let slice = &self.slices[number];
        format!(
            "{} of {}: round {}, {} {}",
            number + 1,
            self.slices.len(),
            slice.round,
            slice.scenario,
            slice.subject.name()
        )
    }

    /// About how long the measurements from number `first` on take.
    #[must_use]
    pub fn estimate(&self, first: usize) -> Duration {
        let slices = self.slices.iter().skip(first);
        slices
            .map(|slice| estimate(slice, self.slice, self.flags.spawn_rate))
            .sum()
    }

    /// How long heartbeats are counted in.
    #[must_use]
    pub fn hold(&self) -> Duration {
        (2 * self.slice).max(2 * INTERVAL)
    }
}

fn estimate(slice: &SlicePlan, time: Duration, spawn_rate: u64) -> Duration {
    // Three programs start and end.
    const AROUND: Duration = Duration::from_millis(500);
    let seconds = Duration::from_secs_f64;
    let opening = |count: u64| seconds(count as f64 / spawn_rate as f64);
    AROUND
        + match slice.kind {
            Kind::Requests | Kind::Connections => WARM_UP + time,
            Kind::HalfLoad => WARM_UP + 2 * time,
            Kind::Bulk(_) => time,
            Kind::Messages => {
                opening(slice.connections) + (2 * time).max(2 * INTERVAL) + 4 * INTERVAL
            }
            Kind::Limit => opening(slice.connections) + 4 * INTERVAL,
            // Closing takes about a third of the time.
            Kind::Pairs => opening(slice.connections).mul_f64(1.5) + 4 * INTERVAL,
            Kind::Storm => opening(slice.connections).mul_f64(3.0) + 6 * INTERVAL,
            Kind::Reloads => RELOAD_PAUSE * (RELOAD_COUNT + 20),
        }
}

/// Name, what is measured, connections.
type Scenario = (String, Kind, u64);

fn scenarios(users: u64, pairs: &[u64], storm: u64, descriptors: u64) -> Vec<Scenario> {
    let mut all = vec![("messages".to_owned(), Kind::Messages, users)];
    for n in [64, 512, 4_096] {
        all.push((format!("requests-{n}"), Kind::Requests, n));
    }
    all.push(("connections".into(), Kind::Connections, USERS));
    for n in [1, 64] {
        all.push((format!("bulk-{n}-up"), Kind::Bulk(Direction::Up), n));
        all.push((format!("bulk-{n}-down"), Kind::Bulk(Direction::Down), n));
    }
    all.push(("half-load".into(), Kind::HalfLoad, USERS));
    // A fifth more than two descriptors a pair allow.
    let limit = (descriptors / 2 * 6 / 5).min(60_000);
    all.push(("limit".into(), Kind::Limit, limit));
    all.push(("reloads".into(), Kind::Reloads, USERS));
    all.push(("storm".into(), Kind::Storm, storm));
    for n in pairs {
        all.push((format!("pairs-{n}"), Kind::Pairs, *n));
    }
    all
}

/// The scenarios of these names, or that begin with these words; all of them for none.
fn chosen(all: &[Scenario], names: &[String]) -> Result<Vec<Scenario>, SetupError> {
    let is_named = |scenario: &str, name: &str| {
        scenario == name
            || scenario
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('-'))
    };
    if let Some(name) = names
        .iter()
        .find(|name| !all.iter().any(|(s, ..)| is_named(s, name)))
    {
        return Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            format!("{name:?} is no scenario"),
            format!("--scenarios with some of {NAMES}"),
        ));
    }
    let is_chosen = |(s, ..): &&Scenario| names.is_empty() || names.iter().any(|n| is_named(s, n));
    Ok(all.iter().filter(is_chosen).cloned().collect())
}

/// Once is enough for what counts connections, and takes long.
fn is_once(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Limit | Kind::Pairs | Kind::Storm | Kind::Reloads
    )
}

fn is_measured(kind: Kind, subject: Subject, round: u32) -> bool {
    if is_once(kind) && round > 1 {
        return false;
    }
    match kind {
        Kind::Pairs | Kind::Storm | Kind::Reloads => subject == Subject::Holdfast,
        // The bare loop has a table of fixed size.
        Kind::Limit => !matches!(subject, Subject::Direct | Subject::Baseline),
        // The bare loop ends a pair whose peer does not take what is sent at once.
        Kind::Bulk(_) => subject != Subject::Baseline,
        _ => true,
    }
}

/// As many of these numbers of pairs as memory holds; the largest one that does in place of those
/// that do not fit.
fn fitting(wanted: &[u64], available_bytes: u64, notices: &mut Vec<String>) -> Vec<u64> {
    let most = available_bytes.saturating_sub(SPARE_BYTES) / PAIR_BYTES;
    // Round figures compare.
    let most = (most / 10_000 * 10_000).max(most.min(1_000));
    let mut fit: Vec<u64> = wanted.iter().map(|n| (*n).min(most)).collect();
    if wanted.iter().any(|n| *n > most) {
        notices.push(format!(
            "free memory of {} MB holds {} pairs with all ends on this machine ({PAIR_BYTES} bytes each): no more are opened",
            count(available_bytes >> 20),
            count(most)
        ));
    }
    fit.sort_unstable();
    fit.dedup();
    fit
}

/// Leaves out whose program is not here, and says so.
fn leave_out_absent(
    flags: &mut Flags,
    programs: &Programs,
    notices: &mut Vec<String>,
) -> Result<(), SetupError> {
    const BASELINE: &str = "cargo build --release -p holdfast-engine --example bare_relay";
    flags.subjects.retain(|subject| {
        let (is_here, next) = match subject {
            Subject::Direct | Subject::Holdfast => (true, ""),
            Subject::Baseline => (programs.baseline.is_some(), BASELINE),
            Subject::Haproxy | Subject::HaproxySplice => {
                (programs.haproxy.is_some(), "apt-get install haproxy")
            }
            Subject::Nginx => (
                programs.nginx.is_some(),
                "apt-get install nginx-light libnginx-mod-stream",
            ),
        };
        if !is_here {
            notices.push(format!(
                "{} is left out: it is not here; next: {next}",
                subject.name()
            ));
        }
        is_here
    });
    if flags.generator == Generator::Wrk && programs.wrk.is_none() {
        return Err(SetupError::new(
            SetupErrorKind::NotFound,
            "wrk is missing",
            "apt-get install wrk, or leave --generator out",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Result<Vec<String>, String> {
        let all = scenarios(8_000, &PAIRS, 200_000, 20_000);
        let names: Vec<String> = names.iter().map(|n| (*n).into()).collect();
        let found = chosen(&all, &names).map_err(|e| e.to_string())?;
        Ok(found.into_iter().map(|(name, ..)| name).collect())
    }

    #[test]
    fn scenarios_are_named_whole_or_by_their_first_word() {
        assert_eq!(
            names(&["requests", "bulk-64"]).expect("known"),
            [
                "requests-64",
                "requests-512",
                "requests-4096",
                "bulk-64-up",
                "bulk-64-down"
            ]
        );
        assert_eq!(
            names(&["pairs"]).expect("known"),
            ["pairs-500000", "pairs-1000000"]
        );
        let refusal = names(&["request"]).expect_err("refused");
        assert!(
            refusal.contains("\"request\" is no scenario") && refusal.contains("half-load"),
            "{refusal}"
        );
    }

    #[test]
    fn pairs_are_as_many_as_memory_holds() {
        let mut notices = Vec::new();
        assert_eq!(fitting(&PAIRS, 23 << 30, &mut notices), PAIRS);
        assert_eq!(notices, [] as [String; 0]);
        // 14 GiB less 1.5, at 16,800 bytes each.
        assert_eq!(fitting(&PAIRS, 14 << 30, &mut notices), [500_000, 790_000]);
        assert!(notices[0].contains("holds 790,000 pairs"), "{notices:?}");
    }

    #[test]
    fn the_default_takes_less_than_twelve_minutes() {
        let mut total = Duration::ZERO;
        for round in 1..=3 {
            for (scenario, kind, connections) in scenarios(8_000, &PAIRS, 200_000, 20_000) {
                for subject in Subject::value_variants() {
                    let slice = SlicePlan {
                        scenario: scenario.clone(),
                        kind,
                        connections,
                        subject: *subject,
                        round,
                    };
                    if is_measured(kind, *subject, round) {
                        total += estimate(&slice, Duration::from_millis(1_200), 20_000);
                    }
                }
            }
        }
        assert!(total < Duration::from_secs(720), "{total:?}");
    }
}
