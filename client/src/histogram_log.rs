//! The histogram log of a run: HdrHistogram's log format, one line for each tag and interval.
//!
//! Invariants: what could not be written is said at the end, once; until then the run goes on.
//! Must not know: what is measured, when an interval ends.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriter, IntervalLogWriterBuilder, Tag};

use crate::supervise::Intervals;

#[derive(Clone)]
struct Out(Rc<RefCell<BufWriter<File>>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.borrow_mut().flush()
    }
}

/// A log that is being written.
pub struct HistogramLog {
    writer: IntervalLogWriter<'static, 'static, Out, V2DeflateSerializer>,
    out: Out,
    started: Instant,
    from: Duration,
    written: Result<(), String>,
}

impl HistogramLog {
    /// Begins a log. A process has one: what writes it is never given back.
    ///
    /// # Errors
    /// One line when it cannot be written.
    pub fn new(file: File, comment: &str) -> Result<Self, anyhow::Error> {
        let out = Out(Rc::new(RefCell::new(BufWriter::new(file))));
        #[expect(
            clippy::disallowed_methods,
            reason = "the log's format wants the date of its start"
        )]
        let now = SystemTime::now();
        let writer = IntervalLogWriterBuilder::new()
            .add_comment(comment)
            .with_start_time(now)
            .with_base_time(now)
            .with_max_value_divisor(1.0)
            .begin_log_with(
                Box::leak(Box::new(out.clone())),
                Box::leak(Box::new(V2DeflateSerializer::new())),
            )
            .map_err(|e| unwritten(&e))?;
        Ok(HistogramLog {
            writer,
            out,
            started: Instant::now(),
            from: Duration::ZERO,
            written: Ok(()),
        })
    }

    /// Adds histograms of the interval that ends now.
    pub fn write(&mut self, intervals: &Intervals) {
        let length = self.started.elapsed().saturating_sub(self.from);
        for (tag, histogram) in intervals.iter().filter(|(_, h)| !h.is_empty()) {
            let written = self
                .writer
                .write_histogram(histogram, self.from, length, Tag::new(tag));
            if let (Ok(()), Err(e)) = (&self.written, written) {
                self.written = Err(format!("{e:?}"));
            }
        }
    }

    /// Begins the next interval.
    pub fn next_interval(&mut self) {
        self.from = self.started.elapsed();
    }

    /// Ends the log.
    ///
    /// # Errors
    /// One line when some of it could not be written.
    pub fn finish(mut self) -> Result<(), anyhow::Error> {
        self.written.as_ref().map_err(|e| unwritten(e))?;
        self.out.flush().map_err(|e| unwritten(&e))
    }
}

fn unwritten(e: &dyn std::fmt::Debug) -> anyhow::Error {
    anyhow::anyhow!("cannot write the histogram log ({e:?}); next: free space")
}
