//! SIGUSR2: a new process of the same program takes over the listeners, and this one retires.
//!
//! ```text
//!              SIGUSR2                 it says that it serves
//!   Serving ────────────► Starting ───────────────────────────► Retiring
//!      ▲                     │ it ends, or takes too long          accepts nothing; keeps its connections for a time
//!      └─────────────────────┘
//! ```
//!
//! Invariants: this process accepts until the new one says that it serves; if that fails, nothing
//! has changed.
//! Must not depend on: protocols.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use holdfast_engine::listen::{Listener, Successor, SuccessorState};

/// How long a new process may take until it serves.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Reports of the core threads are this old at most: before that, none shows that all connections
/// have closed.
const REPORTS_AGE_MAX: Duration = Duration::from_secs(1);

/// The name of the listeners in what is passed on.
pub const LISTEN: &str = "listen";
/// The name of the listener of `--metrics`.
pub const METRICS: &str = "metrics";

/// What this process runs, as found at its start: a path that leads to a new version once that was
/// installed.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// The program of this process: the path that it was started by, made absolute, or where its
    /// file was if that path leads elsewhere.
    #[must_use]
    pub fn current() -> Self {
        let mut arguments = std::env::args_os();
        let started_by = arguments.next().unwrap_or_default();
        let file = std::env::current_exe().unwrap_or_default();
        let candidates: Vec<PathBuf> = if Path::new(&started_by).components().count() > 1 {
            std::path::absolute(&started_by).into_iter().collect()
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders = std::env::split_paths(&path);
            folders.map(|folder| folder.join(&started_by)).collect()
        };
        // Symbolic links are kept: a new version may be what they name next.
        let is_same = |path: &PathBuf| {
            let ids = [path, &file].map(|p| p.metadata().map(|m| (m.dev(), m.ino())).ok());
            ids[0].is_some() && ids[0] == ids[1]
        };
        let path = candidates.into_iter().find(is_same).unwrap_or(file);
        Program {
            path,
            arguments: arguments.collect(),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments);
        command
    }
}

/// Upgrades a process, on request.
pub struct Upgrade {
    /// What is started.
    pub program: Program,
    /// The listeners that the new process is given.
    pub listeners: Vec<Listener>,
    /// How long connections are kept once the new process serves, before they are closed
    /// gracefully; `None`: until they end.
    pub keep: Option<Duration>,
    /// Called when the new process serves.
    pub on_retire: Box<dyn Fn()>,
    /// Why there is no upgrade, if there is none.
    pub refusal: Option<&'static str>,
    /// How far it is.
    pub state: UpgradeState,
}

/// How far an [`Upgrade`] is.
#[derive(Default)]
pub enum UpgradeState {
    /// Nobody asked for one.
    #[default]
    Serving,
    /// A new process was started then.
    Starting(Successor, Instant),
    /// The new process serves since then.
    Retiring(Successor, Instant),
}

/// What a look at an [`Upgrade`] found.
pub enum UpgradeEvent {
    /// The process with this id serves: the listeners are to be released.
    Ready(u32),
    /// It failed, for this reason; this process goes on.
    Failed(String),
    /// The time to keep connections is over.
    KeptLongEnough,
}

impl Upgrade {
    /// Starts a new process. Returns what there is to say.
    pub fn start(&mut self, metrics: Option<OwnedFd>) -> String {
        match (&self.state, self.refusal) {
            (_, Some(refusal)) => return format!("not upgraded: {refusal}"),
            (UpgradeState::Starting(successor, _), _) => {
                return format!("upgrading already: process {} is starting", successor.id());
            }
            (UpgradeState::Retiring(successor, _), _) => {
                return format!(
                    "upgraded already; next: kill -USR2 {}, which serves now",
                    successor.id()
                );
            }
            (UpgradeState::Serving, None) => {}
        }
        let mut sockets: Vec<_> = self.listeners.iter().map(|l| (LISTEN, l.as_fd())).collect();
        sockets.extend(metrics.as_ref().map(|fd| (METRICS, fd.as_fd())));
        match Successor::start(self.program.command(), &sockets) {
            Ok(successor) => {
                let text = format!("upgrading: started process {}", successor.id());
                self.state = UpgradeState::Starting(successor, Instant::now());
                text
            }
            Err(error) => format!("not upgraded, still serving: {error}"),
        }
    }

    /// Looks how far the new process is, and whether connections were kept long enough. `open_now`
    /// of them are left.
    pub fn look(&mut self, open_now: impl FnOnce() -> u64) -> Option<UpgradeEvent> {
        match std::mem::take(&mut self.state) {
            UpgradeState::Serving => None,
            UpgradeState::Starting(mut successor, since) => match successor.state() {
                SuccessorState::Ready => {
                    let id = successor.id();
                    self.listeners.clear();
                    (self.on_retire)();
                    self.state = UpgradeState::Retiring(successor, Instant::now());
                    Some(UpgradeEvent::Ready(id))
                }
                SuccessorState::Ended(status) => {
                    let program = self.program.path.display();
                    Some(UpgradeEvent::Failed(format!(
                        "not upgraded, still serving: the new process ended before it served ({status}); next: run {program} to see why, \
                         then kill -USR2 {}",
                        std::process::id()
                    )))
                }
                SuccessorState::Starting if since.elapsed() > START_TIMEOUT => {
                    successor.kill();
                    Some(UpgradeEvent::Failed(format!(
                        "not upgraded, still serving: the new process did not serve within {} s and was killed; next: look for its \
                         messages, then kill -USR2 {}",
                        START_TIMEOUT.as_secs(),
                        std::process::id()
                    )))
                }
                SuccessorState::Starting => {
                    self.state = UpgradeState::Starting(successor, since);
                    None
                }
            },
            UpgradeState::Retiring(mut successor, since) => {
                // Collects its exit status, should it end first.
                successor.state();
                self.state = UpgradeState::Retiring(successor, since);
                let kept = since.elapsed();
                let is_over = self.keep.is_some_and(|keep| kept >= keep)
                    || kept > REPORTS_AGE_MAX && open_now() == 0;
                is_over.then_some(UpgradeEvent::KeptLongEnough)
            }
        }
    }

    /// Gives upgrades up, since somebody wants the end: closes the copies of the listeners, which
    /// would keep them open, and ends a new process that does not serve yet.
    pub fn cancel(&mut self) {
        self.listeners.clear();
        if let UpgradeState::Starting(successor, _) = &mut self.state
            && successor.state() == SuccessorState::Starting
        {
            successor.kill();
            self.state = UpgradeState::Serving;
        }
    }
}
