//! The supervisor of an engine: waits for signals and the clock, gathers figures, prints, logs and
//! stops.
//!
//! Invariants: a report is gathered once a second and once at the end; the final one is printed
//! however the engine ends; the first stop request closes connections gracefully, the second one
//! aborts what is left.
//! Must not depend on: protocols, what a report contains.

use std::os::fd::OwnedFd;
use std::time::Duration;

use hdrhistogram::Histogram;
use holdfast_engine::listen::Inherited;
use holdfast_engine::{Engine, SetupError, Shutdown, Stats};
use holdfast_sysctl::grouped;
use holdfast_telemetry::console::{Console, Event, Events};
use holdfast_telemetry::live::{Percentiles, Snapshot, Span};
use holdfast_telemetry::metrics::{ExposeMetrics, Metrics, Thread};
use serde::Serialize;

use crate::control::Control;
use crate::histogram_log::{HistogramLog, Intervals};
use crate::notify::notify;
use crate::upgrade::{Upgrade, UpgradeEvent};

/// How often a report is gathered, microseconds.
const REPORT_INTERVAL_US: u64 = 1_000_000;

/// How a protocol reports what its engine does.
pub trait Reporter {
    /// What the handler of one core thread counts.
    type Counters: Default + Send + 'static;
    /// The commands its handlers take.
    type Command: Send + 'static;
    /// The report that is printed.
    type Report: Serialize + ExposeMetrics;

    /// The engine runs. Called once on the control plane's runtime, where tasks may be spawned.
    fn on_start(&mut self, _engine: &Engine<Self::Counters, Self::Command>) {}
    /// What has happened since the last call and is to be logged, a line each. Asked ten times a second.
    fn take_messages(&mut self) -> Vec<String> {
        Vec::new()
    }
    /// The report as of now, and the histograms of the time since the last one.
    fn report(
        &mut self,
        engine: &Engine<Self::Counters, Self::Command>,
        is_final: bool,
    ) -> (Self::Report, Intervals);
    /// True when the report shows that nothing is left to do, whatever the clock says.
    fn is_over(&self, _report: &Self::Report) -> bool {
        false
    }
    /// The same, asked ten times a second.
    fn is_over_now(&self, _engine: &Engine<Self::Counters, Self::Command>) -> bool {
        false
    }
    /// The report for the live view, except for its times and the time left, which the supervisor
    /// fills in.
    fn snapshot(&self, report: &Self::Report) -> Snapshot;
    /// The final report as text.
    fn summary(&self, report: &Self::Report) -> String;
}

/// Where the reports of an engine go, and when it ends.
pub struct Supervisor {
    /// Standard output, live view and `--json`.
    pub console: Console,
    /// The endpoint of `--metrics`.
    pub metrics: Metrics,
    /// Stop after this time. `None`: at a signal, or when nothing is left to do.
    pub run_time: Option<Duration>,
    /// The file of `--histogram-log`.
    pub histogram_log: Option<HistogramLog>,
    /// Printed when the engine runs, followed at once by a first report: whoever reads it knows
    /// that the engine is ready.
    pub ready: Option<String>,
    /// Where the listeners came from, to be told when the engine runs.
    pub inherited: Option<Inherited>,
    /// How to upgrade at SIGUSR2, if that is listened for.
    pub upgrade: Option<Upgrade>,
}

impl Supervisor {
    /// Starts an engine and runs it to its end: at a signal, after the run time, or when nothing is
    /// left to do. Returns the final report, which is already printed.
    ///
    /// # Errors
    /// The engine did not start, a thread failed, or a file could not be written.
    pub fn run<R: Reporter>(
        mut self,
        control: Control,
        start: impl FnOnce() -> Result<Engine<R::Counters, R::Command>, SetupError>,
        reporter: &mut R,
    ) -> Result<R::Report, anyhow::Error> {
        let Control { runtime, events } = control;
        runtime.block_on(async {
            self.metrics.serve()?;
            self.supervise(start()?, events, reporter).await
        })
    }

    async fn supervise<R: Reporter>(
        mut self,
        engine: Engine<R::Counters, R::Command>,
        mut events: Events,
        reporter: &mut R,
    ) -> Result<R::Report, anyhow::Error> {
        if let Some(log) = &mut self.histogram_log {
            log.next_interval();
        }
        let mut next_report_us = REPORT_INTERVAL_US;
        if let Some(ready) = self.ready.take() {
            self.console.note(ready);
            next_report_us = 0;
        }
        notify("READY=1");
        if let Some(inherited) = self.inherited.take() {
            inherited.tell_ready();
        }
        reporter.on_start(&engine);
        let (mut stops, mut is_draining) = (0, false);
        let last = loop {
            let is_done = engine.is_done();
            let now_us = engine.now_us();
            if is_done || now_us >= next_report_us {
                next_report_us = (now_us / REPORT_INTERVAL_US + 1) * REPORT_INTERVAL_US;
                let (report, intervals) = reporter.report(&engine, is_done);
                self.metrics.update(
                    &report,
                    &intervals,
                    engine.reports().map(|core| thread(&core.stats)),
                );
                if let Some(log) = &mut self.histogram_log {
                    log.write(&intervals);
                    log.next_interval();
                }
                if is_done {
                    break report;
                }
                if stops == 0 && reporter.is_over(&report) {
                    stops = 1;
                    engine.stop(Shutdown::Graceful);
                }
                let run_time = self.run_time.filter(|_| stops == 0);
                self.console.progress(&report, || {
                    let now = reporter.snapshot(&report);
                    let left = run_time.map(|t| t.saturating_sub(Duration::from_micros(now_us)));
                    Snapshot {
                        phase: if stops > 0 || is_draining {
                            "drain"
                        } else {
                            now.phase
                        },
                        left_seconds: left.map(|t| t.as_secs_f64()),
                        times: intervals.iter().map(last_second).collect(),
                        ..now
                    }
                });
            }
            let event = events.next(&mut self.console).await;
            for message in reporter.take_messages() {
                self.console.log(message);
            }
            let is_time = self
                .run_time
                .is_some_and(|t| u128::from(engine.now_us()) >= t.as_micros());
            if event == Event::Upgrade && stops == 0 {
                self.start_upgrade();
            }
            // The first request to stop after that is still a graceful one.
            if stops == 0 && self.upgrade_is_over(&engine) {
                is_draining = true;
                engine.stop(Shutdown::Graceful);
            }
            let is_over = stops == 0 && (is_time || reporter.is_over_now(&engine));
            if event == Event::Stop || is_over {
                stops += 1;
                if stops == 1 {
                    notify("STOPPING=1");
                }
                if let Some(upgrade) = &mut self.upgrade {
                    // Its copies would keep the listeners open.
                    upgrade.cancel();
                }
                engine.stop(match stops {
                    1 => Shutdown::Graceful,
                    _ => Shutdown::Immediate,
                });
            }
        };
        let logged = self.histogram_log.map_or(Ok(()), HistogramLog::finish);
        let joined = engine.join();
        let printed = self.console.finish(&last, reporter.summary(&last));
        joined?;
        printed.map_err(anyhow::Error::msg)?;
        logged?;
        Ok(last)
    }
}

impl Supervisor {
    /// Starts the process that is to take over.
    fn start_upgrade(&mut self) {
        let Some(upgrade) = &mut self.upgrade else {
            return;
        };
        let text = match self.metrics.listener() {
            Ok(metrics) => upgrade.start(metrics.map(OwnedFd::from)),
            Err(error) => format!("not upgraded, still serving: {error}; next: ulimit -n 20000"),
        };
        self.console.log(text);
    }

    /// Looks after an upgrade. True once the new process serves and connections were kept long
    /// enough.
    fn upgrade_is_over<P: Default + Send + 'static, C: Send + 'static>(
        &mut self,
        engine: &Engine<P, C>,
    ) -> bool {
        let Some(upgrade) = &mut self.upgrade else {
            return false;
        };
        let open_now = || engine.reports().map(|core| core.stats.open_now).sum();
        match upgrade.look(open_now) {
            None => false,
            Some(UpgradeEvent::Failed(text)) => {
                self.console.log(text);
                false
            }
            Some(UpgradeEvent::Ready(id)) => {
                engine.release_listeners();
                self.metrics.stop();
                notify(&format!("MAINPID={id}"));
                self.console.log(format_args!(
                    "upgraded: process {id} serves; this one keeps its {} connections",
                    grouped(open_now())
                ));
                false
            }
            Some(UpgradeEvent::KeptLongEnough) => true,
        }
    }
}

fn thread(stats: &Stats) -> Thread {
    Thread {
        open_now: stats.open_now,
        shard_count: stats.shard_count,
        bytes_received: stats.bytes_received,
    }
}

/// Latencies of the time since the last report.
fn last_second((name, histogram): &(&'static str, Histogram<u64>)) -> Percentiles {
    let quantile = |q| (!histogram.is_empty()).then(|| histogram.value_at_quantile(q));
    Percentiles {
        name,
        span: Span::Second,
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
    }
}

/// Merges the engine's statistics of all threads, and calls `each` with the counters of each
/// thread's handler.
pub fn merge_threads<P: Default + Send + 'static, C: Send + 'static>(
    engine: &Engine<P, C>,
    mut each: impl FnMut(&mut P),
) -> Stats {
    let mut stats = Stats::default();
    for mut report in engine.reports() {
        stats.merge(&report.stats);
        each(&mut report.handler);
    }
    stats
}
