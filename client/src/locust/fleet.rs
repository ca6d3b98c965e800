//! The users of this process: a crew for each class that is needed, and what they did.
//!
//! Invariants: a crew lives from the first order for its class to the end of the test; the next test has new ones, with the options
//! it was started with; what was done is in the statistics once, also what was done while users ended.
//! Must not know: the master, how many workers share these users.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use holdfast_engine::Shutdown;
use holdfast_telemetry::console::Console;
use holdfast_telemetry::wire::WorkerReport;

use super::class::Class;
use super::crew::{self, Crew};
use super::journal::Journal;
use super::lookup::Lookup;
use super::options::Options;
use super::stats::Stats;
use crate::launch::ClientFlags;
use crate::source::Source;
use holdfast_supervisor::histogram_log::HistogramLog;

/// How long an order waits for the addresses of names: files and caches answer sooner, and the master is heard late by no more.
const LOOKUP_PATIENCE: Duration = Duration::from_millis(100);
/// Tests whose final figures are kept.
const RUNS_MAX: usize = 100;

/// The users of this process.
pub struct Fleet {
    launch: ClientFlags,
    own_source: Vec<Source>,
    own_ports: RangeInclusive<u16>,
    classes: Vec<Class>,
    users_max: Option<u64>,
    log: Option<HistogramLog>,
    /// What the master said last.
    pub options: Options,
    crews: BTreeMap<Class, Box<dyn Crew>>,
    /// Classes whose targets are being looked up.
    lookups: BTreeMap<Class, Lookup>,
    /// Users there are to be.
    wanted: BTreeMap<Class, u64>,
    /// Classes that could not be started in this test.
    failed: BTreeSet<Class>,
    /// A test runs.
    is_running: bool,
    /// All are to end, at the latest then.
    ending: Option<Instant>,
    /// How long HTTP users may still be answered when all are to end.
    pub stop_timeout: Duration,
    /// What was done and not reported yet.
    pub stats: Stats,
    /// What went wrong.
    pub journal: Journal,
    /// Final figures, those of the test that runs too.
    pub report: WorkerReport,
    /// The last test's final figures for people.
    summaries: BTreeMap<Class, String>,
    has_failed: bool,
}

impl Fleet {
    /// No users yet.
    pub fn new(
        launch: ClientFlags,
        classes: Vec<Class>,
        users_max: Option<u64>,
        log: Option<HistogramLog>,
        report: WorkerReport,
        now: f64,
    ) -> Self {
        Fleet {
            own_source: launch.source.clone(),
            own_ports: launch.ports.clone(),
            launch,
            classes,
            users_max,
            log,
            options: Options::default(),
            crews: BTreeMap::new(),
            lookups: BTreeMap::new(),
            wanted: BTreeMap::new(),
            failed: BTreeSet::new(),
            is_running: false,
            ending: None,
            stop_timeout: Duration::ZERO,
            stats: Stats::new(now),
            journal: Journal::default(),
            report,
            summaries: BTreeMap::new(),
            has_failed: false,
        }
    }

    /// A new test begins: statistics from `now` on.
    pub fn begin(&mut self, now: f64) {
        self.is_running = true;
        self.stats.reset(now);
        self.journal.begin();
        self.failed.clear();
        self.summaries.clear();
        self.report.runs.push(BTreeMap::new());
        if self.report.runs.len() > RUNS_MAX {
            self.report.runs.remove(0);
        }
    }

    /// There are to be so many users of each class.
    pub fn order(&mut self, wanted: BTreeMap<Class, u64>, console: &mut Console) {
        self.wanted = wanted;
        if self.ending.is_some() {
            // Those before have to end first.
            return;
        }
        self.bring_about(LOOKUP_PATIENCE, console);
    }

    /// Starts what is wanted and not there yet, waiting so long for the addresses of each class, and hands every crew its order.
    fn bring_about(&mut self, patience: Duration, console: &mut Console) {
        for (class, users) in self.wanted.clone() {
            if users > 0 && !self.crews.contains_key(&class) && !self.failed.contains(&class) {
                match self.start(class, patience, console) {
                    Ok(crew) => self.crews.extend(crew.map(|crew| (class, crew))),
                    Err(e) => {
                        self.failed.insert(class);
                        self.journal.except(&format!("no {}: {e}", class.name()));
                    }
                }
            }
            let Some(crew) = self.crews.get_mut(&class) else {
                continue;
            };
            let granted = crew.order(users);
            if granted < users {
                self.journal.except(&format!(
                    "{users} {} users were ordered, {granted} is what fits here; next: start more workers on other machines, or give \
                     --users-max",
                    class.name()
                ));
                self.wanted.insert(class, granted);
            }
        }
    }

    /// Starts a class, unless its targets are still being looked up.
    fn start(
        &mut self,
        class: Class,
        patience: Duration,
        console: &mut Console,
    ) -> Result<Option<Box<dyn Crew>>, anyhow::Error> {
        if !self.classes.contains(&class) {
            anyhow::bail!("this worker was started without it; next: leave out --classes");
        }
        self.launch.source = self
            .options
            .source()?
            .unwrap_or_else(|| self.own_source.clone());
        self.launch.ports = self
            .options
            .ports()?
            .unwrap_or_else(|| self.own_ports.clone());
        let texts = crew::targets(class, &self.options)?;
        let begun = self.lookups.remove(&class);
        let lookup = begun
            .filter(|lookup| lookup.is_of(&texts))
            .unwrap_or_else(|| Lookup::start(texts));
        let Some(targets) = lookup.answer(patience)? else {
            self.lookups.insert(class, lookup);
            return Ok(None);
        };
        crew::start(
            class,
            &self.options,
            &targets,
            &self.launch,
            self.users_max,
            console,
        )
        .map(Some)
    }

    /// All users are to end: HTTP users may have their answers first, for as long as is said.
    pub fn stop(&mut self, patience: Duration) {
        self.wanted.clear();
        self.lookups.clear();
        if self.ending.is_some() || !self.is_running {
            return;
        }
        self.ending = Some(Instant::now() + patience);
        for (class, crew) in &mut self.crews {
            match class {
                Class::Http if !patience.is_zero() => {
                    crew.order(0);
                }
                _ => crew.stop(Shutdown::Graceful),
            }
        }
    }

    /// All users are cut.
    pub fn cut(&mut self) {
        self.stop(Duration::ZERO);
        for crew in self.crews.values_mut() {
            crew.stop(Shutdown::Immediate);
        }
    }

    /// Brings on what takes time: ends, and what was ordered meanwhile. Called often.
    pub fn tick(&mut self, now: f64, second: i64, console: &mut Console) {
        if !self.lookups.is_empty() {
            self.bring_about(Duration::ZERO, console);
        }
        let is_late = self.ending.is_some_and(|by| Instant::now() >= by);
        for crew in self.crews.values_mut() {
            if self.ending.is_some() && (is_late || crew.open() == 0) {
                crew.stop(Shutdown::Graceful);
            }
        }
        let done: Vec<Class> = self
            .crews
            .iter()
            .filter(|(_, c)| c.is_done())
            .map(|(c, _)| *c)
            .collect();
        for class in done {
            self.harvest(class, now, second);
            let Some(crew) = self.crews.remove(&class) else {
                continue;
            };
            if let Err(e) = crew.join() {
                self.has_failed = true;
                self.failed.insert(class);
                self.journal.except(&format!("{} ended: {e}", class.name()));
            }
        }
        if self.ending.is_some() && self.crews.is_empty() {
            self.ending = None;
            self.is_running = false;
            if !self.wanted.is_empty() {
                self.begin(now);
                self.order(self.wanted.clone(), console);
            }
        }
    }

    /// Gathers what all crews did since the last time, as of a second.
    pub fn harvest_all(&mut self, now: f64, second: i64) {
        for class in Class::ALL {
            self.harvest(class, now, second);
        }
        if let Some(log) = &mut self.log {
            log.next_interval();
        }
    }

    fn harvest(&mut self, class: Class, now: f64, second: i64) {
        let Some(crew) = self.crews.get_mut(&class) else {
            return;
        };
        let log = &mut self.log;
        let harvest = crew.harvest(&mut |intervals| {
            if let Some(log) = log {
                log.write(intervals);
            }
        });
        for row in &harvest.rows {
            self.stats.add(row, now, second);
        }
        if let Some(run) = self.report.runs.last_mut() {
            run.insert(class.name().to_owned(), harvest.report);
        }
        if let Some(summary) = harvest.summary {
            self.summaries.insert(class, summary);
        }
    }

    /// Users of a class there are to be and can be.
    pub fn granted(&self, class: Class) -> u64 {
        match self.failed.contains(&class) {
            true => 0,
            false => self.wanted.get(&class).copied().unwrap_or(0),
        }
    }

    /// Users of a class.
    pub fn present(&self, class: Class) -> u64 {
        self.crews.get(&class).map_or(0, |crew| crew.present())
    }

    /// True if there are as many users of each class as there are to be, or as there can be.
    pub fn is_settled(&self) -> bool {
        self.ending.is_none()
            && self
                .wanted
                .iter()
                .all(|(class, users)| self.failed.contains(class) || self.present(*class) == *users)
    }

    /// True if no test runs, and all users of the last one have ended.
    pub fn is_idle(&self) -> bool {
        !self.is_running
    }

    /// The last test's final figures for people.
    pub fn summary(&self) -> String {
        let mut text = format!("tests: {}", self.report.runs.len());
        for (class, summary) in &self.summaries {
            text += &format!("\n{}: {summary}", class.name());
        }
        text
    }

    /// True if something ended that should not have.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Closes the histogram log.
    ///
    /// # Errors
    /// One line when it could not be written.
    pub fn finish(&mut self) -> Result<(), anyhow::Error> {
        self.log.take().map_or(Ok(()), HistogramLog::finish)
    }
}
