//! The servers that are measured: their command lines, configurations and builds.
//!
//! Purpose: from a `Subject` and what a slice asks of it to a program with its arguments.
//! Invariants: every subject listens on one address of 127.0.0.0/8 and answers every path with
//! `ok`. All end with the bench, however it ends: ours by their own flag, the others by the kernel
//! (`kill_with_parent`).
//! Must not depend on: how they are measured.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::plan::Plan;
use super::programs::{Family, Programs, kill_with_parent};
use super::scenario::{Scenario, Subject};

use holdfast_telemetry::live::Snapshot;
use holdfast_telemetry::report_line::{Report, read_json};
use holdfast_telemetry::wire::{self, HttpServerReport};
use holdfast_testbed::child::words;

const NGINX: &str = include_str!("../../competitors/nginx.conf");
const HAPROXY: &str = include_str!("../../competitors/haproxy.cfg");
/// Source of the Go competitor.
pub(super) const GO: &str = include_str!("../../competitors/go/main.go");

/// Connections a server is prepared for beyond those it gets: warm-up and measurement overlap while
/// sockets close.
const SPARE_CONNECTIONS: u64 = 1_000;
/// nginx begins to close idle connections when less than a sixteenth of its places is free: this
/// share more keeps it from that.
const NGINX_SPARE_SHARE: u64 = 8;

/// A line that a server prints.
#[derive(Debug, Clone)]
pub enum ServerLine {
    /// Of ours.
    Report(Box<HttpServerReport>),
    /// Of anybody else.
    Words,
}

impl Report for ServerLine {
    fn read(line: &str) -> Result<Self, String> {
        if !line.starts_with('{') {
            return Ok(Self::Words);
        }
        read_json(line, wire::HTTP_SERVER_SCHEMA, |r: &HttpServerReport| {
            &r.schema
        })
        .map(|report| Self::Report(Box::new(report)))
    }

    fn is_final(&self) -> bool {
        matches!(self, Self::Report(report) if report.is_final)
    }
}

impl ServerLine {
    /// Figures for people, of our server.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        match self {
            Self::Report(report) => Some(Snapshot::from(&**report)),
            Self::Words => None,
        }
    }
}

/// How a server shows that it listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// It prints a line.
    Line,
    /// A connection to it opens.
    Connects,
}

/// A program with its arguments.
#[derive(Debug, Clone)]
pub struct Start {
    /// What is executed.
    pub program: PathBuf,
    /// With these words.
    pub args: Vec<String>,
    /// How it shows that it listens.
    pub ready: Ready,
    /// It ends in order when told by SIGTERM, and is worth waiting for; the others are killed.
    pub is_orderly: bool,
}

/// What a slice asks of its server.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Where to listen.
    pub address: SocketAddr,
    /// Threads or worker processes, one for each core.
    pub threads: usize,
    /// Descriptors one process may have.
    pub descriptors: u64,
    /// The load to come.
    pub scenario: &'a Scenario,
    /// Folder for its configuration and other files, made already.
    pub dir: &'a Path,
}

/// The command line of `subject`; its configuration is written.
///
/// # Errors
/// When its configuration cannot be written.
pub fn start(subject: Subject, plan: &Plan, wanted: &Wanted<'_>) -> Result<Start, String> {
    let programs = &plan.programs;
    let missing = || format!("{} is not here", subject.name());
    let address = wanted.address.to_string();
    let threads = wanted.threads.to_string();
    let connections = wanted.scenario.connections_of(subject) + SPARE_CONNECTIONS;
    let config = |name: &str, template: &str| {
        let dir = wanted.dir.display().to_string();
        let text = template
            .replace("@ADDRESS@", &address)
            .replace("@THREADS@", &threads)
            .replace("@CONNECTIONS@", &connections.to_string())
            .replace("@DIR@", &dir);
        let path = wanted.dir.join(name);
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok::<_, String>(path.display().to_string())
    };
    match subject {
        Subject::Holdfast => Ok(Start {
            program: programs.server.clone().ok_or_else(missing)?,
            args: words(&[
                "http",
                "--listen",
                &address,
                "--connections",
                &connections.to_string(),
                "--threads",
                &threads,
                "--progress",
                "json",
                "--die-with-parent",
            ]),
            ready: Ready::Line,
            is_orderly: true,
        }),
        Subject::Baseline => {
            let baseline = programs.baseline.as_deref().ok_or_else(missing)?;
            let mode = if wanted.scenario.is_keep_alive {
                "keepalive"
            } else {
                "close"
            };
            let mut args = words(&["--listen", &address, "--mode", mode]);
            if wanted.scenario.pipeline > 1 {
                args.extend(words(&[
                    "--pipeline",
                    &wanted.scenario.pipeline.to_string(),
                ]));
            }
            let (program, args) = kill_with_parent(programs, Family::Alone, baseline, args);
            Ok(Start {
                program,
                args,
                ready: Ready::Line,
                is_orderly: true,
            })
        }
        Subject::Nginx => {
            let nginx = programs.nginx.as_deref().ok_or_else(missing)?;
            let places = connections + connections / NGINX_SPARE_SHARE;
            let workers = (wanted.threads as u64).max(places.div_ceil(wanted.descriptors));
            let template = NGINX
                .replace("@CONNECTIONS@", &places.to_string())
                .replace("@THREADS@", &workers.to_string());
            let file = config("nginx.conf", &template)?;
            let dir = wanted.dir.display().to_string();
            // -e: it would otherwise open the log it was built with, which a plain user may not.
            let args = words(&["-p", &dir, "-e", "stderr", "-c", &file]);
            Ok(foreign(programs, nginx, args))
        }
        Subject::Haproxy => {
            let haproxy = programs.haproxy.as_deref().ok_or_else(missing)?;
            let file = config("haproxy.cfg", HAPROXY)?;
            Ok(foreign(
                programs,
                haproxy,
                words(&["-db", "-q", "-f", &file]),
            ))
        }
        Subject::Go => {
            let program = plan.bin_dir.join("competitors/http-go");
            Ok(foreign(programs, &program, words(&[&address, &threads])))
        }
    }
}

fn foreign(programs: &Programs, program: &Path, args: Vec<String>) -> Start {
    let (program, args) = kill_with_parent(programs, Family::Of, program, args);
    Start {
        program,
        args,
        ready: Ready::Connects,
        is_orderly: false,
    }
}

/// Builds a Go competitor into `bin_dir`, unless it is there and of this source; its path.
///
/// # Errors
/// The last line the Go tool said.
pub fn build_go(go: &Path, bin_dir: &Path, name: &str, text: &str) -> Result<PathBuf, String> {
    let dir = bin_dir.join("competitors");
    let program = dir.join(name);
    let source = dir.join(format!("{name}.go"));
    let is_built = program.is_file() && std::fs::read_to_string(&source).is_ok_and(|s| s == text);
    if is_built {
        return Ok(program);
    }
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    // The program goes first and comes last: one without the other would pass for built.
    let _ = std::fs::remove_file(&program);
    std::fs::write(&source, text).map_err(|e| format!("{}: {e}", source.display()))?;
    let output = Command::new(go)
        .args(["build", "-o"])
        .arg(&program)
        .arg(&source)
        .env("GO111MODULE", "off")
        .env("GOCACHE", dir.join("go-cache"))
        .env("GOPROXY", "off")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{}: {e}", go.display()))?;
    if output.status.success() {
        return Ok(program);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().last().unwrap_or("go build failed").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_servers() {
        assert!(matches!(
            ServerLine::read("listening"),
            Ok(ServerLine::Words)
        ));
        assert!(ServerLine::read(r#"{"schema":"other/1"}"#).is_err());
        let report = HttpServerReport {
            head: wire::ServerHead {
                schema: wire::HTTP_SERVER_SCHEMA.into(),
                is_final: true,
                ..wire::ServerHead::default()
            },
            ..HttpServerReport::default()
        };
        let line = serde_json::to_string(&report).expect("writes");
        assert!(ServerLine::read(&line).expect("reads").is_final());
    }

    #[test]
    fn templates_have_no_mark_left_when_filled() {
        for template in [NGINX, HAPROXY] {
            let filled = template
                .replace("@...@", "")
                .replace("@ADDRESS@", "a")
                .replace("@THREADS@", "1")
                .replace("@CONNECTIONS@", "2")
                .replace("@DIR@", "/d");
            assert!(!filled.contains('@'), "{filled}");
        }
    }
}
