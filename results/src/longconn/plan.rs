//! What a run of `longconn` will do, settled before anything starts.
//!
//! Purpose: flags checked and completed: users that memory can hold, programs that exist, bounds for every wait.
//! Invariants: nothing is started, made or changed here. A plan that exists can be tried; every bound in it is finite.
//! Must not know: processes, namespaces, run folders.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_sysctl::Machine;
use holdfast_sysctl::cost::{CLIENT_END_BYTES, SERVER_END_BYTES};

use super::options::{Options, SpawnRate, check_figures};

use holdfast_report::folder::{labelled, runs_or_default};
use holdfast_report::run::Asked;
use holdfast_telemetry::refusal::Refusal;
use holdfast_telemetry::units::{bytes, count};
use holdfast_testbed::child::{plain_time, words};
use holdfast_testbed::lab::Tuning;
use holdfast_testbed::programs::program;

/// What one connection takes with both ends on this machine, everything counted.
const PAIR_BYTES: u64 = SERVER_END_BYTES + CLIENT_END_BYTES;
/// Users without `--users`.
pub const USERS_DEFAULT: u64 = 1_000_000;
/// Loopback addresses the client connects to: 127.0.0.1 and following. One would be enough for the addresses; several share
/// the kernel's bind bucket of each source address and port, 128 bytes.
pub const TARGET_COUNT: u8 = 16;

const HOLD_MIN: Duration = Duration::from_secs(1);
const HOLD_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// A machine slower than this is not waited for when the rate is `max`.
const RATE_SLOWEST: f64 = 5_000.0;

/// A checked request.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Users to open and hold.
    pub users: u64,
    /// How the namespace is set up.
    pub tuning: Tuning,
    /// The flags as given.
    pub options: Options,
    /// How long all are held.
    pub hold: Duration,
    /// Where the run's folder goes.
    pub runs: PathBuf,
    /// The server program.
    pub server_program: PathBuf,
    /// The client program.
    pub client_program: PathBuf,
    /// What a person should know before the start, one line each.
    pub notices: Vec<String>,
}

impl Plan {
    /// Checks `options` against sense, memory and the programs there are.
    ///
    /// # Errors
    /// The first thing that stands in the way.
    pub fn new(options: Options) -> Result<Self, Refusal> {
        let usable = Machine::read().map(|machine| machine.memory_usable_bytes());
        Self::with_memory(options, usable.ok())
    }

    fn with_memory(options: Options, usable_bytes: Option<u64>) -> Result<Self, Refusal> {
        check_figures(&options)?;
        let hold = options.hold.unwrap_or(options.every * 2);
        if !(HOLD_MIN..=HOLD_MAX).contains(&hold) {
            return Err(Refusal::new(
                format!(
                    "a hold of {} is outside 1s to 7days",
                    humantime::format_duration(hold)
                ),
                "give another with --hold 60s",
            ));
        }
        let mut notices = Vec::new();
        if hold <= options.every {
            notices.push(format!(
                "the hold ({}) is no longer than the interval ({}): some users will get no heartbeat",
                humantime::format_duration(hold),
                humantime::format_duration(options.every)
            ));
        }
        let users = fit_users(&options, usable_bytes, &mut notices)?;
        let server_program = program(options.bin_dir.as_deref(), "holdfast-server")?;
        let client_program = program(options.bin_dir.as_deref(), "holdfast-client")?;
        let runs = runs_or_default(options.runs.as_deref());
        let tuning = Tuning::new(options.is_private, options.has_profile, &options.sysctl)?;
        Ok(Self {
            users,
            tuning,
            options,
            hold,
            runs,
            server_program,
            client_program,
            notices,
        })
    }

    /// The run's name: `longconn`, and the label behind it.
    #[must_use]
    pub fn folder_name(&self) -> String {
        labelled("longconn", self.options.label.as_deref())
    }

    /// The request as the record holds it.
    #[must_use]
    pub fn asked(&self) -> Asked {
        let o = &self.options;
        Asked {
            users: self.users,
            spawn_rate_per_second: match o.rate {
                SpawnRate::Max => None,
                SpawnRate::PerSecond(rate) => Some(rate),
            },
            every_seconds: o.every.as_secs_f64(),
            hold_seconds: self.hold.as_secs_f64(),
            message: o.message.clone(),
            source: o.source.clone(),
            targets: self.targets(),
        }
    }

    /// Addresses the client connects to.
    #[must_use]
    pub fn targets(&self) -> Vec<String> {
        (1..=TARGET_COUNT)
            .map(|n| format!("127.0.0.{n}:{}", self.options.port))
            .collect()
    }

    /// Longest time a ramp may take before it counts as failed.
    #[must_use]
    pub fn ramp_max(&self) -> Duration {
        let rate = match self.options.rate {
            SpawnRate::Max => RATE_SLOWEST,
            SpawnRate::PerSecond(rate) => rate.min(RATE_SLOWEST),
        };
        Duration::from_secs_f64(self.users as f64 / rate * 1.25 + 120.0)
    }

    /// Longest time without any progress before a ramp counts as stalled: longer than the kernel tries a SYN.
    #[must_use]
    pub fn stall_max(&self) -> Duration {
        let between = match self.options.rate {
            SpawnRate::Max => 0.0,
            SpawnRate::PerSecond(rate) => 3.0 / rate,
        };
        Duration::from_secs_f64(between.max(150.0))
    }

    /// Longest time a process may take to close everything in order.
    #[must_use]
    pub fn close_max(&self) -> Duration {
        Duration::from_secs(30 + self.users / 10_000)
    }

    /// Arguments of the server.
    #[must_use]
    pub fn server_args(&self) -> Vec<String> {
        let o = &self.options;
        let mut args = words(&["longconn", "--listen", &format!("0.0.0.0:{}", o.port)]);
        args.extend(words(&[
            "--connections",
            &self.users.to_string(),
            "--message",
            &o.message,
        ]));
        args.extend(words(&[
            "--every",
            &plain_time(o.every),
            "--progress",
            "json",
            "--die-with-parent",
        ]));
        if let Some(n) = o.server_threads {
            args.extend(words(&["--threads", &n.to_string()]));
        }
        args.extend(o.server_args.iter().cloned());
        args
    }

    /// Arguments of the client, which writes its histograms to `histogram_log`.
    #[must_use]
    pub fn client_args(&self, histogram_log: &Path) -> Vec<String> {
        let o = &self.options;
        // Only a bound: the bench ends the client long before.
        let run_time = self.ramp_max() + self.hold + Duration::from_secs(120);
        let mut args = words(&["longconn"]);
        for target in self.targets() {
            args.extend(words(&["--target", &target]));
        }
        args.extend(words(&[
            "--users",
            &self.users.to_string(),
            "--spawn-rate",
            &o.rate.to_string(),
        ]));
        args.extend(words(&[
            "--expect",
            &o.message,
            "--every",
            &plain_time(o.every),
        ]));
        args.extend(words(&["--progress", "json", "--die-with-parent"]));
        args.extend(words(&[
            "--histogram-log",
            &histogram_log.display().to_string(),
        ]));
        args.extend(words(&["--run-time", &format!("{}s", run_time.as_secs())]));
        if let Some(source) = &o.source {
            args.extend(words(&["--source", source]));
        }
        if let Some(n) = o.client_threads {
            args.extend(words(&["--threads", &n.to_string()]));
        }
        args.extend(o.client_args.iter().cloned());
        args
    }
}

/// The users asked for, or as many as memory holds if none were.
fn fit_users(
    o: &Options,
    usable_bytes: Option<u64>,
    notices: &mut Vec<String>,
) -> Result<u64, Refusal> {
    let Some(usable) = usable_bytes else {
        notices.push("memory available is unknown: not checked".into());
        return Ok(o.users.unwrap_or(USERS_DEFAULT));
    };
    let fit = usable / PAIR_BYTES;
    match o.users {
        Some(users) if users <= fit || o.is_forced => {
            if users > fit {
                notices.push(format!(
                    "memory holds about {} users, {} are tried by --force",
                    count(fit),
                    count(users)
                ));
            }
            Ok(users)
        }
        Some(users) => Err(Refusal::new(
            format!(
                "{} users need about {} (both ends, {} B each), {} can be used and hold {}",
                count(users),
                bytes(users.saturating_mul(PAIR_BYTES)),
                count(PAIR_BYTES),
                bytes(usable),
                count(fit)
            ),
            format!("--users {fit} (make: USERS={fit}), or --force to try"),
        )),
        None if fit >= USERS_DEFAULT => Ok(USERS_DEFAULT),
        None if fit == 0 => Err(Refusal::new(
            format!(
                "{} of memory can be used, too few to hold anything",
                bytes(usable)
            ),
            "free memory, see `free -m`",
        )),
        None => {
            notices.push(format!(
                "memory ({} to be used) holds {} users of {}",
                bytes(usable),
                count(fit),
                count(USERS_DEFAULT)
            ));
            Ok(fit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::{RATE_MIN, USERS_MAX, tests::options};
    use super::*;

    #[test]
    fn memory_decides() {
        let available = 1000 * PAIR_BYTES + 7;
        let mut notices = vec![];
        let mut refused = |options: Options, usable| {
            let refusal = fit_users(&options, Some(usable), &mut notices).expect_err("refused");
            refusal.to_string()
        };
        let more = Options {
            users: Some(1001),
            ..options()
        };
        assert!(refused(more, available).contains("--users 1000 "));
        assert!(refused(options(), PAIR_BYTES - 1).contains("too few"));
        assert_eq!(
            fit_users(&options(), Some(available), &mut notices),
            Ok(1000)
        );
        assert_eq!(notices.len(), 1);
        let forced = Options {
            users: Some(2000),
            is_forced: true,
            ..options()
        };
        assert_eq!(fit_users(&forced, Some(available), &mut notices), Ok(2000));
        assert_eq!(
            fit_users(&options(), Some(1 << 40), &mut notices),
            Ok(USERS_DEFAULT)
        );
    }

    #[test]
    fn bounds_are_finite_and_follow_the_rate() {
        let plan = Plan {
            tuning: Tuning::default(),
            users: 1_000_000,
            options: Options {
                rate: SpawnRate::PerSecond(2000.0),
                ..options()
            },
            hold: Duration::from_secs(550),
            runs: PathBuf::new(),
            server_program: PathBuf::new(),
            client_program: PathBuf::new(),
            notices: vec![],
        };
        assert!(
            plan.ramp_max() > Duration::from_secs(500)
                && plan.ramp_max() < Duration::from_secs(1000)
        );
        assert_eq!(plan.targets().len(), usize::from(TARGET_COUNT));
        assert_eq!(plan.targets()[1], "127.0.0.2:999");
        let args = plan.client_args(Path::new("/r/h.hlog"));
        assert!(
            args.windows(2).any(|w| w == ["--every", "550s"])
                && args.windows(2).any(|w| w == ["--spawn-rate", "2000"])
        );
        let slowest = Plan {
            options: Options {
                rate: SpawnRate::PerSecond(RATE_MIN),
                ..options()
            },
            users: USERS_MAX,
            ..plan
        };
        assert!(
            slowest.ramp_max() < Duration::from_secs(u64::MAX / 2)
                && slowest.stall_max() > slowest.close_max() / 1000
        );
        assert_eq!(plain_time(Duration::from_millis(1500)), "1500000us");
    }
}
