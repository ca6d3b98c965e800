//! The workers' processes: found below pdsh, sampled, missed when they are gone.
//!
//! Invariants: a process is one of ours by its command line each time it is looked at, so that a
//! number that was given anew is not taken for it.
//! Must not depend on: what workers report, but whether they have ended in order.

use std::collections::{BTreeMap, BTreeSet};

use super::worker_reports::WorkerReports;

use holdfast_telemetry::proc::{ProcessSample, ThreadTimes, process, tree};
use holdfast_testbed::child::Child;

/// The processes by host.
#[derive(Debug, Default)]
pub struct Workers {
    /// Hosts whose worker ended before it was told to.
    pub gone: BTreeSet<String>,
    /// Each right after its start.
    pub base: BTreeMap<String, ProcessSample>,
    /// Each at the end of the hold.
    pub end: BTreeMap<String, ProcessSample>,
    pids: BTreeMap<String, u32>,
}

impl Workers {
    /// Finds the processes below `pdsh` until there are `expected`; those that have ended since, in
    /// words.
    pub fn look(
        &mut self,
        pdsh: &Child<WorkerReports>,
        expected: usize,
        phase: &str,
    ) -> Vec<String> {
        if self.pids.len() < expected && pdsh.exit().is_none() {
            for pid in tree::pids(pdsh.pid()) {
                let Some(host) = worker_of(pid).filter(|h| !self.pids.contains_key(h)) else {
                    continue;
                };
                self.base
                    .extend(ProcessSample::read(pid).map(|p| (host.clone(), p)));
                self.pids.insert(host, pid);
            }
        }
        if phase == "close" {
            return Vec::new();
        }
        let heard = pdsh.heard();
        let has_ended = |host: &str| heard.latest.as_ref().is_some_and(|c| c.has_ended(host));
        let mut ended = Vec::new();
        for (host, pid) in &self.pids {
            let is_there = worker_of(*pid).is_some_and(|h| h == *host);
            if !is_there && !has_ended(host) && self.gone.insert(host.clone()) {
                ended.push(format!("the worker on {host} ended during {phase}"));
            }
        }
        ended
    }

    /// Processes that are still there.
    #[must_use]
    pub fn alive(&self) -> u64 {
        (self.pids.len() - self.gone.len()) as u64
    }

    /// All of them right after their start, as one.
    #[must_use]
    pub fn base_all(&self) -> Option<ProcessSample> {
        self.base.values().copied().reduce(both)
    }

    /// All of them now, as one.
    #[must_use]
    pub fn now_all(&self) -> Option<ProcessSample> {
        self.now().map(|(_, sample)| sample).reduce(both)
    }

    /// The threads of all of them.
    #[must_use]
    pub fn threads(&self) -> ThreadTimes {
        let threads = self.pids.values().map(|pid| ThreadTimes::read(*pid));
        threads.reduce(ThreadTimes::joined).unwrap_or_default()
    }

    /// Notes each as it is now as its end.
    pub fn sample_end(&mut self) {
        self.end = self.now().collect();
    }

    fn now(&self) -> impl Iterator<Item = (String, ProcessSample)> {
        self.pids
            .iter()
            .filter_map(|(host, pid)| Some((host.clone(), ProcessSample::read(*pid)?)))
    }
}

/// Two processes as one.
fn both(a: ProcessSample, b: ProcessSample) -> ProcessSample {
    ProcessSample {
        cpu_ticks: a.cpu_ticks + b.cpu_ticks,
        rss_bytes: a.rss_bytes + b.rss_bytes,
        rss_anon_bytes: a.rss_anon_bytes + b.rss_anon_bytes,
        rss_file_bytes: a.rss_file_bytes + b.rss_file_bytes,
    }
}

/// The host of a worker's process, from its command line; `None` if `pid` is none.
fn worker_of(pid: u32) -> Option<String> {
    let words = process::command_line(pid);
    let is_worker = words.first()?.ends_with(b"holdfast-client");
    let at = words.iter().position(|word| word == b"--identity")?;
    let identity = std::str::from_utf8(words.get(at + 1)?).ok()?;
    let (host, _) = identity.split_once('_')?;
    is_worker.then(|| host.to_owned())
}
