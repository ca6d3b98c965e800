//! What a fault-injection test stands on: hosts on a bridge, our programs with their reports, the
//! kernel's own counts, and the checks that hold after every fault.
//!
//! Invariants: every wait is bounded; a promise that is not kept is a panic, which the caller turns
//! into the test's line.
//! Must not depend on: which fault is injected.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_telemetry::proc::snmp;
use holdfast_telemetry::units::total;
use holdfast_telemetry::wire::{ClientReport, HttpClientReport, HttpServerReport, ServerReport};
use holdfast_testbed::network::Network;
use holdfast_testbed::network::host::Host;
use holdfast_testbed::network::layout::{BACKEND, Layout};
use holdfast_testbed::running::{Report, Running, until_within};

use crate::Args;

pub type Server = Running<ServerReport>;
pub type Client = Running<ClientReport>;
pub type HttpServer = Running<HttpServerReport>;
pub type HttpClient = Running<HttpClientReport>;

pub const PORT: u16 = 7070;
pub const HTTP_PORT: u16 = 8080;
/// The host of clients.
pub const CLIENT: &str = "client1";
/// What the hosts' settings are scaled to, unless a test has more users.
const USERS_DEFAULT: u64 = 300_000;
/// How long users of tens of thousands of connections may take to open or to end.
const OPEN_MAX: Duration = Duration::from_secs(120);

/// What the tests of this process saw, for their line.
static FIGURES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes what was seen.
pub fn saw(text: String) {
    let mut figures = FIGURES.lock().unwrap_or_else(PoisonError::into_inner);
    figures.push(text);
}

/// What was seen so far.
pub fn figures() -> String {
    let figures = FIGURES.lock().unwrap_or_else(PoisonError::into_inner);
    figures.join("; ")
}

/// Panics unless all `values` are the same.
#[track_caller]
pub fn same<T: PartialEq + Debug>(what: &str, values: &[T]) {
    let is_same = values.windows(2).all(|pair| pair[0] == pair[1]);
    assert!(is_same, "{what}: {values:?}");
}

pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub fn pause(count: u64) {
    std::thread::sleep(seconds(count));
}

/// One count by name, 0 if it did not occur.
pub fn count(counts: &BTreeMap<String, u64>, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or(0)
}

/// A report that says how many connections are open.
pub trait Holds: Report {
    fn open_now(&self) -> u64;
}

macro_rules! holds {
    ($($report:ty)*) => { $(impl Holds for $report {
        fn open_now(&self) -> u64 {
            self.open_now
        }
    })* };
}
holds!(ServerReport ClientReport HttpServerReport HttpClientReport);

/// Waits until exactly `wanted` connections are open.
#[track_caller]
pub fn open<R: Holds>(program: &Running<R>, wanted: u64) -> R {
    let what = format!("{wanted} open");
    program.until_within(OPEN_MAX, &what, |r| r.open_now() == wanted)
}

/// Ends a program by SIGTERM; its exit code.
#[track_caller]
pub fn stop<R: Report>(program: &mut Running<R>) -> Option<i32> {
    program.terminated(seconds(60))
}

/// Kills a program.
#[track_caller]
pub fn kill<R: Report>(program: &mut Running<R>) {
    program.signal(nix::sys::signal::Signal::SIGKILL);
    program.ended(OPEN_MAX);
}

/// Waits until a server has nobody left, and ends it.
#[track_caller]
pub fn drain<R: Holds>(server: &mut Running<R>) -> Option<i32> {
    open(server, 0);
    stop(server)
}

/// Two hosts and our programs.
pub struct Stage<'a> {
    pub args: &'a Args,
    pub bin_dir: PathBuf,
    network: Network,
    sockets_before: [u64; 2],
}

impl<'a> Stage<'a> {
    pub fn new(bin_dir: &Path, args: &'a Args) -> Result<Self, String> {
        let layout = Layout::new(1, 16).map_err(|e| e.to_string())?;
        let users = args.users.unwrap_or(0).max(USERS_DEFAULT);
        let network = Network::build(layout, users).map_err(|e| e.to_string())?;
        let bin_dir = bin_dir.canonicalize().map_err(|e| e.to_string())?;
        let mut stage = Self {
            args,
            bin_dir,
            network,
            sockets_before: [0; 2],
        };
        stage.sockets_before = stage.sockets();
        Ok(stage)
    }

    pub fn backend(&self) -> &Host {
        self.network.host(BACKEND)
    }

    pub fn clients(&self) -> &Host {
        self.network.host(CLIENT)
    }

    /// A command on a host. `words` are the program and its arguments.
    pub fn on(&self, host: &Host, words: &[&str]) -> Command {
        let mut command = Command::new(&self.network.ip);
        command.args(["netns", "exec", &host.name]).args(words);
        command
    }

    /// Runs a short command to its success; its output.
    #[track_caller]
    pub fn run(&self, host: &Host, line: &str) -> String {
        let words: Vec<_> = line.split(' ').collect();
        let output = self.on(host, &words).output().expect("ip starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Sets a kernel setting of a host.
    #[track_caller]
    pub fn set(&self, host: &Host, key: &str, value: &str) {
        let set = || holdfast_sysctl::values::write(key, value);
        let done = host.inside(set).expect("the host is there");
        done.unwrap_or_else(|e| panic!("{key}: {e}"));
    }

    /// One of our programs on a host, behind `before`, with reports on standard output. `line` is
    /// its command line.
    pub fn program(&self, host: &Host, before: &[&str], line: &str) -> Command {
        let (name, args) = line.split_once(' ').expect("a program and its subcommand");
        let path = self.bin_dir.join(name).display().to_string();
        let ip = self.network.ip.display().to_string();
        let enter = [&*ip, "netns", "exec", &host.name, &path];
        let args: Vec<_> = args.split_whitespace().collect();
        // Before the host is entered: `ip` hides the control groups there.
        let words = [before, &enter, &args, &["--progress", "json"]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    }

    /// `holdfast-server longconn` on the backend, listening. `args` are words between spaces.
    pub fn server(&self, args: &str) -> Server {
        self.server_behind(&[], args)
    }

    /// The same, started by `before`.
    pub fn server_behind(&self, before: &[&str], args: &str) -> Server {
        let line = format!("holdfast-server longconn --listen 0.0.0.0:{PORT} {args}");
        let server: Server = Running::start(self.program(self.backend(), before, &line));
        server.until("listening", |r| !r.listen.is_empty());
        server
    }

    /// `holdfast-server http` on the backend, listening.
    pub fn http_server(&self, args: &str) -> HttpServer {
        let line = format!("holdfast-server http --listen 0.0.0.0:{HTTP_PORT} {args}");
        let server: HttpServer = Running::start(self.program(self.backend(), &[], &line));
        server.until("listening", |r| !r.listen.is_empty());
        server
    }

    /// Where clients find a port of the backend.
    pub fn target(&self, port: u16) -> String {
        self.backend().at(port).to_string()
    }

    /// `holdfast-client longconn` on the client host.
    pub fn client(&self, args: &str) -> Client {
        self.client_behind(&[], args)
    }

    /// The same, started by `before`.
    pub fn client_behind(&self, before: &[&str], args: &str) -> Client {
        let line = format!(
            "holdfast-client longconn --target {} {args}",
            self.target(PORT)
        );
        Running::start(self.program(self.clients(), before, &line))
    }

    /// `holdfast-client http` on the client host.
    pub fn http_client(&self, args: &str) -> HttpClient {
        let target = self.target(HTTP_PORT);
        let line = format!("holdfast-client http --target http://{target}/ {args}");
        Running::start(self.program(self.clients(), &[], &line))
    }

    /// One address of the client host, by its number.
    pub fn source(&self, number: usize) -> String {
        self.clients().addresses[number].to_string()
    }

    /// A counter of `Tcp` or `TcpExt` on a host.
    pub fn counter(&self, host: &Host, name: &str) -> u64 {
        let read = |file: &str, group| {
            let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
            snmp(&text.unwrap_or_default(), group)
        };
        let all = host.inside(|| (read("snmp", "Tcp"), read("netstat", "TcpExt")));
        let (tcp, ext) = all.expect("the host is there");
        tcp.get(name).or(ext.get(name)).copied().unwrap_or(0)
    }

    /// Panics unless client, server and both kernels count `wanted` connections.
    #[track_caller]
    pub fn assert_open(&self, client: u64, server: u64, wanted: u64) {
        let kernels = [self.backend(), self.clients()].map(|host| host.kernel().established);
        let counts = [client, server, kernels[0], kernels[1], wanted];
        same("client, server, both kernels and wanted", &counts);
    }

    fn sockets(&self) -> [u64; 2] {
        [self.backend(), self.clients()].map(|host| host.kernel().tcp_inuse)
    }

    /// Panics unless both kernels have as many sockets as at the start. A socket in TIME_WAIT is
    /// none.
    #[track_caller]
    pub fn assert_quiet(&self) {
        until_within(seconds(120), "sockets as at the start", || {
            self.sockets() == self.sockets_before
        });
    }
}

/// The accounts of both ends after their end: every attempt, every connection and every message is
/// in one class.
#[track_caller]
pub fn assert_accounts(client: &ClientReport, server: &ServerReport) {
    assert!(
        client.is_final && server.is_final,
        "both leave a final report"
    );
    same(
        "attempts, opened + failed",
        &[client.attempts, client.opened + total(&client.failed)],
    );
    same("opened, ended", &[client.opened, total(&client.ended)]);
    same(
        "accepted, closed",
        &[server.accepted, total(&server.closed)],
    );
    same("no slot is left", &[server.open_now, client.open_now, 0]);
    same("wrong messages", &[client.messages_wrong, 0]);
    assert_expected(&client.anomalies);
    assert_expected(&server.anomalies);
}

/// Panics if something happened that should not.
#[track_caller]
pub fn assert_expected(anomalies: &BTreeMap<String, u64>) {
    same("unexpected", &[count(anomalies, "unexpected"), 0]);
}

/// The accounts of an HTTP client after its end.
#[track_caller]
pub fn assert_requests(client: &HttpClientReport) {
    same(
        "requests, outcomes",
        &[client.requests, total(&client.outcomes)],
    );
    let ends = client.opened + total(&client.failed);
    same("attempts, opened + failed", &[client.attempts, ends]);
}

/// Panics if a request failed.
#[track_caller]
pub fn assert_none_failed(client: &HttpClientReport) {
    let mut outcomes = client.outcomes.clone();
    outcomes.retain(|name, n| *n > 0 && !["ok", "stopped"].contains(&name.as_str()));
    assert!(outcomes.is_empty(), "requests failed: {outcomes:?}");
}

/// Counts without those that are zero.
pub fn shown(counts: &BTreeMap<String, u64>) -> impl Display + use<> {
    let parts = counts.iter().filter(|(_, n)| **n > 0);
    let parts: Vec<_> = parts.map(|(name, n)| format!("{name} {n}")).collect();
    parts.join(", ")
}
