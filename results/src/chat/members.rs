//! What `chat_members` (`examples/chat_members.rs`) prints: a line of JSON for each state of it.
//!
//! Must not depend on: the server, rounds.

use holdfast_telemetry::report_line::{Report, read_json};
use holdfast_telemetry::wire::Latency;
use serde::{Deserialize, Serialize};

/// The schema of a [`MembersReport`].
pub const MEMBERS_SCHEMA: &str = "holdfast.chat.members/1";

/// The members of a chat, as counted by themselves. A batch is the messages sent after one signal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MembersReport {
    /// [`MEMBERS_SCHEMA`].
    pub schema: String,
    /// The last report: the members have left.
    pub is_final: bool,
    /// Members that joined.
    pub opened: u64,
    /// Members that could not join.
    pub failed: u64,
    /// Members that were closed by the server, or lost.
    pub ended: u64,
    /// Batches that were delivered completely.
    pub batches: u64,
    /// Messages sent, of all batches.
    pub messages: u64,
    /// Messages that members received completely and right, of all batches.
    pub delivered: u64,
    /// Bytes that no member should have received then: repeated, out of order, wrong.
    pub invalid: u64,
    /// From the sending to the arrival at each member, microseconds, of the last batch.
    pub delivery_us: Latency,
    /// From the sending to the arrival at the last member, microseconds, of the last batch.
    pub last_us: Latency,
}

impl Report for MembersReport {
    fn read(line: &str) -> Result<Self, String> {
        read_json(line, MEMBERS_SCHEMA, |r: &Self| &r.schema)
    }
    fn is_final(&self) -> bool {
        self.is_final
    }
}
