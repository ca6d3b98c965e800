//! What a run of `locust` will do, settled before anything starts.
//!
//! Invariants: nothing is started or made here; every wait that follows from a plan is bounded.
//! Must not depend on: how a run goes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::held_load::Limits;
use crate::prefault;
use crate::run_harness::RunFlags;

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_report::folder::{check_label, workspace};
use holdfast_report::run::Asked;
use holdfast_telemetry::units::count;
use holdfast_testbed::child::{plain_time, words};
use holdfast_testbed::network::layout::{BACKEND, Layout, MASTER, PORTS};
use holdfast_testbed::network::shell::NetworkFlags;
use holdfast_testbed::programs::{find, is_program, program};
use holdfast_units::parse;

/// Port of the server.
pub const PORT: u16 = 7070;
/// Port of Locust's master for its workers.
const MASTER_PORT: u16 = 5557;
/// Port of Locust's page.
pub const PAGE_PORT: u16 = 8089;
/// The master's log, in the folder of the run.
pub const MASTER_LOG: &str = "locust.log";
/// What users say and hear.
const MESSAGE: &str = "ok";
/// What a user of `Http` waits between two requests.
const WAIT: &str = "100ms..1s";
/// A machine that opens fewer connections a second is not waited for.
const RATE_SLOWEST: f64 = 2_000.0;

/// The flags of `holdfast-bench locust`.
#[derive(Debug, Clone, Args)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 passed, 1 fell short (run.json says in what), 2 not started, 130 interrupted."
)]
pub struct Flags {
    /// Open and hold this many users, over all workers
    #[arg(long, short = 'u', value_name = "COUNT", default_value_t = 1_000_000, value_parser = parse::count_in::<u64>(1..=20_000_000))]
    users: u64,

    /// Have the master start this many users a second, over all workers
    #[arg(long, short = 'r', alias = "rate", value_name = "RATE", default_value_t = 20_000, value_parser = parse::count_in::<u64>(1..=1_000_000))]
    spawn_rate: u64,

    /// Hold all users this long after the ramp
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse::time)]
    hold: Duration,

    /// Send a heartbeat to each long connection at this interval
    #[arg(long, alias = "every", value_name = "TIME", default_value = "550s", value_parser = parse::time)]
    interval: Duration,

    /// Send HTTP requests, 100 ms to 1 s after each response, instead of holding long connections
    /// [default: off]
    #[arg(long)]
    http: bool,

    #[command(flatten)]
    lab: NetworkFlags,

    /// Allow each second of the ramp to differ this much from the rate asked for, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0, value_parser = parse::percent, allow_negative_numbers = true)]
    ramp_tolerance: f64,

    /// Serve Locust's page at this port of this machine's 127.0.0.1 while it runs, at 8089 unless
    /// another is given [default: off]
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true, default_missing_value = "8089", value_parser = clap::value_parser!(u16).range(1..))]
    pub web: Option<u16>,

    /// Connect users to this address, if something in this lab (make lab) stands before the server
    /// [default: the server on the backend]
    #[arg(long, value_name = "HOST:PORT")]
    target: Option<String>,

    /// Run this locust program [default: client/locust/.venv/bin/locust of this workspace, or the
    /// one on the search path]
    #[arg(long, value_name = "FILE")]
    locust: Option<PathBuf>,

    /// Where the run goes.
    #[command(flatten)]
    pub run: RunFlags,
}

/// A checked request.
#[derive(Debug)]
pub struct Plan {
    /// The flags as given.
    pub flags: Flags,
    /// Hosts.
    pub layout: Layout,
    /// Our programs: server and client.
    pub programs: (PathBuf, PathBuf),
    /// Locust, and the user classes for its master.
    pub locust: (PathBuf, PathBuf),
    /// pdsh.
    pub pdsh: PathBuf,
}

impl Plan {
    /// Checks `flags` against sense and the programs there are.
    ///
    /// # Errors
    /// The first thing that stands in the way.
    pub fn new(flags: Flags) -> Result<Self, SetupError> {
        check_label(flags.run.name.as_deref())?;
        for (what, time) in [("--hold", flags.hold), ("--interval", flags.interval)] {
            if time < Duration::from_secs(1) || time > Duration::from_secs(24 * 3600) {
                let words = humantime::format_duration(time);
                return Err(SetupError::new(
                    SetupErrorKind::InvalidInput,
                    format!("{what} {words} is outside 1s to 1day"),
                    format!("give another, {what} 30s"),
                ));
            }
        }
        if flags.ramp_tolerance.is_nan() || flags.ramp_tolerance < 0.0 {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!("a tolerance of {} percent is none", flags.ramp_tolerance),
                "give another, --ramp-tolerance 2",
            ));
        }
        let layout = Layout::new(flags.lab.clients, flags.lab.addresses)?;
        let each = flags.users.div_ceil(u64::from(flags.lab.clients));
        let addresses = each.div_ceil(PORTS);
        if addresses > u64::from(flags.lab.addresses) {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!(
                    "{} users of one client host need {addresses} addresses there, {} connections from each, not {}",
                    count(each),
                    count(PORTS),
                    flags.lab.addresses
                ),
                format!("--addresses {addresses}, or more hosts with --clients"),
            ));
        }
        let bin_dir = flags.run.bin_dir.as_deref();
        Ok(Self {
            layout,
            programs: (
                program(bin_dir, "holdfast-server")?,
                program(bin_dir, "holdfast-client")?,
            ),
            locust: locust(flags.locust.as_deref())?,
            pdsh: find("pdsh").ok_or_else(|| {
                SetupError::new(
                    SetupErrorKind::NotFound,
                    "pdsh is missing",
                    "apt-get install pdsh",
                )
            })?,
            flags,
        })
    }

    /// Users asked for.
    #[must_use]
    pub fn users(&self) -> u64 {
        self.flags.users
    }

    /// Users asked for a second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.flags.spawn_rate
    }

    /// How far a second of the ramp may be from that, percent.
    #[must_use]
    pub fn ramp_tolerance(&self) -> f64 {
        self.flags.ramp_tolerance
    }

    /// What Locust says of its version.
    #[must_use]
    pub fn version(&self) -> String {
        let output = std::process::Command::new(&self.locust.0)
            .arg("--version")
            .output();
        let said = output.map(|o| o.stdout).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        said.split(" from ")
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    /// The class of all users, as Locust names it.
    #[must_use]
    pub fn class(&self) -> &'static str {
        if self.flags.http { "Http" } else { "LongConn" }
    }

    /// The request as the record holds it.
    #[must_use]
    pub fn asked(&self) -> Asked {
        let f = &self.flags;
        Asked {
            users: f.users,
            spawn_rate_per_second: Some(f.spawn_rate as f64),
            every_seconds: f.interval.as_secs_f64(),
            hold_seconds: f.hold.as_secs_f64(),
            message: MESSAGE.into(),
            source: None,
            targets: vec![self.target()],
        }
    }

    fn target(&self) -> String {
        let own = || format!("{BACKEND}:{PORT}");
        self.flags.target.clone().unwrap_or_else(own)
    }

    /// What the run asks for, and how long each of its parts may take.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let ramp_max = self.ramp_max();
        Limits {
            users: self.flags.users,
            hold: self.flags.hold,
            ramp_max,
            // Locust decides who is started when: only the whole ramp has a bound.
            stall_max: ramp_max,
            close_max: self.close_max(),
            interrupt_grace: self.close_max(),
            is_prefaulted: prefault::is_worth(self.flags.users),
            waits_for_quiet: false,
        }
    }

    /// Longest time the ramp may take.
    fn ramp_max(&self) -> Duration {
        let rate = (self.flags.spawn_rate as f64).min(RATE_SLOWEST);
        Duration::from_secs_f64(self.flags.users as f64 / rate * 1.25 + 120.0)
    }

    /// Longest time a process may take to close everything in order.
    fn close_max(&self) -> Duration {
        Duration::from_secs(60 + self.flags.users / 10_000)
    }

    /// Arguments of our server.
    #[must_use]
    pub fn server_args(&self) -> Vec<String> {
        let listen = format!("0.0.0.0:{PORT}");
        // Users who come back after a loss overlap with what they lost.
        let room = (self.flags.users + self.flags.users / 100 + 100).to_string();
        let mut args = words(&[
            if self.flags.http { "http" } else { "longconn" },
            "--listen",
            &listen,
            "--connections",
            &room,
        ]);
        if !self.flags.http {
            let interval = plain_time(self.flags.interval);
            args.extend(words(&["--message", MESSAGE, "--interval", &interval]));
        }
        args.extend(words(&["--progress", "json", "--die-with-parent"]));
        args
    }

    /// Arguments of Locust's master; what it leaves goes into `dir`.
    #[must_use]
    pub fn master_args(&self, dir: &Path) -> Vec<String> {
        let f = &self.flags;
        let file = |name: &str| dir.join(name).display().to_string();
        // Only a bound: the bench ends the test long before.
        let run_time = self.ramp_max() + f.hold + Duration::from_secs(300);
        let host = if f.http {
            format!("http://{}", self.target())
        } else {
            self.target()
        };
        let mut args = words(&[
            "-f",
            &self.locust.1.display().to_string(),
            "--master",
            "--expect-workers",
            &f.lab.clients.to_string(),
            "--expect-workers-max-wait",
            "60",
            "--enable-rebalancing",
            "--users",
            &f.users.to_string(),
            "--spawn-rate",
            &f.spawn_rate.to_string(),
            "--run-time",
            &format!("{}s", run_time.as_secs()),
            "--host",
            &host,
            "--only-summary",
            "--exit-code-on-error",
            "0",
            "--csv",
            &file("locust"),
            "--csv-full-history",
            "--html",
            &file("locust.html"),
            "--json-file",
            &file("locust"),
            "--logfile",
            &file(MASTER_LOG),
            "--longconn-every",
            &plain_time(f.interval),
            "--longconn-expect",
            MESSAGE,
            "--http-wait",
            WAIT,
        ]);
        if f.web.is_some() {
            args.extend(words(&[
                "--autostart",
                "--web-port",
                &PAGE_PORT.to_string(),
            ]));
        } else {
            args.push("--headless".into());
        }
        args.push(self.class().into());
        args
    }

    /// Arguments of pdsh, which starts a worker on each client host. On real machines the same line
    /// goes over ssh, without `-R exec` and `ip netns exec %h`.
    #[must_use]
    pub fn pdsh_args(&self, ip: &Path, dir: &Path) -> Vec<String> {
        let clients = self.flags.lab.clients;
        let hosts = if clients == 1 {
            "client1".into()
        } else {
            format!("client[1-{clients}]")
        };
        words(&[
            "-S",
            "-R",
            "exec",
            "-f",
            &clients.to_string(),
            "-w",
            &hosts,
            &ip.display().to_string(),
            "netns",
            "exec",
            "%h",
            &self.programs.1.display().to_string(),
            "worker",
            "--master",
            &format!("{MASTER}:{MASTER_PORT}"),
            "--identity",
            "%h_holdfast",
            "--classes",
            self.class(),
            "--histogram-log",
            &dir.join("%h.hlog").display().to_string(),
            "--progress",
            "json",
            "--die-with-parent",
        ])
    }
}

/// The locust program, and the file with our user classes.
fn locust(given: Option<&Path>) -> Result<(PathBuf, PathBuf), SetupError> {
    let own = workspace().map(|dir| dir.join("client/locust"));
    let classes = own
        .as_ref()
        .map(|dir| dir.join("locustfile.py"))
        .filter(|path| path.is_file())
        .ok_or_else(|| {
            SetupError::new(
                SetupErrorKind::NotFound,
                "client/locust/locustfile.py is not here",
                "start it in the workspace of Holdfast",
            )
        })?;
    let next = "make locust-venv, or name it with --locust FILE";
    if let Some(path) = given {
        return if is_program(path) {
            Ok((path.to_path_buf(), classes))
        } else {
            let cause = format!("{} is missing or cannot be run", path.display());
            Err(SetupError::new(SetupErrorKind::InvalidInput, cause, next))
        };
    }
    own.map(|dir| dir.join(".venv/bin/locust"))
        .filter(|path| is_program(path))
        .or_else(|| find("locust"))
        .map(|path| (path, classes))
        .ok_or_else(|| SetupError::new(SetupErrorKind::NotFound, "Locust is missing", next))
}
