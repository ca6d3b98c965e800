//! Layer-4 relays side by side: `holdfast-bench relay`.
//!
//! Purpose: `namespace -> measurements, round by round -> medians -> targets`: no relay, a bare
//! relay loop, ours, haproxy with and without splice, and nginx, in one run.
//! Must not depend on: how a relay works.

pub mod bulk;
mod plan;
mod slice;
mod subject;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use holdfast_engine::SetupError;
use holdfast_report::folder::RunFolder;
use holdfast_report::header::Header;
use holdfast_report::http::record::Cores;
use holdfast_report::relay::record::{Entry, OURS, RELAY_RUN_SCHEMA, RelayRun};
use holdfast_report::relay::{goals, summary, verdict};
use holdfast_telemetry::live::Live;
use holdfast_telemetry::units::{minutes, round};
use holdfast_testbed::namespace;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::run_control::{Aborted, RunControl};
use crate::run_harness::RunFlags;
use crate::scenario::Scenario;
use plan::{Plan, SlicePlan, Subject};
use slice::Slice;

pub use plan::Flags;

/// Requests a second of `half-load` where no relay was measured before.
const RATE: u64 = 10_000;

/// Relays side by side.
pub struct Relays {
    plan: Plan,
}

impl Relays {
    /// Checks `flags` against sense, memory and the programs there are.
    ///
    /// # Errors
    /// The first thing that stands in the way.
    pub fn new(flags: Flags) -> Result<Self, SetupError> {
        Ok(Self {
            plan: Plan::new(flags)?,
        })
    }
}

impl Scenario for Relays {
    type Record = RelayRun;
    const NAME: &'static str = "relay";
    const SCHEMA: &'static str = RELAY_RUN_SCHEMA;

    fn run_flags(&self) -> &RunFlags {
        &self.plan.flags.run
    }

    fn prepare(&mut self, head: Header, live: &mut Live) -> Result<RelayRun, SetupError> {
        let plan = &self.plan;
        for notice in &plan.notices {
            live.note(notice);
        }
        let mut run = RelayRun {
            header: head,
            asked: plan.asked(),
            notes: plan.notices.clone(),
            cores: Cores {
                server: plan.cores.server.clone(),
                client: plan.cores.client.clone(),
            },
            programs: plan.versions.clone(),
            entries: entries(plan),
            ..RelayRun::default()
        };
        // Competitors that do not raise it themselves would stop at the soft limit.
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        let pairs = plan.slices.iter().map(|s| s.connections).max().unwrap_or(0);
        let tuning = namespace::Tuning {
            is_private: !plan.flags.no_namespace,
            ..namespace::Tuning::default()
        };
        // A pair is two connections.
        run.header.lab = namespace::enter(2 * pairs, &tuning);
        for note in &run.header.lab.notes {
            live.note(note);
        }
        if !run.header.lab.is_private() && plan.flags.port.is_none() {
            self.plan.port = namespace::free_port()?;
        }
        let plan = &self.plan;
        live.note(format_args!(
            "{} measurements, about {}: relay on core {:?}, load and backend on {:?}",
            plan.slices.len(),
            minutes(plan.estimate(0)),
            plan.cores.server,
            plan.cores.client
        ));
        Ok(run)
    }

    async fn run(
        &mut self,
        control: &mut RunControl,
        folder: &RunFolder,
        run: &mut RelayRun,
    ) -> Result<(), SetupError> {
        let plan = &self.plan;
        control.progress.title = "bench relay";
        let started = Instant::now();
        let mut broken: BTreeSet<Subject> = BTreeSet::new();
        for (number, wanted) in plan.slices.iter().enumerate() {
            if broken.contains(&wanted.subject) {
                continue;
            }
            let name = plan.slice_name(number);
            control
                .progress
                .begin(name, wanted.connections, plan.estimate(number));
            let dir = folder.file(&format!("work/{number:05}"));
            let rate = plan.flags.rate.unwrap_or_else(|| half_load(run));
            if wanted.kind == plan::Kind::HalfLoad {
                run.half_load_per_second = Some(rate as f64);
            }
            let mut slice = Slice {
                control,
                plan,
                slice: wanted,
                number,
                dir: dir.clone(),
                rate,
                command: None,
            };
            let made = std::fs::create_dir_all(&dir)
                .map_err(|e| Aborted::failed("not_started", format!("{}: {e}", dir.display())));
            let done = match made {
                Ok(()) => slice.measure().await,
                Err(aborted) => Err(aborted),
            };
            if let Some(command) = slice.command.take() {
                let name = wanted.subject.name().to_owned();
                run.commands.entry(name).or_insert(command);
            }
            let measured = match done {
                Ok(measured) => measured,
                Err(Aborted::Refused(error)) => return Err(error),
                Err(Aborted::Interrupted) => {
                    run.header.incidents.push("interrupted".into());
                    break;
                }
                Err(Aborted::Failed { kind, why }) => {
                    let name = wanted.subject.name();
                    let note = format!(
                        "{} of {name}, round {}: {why}",
                        wanted.scenario, wanted.round
                    );
                    control.live.note(&note);
                    if wanted.subject != Subject::Holdfast {
                        run.notes.push(note);
                        // One that does not start would cost ten seconds each time.
                        if kind == "relay_did_not_start" {
                            run.notes.push(format!("{name} is left out from there on"));
                            broken.insert(wanted.subject);
                        }
                    }
                    slice::failed(kind, why, wanted.round)
                }
            };
            if measured.failures.is_empty() {
                let _ = std::fs::remove_dir_all(&dir);
            }
            if let Some(entry) = run.entries.iter_mut().find(|e| is_of(e, wanted)) {
                entry.measured.push(measured);
            }
        }
        run.header.seconds = round(started.elapsed().as_secs_f64(), 3);
        Ok(())
    }

    fn record(&mut self, folder: &RunFolder, run: &mut RelayRun) {
        run.sum_up();
        run.goals = goals::goals(run);
        let sockets = run.entries.iter().map(|e| 4 * e.connections);
        let long_chains = run.header.lab.long_chains(sockets.max().unwrap_or(0));
        run.notes.extend(long_chains);
        // Only an empty one goes: what a failed measurement left in it stays.
        let _ = std::fs::remove_dir(folder.file("work"));
    }

    fn judge(run: &mut RelayRun) {
        verdict::judge(run);
        run.header.limits = verdict::limits(run);
    }

    fn summarise(run: &RelayRun, folder: &Path) -> String {
        summary::page(run, folder)
    }

    fn head(run: &mut RelayRun) -> &mut Header {
        &mut run.header
    }
}

/// One entry for each scenario and relay, without figures yet.
fn entries(plan: &Plan) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for slice in &plan.slices {
        if entries.iter().all(|e| !is_of(e, slice)) {
            entries.push(Entry {
                scenario: slice.scenario.clone(),
                subject: slice.subject.name().into(),
                connections: slice.connections,
                ..Entry::default()
            });
        }
    }
    entries
}

fn is_of(entry: &Entry, slice: &SlicePlan) -> bool {
    entry.scenario == slice.scenario && entry.subject == slice.subject.name()
}

/// Half of what the slowest relay answered over 64 connections in the first round: the same rate
/// for all, from then on.
fn half_load(run: &RelayRun) -> u64 {
    if let Some(rate) = run.half_load_per_second {
        return rate as u64;
    }
    let first = run.entries.iter().filter(|e| {
        e.scenario == "requests-64"
            && e.subject != "direct"
            && (e.subject == OURS || e.error().is_none())
    });
    let rates = first.filter_map(|e| e.measured.first()?.figures.get("per_second").copied());
    rates.reduce(f64::min).map_or(RATE, |slowest| {
        ((slowest / 2.0) as u64 / 100 * 100).max(100)
    })
}
