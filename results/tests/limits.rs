//! Who is the limit: each is provoked with the real bench, server and client, and has to be named
//! first.
//!
//! Set-ups are such that the answer is certain. Other programs on the machine could still have the
//! cores: as root ours go before them (SCHED_RR), and where they are named nevertheless the one
//! behind them counts. One run at a time.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "refusals are not tested here")]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{Stage, send, stderr};
use holdfast_report::bottleneck::{self, Bottleneck, BottleneckKind};
use holdfast_report::run::Run;
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

const FLAGS: &[&str] = &[
    "longconn", "--every", "10s", "--hold", "1s", "--warm", "off",
];

/// Runs on one machine would be each other's limit.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program of ours, where the tests' own are.
fn ours(name: &str) -> PathBuf {
    let bench = Path::new(env!("CARGO_BIN_EXE_holdfast-bench"));
    let path = bench.with_file_name(name);
    assert!(
        path.is_file(),
        "{name} is not built; next: cargo build --workspace"
    );
    path
}

/// The body of a script that runs one of our programs after `before`, ahead of what else runs on
/// the machine.
fn script(before: &str, name: &str) -> String {
    let first = if geteuid().is_root() {
        "chrt --rr 1 "
    } else {
        ""
    };
    format!("exec {first}{before} {} \"$@\"", ours(name).display())
}

fn stage(name: &str, before_server: &str, before_client: &str) -> Stage {
    let server = script(before_server, "holdfast-server");
    let client = script(before_client, "holdfast-client");
    Stage::new(name, &server, &client, FLAGS)
}

/// Runs the bench and gives the record, which must name its limits as the page does and as anybody
/// finds them in `run.json`.
fn run(stage: &Stage, args: &[&str]) -> Run {
    let output = stage.bench(args).output().expect("runs");
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 1)), "{code:?}: {}", stderr(&output));
    let run: Run = stage.record();
    assert_eq!(run.header.limits, bottleneck::of_longconn(&run));
    let first = run.header.limits.first().expect("never empty");
    assert!(!first.evidence.is_empty() && !first.next.is_empty());
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(
        page.contains(&format!("  limit       {}: ", first.what.label())),
        "{page}"
    );
    assert!(page.contains(&format!("next: {}", first.next)), "{page}");
    stage.assert_nothing_runs();
    run
}

/// The first limit, other programs aside.
#[track_caller]
fn assert_limit(run: &Run, what: BottleneckKind) -> &Bottleneck {
    let mut found = run
        .header
        .limits
        .iter()
        .filter(|l| l.what != BottleneckKind::OtherPrograms);
    let first = found.next();
    assert_eq!(
        first.map(|l| l.what),
        Some(what),
        "{:#?} {:#?}",
        run.header.limits,
        run.header.reasons
    );
    first.expect("found")
}

#[test]
#[ignore = "needs root and idle cores: make test"]
fn a_small_accept_queue() {
    let _alone = alone();
    let stage = stage("accept-queue", "", "");
    let mut args = vec!["--users", "600", "--sysctl", "net.core.somaxconn=1"];
    // Reset instead of silence, and no long waits for connections of which only one end is left.
    args.extend(["--sysctl", "net.ipv4.tcp_abort_on_overflow=1"]);
    for arg in ["--connect-timeout", "3s", "--drain-timeout", "1s"] {
        args.extend(["--client-arg", arg]);
    }
    args.extend(["--server-arg", "--drain-timeout", "--server-arg", "1s"]);
    let run = run(&stage, &args);
    let limit = assert_limit(&run, BottleneckKind::AcceptQueue);
    assert!(
        limit.evidence.contains("net.core.somaxconn = 1 here"),
        "{limit:?}"
    );
    assert!(
        limit.next.contains("--sysctl net.core.somaxconn=65535"),
        "{limit:?}"
    );
}

/// 100 SYNs from addresses that lead nowhere: their connections stay half open for a second.
const FLOOD: &str = r#"
import os, socket, struct, subprocess, sys
subprocess.run(["ip", "route", "add", "10.0.0.0/8", "dev", "lo"], check=True)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16: total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
for n in range(100):
    source, target = socket.inet_aton(f"10.1.{n // 250}.{n % 250 + 1}"), socket.inet_aton("127.0.0.1")
    syn = lambda sum: struct.pack("!HHIIBBHHH", 2000 + n, 999, n, 0, 0x50, 2, 64000, sum, 0)
    tcp = syn(checksum(source + target + struct.pack("!HH", 6, 20) + syn(0)))
    raw.sendto(struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + source + target + tcp, ("127.0.0.1", 0))
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
#[ignore = "needs root and idle cores: make test"]
fn a_full_syn_queue() {
    let _alone = alone();
    let flood = format!("python3 -c '{FLOOD}'");
    let stage = stage("syn-queue", "", &flood);
    let mut args = vec!["--users", "20"];
    for setting in [
        "net.ipv4.tcp_max_syn_backlog=16",
        "net.ipv4.tcp_syncookies=0",
        "net.ipv4.tcp_synack_retries=0",
    ] {
        args.extend(["--sysctl", setting]);
    }
    let run = run(&stage, &args);
    let limit = assert_limit(&run, BottleneckKind::SynQueue);
    assert!(
        limit
            .next
            .contains("--sysctl net.ipv4.tcp_max_syn_backlog="),
        "{limit:?}"
    );
}

/// Eight ports of one address to sixteen targets are 128 combinations, enough for 100 users; but
/// somebody has four of these ports.
#[test]
#[ignore = "needs root and idle cores: make test"]
fn few_ports() {
    let _alone = alone();
    let take = "python3 -c 'import os, socket, sys\n\
        kept = [socket.create_server((\"0.0.0.0\", port)) for port in range(20000, 20004)]\n\
        for s in kept: s.set_inheritable(True)\n\
        os.execv(sys.argv[1], sys.argv[1:])'";
    let stage = stage("ports", "", take);
    let ports = ["--client-arg", "--ports", "--client-arg", "20000-20007"];
    let args = [&["--users", "100", "--source", "127.0.0.1"][..], &ports].concat();
    let run = run(&stage, &args);
    assert_eq!(run.connections.failed.get("no_address_left"), Some(&36));
    assert_eq!(assert_limit(&run, BottleneckKind::Ports).share, Some(0.36));
}

#[test]
#[ignore = "needs root and idle cores: make test"]
fn a_low_rate() {
    let _alone = alone();
    let stage = stage("rate", "", "");
    let run = run(&stage, &["--users", "60", "--rate", "30"]);
    let limit = assert_limit(&run, BottleneckKind::AskedRate);
    assert!(
        limit.evidence.contains("nothing limited it but --rate"),
        "{limit:?}"
    );
}

#[test]
#[ignore = "needs root and idle cores: make test"]
fn few_users() {
    let _alone = alone();
    let stage = stage("users", "", "");
    assert_limit(&run(&stage, &["--users", "50"]), BottleneckKind::AskedUsers);
}

/// The client has one thread on one core, which something else works on too, and no precedence.
#[test]
#[ignore = "needs root and idle cores: make test"]
fn a_pinned_client() {
    let _alone = alone();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(
        cores > 1,
        "a client can be pinned beside a server on two cores only; next: taskset -p $$"
    );
    let before_client = "chrt --other 0 taskset -c 0";
    let stage = stage("pinned", "taskset -c 1", before_client);
    // Ends by itself, whatever becomes of the test.
    let work = "taskset -c 0 timeout 30 sh -c 'while :; do :; done'";
    let mut beside = Command::new("sh")
        .args(["-c", &format!("exec {work}")])
        .spawn()
        .expect("sh");
    let run = run(&stage, &["--users", "25000", "--client-threads", "1"]);
    send(&beside, Signal::SIGTERM);
    beside.wait().expect("ends");
    let limit = assert_limit(&run, BottleneckKind::ClientCpu);
    assert!(limit.next.contains("--client-threads"), "{limit:?}");
}

/// `net.ipv4.tcp_mem`, which belongs to the whole machine, for the time of a test.
struct TcpMem;

impl TcpMem {
    /// In a fixed place, so that the next start puts back what a kill kept this one from putting
    /// back.
    const STATE: &str = "/run/holdfast-limits-tcp_mem.json";

    fn set(value: &str) -> Self {
        assert!(
            geteuid().is_root(),
            "net.ipv4.tcp_mem is root's; next: sudo make test"
        );
        let profile = std::env::temp_dir().join(format!("holdfast-limits-{}", std::process::id()));
        fs::write(&profile, format!("net.ipv4.tcp_mem = {value}\n")).expect("a profile");
        let path = profile.display().to_string();
        let is_set = Self::tune(&["apply", "--exact", "--yes", "--profile", &path]);
        fs::remove_file(profile).expect("was there");
        assert!(is_set, "tcp_mem could not be set");
        Self
    }

    fn tune(words: &[&str]) -> bool {
        let mut command = Command::new(ours("holdfast-tune"));
        command.args(words).args(["--state", Self::STATE]);
        command.output().expect("runs").status.success()
    }

    fn restore() {
        if Path::new(Self::STATE).exists() && !Self::tune(&["restore"]) {
            eprintln!(
                "tcp_mem could not be restored; next: holdfast-tune restore --state {}",
                Self::STATE
            );
        }
        let _ = fs::remove_file(Path::new(Self::STATE).with_extension("lock"));
    }
}

impl Drop for TcpMem {
    fn drop(&mut self) {
        Self::restore();
    }
}

/// Pressure begins at 32 pages, 128 KiB; the most there may be stays, so that others on the machine
/// lose nothing.
#[test]
#[ignore = "needs root and idle cores: make test"]
fn a_tiny_tcp_mem() {
    let _alone = alone();
    TcpMem::restore();
    let now = fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").expect("of the machine");
    let most = now.split_whitespace().last().expect("three numbers");
    let stage = stage("tcp-mem", "", "");
    let small = TcpMem::set(&format!("16 32 {most}"));
    let message = "x".repeat(4_096);
    let run = run(
        &stage,
        &["--users", "500", "--every", "100ms", "--message", &message],
    );
    drop(small);
    let limit = assert_limit(&run, BottleneckKind::SocketMemory);
    assert!(
        limit.evidence.contains("net.ipv4.tcp_mem 16 32 "),
        "{limit:?}"
    );
    assert_eq!(
        fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").expect("there"),
        now
    );
}

/// A memory control group, of whichever version there is, removed afterwards.
struct Group(PathBuf);

impl Group {
    fn make() -> Self {
        let name = format!("holdfast-limits-{}", std::process::id());
        for root in ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"] {
            let path = Path::new(root).join(&name);
            if fs::create_dir(&path).is_ok() {
                let group = Self(path);
                if group.limit_file().is_file() {
                    return group;
                }
            }
        }
        panic!(
            "no memory control group can be made here; next: sudo make test, with /sys/fs/cgroup writable"
        );
    }

    fn limit_file(&self) -> PathBuf {
        let version_1 = self.0.join("memory.limit_in_bytes");
        if version_1.is_file() {
            version_1
        } else {
            self.0.join("memory.max")
        }
    }

    fn used_bytes(&self) -> u64 {
        let files = ["memory.usage_in_bytes", "memory.current"].map(|f| self.0.join(f));
        let text = files.iter().find_map(|file| fs::read_to_string(file).ok());
        text.and_then(|t| t.trim().parse().ok())
            .expect("bytes used")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The server's group is left 8 MiB while connections, about 4 KiB each, come at 1,000 a second:
/// the kernel kills it within seconds.
#[test]
#[ignore = "needs root and idle cores: make test"]
fn a_small_memory_group() {
    let _alone = alone();
    let group = Group::make();
    let join = format!(
        "sh -c 'echo $$ > {}/cgroup.procs; exec \"$@\"' sh",
        group.0.display()
    );
    let stage = stage("cgroup", &join, "");
    let bench = stage.start(&["--users", "20000", "--rate", "1000"]);
    let until = Instant::now() + Duration::from_secs(60);
    let is_ramping = || {
        let rows = fs::read_dir(stage.runs()).into_iter().flatten().flatten();
        rows.filter_map(|entry| fs::read_to_string(entry.path().join("series.csv")).ok())
            .any(|text| text.contains(",ramp,"))
    };
    while !is_ramping() {
        assert!(Instant::now() < until, "the ramp did not begin");
        std::thread::sleep(Duration::from_millis(50));
    }
    let left = (group.used_bytes() + (8 << 20)).to_string();
    fs::write(group.limit_file(), left).expect("a limit");
    let output = bench.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let run: Run = stage.record();
    assert_eq!(
        run.processes.server.signal,
        Some(9),
        "{:?}",
        run.header.reasons
    );
    let limit = assert_limit(&run, BottleneckKind::MemoryCgroup);
    assert!(limit.evidence.contains("killed the server"), "{limit:?}");
    stage.assert_nothing_runs();
}
