//! What a program says of itself once: the values its labels can have, and what each of its threads
//! has.
//!
//! Must not depend on: how metrics are written.

/// The values labels can have: each is shown from the start, as 0 until it occurs, so that its
/// first occurrence is seen as a change.
#[derive(Debug, Default)]
pub struct LabelValues {
    /// Why an attempt or an accept did not open.
    pub open_failures: Vec<&'static str>,
    /// What becomes of a connection.
    pub ends: Vec<&'static str>,
    /// What becomes of a request.
    pub outcomes: Vec<&'static str>,
    /// Why responses are malformed.
    pub malformed: Vec<&'static str>,
    /// What is tolerated in responses.
    pub oddities: Vec<&'static str>,
    /// Limits in time.
    pub timeouts: Vec<&'static str>,
}

/// What one core thread has.
#[derive(Debug, Clone, Copy)]
pub struct Thread {
    /// Connections open now.
    pub open_now: u64,
    /// Rings made so far.
    pub shard_count: u64,
    /// Bytes received.
    pub bytes_received: u64,
}
