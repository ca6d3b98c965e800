//! CPU use and memory of this process.
//!
//! Must not depend on: the protocol that reports them.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

/// Shortest time over which CPU use is computed.
const WINDOW_MIN: Duration = Duration::from_secs(1);

/// CPU and memory of this process.
#[derive(Debug)]
pub struct ProcessStats {
    core_count: usize,
    since: Instant,
    used: Duration,
    cpu_percent: f64,
}

impl ProcessStats {
    /// Of a process that may use `core_count` cores.
    pub fn new(core_count: usize) -> Self {
        ProcessStats {
            core_count: core_count.max(1),
            since: Instant::now(),
            used: used(),
            cpu_percent: 0.0,
        }
    }

    /// Recent CPU use, percent of all cores this process may use: 0 to 100.
    pub fn cpu_percent(&mut self) -> f64 {
        let window = self.since.elapsed();
        if window >= WINDOW_MIN {
            let now = used();
            let share =
                (now - self.used).as_secs_f64() / window.as_secs_f64() / self.core_count as f64;
            (self.since, self.used) = (Instant::now(), now);
            self.cpu_percent = (share * 100.0).clamp(0.0, 100.0);
        }
        self.cpu_percent
    }

    /// Resident memory, bytes; 0 where /proc does not tell.
    pub fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or(0) * 1_024
    }
}

fn used() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
        return Duration::ZERO;
    };
    let time = |t: nix::sys::time::TimeVal| {
        Duration::from_secs(t.tv_sec().max(0) as u64)
            + Duration::from_micros(t.tv_usec().max(0) as u64)
    };
    time(usage.user_time()) + time(usage.system_time())
}
