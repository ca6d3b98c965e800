//! A sandbox: namespaces of processes, mounts and network that end with the process that asked for
//! them.
//!
//! ```text
//!   this program -> first process of the sandbox -> this program again, inside
//!   waits, passes     mounts /proc and /run,            does the work; its network is empty
//!   signals on        passes signals on, reaps
//! ```
//!
//! Purpose: [`enter`] starts this program twice more with the same arguments; only the innermost
//! one goes on with the work.
//! Invariants: the first process ends with this one, however that ends, and the kernel ends
//! everything else in the sandbox with the first. No file, mount, interface or process is left
//! outside: there was none. A signal reaches the work once, also Ctrl-C, which the terminal sends
//! to all three by itself.
//! Must not depend on: what the work is.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};

use crate::namespace::enter_user_namespace;

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_telemetry::proc::process;

/// The name in the sandbox of the network it was entered from, if that was to be kept.
pub const OUTSIDE: &str = "outside";
/// Where names of networks live.
pub const NAMES: &str = "/run/netns";
/// Says in which of the three processes we are: absent, `first PARENT`, or `inside PID USER`.
const STEP: &str = "HOLDFAST_ENCLOSURE";
/// `si_code` of a signal that the kernel sent by itself: Ctrl-C on a terminal.
const SI_KERNEL: i32 = 0x80;
/// What shells add to the number of the signal that ended a program.
const SIGNALLED: i32 = 128;
/// The passed-on signals, and the news that a child has ended.
const SIGNALS: [Signal; 5] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGCHLD,
];

/// Where [`enter`] came out.
#[derive(Debug)]
pub enum Entered {
    /// The work was done inside, by another process; this is its exit code.
    Done(u8),
    /// This process is inside.
    Inside(Inside),
}

/// What a process inside knows of the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inside {
    /// The first process of the sandbox, as the outside numbers it.
    pub pid_outside: u32,
    /// Made by a plain user, in a user namespace.
    pub is_user: bool,
}

impl Inside {
    /// The command line by which another terminal enters.
    #[must_use]
    pub fn door(&self) -> String {
        let user = if self.is_user {
            " --user --preserve-credentials"
        } else {
            ""
        };
        format!(
            "nsenter --target {}{user} --mount --pid --net",
            self.pid_outside
        )
    }
}

/// Enters a sandbox of its own, unless this process is in one already. Call while it has one
/// thread, and return the code of [`Entered::Done`] as one's own. With `keeps_outside` the network
/// it was entered from stays reachable, as [`OUTSIDE`].
///
/// # Errors
/// When the system forbids namespaces; nothing is left behind.
pub fn enter(keeps_outside: bool) -> Result<Entered, SetupError> {
    let step = std::env::var(STEP).unwrap_or_default();
    match step.split(' ').collect::<Vec<_>>()[..] {
        ["first", parent] => first(parent, keeps_outside).map(Entered::Done),
        ["inside", pid, user] => Ok(Entered::Inside(Inside {
            pid_outside: pid.parse().unwrap_or_default(),
            is_user: user == "user",
        })),
        _ => outside().map(Entered::Done),
    }
}

/// This process, as whoever called it sees it: makes the process namespace, starts its first
/// process, waits.
fn outside() -> Result<u8, SetupError> {
    match unshare(CloneFlags::CLONE_NEWPID) {
        Ok(()) => {}
        Err(Errno::EPERM) => {
            enter_user_namespace().map_err(|why| forbidden(&why))?;
            unshare(CloneFlags::CLONE_NEWPID)
                .map_err(|e| forbidden(&format!("unshare of processes as plain user: {e}")))?;
        }
        Err(e) => return Err(forbidden(&format!("unshare of processes: {e}"))),
    }
    let mut child = again(&format!("first {}", std::process::id()))?;
    let signals = listen()?;
    loop {
        match child.try_wait() {
            Ok(None) => pass_on(&signals, pid_of(&child)),
            Ok(Some(status)) => {
                let signal = status.signal().map_or(SIGNALLED, |s| SIGNALLED + s);
                return Ok(code(status.code().unwrap_or(signal)));
            }
            Err(e) => return Err(forbidden(&e.to_string())),
        }
    }
}

/// The first process of the sandbox: nothing in it outlives this one.
fn first(parent: &str, keeps_outside: bool) -> Result<u8, SetupError> {
    let fail = |what: &str, e: Errno| forbidden(&format!("{what}: {e}"));
    set_pdeathsig(Signal::SIGKILL).map_err(|e| fail("the signal at a parent's end", e))?;
    // What is mounted on /proc is still the outside's view: of this process and of its parent, if
    // that still lives.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let (pid, ppid) = ids(&stat).unwrap_or_default();
    if ppid != parent {
        return Err(forbidden(
            "the process that asked for it has ended, or /proc is not of its processes",
        ));
    }
    let is_user = fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_whole(&map));
    let outside = fs::File::open("/proc/self/ns/net")
        .map_err(|e| forbidden(&format!("/proc/self/ns/net: {e}")))?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .map_err(|e| fail("unshare of mounts and network", e))?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|e| fail("mounts of our own", e))?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)
        .map_err(|e| fail("mount of /proc", e))?;
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )
    .map_err(|e| fail("mount of /run", e))?;
    fs::create_dir(NAMES).map_err(|e| forbidden(&format!("{NAMES}: {e}")))?;
    if keeps_outside {
        let path = Path::new(NAMES).join(OUTSIDE);
        fs::File::create(&path).map_err(|e| forbidden(&format!("{}: {e}", path.display())))?;
        let own = format!("/proc/self/fd/{}", outside.as_raw_fd());
        mount(Some(own.as_str()), &path, none, MsFlags::MS_BIND, none)
            .map_err(|e| fail("a name for the network outside", e))?;
    }
    drop(outside);
    let user = if is_user { "user" } else { "root" };
    let child = again(&format!("inside {pid} {user}"))?;
    let signals = listen()?;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == pid_of(&child) => {
                return Ok(code(status));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == pid_of(&child) => {
                return Ok(code(SIGNALLED + signal as i32));
            }
            Ok(WaitStatus::StillAlive) => pass_on(&signals, pid_of(&child)),
            // Somebody's orphan.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(fail("waiting for the work", e)),
        }
    }
}

/// Starts this program once more, with the same arguments.
fn again(step: &str) -> Result<Child, SetupError> {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    std::env::current_exe()
        .and_then(|program| {
            Command::new(program)
                .arg0(name)
                .args(arguments)
                .env(STEP, step)
                .spawn()
        })
        .map_err(|e| forbidden(&format!("this program cannot be started again: {e}")))
}

/// From now on signals are read, not suffered. Until then they end this process, and all that it
/// started with it.
fn listen() -> Result<SignalFd, SetupError> {
    // A blocked signal arrives here even if it is ignored; one that nohup has us ignore is nobody's
    // business.
    let passed_on = SIGNALS.into_iter().filter(|s| !process::ignores(*s as i32));
    let mask: SigSet = passed_on.collect();
    mask.thread_block()
        .and_then(|()| SignalFd::new(&mask))
        .map_err(|e| forbidden(&format!("signals: {e}")))
}

/// Waits for one signal; hands it to `child` if that has not had it.
fn pass_on(signals: &SignalFd, child: Pid) {
    let Ok(Some(info)) = signals.read_signal() else {
        return;
    };
    let signal = i32::try_from(info.ssi_signo).map(Signal::try_from);
    match signal {
        Ok(Ok(Signal::SIGCHLD)) => {}
        Ok(Ok(signal)) if info.ssi_code != SI_KERNEL => {
            let _ = kill(child, signal);
        }
        _ => {}
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

fn code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Process id and parent's id in a `stat` of `/proc`.
fn ids(stat: &str) -> Option<(&str, &str)> {
    let pid = stat.split(' ').next()?;
    let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?;
    Some((pid, parent))
}

/// Whether a map of user ids is that of a machine, where every id is itself.
fn is_whole(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn forbidden(why: &str) -> SetupError {
    let next = if geteuid().is_root() {
        "run it on a machine or in a container that may make namespaces (CAP_SYS_ADMIN, a /proc of its own)"
    } else {
        "sudo, or sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=1000"
    };
    SetupError::new(
        SetupErrorKind::Io,
        format!("the lab cannot be made here: {why}"),
        next,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_is_read_whatever_the_name() {
        assert_eq!(ids("42 (a) b) S 7 42 42 0"), Some(("42", "7")));
        assert_eq!(ids("42"), None);
    }

    #[test]
    fn nsenter_command_of_an_unprivileged_user_enters_its_user_namespace() {
        let mut inside = Inside {
            pid_outside: 42,
            is_user: false,
        };
        assert_eq!(inside.door(), "nsenter --target 42 --mount --pid --net");
        inside.is_user = true;
        assert!(inside.door().contains(" --user --preserve-credentials "));
        assert!(is_whole("         0          0 4294967295\n"));
        assert!(!is_whole("         0       1000          1\n"));
    }
}
