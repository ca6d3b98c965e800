//! Saturation of the machine that the TCP counters of a network namespace do not show.
//!
//! Purpose: one [`Saturation`]: packets dropped before TCP saw them, connections tracked, processes
//! killed for memory.
//! Must not depend on: whether any of it mattered.

use super::parse::{number, text};

/// One moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Saturation {
    /// Packets dropped because a core's queue of arrived ones was full
    /// (`net.core.netdev_max_backlog`), whole machine.
    pub packets_dropped: u64,
    /// Processes the kernel killed for memory, of the machine or of a control group.
    pub oom_kills: u64,
    /// Connections tracked in this namespace; `None` without connection tracking.
    pub conntrack_count: Option<u64>,
    /// How many the table may hold.
    pub conntrack_max: Option<u64>,
    /// Packets that could not be tracked because the table was full, and so were dropped.
    pub conntrack_drops: u64,
}

impl Saturation {
    /// Reads everything now.
    #[must_use]
    pub fn read() -> Self {
        Self {
            packets_dropped: packets_dropped(&text("/proc/net/softnet_stat")),
            oom_kills: oom_kills(&text("/proc/vmstat")),
            conntrack_count: number("/proc/sys/net/netfilter/nf_conntrack_count"),
            conntrack_max: number("/proc/sys/net/netfilter/nf_conntrack_max"),
            conntrack_drops: conntrack_drops(&text("/proc/net/stat/nf_conntrack")),
        }
    }
}

/// The second column of `/proc/net/softnet_stat`, hexadecimal, a line for each core.
#[must_use]
pub fn packets_dropped(softnet: &str) -> u64 {
    softnet
        .lines()
        .filter_map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok())
        .fold(0, u64::saturating_add)
}

/// `oom_kill` of `/proc/vmstat`.
#[must_use]
pub fn oom_kills(vmstat: &str) -> u64 {
    vmstat
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        .unwrap_or(0)
}

/// The column `drop` of `/proc/net/stat/nf_conntrack`, hexadecimal, a line for each core below the
/// names.
#[must_use]
pub fn conntrack_drops(stat: &str) -> u64 {
    let mut lines = stat.lines();
    let names = lines.next().unwrap_or_default();
    let Some(column) = names.split_whitespace().position(|name| name == "drop") else {
        return 0;
    };
    lines
        .filter_map(|line| u64::from_str_radix(line.split_whitespace().nth(column)?, 16).ok())
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_hexadecimal_and_summed_over_cores() {
        let softnet = "264deade 0000001a 00000297\n000000ff 00000006 00000000\n";
        assert_eq!(packets_dropped(softnet), 32);
        let stat = "entries  clashres found new drop early_drop\n\
                    00000005 00000000 00000000 00000000 0000000a 00000000\n\
                    00000005 00000000 00000000 00000000 00000010 00000000\n";
        assert_eq!(conntrack_drops(stat), 26);
        assert_eq!(oom_kills("oom_kill_x 9\noom_kill 6\n"), 6);
        for nothing in ["", "garbage", "drop"] {
            assert_eq!(packets_dropped(nothing), 0);
            assert_eq!(conntrack_drops(nothing), 0);
            assert_eq!(oom_kills(nothing), 0);
        }
    }
}
