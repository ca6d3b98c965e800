//! What the kernel counts for all hosts of the testbed together.
//!
//! Must not depend on: phases.

use holdfast_telemetry::proc::KernelSample;
use holdfast_testbed::network::Network;
use holdfast_testbed::network::host::Host;
use holdfast_testbed::network::layout::MASTER;

/// The machine, with what all hosts' networks count together.
pub(super) fn kernel(network: &Network) -> KernelSample {
    let mut samples = network
        .hosts()
        .iter()
        .filter(|host| host.name != MASTER)
        .map(Host::kernel);
    let mut sum = samples.next().unwrap_or_default();
    for sample in samples {
        sum.established += sample.established;
        sum.tcp_inuse += sample.tcp_inuse;
        sum.tcp_orphan += sample.tcp_orphan;
        sum.tcp_tw += sample.tcp_tw;
        for (name, n) in sample.counters {
            *sum.counters.entry(name).or_default() += n;
        }
    }
    sum
}
