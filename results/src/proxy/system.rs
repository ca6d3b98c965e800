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
use crate::competitors::{Between, Mode};
use crate::run_control::{Aborted, RunControl, has_not_ended};

use holdfast_telemetry::proc::tree;
use holdfast_telemetry::report_line::AnyLine;
use holdfast_testbed::child::Child;
use holdfast_testbed::network::Network;
use holdfast_testbed::network::layout::{BACKEND, BALANCER};

/// Only in the lab: its /run is its own.
const SOCKET: &str = "/run/haproxy.sock";
/// One that does not listen by then will not.
const START_MAX: Duration = Duration::from_secs(10);

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
    let between = Between {
        address,
        backend: network.host(BACKEND).at(port),
        threads: workers(),
        descriptors,
        mode,
        is_splicing: false,
        socket: Path::new(SOCKET),
        dir,
    };
    let (args, socket) = match known {
        Known::Haproxy => (between.haproxy(), Some(SOCKET.into())),
        Known::Nginx => (between.nginx(program), None),
    };
    let args = args.map_err(fail)?;
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
