//! `--metrics`: what a program counts, and the kernel beside it, for Prometheus and whatever reads
//! the same.
//!
//! Invariants: nothing is done and nothing listens unless asked. A page is made at most once for
//! each report, when somebody asks for it: however many scrape, it costs no more. What each metric
//! means is in `results/METRICS.md`.
//! Must not depend on: engines, protocols.

pub mod buckets;
mod endpoint;
mod kinds;
mod machine;
pub mod page;
mod reports;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::rc::Rc;

use hdrhistogram::Histogram;
use hyper::body::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use buckets::Buckets;
pub use kinds::{LabelValues, Thread};
use machine::Machine;
use page::{Format, Page};
pub use reports::ExposeMetrics;

/// The flag of every program with metrics.
#[derive(Debug, clap::Args)]
pub struct MetricsFlags {
    /// Serve OpenMetrics for Prometheus at http://ADDR:PORT/metrics [default: off]
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<String>,
}

/// The figures of a program, gathered.
#[derive(Debug, Default)]
struct Figures {
    kinds: LabelValues,
    /// Durations by the names the reports' histograms have.
    durations: BTreeMap<&'static str, Buckets>,
    /// As of the last report.
    page: Page,
    machine: Machine,
    /// The whole page as text, by format, if somebody asked since the last report.
    texts: [Option<Bytes>; 2],
    /// Told of each report.
    news: Rc<Notify>,
}

impl Figures {
    fn text(&mut self, format: Format) -> Bytes {
        let text = &mut self.texts[format as usize];
        let text = text.get_or_insert_with(|| {
            let mut page = self.page.clone();
            page.append(self.machine.page());
            page.text(format).into()
        });
        text.clone()
    }
}

/// The metrics of a program; inert if nobody asked for them.
#[derive(Debug)]
pub struct Metrics(Option<Serving>);

#[derive(Debug)]
struct Serving {
    listener: TcpListener,
    figures: Rc<RefCell<Figures>>,
    /// What answers.
    task: Option<JoinHandle<()>>,
}

impl Metrics {
    /// Binds the port of the flag, or takes an inherited listener.
    ///
    /// # Errors
    /// One line naming why it cannot be had.
    pub fn open(
        flags: &MetricsFlags,
        kinds: LabelValues,
        inherited: Option<TcpListener>,
    ) -> Result<Self, String> {
        let listener = match (inherited, &flags.metrics) {
            (Some(listener), _) => Ok(listener),
            (None, Some(address)) => Self::bind(address),
            (None, None) => return Ok(Metrics(None)),
        }?;
        listener.set_nonblocking(true).map_err(|e| e.to_string())?;
        let figures = Rc::new(RefCell::new(Figures {
            kinds,
            ..Figures::default()
        }));
        Ok(Metrics(Some(Serving {
            listener,
            figures,
            task: None,
        })))
    }

    fn bind(address: &str) -> Result<TcpListener, String> {
        TcpListener::bind(address).map_err(|e| {
            let next = match e.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "end what listens there (ss -ltnp), or give --metrics another port"
                }
                _ => "give --metrics ADDR:PORT of this machine, such as 127.0.0.1:9464",
            };
            format!("cannot serve metrics on '{address}' ({e}); next: {next}")
        })
    }

    /// Begins to answer. Inside a runtime, which it ends with.
    ///
    /// # Errors
    /// When the runtime cannot have the listener.
    pub fn serve(&mut self) -> std::io::Result<()> {
        if let Some(serving) = &mut self.0 {
            let listener = tokio::net::TcpListener::from_std(serving.listener.try_clone()?)?;
            let news = Rc::clone(&serving.figures.borrow().news);
            let figures = Rc::clone(&serving.figures);
            serving.task = Some(tokio::task::spawn_local(async move {
                // Whoever comes before the first report waits for it.
                news.notified().await;
                let text = Rc::new(move |format| figures.borrow_mut().text(format));
                endpoint::serve(listener, text).await;
            }));
        }
        Ok(())
    }

    /// Another descriptor of the listener, to pass on.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn listener(&self) -> std::io::Result<Option<TcpListener>> {
        let listener = self.0.as_ref().map(|serving| serving.listener.try_clone());
        listener.transpose()
    }

    /// Accepts nothing any more: another process answers at the same port.
    pub fn stop(&mut self) {
        if let Some(task) = self.0.take().and_then(|serving| serving.task) {
            task.abort();
        }
    }

    /// Shows a report from now on, and what was recorded since the last one, histograms of
    /// microseconds by name.
    pub fn update(
        &self,
        report: &impl ExposeMetrics,
        intervals: &[(&'static str, Histogram<u64>)],
        threads: impl Iterator<Item = Thread>,
    ) {
        let Some(serving) = &self.0 else { return };
        let figures = &mut *serving.figures.borrow_mut();
        for (name, histogram) in intervals {
            figures.durations.entry(name).or_default().add(histogram);
        }
        figures.page = reports::page(report, &figures.kinds, &figures.durations, threads);
        figures.texts = [None, None];
        figures.news.notify_one();
    }
}
