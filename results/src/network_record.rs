//! What the record of a run says of the testbed's network.
//!
//! Must not depend on: what was measured in it.

use holdfast_report::network::{HostRecord, NetworkRecord};
use holdfast_testbed::network::Network;
use holdfast_testbed::network::layout::SUBNET;

/// What `network` is.
#[must_use]
pub fn network_record(network: &Network) -> NetworkRecord {
    let hosts = network.hosts().iter().map(|host| HostRecord {
        name: host.name.clone(),
        addresses: host.addresses.iter().map(ToString::to_string).collect(),
        connection_hash_buckets: host.lab.connection_hash_buckets,
        settings_failed: host
            .lab
            .settings
            .iter()
            .filter(|setting| setting.error.is_some())
            .cloned()
            .collect(),
        notes: host.lab.notes.clone(),
    });
    NetworkRecord {
        subnet: SUBNET.into(),
        hosts: hosts.collect(),
    }
}
