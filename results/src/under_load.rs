//! Extremes of a run while it was loaded.
//!
//! Invariants: closing is left out: what a million connections do to the kernel when they all end
//! limits nobody.
//! Must not depend on: phases; who decides which samples these are.

use crate::sample::Sample;

/// Extremes of all samples from the client's start to the end of the hold.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnderLoad {
    /// Most connections in TIME_WAIT.
    pub time_wait_max: u64,
    /// Most pages of socket memory.
    pub tcp_mem_pages_max: u64,
    /// Samples with more of them than the pressure mark.
    pub tcp_mem_pressure_seconds: u64,
    /// Most connections tracked.
    pub conntrack_count_max: Option<u64>,
    /// Least memory left in a control group.
    pub cgroup_left_bytes_min: Option<u64>,
}

impl UnderLoad {
    /// Takes one sample in. `pressure_pages` is where socket memory becomes scarce.
    pub fn take(&mut self, now: &Sample, pressure_pages: Option<u64>) {
        let kernel = &now.kernel;
        self.time_wait_max = self.time_wait_max.max(kernel.tcp_tw);
        self.tcp_mem_pages_max = self.tcp_mem_pages_max.max(kernel.tcp_mem_pages);
        self.tcp_mem_pressure_seconds +=
            u64::from(pressure_pages.is_some_and(|pages| kernel.tcp_mem_pages > pages));
        self.conntrack_count_max = self
            .conntrack_count_max
            .max(kernel.saturation.conntrack_count);
        let left = [self.cgroup_left_bytes_min, now.cgroup_left_bytes];
        self.cgroup_left_bytes_min = left.into_iter().flatten().min();
    }
}
