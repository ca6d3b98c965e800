//! Limits hit in the middle of a run: descriptors, memory of a control group, the kernel's memory
//! for TCP.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_telemetry::units::total;
use holdfast_testbed::running::until_within;
use holdfast_testbed::sandbox::OUTSIDE;

use crate::stage::{
    Stage, assert_accounts, count, drain, open, pause, same, saw, seconds, shown, stop,
};

/// In a fixed place, so that the next start restores what a SIGKILL kept this one from restoring.
const TCP_MEM_STATE: &str = "/var/tmp/holdfast-faults-tcp_mem.json";
const GROUP: &str = "holdfast-faults";

/// Restores what belongs to the machine: net.ipv4.tcp_mem, and the control group that a test made.
pub fn clean(bin_dir: &Path) {
    if Path::new(TCP_MEM_STATE).exists() {
        let mut restore = Command::new(bin_dir.join("holdfast-tune"));
        restore.args(["restore", "--state", TCP_MEM_STATE]);
        if !restore.output().is_ok_and(|output| output.status.success()) {
            eprintln!(
                "net.ipv4.tcp_mem is not restored; next: holdfast-tune restore --state {TCP_MEM_STATE}"
            );
        }
    }
    let _ = fs::remove_file(Path::new(TCP_MEM_STATE).with_extension("lock"));
    for root in ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"] {
        let group = Path::new(root).join(GROUP);
        for _ in 0..100 {
            if !group.exists() || fs::remove_dir(&group).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

pub const DESCRIPTORS: &str = "the descriptor limit of a running program falls to 10 and rises again: who is connected stays, newcomers beyond the rings there are get reset (server) or fail as no_descriptor (client), all get in when it rises";

pub fn descriptors(stage: &Stage) {
    let args = "--connections 8000 --ring-slots 1000 --interval 1s";
    let mut server = stage.server(args);
    let source = [1, 2].map(|number| stage.source(number));
    let first_args = format!("--users 1500 --interval 1s --source {}", source[0]);
    let mut first = stage.client(&first_args);
    open(&first, 1_500);
    open(&server, 1_500);
    server.limit_descriptors(10);
    let args = format!(
        "--users 6000 --reconnect --reconnect-pause 200ms --interval 1s --source {}",
        source[1]
    );
    let mut rest = stage.client(&args);
    server.until("some are refused", |r| {
        count(&r.anomalies, "unexpected") > 0
    });
    rest.until("some are turned away", |r| {
        r.ramp_done && total(&r.ended) + total(&r.failed) > 500
    });
    same("who was connected stays", &[first.last().open_now, 1_500]);
    let held = server.last().open_now;
    assert!(
        (1_501..7_500).contains(&held),
        "the rings there are fill up: {held}"
    );
    server.limit_descriptors(20_000);
    open(&rest, 6_000);
    open(&server, 7_500);
    let both = first.last().open_now + rest.last().open_now;
    stage.assert_open(both, server.last().open_now, 7_500);
    same(
        "exit code of who was there before",
        &[stop(&mut first), Some(0)],
    );
    stop(&mut rest);
    drain(&mut server);
    // Rings that could not be made are the anomaly; nothing else may be.
    let (mut theirs, ours) = (server.last(), rest.last());
    let rings = theirs.anomalies.remove("unexpected").unwrap_or(0);
    assert_accounts(&ours, &theirs);
    stage.assert_quiet();
    saw(format!(
        "{held} open at a limit of 10 ({rings} rings could not be made, {} users turned away), 7,500 when it rose",
        total(&ours.ended) - 6_000
    ));

    let mut server = stage.server("--connections 8000 --interval 1s");
    let args = "--users 6000 --spawn-rate 2000 --ring-slots 1000 --reconnect --interval 1s";
    let mut client = stage.client(args);
    client.until("on the way", |r| r.opened > 0);
    client.limit_descriptors(10);
    let none_left = client.until("no descriptor", |r| count(&r.failed, "no_descriptor") > 0);
    client.limit_descriptors(20_000);
    open(&client, 6_000);
    stop(&mut client);
    drain(&mut server);
    let mut ours = client.last();
    ours.anomalies.remove("unexpected");
    assert_accounts(&ours, &server.last());
    stage.assert_quiet();
    saw(format!(
        "client: {} open when none was left, 6,000 when it rose, {}",
        none_left.open_now,
        shown(&ours.failed)
    ));
}

/// A control group of memory, version 1 or 2. [`clean`] removes it.
struct Group {
    path: PathBuf,
    is_v1: bool,
}

impl Group {
    fn new() -> Self {
        for root in ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"] {
            let path = Path::new(root).join(GROUP);
            if fs::create_dir(&path).is_err() {
                continue;
            }
            for is_v1 in [true, false] {
                let group = Self {
                    path: path.clone(),
                    is_v1,
                };
                if group.limit_file().exists() {
                    return group;
                }
            }
        }
        panic!("no memory control group can be made here; next: mount /sys/fs/cgroup writable");
    }

    fn limit_file(&self) -> PathBuf {
        self.path.join(if self.is_v1 {
            "memory.limit_in_bytes"
        } else {
            "memory.max"
        })
    }

    fn set_limit(&self, bytes: u64) {
        fs::write(self.limit_file(), bytes.to_string()).expect("a limit");
    }

    fn read(&self, v1: &str, v2: &str) -> String {
        let file = self.path.join(if self.is_v1 { v1 } else { v2 });
        fs::read_to_string(file).expect("a file of the group")
    }

    fn used_bytes(&self) -> u64 {
        let text = self.read("memory.usage_in_bytes", "memory.current");
        text.trim().parse().expect("bytes")
    }

    fn kills(&self) -> u64 {
        let text = self.read("memory.oom_control", "memory.events");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|n| n.parse().ok()).expect("a count of kills")
    }
}

pub const MEMORY: &str = "the server's memory control group is full: the kernel kills it, the client counts each connection and exits with 1, nothing is left, the next server holds all";

pub fn memory(stage: &Stage) {
    const USERS: u64 = 20_000;
    let group = Group::new();
    group.set_limit(512 << 20);
    let join = format!(
        "echo $$ > {}/cgroup.procs && exec \"$@\"",
        group.path.display()
    );
    let within = ["sh", "-c", &join, "sh"];
    let args = "--connections 20000 --interval 1s";
    let mut server = stage.server_behind(&within, args);
    let more = "--users 20000 --spawn-rate 5000 --interval 1s --run-time 60s";
    let mut client = stage.client(more);
    // Not sooner: a server that finds too little memory at its start says what fits and does not
    // begin.
    server.until("on the way", |r| r.open_now > 2_000);
    group.set_limit(group.used_bytes() + (8 << 20));
    let status = server.ended(seconds(60));
    use std::os::unix::process::ExitStatusExt;
    same("the kernel killed the server", &[status.signal(), Some(9)]);
    assert!(group.kills() >= 1, "and its group says so");
    same(
        "exit code of the client",
        &[client.ended(seconds(90)).code(), Some(1)],
    );
    let ours = client.last();
    same(
        "attempts, opened + failed",
        &[ours.attempts, ours.opened + total(&ours.failed), USERS],
    );
    same("opened, ended", &[ours.opened, total(&ours.ended)]);
    stage.assert_quiet();
    saw(format!(
        "killed at {} open; client: opened {}, {}, failed {}",
        server.last().open_now,
        ours.opened,
        shown(&ours.ended),
        shown(&ours.failed)
    ));
    group.set_limit(512 << 20);
    let mut server = stage.server_behind(&within, args);
    let mut client = stage.client("--users 20000 --interval 1s");
    open(&client, USERS);
    open(&server, USERS);
    let used = group.used_bytes();
    same(
        "exit code of the second client",
        &[stop(&mut client), Some(0)],
    );
    drain(&mut server);
    assert_accounts(&client.last(), &server.last());
    stage.assert_quiet();
    saw(format!(
        "then all {USERS} in 512 MiB, {} bytes each charged to the group",
        used / USERS
    ));
}

pub const TCP_MEM: &str = "the machine's memory for TCP is nearly nothing for 4 s under 2,000 connections and 80 MB of messages a second: each connection lost is counted by both ends, traffic goes on, new ones open as before";

pub fn tcp_mem(stage: &Stage) {
    const USERS: u64 = 2_000;
    let message = "x".repeat(4_096);
    let args = format!("--connections 4000 --interval 100ms --message {message}");
    let mut server = stage.server(&args);
    let args = format!("--users 2000 --interval 100ms --reconnect --expect {message}");
    let mut client = stage.client(&args);
    open(&client, USERS);
    open(&server, USERS);
    // Only the network that was there before has the setting.
    let tune = stage.bin_dir.join("holdfast-tune").display().to_string();
    let outside = |words: &[&str]| {
        let output = Command::new("ip")
            .args(["netns", "exec", OUTSIDE])
            .args(words)
            .output();
        let output = output.expect("ip starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let sizes = || outside(&["cat", "/proc/sys/net/ipv4/tcp_mem"]);
    let before = sizes();
    let profile = format!("/dev/shm/{}-faults.conf", std::process::id());
    fs::write(&profile, "net.ipv4.tcp_mem = 64 128 256\n").expect("a profile");
    let state = ["--state", TCP_MEM_STATE];
    outside(
        &[
            &[
                &tune[..],
                "apply",
                "--exact",
                "--yes",
                "--profile",
                &profile,
            ],
            &state[..],
        ]
        .concat(),
    );
    pause(4);
    outside(&[&[&tune[..], "restore"], &state[..]].concat());
    let _ = fs::remove_file(&profile);
    same("the setting", &[before, sizes()]);
    let counter = |name| stage.counter(stage.backend(), name);
    until_within(seconds(60), "pressure is counted", || {
        counter("TCPMemoryPressures") > 0
    });
    open(&client, USERS);
    open(&server, USERS);
    let received = client.last().messages_received;
    client.until("messages go on", |r| {
        r.messages_received > received + 10 * USERS
    });
    stop(&mut client);
    drain(&mut server);
    let (ours, theirs) = (client.last(), server.last());
    assert_accounts(&ours, &theirs);
    stage.assert_quiet();
    saw(format!(
        "pressure entered {} times; server: {}; client: {}; late {}, {} sends taken in part",
        counter("TCPMemoryPressures"),
        shown(&theirs.closed),
        shown(&ours.ended),
        ours.messages_missed,
        count(&theirs.anomalies, "sends_short")
    ));
}
