//! One moment of a slice, and what was used of cores since.
//!
//! Must not depend on: what is measured between two moments.

use std::time::Instant;

use super::cores::Halves;

use holdfast_report::http::record::Measured;
use holdfast_telemetry::proc::KernelSample;
use holdfast_telemetry::proc::tree;

/// One moment of a slice.
pub(crate) struct Moment {
    at: Instant,
    server_cpu: f64,
    kernel: KernelSample,
}

impl Moment {
    /// This moment, of a server and its children.
    pub(crate) fn now(server: u32) -> Self {
        Self {
            at: Instant::now(),
            server_cpu: tree::cpu_seconds(server),
            kernel: KernelSample::read(),
        }
    }

    /// Fills in what the server and the cores did from this moment until now.
    pub(crate) fn until_now(&self, server: u32, halves: &Halves, measured: &mut Measured) {
        let after = Self::now(server);
        measured.seconds = after.at.duration_since(self.at).as_secs_f64();
        measured.server_cpu_seconds = after.server_cpu - self.server_cpu;
        let shares = |cores: &[usize]| {
            let ticks = after
                .kernel
                .cores_since(&self.kernel, cores.iter().copied());
            let share = |of| ticks.percent(of) / 100.0;
            (share(ticks.busy), share(ticks.softirq))
        };
        (measured.server_cores_busy, measured.server_cores_softirq) = shares(&halves.server);
        (measured.client_cores_busy, measured.client_cores_softirq) = shares(&halves.client);
        measured.counters = after.kernel.counters_since(&self.kernel);
        measured.counters.retain(|_, growth| *growth > 0);
        measured.time_wait = after.kernel.tcp_tw;
    }
}
