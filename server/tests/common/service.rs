//! A server as a service runs: it is upgraded by SIGUSR2, and its processes follow each other.
//!
//! Invariants: all its processes are in one group, which ends with the value.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::{Folder, program, until};

pub struct Service {
    first: Child,
    pid: i32,
    pub folder: Folder,
    pub address: SocketAddr,
}

impl Service {
    /// Starts `holdfast-server` with `args`, listening on a free port.
    pub fn start(name: &str, args: &[&str]) -> Self {
        let folder = Folder::new(name);
        // A program of its own, to be replaced.
        let path = folder.file("holdfast-server");
        std::fs::copy(program("holdfast-server"), &path).expect("a copy");
        let mut command = Command::new(path);
        command.args(args).args(["--listen", "127.0.0.1:0"]);
        Self::run(folder, command)
    }

    pub fn run(folder: Folder, mut command: Command) -> Self {
        let file = |name| File::create(folder.file(name)).expect("a file");
        command
            .args(["--progress", "json"])
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .process_group(0);
        let first = command.spawn().expect("a process");
        let mut service = Service {
            pid: first.id() as i32,
            first,
            folder,
            address: ([127, 0, 0, 1], 0).into(),
        };
        until("it serves", || !service.reports().is_empty());
        let listen = service.reports()[0]["listen"][0].clone();
        let listen = listen.as_str().expect("an address");
        service.address = listen.parse().expect("an address");
        service
    }

    /// The process that serves.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What all of its processes said.
    pub fn errors(&self) -> String {
        std::fs::read_to_string(self.folder.file("err")).expect("a file")
    }

    /// The whole reports of all of its processes.
    pub fn reports(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.folder.file("out")).expect("a file");
        let lines = text.lines();
        lines.filter_map(|l| serde_json::from_str(l).ok()).collect()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).expect("it runs");
    }

    /// Sends SIGUSR2 and waits until a new process serves; returns the old one's id.
    pub fn upgrade(&mut self) -> i32 {
        let said = "upgraded: process ";
        let before = self.errors().matches(said).count();
        self.signal(Signal::SIGUSR2);
        until("the new process serves", || {
            self.errors().matches(said).count() > before
        });
        let errors = self.errors();
        let line = errors.lines().rfind(|l| l.starts_with(said));
        let pid = line.and_then(|l| l[said.len()..].split(' ').next()?.parse().ok());
        std::mem::replace(&mut self.pid, pid.expect("a process id"))
    }

    /// Waits for the end of a process.
    pub fn until_ended(&mut self, pid: i32) {
        until("its end", || {
            if pid == self.first.id() as i32 {
                return self.first.try_wait().expect("a child").is_some();
            }
            // A zombie has ended: its parent may be gone or not.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
    }

    /// True while a process runs.
    pub fn is_running(&mut self, pid: i32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    /// Ends the process that serves, gracefully.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        self.until_ended(self.pid);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.first.id() as i32), Signal::SIGKILL);
        let _ = self.first.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.errors());
        }
    }
}
