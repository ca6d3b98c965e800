//! What a run of `proxy` will do, settled before anything starts.
//!
//! Invariants: nothing is started or made here; every figure in a plan is within bounds that can be
//! tried.
//! Must not depend on: how a trial goes.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use nix::sys::resource::{Resource, getrlimit};

use super::nginx;
use crate::competitors::Mode;
use crate::http::plan::{USERS_SETTLE, ramp};
use crate::run_harness::RunFlags;

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_report::folder::check_label;
use holdfast_report::proxy::record::ProxyAsked;
use holdfast_testbed::network::layout::{BACKEND, BALANCER, Layout, PORTS};
use holdfast_testbed::programs::{find, program};
use holdfast_testbed::sandbox::NAMES;
use holdfast_units::parse;

/// Port of the server, and of the system under test.
pub const PORT: u16 = 7070;
/// Connections in saturation.
const SATURATION: u64 = 64;
/// Users who wait, in the steps of the original.
const STEPS: [u64; 3] = [10_000, 15_000, 20_000];

/// Systems that are started here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Known {
    /// Debian's haproxy; its statistics are compared with ours.
    Haproxy,
    /// nginx passing connections on (stream).
    Nginx,
}

impl Known {
    /// As it is typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}

/// The flags of `holdfast-bench proxy`.
#[derive(Debug, Clone, Args)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 passed, 1 fell short (run.json says in what), 2 not started, 130 interrupted.\n\n\
        Another system under test: in make lab, start it on the balancer so that it passes connections on to backend:7070, then\n\
        in that shell: holdfast-bench proxy --target balancer:7070"
)]
pub struct Flags {
    /// Measure this system
    #[arg(long, value_enum, default_value = "haproxy", conflicts_with = "target")]
    proxy: Known,

    /// Measure another system, which runs in this lab already and forwards to backend:7070
    /// [default: none]
    #[arg(long, value_name = "HOST:PORT")]
    target: Option<String>,

    /// Measure these scenarios, separated by commas: longconn, limit, http-64, or http-COUNT for
    /// COUNT users who wait 100 ms to 1 s
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "longconn,limit,http-64,http-10000,http-15000,http-20000"
    )]
    scenarios: Vec<String>,

    /// Hold this many long connections, direct and through the system
    #[arg(long, short = 'u', value_name = "COUNT", default_value_t = 8_000, value_parser = parse::count_in::<u64>(1..=PORTS))]
    users: u64,

    /// Open this many long connections to find the system's limit [default: a fifth more than its
    /// descriptors allow]
    #[arg(long, value_name = "COUNT", value_parser = parse::count_in::<u64>(1..=u64::MAX))]
    limit_users: Option<u64>,

    /// Open this many long connections a second
    #[arg(long, short = 'r', alias = "rate", value_name = "RATE", default_value_t = 2_000, value_parser = parse::count_in::<u64>(1..=1_000_000))]
    spawn_rate: u64,

    /// Send a heartbeat to each connection at this interval
    #[arg(long, alias = "every", value_name = "TIME", default_value = "5s", value_parser = parse::time)]
    interval: Duration,

    /// Hold long connections this long
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse::time)]
    hold: Duration,

    /// Measure HTTP this long each time, after a warm-up
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse::time)]
    slice: Duration,

    /// Repeat HTTP scenarios this many times, direct and through the system in turn; figures are
    /// medians. Long connections are held once
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = parse::count_in::<u32>(1..=100))]
    rounds: u32,

    /// Where the run goes.
    #[command(flatten)]
    pub run: RunFlags,
}

/// What users of a scenario do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Hold a connection and receive heartbeats.
    Longconn,
    /// The same, more of them than the system takes.
    Limit,
    /// Ask again as soon as they are answered.
    Saturation,
    /// Wait 100 ms to 1 s between two requests.
    Waiting,
}

/// One measurement to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialPlan {
    /// As it was typed.
    pub scenario: String,
    /// What users do.
    pub kind: Kind,
    /// How many.
    pub users: u64,
    /// Through the system, or straight to the server.
    pub is_proxied: bool,
    /// What a haproxy of ours understands of it; `None`: direct, or another system.
    pub mode: Option<Mode>,
    /// Round, from 1.
    pub round: u32,
}

/// The system under test, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum System {
    /// Started here.
    Known(Known, PathBuf),
    /// Somebody's.
    Target(SocketAddr),
}

/// A checked request.
#[derive(Debug)]
pub struct Plan {
    /// The system under test.
    pub system: System,
    /// Its version, in its own words.
    pub version: Option<String>,
    /// Measurements, in order.
    pub trials: Vec<TrialPlan>,
    /// Our programs: server and client.
    pub programs: (PathBuf, PathBuf),
    /// Long connections opened a second.
    pub rate: u64,
    /// Interval of messages.
    pub every: Duration,
    /// Hold of long connections.
    pub hold: Duration,
    /// Measured part of HTTP.
    pub slice: Duration,
    /// Hosts.
    pub layout: Layout,
    /// The flags that every run has.
    pub run: RunFlags,
    asked: ProxyAsked,
}

impl Plan {
    /// Checks `flags`.
    ///
    /// # Errors
    /// The first thing that stands in the way.
    pub fn new(flags: Flags) -> Result<Self, SetupError> {
        check_label(flags.run.name.as_deref())?;
        for (what, time, least) in [
            ("--interval", flags.interval, Duration::from_millis(10)),
            ("--hold", flags.hold, Duration::from_secs(2)),
            ("--slice", flags.slice, Duration::from_secs(1)),
        ] {
            if time < least || time > Duration::from_secs(3600) {
                let words = humantime::format_duration;
                return Err(SetupError::new(
                    SetupErrorKind::InvalidInput,
                    format!("{what} {} is outside {} to 1h", words(time), words(least)),
                    format!("give another, {what} 5s"),
                ));
            }
        }
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(_, hard)| hard);
        // Each of nginx's processes has its own.
        let processes = match flags.proxy {
            Known::Nginx if flags.target.is_none() => workers() as u64,
            _ => 1,
        };
        // The system would run out of ports towards its one server before that of a larger number.
        let limit_users = flags
            .limit_users
            .unwrap_or((descriptors / 2 * processes).saturating_mul(6) / 5)
            .min(PORTS + PORTS / 10);
        let mut trials = Vec::new();
        for round in 1..=flags.rounds {
            for name in &flags.scenarios {
                let (kind, users) = scenario(name, flags.users, limit_users)?;
                let is_haproxy = flags.proxy == Known::Haproxy && flags.target.is_none();
                let tcp = (true, is_haproxy.then_some(Mode::Tcp));
                let http = (true, Some(Mode::Http));
                let ways = match kind {
                    Kind::Longconn | Kind::Limit if round > 1 => vec![],
                    Kind::Limit => vec![tcp],
                    Kind::Saturation | Kind::Waiting if is_haproxy => {
                        vec![(false, None), http, tcp]
                    }
                    _ => vec![(false, None), tcp],
                };
                trials.extend(ways.into_iter().map(|(is_proxied, mode)| TrialPlan {
                    scenario: name.clone(),
                    kind,
                    users,
                    is_proxied,
                    mode,
                    round,
                }));
            }
        }
        let system = system(&flags)?;
        let bin_dir = flags.run.bin_dir.clone();
        let sources = trials.iter().map(|t| t.users).max().unwrap_or(0) / PORTS + 1;
        Ok(Self {
            version: version(&system),
            asked: ProxyAsked {
                system: match &system {
                    System::Known(known, _) => known.name().into(),
                    System::Target(_) => flags.target.clone().unwrap_or_default(),
                },
                scenarios: flags.scenarios.clone(),
                users: flags.users,
                limit_users,
                spawn_rate_per_second: flags.spawn_rate as f64,
                every_seconds: flags.interval.as_secs_f64(),
                hold_seconds: flags.hold.as_secs_f64(),
                slice_seconds: flags.slice.as_secs_f64(),
                rounds: flags.rounds,
            },
            system,
            trials,
            programs: (
                program(bin_dir.as_deref(), "holdfast-server")?,
                program(bin_dir.as_deref(), "holdfast-client")?,
            ),
            rate: flags.spawn_rate,
            every: flags.interval,
            hold: flags.hold,
            slice: flags.slice,
            layout: Layout::new(1, u8::try_from(sources).unwrap_or(u8::MAX))?,
            run: flags.run,
        })
    }

    /// About how long a trial takes.
    #[must_use]
    pub fn estimate(&self, trial: &TrialPlan) -> Duration {
        const START_AND_END: Duration = Duration::from_secs(3);
        let opening = match trial.kind {
            Kind::Longconn | Kind::Limit => {
                Duration::from_secs_f64(trial.users as f64 / self.rate as f64) + self.hold
            }
            Kind::Saturation => USERS_SETTLE + self.slice,
            Kind::Waiting => ramp(trial.users) + USERS_SETTLE + self.slice,
        };
        opening + START_AND_END
    }

    /// The request as the record holds it.
    #[must_use]
    pub fn asked(&self) -> ProxyAsked {
        self.asked.clone()
    }
}

/// Threads of haproxy, processes of nginx: one a core.
#[must_use]
pub fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn scenario(name: &str, users: u64, limit_users: u64) -> Result<(Kind, u64), SetupError> {
    let number = |text: &str| text.parse().ok().filter(|n| (1..=PORTS).contains(n));
    let found = match name {
        "longconn" => Some((Kind::Longconn, users)),
        "limit" => Some((Kind::Limit, limit_users)),
        "http-64" => Some((Kind::Saturation, SATURATION)),
        _ => name
            .strip_prefix("http-")
            .and_then(number)
            .map(|n| (Kind::Waiting, n)),
    };
    found.ok_or_else(|| {
        SetupError::new(
            SetupErrorKind::InvalidInput,
            format!("{name:?} is no scenario"),
            format!(
                "choose of longconn, limit, http-{SATURATION}, http-{} or another number of users",
                STEPS[0]
            ),
        )
    })
}

fn system(flags: &Flags) -> Result<System, SetupError> {
    let Some(target) = &flags.target else {
        let known = flags.proxy;
        let package = match known {
            Known::Haproxy => "haproxy",
            Known::Nginx => "nginx-light libnginx-mod-stream",
        };
        let is_able = |path: &PathBuf| known == Known::Haproxy || nginx::stream(path).is_some();
        let path = find(known.name()).filter(is_able);
        let path = path.ok_or_else(|| {
            let what = if known == Known::Nginx {
                " with its stream module"
            } else {
                ""
            };
            SetupError::new(
                SetupErrorKind::NotFound,
                format!("{}{what} is missing", known.name()),
                format!("apt-get install {package}"),
            )
        })?;
        return Ok(System::Known(known, path));
    };
    if !Path::new(NAMES).join(BALANCER).exists() {
        return Err(SetupError::new(
            SetupErrorKind::NotFound,
            format!("--target {target} is not in a lab: there is no host {BALANCER} here"),
            format!(
                "make lab; there start the system on {BALANCER}, passing on to {BACKEND}:{PORT}, and repeat this command"
            ),
        ));
    }
    target
        .to_socket_addrs()
        .ok()
        .and_then(|mut all| all.next())
        .map(System::Target)
        .ok_or_else(|| {
            SetupError::new(
                SetupErrorKind::InvalidInput,
                format!("--target {target} is no address"),
                format!("give one such as {BALANCER}:{PORT}"),
            )
        })
}

fn version(system: &System) -> Option<String> {
    let System::Known(_, path) = system else {
        return None;
    };
    let output = std::process::Command::new(path).arg("-v").output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    said.lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_words() {
        assert_eq!(scenario("longconn", 5, 9).ok(), Some((Kind::Longconn, 5)));
        assert_eq!(scenario("limit", 5, 9).ok(), Some((Kind::Limit, 9)));
        assert_eq!(scenario("http-64", 5, 9).ok(), Some((Kind::Saturation, 64)));
        assert_eq!(
            scenario("http-15000", 5, 9).ok(),
            Some((Kind::Waiting, 15_000))
        );
        for name in ["http-", "http-0", "http-99999999", "longcon", ""] {
            assert!(scenario(name, 5, 9).is_err(), "{name}");
        }
    }
}
