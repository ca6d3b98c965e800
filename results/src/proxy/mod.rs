//! A system between client and server: `holdfast-bench proxy`.
//!
//! Purpose: `plan -> enclosure -> network -> trials, direct and through the system -> what it adds -> verdict -> record`.
//! Invariants: the system's own statistics agree with ours, or the run fails. A run that began leaves a record.
//! Must not know: what the system does with what passes through it.

pub mod haproxy;
pub mod limit;
mod longconn;
mod nginx;
pub mod plan;
mod requests;
pub mod system;
pub mod trial;

use std::time::{Instant, SystemTime};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::http::stage::{Cut, Stage};
use crate::network_record::network_record;
use crate::{frame, origin};

use holdfast_report::folder::{RunFolder, labelled};
use holdfast_report::header::Header;
use holdfast_report::proxy::record::{PROXY_RUN_SCHEMA, ProxyRun, Trial};
use holdfast_report::proxy::{rounds, summary, verdict};
use holdfast_report::{print, report};
use holdfast_telemetry::live::Live;
use holdfast_telemetry::refusal::Refusal;
use holdfast_telemetry::units::round;
use holdfast_testbed::enclosure::{self, Entered};
use holdfast_testbed::network::Network;
use holdfast_testbed::network::layout::BACKEND;
use plan::Plan;
use trial::Ground;

pub use plan::Flags;

/// Runs it all and prints the result. Returns the exit code: 0 passed, 1 fell short, 130 interrupted.
///
/// # Errors
/// When the run could not start; nothing is left behind then.
pub fn bench(flags: &Flags) -> Result<u8, Refusal> {
    let plan = Plan::new(flags)?;
    if let Entered::Done(code) = enclosure::enter(false)? {
        return Ok(code);
    }
    let live = Live::new(flags.run.live).map_err(|line| Refusal::passed_on(&line))?;
    // What does not raise it itself would stop at the soft limit.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let machine = origin::machine();
    let users = plan.trials.iter().map(|t| t.users).max().unwrap_or(0);
    let network = Network::build(plan.layout, users)?;
    network.check()?;
    #[expect(clippy::disallowed_methods, reason = "the date in the folder's name")]
    let started = SystemTime::now();
    let name = labelled("proxy", plan.label.as_deref());
    let folder = RunFolder::create(&plan.runs, started, &name)?;
    let mut run = ProxyRun {
        header: Header {
            machine,
            lab: network.host(BACKEND).lab.clone(),
            ..origin::head(PROXY_RUN_SCHEMA, "proxy", plan.label.as_deref(), started)
        },
        network: network_record(&network),
        asked: plan.asked(),
        version: plan.version.clone(),
        ..ProxyRun::default()
    };
    let is_interrupted =
        perform(&plan, &network, &folder, live, &mut run).inspect_err(|_| folder.discard())?;
    run.trials = rounds::summed_up(std::mem::take(&mut run.trials));
    run.added = rounds::added(&run.trials);
    verdict::judge(&mut run);
    run.header.limits = holdfast_report::bottleneck::of_proxy(&run);
    let is_written = frame::leave(&run, &folder, &plan.runs);
    print::print_result(&run, flags.run.json, || summary::page(&run, folder.path()));
    report::leave(folder.path());
    Ok(frame::exit_code(
        run.header.verdict,
        is_interrupted,
        is_written,
    ))
}

/// All trials; true if it was interrupted.
fn perform(
    plan: &Plan,
    network: &Network,
    folder: &RunFolder,
    live: Live,
    run: &mut ProxyRun,
) -> Result<bool, Refusal> {
    frame::runtime()?.block_on(async {
        let mut stage = Stage::new(live)?;
        stage.glance.title = "bench proxy";
        let started = Instant::now();
        for (number, wanted) in plan.trials.iter().enumerate() {
            let via = if wanted.is_proxied {
                "through the system"
            } else {
                "direct"
            };
            let part = format!(
                "{} of {}: {}, {via}, round {}",
                number + 1,
                plan.trials.len(),
                wanted.scenario,
                wanted.round
            );
            let left = plan.trials[number..].iter().map(|t| plan.estimate(t)).sum();
            stage.glance.begin(part, wanted.users, left);
            let done = match trial::folder(folder.path(), number, wanted) {
                Ok(dir) => {
                    let mut ground = Ground {
                        stage: &mut stage,
                        plan,
                        network,
                        dir: &dir,
                    };
                    ground.perform(wanted).await
                }
                Err(cut) => Err(cut),
            };
            // A folder without files goes.
            let _ = std::fs::remove_dir(trial::path(folder.path(), number, wanted));
            match done {
                Ok(trial) => run.trials.push(trial),
                Err(Cut::Interrupted) => {
                    run.header.incidents.push("interrupted".into());
                    break;
                }
                Err(Cut::Failed { kind, why }) => run.trials.push(Trial {
                    scenario: wanted.scenario.clone(),
                    is_proxied: wanted.is_proxied,
                    round: wanted.round,
                    users: wanted.users,
                    error: Some(format!("{why} ({kind})")),
                    ..Trial::default()
                }),
            }
        }
        stage.live.finish();
        run.header.seconds = round(started.elapsed().as_secs_f64(), 3);
        Ok(stage.is_interrupted())
    })
}
