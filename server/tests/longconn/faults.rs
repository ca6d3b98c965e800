//! Faults around a running server: nobody reads what it says, its files cannot be written, its
//! limits fall, it stands still. At full size and in the network: `make faults`,
//! engine/RELIABILITY.md.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast_telemetry::wire::ServerReport;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo, pipe};

use crate::common::{
    Folder, Outcome, PATIENCE, Running, Server, client, count, longconn, own_address, program, sum,
    until,
};

#[test]
fn unread_standard_output_delays_neither_heartbeats_nor_shutdown() {
    let folder = Folder::new("deaf");
    let file = folder.file("figures.json");
    let (unread, full) = pipe().expect("a pipe");
    // Filled to the last byte: whatever is written next would wait for ever.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&full));
    let mut filling = OpenOptions::new()
        .write(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .expect("the same pipe");
    while filling.write(&[b'\n'; 4_096]).is_ok() {}
    let address = format!("{}:7070", own_address());
    let mut server = Command::new(program("holdfast-server"))
        .args(["longconn", "--progress", "json", "--die-with-parent"])
        .args(["--listen", &address, "--connections", "10"])
        .args(["--every", "200ms", "--json", &file])
        .stdout(Stdio::from(full))
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut peer = None;
    until("it listens", || {
        peer = TcpStream::connect(&address).ok();
        peer.is_some()
    });
    let mut peer = peer.expect("connected");
    peer.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    // Three seconds of beats: three reports nobody reads.
    let mut beats = [0; 2 * 15];
    peer.read_exact(&mut beats).expect("beats come");
    drop(peer);
    kill(Pid::from_raw(server.id() as i32), Signal::SIGTERM).expect("it runs");
    let mut errors = String::new();
    let mut stderr = server.stderr.take().expect("piped");
    stderr.read_to_string(&mut errors).expect("text");
    let status = server.wait().expect("our child");
    assert_eq!(status.code(), Some(2), "{errors}");
    assert!(errors.contains("nobody reads standard output"), "{errors}");
    let report: ServerReport =
        serde_json::from_str(&std::fs::read_to_string(file).expect("written")).expect("a report");
    assert!(report.is_final && report.messages_sent >= 15, "{report:?}");
    drop(unread);
}

/// A server told to write its figures to `file`, which has held nothing; asked to end when it
/// listens.
fn figures_to(file: &str) -> Outcome<ServerReport> {
    let args = ["--listen", "127.0.0.1:0", "--connections", "10"];
    let mut command = longconn("holdfast-server", &args);
    command.args(["--json", file]);
    let running = Running::start(command);
    running.until("listening", |_| true);
    running.stop()
}

#[test]
fn figures_go_into_a_pipe_that_is_read_and_one_that_is_not_is_refused() {
    let folder = Folder::new("pipe");
    let path = folder.file("figures");
    mkfifo(path.as_str(), Mode::S_IRWXU).expect("a named pipe");
    let args = ["--listen", "127.0.0.1:0", "--json", &path];
    let refused = Running::<ServerReport>::start(longconn("holdfast-server", &args)).outcome();
    refused.assert_refused(&[&path, "start the reader of this pipe first"]);

    // Open for both, so that neither end waits for the other.
    let mut reader = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .expect("the pipe");
    let outcome = figures_to(&path);
    assert_eq!(outcome.code(), Some(0), "{}", outcome.errors);
    let mut bytes = [0; 65_536];
    let length = reader.read(&mut bytes).expect("figures");
    let report: ServerReport = serde_json::from_slice(&bytes[..length]).expect("a whole report");
    assert!(report.is_final);
}

#[test]
fn figures_for_a_full_disk_are_printed_and_the_file_is_named() {
    let outcome = figures_to("/dev/full");
    assert!(outcome.last().is_final);
    assert_eq!(outcome.code(), Some(2));
    for part in ["/dev/full", "No space left", "next:"] {
        assert!(outcome.errors.contains(part), "{}", outcome.errors);
    }
}

#[test]
fn lowered_descriptor_limit_refuses_new_connections_until_raised() {
    let args = ["--connections", "2000", "--every", "500ms"];
    let server = Server::start(&[&args[..], &["--ring-slots", "300", "--threads", "1"]].concat());
    let source = own_address().to_string();
    let first = client(
        server.address,
        &["--users", "200", "--every", "500ms", "--source", &source],
    );
    server.until_open(200);
    server.running.limit_descriptors(8);
    let source = own_address().to_string();
    let more = ["--reconnect", "--reconnect-pause", "100ms"];
    let rest = client(
        server.address,
        &[
            &["--users", "1000", "--source", &source, "--every", "500ms"][..],
            &more,
        ]
        .concat(),
    );
    rest.until("some turned away", |r| sum(&r.ended) + sum(&r.failed) > 500);
    // 300 entries less the 32 spare ones: the one ring there is.
    assert_eq!(server.running.fresh().open_now, 268);
    assert_eq!(first.fresh().open_now, 200);
    server.running.limit_descriptors(4_096);
    server.until_open(1_200);
    let (first, rest) = (first.stop(), rest.stop());
    assert_eq!(
        (first.code(), count(&first.last().ended, "held")),
        (Some(0), 200)
    );
    let rest = rest.last();
    assert_eq!(rest.attempts, rest.opened + sum(&rest.failed), "{rest:?}");
    assert_eq!(rest.opened, sum(&rest.ended), "{rest:?}");
    let report = server.until_open(0);
    assert_eq!(report.accepted, sum(&report.closed), "{report:?}");
    // Turned away because no ring could be had: said, as what should not happen.
    assert!(count(&report.anomalies, "unexpected") > 0, "{report:?}");
}

#[test]
fn stopped_server_keeps_connections_and_reports_skipped_heartbeats() {
    let server = Server::start(&["--connections", "300", "--every", "200ms"]);
    let source = own_address().to_string();
    let args = ["--users", "200", "--every", "200ms", "--source", &source];
    let users = client(server.address, &args);
    server.until_open(200);
    server.running.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(2));
    server.running.signal(Signal::SIGCONT);
    let report = server.running.until("beats left out", |r| {
        count(&r.anomalies, "messages_skipped") > 0
    });
    assert_eq!(report.open_now, 200);
    let ours = users.stop().last();
    let theirs = server.running.stop().last();
    let kept = count(&ours.ended, "held") + count(&ours.ended, "missed_message");
    assert_eq!((ours.opened, kept), (200, 200), "{ours:?}");
    assert!(ours.messages_missed > 0, "{ours:?}");
    assert_eq!(ours.messages_received, theirs.messages_sent);
}
