//! What became of upgrades and connections, for reports.
//!
//! Must not depend on: who counts.

use std::collections::BTreeMap;

/// What one thread's layer counted. Each upgrade that was begun is in exactly one of the first six.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that were upgraded.
    pub upgraded: u64,
    /// Upgrades refused, by status: by us if we are the server, by the peer if we are the client.
    pub refused: BTreeMap<u16, u64>,
    /// Responses that were not valid, by [`UpgradeFailure::label`](crate::UpgradeFailure::label).
    pub invalid: BTreeMap<&'static str, u64>,
    /// Upgrades that were not complete in time.
    pub timed_out: u64,
    /// Connections that the peer ended, or that failed, before they were upgraded.
    pub ended_early: u64,
    /// Connections that we ended before they were upgraded.
    pub cancelled: u64,
    /// Connections that failed, by [`ProtocolError::label`](crate::ProtocolError::label).
    pub protocol_errors: BTreeMap<&'static str, u64>,
    /// Close frames received, by code; 1005: it had none.
    pub close_codes: BTreeMap<u16, u64>,
    /// Upgraded connections that ended without a Close frame from the peer (code 1006), those that we aborted included.
    pub ended_without_close: u64,
    /// Pings received, each of which was answered.
    pub pings: u64,
    /// Pongs received.
    pub pongs: u64,
}

impl Stats {
    /// Adds those of another thread.
    pub fn merge(&mut self, other: &Stats) {
        fn add<K: Ord + Copy>(sum: &mut BTreeMap<K, u64>, part: &BTreeMap<K, u64>) {
            for (key, count) in part {
                *sum.entry(*key).or_default() += count;
            }
        }
        self.upgraded += other.upgraded;
        add(&mut self.refused, &other.refused);
        add(&mut self.invalid, &other.invalid);
        self.timed_out += other.timed_out;
        self.ended_early += other.ended_early;
        self.cancelled += other.cancelled;
        add(&mut self.protocol_errors, &other.protocol_errors);
        add(&mut self.close_codes, &other.close_codes);
        self.ended_without_close += other.ended_without_close;
        self.pings += other.pings;
        self.pongs += other.pongs;
    }
}
