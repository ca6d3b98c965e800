//! The end of a run: Locust and its workers, then the server, each in order if it can.
//!
//! Invariants: every wait is bounded; an interrupt does not cut it short, a second one does.
//! Must not know: how far the run had come.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::flow::Flow;
use super::plan::MASTER_LOG;
use crate::frame::leave_report;

use holdfast_telemetry::proc::tree;
use holdfast_telemetry::report_line::Report;
use holdfast_testbed::child::Child;

/// How often the master is interrupted, and how long it may take to say that it has heard.
const INTERRUPTS_MAX: u32 = 4;
const INTERRUPT_INTERVAL: Duration = Duration::from_secs(10);

/// How long a run that is cut short waits to be told what is open: reports come every second.
const TOLD_MAX: Duration = Duration::from_secs(4);

impl Flow<'_> {
    /// Ends the test as Ctrl-C at the master does, then the server; waits for all of them, also when all of it was interrupted. What does
    /// not end is killed later.
    pub async fn finish(&mut self) {
        self.phase = "close";
        self.stage.end_in_order();
        if self.counts.is_none() {
            // A short run: what was open before anything is closed, as far as that is still said.
            if self.seen.ramp_start.is_some() {
                let _ = self.until_told(TOLD_MAX).await;
            }
            self.counts = Some(self.counts_now());
            self.seen.cut = Some(self.mark());
        }
        let max = self.plan.close_max();
        self.end_master().await;
        self.until_ended(max, |flow| is_done(flow.master.as_ref()), "Locust")
            .await;
        self.end_untold_workers();
        self.until_ended(max, |flow| is_done(flow.crew.as_ref()), "the workers")
            .await;
        if let Some(server) = &self.server {
            server.signal(Signal::SIGTERM);
        }
        self.until_ended(max, |flow| is_done(flow.server.as_ref()), "the server")
            .await;
        self.ramp.stop();
        let now = self.mark();
        self.seen.take_second(now);
        self.phase = "done";
        self.add_row(None).await;
        self.stage.live.finish();
        self.leave();
    }

    /// Interrupts the master until it says that it shuts down: Python raises an interrupt wherever the program is, and drops one that
    /// falls into a destructor or a callback of C.
    async fn end_master(&mut self) {
        let log = self.folder.file(MASTER_LOG);
        for _ in 0..INTERRUPTS_MAX {
            match &self.master {
                Some(master) if master.exit().is_none() => master.signal(Signal::SIGINT),
                _ => return,
            }
            let since = Instant::now();
            while since.elapsed() < INTERRUPT_INTERVAL {
                let is_heard = is_done(self.master.as_ref()) || shuts_down(&log);
                if is_heard || self.step().await.is_err() {
                    return;
                }
            }
        }
    }

    /// A master that ends before it has started the test, or dies, does not tell its workers to quit.
    fn end_untold_workers(&self) {
        let Some(crew) = &self.crew else { return };
        if shuts_down(&self.folder.file(MASTER_LOG)) {
            return;
        }
        for pid in tree::pids(crew.pid()) {
            if let Ok(number) = i32::try_from(pid)
                && pid != crew.pid()
            {
                let _ = kill(Pid::from_raw(number), Signal::SIGTERM);
            }
        }
    }

    /// Leaves final reports beside the record, and no empty file.
    fn leave(&self) {
        if let Some(server) = &self.server {
            leave_report(server, self.folder, "server.json");
            server.tidy();
        }
        if let Some(master) = &self.master {
            master.tidy();
        }
        if let Some(crew) = &self.crew {
            let crew_heard = crew.heard();
            if let Some(all) = &crew_heard.latest
                && let Err(e) = self.folder.write_json("workers.json", all)
            {
                eprintln!("warning: workers.json: {e}");
            }
            crew.tidy();
        }
    }

    async fn until_ended(&mut self, max: Duration, is_it: impl Fn(&Self) -> bool, who: &str) {
        let started = Instant::now();
        while !is_it(self) {
            let words = if started.elapsed() > max {
                format!("{who} did not end within {} s", max.as_secs())
            } else if self.step().await.is_err() {
                format!("{who} had not ended when all of it was interrupted again")
            } else {
                continue;
            };
            return self.seen.incidents.push(words);
        }
    }
}

/// Whether the master's log says that it ends in order.
fn shuts_down(log: &Path) -> bool {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.contains("Shutting down")
}

fn is_done<R: Report>(child: Option<&Child<R>>) -> bool {
    child.is_none_or(Child::is_done)
}
