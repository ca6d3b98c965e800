//! The histogram log of a run: HdrHistogram's log format, one line for each tag and interval.
//!
//! Invariants: a write error ends neither the run nor the log; the first one is returned by
//! [`HistogramLog::finish`].
//! Must not depend on: what is measured.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogWriter, IntervalLogWriterBuilder, IntervalLogWriterError, Tag,
};

/// Histograms of the time since the last report, by tag; microseconds.
pub type Intervals = Vec<(&'static str, Histogram<u64>)>;

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

/// A histogram log that is being written.
pub struct HistogramLog {
    path: PathBuf,
    writer: IntervalLogWriter<'static, 'static, Out, V2DeflateSerializer>,
    out: Out,
    started: Instant,
    /// Start of the interval, since `started`.
    from: Duration,
    first_error: Option<String>,
}

impl HistogramLog {
    /// Creates the file and writes the header. Its buffers are never freed: a process has one log.
    ///
    /// # Errors
    /// One line: the file and the cause.
    pub fn create(path: &Path, comment: &str) -> Result<Self, anyhow::Error> {
        let file = File::create(path).map_err(|e| {
            anyhow::anyhow!(
                "cannot write {} ({e}); next: --histogram-log with a file in a folder that exists",
                path.display()
            )
        })?;
        let out = Out(Rc::new(RefCell::new(BufWriter::new(file))));
        #[expect(
            clippy::disallowed_methods,
            reason = "the log's format starts with the date"
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
            .map_err(|e| write_error(path, &e.to_string()))?;
        Ok(HistogramLog {
            path: path.to_owned(),
            writer,
            out,
            started: Instant::now(),
            from: Duration::ZERO,
            first_error: None,
        })
    }

    /// Adds histograms of the interval that ends now.
    pub fn write(&mut self, intervals: &Intervals) {
        let length = self.started.elapsed().saturating_sub(self.from);
        for (tag, histogram) in intervals.iter().filter(|(_, h)| !h.is_empty()) {
            let written = self
                .writer
                .write_histogram(histogram, self.from, length, Tag::new(tag));
            if let (None, Err(e)) = (&self.first_error, written) {
                self.first_error = Some(match e {
                    IntervalLogWriterError::IoError(e) => e.to_string(),
                    IntervalLogWriterError::SerializeError(e) => e.to_string(),
                });
            }
        }
    }

    /// Starts the next interval.
    pub fn next_interval(&mut self) {
        self.from = self.started.elapsed();
    }

    /// Flushes the log.
    ///
    /// # Errors
    /// One line when some of it could not be written.
    pub fn finish(mut self) -> Result<(), anyhow::Error> {
        let flushed = self.out.flush().err().map(|e| e.to_string());
        match self.first_error.or(flushed) {
            None => Ok(()),
            Some(e) => Err(write_error(&self.path, &e)),
        }
    }
}

fn write_error(path: &Path, error: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "cannot write the histogram log {} ({error}); next: free space there (df -h), or --histogram-log with another file",
        path.display()
    )
}
