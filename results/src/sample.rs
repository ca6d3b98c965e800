//! Everything known at one moment of a run.
//!
//! Must not depend on: phases, what the figures become.

use std::time::Instant;

use holdfast_report::run::CpuPhase;
use holdfast_telemetry::proc::ThreadTimes;
use holdfast_telemetry::proc::{CoreTicks, KernelSample, ProcessSample};
use holdfast_telemetry::units::round;
use holdfast_telemetry::wire::ClientReport;

/// Everything known at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    /// By the clock.
    pub at: Instant,
    /// The kernel.
    pub kernel: KernelSample,
    /// The server process.
    pub server: Option<ProcessSample>,
    /// The client process.
    pub client: Option<ProcessSample>,
    /// The server's threads.
    pub server_threads: ThreadTimes,
    /// The client's threads.
    pub client_threads: ThreadTimes,
    /// Memory left in a control group that bounds one of them, bytes.
    pub cgroup_left_bytes: Option<u64>,
    /// The client's latest line.
    pub client_report: Option<ClientReport>,
}

/// What the cores did between two moments.
pub fn cpu_phase(from: Option<&Sample>, to: Option<&Sample>) -> Option<CpuPhase> {
    let (from, to) = (from?, to?);
    let spent = |a: Option<ProcessSample>, b: Option<ProcessSample>| {
        b.map_or(0.0, |b| {
            b.cpu_seconds() - a.map_or(0.0, |a| a.cpu_seconds())
        })
    };
    let seconds = to.at.duration_since(from.at).as_secs_f64();
    let most = |of: fn(&CoreTicks) -> u64| {
        let cores = to.kernel.each_core_since(&from.kernel);
        round(cores.map(|c| c.percent(of(&c))).fold(0.0, f64::max), 1)
    };
    let all = to
        .kernel
        .cores_since(&from.kernel, to.kernel.cores.keys().copied());
    Some(CpuPhase {
        seconds: round(seconds, 3),
        server_seconds: round(spent(from.server, to.server), 2),
        client_seconds: round(spent(from.client, to.client), 2),
        machine_busy_percent: round(to.kernel.busy_percent_since(&from.kernel), 1),
        softirq_percent: round(all.percent(all.softirq), 1),
        core_busy_max_percent: most(|core| core.busy),
        core_softirq_max_percent: most(|core| core.softirq),
        server_thread: to
            .server_threads
            .busiest_since(&from.server_threads, seconds),
        client_thread: to
            .client_threads
            .busiest_since(&from.client_threads, seconds),
    })
}
