//! The end of one process of a run: graceful if it can, killed if it cannot.
//!
//! Invariants: never fails, always ends. A process that does not end in time is killed, and that is
//! an incident.
//! Must not depend on: any scenario, how far the run had come.

use std::time::{Duration, Instant};

use holdfast_telemetry::report_line::Report;
use holdfast_testbed::child::Child;
use nix::sys::signal::Signal;

use crate::held_load::{HeldLoad, HeldRun};

/// A killed process with millions of sockets takes its time to vanish.
const KILL_MAX: Duration = Duration::from_secs(120);

impl<L: HeldLoad> HeldRun<'_, L> {
    /// Sends `signal`, if there is one, to a child of the run and waits until it has ended: at most
    /// as long as it may take to close everything, after an interrupt not as long, after a second
    /// one not at all. Then it is killed.
    pub(crate) async fn end<R: Report>(
        &mut self,
        name: &str,
        signal: Option<Signal>,
        child: impl Fn(&L) -> Option<&Child<R>>,
    ) {
        let is_done = |load: &L| child(load).is_none_or(Child::is_done);
        let send = |load: &L, signal| {
            if let Some(child) = child(load) {
                child.signal(signal);
            }
        };
        if let Some(signal) = signal {
            send(self.load, signal);
        }
        let started = Instant::now();
        let limits = self.load.limits();
        while !is_done(self.load) {
            let until = started + limits.close_max;
            let at = self.control.interrupted_at();
            let until = at.map_or(until, |at| {
                until.min(at.max(started) + limits.interrupt_grace)
            });
            let why = if Instant::now() >= until {
                format!(
                    "did not end within {:.0} s",
                    started.elapsed().as_secs_f64()
                )
            } else if self.step().await.is_err() {
                "had not ended when all of it was interrupted again".to_owned()
            } else {
                continue;
            };
            let incident = format!("the {name} {why} and was killed");
            self.observed.incidents.push(incident);
            send(self.load, Signal::SIGKILL);
            break;
        }
        let killed = Instant::now();
        while !is_done(self.load) {
            if killed.elapsed() > KILL_MAX {
                let seconds = KILL_MAX.as_secs();
                let incident = format!("the {name} did not vanish within {seconds} s of its kill");
                return self.observed.incidents.push(incident);
            }
            if self.step().await.is_err() {
                // Interrupted again: there is nothing left to cut short.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
