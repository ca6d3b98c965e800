//! HTTP servers and clients side by side: `holdfast-bench http`.
//!
//! Purpose: `Go competitor -> namespace -> slices, round by round -> medians -> ratios`. Every
//! slice has a server of its own on one half of the cores and a generator on the other (`slice`).
//! Must not depend on: how HTTP is spoken.

pub(crate) mod address;
pub(crate) mod cores;
pub mod generator;
pub(crate) mod moment;
pub mod plan;
mod processes;
pub(crate) mod programs;
pub(crate) mod scenario;
mod slice;
pub mod subject;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_engine::SetupError;
use holdfast_report::bottleneck;
use holdfast_report::folder::RunFolder;
use holdfast_report::header::Header;
use holdfast_report::http::record::{Cores, Entry, HTTP_RUN_SCHEMA, HttpRun, Measured};
use holdfast_report::http::{ratios, summary, verdict};
use holdfast_telemetry::live::Live;
use holdfast_telemetry::units::{minutes, round};
use holdfast_testbed::namespace;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::run_control::{Aborted, RunControl};
use crate::run_harness::RunFlags;
use crate::scenario::Scenario;
use plan::Plan;
use scenario::Subject;

pub use plan::Flags;

/// Servers and clients side by side.
pub struct Http {
    plan: Plan,
}

impl Http {
    /// Checks `flags` against sense and the programs there are.
    ///
    /// # Errors
    /// The first thing that stands in the way.
    pub fn new(flags: Flags) -> Result<Self, SetupError> {
        Ok(Self {
            plan: Plan::new(flags)?,
        })
    }
}

impl Scenario for Http {
    type Record = HttpRun;
    const NAME: &'static str = "http";
    const SCHEMA: &'static str = HTTP_RUN_SCHEMA;

    fn run_flags(&self) -> &RunFlags {
        &self.plan.flags.run
    }

    fn prepare(&mut self, head: Header, live: &mut Live) -> Result<HttpRun, SetupError> {
        prepare_go(&mut self.plan, live);
        let plan = &self.plan;
        for notice in &plan.notices {
            live.note(notice);
        }
        let mut run = HttpRun {
            header: head,
            asked: plan.asked(),
            notes: plan.notices.clone(),
            cores: Cores {
                server: plan.halves.server.clone(),
                client: plan.halves.client.clone(),
            },
            programs: plan.versions.clone(),
            scenarios: entries(plan),
            ..HttpRun::default()
        };
        // Competitors that do not raise it themselves would stop at the soft limit of descriptors.
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        let connections = plan
            .slices
            .iter()
            .map(|s| s.scenario.connections_of(s.subject));
        let tuning = namespace::Tuning {
            is_private: !plan.flags.no_namespace,
            ..namespace::Tuning::default()
        };
        run.header.lab = namespace::enter(connections.max().unwrap_or(0), &tuning);
        for note in &run.header.lab.notes {
            live.note(note);
        }
        if !run.header.lab.is_private() && plan.flags.port.is_none() {
            self.plan.port = namespace::free_port()?;
        }
        let plan = &self.plan;
        live.note(format_args!(
            "{} slices in {} rounds, about {}: server on cores {:?}, client on {:?}",
            plan.slices.len(),
            plan.flags.rounds,
            minutes(plan.estimate(0)),
            plan.halves.server,
            plan.halves.client
        ));
        Ok(run)
    }

    async fn run(
        &mut self,
        control: &mut RunControl,
        folder: &RunFolder,
        run: &mut HttpRun,
    ) -> Result<(), SetupError> {
        let plan = &self.plan;
        control.progress.title = "bench http";
        let started = Instant::now();
        let mut broken: BTreeSet<Subject> = BTreeSet::new();
        for (number, slice) in plan.slices.iter().enumerate() {
            if broken.contains(&slice.subject) {
                continue;
            }
            let left = time_left(plan, number, started.elapsed());
            let target = slice.scenario.connections_of(slice.subject);
            control
                .progress
                .begin(plan.slice_name(number), target, left);
            let measured = match slice::measure(control, plan, folder, number).await {
                Ok(measured) => measured,
                Err(Aborted::Refused(error)) => return Err(error),
                Err(Aborted::Interrupted) => {
                    run.header.incidents.push("interrupted".into());
                    break;
                }
                Err(Aborted::Failed { kind, why }) => {
                    let name = slice.subject.name();
                    let what = format!("{} of {name}", slice.scenario.name);
                    let note = format!("{what}, round {}: {why}", slice.round);
                    control.live.note(&note);
                    if slice.subject != Subject::Holdfast {
                        run.notes.push(note);
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
        run.header.seconds = round(started.elapsed().as_secs_f64(), 3);
        Ok(())
    }

    fn record(&mut self, folder: &RunFolder, run: &mut HttpRun) {
        for entry in &mut run.scenarios {
            *entry = std::mem::take(entry).summed_up();
            entry.limits = bottleneck::of_entry(entry);
        }
        run.ratios = ratios::ratios(&run.scenarios);
        let entries = run.scenarios.iter().flat_map(|entry| {
            let sockets = 2 * entry.connections;
            entry.measured.iter().map(move |m| sockets + m.time_wait)
        });
        let entries_max = entries.max().unwrap_or(0);
        run.notes.extend(run.header.lab.long_chains(entries_max));
        // Only empty ones go: what a failed slice left in them stays.
        let _ = std::fs::remove_dir(folder.file("work"));
    }

    fn judge(run: &mut HttpRun) {
        verdict::judge(run);
        run.header.limits = bottleneck::of_http(run);
    }

    fn summarise(run: &HttpRun, folder: &Path) -> String {
        summary::page(run, folder)
    }

    fn head(run: &mut HttpRun) -> &mut Header {
        &mut run.header
    }
}

/// Builds the Go competitor before anything is measured; without it Go is left out.
fn prepare_go(plan: &mut Plan, live: &mut Live) {
    if !plan.slices.iter().any(|s| s.subject == Subject::Go) {
        return;
    }
    live.note("building the Go competitor");
    let built = match &plan.programs.go {
        Some(go) => subject::build_go(go, &plan.bin_dir, "http-go", subject::GO).map(|_| ()),
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
