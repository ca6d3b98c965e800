//! The machine's side: memory and time on cores of the processes shown, cores, sockets.
//!
//! Invariants: reads `/proc` only, a dozen small files a look; what cannot be read is left out.
//! Must not know: what the processes do, how figures are shown.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use crate::sample::{CoreTicks, KernelSample, ProcessSample, TICKS_PER_SECOND, core_ticks};

/// What is remembered between two looks.
#[derive(Debug)]
pub struct Machine {
    slab_base_bytes: u64,
    at: Instant,
    cores: BTreeMap<usize, CoreTicks>,
    process_ticks: BTreeMap<u32, u64>,
    /// What the last look saw.
    pub now: Look,
}

/// One look.
#[derive(Debug, Default)]
pub struct Look {
    /// Cores by number: how much of the time since the look before each was busy, percent.
    pub cores: Vec<(usize, f64)>,
    /// The processes, those that still live.
    pub processes: Vec<Process>,
    /// Sockets and memory.
    pub kernel: KernelSample,
    /// TCP sockets over IPv6 in the tables of this namespace.
    pub tcp6_inuse: u64,
    /// Growth of all kernel slabs since the first look, bytes.
    pub slab_growth_bytes: u64,
}

/// One process.
#[derive(Debug)]
pub struct Process {
    /// As the snapshot calls it.
    pub name: &'static str,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Time on cores since the look before, percent of one core; `None` in the first look.
    pub cpu_percent: Option<f64>,
}

impl Machine {
    /// The first look: what later ones are compared with.
    #[must_use]
    pub fn first_look() -> Self {
        let mut machine = Self {
            slab_base_bytes: 0,
            at: Instant::now(),
            cores: BTreeMap::new(),
            process_ticks: BTreeMap::new(),
            now: Look::default(),
        };
        machine.look(&[]);
        machine.slab_base_bytes = machine.now.kernel.slab_bytes;
        machine
    }

    /// Looks at the machine and at these processes.
    pub fn look(&mut self, processes: &[(&'static str, u32)]) {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let stat = text("/proc/stat");
        let kernel = KernelSample::of_texts(
            &text("/proc/net/sockstat"),
            &text("/proc/net/snmp"),
            "",
            &text("/proc/meminfo"),
            &stat,
        );
        let seconds = std::mem::replace(&mut self.at, Instant::now())
            .elapsed()
            .as_secs_f64();
        let cores = ticks_of_cores(&stat);
        let ticks_before = std::mem::take(&mut self.process_ticks);
        let processes = processes.iter().filter_map(|(name, pid)| {
            let sample = ProcessSample::take(*pid)?;
            self.process_ticks.insert(*pid, sample.cpu_ticks);
            let before = ticks_before.get(pid);
            Some(Process {
                name,
                rss_bytes: sample.rss_bytes,
                cpu_percent: before.filter(|_| seconds > 0.0).map(|before| {
                    let ticks = sample.cpu_ticks.saturating_sub(*before) as f64;
                    100.0 * ticks / TICKS_PER_SECOND / seconds
                }),
            })
        });
        self.now = Look {
            processes: processes.collect(),
            cores: cores
                .iter()
                .filter_map(|(core, now)| {
                    let before = self.cores.get(core)?;
                    let passed = now.since(*before);
                    (passed.all > 0)
                        .then(|| (*core, 100.0 * (passed.busy as f64 / passed.all as f64)))
                })
                .collect(),
            slab_growth_bytes: kernel.slab_bytes.saturating_sub(self.slab_base_bytes),
            tcp6_inuse: inuse6(&text("/proc/net/sockstat6")),
            kernel,
        };
        self.cores = cores;
    }
}

/// The ticks of each core in `/proc/stat`.
fn ticks_of_cores(stat: &str) -> BTreeMap<usize, CoreTicks> {
    let lines = stat.lines().take_while(|line| line.starts_with("cpu"));
    lines
        .filter_map(|line| {
            let name = line.split(' ').next()?;
            let core = name.strip_prefix("cpu")?.parse().ok()?;
            Some((core, core_ticks(line, name)?))
        })
        .collect()
}

/// The TCP sockets of `/proc/net/sockstat6`.
fn inuse6(text: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("TCP6: inuse "));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_told_apart_and_their_sum_is_none_of_them() {
        let stat =
            "cpu  30 0 30 60 0 0 0 0\ncpu0 10 0 10 20 0 0 0 0\ncpu11 20 0 20 40 0 0 0 0\nintr 5\n";
        let found = ticks_of_cores(stat);
        let found: Vec<_> = found
            .iter()
            .map(|(core, t)| (*core, t.busy, t.all))
            .collect();
        assert_eq!(found, [(0, 20, 40), (11, 40, 80)]);
        assert!(ticks_of_cores("").is_empty());
    }

    #[test]
    fn sockets_of_ipv6() {
        assert_eq!(inuse6("TCP6: inuse 12\nUDP6: inuse 3\n"), 12);
        assert_eq!(inuse6(""), 0);
    }
}
