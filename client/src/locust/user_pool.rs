//! The running users of one class: an engine, how many users it should have, and what they did
//! since the last collection.
//!
//! Invariants: the number of users changes evenly over time; everything users did is in exactly one
//! collection.
//! Must not depend on: the master, other classes.

use std::net::SocketAddr;
use std::sync::Arc;

use holdfast_engine::{Engine, Handler, Shutdown};
use holdfast_telemetry::console::Console;
use holdfast_telemetry::wire::HTTP_CLIENT_SCHEMA;
use serde::Serialize;

use super::options::Options;
use super::ramp::RampSmoother;
use super::rows;
use super::stats::Row;
use super::user_class::UserClass;
use crate::aggregate::head;
use crate::http::reporter::HttpReporter;
use crate::http::user::{Model, Users as HttpUsers};
use crate::launch::{ClientFlags, Destination, EngineSetup, LoadFlags};
use crate::load::Load;
use crate::longconn::LongconnReporter;
use crate::longconn::user::Users as LongconnUsers;
use crate::{http, longconn, target};
use holdfast_supervisor::histogram_log::Intervals;
use holdfast_supervisor::supervise::Reporter;

/// What users did since the last collection.
pub struct Collection {
    /// Rows of Locust's tables.
    pub rows: Vec<Row>,
    /// The final figures so far.
    pub report: serde_json::Value,
    /// A summary of it for people, once all users have ended.
    pub summary: Option<String>,
}

/// The users of one class.
pub trait UserPool {
    /// Has users started or stopped until there are `users`, or as many as fit here; gives that
    /// number.
    fn set_target_users(&mut self, users: u64) -> u64;
    /// Users; once they are being stopped, their connections.
    fn user_count(&self) -> u64;
    /// Connections that are open or being opened.
    fn connection_count(&self) -> u64;
    /// Collects what users did since the last time; `log` gets its histograms.
    fn collect(&mut self, log: &mut dyn FnMut(&Intervals)) -> Collection;
    /// Stops all users.
    fn stop(&mut self, how: Shutdown);
    /// True when all have ended.
    fn is_done(&self) -> bool;
    /// Waits for the threads.
    ///
    /// # Errors
    /// The error a thread ended with.
    fn join(self: Box<Self>) -> Result<(), anyhow::Error>;
}

/// What users of a class connect to by the master's options: `HOST:PORT` texts.
///
/// # Errors
/// The missing or wrong option and what to change.
pub fn targets(class: UserClass, options: &Options) -> Result<Vec<String>, anyhow::Error> {
    Ok(match class {
        UserClass::LongConn => options.longconn()?.1,
        UserClass::Http => vec![options.http()?.1.host_port],
    })
}

/// Starts a pool without users, as the master's options say, for at most `users_max` users, or as
/// many as fit.
///
/// # Errors
/// The missing or wrong option, or what the machine lacks, and what to change.
pub fn start(
    class: UserClass,
    options: &Options,
    targets: &[SocketAddr],
    launch: &ClientFlags,
    users_max: Option<u64>,
    console: &mut Console,
) -> Result<Box<dyn UserPool>, anyhow::Error> {
    let quantity = |users| LoadFlags {
        users,
        spawn_rate: Load::MAX,
        run_time: None,
    };
    let destination = |users| Destination {
        addresses: targets,
        users,
    };
    let load = Load::new(0, Load::MAX);
    let title = format!("client worker {}", class.name());
    match class {
        UserClass::LongConn => {
            let (config, names) = options.longconn()?;
            let users_max = launch.users_that_fit(targets, longconn::SPEC, users_max)?;
            let to = [destination(users_max)];
            let ready = launch.prepare(&quantity(users_max), &to, longconn::SPEC, console)?;
            target::keep_resolved(vec![(names, ready.plan.targets())], &launch.resolve);
            let thread_count = ready.config.thread_count();
            let asked = longconn::RunParams {
                title,
                load,
                interval_us: config.interval_us,
                lateness_limit_us: 0,
            };
            let view = LongconnReporter::new(asked, thread_count, 0, true);
            let make = move |share| LongconnUsers::new(config, load, share, thread_count);
            Ok(Box::new(EnginePool::start(
                ready,
                view,
                users_max,
                make,
                rows::longconn,
            )?))
        }
        UserClass::Http => {
            let (config, url, method) = options.http()?;
            let names = vec![url.host_port.clone()];
            let users_max = launch.users_that_fit(targets, http::SPEC, users_max)?;
            let to = [destination(users_max)];
            let ready = http::prepare(launch, &quantity(users_max), &to, &config, console)?;
            target::keep_resolved(vec![(names, ready.plan.targets())], &launch.resolve);
            let thread_count = ready.config.thread_count();
            let base = head(HTTP_CLIENT_SCHEMA, thread_count, 0);
            let wait_mean_us = match config.model {
                Model::Closed(shortest, longest) if longest > 0 => Some(shortest.midpoint(longest)),
                _ => None,
            };
            let asked = http::reporter::RunParams {
                title,
                urls: Vec::new(),
                load,
                rate_per_second: None,
            };
            let request_limit = Arc::clone(&config.request_limit);
            let view = HttpReporter::new(base, asked, 0, wait_mean_us, request_limit);
            let make = move |share| HttpUsers::new(config.clone(), load, share, thread_count, 0);
            Ok(Box::new(EnginePool::start(
                ready,
                view,
                users_max,
                make,
                move |now, before, intervals| {
                    rows::http(now, before, intervals, (&method, &url.path))
                },
            )?))
        }
    }
}

/// The users of one thread.
trait UserCount {
    fn user_count(&self) -> u64;
}

impl UserCount for longconn::user::UserReport {
    fn user_count(&self) -> u64 {
        self.present
    }
}

impl UserCount for http::counters::Counters {
    fn user_count(&self) -> u64 {
        self.present
    }
}

struct EnginePool<V: Reporter, R> {
    engine: Engine<V::Counters, Load>,
    view: V,
    users_max: u64,
    ramp: RampSmoother,
    is_stopping: bool,
    last: V::Report,
    rows: R,
}

impl<V, R> EnginePool<V, R>
where
    V: Reporter<Counters: UserCount, Command = Load, Report: Default>,
    R: FnMut(&V::Report, &V::Report, Intervals) -> Vec<Row>,
{
    fn start<H: Handler<Report = V::Counters, Command = Load> + 'static>(
        ready: EngineSetup,
        view: V,
        users_max: u64,
        make: impl FnMut(usize) -> H,
        rows: R,
    ) -> Result<Self, anyhow::Error> {
        let engine = Engine::start(ready.config, Vec::new(), Some(ready.plan), make)?;
        Ok(EnginePool {
            engine,
            view,
            users_max,
            ramp: RampSmoother::default(),
            is_stopping: false,
            last: V::Report::default(),
            rows,
        })
    }
}

impl<V, R> UserPool for EnginePool<V, R>
where
    V: Reporter<Counters: UserCount, Command = Load, Report: Serialize + Default>,
    R: FnMut(&V::Report, &V::Report, Intervals) -> Vec<Row>,
{
    fn set_target_users(&mut self, users: u64) -> u64 {
        let users = users.min(self.users_max);
        if users != self.ramp.target() {
            let segment = self
                .ramp
                .set_target(users, self.engine.now_us() as f64 / 1e6);
            let rate_milli = ((segment.rate * 1e3) as u64).max(1);
            let since_us = (segment.since * 1e6) as u64;
            let load = Load::change(segment.from, users, rate_milli, since_us);
            // A thread that has ended has no users; a mailbox holds the orders of hours.
            let _ = self.engine.handle().broadcast(load);
        }
        users
    }

    fn user_count(&self) -> u64 {
        if self.is_stopping {
            return self.connection_count();
        }
        self.engine
            .reports()
            .map(|core| core.handler.user_count())
            .sum()
    }

    fn connection_count(&self) -> u64 {
        let reports = self.engine.reports();
        reports
            .map(|core| core.stats.open_now + core.stats.connecting_now)
            .sum()
    }

    fn collect(&mut self, log: &mut dyn FnMut(&Intervals)) -> Collection {
        let is_done = self.engine.is_done();
        let (report, intervals) = self.view.report(&self.engine, is_done);
        log(&intervals);
        let before = std::mem::replace(&mut self.last, report);
        let mut report = serde_json::to_value(&self.last).expect("reports are plain data");
        report["users_asked"] = self.ramp.target().into();
        Collection {
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
