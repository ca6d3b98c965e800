//! A system between client and server: `holdfast-bench proxy`.
//!
//! Purpose: `network -> trials, direct and through the system -> what it adds`. The system's own
//! statistics must agree with ours.
//! Must not depend on: what the system does with what passes through it.

pub(crate) mod haproxy;
pub(crate) mod limit;
mod longconn;
pub(crate) mod nginx;
mod plan;
mod requests;
mod system;
mod trial;

use std::path::Path;
use std::time::Instant;

use holdfast_engine::SetupError;
use holdfast_report::bottleneck;
use holdfast_report::folder::RunFolder;
use holdfast_report::header::Header;
use holdfast_report::proxy::record::{PROXY_RUN_SCHEMA, ProxyRun, Trial};
use holdfast_report::proxy::{rounds, summary, verdict};
use holdfast_telemetry::live::Live;
use holdfast_telemetry::units::round;
use holdfast_testbed::network::Network;
use holdfast_testbed::network::layout::BACKEND;
use holdfast_testbed::sandbox::{self, Entered};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::network_record::network_record;
use crate::run_control::{Aborted, RunControl};
use crate::run_harness::RunFlags;
use crate::scenario::Scenario;
use plan::{Plan, TrialPlan};
use trial::Ground;

pub use plan::Flags;

/// A system under test, direct and through it.
pub struct Proxy {
    plan: Plan,
    network: Option<Network>,
}

impl Proxy {
    /// Checks `flags`.
    ///
    /// # Errors
    /// The first thing that stands in the way.
    pub fn new(flags: Flags) -> Result<Self, SetupError> {
        Ok(Self {
            plan: Plan::new(flags)?,
            network: None,
        })
    }
}

impl Scenario for Proxy {
    type Record = ProxyRun;
    const NAME: &'static str = "proxy";
    const SCHEMA: &'static str = PROXY_RUN_SCHEMA;

    fn run_flags(&self) -> &RunFlags {
        &self.plan.run
    }

    fn enter(&self) -> Result<Option<u8>, SetupError> {
        Ok(match sandbox::enter(false)? {
            Entered::Done(code) => Some(code),
            Entered::Inside(_) => None,
        })
    }

    fn prepare(&mut self, head: Header, _live: &mut Live) -> Result<ProxyRun, SetupError> {
        // What does not raise it itself would stop at the soft limit.
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        let plan = &self.plan;
        let users = plan.trials.iter().map(|t| t.users).max().unwrap_or(0);
        let network = Network::build(plan.layout, users)?;
        network.check()?;
        let mut run = ProxyRun {
            header: head,
            network: network_record(&network),
            asked: plan.asked(),
            version: plan.version.clone(),
            ..ProxyRun::default()
        };
        run.header.lab = network.host(BACKEND).lab.clone();
        run.header.machine.rlimit_nofile.soft = run.header.machine.rlimit_nofile.hard;
        self.network = Some(network);
        Ok(run)
    }

    async fn run(
        &mut self,
        control: &mut RunControl,
        folder: &RunFolder,
        run: &mut ProxyRun,
    ) -> Result<(), SetupError> {
        let (plan, network) = (&self.plan, self.network.as_ref());
        let network = network.expect("prepare has made it");
        control.progress.title = "bench proxy";
        let started = Instant::now();
        for (number, wanted) in plan.trials.iter().enumerate() {
            let left = plan.trials[number..].iter().map(|t| plan.estimate(t)).sum();
            let part = part_name(wanted, number, plan.trials.len());
            control.progress.begin(part, wanted.users, left);
            let done = match trial::folder(folder.path(), number, wanted) {
                Ok(dir) => {
                    let mut ground = Ground {
                        control,
                        plan,
                        network,
                        dir: &dir,
                    };
                    ground.perform(wanted).await
                }
                Err(aborted) => Err(aborted),
            };
            // A folder without files goes.
            let _ = std::fs::remove_dir(trial::path(folder.path(), number, wanted));
            match done {
                Ok(trial) => run.trials.push(trial),
                Err(Aborted::Refused(error)) => return Err(error),
                Err(Aborted::Interrupted) => {
                    run.header.incidents.push("interrupted".into());
                    break;
                }
                Err(Aborted::Failed { kind, why }) => run.trials.push(Trial {
                    scenario: wanted.scenario.clone(),
                    is_proxied: wanted.is_proxied,
                    mode: wanted.mode.map(|mode| mode.name().into()),
                    round: wanted.round,
                    users: wanted.users,
                    error: Some(format!("{why} ({kind})")),
                    ..Trial::default()
                }),
            }
        }
        run.header.seconds = round(started.elapsed().as_secs_f64(), 3);
        Ok(())
    }

    fn record(&mut self, _folder: &RunFolder, run: &mut ProxyRun) {
        run.trials = rounds::summed_up(std::mem::take(&mut run.trials));
        run.added = rounds::added(&run.trials);
        run.name_modes();
    }

    fn judge(run: &mut ProxyRun) {
        verdict::judge(run);
        run.header.limits = bottleneck::of_proxy(run);
    }

    fn summarise(run: &ProxyRun, folder: &Path) -> String {
        summary::page(run, folder)
    }

    fn head(run: &mut ProxyRun) -> &mut Header {
        &mut run.header
    }
}

/// Trial `number` of `count` in words.
fn part_name(trial: &TrialPlan, number: usize, count: usize) -> String {
    let via = match (trial.is_proxied, trial.mode) {
        (false, _) => "direct".into(),
        (true, None) => "through the system".into(),
        (true, Some(mode)) => format!("through the system in {} mode", mode.name()),
    };
    format!(
        "{} of {count}: {}, {via}, round {}",
        number + 1,
        trial.scenario,
        trial.round
    )
}
