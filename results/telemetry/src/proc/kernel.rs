//! Counters of this network namespace and of the whole machine.
//!
//! Purpose: one [`KernelSample`], cheap enough for every second beside a load that fills all cores.
//! Invariants: sizes are bytes, CPU time is in ticks of
//! [`TICKS_PER_SECOND`](super::process::TICKS_PER_SECOND).
//! Must not depend on: other processes' files.

use std::collections::BTreeMap;

use super::parse::{kib_line, text};
use super::saturation::Saturation;

/// The TcpExt counters worth keeping: each names a limit that a load can run into.
pub const COUNTERS: &[&str] = &[
    "ListenOverflows",
    "ListenDrops",
    "SyncookiesSent",
    "TCPReqQFullDrop",
    "TCPReqQFullDoCookies",
    "TCPTimeWaitOverflow",
    "TCPBacklogDrop",
    "TCPAbortOnMemory",
    "TCPAbortOnData",
    "TCPAbortOnTimeout",
    "TCPMemoryPressures",
    "TCPMemoryPressuresChrono",
    "TCPLostRetransmit",
    "TCPSynRetrans",
    "TCPTimeouts",
];

/// The network namespace and the machine at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KernelSample {
    /// TCP sockets in the tables of this namespace.
    pub tcp_inuse: u64,
    /// The same over IPv6; they are not in [`tcp_inuse`](Self::tcp_inuse).
    pub tcp6_inuse: u64,
    /// TCP sockets without a process.
    pub tcp_orphan: u64,
    /// TCP connections in TIME_WAIT.
    pub tcp_tw: u64,
    /// TCP sockets allocated, on the whole machine.
    pub tcp_alloc: u64,
    /// Pages of socket memory in the sense of `tcp_mem`, on the whole machine.
    pub tcp_mem_pages: u64,
    /// Sockets in ESTABLISHED or CLOSE_WAIT (`CurrEstab`): two a connection when both ends are
    /// here.
    pub established: u64,
    /// Values of [`COUNTERS`] since the namespace exists.
    pub counters: BTreeMap<String, u64>,
    /// Kernel memory in slabs, bytes.
    pub slab_bytes: u64,
    /// The part of it that cannot be reclaimed, bytes.
    pub slab_unreclaimable_bytes: u64,
    /// What can still be allocated without swapping, bytes.
    pub mem_available_bytes: u64,
    /// All memory of the machine, bytes.
    pub mem_total_bytes: u64,
    /// Ticks in which a core did something, summed over cores.
    pub busy_ticks: u64,
    /// All ticks, summed over cores.
    pub all_ticks: u64,
    /// The same core by core, by its number.
    pub cores: BTreeMap<usize, CoreTicks>,
    /// What was turned away or nearly was, that no counter of the namespace shows.
    pub saturation: Saturation,
}

/// What one core did since the machine started, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CoreTicks {
    /// Neither idle nor waiting for a disk.
    pub busy: u64,
    /// The part of it in softirqs: packets, timers.
    pub softirq: u64,
    /// All.
    pub all: u64,
}

impl CoreTicks {
    /// What happened since `earlier`. Time waiting for disks may go down (proc(5)), and what was
    /// idle would then count as busy.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        let all = self.all.saturating_sub(earlier.all);
        Self {
            busy: self.busy.saturating_sub(earlier.busy).min(all),
            softirq: self.softirq.saturating_sub(earlier.softirq).min(all),
            all,
        }
    }

    /// `ticks` of these in percent of all; zero when no tick passed.
    #[must_use]
    pub fn percent(self, ticks: u64) -> f64 {
        if self.all == 0 {
            0.0
        } else {
            // In this order all of it is 100 and not 100.00000000000001.
            100.0 * (ticks as f64 / self.all as f64)
        }
    }
}

impl KernelSample {
    /// Reads everything now, in the network namespace of the calling thread.
    #[must_use]
    pub fn read() -> Self {
        let mut sample = Self::of_texts(
            &text("/proc/thread-self/net/sockstat"),
            &text("/proc/thread-self/net/snmp"),
            &text("/proc/thread-self/net/netstat"),
            &text("/proc/meminfo"),
            &text("/proc/stat"),
        );
        sample.tcp6_inuse = tcp6_inuse(&text("/proc/thread-self/net/sockstat6"));
        sample.saturation = Saturation::read();
        sample
    }

    /// What the texts of five files of `/proc` say: `net/sockstat`, `net/snmp`, `net/netstat`,
    /// `meminfo` and `stat`.
    #[must_use]
    pub fn of_texts(
        sockstat: &str,
        snmp_text: &str,
        netstat: &str,
        meminfo: &str,
        stat: &str,
    ) -> Self {
        let mut sample = Self::default();
        sample.read_sockstat(sockstat);
        sample.established = snmp(snmp_text, "Tcp")
            .get("CurrEstab")
            .copied()
            .unwrap_or(0);
        let all = snmp(netstat, "TcpExt");
        sample.counters = COUNTERS
            .iter()
            .filter_map(|name| all.get(*name).map(|value| ((*name).to_string(), *value)))
            .collect();
        sample.read_meminfo(meminfo);
        sample.read_stat(stat);
        sample
    }

    /// One counter of [`COUNTERS`].
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// Growth of [`COUNTERS`] since `earlier`.
    #[must_use]
    pub fn counters_since(&self, earlier: &Self) -> BTreeMap<String, u64> {
        let growth = |(name, now): (&String, &u64)| {
            (name.clone(), now.saturating_sub(earlier.counter(name)))
        };
        self.counters.iter().map(growth).collect()
    }

    fn of_sockstat(text: &str) -> Self {
        let mut sample = Self::default();
        sample.read_sockstat(text);
        sample
    }

    fn read_sockstat(&mut self, text: &str) {
        let Some(line) = text.lines().find_map(|line| line.strip_prefix("TCP:")) else {
            return;
        };
        let mut words = line.split_whitespace();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            let value = value.parse().unwrap_or(0);
            match name {
                "inuse" => self.tcp_inuse = value,
                "orphan" => self.tcp_orphan = value,
                "tw" => self.tcp_tw = value,
                "alloc" => self.tcp_alloc = value,
                "mem" => self.tcp_mem_pages = value,
                _ => {}
            }
        }
    }

    fn read_meminfo(&mut self, text: &str) {
        self.slab_bytes = kib_line(text, "Slab").unwrap_or(0);
        self.slab_unreclaimable_bytes = kib_line(text, "SUnreclaim").unwrap_or(0);
        self.mem_available_bytes = kib_line(text, "MemAvailable").unwrap_or(0);
        self.mem_total_bytes = kib_line(text, "MemTotal").unwrap_or(0);
    }

    fn read_stat(&mut self, text: &str) {
        if let Some(ticks) = core_ticks(text, "cpu") {
            (self.busy_ticks, self.all_ticks) = (ticks.busy, ticks.all);
        }
        self.cores = text
            .lines()
            .filter_map(|line| {
                let number = line.strip_prefix("cpu")?.split(' ').next()?;
                Some((
                    number.parse().ok()?,
                    core_ticks(line, &format!("cpu{number}"))?,
                ))
            })
            .collect();
    }

    /// Percent of all cores that was busy between `earlier` and now; zero when no tick passed.
    #[must_use]
    pub fn busy_percent_since(&self, earlier: &Self) -> f64 {
        let of = |sample: &Self| CoreTicks {
            busy: sample.busy_ticks,
            softirq: 0,
            all: sample.all_ticks,
        };
        let spent = of(self).since(of(earlier));
        spent.percent(spent.busy)
    }

    /// What `cores` together did between `earlier` and now.
    #[must_use]
    pub fn cores_since(&self, earlier: &Self, cores: impl Iterator<Item = usize>) -> CoreTicks {
        cores.fold(CoreTicks::default(), |sum, number| {
            let (Some(now), Some(then)) = (self.cores.get(&number), earlier.cores.get(&number))
            else {
                return sum;
            };
            let spent = now.since(*then);
            CoreTicks {
                busy: sum.busy.saturating_add(spent.busy),
                softirq: sum.softirq.saturating_add(spent.softirq),
                all: sum.all.saturating_add(spent.all),
            }
        })
    }

    /// What all cores did between `earlier` and now, each for itself.
    pub fn each_core_since(&self, earlier: &Self) -> impl Iterator<Item = CoreTicks> {
        self.cores
            .keys()
            .map(|number| self.cores_since(earlier, std::iter::once(*number)))
    }
}

/// The ticks in one line of `/proc/stat`: `cpu` is all cores, `cpu0` the first.
#[must_use]
pub fn core_ticks(stat: &str, name: &str) -> Option<CoreTicks> {
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    // user nice system idle iowait irq softirq steal; guest time is inside user already
    let ticks: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .map(|word| word.parse().unwrap_or(0))
        .collect();
    let sum = |ticks: &[u64]| ticks.iter().try_fold(0_u64, |sum, t| sum.checked_add(*t));
    let all = sum(&ticks)?;
    let idle = sum(ticks.get(3..5.min(ticks.len())).unwrap_or_default())?;
    Some(CoreTicks {
        busy: all - idle,
        softirq: ticks.get(6).copied().unwrap_or(0),
        all,
    })
}

/// One group of `/proc/net/snmp` or `/proc/net/netstat`: a line of names, then a line of values.
#[must_use]
pub fn snmp(text: &str, group: &str) -> BTreeMap<String, u64> {
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return BTreeMap::new();
    };
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        // MaxConn is -1: signed, and of no interest
        .filter_map(|(name, value)| Some((name.to_string(), value.parse().ok()?)))
        .collect()
}

/// [`KernelSample::tcp_alloc`] alone: one file is read, for callers that ask many times a second.
#[must_use]
pub fn tcp_sockets_allocated() -> u64 {
    KernelSample::of_sockstat(&text("/proc/thread-self/net/sockstat")).tcp_alloc
}

/// The TCP sockets of `/proc/net/sockstat6`.
fn tcp6_inuse(text: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("TCP6: inuse "));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockstat() {
        let mut sample = KernelSample::default();
        sample.read_sockstat(
            "sockets: used 11\nTCP: inuse 7 orphan 1 tw 5 alloc 9 mem 284\nUDP: inuse 3 mem 4\n",
        );
        assert_eq!(
            (
                sample.tcp_inuse,
                sample.tcp_orphan,
                sample.tcp_tw,
                sample.tcp_alloc,
                sample.tcp_mem_pages
            ),
            (7, 1, 5, 9, 284)
        );
        let mut empty = KernelSample::default();
        empty.read_sockstat("");
        assert_eq!(empty, KernelSample::default());
    }

    #[test]
    fn snmp_groups() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: RtoMin MaxConn CurrEstab\nTcp: 200 -1 2000000\nTcpExt: ListenOverflows\nTcpExt: 12\n";
        let tcp = snmp(text, "Tcp");
        assert_eq!(tcp.get("CurrEstab"), Some(&2_000_000));
        assert_eq!(tcp.get("MaxConn"), None);
        assert_eq!(snmp(text, "TcpExt").get("ListenOverflows"), Some(&12));
        assert!(snmp(text, "Udp").is_empty());
        assert!(snmp("Tcp: OnlyNames\n", "Tcp").is_empty());
    }

    #[test]
    fn meminfo_and_status() {
        let text = "MemTotal:  24684000 kB\nMemAvailable: 100 kB\nSlab:   30 kB\nSReclaimable: 10 kB\nSUnreclaim: 20 kB\n";
        let mut sample = KernelSample::default();
        sample.read_meminfo(text);
        assert_eq!(
            (sample.mem_available_bytes, sample.slab_bytes),
            (102_400, 30_720)
        );
        assert_eq!(sample.slab_unreclaimable_bytes, 20_480);
        assert_eq!(kib_line("VmRSS:\t  12 kB\n", "VmRSS"), Some(12_288));
        assert_eq!(kib_line(text, "Sla"), None);
        assert_eq!(kib_line("Slab: 18446744073709551615 kB\n", "Slab"), None);
    }

    fn ticks(busy: u64, softirq: u64, all: u64) -> Option<CoreTicks> {
        Some(CoreTicks { busy, softirq, all })
    }

    #[test]
    fn each_core_is_counted_separately() {
        let of = |text| {
            let mut sample = KernelSample::default();
            sample.read_stat(text);
            sample
        };
        let a = of("cpu  9 9\ncpu0 10 0 0 90 0 0 5\ncpu3 0 0 0 100 0 0 0\nctxt 1\n");
        let b = of("cpu  9 9\ncpu0 80 0 0 90 0 0 35\ncpu3 10 0 0 190 0 0 0\n");
        let each: Vec<_> = b.each_core_since(&a).collect();
        assert_eq!(
            each,
            [ticks(100, 30, 100), ticks(10, 0, 100)].map(Option::unwrap)
        );
        assert_eq!(
            b.cores_since(&a, [0, 3, 7].into_iter()),
            ticks(110, 30, 200).unwrap()
        );
        assert!((each[0].percent(each[0].softirq) - 30.0).abs() < f64::EPSILON);
    }

    #[test]
    fn idle_and_iowait_are_not_busy() {
        let mut a = KernelSample::default();
        a.read_stat("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 1 1 1\n");
        assert_eq!((a.busy_ticks, a.all_ticks), (200, 1000));
        let mut b = KernelSample::default();
        b.read_stat("cpu  200 0 200 800 100 0 0 0 50 0\n");
        assert!((b.busy_percent_since(&a) - 66.666).abs() < 0.01);
        assert!(a.busy_percent_since(&a).abs() < f64::EPSILON);
        let mut less_waiting = KernelSample::default();
        less_waiting.read_stat("cpu  150 0 150 700 50 0 0 0\n");
        assert!((less_waiting.busy_percent_since(&a) - 100.0).abs() < f64::EPSILON);
        assert_eq!(
            core_ticks("cpu  9 9\ncpu1 1 0 1 7 1\ncpu10 5\n", "cpu1"),
            ticks(2, 0, 10)
        );
        assert_eq!(
            core_ticks("cpu0 1 0 2 30 5 0 12 0 0 0\n", "cpu0"),
            ticks(15, 12, 50)
        );
        assert_eq!(core_ticks("cpu  1", "cpu0"), None);
        assert_eq!(core_ticks("cpu  18446744073709551615 1", "cpu"), None);
        assert_eq!(core_ticks("cpu  1 2 3 4", "cpu"), ticks(6, 0, 10));
    }

    #[test]
    fn this_machine_can_be_read() {
        assert!(KernelSample::read().mem_total_bytes > 0);
    }

    #[test]
    fn sockets_of_ipv6() {
        assert_eq!(tcp6_inuse("TCP6: inuse 12\nUDP6: inuse 3\n"), 12);
        assert_eq!(tcp6_inuse(""), 0);
    }
}
