//! What a run of `longconn` will do, settled before anything starts.
//!
//! Purpose: flags checked and completed: users that memory can hold, programs that exist, bounds
//! for every wait.
//! Invariants: nothing is started, made or changed here. A plan that exists can be tried; every
//! bound in it is finite.
//! Must not depend on: processes, namespaces, run folders.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_sysctl::Machine;
use holdfast_sysctl::cost::{CLIENT_END_BYTES, SERVER_END_BYTES};

use super::flags::{Flags, Prefault, SpawnRate, check_figures};
use crate::held_load::Limits;
use crate::prefault;

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_report::run::Asked;
use holdfast_telemetry::units::{bytes, count};
use holdfast_testbed::child::{plain_time, words};
use holdfast_testbed::namespace::{self, Tuning};
use holdfast_testbed::programs::program;

/// What one connection takes with both ends on this machine, everything counted.
const PAIR_BYTES: u64 = SERVER_END_BYTES + CLIENT_END_BYTES;
/// Users without `--users`.
pub const USERS_DEFAULT: u64 = 1_000_000;
/// Loopback addresses the client connects to: 127.0.0.1 and following. One would be enough for the
/// addresses; several share the kernel's bind bucket of each source address and port, 128 bytes.
pub const TARGET_COUNT: u8 = 16;

/// After an interrupt each process has this long to shut down gracefully.
const INTERRUPT_GRACE: Duration = Duration::from_secs(10);
/// Port in a network namespace of its own.
const PRIVATE_PORT: u16 = 999;
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
    pub flags: Flags,
    /// Port the server listens on.
    pub port: u16,
    /// In a network namespace of its own.
    pub is_private: bool,
    /// How long all are held.
    pub hold: Duration,
    /// The server program.
    pub server_program: PathBuf,
    /// The client program.
    pub client_program: PathBuf,
    /// What a person should know before the start, one line each.
    pub notices: Vec<String>,
}

impl Plan {
    /// Checks `flags` against sense, memory and the programs there are.
    ///
    /// # Errors
    /// The first thing that stands in the way.
    pub fn new(flags: Flags) -> Result<Self, SetupError> {
        let usable = Machine::read().map(|machine| machine.memory_usable_bytes());
        Self::with_memory(flags, usable.ok())
    }

    fn with_memory(flags: Flags, usable_bytes: Option<u64>) -> Result<Self, SetupError> {
        check_figures(&flags)?;
        let hold = flags.hold.unwrap_or(flags.interval * 2);
        if !(HOLD_MIN..=HOLD_MAX).contains(&hold) {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!(
                    "a hold of {} is outside 1s to 7days",
                    humantime::format_duration(hold)
                ),
                "give another with --hold 60s",
            ));
        }
        let mut notices = Vec::new();
        if hold <= flags.interval {
            notices.push(format!(
                "the hold ({}) is no longer than the interval ({}): some users will get no heartbeat",
                humantime::format_duration(hold),
                humantime::format_duration(flags.interval)
            ));
        }
        let users = fit_users(&flags, usable_bytes, &mut notices)?;
        let server_program = program(flags.run.bin_dir.as_deref(), "holdfast-server")?;
        let client_program = program(flags.run.bin_dir.as_deref(), "holdfast-client")?;
        let tuning = Tuning::new(!flags.no_namespace, !flags.no_profile, &flags.sysctl)?;
        Ok(Self {
            users,
            tuning,
            port: flags.port.unwrap_or(PRIVATE_PORT),
            is_private: !flags.no_namespace,
            flags,
            hold,
            server_program,
            client_program,
            notices,
        })
    }

    /// Settles what depends on the network that the run got: in the host's, the server listens on
    /// loopback only, on a port that a plain user may take.
    ///
    /// # Errors
    /// When no port is free.
    pub fn settle_network(&mut self, is_private: bool) -> Result<(), SetupError> {
        self.is_private = is_private;
        if !is_private && self.flags.port.is_none() {
            self.port = namespace::free_port()?;
        }
        Ok(())
    }

    /// The request as the record holds it.
    #[must_use]
    pub fn asked(&self) -> Asked {
        let o = &self.flags;
        Asked {
            users: self.users,
            spawn_rate_per_second: match o.spawn_rate {
                SpawnRate::Max => None,
                SpawnRate::PerSecond(rate) => Some(rate),
            },
            every_seconds: o.interval.as_secs_f64(),
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
            .map(|n| format!("127.0.0.{n}:{}", self.port))
            .collect()
    }

    /// What the run asks for, and how long each of its parts may take.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            users: self.users,
            hold: self.hold,
            ramp_max: self.ramp_max(),
            stall_max: self.stall_max(),
            close_max: self.close_max(),
            interrupt_grace: INTERRUPT_GRACE,
            is_prefaulted: match self.flags.prefault {
                Prefault::Auto => prefault::is_worth(self.users),
                Prefault::On => true,
                Prefault::Off => false,
            },
            waits_for_quiet: true,
        }
    }

    /// Longest time a ramp may take before it counts as failed.
    #[must_use]
    pub fn ramp_max(&self) -> Duration {
        let rate = match self.flags.spawn_rate {
            SpawnRate::Max => RATE_SLOWEST,
            SpawnRate::PerSecond(rate) => rate.min(RATE_SLOWEST),
        };
        Duration::from_secs_f64(self.users as f64 / rate * 1.25 + 120.0)
    }

    /// Longest time without any progress before a ramp counts as stalled: longer than the kernel
    /// tries a SYN.
    #[must_use]
    pub fn stall_max(&self) -> Duration {
        let between = match self.flags.spawn_rate {
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
        let o = &self.flags;
        let mut args = words(&["longconn"]);
        if self.is_private {
            args.extend(words(&["--listen", &format!("0.0.0.0:{}", self.port)]));
        } else {
            // Nobody but our client may reach it.
            for target in self.targets() {
                args.extend(words(&["--listen", &target]));
            }
        }
        args.extend(words(&[
            "--connections",
            &self.users.to_string(),
            "--message",
            &o.message,
        ]));
        args.extend(words(&[
            "--interval",
            &plain_time(o.interval),
            "--progress",
            "json",
            "--die-with-parent",
        ]));
        if let Some(n) = o.server_threads {
            args.extend(words(&["--threads", &n.to_string()]));
        }
        if o.force {
            args.push("--force".into());
        }
        args.extend(o.server_arg.iter().cloned());
        args
    }

    /// Arguments of the client, which writes its histograms to `histogram_log`.
    #[must_use]
    pub fn client_args(&self, histogram_log: &Path) -> Vec<String> {
        let o = &self.flags;
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
            &o.spawn_rate.to_string(),
        ]));
        args.extend(words(&[
            "--expect",
            &o.message,
            "--interval",
            &plain_time(o.interval),
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
        if o.force {
            args.push("--force".into());
        }
        args.extend(o.client_arg.iter().cloned());
        args
    }
}

/// The users asked for, or as many as memory holds if none were.
fn fit_users(
    o: &Flags,
    usable_bytes: Option<u64>,
    notices: &mut Vec<String>,
) -> Result<u64, SetupError> {
    let Some(usable) = usable_bytes else {
        notices.push("memory available is unknown: not checked".into());
        return Ok(o.users.unwrap_or(USERS_DEFAULT));
    };
    let fit = usable / PAIR_BYTES;
    match o.users {
        Some(users) if users <= fit || o.force => {
            if users > fit {
                notices.push(format!(
                    "memory holds about {} users, {} are tried by --force",
                    count(fit),
                    count(users)
                ));
            }
            Ok(users)
        }
        Some(_) if fit == 0 => Err(too_little_memory(usable)),
        Some(users) => Err(SetupError::new(
            SetupErrorKind::OutOfMemory,
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
        None if fit == 0 => Err(too_little_memory(usable)),
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

fn too_little_memory(usable_bytes: u64) -> SetupError {
    let cause = format!(
        "{} of memory can be used, too little to hold one connection",
        bytes(usable_bytes)
    );
    let next = "free memory (free -m shows it) or raise the limit of the control group, or try with --users 100 --force";
    SetupError::new(SetupErrorKind::OutOfMemory, cause, next)
}

#[cfg(test)]
mod tests {
    use super::super::flags::{RATE_MIN, USERS_MAX, tests::flags};
    use super::*;

    #[test]
    fn memory_decides() {
        let available = 1000 * PAIR_BYTES + 7;
        let mut notices = vec![];
        let mut refused = |flags: Flags, usable| {
            let refusal = fit_users(&flags, Some(usable), &mut notices).expect_err("refused");
            refusal.to_string()
        };
        let more = Flags {
            users: Some(1001),
            ..flags()
        };
        assert!(refused(more, available).contains("--users 1000 "));
        assert!(refused(flags(), PAIR_BYTES - 1).contains("too little"));
        let few = Flags {
            users: Some(100),
            ..flags()
        };
        let next = refused(few, PAIR_BYTES - 1);
        assert!(
            !next.contains("--users 0") && next.contains("--force"),
            "{next}"
        );
        let fit = |flags: &Flags, usable, notices: &mut _| fit_users(flags, usable, notices).ok();
        assert_eq!(fit(&flags(), Some(available), &mut notices), Some(1000));
        assert_eq!(notices.len(), 1);
        let forced = Flags {
            users: Some(2000),
            force: true,
            ..flags()
        };
        assert_eq!(fit(&forced, Some(available), &mut notices), Some(2000));
        assert_eq!(
            fit(&flags(), Some(1 << 40), &mut notices),
            Some(USERS_DEFAULT)
        );
    }

    #[test]
    fn bounds_are_finite_and_follow_the_rate() {
        let plan = Plan {
            tuning: Tuning::default(),
            users: 1_000_000,
            port: PRIVATE_PORT,
            is_private: true,
            flags: Flags {
                spawn_rate: SpawnRate::PerSecond(2000.0),
                ..flags()
            },
            hold: Duration::from_secs(550),
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
            args.windows(2).any(|w| w == ["--interval", "550s"])
                && args.windows(2).any(|w| w == ["--spawn-rate", "2000"])
        );
        let slowest = Plan {
            flags: Flags {
                spawn_rate: SpawnRate::PerSecond(RATE_MIN),
                ..flags()
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
