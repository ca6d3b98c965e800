//! One trial: a server, perhaps the system before it, a client, and what was used meanwhile.
//!
//! Purpose: `server -> system -> client -> window -> counts -> ends`, for long connections and for
//! HTTP.
//! Invariants: nothing a trial started outlives it. What is counted at one moment is counted while
//! nothing opens or closes, or with what was under way as slack.
//! Must not depend on: other trials, verdicts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::haproxy::Statistics;
use super::plan::{Kind, PORT, Plan, TrialPlan};
use super::system::{self, Running};
use crate::competitors::Mode;
use crate::run_control::{Aborted, RunControl, has_not_ended};

use holdfast_report::proxy::record::{Trial, Window};
use holdfast_telemetry::proc::KernelSample;
use holdfast_telemetry::proc::tree;
use holdfast_telemetry::report_line::Report;
use holdfast_telemetry::units::round;
use holdfast_testbed::child::Child;
use holdfast_testbed::network::Network;
use holdfast_testbed::network::layout::BACKEND;

/// A wait between two looks.
const POLL: Duration = Duration::from_millis(100);
/// What has to happen beyond the time it should take.
pub(super) const SPARE: Duration = Duration::from_secs(60);
/// A system whose client has ended has closed everything by then.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// Where trials are made.
pub struct Ground<'a> {
    /// Signals, waits.
    pub control: &'a mut RunControl,
    /// What was asked for.
    pub plan: &'a Plan,
    /// The hosts.
    pub network: &'a Network,
    /// A folder for this trial's files.
    pub dir: &'a Path,
}

/// One moment.
pub(super) struct Moment {
    pub(super) at: Instant,
    server_cpu: f64,
    client_cpu: f64,
    proxy_cpu: Option<f64>,
    pub(super) kernel: KernelSample,
}

impl Moment {
    pub(super) fn until(&self, end: &Self, count: u64) -> Window {
        Window {
            seconds: round(end.at.duration_since(self.at).as_secs_f64(), 3),
            count,
            server_cpu_seconds: round(end.server_cpu - self.server_cpu, 3),
            client_cpu_seconds: round(end.client_cpu - self.client_cpu, 3),
            proxy_cpu_seconds: end
                .proxy_cpu
                .zip(self.proxy_cpu)
                .map(|(end, start)| round(end - start, 3)),
            machine_busy_percent: round(end.kernel.busy_percent_since(&self.kernel), 1),
        }
    }
}

/// The processes of a trial.
pub(super) struct Programs<S, C> {
    pub(super) server: Child<S>,
    pub(super) client: Child<C>,
    pub(super) system: Option<Running>,
}

impl<S: Report, C: Report> Programs<S, C> {
    pub(super) fn moment(&self) -> Moment {
        Moment {
            at: Instant::now(),
            server_cpu: tree::cpu_seconds(self.server.pid()),
            client_cpu: tree::cpu_seconds(self.client.pid()),
            proxy_cpu: self.system.as_ref().and_then(Running::cpu_seconds),
            kernel: KernelSample::read(),
        }
    }

    pub(super) fn system_rss_bytes(&self) -> Option<u64> {
        self.system.as_ref().and_then(Running::rss_bytes)
    }

    pub(super) fn statistics(&self) -> Result<Option<Statistics>, Aborted> {
        statistics(self.system.as_ref())
    }

    pub(super) fn out_of_descriptors(&self) -> Option<String> {
        self.system.as_ref().and_then(Running::out_of_descriptors)
    }
}

impl Ground<'_> {
    /// Makes the trial.
    ///
    /// # Errors
    /// Why it gave no figures.
    pub async fn perform(&mut self, trial: &TrialPlan) -> Result<Trial, Aborted> {
        match trial.kind {
            Kind::Longconn | Kind::Limit => self.longconn(trial).await,
            Kind::Saturation | Kind::Waiting => self.http(trial).await,
        }
    }

    /// Starts a program of ours on a host.
    pub(super) fn start<R: Report>(
        &self,
        name: &'static str,
        host: &str,
        program: &Path,
        args: Vec<String>,
    ) -> Result<Child<R>, Aborted> {
        let (ip, args) = self
            .network
            .host(host)
            .command(&self.network.ip, program, args);
        let log = self.dir.join(format!("{name}.stderr.log"));
        Child::start(name, &ip, &args, log, self.control.notify.clone())
            .map_err(|e| Aborted::failed("not_started", format!("the {name}: {e}")))
    }

    pub(super) async fn start_server<R: Report>(
        &mut self,
        args: Vec<String>,
    ) -> Result<Child<R>, Aborted> {
        let program = self.plan.programs.0.clone();
        let mut server = self.start("server", BACKEND, &program, args)?;
        let found = self
            .control
            .wait(SPARE, POLL, || {
                has_not_ended(&mut server, "server_did_not_start")?;
                Ok((server.heard().line_count > 0).then_some(()))
            })
            .await?;
        found.ok_or_else(|| Aborted::failed("server_did_not_start", "it did not listen"))?;
        Ok(server)
    }

    pub(super) async fn start_system(
        &mut self,
        trial: &TrialPlan,
    ) -> Result<Option<Running>, Aborted> {
        if !trial.is_proxied {
            return Ok(None);
        }
        let (plan, network) = (self.plan, self.network);
        let mode = trial.mode.unwrap_or(Mode::Tcp);
        system::start(self.control, &plan.system, mode, network, PORT, self.dir)
            .await
            .map(Some)
    }

    /// Waits until `is_it` holds of what the programs have said.
    pub(super) async fn until<S: Report, C: Report>(
        &mut self,
        programs: &mut Programs<S, C>,
        max: Duration,
        what: &str,
        is_it: impl Fn(&Programs<S, C>) -> bool,
    ) -> Result<(), Aborted> {
        let found = self
            .control
            .wait(max, POLL, || {
                has_not_ended(&mut programs.server, "server_died")?;
                has_not_ended(&mut programs.client, "client_died")?;
                if let Some(system) = &mut programs.system {
                    system.still_runs("system_died")?;
                }
                Ok(is_it(programs).then_some(()))
            })
            .await?;
        found.ok_or_else(|| {
            let why = format!("{what} took longer than {} s", max.as_secs());
            Aborted::failed("timed_out", why)
        })
    }

    /// Ends client, system and server in this order: the last reports of client and server, and the
    /// system's statistics.
    pub(super) async fn end_all<S: Report + Clone, C: Report + Clone>(
        &mut self,
        programs: Programs<S, C>,
    ) -> Result<(C, Option<Statistics>, S), Aborted> {
        let client = self.end(programs.client).await?;
        let statistics = self.statistics_after(programs.system.as_ref()).await?;
        if let Some(system) = programs.system {
            system.end(self.control).await?;
        }
        Ok((client, statistics, self.end(programs.server).await?))
    }

    /// Ends a process of ours; its last report.
    async fn end<R: Report + Clone>(&mut self, mut child: Child<R>) -> Result<R, Aborted> {
        child.signal(Signal::SIGTERM);
        self.control.until_ended(&mut child, "did_not_end").await?;
        child.tidy();
        let last = child.heard().latest.clone().filter(Report::is_final);
        last.ok_or_else(|| {
            let why = format!(
                "the {} left no final report: it {}",
                child.name,
                child.end_in_words()
            );
            Aborted::failed("without_result", why)
        })
    }

    /// Statistics once nothing is open any more: a session counts its bytes and its end when it has
    /// ended.
    async fn statistics_after(
        &mut self,
        system: Option<&Running>,
    ) -> Result<Option<Statistics>, Aborted> {
        self.control
            .wait(CLOSE_MAX, POLL, || {
                let is_over = statistics(system)?.is_none_or(|s| s.front.open == 0);
                Ok(is_over.then_some(()))
            })
            .await?;
        statistics(system)
    }
}

/// The words of a command line without quotes.
pub(super) fn split(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

pub(super) fn begun(trial: &TrialPlan, system: Option<&Running>) -> Trial {
    Trial {
        scenario: trial.scenario.clone(),
        is_proxied: trial.is_proxied,
        mode: trial.mode.map(|mode| mode.name().into()),
        round: trial.round,
        users: trial.users,
        proxy_rss_base_bytes: system.and_then(Running::rss_bytes),
        ..Trial::default()
    }
}

fn statistics(system: Option<&Running>) -> Result<Option<Statistics>, Aborted> {
    system.map_or(Ok(None), Running::statistics)
}

pub(super) fn latest<R: Report + Clone + Default>(child: &Child<R>) -> R {
    child.heard().latest.clone().unwrap_or_default()
}

pub(super) fn line_count<R: Report>(child: &Child<R>) -> u64 {
    child.heard().line_count
}

pub(super) fn rate_of(count: u64, from_us: u64, to_us: u64) -> f64 {
    let seconds = to_us.saturating_sub(from_us) as f64 / 1e6;
    if seconds > 0.0 {
        round(count as f64 / seconds, 1)
    } else {
        0.0
    }
}

pub(super) fn occurred(counts: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let counts = counts.iter().filter(|(_, n)| **n > 0);
    counts.map(|(kind, n)| (kind.clone(), *n)).collect()
}

/// Where the files of trial `number` are.
#[must_use]
pub fn path(run: &Path, number: usize, trial: &TrialPlan) -> PathBuf {
    let via = match (trial.is_proxied, trial.mode) {
        (false, _) => "direct".into(),
        (true, None) => "proxied".into(),
        (true, Some(mode)) => format!("proxied-{}", mode.name()),
    };
    run.join("trials")
        .join(format!("{:02}-{}-{via}", number + 1, trial.scenario))
}

/// A folder for the files of trial `number`.
///
/// # Errors
/// When it cannot be made.
pub fn folder(run: &Path, number: usize, trial: &TrialPlan) -> Result<PathBuf, Aborted> {
    let dir = path(run, number, trial);
    std::fs::create_dir_all(&dir)
        .map_err(|e| Aborted::failed("not_started", format!("{}: {e}", dir.display())))?;
    Ok(dir)
}
