//! The relays that are measured: their command lines and configurations.
//!
//! Invariants: every relay listens on one address of 127.0.0.0/8 and has one thread. All end with
//! the bench, however it ends: ours by their own flag, the others by the kernel.
//! Must not depend on: how they are measured.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::plan::{Plan, Subject};
use crate::competitors::{Between, Mode};
use crate::http::programs::{Family, kill_with_parent};

use holdfast_testbed::child::words;

/// How a relay is started.
#[derive(Debug, Clone)]
pub struct Start {
    /// What is executed.
    pub program: PathBuf,
    /// With these words.
    pub args: Vec<String>,
    /// It prints a line when it listens; the others are ready when a connection to them opens.
    pub prints_line: bool,
}

/// What a measurement asks of its relay.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Where to listen.
    pub address: SocketAddr,
    /// Where to pass connections on to; only ours takes several.
    pub backends: &'a [SocketAddr],
    /// Connections to come.
    pub connections: u64,
    /// haproxy's statistics.
    pub socket: &'a Path,
    /// Folder for its configuration, made already.
    pub dir: &'a Path,
}

/// The command line of `subject`; its configuration is written. `None`: nothing to start.
///
/// # Errors
/// When its configuration cannot be written or its program is not here.
pub fn start(subject: Subject, plan: &Plan, wanted: &Wanted<'_>) -> Result<Option<Start>, String> {
    let programs = &plan.programs;
    let missing = || format!("{} is not here", subject.name());
    let backend = *wanted.backends.first().ok_or("a relay without a backend")?;
    let between = Between {
        address: wanted.address,
        backend,
        threads: plan.cores.server.len(),
        descriptors: plan.descriptors,
        mode: Mode::Tcp,
        is_splicing: subject == Subject::HaproxySplice,
        socket: wanted.socket,
        dir: wanted.dir,
    };
    let (program, args, family) = match subject {
        Subject::Direct => return Ok(None),
        Subject::Holdfast => {
            let config = wanted.dir.join(CONFIG);
            write_config(&config, wanted.address, wanted.backends, 1)?;
            let config = config.display().to_string();
            let args = words(&[
                "relay",
                "--config",
                &config,
                "--connections",
                &wanted.connections.to_string(),
                "--threads",
                &plan.cores.server.len().to_string(),
                "--progress",
                "json",
                "--die-with-parent",
            ]);
            return Ok(Some(Start {
                program: plan.ours.0.clone(),
                args,
                prints_line: true,
            }));
        }
        Subject::Baseline => {
            let baseline = programs.baseline.clone().ok_or_else(missing)?;
            let args = words(&[&wanted.address.to_string(), &backend.to_string()]);
            (baseline, args, Family::Alone)
        }
        Subject::Haproxy | Subject::HaproxySplice => {
            let haproxy = programs.haproxy.clone().ok_or_else(missing)?;
            (haproxy, between.haproxy()?, Family::Of)
        }
        Subject::Nginx => {
            let nginx = programs.nginx.clone().ok_or_else(missing)?;
            let args = between.nginx(&nginx)?;
            (nginx, args, Family::Of)
        }
    };
    let (program, args) = kill_with_parent(programs, family, &program, args);
    Ok(Some(Start {
        program,
        args,
        prints_line: subject == Subject::Baseline,
    }))
}

/// Our relay's configuration, in the folder of its measurement.
pub const CONFIG: &str = "relay.toml";

/// Writes our relay's configuration: leastconn over `backends`, each with `weight`.
///
/// # Errors
/// When it cannot be written.
pub fn write_config(
    path: &Path,
    address: SocketAddr,
    backends: &[SocketAddr],
    weight: u32,
) -> Result<(), String> {
    let mut text =
        format!("[[listen]]\naddress = \"{address}\"\n\n[pool.default]\nbalance = \"leastconn\"\n");
    for backend in backends {
        let _ = write!(
            text,
            "\n[[pool.default.backend]]\naddress = \"{backend}\"\nweight = {weight}\n"
        );
    }
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
