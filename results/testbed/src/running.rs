//! A program of ours that runs, and the reports it has printed so far: what tests with real
//! processes stand on.
//!
//! Purpose: start a program with `--progress json`, wait for a report that fulfils a condition, end
//! the program, read its last report.
//! Invariants: every wait is bounded and fails by a panic, which is how a test fails. The process
//! is killed when the value is dropped. A line on standard output that is no report is a panic too.
//! Must not depend on: what is tested.

use std::fmt::Debug;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_telemetry::proc::ProcessSample;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use serde::de::DeserializeOwned;

/// The longest any wait may take on a loaded machine. Nothing that works comes near it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `is_so`; panics when that takes longer than `limit`.
#[track_caller]
pub fn until_within(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// [`until_within`] the longest anything may take.
#[track_caller]
pub fn until(what: &str, is_so: impl FnMut() -> bool) {
    until_within(PATIENCE, what, is_so);
}

/// A report of one of our programs.
pub trait Report: DeserializeOwned + Clone + Default + Debug + Send + 'static {}
impl<R: DeserializeOwned + Clone + Default + Debug + Send + 'static> Report for R {}

/// A running program and what it has printed so far.
#[derive(Debug)]
pub struct Running<R> {
    child: Child,
    name: String,
    printed: Arc<(Mutex<Printed<R>>, Condvar)>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Printed<R> {
    reports: Vec<R>,
    errors: String,
    is_over: bool,
}

/// What a program left behind.
#[derive(Debug)]
pub struct Outcome<R> {
    /// How it ended.
    pub status: ExitStatus,
    /// Every report, in order.
    pub reports: Vec<R>,
    /// Its standard error.
    pub errors: String,
}

impl<R: Clone> Outcome<R> {
    /// The exit code; `None` when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The last report.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn last(&self) -> R {
        let last = self.reports.last();
        last.unwrap_or_else(|| panic!("no report: {}", self.errors))
            .clone()
    }

    /// Panics unless the program refused with code 2 and one line that has all of `parts`.
    #[track_caller]
    pub fn assert_refused(&self, parts: &[&str]) {
        assert_eq!(self.code(), Some(2), "{}", self.errors);
        let lines = self.errors.trim_end().lines().count();
        assert_eq!(lines, 1, "one line: {:?}", self.errors);
        for part in parts {
            assert!(self.errors.contains(part), "'{part}' in {:?}", self.errors);
        }
    }
}

fn lock<R>(printed: &(Mutex<Printed<R>>, Condvar)) -> MutexGuard<'_, Printed<R>> {
    printed.0.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<R: Report> Running<R> {
    /// Starts a command whose standard output is reports, one each line.
    #[must_use]
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let printed = Arc::new((Mutex::new(Printed::default()), Condvar::new()));
        let mut readers = Vec::new();
        if let Some(out) = child.stdout.take() {
            let printed = Arc::clone(&printed);
            readers.push(std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    let report =
                        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                    lock(&printed).reports.push(report);
                    printed.1.notify_all();
                }
                lock(&printed).is_over = true;
                printed.1.notify_all();
            }));
        }
        if let Some(err) = child.stderr.take() {
            let printed = Arc::clone(&printed);
            readers.push(std::thread::spawn(move || {
                for line in BufReader::new(err).lines().map_while(Result::ok) {
                    let errors = &mut lock(&printed).errors;
                    errors.push_str(&line);
                    errors.push('\n');
                }
            }));
        }
        Self {
            child,
            name: format!("{command:?}"),
            printed,
            readers,
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sets the soft limit of descriptors of the running program.
    #[track_caller]
    pub fn limit_descriptors(&self, soft: u64) {
        // It inherited the hard limit from this process.
        let limit = Rlimit {
            current: Some(soft),
            ..getrlimit(Resource::Nofile)
        };
        let pid = rustix::process::Pid::from_child(&self.child);
        prlimit(Some(pid), Resource::Nofile, limit).expect("the process is there");
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("process ids are small");
        kill(Pid::from_raw(pid), signal).expect("the process is there");
    }

    /// The last report so far; the default when there is none yet.
    #[must_use]
    pub fn last(&self) -> R {
        lock(&self.printed)
            .reports
            .last()
            .cloned()
            .unwrap_or_default()
    }

    /// Its standard error so far.
    #[must_use]
    pub fn errors(&self) -> String {
        lock(&self.printed).errors.clone()
    }

    /// Waits for a report that `is_it`, one that is made after this call unless the last one is it
    /// already.
    #[track_caller]
    pub fn until(&self, what: &str, is_it: impl FnMut(&R) -> bool) -> R {
        self.until_within(PATIENCE, what, is_it)
    }

    /// [`Running::until`] with a limit of its own.
    #[track_caller]
    pub fn until_within(
        &self,
        limit: Duration,
        what: &str,
        mut is_it: impl FnMut(&R) -> bool,
    ) -> R {
        let since = Instant::now();
        let mut printed = lock(&self.printed);
        let mut seen = printed.reports.len().saturating_sub(1);
        loop {
            while let Some(report) = printed.reports.get(seen) {
                if is_it(report) {
                    return report.clone();
                }
                seen += 1;
            }
            let (last, errors) = (printed.reports.last(), &printed.errors);
            let state = || format!("{what}; {} {errors} {last:?}", self.name);
            assert!(!printed.is_over, "ended before: {}", state());
            assert!(since.elapsed() < limit, "not within {limit:?}: {}", state());
            let wait = Duration::from_millis(100);
            let waited = self.printed.1.wait_timeout(printed, wait);
            printed = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A report that is made after this call.
    #[track_caller]
    pub fn fresh(&self) -> R {
        let mut is_old = true;
        self.until("a fresh report", move |_| {
            !std::mem::replace(&mut is_old, false)
        })
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our child")
    }

    /// Waits for its end and for everything it printed.
    #[track_caller]
    pub fn ended(&mut self, limit: Duration) -> ExitStatus {
        until_within(limit, &format!("the end of {}", self.name), || {
            self.exit_status().is_some()
        });
        for reader in self.readers.drain(..) {
            reader
                .join()
                .expect("what a program prints on standard output are reports");
        }
        self.exit_status().expect("it has ended")
    }

    /// Sends SIGTERM and waits for the end; its exit code.
    #[track_caller]
    pub fn terminated(&mut self, limit: Duration) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.ended(limit).code()
    }

    /// Waits for the end.
    #[must_use]
    #[track_caller]
    pub fn outcome(mut self) -> Outcome<R> {
        let status = self.ended(PATIENCE);
        let mut printed = lock(&self.printed);
        Outcome {
            status,
            reports: std::mem::take(&mut printed.reports),
            errors: std::mem::take(&mut printed.errors),
        }
    }

    /// Sends SIGTERM and waits for the end.
    #[track_caller]
    pub fn stop(self) -> Outcome<R> {
        self.signal(Signal::SIGTERM);
        self.outcome()
    }

    /// What the process uses now.
    #[must_use]
    #[track_caller]
    pub fn sample(&self) -> ProcessSample {
        ProcessSample::read(self.pid()).expect("it lives")
    }

    /// Memory of the process that is in RAM, bytes.
    #[must_use]
    #[track_caller]
    pub fn rss_bytes(&self) -> u64 {
        self.sample().rss_bytes
    }

    /// CPU time of the process so far.
    #[must_use]
    #[track_caller]
    pub fn cpu(&self) -> Duration {
        Duration::from_secs_f64(self.sample().cpu_seconds())
    }
}

impl<R> Drop for Running<R> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
