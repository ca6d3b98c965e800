//! Sockets that this process was started with: from a service manager such as systemd, or from the process that it succeeds.
//!
//! A service manager passes descriptors 3, 4, ... and says so in LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES (sd_listen_fds(3)). A
//! predecessor names each descriptor in HOLDFAST_SOCKETS, and with them a pipe by which it is told that its successor serves.
//! Invariants: what was inherited is taken once, and not passed on by accident (close-on-exec).
//! Must not depend on: rings, engines, what is served.

use std::io::Write;
use std::os::fd::{OwnedFd, RawFd};

use super::listener::Listener;
use crate::error::{SetupError, SetupErrorKind};
use crate::kernel::os;

/// Names what a predecessor passes: `name=descriptor`, separated by commas.
pub(super) const VARIABLE: &str = "HOLDFAST_SOCKETS";
/// The name of the pipe in [`VARIABLE`].
pub(super) const READY: &str = "ready";
/// What is written to it.
pub(super) const READY_BYTE: u8 = b'R';

/// The first descriptor that a service manager passes.
const FIRST_FD: RawFd = 3;
/// More descriptors than anybody passes.
const COUNT_MAX: usize = 1_024;

/// The listening sockets that this process was started with, by name.
#[derive(Debug)]
pub struct Inherited {
    listeners: Vec<(String, Listener)>,
    ready: Option<OwnedFd>,
    is_from_predecessor: bool,
}

/// The listening sockets that this process was started with; `None` without any, and after the first call. They are
/// [shared](Listener::is_shared).
///
/// # Errors
/// [`SetupErrorKind::InvalidInput`]: a descriptor is no listening TCP socket, or the environment that names them is malformed.
pub fn inherited() -> Result<Option<Inherited>, SetupError> {
    let text = |name| std::env::var(name).ok();
    let from_predecessor = text(VARIABLE);
    let is_from_predecessor = from_predecessor.is_some();
    let named = match from_predecessor {
        Some(passed) => parse_passed(&passed),
        None => parse_systemd(
            text("LISTEN_PID").as_deref(),
            text("LISTEN_FDS").as_deref(),
            text("LISTEN_FDNAMES").as_deref(),
        ),
    };
    let named = named.ok_or_else(|| {
        SetupError::new(
            SetupErrorKind::InvalidInput,
            "the environment names the inherited sockets in a form that cannot be read",
            format!("start without LISTEN_FDS and {VARIABLE}"),
        )
    })?;
    let numbers: Vec<RawFd> = named.iter().map(|(_, number)| *number).collect();
    let taken = os::take_inherited(&numbers).map_err(|error| {
        SetupError::from_io(
            "an inherited descriptor is not open",
            error,
            format!("start without LISTEN_FDS and {VARIABLE}"),
        )
        .with_kind(SetupErrorKind::InvalidInput)
    })?;
    if taken.is_empty() {
        return Ok(None);
    }
    let mut inherited = Inherited {
        listeners: Vec::new(),
        ready: None,
        is_from_predecessor,
    };
    for ((name, number), fd) in named.into_iter().zip(taken) {
        if is_from_predecessor && name == READY {
            inherited.ready = Some(fd);
            continue;
        }
        if !is_listener(&fd) {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!("inherited descriptor {number} (\"{name}\") is no listening TCP socket"),
                "use ListenStream=PORT and Accept=no in the socket unit",
            ));
        }
        inherited.listeners.push((name, Listener::shared(fd)));
    }
    Ok(Some(inherited))
}

impl Inherited {
    /// True if the sockets come from a process that this one succeeds: it serves until [`Inherited::tell_ready`], and they are all
    /// that it listened on.
    pub fn is_from_predecessor(&self) -> bool {
        self.is_from_predecessor
    }

    /// Takes the listeners of a name: that of `FileDescriptorName=` in a systemd socket unit, or what the predecessor passed.
    pub fn take(&mut self, name: &str) -> Vec<Listener> {
        let all = std::mem::take(&mut self.listeners);
        let (found, rest) = all.into_iter().partition(|(n, _)| n == name);
        self.listeners = rest;
        let found: Vec<(String, Listener)> = found;
        found.into_iter().map(|(_, listener)| listener).collect()
    }

    /// Takes all listeners that are left.
    pub fn take_rest(&mut self) -> Vec<Listener> {
        let rest = std::mem::take(&mut self.listeners);
        rest.into_iter().map(|(_, listener)| listener).collect()
    }

    /// Tells the predecessor, if there is one, that this process serves: it stops accepting. Until then it goes on, also when this
    /// process ends.
    pub fn tell_ready(self) {
        if let Some(ready) = self.ready {
            // Without its reader, the predecessor has ended: it need not be told.
            let _ = std::fs::File::from(ready).write_all(&[READY_BYTE]);
        }
    }
}

fn is_listener(fd: &OwnedFd) -> bool {
    let socket = socket2::SockRef::from(fd);
    socket.is_listener().unwrap_or(false)
        && socket.local_addr().is_ok_and(|a| a.as_socket().is_some())
}

/// What a predecessor passed: names and descriptors. `None` if it cannot be read.
fn parse_passed(text: &str) -> Option<Vec<(String, RawFd)>> {
    let parts = text.split(',').map(|part| {
        let (name, number) = part.split_once('=')?;
        let number = number.parse().ok().filter(|n| *n >= FIRST_FD)?;
        Some((name.to_owned(), number))
    });
    parts.collect()
}

/// What a service manager passed, to the process of `pid`. `None` if it cannot be read.
fn parse_systemd(
    pid: Option<&str>,
    count: Option<&str>,
    names: Option<&str>,
) -> Option<Vec<(String, RawFd)>> {
    let (Some(pid), Some(count)) = (pid, count) else {
        return Some(Vec::new());
    };
    if pid.parse::<u32>().ok()? != std::process::id() {
        // Passed to another process, whose environment this one has.
        return Some(Vec::new());
    }
    let count = count.parse::<usize>().ok().filter(|n| *n <= COUNT_MAX)?;
    let mut names = names.unwrap_or_default().split(':');
    let numbers = FIRST_FD..FIRST_FD + count as RawFd;
    let named = numbers.map(|number| (names.next().unwrap_or_default().to_owned(), number));
    Some(named.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(pairs: &[(&str, RawFd)]) -> Option<Vec<(String, RawFd)>> {
        let pairs = pairs.iter().map(|(name, fd)| ((*name).to_owned(), *fd));
        Some(pairs.collect())
    }

    #[test]
    fn sockets_of_a_service_manager_are_for_the_process_it_names() {
        let own = std::process::id().to_string();
        let parse = |pid, count, names| parse_systemd(pid, count, names);
        assert_eq!(parse(None, Some("1"), None), named(&[]));
        assert_eq!(parse(Some("1"), Some("1"), None), named(&[]));
        assert_eq!(parse(Some(&own), Some("0"), None), named(&[]));
        assert_eq!(
            parse(Some(&own), Some("2"), Some("web:metrics")),
            named(&[("web", 3), ("metrics", 4)])
        );
        assert_eq!(parse(Some(&own), Some("1"), None), named(&[("", 3)]));
        for count in ["-1", "many", "1000000"] {
            assert_eq!(parse(Some(&own), Some(count), None), None, "{count}");
        }
    }

    #[test]
    fn sockets_of_a_predecessor_have_names_and_numbers() {
        let passed = parse_passed("listen=7,listen=8,ready=9");
        assert_eq!(passed, named(&[("listen", 7), ("listen", 8), ("ready", 9)]));
        for text in ["", "listen", "listen=", "listen=x", "listen=-1", "listen=2"] {
            assert_eq!(parse_passed(text), None, "{text}");
        }
    }
}
