//! The real `holdfast-bench lab`: its hosts hear each other, a command runs in it, and nothing of
//! it stays, however it ends.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{assert_refused, send, stderr};
use nix::sys::signal::Signal;

fn lab(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-bench"));
    command.arg("lab").args(args).stdin(Stdio::null());
    command
}

/// What of the machine a lab could leave something in: its interfaces, mounts and named namespaces.
fn machine() -> BTreeSet<String> {
    let names = |dir: &str| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path().display().to_string())
            .collect::<Vec<_>>()
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    names("/sys/class/net")
        .into_iter()
        .chain(names("/run/netns"))
        .chain(mounts.lines().map(str::to_owned))
        .collect()
}

/// A process: its number and when it was started, because numbers are used again, as those of
/// namespaces are.
type Id = (String, String);

/// Processes that are in one of the namespaces.
fn inhabitants(namespaces: &BTreeSet<String>) -> BTreeSet<Id> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter(|process| {
            ["ns/net", "ns/mnt", "ns/pid"]
                .iter()
                .filter_map(|ns| fs::read_link(process.path().join(ns)).ok())
                .any(|link| namespaces.contains(&link.display().to_string()))
        })
        .filter_map(|process| {
            let stat = fs::read_to_string(process.path().join("stat")).ok()?;
            // The 22nd field of proc_pid_stat(5), counted behind the name, which may have spaces.
            let start = stat
                .rsplit_once(')')?
                .1
                .split_whitespace()
                .nth(19)?
                .to_owned();
            Some((process.file_name().display().to_string(), start))
        })
        .collect()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "not within 30 s: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A lab whose command has written its namespaces into a file and sleeps.
struct Running {
    process: Child,
    file: PathBuf,
    namespaces: BTreeSet<String>,
    inhabitants: BTreeSet<Id>,
    before: BTreeSet<String>,
}

impl Running {
    fn start(name: &str) -> Self {
        let before = machine();
        let file = std::env::temp_dir().join(format!("holdfast-lab-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&file);
        let script = format!(
            "for name in /run/netns/*; do ip netns exec ${{name##*/}} readlink /proc/self/ns/net; done >{0}.part\n\
             readlink /proc/self/ns/mnt /proc/self/ns/pid >>{0}.part\n\
             ip netns exec client1 sleep 4321 & mv {0}.part {0}; wait",
            file.display()
        );
        let process = lab(&[
            "--clients",
            "2",
            "--addresses",
            "3",
            "--users",
            "1000",
            "--",
            "sh",
            "-c",
            &script,
        ])
        .spawn()
        .expect("starts");
        until("the command runs", || file.exists());
        let text = fs::read_to_string(&file).expect("a file");
        let namespaces: BTreeSet<_> = text.lines().map(str::to_owned).collect();
        assert_eq!(
            namespaces.len(),
            6 + 2,
            "six networks, mounts and processes: {text}"
        );
        let inhabitants = inhabitants(&namespaces);
        // The shell, which waits, and the one that sleeps on a client.
        assert!(inhabitants.len() >= 2, "{inhabitants:?}");
        assert_eq!(machine(), before, "a running lab shows outside");
        Self {
            process,
            file,
            namespaces,
            inhabitants,
            before,
        }
    }

    /// Waits for the end; nothing is left. The exit code, if there is one.
    fn end(mut self) -> Option<i32> {
        let status = self.process.wait().expect("ends");
        until("the processes have ended", || {
            self.inhabitants.is_disjoint(&inhabitants(&self.namespaces))
        });
        assert_eq!(machine(), self.before, "left behind");
        let _ = fs::remove_file(&self.file);
        status.code()
    }
}

#[test]
#[ignore = "needs iproute2: make test"]
fn nothing_is_left_after_an_interrupt_and_after_a_kill() {
    for (signal, code) in [
        (Signal::SIGINT, Some(130)),
        (Signal::SIGTERM, Some(143)),
        (Signal::SIGKILL, None),
    ] {
        let running = Running::start(signal.as_str());
        send(&running.process, signal);
        assert_eq!(running.end(), code, "{signal}");
    }
}

#[test]
#[ignore = "needs iproute2: make test"]
fn lab_command_runs_between_hosts_and_returns_its_exit_code() {
    let before = machine();
    let script = "ip -n client2 -o address show dev eth0 to 10.77.0.0/16 | wc -l
        ip netns exec client1 sysctl -n net.ipv4.ip_local_port_range
        ip netns exec backend sysctl -n net.core.somaxconn net.ipv4.tcp_ehash_entries
        grep -c client /etc/hosts; ls /run/netns | tr '\\n' ' '; echo $$ >/dev/null; exit 7";
    let output = lab(&[
        "--clients",
        "2",
        "--addresses",
        "5",
        "--users",
        "100000",
        "--",
        "sh",
        "-c",
        script,
    ])
    .output()
    .expect("runs");
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    // One end each of 100,000 connections, two buckets for each, and one for each of 165,536 in
    // TIME_WAIT, as a power of two.
    let expected =
        "5\n1024\t65535\n65535\n524288\n2\nbackend balancer bridge client1 client2 master ";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert_eq!(machine(), before);
}

#[test]
#[ignore = "needs iproute2: make test"]
fn lab_shell_shows_the_network_and_how_to_enter_hosts() {
    let shell = std::env::temp_dir().join(format!("holdfast-lab-shell-{}", std::process::id()));
    fs::write(&shell, "#!/bin/sh\nip netns exec client1 sh -c 'echo hello from $(ip -o -4 address show dev eth0)'\n")
        .expect("a script");
    executable(&shell);
    let output = lab(&["--clients", "1", "--addresses", "1", "--users", "1000"])
        .env("SHELL", &shell)
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", stderr(&output));
    for words in [
        "client1   10.77.11.1 ",
        "balancer  10.77.2.1 ",
        "nsenter --target ",
        "12 calls between its hosts were answered",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let hello = said.lines().last().unwrap_or_default();
    assert!(
        hello.starts_with("hello from ") && hello.contains("10.77.11.1/16"),
        "{said}"
    );
    let _ = fs::remove_file(&shell);
}

#[test]
#[ignore = "needs iproute2: make test"]
fn another_terminal_enters_by_the_printed_command() {
    let running = Running::start("door");
    // The first process of the lab is the only child of the one that was started.
    let task = format!("/proc/{0}/task/{0}/children", running.process.id());
    let first = fs::read_to_string(task).expect("children");
    let output = Command::new("nsenter")
        .args(["--target", first.trim(), "--mount", "--pid", "--net"])
        .args(["--", "ip", "netns", "exec", "client2", "sh", "-c"])
        .arg("ip -o -4 address show dev eth0 | wc -l; cat /proc/1/comm")
        .output()
        .expect("nsenter");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "3\nholdfast-bench\n",
        "{}",
        stderr(&output)
    );
    send(&running.process, Signal::SIGTERM);
    running.end();
}

#[test]
#[ignore = "needs iproute2: make test"]
fn unprivileged_user_builds_a_lab_in_a_user_namespace() {
    // Nobody may read the folder the program was built in.
    let folder = std::env::temp_dir().join(format!("holdfast-lab-user-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    executable(&folder);
    let program = folder.join("holdfast-bench");
    fs::copy(env!("CARGO_BIN_EXE_holdfast-bench"), &program).expect("a copy");
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg(&program);
        command
    } else {
        Command::new(&program)
    };
    let output = command
        .args([
            "lab",
            "--clients",
            "1",
            "--addresses",
            "2",
            "--users",
            "1000",
            "--",
        ])
        .args([
            "sh",
            "-c",
            "ip -n client1 -o -4 address show dev eth0 | wc -l; cut -c -22 /proc/self/uid_map",
        ])
        .output()
        .expect("runs");
    let _ = fs::remove_dir_all(&folder);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.starts_with("2\n         0      "),
        "{said}{}",
        stderr(&output)
    );
}

#[test]
#[ignore = "needs iproute2: make test"]
fn invalid_lab_flags_are_refused_in_one_line() {
    for (args, words) in [
        (&["--clients", "0"][..], "0 client hosts"),
        (
            &["--clients", "64", "--addresses", "250"],
            "64 client hosts with 250 addresses",
        ),
        (
            &["--users", "100", "--", "/nowhere/program"],
            "/nowhere/program cannot be started",
        ),
        (&["--nonsense"], "--nonsense"),
    ] {
        assert_refused(&lab(args).output().expect("runs"), words);
    }
}

/// A background job of a shell without job control ignores SIGINT and SIGQUIT; nohup ignores SIGHUP
/// on purpose.
#[test]
#[ignore = "needs iproute2: make test"]
fn children_begin_with_default_signals_but_under_nohup() {
    let script = "trap '' INT QUIT TERM; exec nohup \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_holdfast-bench")])
        .args(["lab", "--clients", "1", "--addresses", "1", "--users", "10"])
        .args(["--", "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    // Without signals 32 and 33, which the C library has for itself.
    let masks = said.lines().map(|line| {
        let mask = line.split_once(':').expect("a mask").1.trim();
        u64::from_str_radix(mask, 16).expect("hexadecimal") & 0x7fff_ffff
    });
    let sighup = 1;
    assert_eq!(
        masks.collect::<Vec<_>>(),
        [0, sighup],
        "{}",
        stderr(&output)
    );
}

fn executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its mode");
}
