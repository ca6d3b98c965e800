//! What server and client have in common as programs: signals, the one-second tick, where reports
//! go, how errors are printed.
//!
//! Invariants: an error of usage or set-up is one line on standard error and exit code 2; standard
//! output carries reports only. Nothing waits for a reader before the end, and there for a bounded
//! time; final figures that cannot be written are an error.
//! Must not depend on: engines, protocols, what a report contains.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use holdfast_sysctl::grouped;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde::Serialize;
use tokio::signal::unix::SignalKind;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::live::{Live, LiveFlags, Snapshot};
use crate::output::{self, LineWriter, READER_WAIT};
use crate::proc::process::ignored_signals;
use crate::run_info::RunInfo;
use crate::signals::Signals;

/// Exit code of errors of usage and set-up.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of a run that fell short.
pub const EXIT_SHORT: u8 = 1;

/// SIGHUP, signal 1, in a mask of signals.
const SIGHUP_BIT: u64 = 1;

/// The file name that stands for standard output.
const STDOUT: &str = "-";

/// How a program shows its progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Progress {
    /// A line or a page on a terminal, now and then a line elsewhere.
    #[default]
    Auto,
    /// One JSON report per line, every second, on standard output.
    Json,
    /// Nothing until the final figures.
    None,
}

/// Prints one error in one line and returns the exit code for it.
pub fn refuse(error: &dyn Display) -> ExitCode {
    output::log_last(format_args!(
        "error: {}",
        error.to_string().replace('\n', " ")
    ));
    ExitCode::from(EXIT_USAGE)
}

/// Asks the kernel to end this process when its parent ends, and ends it now if that has already
/// happened.
pub fn die_with_parent() -> io::Result<()> {
    let parent = nix::unistd::getppid();
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    if nix::unistd::getppid() != parent || parent.as_raw() == 1 {
        return Err(io::Error::other("the parent has ended"));
    }
    Ok(())
}

/// What a control plane waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A tenth of a second is over.
    Tick,
    /// SIGINT or SIGTERM came, or the key for it.
    Stop,
    /// SIGUSR2 came.
    Upgrade,
}

/// Ticks and signals, for a tokio runtime.
pub struct Events {
    interval: Interval,
    stops: Signals,
    upgrades: Signals,
}

impl Events {
    /// Listens for signals and starts ticking. Inside a runtime. SIGHUP ends the run gracefully,
    /// with final figures, unless it was ignored at the start, as by nohup; so does SIGQUIT where
    /// `console` has a terminal to restore. SIGUSR2 is an event with `hears_upgrades`.
    ///
    /// # Errors
    /// Signals cannot be listened for.
    pub fn new(console: &Console, hears_upgrades: bool) -> io::Result<Self> {
        let mut interval = interval(Duration::from_millis(100));
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
        if ignored_signals() & SIGHUP_BIT == 0 {
            kinds.push(SignalKind::hangup());
        }
        if console.live.is_on_terminal() {
            kinds.push(SignalKind::quit());
        }
        let upgrades: &[SignalKind] = match hears_upgrades {
            true => &[SignalKind::user_defined2()],
            false => &[],
        };
        Ok(Events {
            interval,
            stops: Signals::listen(&kinds)?,
            upgrades: Signals::listen(upgrades)?,
        })
    }

    /// The next event; what `console` draws and reads is done on the way.
    pub async fn next(&mut self, console: &mut Console) -> Event {
        tokio::select! {
            () = self.stops.next() => Event::Stop,
            () = self.upgrades.next() => Event::Upgrade,
            _ = self.interval.tick() => match console.live.tick() {
                true => Event::Stop,
                false => Event::Tick,
            },
        }
    }
}

/// Flags of where reports go.
#[derive(Debug, Default, clap::Args)]
pub struct ConsoleFlags {
    /// Show progress as a live view or lines, as JSON on standard output, or not at all
    #[arg(long, value_enum, default_value_t, conflicts_with_all = ["live", "quiet"])]
    progress: Progress,
    #[command(flatten)]
    live: LiveFlags,
    /// Write the final figures to this file as JSON; - is standard output, instead of the text
    /// [default: none]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Where reports go.
#[derive(Debug)]
pub struct Console {
    progress: Progress,
    lines: LineWriter,
    file: Option<PathBuf>,
    /// The file, if it is a pipe: opened once, so that its reader sees one end.
    pipe: Option<File>,
    live: Live,
    info: RunInfo,
}

impl Console {
    /// A console. The file is made now, so that a run is not lost to a folder that cannot be
    /// written.
    ///
    /// # Errors
    /// One line naming what is missing and the cause.
    pub fn new(flags: &ConsoleFlags) -> Result<Self, String> {
        let live = match flags.progress {
            Progress::Auto => Live::new(flags.live)?,
            Progress::Json | Progress::None => Live::silent(),
        };
        let file = flags.json.as_deref();
        let mut pipe = None;
        if let Some(file) = file.filter(|file| *file != Path::new(STDOUT)) {
            // A pipe without a reader would keep this from starting, and the end from being one.
            let opened = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open(file)
                .map_err(|e| {
                    let next = match e.raw_os_error() {
                        Some(errno) if errno == Errno::ENXIO as i32 => {
                            "start the reader of this pipe first, or name a file"
                        }
                        _ => "name a file in a folder that exists",
                    };
                    format!("cannot write {} ({e}); next: {next}", file.display())
                })?;
            let is_pipe = opened.metadata().is_ok_and(|m| m.file_type().is_fifo());
            pipe = is_pipe.then_some(opened);
        }
        Ok(Console {
            progress: flags.progress,
            lines: LineWriter::default(),
            file: file.map(Path::to_owned),
            pipe,
            live,
            info: RunInfo::now(),
        })
    }

    /// True if it draws on a terminal.
    pub fn is_on_terminal(&self) -> bool {
        self.live.is_on_terminal()
    }

    /// Prints a note before or after a run.
    pub fn note(&mut self, text: impl Display) {
        self.live.note(text);
    }

    /// Logs a message for the administrator, also where progress is not shown.
    pub fn log(&mut self, text: impl Display) {
        if self.live.is_silent() {
            output::log(text);
        } else {
            self.live.note(text);
        }
    }

    /// Prints a report during the run, or shows its `snapshot`. Called once a second. Skipped while
    /// the reader is slow: the next report has all counts again.
    pub fn progress(&mut self, report: &impl Serialize, snapshot: impl FnOnce() -> Snapshot) {
        match self.progress {
            Progress::Json => self.lines.write(|| json_line(report)),
            Progress::Auto => self.live.show(snapshot()),
            Progress::None => {}
        }
    }

    /// The final report, to whose JSON the keys of [`RunInfo`] are added. Both standard output and
    /// the file are written, whatever happens to the other.
    ///
    /// # Errors
    /// One line when either cannot be written, or nobody reads it.
    pub fn finish(&mut self, report: &impl Serialize, text: impl Display) -> Result<(), String> {
        self.live.finish();
        let report = &Final {
            report,
            info: &self.info,
        };
        let is_json_printed = self.file.as_deref() == Some(Path::new(STDOUT));
        let printed = match self.progress {
            Progress::Json => self.lines.finish(&json_line(report)),
            _ if is_json_printed => self.lines.finish(&json_page(report)),
            Progress::Auto | Progress::None => self.lines.finish(format!("{text}\n").as_bytes()),
        };
        let written = match &self.file {
            Some(file) if !is_json_printed => self.write_file(file, &json_page(report)),
            _ => Ok(()),
        };
        written.and(printed.map_err(|e| format!("the final figures were not printed: {e}")))
    }

    fn write_file(&self, file: &Path, json: &[u8]) -> Result<(), String> {
        match &self.pipe {
            Some(pipe) => output::write_all(pipe.as_fd(), json, READER_WAIT),
            None => std::fs::write(file, json),
        }
        .map_err(|e| format!("cannot write {} ({e}); next: free space", file.display()))
    }
}

/// A final report.
#[derive(Serialize)]
struct Final<'a, R> {
    #[serde(flatten)]
    report: &'a R,
    #[serde(flatten)]
    info: &'a RunInfo,
}

/// Counts for people, a line for each that occurred, each on a new one.
pub fn write_counts(text: &mut String, groups: &[(&str, &BTreeMap<String, u64>)]) {
    for (what, counts) in groups {
        for (name, count) in counts.iter().filter(|(_, n)| **n > 0) {
            *text += &format!("\n{what}: {name} {}", grouped(*count));
        }
    }
}

/// A report in one line.
fn json_line(report: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(report).expect("reports are plain data");
    line.push(b'\n');
    line
}

/// A report to be read by people too.
fn json_page(report: &impl Serialize) -> Vec<u8> {
    let mut page = serde_json::to_vec_pretty(report).expect("reports are plain data");
    page.push(b'\n');
    page
}
