//! What server and client have in common as programs: signals, the one-second tick, where reports go, how errors are said.
//!
//! Invariants: an error of usage or set-up is one line on standard error and exit code 2; standard output carries reports only;
//! a closed standard output ends nothing, and one that nobody reads delays nothing but the end, for a bounded time.
//! Must not know: engines, protocols, what a report contains.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
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

use crate::live::{Live, LiveFlags, Snapshot, has_room};
use crate::signals::Signals;

/// Exit code of errors of usage and set-up.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of a run that fell short.
pub const EXIT_SHORT: u8 = 1;

/// How long the last report waits for a reader of standard output that has stopped reading, milliseconds.
const LAST_WAIT_MS: u16 = 10_000;

/// How a program shows its progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Progress {
    /// A line or a page on a terminal, now and then a line elsewhere.
    #[default]
    Auto,
    /// One JSON report a line, every second, on standard output.
    Json,
    /// Nothing until the end.
    None,
}

/// Says one error in one line and gives the exit code for it.
pub fn refuse(error: &dyn Display) -> ExitCode {
    eprintln!("error: {}", error.to_string().replace('\n', " "));
    ExitCode::from(EXIT_USAGE)
}

/// Asks the kernel to end this process when its parent ends, and ends it now if that has already happened.
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
}

/// Ticks and signals, for a tokio runtime.
pub struct Events {
    interval: Interval,
    stops: Signals,
}

impl Events {
    /// Listens for signals and starts ticking. Inside a runtime. Where `console` has a terminal to give back, SIGHUP and SIGQUIT end the
    /// run in order too; elsewhere they do what they did, which nohup relies on.
    pub fn new(console: &Console) -> io::Result<Self> {
        let mut interval = interval(Duration::from_millis(100));
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
        if console.live.is_on_terminal() {
            kinds.extend([SignalKind::hangup(), SignalKind::quit()]);
        }
        Ok(Events {
            interval,
            stops: Signals::listen(&kinds)?,
        })
    }

    /// The next event; what `console` draws and reads is done on the way.
    pub async fn next(&mut self, console: &mut Console) -> Event {
        tokio::select! {
            () = self.stops.next() => Event::Stop,
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
    /// How progress is shown
    #[arg(long, value_enum, default_value_t, conflicts_with_all = ["live", "quiet"])]
    progress: Progress,
    #[command(flatten)]
    live: LiveFlags,
    /// Write the final figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Where reports go.
#[derive(Debug)]
pub struct Console {
    progress: Progress,
    file: Option<PathBuf>,
    /// The file, if it is a pipe: opened once, so that its reader sees one end.
    pipe: Option<File>,
    live: Live,
}

impl Console {
    /// A console. The file is made now, so that a run is not lost to a folder that cannot be written.
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
        if let Some(file) = file {
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
            file: file.map(Path::to_owned),
            pipe,
            live,
        })
    }

    /// A remark before or after a run, for people.
    pub fn say(&mut self, text: impl Display) {
        self.live.say(text);
    }

    /// A report on the way; `snapshot` is what people see of it. Called once a second. Left out when nobody reads: the next one says
    /// it all again.
    pub fn progress(&mut self, report: &impl Serialize, snapshot: impl FnOnce() -> Snapshot) {
        match self.progress {
            Progress::Json if has_room(&io::stdout(), 0) => print_json(report),
            Progress::Auto => self.live.show(snapshot()),
            Progress::Json | Progress::None => {}
        }
    }

    /// The last report.
    ///
    /// # Errors
    /// One line when the file cannot be written, the report being printed all the same; or when nobody reads what is printed, the
    /// file being written all the same.
    pub fn finish(&mut self, report: &impl Serialize, text: impl Display) -> Result<(), String> {
        self.live.finish();
        let is_read = self.progress == Progress::None || has_room(&io::stdout(), LAST_WAIT_MS);
        match self.progress {
            _ if !is_read => {}
            Progress::Json => print_json(report),
            Progress::Auto => {
                // Whoever read this has gone, with a terminal that was closed for instance.
                let _ = writeln!(io::stdout(), "{text}");
            }
            Progress::None => {}
        }
        if let Some(file) = &self.file {
            let mut json = serde_json::to_string_pretty(report).expect("reports are plain data");
            json.push('\n');
            let written = match &mut self.pipe {
                Some(pipe) => pipe.write_all(json.as_bytes()),
                None => std::fs::write(file, json),
            };
            written
                .map_err(|e| format!("cannot write {} ({e}); next: free space", file.display()))?;
        }
        if is_read {
            return Ok(());
        }
        Err(
            "nobody reads standard output, the final figures were not printed; next: --json FILE"
                .to_owned(),
        )
    }
}

/// Counts for people, a line for each that occurred, each on a new one.
pub fn say_counts(text: &mut String, groups: &[(&str, &BTreeMap<String, u64>)]) {
    for (what, counts) in groups {
        for (name, count) in counts.iter().filter(|(_, n)| **n > 0) {
            *text += &format!("\n{what}: {name} {}", grouped(*count));
        }
    }
}

fn print_json(report: &impl Serialize) {
    let mut line = serde_json::to_string(report).expect("reports are plain data");
    line.push('\n');
    let mut out = io::stdout().lock();
    // Whoever read this has gone; the run goes on, and says so by its exit code.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}
