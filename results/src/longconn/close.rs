//! The end of a run: client, then server, each in order if it can.
//!
//! Invariants: never fails, always ends. What does not end in time is killed, and that is an incident.
//! Must not know: how far the run had come.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::flow::Flow;
use crate::frame::leave_report;

use holdfast_report::folder::RunFolder;
use holdfast_telemetry::report_line::Report;
use holdfast_testbed::child::Child;

/// After an interrupt each process has this long to end in order.
const INTERRUPT_GRACE: Duration = Duration::from_secs(10);
/// A killed process with millions of sockets takes its time to vanish.
const KILL_MAX: Duration = Duration::from_secs(120);

impl Flow<'_> {
    /// Ends client, then server, each in order if it can; takes their last reports. Never fails, always ends.
    pub(super) async fn end(&mut self) {
        self.phase = "close";
        if self.seen.counts.is_none() {
            // A short run: what was open before anything is closed.
            let mark = self.mark();
            self.seen.counts = Some(self.counts_at(&mark));
            self.seen.cut = Some(mark);
        }
        let close_max = self.plan.close_max();
        if let Some(client) = &self.client {
            client.signal(Signal::SIGTERM);
        }
        if self.interrupt_count > 0
            && let Some(server) = &self.server
        {
            server.signal(Signal::SIGTERM);
        }
        self.until_done(close_max, |flow| end_state(flow.client.as_ref()))
            .await;
        if let Some(server) = &self.server {
            server.signal(Signal::SIGTERM);
        }
        self.until_done(close_max, |flow| end_state(flow.server.as_ref()))
            .await;
        self.seen.latest = self.mark();
        self.phase = "done";
        self.add_row(None).await;
    }

    /// Waits for one child; kills it when time is up, after an interrupt sooner, at a second interrupt at once.
    async fn until_done(&mut self, close_max: Duration, state: impl Fn(&Self) -> EndState) {
        let started = Instant::now();
        let mut killed_at: Option<Instant> = None;
        loop {
            let now = state(self);
            if now.is_done {
                return;
            }
            let mut until = started + close_max;
            if let Some(at) = self.interrupted_at {
                until = until.min(at + INTERRUPT_GRACE);
            }
            match killed_at {
                None if Instant::now() >= until || self.interrupt_count > 1 => {
                    self.seen.incidents.push(format!(
                        "the {} did not end within {:.0} s and was killed",
                        now.name,
                        started.elapsed().as_secs_f64()
                    ));
                    self.kill(now.name);
                    killed_at = Some(Instant::now());
                }
                Some(at) if at.elapsed() > KILL_MAX => {
                    self.seen.incidents.push(format!(
                        "the {} did not vanish within {} s of its kill",
                        now.name,
                        KILL_MAX.as_secs()
                    ));
                    return;
                }
                _ => {}
            }
            self.step().await;
        }
    }

    fn kill(&self, name: &str) {
        match (&self.server, &self.client) {
            (Some(server), _) if name == server.name => server.signal(Signal::SIGKILL),
            (_, Some(client)) => client.signal(Signal::SIGKILL),
            _ => {}
        }
    }

    /// Closes the series, leaves the final reports beside the record and removes empty logs.
    pub(super) async fn leave(mut self) {
        if let Some(series) = self.series.take() {
            let _ = series.close().await;
        }
        if let Some(server) = &self.server {
            leave_child(self.folder, server, "server.json");
        }
        if let Some(client) = &self.client {
            leave_child(self.folder, client, "client.json");
        }
    }
}

fn leave_child<R: Report>(folder: &RunFolder, child: &Child<R>, file: &str) {
    leave_report(child, folder, file);
    if child.exit().is_none_or(|status| !status.success()) {
        for line in child.stderr_tail(10) {
            eprintln!("{}: {line}", child.name);
        }
    }
    child.tidy();
}

struct EndState {
    name: &'static str,
    is_done: bool,
}

fn end_state<R: Report>(child: Option<&Child<R>>) -> EndState {
    child.map_or(
        EndState {
            name: "",
            is_done: true,
        },
        |c| EndState {
            name: c.name,
            is_done: c.is_done(),
        },
    )
}
