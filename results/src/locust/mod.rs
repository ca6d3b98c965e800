//! A real Locust master and our workers on many hosts: `holdfast-bench locust`.
//!
//! Purpose: `plan -> enclosure -> network -> run -> record -> verdict`, with pdsh and Locust as they are used on real machines.
//! Invariants: workers, server, kernel and master agree, or the run fails. A run that began leaves a record.
//! Must not know: Locust's protocol; that is the worker's.

mod close;
pub mod crew;
mod fill;
pub mod flow;
pub mod histograms;
pub mod master;
pub mod page;
pub mod plan;
pub mod record;
mod sampling;
pub mod summary;
mod watch;
pub mod workers;

use std::time::SystemTime;

use crate::enclosure::{self, Entered};
use crate::folder::{RunFolder, labelled};
use crate::head::Head;
use crate::http::stage::{Cut, Stage};
use crate::live::Live;
use crate::network::Network;
use crate::network::layout::{BACKEND, MASTER};
use crate::network::record::NetworkRecord;
use crate::refusal::Refusal;
use crate::run::{RUN_SCHEMA, Run};
use crate::{frame, limit, origin, report, verdict};
use flow::Flow;
use plan::Plan;

pub use plan::Flags;

/// Runs it all and prints the result. Returns the exit code: 0 passed, 1 fell short, 130 interrupted.
///
/// # Errors
/// When the run could not start; nothing is left behind then.
pub fn bench(flags: Flags) -> Result<u8, Refusal> {
    let plan = Plan::new(flags)?;
    let machine = origin::machine();
    if let Entered::Done(code) = enclosure::enter(plan.flags.web.is_some())? {
        return Ok(code);
    }
    let live = Live::new(plan.flags.run.live).map_err(|line| Refusal::passed_on(&line))?;
    let network = Network::build(plan.layout, plan.users())?;
    network.check()?;
    let web = plan.flags.web;
    let page = web
        .map(|port| page::publish(network.host(MASTER), port))
        .transpose()?;
    #[expect(clippy::disallowed_methods, reason = "the date in the folder's name")]
    let started = SystemTime::now();
    let folder = RunFolder::create(&plan.runs, started, &labelled("locust", plan.label()))?;
    let mut run = Run {
        head: Head {
            machine,
            lab: network.host(BACKEND).lab.clone(),
            ..origin::head(RUN_SCHEMA, "locust", plan.label(), started)
        },
        asked: plan.asked(),
        network: Some(NetworkRecord::of(&network)),
        ..Run::default()
    };
    let is_interrupted = load(&plan, &network, &folder, page.as_deref(), live, &mut run)
        .inspect_err(|_| folder.discard())?;
    verdict::judge(&mut run);
    run.head.limits = limit::of_longconn(&run);
    let is_written = frame::leave(&run, &folder, &plan.runs);
    frame::print_result(&run, plan.flags.run.json, || {
        summary::page(&run, folder.path())
    });
    report::leave(folder.path());
    Ok(frame::exit_code(
        run.head.verdict,
        is_interrupted,
        is_written,
    ))
}

/// The asynchronous part; true if it was interrupted.
fn load(
    plan: &Plan,
    network: &Network,
    folder: &RunFolder,
    page: Option<&str>,
    live: Live,
    run: &mut Run,
) -> Result<bool, Refusal> {
    frame::runtime()?.block_on(async {
        let mut stage = Stage::new(live)?;
        if let Some(page) = page {
            stage.live.say(format_args!("Locust's page: {page}"));
        }
        let mut flow = Flow::new(plan, network, folder, stage).await.map_err(|e| {
            Refusal::new(
                format!("series.csv: {e}"),
                "give another folder with --runs DIR",
            )
        })?;
        let ended = flow.load().await;
        match &ended {
            Ok(()) => {}
            Err(Cut::Interrupted) => flow.seen.incidents.push("interrupted".into()),
            Err(Cut::Failed { why, .. }) => flow.seen.incidents.push(why.clone()),
        }
        flow.finish().await;
        flow.fill(run);
        Ok(flow.stage.is_interrupted())
    })
}
