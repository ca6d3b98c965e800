//! CPU time and memory of one process.
//!
//! Invariants: a process that has ended is `None`, never an error. Sizes are bytes.
//! Must not depend on: what the process does.

use super::parse::{kib_line, text};

/// USER_HZ: 100 in the ABI of every architecture this is built for.
pub const TICKS_PER_SECOND: f64 = 100.0;

/// One process at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessSample {
    /// Time on a core, user and system, all threads, in ticks.
    pub cpu_ticks: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// The part of it that is anonymous: heap, tables, stacks.
    pub rss_anon_bytes: u64,
    /// The part of it that is files: the program itself and its libraries.
    pub rss_file_bytes: u64,
}

impl ProcessSample {
    /// Reads a process by its id; `None` when it is gone.
    #[must_use]
    pub fn read(pid: u32) -> Option<Self> {
        let cpu_ticks = cpu_ticks(&text(&format!("/proc/{pid}/stat")))?;
        let status = text(&format!("/proc/{pid}/status"));
        Some(Self {
            cpu_ticks,
            rss_bytes: kib_line(&status, "VmRSS").unwrap_or(0),
            rss_anon_bytes: kib_line(&status, "RssAnon").unwrap_or(0),
            rss_file_bytes: kib_line(&status, "RssFile").unwrap_or(0),
        })
    }

    /// CPU time in seconds.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        self.cpu_ticks as f64 / TICKS_PER_SECOND
    }
}

/// Start of the calling process, seconds since 1970.
#[must_use]
pub fn own_start() -> Option<f64> {
    start(&text("/proc/stat"), &text("/proc/self/stat"))
}

/// Start of a process, seconds since 1970: from `/proc/stat` and its own `stat`.
fn start(stat: &str, own: &str) -> Option<f64> {
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    let (_, fields) = own.rsplit_once(')')?;
    // Field 22 of proc(5), of which 2 are before the bracket's end.
    let ticks: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    Some(boot.trim().parse::<f64>().ok()? + ticks / TICKS_PER_SECOND)
}

/// Signals that the calling process ignores, as a mask: bit 0 is signal 1.
#[must_use]
pub fn ignored_signals() -> u64 {
    let status = text("/proc/self/status");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Whether the calling process ignores a signal, by its number: as under `nohup`.
#[must_use]
pub fn ignores(signal: i32) -> bool {
    (1..=64).contains(&signal) && ignored_signals() >> (signal - 1) & 1 == 1
}

/// The ids of all processes that this mount of `/proc` shows.
pub fn all_pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The words of a process's command line; empty when it has ended.
#[must_use]
pub fn command_line(pid: u32) -> Vec<Vec<u8>> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0).map(<[u8]>::to_vec);
    words.collect()
}

/// utime + stime of `/proc/PID/stat`. The name in brackets may hold spaces and brackets; the last
/// one closes it.
#[must_use]
pub fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_stat_with_brackets_and_spaces_in_the_name() {
        let stat =
            "42 (a (b) c d) S 1 42 42 0 -1 4194304 100 0 0 0 150 25 0 0 20 0 3 0 999 1000 200";
        assert_eq!(cpu_ticks(stat), Some(175));
        assert_eq!(cpu_ticks("garbage"), None);
        assert_eq!(cpu_ticks("1 (x) S 1"), None);
    }

    #[test]
    fn start_is_the_boot_and_the_ticks_since() {
        let own = "42 (a) b) S 1 42 42 0 -1 4194304 100 0 0 0 150 25 0 0 20 0 3 0 12345 1000 200";
        assert_eq!(start("cpu 1\nbtime 1000000\n", own), Some(1_000_123.45));
        assert_eq!(start("", own), None);
        assert_eq!(start("btime 5\n", "1 (x) S"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let own = ProcessSample::read(std::process::id()).expect("own /proc entry");
        assert!(own.rss_bytes > 0 && own.rss_bytes >= own.rss_anon_bytes);
        assert!(own_start().is_some_and(|at| at > 1e9));
        assert!(command_line(std::process::id()).len() > 1);
        assert!(command_line(0).concat().is_empty());
    }
}
