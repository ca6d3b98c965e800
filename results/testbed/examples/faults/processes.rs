//! Faults of processes: killed, stopped for longer than the time-outs, nobody reads what they
//! print, clocks elsewhere, a full disk.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use holdfast_telemetry::proc::all_pids;
use holdfast_telemetry::units::total;
use holdfast_telemetry::wire::{ClientReport, ServerReport};
use holdfast_testbed::network::host::Host;
use holdfast_testbed::running::{Report, until_within};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill as send};
use nix::unistd::{Pid, pipe};

use crate::stage::{
    PORT, Stage, assert_accounts, assert_requests, count, drain, kill, open, pause, same, saw,
    seconds, shown, stop,
};

pub const KILLED: &str = "HTTP, the client is killed, then the server: places are free again, each request and connection is in one class, the next server is found";

pub fn killed(stage: &Stage) {
    const USERS: u64 = 5_000;
    let web = || stage.http_server("--connections 5000");
    let ask = || stage.http_client("--users 5000 --wait 200ms");
    let (mut server, mut client) = (web(), ask());
    open(&server, USERS);
    kill(&mut client);
    let since = Instant::now();
    let last = open(&server, 0);
    let free = since.elapsed().as_secs_f64();
    same("accepted, closed", &[last.accepted, total(&last.closed)]);
    client = ask();
    open(&client, USERS);
    kill(&mut server);
    open(&client, 0);
    server = web();
    let failed = client.until("a failure", |r| {
        total(&r.outcomes) > count(&r.outcomes, "ok")
    });
    let answered = count(&failed.outcomes, "ok");
    client.until("answers again", |r| {
        r.open_now == USERS && count(&r.outcomes, "ok") > answered
    });
    let code = stop(&mut client);
    drain(&mut server);
    let ours = client.last();
    assert_requests(&ours);
    same("exit code", &[code, Some(1)]);
    stage.assert_quiet();
    saw(format!(
        "client killed: {USERS} places free after {free:.1} s; server killed: {}, and the next one serves",
        shown(&ours.outcomes)
    ));
}

pub const STOPPED_SERVER: &str = "the server is stopped for 6 heartbeats: no connection is lost, newcomers get in afterwards, skipped heartbeats are those users missed; slow HTTP requests time out";

pub fn stopped_server(stage: &Stage) {
    const USERS: u64 = 10_000;
    let mut server = stage.server("--connections 20000 --interval 1s");
    let mut web = stage.http_server("");
    let mut client = stage.client("--users 10000 --interval 1s");
    let mut asking = stage.http_client("--users 500 --wait 100ms --timeout 2s");
    open(&client, USERS);
    open(&asking, 500);
    pause(2);
    server.signal(Signal::SIGSTOP);
    web.signal(Signal::SIGSTOP);
    let mut late = stage.client("--users 5000 --interval 1s");
    pause(6);
    server.signal(Signal::SIGCONT);
    web.signal(Signal::SIGCONT);
    open(&server, USERS + USERS / 2);
    open(&client, USERS);
    open(&late, USERS / 2);
    let asked = asking.until("time-outs", |r| count(&r.outcomes, "timed_out") > 0);
    let ok = count(&asked.outcomes, "ok");
    asking.until("answers again", |r| count(&r.outcomes, "ok") > ok + 1_000);
    pause(2);
    stop(&mut late);
    stop(&mut client);
    stop(&mut asking);
    drain(&mut server);
    drain(&mut web);
    let (ours, theirs, late, asked) = (client.last(), server.last(), late.last(), asking.last());
    same(
        "accepted, closed",
        &[theirs.accepted, total(&theirs.closed), USERS + USERS / 2],
    );
    let kept = count(&ours.ended, "held") + count(&ours.ended, "missed_message");
    same("none lost", &[kept, ours.opened, USERS]);
    same("newcomers", &[total(&late.ended), late.opened, USERS / 2]);
    let received = ours.messages_received + late.messages_received;
    same("messages sent, received", &[theirs.messages_sent, received]);
    let skipped = count(&theirs.anomalies, "messages_skipped");
    let missed = ours.messages_missed + late.messages_missed;
    assert!(
        missed.abs_diff(skipped) <= USERS / 2,
        "skipped {skipped}, missed {missed}"
    );
    assert_requests(&asked);
    stage.assert_quiet();
    saw(format!(
        "none of {USERS} lost, {} came meanwhile; {skipped} heartbeats skipped, {missed} missed; {} requests timed out",
        USERS / 2,
        count(&asked.outcomes, "timed_out")
    ));
}

pub const STOPPED_CLIENT: &str = "the client is stopped for longer than the server's idle time-out: each is closed as idle, the client counts each end when it wakes, all come back";

pub fn stopped_client(stage: &Stage) {
    const USERS: u64 = 10_000;
    let args = "--connections 10000 --interval 1s --idle-timeout 3s";
    let mut server = stage.server(args);
    let args = "--users 10000 --interval 1s --send up --send-interval 500ms --reconnect";
    let mut client = stage.client(args);
    open(&client, USERS);
    open(&server, USERS);
    client.signal(Signal::SIGSTOP);
    pause(8);
    let idle = count(&server.last().closed, "idle");
    same("the server closed each as idle", &[idle, USERS]);
    client.signal(Signal::SIGCONT);
    client.until("ends are counted and all are back", |r| {
        total(&r.ended) >= USERS && r.open_now == USERS
    });
    open(&server, USERS);
    stage.assert_open(client.last().open_now, server.last().open_now, USERS);
    stop(&mut client);
    drain(&mut server);
    assert_accounts(&client.last(), &server.last());
    stage.assert_quiet();
    saw(format!(
        "server: {}; client: {}",
        shown(&server.last().closed),
        shown(&client.last().ended)
    ));
}

pub const FULL_STDOUT: &str = "nobody reads standard output, the pipe is full: every heartbeat is in time, SIGTERM ends both gracefully, figures are in --json, exit code 2 and one line";

pub fn full_stdout(stage: &Stage) {
    const USERS: u64 = 10_000;
    let port = stage.target(PORT);
    let start = |host: &Host, line: &str, file: &str| -> (Child, OwnedFd) {
        let (reader, writer) = full_pipe();
        let line = format!("{line} --interval 500ms --json {file}");
        let mut command = stage.program(host, &[], &line);
        command
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped());
        (command.spawn().expect("starts"), reader)
    };
    let own = std::process::id();
    let files = ["server", "client"].map(|name| format!("/dev/shm/{own}-{name}.json"));
    let line = format!("holdfast-server longconn --listen {port} --connections 10000");
    let (server, _unread) = start(stage.backend(), &line, &files[0]);
    until_within(seconds(30), "listening", || {
        let line = format!("ss -Htln sport = :{PORT}");
        !stage.run(stage.backend(), &line).trim().is_empty()
    });
    let line = format!("holdfast-client longconn --target {port} --users 10000");
    let (client, _unread_too) = start(stage.clients(), &line, &files[1]);
    until_within(seconds(60), "all open", || {
        stage.backend().kernel().established == USERS
    });
    pause(10);
    let ended = [client, server].map(terminated);
    let reports = files
        .each_ref()
        .map(|file| fs::read_to_string(file).expect("a report"));
    for file in &files {
        let _ = fs::remove_file(file);
    }
    let (theirs, ours): (ServerReport, ClientReport) = (parsed(&reports[0]), parsed(&reports[1]));
    assert_accounts(&ours, &theirs);
    same("all held", &[count(&ours.ended, "held"), USERS]);
    same(
        "messages sent, received",
        &[theirs.messages_sent, ours.messages_received],
    );
    for (code, errors) in &ended {
        same("exit code", &[*code, Some(2)]);
        assert!(
            errors.contains("nobody reads standard output"),
            "one line: {errors}"
        );
    }
    let skipped = count(&theirs.anomalies, "messages_skipped");
    same("missed, skipped", &[ours.messages_missed, skipped, 0]);
    stage.assert_quiet();
    saw(format!(
        "{} messages, late by {:.1} ms (p99), exit codes {:?}",
        ours.messages_received,
        ours.lateness_us.p99 as f64 / 1e3,
        ended.map(|(code, _)| code)
    ));
}

/// A pipe that takes nothing more; its reading end is to be kept open.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = pipe().expect("a pipe");
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a flag");
    while nix::unistd::write(&writer, &[b'\n'; 4_096]) != Err(Errno::EAGAIN) {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).expect("a flag");
    (reader, writer)
}

fn parsed<R: Report>(text: &str) -> R {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Ends a program by SIGTERM; its exit code and standard error. It waits ten seconds for a reader
/// of its output.
fn terminated(child: Child) -> (Option<i32>, String) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    send(pid, Signal::SIGTERM).expect("it runs");
    let output = child.wait_with_output().expect("our child");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

pub const CLOCKS: &str = "in a time namespace 11 days ahead all is as elsewhere: only CLOCK_MONOTONIC moves deadlines (the wall clock is not stepped: it belongs to the whole machine)";

pub fn clocks(stage: &Stage) {
    const USERS: u64 = 1_000;
    let ahead: Vec<_> =
        "unshare --time --monotonic 1000000 --boottime 1000000 --fork --kill-child --"
            .split(' ')
            .collect();
    let mut server = stage.server("--connections 1000 --interval 200ms");
    let args = "--users 1000 --interval 200ms --run-time 5s";
    let mut client = stage.client_behind(&ahead, args);
    let code = client.ended(seconds(60)).code();
    drain(&mut server);
    let (ours, theirs) = (client.last(), server.last());
    assert_accounts(&ours, &theirs);
    same("exit code", &[code, Some(0)]);
    same("all held", &[count(&ours.ended, "held"), USERS]);
    same(
        "messages sent, received",
        &[theirs.messages_sent, ours.messages_received],
    );
    stage.assert_quiet();
    saw(format!(
        "{} messages across two clocks, late by {:.1} ms (p99)",
        ours.messages_received,
        ours.lateness_us.p99 as f64 / 1e3
    ));
}

pub const DISK_FULL: &str = "the disk is full in the middle of a run: the run ends normally, the unwritable record is named, exit code 1; --json on a full disk: figures are printed, the file is named, exit code 2";

pub fn disk_full(stage: &Stage) {
    let disk = "/mnt";
    let options = Some("size=128k");
    mount(
        Some("tmpfs"),
        disk,
        Some("tmpfs"),
        MsFlags::empty(),
        options,
    )
    .expect("a small disk");
    let bin_dir = stage.bin_dir.display().to_string();
    let bench = Command::new(stage.bin_dir.join("holdfast-bench"))
        .args("longconn --users 1000 --interval 1s --hold 5s".split(' '))
        .args(["--results-dir", "/mnt/runs", "--bin-dir", &bin_dir])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the bench starts");
    let runs = || fs::read_dir("/mnt/runs").into_iter().flatten().flatten();
    until_within(seconds(30), "a folder", || runs().next().is_some());
    pause(4);
    let mut filler = File::create("/mnt/filler").expect("room for a name");
    while filler.write_all(&[b'x'; 4_096]).is_ok() {}
    let output = bench.wait_with_output().expect("our child");
    let errors = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    same("exit code of the bench", &[output.status.code(), Some(1)]);
    let is_named = errors.contains("No space left") && errors.contains("next:");
    assert!(is_named, "the error is clear: {errors}");
    assert!(
        printed.contains("1,000"),
        "the result is printed all the same: {printed}"
    );
    let half = runs().any(|entry| entry.path().join("run.json").exists());
    assert!(!half, "a record that could not be written whole is there");
    let left: Vec<_> = all_pids()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok())
        .filter(|name| name.starts_with("holdfast"))
        .collect();
    assert!(left.is_empty(), "still running: {left:?}");
    let mut server = stage.server("--json /mnt/server.json");
    same("exit code with --json", &[stop(&mut server), Some(2)]);
    let said = server.errors();
    let is_named = said.contains("No space left") && said.contains("server.json");
    assert!(
        server.last().is_final && is_named,
        "printed and named: {said}"
    );
    let lines = errors
        .lines()
        .filter(|line| line.contains("error") || line.contains("warning"));
    saw(format!(
        "{} | {}",
        lines.collect::<Vec<_>>().join(" | "),
        said.trim()
    ));
}
