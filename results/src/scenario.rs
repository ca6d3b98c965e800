//! A kind of benchmark, and how any of them is run from its flags to its exit code.
//!
//! Purpose: `enter -> folder -> prepare -> run -> record -> judge -> write, print, report`, the
//! same for every [`Scenario`].
//! Invariants: a run that began leaves a record, whatever happens; one that could not start leaves
//! nothing. One thread until the runtime starts: a namespace cannot be entered otherwise.
//! Must not depend on: any scenario.

use std::path::Path;
use std::time::SystemTime;

use holdfast_engine::SetupError;
use holdfast_report::folder::{RunFolder, labelled, runs_or_default};
use holdfast_report::header::Header;
use holdfast_report::{print, report};
use holdfast_telemetry::live::Live;
use holdfast_telemetry::report_line::passed_on;
use serde::Serialize;

use crate::provenance;
use crate::run_control::RunControl;
use crate::run_harness::{self, RunFlags};

/// One kind of benchmark, its flags checked already. [`bench()`] calls the functions in the order
/// in which they stand here.
///
/// Scenarios that open users and hold them also implement [`HeldLoad`](crate::held_load::HeldLoad),
/// which takes a sample a second.
#[allow(async_fn_in_trait, reason = "everything runs on one thread")]
pub trait Scenario {
    /// What `run.json` holds.
    type Record: Serialize;
    /// Names the subcommand, the record and the run's folder.
    const NAME: &'static str;
    /// Schema of the record.
    const SCHEMA: &'static str;

    /// The flags that every run has.
    fn run_flags(&self) -> &RunFlags;

    /// Enters what the run needs around it, before anything is shown. `Some`: this process has only
    /// waited for the one that did the work, and ends with this code.
    ///
    /// # Errors
    /// When that cannot be made.
    fn enter(&self) -> Result<Option<u8>, SetupError> {
        Ok(None)
    }

    /// Makes the testbed; the record with everything that is known before the run.
    ///
    /// # Errors
    /// When the run cannot start.
    fn prepare(&mut self, head: Header, live: &mut Live) -> Result<Self::Record, SetupError>;

    /// Measures. What ends it early is among the incidents of the record, or an error if nothing
    /// began.
    ///
    /// # Errors
    /// When a program refuses to start.
    async fn run(
        &mut self,
        control: &mut RunControl,
        folder: &RunFolder,
        record: &mut Self::Record,
    ) -> Result<(), SetupError>;

    /// Completes the record with everything that follows from what was measured.
    fn record(&mut self, folder: &RunFolder, record: &mut Self::Record);

    /// Settles the verdict and what limited the run, from the record alone.
    fn judge(record: &mut Self::Record);

    /// The page of text after the run.
    fn summarise(record: &Self::Record, folder: &Path) -> String;

    /// What every record begins with.
    fn head(record: &mut Self::Record) -> &mut Header;
}

/// Runs `scenario`, shows it on its way, prints its result: the summary, or `run.json` with
/// `--json`. Returns the exit code: 0 passed, 1 fell short, 130 interrupted.
///
/// # Errors
/// When the run could not start; nothing is left behind then.
pub fn bench<S: Scenario>(mut scenario: S) -> Result<u8, SetupError> {
    run_harness::check_machine()?;
    if let Some(code) = scenario.enter()? {
        return Ok(code);
    }
    let flags = scenario.run_flags().clone();
    let live = Live::new(flags.live).map_err(|line| passed_on(&line))?;
    #[expect(clippy::disallowed_methods, reason = "the date in the folder's name")]
    let started = SystemTime::now();
    let label = flags.name.as_deref();
    let results_dir = runs_or_default(flags.results_dir.as_deref());
    let folder = RunFolder::create(&results_dir, started, &labelled(S::NAME, label))?;
    let head = provenance::head(S::SCHEMA, S::NAME, label, started);
    let (mut record, is_interrupted) =
        measure(&mut scenario, head, live, &folder).inspect_err(|_| folder.discard())?;
    scenario.record(&folder, &mut record);
    S::judge(&mut record);
    let is_written = run_harness::write_record(&record, &folder, &results_dir);
    let is_printed =
        print::print_result(&record, flags.json, || S::summarise(&record, folder.path()));
    report::write_or_warn(folder.path());
    Ok(run_harness::exit_code(
        S::head(&mut record).verdict,
        is_interrupted,
        is_written && is_printed,
    ))
}

/// The part that may still be refused: the record as far as it is measured, and whether the run was
/// interrupted.
fn measure<S: Scenario>(
    scenario: &mut S,
    head: Header,
    mut live: Live,
    folder: &RunFolder,
) -> Result<(S::Record, bool), SetupError> {
    let mut record = scenario.prepare(head, &mut live)?;
    run_harness::runtime()?.block_on(async {
        let mut control = RunControl::new(live)?;
        let done = scenario.run(&mut control, folder, &mut record).await;
        control.live.finish();
        done.map(|()| (record, control.is_interrupted()))
    })
}
