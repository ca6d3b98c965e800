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
mod kernel;
pub mod master;
pub mod page;
pub mod plan;
mod sampling;
mod watch;
pub mod workers;

use std::time::SystemTime;

use crate::http::stage::{Cut, Stage};
use crate::network_record::network_record;
use crate::{frame, origin};

use flow::Flow;
use holdfast_report::folder::{RunFolder, labelled};
use holdfast_report::header::Header;
use holdfast_report::locust::summary;
use holdfast_report::run::{RUN_SCHEMA, Run};
use holdfast_report::{bottleneck, print, report, verdict};
use holdfast_telemetry::live::Live;
use holdfast_telemetry::refusal::Refusal;
use holdfast_testbed::enclosure::{self, Entered};
use holdfast_testbed::network::Network;
use holdfast_testbed::network::layout::{BACKEND, MASTER};
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
        header: Header {
            machine,
            lab: network.host(BACKEND).lab.clone(),
            ..origin::head(RUN_SCHEMA, "locust", plan.label(), started)
        },
        asked: plan.asked(),
        network: Some(network_record(&network)),
        ..Run::default()
    };
    let is_interrupted = load(&plan, &network, &folder, page.as_deref(), live, &mut run)
        .inspect_err(|_| folder.discard())?;
    verdict::judge(&mut run);
    run.header.limits = bottleneck::of_longconn(&run);
    let is_written = frame::leave(&run, &folder, &plan.runs);
    print::print_result(&run, plan.flags.run.json, || {
        summary::page(&run, folder.path())
    });
    report::leave(folder.path());
    Ok(frame::exit_code(
        run.header.verdict,
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
