//! The kernel's and this process' own figures as metrics, taken when somebody asks.
//!
//! Invariants: what the kernel does not say is not shown, rather than shown as 0. Names of the
//! process' own figures are those every Prometheus client library uses.
//! Must not depend on: what this process counts itself.

use nix::unistd::{SysconfVar, sysconf};

use super::page::Page;
use crate::proc::{KernelSample, ProcessSample, TICKS_PER_SECOND, process, threads};

/// What is read once.
#[derive(Debug)]
pub struct Machine {
    page_bytes: u64,
    /// When this process started, seconds since 1970.
    started_at: Option<f64>,
}

impl Default for Machine {
    fn default() -> Self {
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        Machine {
            page_bytes: page_bytes.and_then(|n| n.try_into().ok()).unwrap_or(4_096),
            started_at: process::own_start(),
        }
    }
}

impl Machine {
    /// The figures now.
    pub fn page(&self) -> Page {
        let mut page = Page::default();
        self.kernel(&mut page, &KernelSample::read());
        self.process(&mut page);
        page
    }

    fn kernel(&self, page: &mut Page, kernel: &KernelSample) {
        for (name, help, value) in [
            (
                "holdfast_kernel_tcp_sockets_established",
                "TCP sockets in ESTABLISHED or CLOSE_WAIT, both ends if both are here",
                kernel.established,
            ),
            (
                "holdfast_kernel_tcp_sockets_time_wait",
                "TCP sockets in TIME_WAIT",
                kernel.tcp_tw,
            ),
            (
                "holdfast_kernel_tcp_sockets_orphaned",
                "TCP sockets that no process has",
                kernel.tcp_orphan,
            ),
            (
                "holdfast_kernel_tcp_sockets_in_use",
                "TCP sockets over IPv4 in the tables of this network namespace",
                kernel.tcp_inuse,
            ),
            (
                "holdfast_kernel_tcp_sockets_allocated",
                "TCP sockets allocated on the whole machine",
                kernel.tcp_alloc,
            ),
            (
                "holdfast_kernel_tcp_memory_bytes",
                "Memory of TCP buffers in the sense of tcp_mem, on the whole machine",
                kernel.tcp_mem_pages * self.page_bytes,
            ),
            (
                "holdfast_kernel_slab_bytes",
                "Kernel memory in slabs: sockets and whatever else the kernel keeps",
                kernel.slab_bytes,
            ),
            (
                "holdfast_kernel_slab_unreclaimable_bytes",
                "The part of the slabs that cannot be reclaimed",
                kernel.slab_unreclaimable_bytes,
            ),
            (
                "holdfast_machine_memory_available_bytes",
                "Memory that can still be allocated without swapping",
                kernel.mem_available_bytes,
            ),
            (
                "holdfast_machine_memory_bytes",
                "All memory of this machine",
                kernel.mem_total_bytes,
            ),
        ] {
            page.gauge(name, help, value as f64);
        }
        page.counters(
            "holdfast_kernel_tcp_events",
            "TcpExt counters of this network namespace that name limits, by the kernel's names",
            "event",
            &kernel.counters,
        );
        let busy_seconds = kernel.busy_ticks as f64 / TICKS_PER_SECOND;
        page.seconds(
            "holdfast_machine_cpu_busy_seconds",
            "Time cores were busy, by whatever ran, summed over all cores",
            [(None, busy_seconds)],
        );
        if let Ok(Some(count)) = sysconf(SysconfVar::_NPROCESSORS_ONLN) {
            page.gauge(
                "holdfast_machine_cores",
                "Cores of this machine",
                count as f64,
            );
        }
    }

    fn process(&self, page: &mut Page) {
        if let Some(own) = ProcessSample::read(std::process::id()) {
            page.seconds(
                "process_cpu_seconds",
                "User and system time of this process",
                [(None, own.cpu_seconds())],
            );
            page.gauge(
                "process_resident_memory_bytes",
                "Resident memory of this process",
                own.rss_bytes as f64,
            );
        }
        if let Some(started_at) = self.started_at {
            page.gauge(
                "process_start_time_seconds",
                "Start of this process, seconds since 1970",
                started_at,
            );
        }
        let times = threads::core_threads()
            .into_iter()
            .map(|(number, seconds)| (Some(("thread", number.to_string())), seconds));
        page.seconds(
            "holdfast_thread_cpu_seconds",
            "User and system time of a core thread",
            times,
        );
    }
}
