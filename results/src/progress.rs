//! What people see of a run that is made of parts: the part under way, and what our programs report
//! in it.
//!
//! Invariants: of programs that are not ours only the process is known, and nothing else is shown.
//! Must not depend on: any scenario, how figures are shown.

use std::fmt;
use std::time::{Duration, Instant};

use holdfast_telemetry::live::Snapshot;
use holdfast_telemetry::report_line::Report;
use holdfast_testbed::child::Child;

/// A process: its name, its id, and its latest figures.
struct Watched {
    name: &'static str,
    pid: u32,
    latest: Box<dyn Fn() -> Option<Snapshot>>,
}

/// The part under way.
pub struct Progress {
    started: Instant,
    /// What runs.
    pub title: &'static str,
    part: String,
    target: u64,
    left: (Instant, Duration),
    watched: Vec<Watched>,
}

impl Progress {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            title: "",
            part: String::new(),
            target: 0,
            left: (now, Duration::ZERO),
            watched: Vec::new(),
        }
    }

    /// The next part, in words, its connections, and how long all parts from this one on will take.
    pub fn begin(&mut self, part: String, target: u64, left: Duration) {
        *self = Self {
            started: self.started,
            title: self.title,
            part,
            target,
            left: (Instant::now(), left),
            watched: Vec::new(),
        };
    }

    /// Whether there is anything to show.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !self.part.is_empty()
    }

    /// Shows what `child` reports from now on, in place of an earlier child of that name. `figures`
    /// gives `None` for lines of programs that are not ours.
    pub fn watch<R: Report>(&mut self, child: &Child<R>, figures: fn(&R) -> Option<Snapshot>) {
        let heard = child.hearing();
        self.watched.retain(|watched| watched.name != child.name);
        self.watched.push(Watched {
            name: child.name,
            pid: child.pid(),
            latest: Box::new(move || heard.borrow().latest.as_ref().and_then(figures)),
        });
    }

    /// The figures now: those of the process that was started last and has any, for both ends
    /// report the same requests.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut newest_first = self.watched.iter().rev();
        let now = newest_first.find_map(|watched| (watched.latest)());
        let now = now.unwrap_or_default();
        let left = self.left.1.saturating_sub(self.left.0.elapsed());
        Snapshot {
            title: self.title.into(),
            phase: "slices",
            seconds: self.started.elapsed().as_secs_f64(),
            left_seconds: Some(left.as_secs_f64()),
            part: self.part.clone(),
            target: now.open.map(|_| self.target),
            processes: self.watched.iter().map(|w| (w.name, w.pid)).collect(),
            ..now
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress")
            .field("title", &self.title)
            .field("part", &self.part)
            .finish_non_exhaustive()
    }
}
