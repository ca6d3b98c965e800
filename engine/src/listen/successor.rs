//! Starting the process that succeeds this one on the same listeners.
//!
//! Invariants: this process keeps its sockets, and serves until it decides otherwise, whatever becomes of the successor.
//! Must not depend on: rings, engines, what is served.

use std::io::{PipeReader, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

use super::inherited::{READY, READY_BYTE, VARIABLE};
use crate::error::SetupError;

/// A process that was started to succeed this one.
///
/// ```no_run
/// use std::process::Command;
/// use holdfast_engine::listen::{Successor, SuccessorState};
///
/// # fn example(engine: holdfast_engine::Engine<()>, listeners: Vec<holdfast_engine::listen::Listener>)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// use std::os::fd::AsFd;
/// let passed: Vec<_> = listeners.iter().map(|listener| ("listen", listener.as_fd())).collect();
/// let mut successor = Successor::start(Command::new("/usr/bin/server"), &passed)?;
/// while successor.state() == SuccessorState::Starting {
///     std::thread::sleep(std::time::Duration::from_millis(10));
/// }
/// if successor.state() == SuccessorState::Ready {
///     engine.release_listeners();
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Successor {
    child: Child,
    ready: PipeReader,
    state: SuccessorState,
}

/// How far a [`Successor`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuccessorState {
    /// It has not said that it serves.
    Starting,
    /// It serves.
    Ready,
    /// It has ended.
    Ended(ExitStatus),
}

impl Successor {
    /// Runs `command`, which finds the sockets with [`inherited`](super::inherited()) by the names given here. Its environment
    /// says where they are; sockets of a service manager are taken out of it.
    ///
    /// # Errors
    /// The command cannot be run, or no descriptor is left.
    pub fn start(
        mut command: Command,
        sockets: &[(&str, BorrowedFd<'_>)],
    ) -> Result<Self, SetupError> {
        let no_descriptor = |e| {
            SetupError::from_io(
                "cannot pass sockets on",
                e,
                "raise the descriptor limit: ulimit -n 20000",
            )
        };
        let (ready, ready_writer) = std::io::pipe().map_err(no_descriptor)?;
        fcntl(&ready, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|errno| no_descriptor(errno.into()))?;
        // Copies that the command inherits, until it runs.
        let mut passed = vec![(READY, OwnedFd::from(ready_writer))];
        for (name, socket) in sockets {
            let copy = socket.try_clone_to_owned().map_err(no_descriptor)?;
            passed.push((name, copy));
        }
        let mut text = String::new();
        for (name, fd) in &passed {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))
                .map_err(|errno| no_descriptor(errno.into()))?;
            let separator = if text.is_empty() { "" } else { "," };
            text += &format!("{separator}{name}={}", fd.as_raw_fd());
        }
        command.env(VARIABLE, text);
        for variable in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(variable);
        }
        let child = command.spawn().map_err(|e| {
            let program = command.get_program().display();
            SetupError::from_io(
                format_args!("cannot start {program}"),
                e,
                "put the program back in its place",
            )
        })?;
        Ok(Successor {
            child,
            ready,
            state: SuccessorState::Starting,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How far it is. Returns at once.
    pub fn state(&mut self) -> SuccessorState {
        if self.state == SuccessorState::Starting {
            let mut byte = [0];
            // Nothing yet, or an end without the byte: whether it has ended is asked below.
            if matches!(self.ready.read(&mut byte), Ok(1)) && byte[0] == READY_BYTE {
                self.state = SuccessorState::Ready;
            }
        }
        if let Ok(Some(status)) = self.child.try_wait() {
            self.state = SuccessorState::Ended(status);
        }
        self.state
    }

    /// Ends it.
    pub fn kill(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
