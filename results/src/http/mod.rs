//! HTTP servers and clients side by side: `holdfast-bench http`.
//!
//! Purpose: `plan -> folder -> Go peer -> lab -> slices, round by round -> medians -> ratios -> verdict -> record`.
//! Every slice has a server of its own on one half of the cores and a generator on the other ([`mod@slice`]).
//! Invariants: whatever happens, a run that began leaves a record, and nothing else. One thread: a namespace is entered before
//! the runtime starts.
//! Must not know: how HTTP is spoken.

pub mod cores;
mod ends;
pub mod generator;
mod glance;
pub mod plan;
pub mod programs;
pub mod scenario;
pub mod slice;
pub mod stage;
pub mod subject;

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{frame, origin};

use holdfast_report::folder::RunFolder;
use holdfast_report::http::record::{Cores, Entry, HTTP_RUN_SCHEMA, HttpRun, Measured};
use holdfast_report::http::{ratios, summary, verdict};
use holdfast_report::{bottleneck, print, report};
use holdfast_telemetry::live::{Live, LiveFlags};
use holdfast_telemetry::refusal::Refusal;
use holdfast_telemetry::units::{minutes, round};
use holdfast_testbed::lab;
use plan::Plan;
use scenario::Subject;
use stage::{Cut, Stage};

pub use plan::{Options, SLICE_DEFAULT};
pub use scenario::{Generator, SCENARIOS};

/// Runs it all, shows it on its way as `flags` want, and prints the result: the summary, or `run.json` if `is_json`. Returns the exit code: 0 passed,
/// 1 fell short, 130 interrupted.
///
/// # Errors
/// When the run could not start; nothing is left behind then.
pub fn bench(options: Options, is_json: bool, flags: LiveFlags) -> Result<u8, Refusal> {
    let mut plan = Plan::new(options)?;
    let mut live = Live::new(flags).map_err(|line| Refusal::passed_on(&line))?;
    #[expect(clippy::disallowed_methods, reason = "the date in the folder's name")]
    let started = SystemTime::now();
    let folder = RunFolder::create(&plan.runs, started, &plan.folder_name())?;
    prepare_go(&mut plan, &mut live);
    for notice in &plan.notices {
        live.say(notice);
    }
    let mut run = HttpRun {
        header: origin::head(
            HTTP_RUN_SCHEMA,
            "http",
            plan.options.label.as_deref(),
            started,
        ),
        asked: plan.asked(),
        notes: plan.notices.clone(),
        cores: Cores {
            server: plan.halves.server.clone(),
            client: plan.halves.client.clone(),
        },
        programs: plan.versions.clone(),
        scenarios: entries(&plan),
        ..HttpRun::default()
    };
    // Peers that do not raise it themselves would stop at the soft limit of descriptors.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let connections_max = plan
        .slices
        .iter()
        .map(|s| s.scenario.connections_of(s.subject))
        .max();
    let tuning = lab::Tuning {
        is_private: plan.options.is_private,
        ..lab::Tuning::default()
    };
    run.header.lab = lab::enter(connections_max.unwrap_or(0), &tuning);
    for note in &run.header.lab.notes {
        live.say(note);
    }
    live.say(format_args!(
        "{} slices in {} rounds, about {}: server on cores {:?}, client on {:?}",
        plan.slices.len(),
        plan.options.rounds,
        minutes(plan.estimate(0)),
        plan.halves.server,
        plan.halves.client
    ));

    let is_interrupted =
        perform(&plan, &folder, live, &mut run).inspect_err(|_| folder.discard())?;
    for entry in &mut run.scenarios {
        *entry = std::mem::take(entry).summed_up();
        entry.limits = bottleneck::of_entry(entry);
    }
    run.ratios = ratios::ratios(&run.scenarios);
    verdict::judge(&mut run);
    run.header.limits = bottleneck::of_http(&run);
    // Only empty ones go: what a failed slice left in them stays.
    let _ = std::fs::remove_dir(folder.file("work"));
    let is_written = frame::leave(&run, &folder, &plan.runs);
    print::print_result(&run, is_json, || summary::page(&run, folder.path()));
    report::leave(folder.path());
    Ok(frame::exit_code(
        run.header.verdict,
        is_interrupted,
        is_written,
    ))
}

/// Builds the Go peer before anything is measured; without it Go is left out.
fn prepare_go(plan: &mut Plan, live: &mut Live) {
    if !plan.slices.iter().any(|s| s.subject == Subject::Go) {
        return;
    }
    live.say("building the Go peer");
    let built = match &plan.programs.go {
        Some(go) => subject::build_go(go, &plan.bin_dir),
        None => Err("the Go tool is not here".into()),
    };
    if let Err(why) = built {
        plan.slices.retain(|s| s.subject != Subject::Go);
        plan.notices
            .push(format!("go is left out: it cannot be built: {why}"));
    }
}

/// One entry for each scenario, subject and generator, without figures yet.
fn entries(plan: &Plan) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for slice in &plan.slices {
        if entries.iter().all(|e| !is_of(e, slice)) {
            entries.push(Entry {
                scenario: slice.scenario.name.into(),
                subject: slice.subject.name().into(),
                generator: slice.generator.name().into(),
                connections: slice.scenario.connections_of(slice.subject),
                offered_per_second: slice.scenario.offered_per_second().map(|v| round(v, 1)),
                ..Entry::default()
            });
        }
    }
    entries
}

fn is_of(entry: &Entry, slice: &plan::Slice) -> bool {
    entry.scenario == slice.scenario.name
        && entry.subject == slice.subject.name()
        && entry.generator == slice.generator.name()
}

/// All slices; true if it was interrupted.
fn perform(
    plan: &Plan,
    folder: &RunFolder,
    live: Live,
    run: &mut HttpRun,
) -> Result<bool, Refusal> {
    frame::runtime()?.block_on(async {
        let mut stage = Stage::new(live)?;
        let started = Instant::now();
        let mut broken: BTreeSet<Subject> = BTreeSet::new();
        for (number, slice) in plan.slices.iter().enumerate() {
            if broken.contains(&slice.subject) {
                continue;
            }
            let left = time_left(plan, number, started.elapsed());
            let target = slice.scenario.connections_of(slice.subject);
            stage.glance.begin(plan.slice_name(number), target, left);
            let measured = match slice::measure(&mut stage, plan, folder, number).await {
                Ok(measured) => measured,
                Err(Cut::Interrupted) => {
                    run.header.incidents.push("interrupted".into());
                    break;
                }
                Err(Cut::Failed { kind, why }) => {
                    let name = slice.subject.name();
                    let what = format!("{} of {name}", slice.scenario.name);
                    stage
                        .live
                        .say(format_args!("{what}, round {}: {why}", slice.round));
                    if slice.subject != Subject::Holdfast {
                        run.notes
                            .push(format!("{what}, round {}: {why}", slice.round));
                        // One that does not start would cost ten seconds each time.
                        if kind == "server_did_not_start" {
                            run.notes.push(format!("{name} is left out from there on"));
                            broken.insert(slice.subject);
                        }
                    }
                    Measured {
                        round: slice.round,
                        failures: [(kind.to_string(), 1)].into(),
                        error: Some(why),
                        ..Measured::default()
                    }
                }
            };
            if let Some(entry) = run.scenarios.iter_mut().find(|e| is_of(e, slice)) {
                entry.measured.push(measured);
            }
        }
        stage.live.finish();
        run.header.seconds = round(started.elapsed().as_secs_f64(), 3);
        Ok(stage.is_interrupted())
    })
}

/// What is left by the plan, corrected by how well the plan has been kept so far.
fn time_left(plan: &Plan, number: usize, elapsed: Duration) -> Duration {
    let (all, left) = (plan.estimate(0), plan.estimate(number));
    let done = (all - left).as_secs_f64();
    let pace = if done > 10.0 {
        elapsed.as_secs_f64() / done
    } else {
        1.0
    };
    left.mul_f64(pace)
}
