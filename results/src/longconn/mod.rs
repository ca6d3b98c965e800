//! One run of `longconn`, top to bottom.
//!
//! Purpose: `plan -> folder -> lab -> server -> baseline -> client -> ramp -> hold -> three counts -> client ends ->
//! server ends -> record -> verdict`.
//! Invariants: every wait is bounded. Whatever happens after the server's start, both processes are ended and waited
//! for, in order, and a record is written. One thread: a namespace is entered before the runtime starts.
//! Must not know: how verdicts are found ([`holdfast_report::verdict`]), how text looks ([`holdfast_report::summary`]).

mod close;
mod ended;
mod flow;
mod glance;
mod options;
pub mod plan;
mod sampling;

use std::time::SystemTime;

use crate::{frame, origin};

use ended::Ended;
use flow::Flow;
use holdfast_report::folder::RunFolder;
use holdfast_report::run::{RUN_SCHEMA, Run};
use holdfast_report::{bottleneck, print, report, summary, verdict};
use holdfast_sysctl::{Role, plan as tune};
use holdfast_telemetry::live::{Live, LiveFlags};
use holdfast_telemetry::refusal::Refusal;
use holdfast_testbed::lab;
use plan::Plan;

pub use options::{Options, SpawnRate, WarmUp};

/// Runs it all, shows it on its way as `flags` want, and prints the result: the summary, or `run.json` if `is_json`. Returns the exit code: 0 passed,
/// 1 fell short, 130 interrupted.
///
/// # Errors
/// When the run could not start; nothing is left behind then.
pub fn bench(options: Options, is_json: bool, flags: LiveFlags) -> Result<u8, Refusal> {
    let plan = Plan::new(options)?;
    let mut live = Live::new(flags).map_err(|line| Refusal::passed_on(&line))?;
    #[expect(clippy::disallowed_methods, reason = "the date in the folder's name")]
    let started = SystemTime::now();
    let folder = RunFolder::create(&plan.runs, started, &plan.folder_name())?;
    for notice in &plan.notices {
        live.say(notice);
    }
    let mut run = Run {
        header: origin::head(
            RUN_SCHEMA,
            "longconn",
            plan.options.label.as_deref(),
            started,
        ),
        asked: plan.asked(),
        ..Run::default()
    };
    run.header.lab = lab::enter(plan.users, &plan.tuning);
    for note in &run.header.lab.notes {
        live.say(note);
    }
    if let Ok(machine) = holdfast_sysctl::Machine::read() {
        for shortfall in tune::shortfalls(&machine, Role::Both, run.asked.users) {
            live.say(shortfall);
        }
    }

    let is_interrupted = load(&plan, &folder, live, &mut run).inspect_err(|_| folder.discard())?;
    verdict::judge(&mut run);
    run.header.limits = bottleneck::of_longconn(&run);
    let is_written = frame::leave(&run, &folder, &plan.runs);
    print::print_result(&run, is_json, || summary::page(&run, folder.path()));
    report::leave(folder.path());
    Ok(frame::exit_code(
        run.header.verdict,
        is_interrupted,
        is_written,
    ))
}

/// The asynchronous part; true if it was interrupted.
fn load(plan: &Plan, folder: &RunFolder, live: Live, run: &mut Run) -> Result<bool, Refusal> {
    frame::runtime()?.block_on(async {
        let mut flow = Flow::new(plan, folder, live).await?;
        flow.seen.tcp_mem_pages = run.header.machine.tcp_mem_pages;
        let ended = flow.load().await;
        flow.end().await;
        flow.live.finish();
        match ended {
            Ended::Refused(refusal) => Err(refusal),
            Ended::Whole | Ended::Short => {
                flow.seen.fill(
                    run,
                    plan,
                    folder,
                    flow.server.as_ref(),
                    flow.client.as_ref(),
                );
                let is_interrupted = flow.interrupt_count > 0;
                flow.leave().await;
                Ok(is_interrupted)
            }
        }
    })
}
