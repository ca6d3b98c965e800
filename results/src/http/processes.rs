//! The two ends of a slice: started on their cores, waited for, ended.
//!
//! Purpose: everything a slice does with a process, so that [`super::slice`] reads as what is
//! measured.
//! Invariants: every wait is bounded and looks whether somebody has died meanwhile; whoever did is
//! named with its last words.
//! Must not depend on: what is measured between start and end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::address::{address, connects};
use super::cores::{self, Halves};
use super::generator::{self, GeneratorLine, Outcome, Wanted};
use super::plan::{Plan, Slice};
use super::scenario::{Generator, Subject};
use super::subject::{self, Ready, ServerLine, Start};
use crate::run_control::{Aborted, RunControl, has_not_ended, last_words};

use holdfast_telemetry::wire::{HttpClientReport, HttpServerReport};
use holdfast_testbed::child::Child;

/// A server that does not listen by then will not.
const START_MAX: Duration = Duration::from_secs(10);

/// How often a load is looked at: rarely, for this program runs on the cores it measures.
pub(super) const LOAD_POLL: Duration = Duration::from_millis(250);

/// What all our generators of one slice did together.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    pub(super) ok: u64,
    pub(super) stopped: u64,
    pub(super) failures: BTreeMap<String, u64>,
}

impl Outcomes {
    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.ok += outcome.ok;
        self.stopped += outcome.stopped;
        for (kind, n) in &outcome.failures {
            *self.failures.entry(kind.clone()).or_default() += n;
        }
    }
}

/// One slice on its way.
pub(super) struct Performance<'a> {
    pub(super) control: &'a mut RunControl,
    pub(super) plan: &'a Plan,
    pub(super) halves: Halves,
    pub(super) slice: Slice,
    pub(super) number: usize,
    pub(super) dir: PathBuf,
    pub(super) outcomes: Outcomes,
}

/// A server of any kind.
pub(super) type Server = Child<ServerLine>;
/// A generator of any kind.
pub(super) type Client = Child<GeneratorLine>;

impl Performance<'_> {
    /// Starts the server on its cores.
    pub(super) fn start_server(&mut self) -> Result<(Server, Start), Aborted> {
        let fail = |why| Aborted::failed("server_did_not_start", why);
        let wanted = subject::Wanted {
            address: address(self.number, self.plan.port),
            threads: self.halves.server.len(),
            descriptors: self.plan.descriptors,
            scenario: self.slice.scenario,
            dir: &self.dir,
        };
        let start = subject::start(self.slice.subject, self.plan, &wanted).map_err(fail)?;
        let server = cores::on(&self.halves.server, || {
            Child::start(
                "server",
                &start.program,
                &start.args,
                self.dir.join("server.stderr.log"),
                self.control.notify.clone(),
            )
        })
        .map_err(fail)?
        .map_err(|e| {
            fail(format!(
                "{} cannot be started: {e}",
                start.program.display()
            ))
        })?;
        self.control.progress.watch(&server, ServerLine::snapshot);
        Ok((server, start))
    }

    /// Starts this slice's generator on its cores.
    pub(super) fn start_client(&mut self, wanted: &Wanted) -> Result<Client, Aborted> {
        self.start_generator(self.slice.generator, wanted, "client.stderr.log")
    }

    /// Starts any generator on the client's cores.
    pub(super) fn start_generator(
        &mut self,
        generator: Generator,
        wanted: &Wanted,
        log: &str,
    ) -> Result<Client, Aborted> {
        let fail = |why| Aborted::failed("client_did_not_start", why);
        let (program, args) =
            generator::start(generator, &self.plan.programs, wanted, &self.dir).map_err(fail)?;
        let client = cores::on(&self.halves.client, || {
            Child::start(
                "client",
                &program,
                &args,
                self.dir.join(log),
                self.control.notify.clone(),
            )
        })
        .map_err(fail)?
        .map_err(|e| fail(format!("{} cannot be started: {e}", program.display())))?;
        self.control
            .progress
            .watch(&client, GeneratorLine::snapshot);
        Ok(client)
    }

    /// Waits until the server listens.
    pub(super) async fn until_ready(
        &mut self,
        server: &mut Server,
        ready: Ready,
    ) -> Result<(), Aborted> {
        let address = address(self.number, self.plan.port);
        let found = self
            .control
            .wait(START_MAX, Duration::from_millis(10), || {
                has_not_ended(server, "server_did_not_start")?;
                let is_ready = match ready {
                    Ready::Line => server.heard().line_count > 0,
                    Ready::Connects => connects(address),
                };
                Ok(is_ready.then_some(()))
            })
            .await?;
        found.ok_or_else(|| {
            Aborted::failed(
                "server_did_not_start",
                format!(
                    "it did not listen within {} s{}",
                    START_MAX.as_secs(),
                    last_words(server)
                ),
            )
        })
    }

    /// Waits for a report of our client that is as `is_it` wants it.
    pub(super) async fn until_report(
        &mut self,
        server: &mut Server,
        client: &mut Client,
        max: Duration,
        is_it: impl Fn(&HttpClientReport) -> bool,
    ) -> Result<HttpClientReport, Aborted> {
        let found = self
            .control
            .wait(max, LOAD_POLL, || {
                still_run(server, client)?;
                Ok(match &client.heard().latest {
                    Some(GeneratorLine::Client(report)) if is_it(report) => {
                        Some((**report).clone())
                    }
                    _ => None,
                })
            })
            .await?;
        found.ok_or_else(|| {
            Aborted::failed(
                "client_timed_out",
                format!(
                    "the client did not get as far as it should within {} s{}",
                    max.as_secs(),
                    last_words(client)
                ),
            )
        })
    }

    /// Stops a generator; its result, and its time on cores over its whole life, seconds.
    pub(super) async fn end_client(
        &mut self,
        mut client: Client,
        generator: Generator,
    ) -> Result<(Outcome, f64), Aborted> {
        client.signal(generator::stop_signal(generator));
        self.control
            .until_ended(&mut client, "client_did_not_end")
            .await?;
        client.tidy();
        let outcome = generator::outcome(client.heard().latest.as_ref()).map_err(|why| {
            let end = client.end_in_words();
            Aborted::failed(
                "client_without_result",
                format!("{why}; it {end}{}", last_words(&client)),
            )
        })?;
        Ok((outcome, client.cpu().as_secs_f64()))
    }

    /// Ends the server; the last report of ours.
    pub(super) async fn end_server(
        &mut self,
        mut server: Server,
        start: &Start,
    ) -> Result<Option<HttpServerReport>, Aborted> {
        server.signal(if start.is_orderly {
            Signal::SIGTERM
        } else {
            Signal::SIGKILL
        });
        self.control
            .until_ended(&mut server, "server_did_not_end")
            .await?;
        server.tidy();
        if self.slice.subject != Subject::Holdfast {
            return Ok(None);
        }
        if !server.exit().is_some_and(|status| status.success()) {
            return Err(Aborted::failed(
                "server_ended_badly",
                format!(
                    "the server {}{}",
                    server.end_in_words(),
                    last_words(&server)
                ),
            ));
        }
        match &server.heard().latest {
            Some(ServerLine::Report(report)) if report.is_final => Ok(Some((**report).clone())),
            _ => Err(Aborted::failed(
                "server_without_result",
                "the server left no final report",
            )),
        }
    }
}

/// Neither end has ended by itself.
pub(super) fn still_run(server: &mut Server, client: &mut Client) -> Result<(), Aborted> {
    has_not_ended(server, "server_died")?;
    has_not_ended(client, "client_died")
}
