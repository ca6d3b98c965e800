//! Real processes for tests: starting them, reading their reports, ending them. The tests of server
//! and client share this file.
//!
//! Invariants: a process ends with the value that stands for it, and with the test in any case;
//! every wait is bounded. The crate that includes this names its own program in `OWN_PROGRAM`.
#![allow(dead_code)] // Each package's tests use their part of it.

pub mod programs;
pub mod service;

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use holdfast_telemetry::wire::{ClientReport, HttpServerReport, ServerReport};
pub use holdfast_testbed::running::{Outcome, PATIENCE, Report, Running, until};

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
pub trait Serving: Report {
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

/// Connections of `ended` that were open to the end of the run. On a loaded machine a message may
/// come after its interval, and the connection is counted as `missed_message`; a test that is not
/// about lateness asks for both.
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

/// What a program says on its way in a network namespace that is as the kernel makes it, ended
/// after two seconds.
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
