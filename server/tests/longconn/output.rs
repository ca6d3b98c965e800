//! Where a server's words go when nobody reads them, a disk is full or its terminal is gone.

use std::fs::File;
use std::io::Read;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdfast_telemetry::run_info::RunInfo;
use holdfast_telemetry::wire::ServerReport;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{own_address, program, until};

/// A server that listens, started by `prefix` if that is not empty.
fn start(prefix: &[&str], args: &[&str], stdout: Stdio, stderr: Stdio) -> (Child, String) {
    let address = format!("{}:7071", own_address());
    let server = program("holdfast-server");
    let server = server.to_str().expect("a path in UTF-8");
    let words = [prefix, &[server, "longconn", "--die-with-parent"]].concat();
    let child = Command::new(words[0])
        .args(&words[1..])
        .args(["--listen", &address, "--connections", "10"])
        .args(["--interval", "100ms"])
        .args(args)
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .expect("starts");
    // The port is open before the engine runs and signals are handled; the first message comes
    // afterwards.
    until("a message comes", || {
        let peer = TcpStream::connect(&address).ok();
        peer.is_some_and(|mut peer| peer.read_exact(&mut [0; 2]).is_ok())
    });
    (child, address)
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).expect("it runs");
}

fn text(mut out: impl Read) -> String {
    let mut text = String::new();
    out.read_to_string(&mut text).expect("text");
    text
}

#[test]
fn full_disk_under_standard_output_is_an_error() {
    for progress in ["auto", "json", "none"] {
        let full = File::options().write(true).open("/dev/full");
        let full = Stdio::from(full.expect("/dev/full"));
        let args = ["--progress", progress];
        let (mut child, _) = start(&[], &args, full, Stdio::piped());
        send(&child, Signal::SIGTERM);
        let errors = text(child.stderr.take().expect("piped"));
        let status = child.wait().expect("our child");
        assert_eq!(status.code(), Some(2), "{progress}: {errors}");
        assert!(
            errors.contains("cannot write to standard output (No space left"),
            "{progress}: {errors}"
        );
    }
}

#[test]
fn reader_of_standard_error_that_goes_away_ends_nothing() {
    let (mut child, address) = start(&[], &[], Stdio::piped(), Stdio::piped());
    drop(child.stderr.take());
    // Another phase, and so a line on standard error.
    let peer = TcpStream::connect(address).expect("it listens");
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(child.try_wait().expect("our child"), None, "it still runs");
    drop(peer);
    send(&child, Signal::SIGTERM);
    let figures = text(child.stdout.take().expect("piped"));
    assert!(child.wait().expect("our child").success());
    assert!(figures.contains("accepted "), "{figures}");
}

#[test]
fn hangup_without_a_terminal_ends_with_final_figures() {
    let args = ["--progress", "none"];
    let (mut child, _) = start(&[], &args, Stdio::piped(), Stdio::null());
    send(&child, Signal::SIGHUP);
    let figures = text(child.stdout.take().expect("piped"));
    assert!(child.wait().expect("our child").success());
    assert!(figures.contains("accepted "), "{figures}");
}

#[test]
fn hangup_that_was_ignored_at_the_start_stays_ignored() {
    let args = ["--progress", "none"];
    let (mut child, address) = start(&["nohup"], &args, Stdio::piped(), Stdio::null());
    send(&child, Signal::SIGHUP);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(child.try_wait().expect("our child"), None, "it still runs");
    TcpStream::connect(address).expect("it still listens");
    send(&child, Signal::SIGTERM);
    assert!(child.wait().expect("our child").success());
}

#[test]
fn dash_as_json_file_is_standard_output() {
    let before = std::fs::read_dir(".").expect("a folder").count();
    let args = ["--progress", "none", "--json", "-"];
    let (mut child, _) = start(&[], &args, Stdio::piped(), Stdio::null());
    send(&child, Signal::SIGTERM);
    let json = text(child.stdout.take().expect("piped"));
    assert!(child.wait().expect("our child").success());
    let report: ServerReport = serde_json::from_str(&json).expect("JSON and nothing else");
    assert!(report.is_final && report.accepted > 0, "{report:?}");
    let info: RunInfo = serde_json::from_str(&json).expect("what was asked for is beside it");
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.options["interval"], ["100ms"]);
    assert_eq!(info.options["message"], ["ok"], "defaults too");
    assert!(info.command.iter().any(|word| word == "--json"));
    assert!(info.started_at.ends_with('Z') && !info.commit.is_empty());
    assert!(info.machine.core_count > 0 && !info.machine.kernel.is_empty());
    assert_eq!(std::fs::read_dir(".").expect("a folder").count(), before);
}
