//! The users of this process: a pool for each class of a test, and what its users did.
//!
//! Invariants: a pool lives from the first user of its class to the end of the test; the next test
//! has new pools, with the options it was started with; everything users did is in the statistics
//! once, also what they did while they ended.
//! Must not depend on: the master, how many workers share these users.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use holdfast_engine::Shutdown;
use holdfast_telemetry::console::Console;
use holdfast_telemetry::wire::WorkerReport;

use super::lookup::TargetLookup;
use super::options::Options;
use super::stats::Stats;
use super::user_class::UserClass;
use super::user_pool::{self, UserPool};
use super::worker_log::WorkerLog;
use crate::launch::ClientFlags;
use crate::source::Source;
use holdfast_supervisor::histogram_log::HistogramLog;

/// How long new targets wait for a resolver: files and caches answer sooner, and the event loop may
/// stall no longer.
const LOOKUP_WAIT: Duration = Duration::from_millis(100);
/// Tests whose final figures are kept.
const RUNS_MAX: usize = 100;

/// The users of this process.
pub struct Runner {
    launch: ClientFlags,
    own_source: Vec<Source>,
    own_ports: RangeInclusive<u16>,
    classes: Vec<UserClass>,
    users_max: Option<u64>,
    histogram_log: Option<HistogramLog>,
    /// The master's last options.
    pub options: Options,
    pools: BTreeMap<UserClass, Box<dyn UserPool>>,
    /// Classes whose targets are being looked up.
    lookups: BTreeMap<UserClass, TargetLookup>,
    /// Users each class should have.
    target_users: BTreeMap<UserClass, u64>,
    /// Classes that could not be started in this test.
    failed: BTreeSet<UserClass>,
    /// A test runs.
    is_running: bool,
    /// All users are being stopped; those left are ended then.
    stop_deadline: Option<Instant>,
    /// How long HTTP users may wait for their last response when all are stopped.
    pub stop_timeout: Duration,
    /// Requests that were not reported yet.
    pub stats: Stats,
    /// Errors and events.
    pub log: WorkerLog,
    /// The figures of all tests, also of the running one.
    pub report: WorkerReport,
    /// The last test's summaries for people.
    summaries: BTreeMap<UserClass, String>,
    has_failed: bool,
}

impl Runner {
    /// A runner without users.
    pub fn new(
        launch: ClientFlags,
        classes: Vec<UserClass>,
        users_max: Option<u64>,
        histogram_log: Option<HistogramLog>,
        report: WorkerReport,
        now: f64,
    ) -> Self {
        Runner {
            own_source: launch.source.clone(),
            own_ports: launch.ports.clone(),
            launch,
            classes,
            users_max,
            histogram_log,
            options: Options::default(),
            pools: BTreeMap::new(),
            lookups: BTreeMap::new(),
            target_users: BTreeMap::new(),
            failed: BTreeSet::new(),
            is_running: false,
            stop_deadline: None,
            stop_timeout: Duration::ZERO,
            stats: Stats::new(now),
            log: WorkerLog::default(),
            report,
            summaries: BTreeMap::new(),
            has_failed: false,
        }
    }

    /// Begins a test, with statistics from `now` on.
    pub fn begin_test(&mut self, now: f64) {
        self.is_running = true;
        self.stats.reset(now);
        self.log.begin_test();
        self.failed.clear();
        self.summaries.clear();
        self.report.runs.push(BTreeMap::new());
        if self.report.runs.len() > RUNS_MAX {
            self.report.runs.remove(0);
        }
    }

    /// Has users started or stopped until each class has as many as `target_users` says.
    pub fn set_target_users(
        &mut self,
        target_users: BTreeMap<UserClass, u64>,
        console: &mut Console,
    ) {
        self.target_users = target_users;
        // Users of the last test end before those of the next one start: then `tick` goes on.
        if self.stop_deadline.is_none() {
            self.apply_target_users(LOOKUP_WAIT, console);
        }
    }

    /// Starts the pools that are missing, with `lookup_wait` for the addresses of each, and sets
    /// the targets of all.
    fn apply_target_users(&mut self, lookup_wait: Duration, console: &mut Console) {
        for (class, users) in self.target_users.clone() {
            if users > 0 && !self.pools.contains_key(&class) && !self.failed.contains(&class) {
                match self.start_pool(class, lookup_wait, console) {
                    Ok(pool) => self.pools.extend(pool.map(|pool| (class, pool))),
                    Err(e) => {
                        self.failed.insert(class);
                        self.log
                            .exception(&format!("no {} users: {e}", class.name()));
                    }
                }
            }
            let Some(pool) = self.pools.get_mut(&class) else {
                continue;
            };
            let achievable = pool.set_target_users(users);
            if achievable < users {
                self.log.exception(&format!(
                    "{users} {} users are wanted, {achievable} fit here; next: start more workers on other machines, or give \
                     --users-max",
                    class.name()
                ));
                self.target_users.insert(class, achievable);
            }
        }
    }

    /// Starts the pool of a class; `None` while its targets are being resolved.
    fn start_pool(
        &mut self,
        class: UserClass,
        lookup_wait: Duration,
        console: &mut Console,
    ) -> Result<Option<Box<dyn UserPool>>, anyhow::Error> {
        if !self.classes.contains(&class) {
            anyhow::bail!(
                "this worker was started without this class; next: start it without --classes"
            );
        }
        self.launch.source = self
            .options
            .source()?
            .unwrap_or_else(|| self.own_source.clone());
        self.launch.ports = self
            .options
            .ports()?
            .unwrap_or_else(|| self.own_ports.clone());
        let texts = user_pool::targets(class, &self.options)?;
        let lookup = self.lookups.remove(&class);
        let lookup = lookup
            .filter(|lookup| lookup.is_of(&texts))
            .unwrap_or_else(|| TargetLookup::start(texts, self.launch.resolve.clone()));
        let Some(targets) = lookup.answer(lookup_wait)? else {
            self.lookups.insert(class, lookup);
            return Ok(None);
        };
        user_pool::start(
            class,
            &self.options,
            &targets,
            &self.launch,
            self.users_max,
            console,
        )
        .map(Some)
    }

    /// Stops all users. HTTP users may wait for their last response for `grace`.
    pub fn stop(&mut self, grace: Duration) {
        self.target_users.clear();
        self.lookups.clear();
        if self.stop_deadline.is_some() || !self.is_running {
            return;
        }
        self.stop_deadline = Some(Instant::now() + grace);
        for (class, pool) in &mut self.pools {
            match class {
                UserClass::Http if !grace.is_zero() => {
                    pool.set_target_users(0);
                }
                _ => pool.stop(Shutdown::Graceful),
            }
        }
    }

    /// Ends all users at once.
    pub fn abort(&mut self) {
        self.stop(Duration::ZERO);
        for pool in self.pools.values_mut() {
            pool.stop(Shutdown::Immediate);
        }
    }

    /// Goes on with what takes time: lookups, and the end of users. Called several times a second.
    pub fn tick(&mut self, now: f64, second: i64, console: &mut Console) {
        if !self.lookups.is_empty() {
            self.apply_target_users(Duration::ZERO, console);
        }
        let is_late = self.stop_deadline.is_some_and(|by| Instant::now() >= by);
        for pool in self.pools.values_mut() {
            if self.stop_deadline.is_some() && (is_late || pool.connection_count() == 0) {
                pool.stop(Shutdown::Graceful);
            }
        }
        let done: Vec<UserClass> = self
            .pools
            .iter()
            .filter(|(_, pool)| pool.is_done())
            .map(|(class, _)| *class)
            .collect();
        for class in done {
            self.collect(class, now, second);
            let Some(pool) = self.pools.remove(&class) else {
                continue;
            };
            if let Err(e) = pool.join() {
                self.has_failed = true;
                self.failed.insert(class);
                self.log
                    .exception(&format!("the {} users ended: {e}", class.name()));
            }
        }
        if self.stop_deadline.is_some() && self.pools.is_empty() {
            self.stop_deadline = None;
            self.is_running = false;
            if !self.target_users.is_empty() {
                self.begin_test(now);
                self.apply_target_users(LOOKUP_WAIT, console);
            }
        }
    }

    /// Collects what all users did since the last time, and counts it to `second`.
    pub fn collect_all(&mut self, now: f64, second: i64) {
        for class in UserClass::ALL {
            self.collect(class, now, second);
        }
        if let Some(log) = &mut self.histogram_log {
            log.next_interval();
        }
    }

    fn collect(&mut self, class: UserClass, now: f64, second: i64) {
        let Some(pool) = self.pools.get_mut(&class) else {
            return;
        };
        let log = &mut self.histogram_log;
        let collection = pool.collect(&mut |intervals| {
            if let Some(log) = log {
                log.write(intervals);
            }
        });
        for row in &collection.rows {
            self.stats.add(row, now, second);
        }
        if let Some(run) = self.report.runs.last_mut() {
            run.insert(class.name().to_owned(), collection.report);
        }
        if let Some(summary) = collection.summary {
            self.summaries.insert(class, summary);
        }
    }

    /// Users of a class.
    pub fn user_count(&self, class: UserClass) -> u64 {
        self.pools.get(&class).map_or(0, |pool| pool.user_count())
    }

    /// True if each class has as many users as wanted, or cannot be started.
    pub fn has_reached_target(&self) -> bool {
        self.stop_deadline.is_none()
            && self.target_users.iter().all(|(class, users)| {
                self.failed.contains(class) || self.user_count(*class) == *users
            })
    }

    /// True if no test runs and all users of the last one have ended.
    pub fn is_idle(&self) -> bool {
        !self.is_running
    }

    /// The summary of the last test for people.
    pub fn summary(&self) -> String {
        let mut text = format!("tests: {}", self.report.runs.len());
        for (class, summary) in &self.summaries {
            text += &format!("\n{}: {summary}", class.name());
        }
        text
    }

    /// True if a core thread failed.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Closes the histogram log.
    ///
    /// # Errors
    /// One line when it could not be written.
    pub fn finish(&mut self) -> Result<(), anyhow::Error> {
        self.histogram_log
            .take()
            .map_or(Ok(()), HistogramLog::finish)
    }
}
