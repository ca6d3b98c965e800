//! What keeps a worker from working, and what it says about it.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::unistd::pipe;
use serde_json::{Value, json};

use crate::common::{own_address, program, subcommand, until};
use crate::router::{Router, now, spawn};
use crate::worker;

#[test]
fn unreachable_master_is_explained() {
    // A listener that never accepts completes the handshake all the same, and stays silent.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().expect("bound").to_string();
    let refusing = format!("{}:5557", own_address());
    let workers = [
        ("nosuch.invalid:5557", "resolve"),
        (&*refusing, "refused"),
        (&*silent, "ZeroMQ"),
    ]
    .map(|(master, word)| (master, word, worker(master, &[])));
    for (master, word, worker) in &workers {
        until(word, || worker.errors().contains(word));
        let errors = worker.errors();
        assert!(
            errors.contains(&format!("cannot reach the master at {master}: "))
                && errors.contains("next: "),
            "{errors}"
        );
    }
    for (_, word, worker) in workers {
        let outcome = worker.stop();
        assert_eq!(outcome.code(), Some(0), "{}", outcome.errors);
        // Connecting is tried again every few seconds, and the reason repeated only after a minute.
        let told = outcome.errors.matches(word).count();
        assert!(told <= 2, "{}", outcome.errors);
    }
}

#[test]
#[ignore = "needs Locust: make test"]
fn python_tasks_of_another_locustfile_are_reported_as_not_executed() {
    let mut master = Router::start();
    let worker = worker(&master.address, &[]);
    let name = master.welcome();
    let counts = json!({"Http": 1, "LongConn": 0});
    let order = spawn(now(), counts, "http://127.0.0.1:9", json!({"tags": null}));
    master.send(&name, "spawn", order);
    let exception = master.next("exception")["data"]["msg"].to_string();
    for part in [
        "Python tasks of class Http are not executed",
        "next: start the master with client/locust/locustfile.py",
    ] {
        assert!(exception.contains(part), "{exception}");
    }
    worker.stop();
}

/// Runs a worker with this standard error under a master that sends many messages worth a line;
/// heartbeats have to go on.
fn heartbeats_go_on(stderr: OwnedFd, reader: Option<File>) {
    let mut master = Router::start();
    let mut command = subcommand("holdfast-client", "worker", &["--master", &master.address]);
    command.stdout(Stdio::null()).stderr(stderr);
    let mut worker = command.spawn().expect("starts");
    drop(command);
    let name = master.welcome();
    drop(reader);
    // More than a pipe takes, 64 KiB.
    for number in 0..1_000 {
        let kind = format!("type-{number}-{}", "x".repeat(100));
        master.send(&name, &kind, Value::Null);
    }
    for _ in 0..4 {
        master.next("heartbeat");
    }
    master.send(&name, "quit", Value::Null);
    master.next("quit");
    let mut status = None;
    until("the end", || {
        status = worker.try_wait().expect("our child");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}

#[test]
#[ignore = "needs Locust: make test"]
fn heartbeats_go_on_when_standard_error_has_no_reader() {
    let (reader, writer) = pipe().expect("a pipe");
    heartbeats_go_on(writer, Some(reader.into()));
}

#[test]
#[ignore = "needs Locust: make test"]
fn heartbeats_continue_when_standard_error_is_not_read() {
    let (reader, writer) = pipe().expect("a pipe");
    heartbeats_go_on(writer, None);
    drop(reader);
}

#[test]
#[ignore = "needs Python: make test"]
fn refused_io_uring_is_one_line_and_exit_code_2() {
    // A seccomp filter that answers io_uring's three system calls with an error, as container
    // runtimes do.
    let script = "
import ctypes, os, struct, sys
errno = int(sys.argv[1])
def instruction(code, if_true, if_false, value): return struct.pack('HBBI', code, if_true, if_false, value)
program = (instruction(0x20, 0, 0, 0) + instruction(0x15, 3, 0, 425) + instruction(0x15, 2, 0, 426) + instruction(0x15, 1, 0, 427)
           + instruction(6, 0, 0, 0x7fff0000) + instruction(6, 0, 0, 0x50000 | errno))
text = ctypes.create_string_buffer(program)
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, struct.pack('HxxxxxxP', 6, ctypes.addressof(text)), 0, 0) == 0
os.execv(sys.argv[2], sys.argv[2:])
";
    for errno in [nix::errno::Errno::EPERM, nix::errno::Errno::ENOSYS] {
        let output = Command::new("python3")
            .args(["-c", script, &(errno as i32).to_string()])
            .arg(program("holdfast-client"))
            .args(["worker", "--master", "127.0.0.1:5557"])
            .output()
            .expect("Python runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(
            errors.contains("seccomp") && errors.contains("next: "),
            "{errors}"
        );
    }
}
