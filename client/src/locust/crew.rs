//! The users of one class, running: an engine, how many users it is to have, and what it did since it was last asked.
//!
//! Invariants: an order moves the number of users evenly; everything the users did is in exactly one of the harvests.
//! Must not know: the master, other classes.

use std::net::SocketAddr;
use std::sync::Arc;

use holdfast_engine::{Engine, Handler, Shutdown};
use holdfast_telemetry::console::Console;
use holdfast_telemetry::wire::{HTTP_CLIENT_SCHEMA, HttpClientReport};
use serde::Serialize;

use super::class::Class;
use super::options::Options;
use super::pace::Pace;
use super::rows;
use super::stats::Row;
use crate::http::reporter::HttpReporter;
use crate::http::user::{Model, Users as HttpUsers};
use crate::launch::{ClientFlags, EngineSetup, LoadFlags};
use crate::load::Load;
use crate::longconn::LongconnReporter;
use crate::longconn::user::Users as LongconnUsers;
use crate::{http, longconn};
use holdfast_supervisor::histogram_log::Intervals;
use holdfast_supervisor::supervise::Reporter;

/// What users did since the last harvest.
pub struct Harvest {
    /// For Locust's tables.
    pub rows: Vec<Row>,
    /// The final figures so far.
    pub report: serde_json::Value,
    /// They for people, when all users have ended.
    pub summary: Option<String>,
}

/// The users of one class.
pub trait Crew {
    /// There are to be so many users. Gives how many that will be: no more than there is room for.
    fn order(&mut self, users: u64) -> u64;
    /// Users there are; while they are being ended, their connections.
    fn present(&self) -> u64;
    /// Connections, open or being opened.
    fn open(&self) -> u64;
    /// Gathers what was done since the last time, and gives the histograms of it to `log`.
    fn harvest(&mut self, log: &mut dyn FnMut(&Intervals)) -> Harvest;
    /// Ends all users.
    fn stop(&mut self, how: Shutdown);
    /// True when all have ended.
    fn is_done(&self) -> bool;
    /// Waits for the threads.
    ///
    /// # Errors
    /// What a thread ended with.
    fn join(self: Box<Self>) -> Result<(), anyhow::Error>;
}

/// What users of a class connect to, as the master's options say: `HOST:PORT` texts.
///
/// # Errors
/// One line that says what is missing or wrong.
pub fn targets(class: Class, options: &Options) -> Result<Vec<String>, anyhow::Error> {
    Ok(match class {
        Class::LongConn => options.longconn()?.1,
        Class::Http => vec![options.http()?.1.host_port],
    })
}

/// Starts the users of a class, none yet, as the master's options say; at most `users_max` of them, or as many as fit.
///
/// # Errors
/// One line that says what is missing or wrong.
pub fn start(
    class: Class,
    options: &Options,
    targets: &[SocketAddr],
    launch: &ClientFlags,
    users_max: Option<u64>,
    console: &mut Console,
) -> Result<Box<dyn Crew>, anyhow::Error> {
    let quantity = |users| LoadFlags {
        users,
        spawn_rate: Load::MAX,
        run_time: None,
    };
    // None yet: orders come later.
    let load = Arc::new(Load::new(0, Load::MAX));
    let title = format!("client worker {}", class.name());
    match class {
        Class::LongConn => {
            let (config, _) = options.longconn()?;
            let users_max = launch.users_that_fit(targets, longconn::SPEC, users_max)?;
            let ready = launch.prepare(&quantity(users_max), targets, longconn::SPEC, console)?;
            let thread_count = ready.config.thread_count();
            let asked = longconn::RunParams {
                title,
                load: Arc::clone(&load),
                interval_us: config.interval_us,
                lateness_limit_us: 0,
            };
            let view = LongconnReporter::new(asked, thread_count, 0, true);
            let make = move |share, load| LongconnUsers::new(config, load, share, thread_count);
            Ok(Box::new(Running::start(
                (ready, load),
                view,
                users_max,
                make,
                rows::longconn,
            )?))
        }
        Class::Http => {
            let (config, url, method) = options.http()?;
            let users_max = launch.users_that_fit(targets, http::SPEC, users_max)?;
            let ready = http::prepare(
                launch,
                &quantity(users_max),
                targets,
                config.is_reconnecting,
                console,
            )?;
            let thread_count = ready.config.thread_count();
            let base = HttpClientReport {
                schema: HTTP_CLIENT_SCHEMA.to_owned(),
                thread_count,
                ..HttpClientReport::default()
            };
            let wait_mean_us = match config.model {
                Model::Closed(shortest, longest) if longest > 0 => Some(shortest.midpoint(longest)),
                _ => None,
            };
            let asked = http::reporter::RunParams {
                title,
                load: Arc::clone(&load),
                rate_per_second: None,
            };
            let request_limit = Arc::clone(&config.request_limit);
            let view = HttpReporter::new(base, asked, 0, wait_mean_us, request_limit);
            let make =
                move |share, load| HttpUsers::new(config.clone(), load, share, thread_count, 0);
            let method: &'static str = method.leak();
            Ok(Box::new(Running::start(
                (ready, load),
                view,
                users_max,
                make,
                move |now, before, intervals| {
                    rows::http(now, before, intervals, (method, &url.path))
                },
            )?))
        }
    }
}

/// What is read of a thread between reports.
trait Present {
    fn present(&self) -> u64;
}

impl Present for longconn::user::UserReport {
    fn present(&self) -> u64 {
        self.present
    }
}

impl Present for http::counters::Counters {
    fn present(&self) -> u64 {
        self.present
    }
}

struct Running<V: Reporter, R> {
    engine: Engine<V::Counters>,
    view: V,
    load: Arc<Load>,
    users_max: u64,
    pace: Pace,
    is_stopping: bool,
    last: V::Report,
    rows: R,
}

impl<V, R> Running<V, R>
where
    V: Reporter<Counters: Present, Report: Default>,
    R: FnMut(&V::Report, &V::Report, Intervals) -> Vec<Row>,
{
    fn start<H: Handler<Report = V::Counters> + 'static>(
        (ready, load): (EngineSetup, Arc<Load>),
        view: V,
        users_max: u64,
        mut make: impl FnMut(usize, Arc<Load>) -> H,
        rows: R,
    ) -> Result<Self, anyhow::Error> {
        let engine = Engine::start(ready.config, Vec::new(), Some(ready.plan), |share| {
            make(share, Arc::clone(&load))
        })?;
        Ok(Running {
            engine,
            view,
            load,
            users_max,
            pace: Pace::default(),
            is_stopping: false,
            last: V::Report::default(),
            rows,
        })
    }
}

impl<V, R> Crew for Running<V, R>
where
    V: Reporter<Counters: Present, Report: Serialize + Default>,
    R: FnMut(&V::Report, &V::Report, Intervals) -> Vec<Row>,
{
    fn order(&mut self, users: u64) -> u64 {
        let users = users.min(self.users_max);
        if users != self.pace.ordered() {
            let line = self.pace.order(users, self.engine.now_us() as f64 / 1e6);
            let rate_milli = ((line.rate * 1e3) as u64).max(1);
            let since_us = (line.since * 1e6) as u64;
            self.load.order(line.from, users, rate_milli, since_us);
        }
        users
    }

    fn present(&self) -> u64 {
        if self.is_stopping {
            return self.open();
        }
        self.engine
            .reports()
            .map(|core| core.handler.present())
            .sum()
    }

    fn open(&self) -> u64 {
        let reports = self.engine.reports();
        reports
            .map(|core| core.stats.open_now + core.stats.connecting_now)
            .sum()
    }

    fn harvest(&mut self, log: &mut dyn FnMut(&Intervals)) -> Harvest {
        let is_done = self.engine.is_done();
        let (report, intervals) = self.view.report(&self.engine, is_done);
        log(&intervals);
        let before = std::mem::replace(&mut self.last, report);
        let mut report = serde_json::to_value(&self.last).expect("reports are plain data");
        report["users_asked"] = self.pace.ordered().into();
        Harvest {
            rows: (self.rows)(&self.last, &before, intervals),
            report,
            summary: is_done.then(|| self.view.summary(&self.last)),
        }
    }

    fn stop(&mut self, how: Shutdown) {
        self.is_stopping = true;
        self.engine.stop(how);
    }

    fn is_done(&self) -> bool {
        self.engine.is_done()
    }

    fn join(self: Box<Self>) -> Result<(), anyhow::Error> {
        Ok(self.engine.join()?)
    }
}
