//! The control plane of a run: waits for signals and the clock, gathers, prints, logs, stops.
//!
//! Invariants: a report is gathered once a second and once at the end; every way out after the start prints the final one; the
//! second request to stop cuts what the first one left.
//! Must not know: what users do, what a report contains.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use hdrhistogram::Histogram;
use holdfast_engine::{Config, DialPlan, Engine, Handler, Shutdown};
use holdfast_telemetry::console::{Console, Event, Events};
use holdfast_telemetry::live::{Snapshot, Span, Times};
use holdfast_telemetry::metrics::{Exposed, Metrics, Thread};
use serde::Serialize;

use crate::histogram_log::HistogramLog;

/// Histograms of the time since the last report, by tag.
pub type Intervals = Vec<(&'static str, Histogram<u64>)>;

/// What a protocol's control plane gathers and says.
pub trait View {
    /// What one thread's handler reports.
    type Own: Default + Send + 'static;
    /// What is printed.
    type Report: Serialize + Default + Exposed;
    /// The first line of the histogram log.
    const LOG_COMMENT: &str;

    /// The report as of now, and the histograms of the time since the last one.
    fn gather(&mut self, engine: &Engine<Self::Own>, is_final: bool) -> (Self::Report, Intervals);
    /// True when the report shows that there is nothing left to do, whatever the clock says.
    fn is_over(&self, _report: &Self::Report) -> bool {
        false
    }
    /// The same, asked more often than there are reports.
    fn is_over_now(&self, _engine: &Engine<Self::Own>) -> bool {
        false
    }
    /// What people see of a report, but its times and what is left, which are filled in here.
    fn snapshot(&self, report: &Self::Report) -> Snapshot;
    /// The final report for people.
    fn summary(report: &Self::Report) -> String;
}

/// Makes the file of the histogram log, before anything starts, so that a run is not lost to a folder that cannot be written.
///
/// # Errors
/// One line naming the file and the cause.
pub fn create_log(path: Option<&PathBuf>) -> Result<Option<File>, anyhow::Error> {
    path.map(|path| {
        File::create(path).map_err(|e| {
            anyhow::anyhow!(
                "cannot write {} ({e}); next: name a file in a folder that exists",
                path.display()
            )
        })
    })
    .transpose()
}

/// Starts an engine with the handlers `make` gives, and runs it to its end. Gives the final report.
///
/// # Errors
/// One line naming the cause.
pub fn run<H, V>(
    (config, plan): (Config, DialPlan),
    make: impl FnMut(usize) -> H,
    view: &mut V,
    console: &mut Console,
    metrics: &Metrics,
    run_time: Option<Duration>,
    histogram_log: Option<File>,
) -> Result<V::Report, anyhow::Error>
where
    H: Handler<Report = V::Own> + 'static,
    V: View,
{
    tokio_uring::start(async {
        // Before the first user: whoever sees one may ask for the end already, and gets the figures.
        let events = Events::new(console)?;
        metrics.serve()?;
        let engine = Engine::start(config, Vec::new(), Some(plan), make)?;
        supervise(
            engine,
            events,
            view,
            console,
            metrics,
            run_time,
            histogram_log,
        )
        .await
    })
}

/// Runs an engine to its end: by signal, after `run_time`, or when there is nothing left to do. Gives the final report.
///
/// # Errors
/// What a thread ended with, or a file that cannot be written; the final report was printed all the same.
async fn supervise<V: View>(
    engine: Engine<V::Own>,
    mut events: Events,
    view: &mut V,
    console: &mut Console,
    metrics: &Metrics,
    run_time: Option<Duration>,
    histogram_log: Option<File>,
) -> Result<V::Report, anyhow::Error> {
    let log = histogram_log.map(|file| HistogramLog::new(file, V::LOG_COMMENT));
    let mut log = log.transpose()?;
    let mut stops = 0;
    let mut printed_us = 0;
    let mut last = V::Report::default();
    loop {
        let is_done = engine.is_done();
        let event = if is_done {
            Event::Tick
        } else {
            events.next(console).await
        };
        let now_us = engine.now_us();
        let is_time = run_time.is_some_and(|t| u128::from(now_us) >= t.as_micros());
        let is_over = stops == 0 && (is_time || view.is_over_now(&engine));
        if event == Event::Stop || is_over {
            stops += 1;
            engine.stop(if stops == 1 {
                Shutdown::Graceful
            } else {
                Shutdown::Immediate
            });
        }
        if is_done || now_us - printed_us >= 1_000_000 {
            printed_us = now_us;
            let (report, intervals) = view.gather(&engine, is_done);
            let threads = engine.reports().map(|core| Thread {
                open_now: core.stats.open_now,
                shard_count: core.stats.shard_count,
                bytes_received: core.stats.bytes_received,
            });
            metrics.update(&report, &intervals, threads);
            if let Some(log) = &mut log {
                log.write(&intervals);
                log.next_interval();
            }
            if stops == 0 && view.is_over(&report) {
                stops = 1;
                engine.stop(Shutdown::Graceful);
            }
            if !is_done {
                console.progress(&report, || {
                    let now = view.snapshot(&report);
                    let left = run_time.map(|t| t.saturating_sub(Duration::from_micros(now_us)));
                    Snapshot {
                        phase: if stops > 0 { "drain" } else { now.phase },
                        left_seconds: left.filter(|_| stops == 0).map(|t| t.as_secs_f64()),
                        times: intervals.iter().map(last_second).collect(),
                        ..now
                    }
                });
            }
            last = report;
        }
        if is_done {
            break;
        }
    }
    let logged = log.map_or(Ok(()), HistogramLog::finish);
    let ended = engine.join();
    let written = console.finish(&last, V::summary(&last));
    ended?;
    written.map_err(anyhow::Error::msg)?;
    logged?;
    Ok(last)
}

/// What the histogram of the time since the last report says.
fn last_second((name, histogram): &(&'static str, Histogram<u64>)) -> Times {
    let quantile = |q| (!histogram.is_empty()).then(|| histogram.value_at_quantile(q));
    Times {
        name,
        span: Span::Second,
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
    }
}
