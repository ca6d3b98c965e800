//! The system under test: started, asked, ended.
//!
//! Invariants: one that is started here listens on the balancer and passes on to the backend; its
//! configuration stays in the run's folder. Somebody else's is never started nor ended.
//! Must not depend on: what passes through it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};

use super::haproxy::{self, Statistics};
use super::nginx;
use super::plan::{Known, System, workers};
use crate::run_control::{Aborted, RunControl, has_not_ended};

use holdfast_telemetry::proc::tree;
use holdfast_telemetry::report_line::AnyLine;
use holdfast_testbed::child::{Child, words};
use holdfast_testbed::network::Network;
use holdfast_testbed::network::layout::{BACKEND, BALANCER};

const HAPROXY: &str = include_str!("../../competitors/haproxy-proxy.cfg");
const NGINX: &str = include_str!("../../competitors/nginx-stream.conf");
/// Only in the lab: its /run is its own.
const SOCKET: &str = "/run/haproxy.sock";
/// One that does not listen by then will not.
const START_MAX: Duration = Duration::from_secs(10);

/// Whether it understands what it passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bytes.
    Tcp,
    /// Requests.
    Http,
}

/// A system that is ready.
#[derive(Debug)]
pub struct Running {
    /// Where clients connect to.
    pub address: SocketAddr,
    process: Option<Child<AnyLine>>,
    socket: Option<PathBuf>,
    /// nginx's.
    log: Option<PathBuf>,
}

/// Starts `system` and waits until it listens.
///
/// # Errors
/// When it does not.
pub async fn start(
    control: &mut RunControl,
    system: &System,
    mode: Mode,
    network: &Network,
    port: u16,
    dir: &Path,
) -> Result<Running, Aborted> {
    let fail = |why: String| Aborted::failed("system_did_not_start", why);
    let (known, program) = match system {
        System::Target(address) => {
            return Ok(Running {
                address: *address,
                process: None,
                socket: None,
                log: None,
            });
        }
        System::Known(known, program) => (*known, program),
    };
    let balancer = network.host(BALANCER);
    let address = balancer.at(port);
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
    let (name, template) = match known {
        Known::Haproxy => ("haproxy.cfg", HAPROXY),
        Known::Nginx => ("nginx.conf", NGINX),
    };
    let module = match known {
        Known::Haproxy => None,
        Known::Nginx => nginx::stream(program),
    };
    let text = template
        .replace("@MODE@", if mode == Mode::Tcp { "tcp" } else { "http" })
        .replace("@ADDRESS@", &address.to_string())
        .replace("@BACKEND@", &network.host(BACKEND).at(port).to_string())
        .replace("@THREADS@", &workers().to_string())
        .replace("@CONNECTIONS@", &descriptors.to_string())
        .replace("@MODULE@", &module.unwrap_or_default())
        .replace("@SOCKET@", SOCKET)
        .replace("@DIR@", &dir.display().to_string());
    let file = dir.join(name);
    std::fs::write(&file, text).map_err(|e| fail(format!("{}: {e}", file.display())))?;
    let file = file.display().to_string();
    let (args, socket) = match known {
        Known::Haproxy => (words(&["-db", "-q", "-f", &file]), Some(SOCKET.into())),
        Known::Nginx => {
            let dir = dir.display().to_string();
            (words(&["-p", &dir, "-e", "stderr", "-c", &file]), None)
        }
    };
    let _ = std::fs::remove_file(SOCKET);
    let (ip, args) = balancer.command(&network.ip, program, args);
    let log = dir.join("system.stderr.log");
    let process = Child::start(
        "system under test",
        &ip,
        &args,
        log.clone(),
        control.notify.clone(),
    )
    .map_err(|e| fail(format!("{}: {e}", program.display())))?;
    let pid = process.pid();
    let mut running = Running {
        address,
        process: Some(process),
        socket,
        log: (known == Known::Nginx).then_some(log),
    };
    let found = control
        .wait(START_MAX, Duration::from_millis(20), || {
            running.still_runs("system_did_not_start")?;
            let is_ready = match &running.socket {
                Some(socket) => haproxy::ask(socket).is_ok(),
                None => nginx::is_ready(pid, workers()),
            };
            Ok(is_ready.then_some(()))
        })
        .await?;
    found.ok_or_else(|| {
        fail(format!(
            "it did not listen within {} s",
            START_MAX.as_secs()
        ))
    })?;
    Ok(running)
}

impl Running {
    /// Looks whether it still runs, where that can be seen.
    ///
    /// # Errors
    /// How it ended, counted as `kind`.
    pub fn still_runs(&mut self, kind: &'static str) -> Result<(), Aborted> {
        self.process
            .as_mut()
            .map_or(Ok(()), |process| has_not_ended(process, kind))
    }

    /// What it counts itself.
    ///
    /// # Errors
    /// When it has statistics and does not say them.
    pub fn statistics(&self) -> Result<Option<Statistics>, Aborted> {
        let Some(socket) = &self.socket else {
            return Ok(None);
        };
        haproxy::ask(socket).map(Some).map_err(|e| {
            Aborted::failed(
                "system_without_statistics",
                format!("haproxy's socket: {e}"),
            )
        })
    }

    /// What it said when it had no descriptors left, if it has no statistics to say so.
    #[must_use]
    pub fn out_of_descriptors(&self) -> Option<String> {
        nginx::out_of_descriptors(self.log.as_deref()?)
    }

    /// Time on a core so far, all its processes, seconds.
    #[must_use]
    pub fn cpu_seconds(&self) -> Option<f64> {
        self.process.as_ref().map(|p| tree::cpu_seconds(p.pid()))
    }

    /// Resident memory, all its processes, bytes.
    #[must_use]
    pub fn rss_bytes(&self) -> Option<u64> {
        self.process.as_ref().map(|p| tree::rss_bytes(p.pid()))
    }

    /// Ends what was started.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end(self, control: &mut RunControl) -> Result<(), Aborted> {
        let Some(mut process) = self.process else {
            return Ok(());
        };
        process.signal(nix::sys::signal::Signal::SIGTERM);
        control
            .until_ended(&mut process, "system_did_not_end")
            .await?;
        process.tidy();
        Ok(())
    }
}
