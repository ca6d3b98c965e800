//! The process of Locust's master: started, sampled, interrupted.
//!
//! Must not depend on: what the master counts.

use std::path::Path;
use std::time::Instant;

use holdfast_report::folder::RunFolder;
use holdfast_report::locust::record::MasterRecord;
use holdfast_telemetry::proc::tree;
use holdfast_telemetry::report_line::AnyLine;
use holdfast_telemetry::units::round;
use holdfast_testbed::child::Child;
use nix::sys::signal::Signal;

use super::plan::MASTER_LOG;
use crate::held_load::Starter;
use crate::run_control::Aborted;

/// Locust's master, and what it used until each phase ended.
#[derive(Debug, Default)]
pub(super) struct MasterProcess {
    child: Option<Child<AnyLine>>,
    /// Moments and time on a core until then, seconds: start of the ramp, end of the ramp, end of
    /// the hold.
    samples: Vec<(Instant, f64)>,
    rss_bytes: Option<u64>,
}

impl MasterProcess {
    pub(super) fn start(
        &mut self,
        starter: &Starter<'_>,
        program: &Path,
        args: &[String],
    ) -> Result<(), Aborted> {
        self.child = Some(starter.start("master", program, args)?);
        Ok(())
    }

    pub(super) fn child(&self) -> Option<&Child<AnyLine>> {
        self.child.as_ref()
    }

    pub(super) fn reap(&mut self) {
        if let Some(child) = &mut self.child {
            child.reap();
        }
    }

    pub(super) fn sample(&mut self) {
        if let Some(child) = &self.child {
            let cpu_seconds = tree::cpu_seconds(child.pid());
            self.samples.push((Instant::now(), cpu_seconds));
            self.rss_bytes = Some(tree::rss_bytes(child.pid()));
        }
    }

    /// Interrupts it, as Ctrl-C does; false if it has ended.
    pub(super) fn interrupt(&self) -> bool {
        let alive = self.child.as_ref().filter(|c| c.exit().is_none());
        alive.inspect(|c| c.signal(Signal::SIGINT)).is_some()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.child.as_ref().is_none_or(Child::is_done)
    }

    pub(super) fn tidy(&self) {
        if let Some(child) = &self.child {
            child.tidy();
        }
    }

    pub(super) fn record(&self) -> MasterRecord {
        let share = |from: usize| {
            let [a, b]: [_; 2] = self.samples.get(from..from + 2)?.try_into().ok()?;
            let seconds = b.0.duration_since(a.0).as_secs_f64();
            (seconds > 0.0).then(|| round(100.0 * (b.1 - a.1) / seconds, 1))
        };
        let child = self.child.as_ref();
        MasterRecord {
            command: child.map(|c| c.command.clone()).unwrap_or_default(),
            exit_code: child.and_then(|c| c.exit()?.code()),
            cpu_percent_ramp: share(0),
            cpu_percent_hold: share(1),
            rss_bytes: self.rss_bytes.filter(|_| self.samples.len() == 3),
        }
    }
}

/// Whether the master's log says that it shuts down gracefully.
pub(super) fn shuts_down(folder: &RunFolder) -> bool {
    let text = std::fs::read_to_string(folder.file(MASTER_LOG)).unwrap_or_default();
    text.contains("Shutting down")
}
