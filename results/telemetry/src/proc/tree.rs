//! CPU time and memory of a process with all its descendants.
//!
//! Purpose: nginx works in children and Go in threads; the fair figure is that of the whole tree.
//! Invariants: reads only; a process that ends meanwhile counts as nothing. Memory is exact
//! (`smaps_rollup`): the quick figure in `status` lags by up to half a megabyte, 50 bytes each of
//! 10,000 connections.
//! Must not depend on: which program it is, or why it is measured.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::parse::{kib_line, text};
use super::process::{ProcessSample, all_pids};

/// `root` and everything it started, directly or not.
#[must_use]
pub fn pids(root: u32) -> Vec<u32> {
    let parents: BTreeMap<u32, u32> = all_pids()
        .filter_map(|pid| Some((pid, parent(&text(&format!("/proc/{pid}/stat")))?)))
        .collect();
    descendants(root, &parents)
}

fn descendants(root: u32, parents: &BTreeMap<u32, u32>) -> Vec<u32> {
    let mut found = BTreeSet::from([root]);
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return found.into_iter().collect();
        }
        found.extend(more);
    }
}

/// The parent's id in `/proc/PID/stat`. The name in brackets may hold anything; the last bracket
/// closes it.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Whether a process waits for something to happen.
#[must_use]
pub fn is_sleeping(pid: u32) -> bool {
    let stat = text(&format!("/proc/{pid}/stat"));
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| state.starts_with('S'))
}

/// Time on cores of all threads of `root`'s tree so far, seconds.
#[must_use]
pub fn cpu_seconds(root: u32) -> f64 {
    pids(root).into_iter().map(process_cpu_seconds).sum()
}

/// Nanoseconds of the living threads, or the whole process's ticks where that is more: each alone
/// falls short of the truth, the first by threads that have ended, the second by rounding down.
fn process_cpu_seconds(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let nanos: u64 = tasks
        .filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        })
        .sum();
    let ticks = ProcessSample::read(pid).map_or(0.0, |p| p.cpu_seconds());
    ticks.max(nanos as f64 / 1e9)
}

/// Resident memory of `root`'s tree, bytes. Pages that several processes share count once for each.
#[must_use]
pub fn rss_bytes(root: u32) -> u64 {
    let of = |pid: u32, file: &str, key: &str| kib_line(&text(&format!("/proc/{pid}/{file}")), key);
    pids(root)
        .into_iter()
        .filter_map(|pid| of(pid, "smaps_rollup", "Rss").or_else(|| of(pid, "status", "VmRSS")))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_at_every_depth() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 5)]);
        assert_eq!(descendants(2, &parents), [2, 3, 4]);
        assert_eq!(descendants(9, &parents), [9]);
        assert_eq!(parent("42 (a (b) c) S 7 42"), Some(7));
        assert_eq!(parent("garbage"), None);
    }

    #[test]
    fn cpu_time_and_children_are_measured() {
        let me = std::process::id();
        let before = cpu_seconds(me);
        let started = std::time::Instant::now();
        while started.elapsed().as_millis() < 100 {
            std::hint::spin_loop();
        }
        let spent = cpu_seconds(me) - before;
        assert!((0.02..10.0).contains(&spent), "{spent}");
        assert!(rss_bytes(me) > 1 << 20);

        let mut child = std::process::Command::new("sleep")
            .arg("10")
            .spawn()
            .expect("sleep");
        assert!(pids(me).contains(&child.id()));
        while !is_sleeping(child.id()) {
            assert!(started.elapsed().as_secs() < 9, "it does nothing");
        }
        assert!(!is_sleeping(0), "there is none");
        child.kill().expect("runs");
        child.wait().expect("ends");
    }
}
