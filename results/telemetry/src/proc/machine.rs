//! The machine: facts that do not change while a program runs.
//!
//! Invariants: what cannot be found out is empty, zero or `None`.
//! Must not depend on: what the facts are for.

use super::parse::{kib_line, text};

/// Kernel release.
#[must_use]
pub fn kernel_release() -> String {
    text("/proc/sys/kernel/osrelease").trim().to_owned()
}

/// Name of this host.
#[must_use]
pub fn host_name() -> String {
    text("/proc/sys/kernel/hostname").trim().to_owned()
}

/// Model name of the processor; the architecture where there is none.
#[must_use]
pub fn cpu_model() -> String {
    let cpuinfo = text("/proc/cpuinfo");
    let name = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, name)| name.trim().to_owned(),
    )
}

/// Whether this is a virtual machine, as its processor says.
#[must_use]
pub fn is_virtual() -> bool {
    let cpuinfo = text("/proc/cpuinfo");
    let mut flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.any(|line| line.split_whitespace().any(|flag| flag == "hypervisor"))
}

/// All memory, bytes.
#[must_use]
pub fn memory_bytes() -> u64 {
    kib_line(&text("/proc/meminfo"), "MemTotal").unwrap_or(0)
}

/// `net.ipv4.tcp_mem`: pages of socket memory that are low, pressure, and the most.
#[must_use]
pub fn tcp_memory_pages() -> Option<[u64; 3]> {
    let text = text("/proc/sys/net/ipv4/tcp_mem");
    let pages: Option<Vec<u64>> = text.split_whitespace().map(|w| w.parse().ok()).collect();
    pages?.try_into().ok()
}
