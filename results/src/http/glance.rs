//! What people see of `holdfast-bench http` on its way: the slice, and what our programs say in it.
//!
//! Invariants: of programs that are not ours nothing but their process is known, and nothing else is shown.
//! Must not know: how figures are shown.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::generator::GeneratorLine;
use super::subject::ServerLine;

use holdfast_telemetry::live::{Percentiles, Snapshot};
use holdfast_testbed::child::{Child, Heard};

/// A process, and what it has said.
type Watched<R> = Option<(u32, Rc<RefCell<Heard<R>>>)>;

/// The slice under way.
#[derive(Debug)]
pub struct Glance {
    started: Instant,
    /// What runs.
    pub title: &'static str,
    part: String,
    target: u64,
    left: (Instant, Duration),
    server: Watched<ServerLine>,
    client: Watched<GeneratorLine>,
}

impl Glance {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            title: "bench http",
            part: String::new(),
            target: 0,
            left: (now, Duration::ZERO),
            server: None,
            client: None,
        }
    }

    /// The next slice, in words, its connections, and how long all slices from this one on will take.
    pub fn begin(&mut self, part: String, target: u64, left: Duration) {
        *self = Self {
            started: self.started,
            title: self.title,
            part,
            target,
            left: (Instant::now(), left),
            ..Self::new()
        };
    }

    /// Whether there is anything to show.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !self.part.is_empty()
    }

    /// The server of the slice.
    pub fn watch_server(&mut self, server: &Child<ServerLine>) {
        self.server = Some((server.pid(), server.hearing()));
    }

    /// What loads it now.
    pub fn watch_client(&mut self, client: &Child<GeneratorLine>) {
        self.client = Some((client.pid(), client.hearing()));
    }

    /// The figures now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut now = Snapshot::default();
        let mut processes = Vec::new();
        if let Some((pid, heard)) = &self.server {
            processes.push(("server", *pid));
            if let Some(ServerLine::Report(report)) = &heard.borrow().latest {
                now = Snapshot::from(&**report);
            }
        }
        if let Some((pid, heard)) = &self.client {
            processes.push(("client", *pid));
            // The server's figures, where both ends are ours, are the same requests.
            if let Some(GeneratorLine::Client(report)) = &heard.borrow().latest {
                now = Snapshot::from(&**report);
                now.times
                    .push(Percentiles::so_far("latency", report.latency_us));
            }
        }
        Snapshot {
            title: self.title.into(),
            phase: "slices",
            seconds: self.started.elapsed().as_secs_f64(),
            left_seconds: Some(
                self.left
                    .1
                    .saturating_sub(self.left.0.elapsed())
                    .as_secs_f64(),
            ),
            part: self.part.clone(),
            target: now.open.map(|_| self.target),
            processes,
            ..now
        }
    }
}

impl Default for Glance {
    fn default() -> Self {
        Self::new()
    }
}
