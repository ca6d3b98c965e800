//! Time on cores of the threads of a process, and which one is the busiest.
//!
//! Purpose: a process whose threads all work looks half idle when one of them has all the work, or
//! when other programs have the cores. Time on a core and time in the queue for one, thread by
//! thread, tells these apart.
//! Invariants: reads only; nanoseconds; a thread that was not there before counts from its start,
//! one that has ended is gone.
//! Must not depend on: what a thread does.

use std::collections::BTreeMap;
use std::fs;

use super::parse::text;
use super::process::{TICKS_PER_SECOND, cpu_ticks};

use serde::{Deserialize, Serialize};

/// Time of one thread since its start, nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Time {
    on_core: u64,
    in_queue: u64,
}

/// All threads of a process at one moment, by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ThreadTimes(BTreeMap<u32, Time>);

/// The thread that wanted the most of a core, in percent of the time that passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BusiestThread {
    /// It was on a core.
    pub busy_percent: f64,
    /// It was on a core or waited for one: near 100, it never had to wait for work.
    pub wanted_percent: f64,
}

impl ThreadTimes {
    /// Reads the threads of a process; empty when it is gone, or the kernel does not tell
    /// (`CONFIG_SCHED_INFO`).
    #[must_use]
    pub fn read(pid: u32) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        Self(
            tasks
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|task| {
                    let id = task.file_name().to_str()?.parse().ok()?;
                    Some((
                        id,
                        time(&text(&format!("/proc/{pid}/task/{id}/schedstat")))?,
                    ))
                })
                .collect(),
        )
    }

    /// The threads of two processes together.
    #[must_use]
    pub fn joined(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The busiest thread between `earlier` and now, `seconds` apart; `None` without threads or
    /// time.
    #[must_use]
    pub fn busiest_since(&self, earlier: &Self, seconds: f64) -> Option<BusiestThread> {
        let spent = self.0.iter().map(|(id, now)| {
            let then = earlier.0.get(id).copied().unwrap_or_default();
            let on_core = now.on_core.saturating_sub(then.on_core);
            let in_queue = now.in_queue.saturating_sub(then.in_queue);
            (on_core.saturating_add(in_queue), on_core)
        });
        let (wanted, busy) = spent.max().filter(|_| seconds > 0.0)?;
        let percent = |nanos: u64| ((nanos as f64 / 1e6 / seconds).round() / 10.0).min(100.0);
        Some(BusiestThread {
            busy_percent: percent(busy),
            wanted_percent: percent(wanted),
        })
    }
}

/// Number and CPU time of each thread of this process named `core-NUMBER`, seconds.
#[must_use]
pub fn core_threads() -> Vec<(u32, f64)> {
    let threads = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<_> = threads
        .filter_map(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
            let (name, _) = stat.split_once("(core-")?.1.split_once(')')?;
            let seconds = cpu_ticks(&stat)? as f64 / TICKS_PER_SECOND;
            Some((name.parse().ok()?, seconds))
        })
        .collect();
    found.sort_by_key(|(number, _)| *number);
    found
}

/// `/proc/PID/task/TID/schedstat`: nanoseconds on a core, nanoseconds in the queue for one, turns.
fn time(schedstat: &str) -> Option<Time> {
    let mut words = schedstat.split_whitespace();
    Some(Time {
        on_core: words.next()?.parse().ok()?,
        in_queue: words.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(times: &[(u32, &str)]) -> ThreadTimes {
        let of = |(id, text): &(u32, &str)| Some((*id, time(text)?));
        ThreadTimes(times.iter().filter_map(of).collect())
    }

    #[test]
    fn busiest_thread_has_the_highest_demand() {
        let before = threads(&[(1, "1000000000 0 1"), (2, "0 0 1"), (3, "garbage")]);
        // In two seconds: one on a core for 1.5 s, two for 0.5 s and 1.4 s in the queue, a new one
        // for 0.1 s.
        let after = threads(&[
            (1, "2500000000 0 9"),
            (2, "500000000 1400000000 9"),
            (4, "100000000 0 1"),
        ]);
        let busiest = after.busiest_since(&before, 2.0).expect("threads");
        assert!((busiest.wanted_percent - 95.0).abs() < 1e-9);
        assert!((busiest.busy_percent - 25.0).abs() < 1e-9);
        assert_eq!(after.busiest_since(&before, 0.0), None);
        assert_eq!(ThreadTimes::default().busiest_since(&before, 1.0), None);
    }

    #[test]
    fn working_thread_has_demand() {
        let pid = std::process::id();
        let before = ThreadTimes::read(pid);
        let started = std::time::Instant::now();
        while started.elapsed().as_millis() < 200 {
            std::hint::spin_loop();
        }
        let busiest = ThreadTimes::read(pid).busiest_since(&before, 0.2);
        assert!(
            busiest.is_some_and(|b| b.wanted_percent > 80.0),
            "{busiest:?}"
        );
    }
}
