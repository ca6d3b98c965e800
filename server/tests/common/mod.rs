//! Real processes for tests: starting them, reading their reports, ending them. The tests of server and client share this file.
//!
//! Invariants: a process ends with the value that stands for it, and with the test in any case; every wait is bounded.
//! The crate that includes this names its own program in `OWN_PROGRAM`.
#![allow(dead_code)] // Each package's tests use their part of it.

pub mod programs;

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_telemetry::wire::{ClientReport, HttpServerReport, ServerReport};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

/// The longest anything may take on a loaded machine. Nothing that works comes near it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `is_so`; fails the test when it does not become so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(
            since.elapsed() < PATIENCE,
            "did not happen in {PATIENCE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A program of this workspace, from the folder of this package's own; built if it is not there.
pub fn program(name: &str) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let folder = Path::new(crate::OWN_PROGRAM)
        .parent()
        .expect("a program lies in a folder");
    let path = folder.join(name);
    let _one_at_a_time = BUILDING.lock().unwrap_or_else(|e| e.into_inner());
    if !path.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .args(["build", "--locked", "--workspace", "--bin", name])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        build.arg("--target-dir").arg(
            folder
                .parent()
                .expect("a profile lies in the target folder"),
        );
        if folder.ends_with("release") {
            build.arg("--release");
        }
        assert!(
            build.status().expect("cargo runs").success(),
            "{name} was built"
        );
    }
    path
}

/// A running program and what it has said so far. Killed when dropped.
pub struct Running<R> {
    child: Child,
    said: Arc<(Mutex<Said<R>>, Condvar)>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Said<R> {
    reports: Vec<R>,
    errors: String,
    is_over: bool,
}

/// What a program left behind.
pub struct Outcome<R> {
    pub status: ExitStatus,
    pub reports: Vec<R>,
    pub errors: String,
}

impl<R: Clone> Outcome<R> {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The last report.
    pub fn last(&self) -> R {
        self.reports
            .last()
            .unwrap_or_else(|| panic!("no report: {}", self.errors))
            .clone()
    }

    /// Fails the test unless the program refused with code 2 and one line that has all of `parts`.
    pub fn assert_refused(&self, parts: &[&str]) {
        assert_eq!(self.code(), Some(2), "{}", self.errors);
        assert_eq!(
            self.errors.trim_end().lines().count(),
            1,
            "one line: {:?}",
            self.errors
        );
        for part in parts {
            assert!(self.errors.contains(part), "'{part}' in {:?}", self.errors);
        }
    }
}

impl<R: DeserializeOwned + Clone + Default + Send + 'static> Running<R> {
    /// Starts a command whose standard output is reports, a line each.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let said = Arc::new((Mutex::new(Said::default()), Condvar::new()));
        let (out, err) = (
            child.stdout.take().expect("piped"),
            child.stderr.take().expect("piped"),
        );
        let (for_out, for_err) = (Arc::clone(&said), Arc::clone(&said));
        let reading_out = std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let report = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                for_out.0.lock().unwrap().reports.push(report);
                for_out.1.notify_all();
            }
            for_out.0.lock().unwrap().is_over = true;
            for_out.1.notify_all();
        });
        let reading_err = std::thread::spawn(move || {
            for line in BufReader::new(err).lines().map_while(Result::ok) {
                let errors = &mut for_err.0.lock().unwrap().errors;
                errors.push_str(&line);
                errors.push('\n');
            }
        });
        Running {
            child,
            said,
            readers: vec![reading_out, reading_err],
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("the process is there");
    }

    /// Waits for a report that `is_it`, one that was made after this call unless an older one is it already.
    pub fn until(&self, what: &str, mut is_it: impl FnMut(&R) -> bool) -> R {
        let since = Instant::now();
        let mut said = self.said.0.lock().unwrap();
        let mut seen = said.reports.len().saturating_sub(1);
        loop {
            while seen < said.reports.len() {
                if is_it(&said.reports[seen]) {
                    return said.reports[seen].clone();
                }
                seen += 1;
            }
            assert!(!said.is_over, "ended before: {what}; {}", said.errors);
            assert!(
                since.elapsed() < PATIENCE,
                "did not happen in {PATIENCE:?}: {what}"
            );
            said = self
                .said
                .1
                .wait_timeout(said, Duration::from_millis(100))
                .unwrap()
                .0;
        }
    }

    /// A report made after this call.
    pub fn fresh(&self) -> R {
        let mut skip = true;
        self.until("a fresh report", move |_| {
            !std::mem::replace(&mut skip, false)
        })
    }

    /// Waits for the end.
    pub fn outcome(mut self) -> Outcome<R> {
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                break status;
            }
            assert!(since.elapsed() < PATIENCE, "still runs after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(10));
        };
        for reader in self.readers.drain(..) {
            reader
                .join()
                .expect("what a program prints on standard output are reports");
        }
        let mut said = self.said.0.lock().unwrap();
        Outcome {
            status,
            reports: std::mem::take(&mut said.reports),
            errors: std::mem::take(&mut said.errors),
        }
    }

    /// Asks for an end in order and waits for it.
    pub fn stop(self) -> Outcome<R> {
        self.signal(Signal::SIGTERM);
        self.outcome()
    }

    /// Memory of the process that is in RAM, bytes.
    pub fn rss_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it lives");
        let line = status
            .lines()
            .find(|l| l.starts_with("VmRSS:"))
            .expect("the kernel says");
        let kib: u64 = line
            .split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("a number");
        kib * 1024
    }

    /// Processor time of the process so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it lives");
        let after_name = stat.rsplit_once(") ").expect("a name in brackets").1;
        let fields: Vec<&str> = after_name.split(' ').collect();
        // utime and stime, proc(5): fields 14 and 15, in hundredths of a second.
        let ticks = |i: usize| fields[i].parse::<u64>().expect("a number");
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }
}

impl<R> Drop for Running<R> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A subcommand with reports on standard output, which ends with this test.
pub fn subcommand(name: &str, subcommand: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program(name));
    command
        .args([subcommand, "--progress", "json", "--die-with-parent"])
        .args(args);
    command
}

/// `program longconn` with reports on standard output, which ends with this test.
pub fn longconn(name: &str, args: &[&str]) -> Command {
    subcommand(name, "longconn", args)
}

/// What [`longconn`] adds to every command.
pub const LONGCONN_ARGS: [&str; 4] = ["longconn", "--progress", "json", "--die-with-parent"];

/// What one subcommand of the server reports.
pub trait Serving: DeserializeOwned + Clone + Default + Send + 'static {
    /// The subcommand.
    const SUBCOMMAND: &'static str;
    fn listen(&self) -> &[String];
    fn open_now(&self) -> u64;
}

impl Serving for ServerReport {
    const SUBCOMMAND: &'static str = "longconn";
    fn listen(&self) -> &[String] {
        &self.listen
    }
    fn open_now(&self) -> u64 {
        self.open_now
    }
}

impl Serving for HttpServerReport {
    const SUBCOMMAND: &'static str = "http";
    fn listen(&self) -> &[String] {
        &self.listen
    }
    fn open_now(&self) -> u64 {
        self.open_now
    }
}

/// A server on a free port, listening; the report says which.
pub struct ServerOf<R: Serving> {
    pub running: Running<R>,
    pub address: SocketAddr,
}

/// One that holds long connections.
pub type Server = ServerOf<ServerReport>;

impl<R: Serving> ServerOf<R> {
    pub fn start(args: &[&str]) -> Self {
        let mut command = subcommand("holdfast-server", R::SUBCOMMAND, args);
        command.args(["--listen", "127.0.0.1:0"]);
        Self::run(command)
    }

    pub fn run(command: Command) -> Self {
        let running = Running::<R>::start(command);
        let first = running.until("the first line", |_| true);
        let address = first.listen()[0].parse().expect("an address");
        ServerOf { running, address }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream
    }

    pub fn until_open(&self, count: u64) -> R {
        self.running
            .until(&format!("{count} open"), |r| r.open_now() == count)
    }
}

/// A client started with the arguments.
pub fn client(target: SocketAddr, args: &[&str]) -> Running<ClientReport> {
    let mut command = longconn("holdfast-client", args);
    command.args(["--target", &target.to_string()]);
    Running::start(command)
}

/// Runs something that is expected to refuse.
pub fn refusal(name: &str, args: &[&str]) -> Outcome<ServerReport> {
    Running::start(longconn(name, args)).outcome()
}

/// Reads to the peer's end; an error if the end is a reset.
pub fn read_to_end(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes)
}

/// A folder for one test, removed with the value.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("holdfast-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("plain text").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Numbers that look random and come again for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

/// Sum of a report's counts by name.
pub fn sum(counts: &std::collections::BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

/// One count by name, 0 if it did not occur.
pub fn count(counts: &std::collections::BTreeMap<String, u64>, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or(0)
}

/// Connections of `ended` that were open to the end of the run. On a loaded machine a message may come after its interval, and the
/// connection is counted as `missed_message`; a test that is not about lateness asks for both.
pub fn kept(ended: &std::collections::BTreeMap<String, u64>) -> u64 {
    count(ended, "held") + count(ended, "missed_message")
}

/// A loopback address of this test's own, so that tests at the same time never meet on a port.
pub fn own_address() -> IpAddr {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) % 250 + 1;
    let [_, _, high, low] = std::process::id().to_be_bytes();
    [127, high | 128, low, number as u8].into()
}

/// What a program says on its way in a network namespace that is as the kernel makes it, ended after two seconds.
pub fn said_in_a_new_network(name: &str, args: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args(["--signal=INT", "--kill-after=20", "2", "unshare", "--net"]);
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let output = command
        .arg(program(name))
        .args(args)
        .output()
        .expect("timeout runs");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
