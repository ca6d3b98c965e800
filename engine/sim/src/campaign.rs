//! Many runs: seed after seed, on several threads, until one fails or all are done.
//!
//! Invariants: a failure names its run and the command that repeats it, also where a panic ends the
//! process (release builds).
//! Must not depend on: what a run does.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use holdfast_engine::sim::Canary;

use crate::{Coverage, Run, Scenario};

thread_local! {
    static CURRENT: Cell<Option<Run>> = const { Cell::new(None) };
    /// Failures are expected: they are counted, not printed.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Makes a panic inside a run name the run.
pub fn name_failures() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if IS_QUIET.get() {
                return;
            }
            before(info);
            if let Some(run) = CURRENT.get() {
                eprintln!(
                    "FAILED: scenario {}, seed {}\nreplay: {}",
                    run.scenario.label(),
                    run.seed,
                    run.command()
                );
            }
        }));
    });
}

/// Runs one seed: what it met, or the invariant it broke.
///
/// # Errors
/// The text of the panic. Release builds abort instead.
pub fn attempt(run: Run) -> Result<crate::Outcome, String> {
    name_failures();
    CURRENT.set(Some(run));
    let result = catch_unwind(AssertUnwindSafe(|| run.run()));
    CURRENT.set(None);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default()
    })
}

/// The seeds tried until one detects a mistake, with its run and the text of its failure.
pub fn seeds_until_caught(canary: Canary, seeds_max: u64) -> Option<(u64, Run, String)> {
    name_failures();
    IS_QUIET.set(true);
    let caught = (0..seeds_max).find_map(|seed| {
        let run = Run {
            scenario: Scenario::of_run(seed, Some(canary)),
            seed,
            canary: Some(canary),
            is_told: false,
        };
        attempt(run).err().map(|wrong| (seed + 1, run, wrong))
    });
    IS_QUIET.set(false);
    caught
}

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub count: u64,
    /// Only this scenario; otherwise they alternate.
    pub scenario: Option<Scenario>,
    /// With this mistake.
    pub canary: Option<Canary>,
    /// Threads.
    pub threads: usize,
    /// Print progress.
    pub is_told: bool,
}

impl Campaign {
    /// Runs all seeds: what they met, or the runs that failed.
    ///
    /// # Errors
    /// The first failed run of each thread, with its failure.
    pub fn run(self) -> Result<Coverage, Vec<(Run, String)>> {
        let next = AtomicU64::new(0);
        let done = AtomicU64::new(0);
        let is_over = AtomicBool::new(false);
        let coverage = Mutex::new(Coverage::default());
        let failures = Mutex::new(Vec::new());
        let started_at = Instant::now();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads)
                .map(|_| {
                    scope.spawn(|| {
                        let mut own = Coverage::default();
                        loop {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            if number >= self.count || is_over.load(Ordering::Relaxed) {
                                break;
                            }
                            let run = self.numbered(number);
                            match attempt(run) {
                                Ok(outcome) => own.merge(&outcome.coverage),
                                Err(wrong) => {
                                    is_over.store(true, Ordering::Relaxed);
                                    failures.lock().expect("no panic").push((run, wrong));
                                }
                            }
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        coverage.lock().expect("no panic").merge(&own);
                    })
                })
                .collect();
            let mut told_at = Instant::now();
            while workers.iter().any(|w| !w.is_finished()) {
                std::thread::sleep(Duration::from_millis(5));
                if self.is_told && told_at.elapsed() >= Duration::from_secs(2) {
                    told_at = Instant::now();
                    self.tell(done.load(Ordering::Relaxed), started_at);
                }
            }
        });
        if self.is_told {
            self.tell(done.load(Ordering::Relaxed), started_at);
        }
        let failures = failures.into_inner().expect("no panic");
        match failures.is_empty() {
            true => Ok(coverage.into_inner().expect("no panic")),
            false => Err(failures),
        }
    }

    fn numbered(&self, number: u64) -> Run {
        let seed = self.from + number;
        let alternating = Scenario::of_run(seed, self.canary);
        Run {
            scenario: self.scenario.unwrap_or(alternating),
            seed,
            canary: self.canary,
            is_told: false,
        }
    }

    fn tell(&self, done: u64, started_at: Instant) {
        let seconds = started_at.elapsed().as_secs_f64();
        println!(
            "{seconds:>7.1}s  {done} of {} seeds  {:.0} seeds/s",
            self.count,
            done as f64 / seconds.max(0.001)
        );
    }
}
