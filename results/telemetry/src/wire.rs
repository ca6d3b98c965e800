//! The JSON lines that server and client print and the bench reads.
//!
//! Purpose: one definition of what crosses the process boundary, so that neither side can drift.
//! With `--progress json` each program prints one report a line on standard output, every second,
//! and a last one with `is_final: true`; `--json FILE` writes that last one. The first line a
//! server prints means "listening".
//! Must not depend on: sockets, engines, how a figure was measured.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};

/// What every server reports. Counts are since the start unless a name says `now`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerHead {
    /// [`SERVER_SCHEMA`], [`HTTP_SERVER_SCHEMA`] or [`RELAY_SCHEMA`].
    pub schema: String,
    /// True in the last report of a process and in `--json` files.
    pub is_final: bool,
    /// Microseconds since the process started.
    pub at_us: u64,
    /// Addresses listened on.
    pub listen: Vec<String>,
    /// Core threads.
    pub thread_count: usize,
    /// Rings made so far; more come as connections need them.
    pub shard_count: usize,
    /// Connections this server agrees to hold at once.
    pub capacity: u64,
    /// Direct descriptors in one ring's table.
    pub ring_slots: u32,
    /// Connections open now.
    pub open_now: u64,
    /// Most connections ever open at once.
    pub open_max: u64,
    /// Connections accepted and held (refused ones are not in here).
    pub accepted: u64,
    /// Connections turned away because the capacity was reached.
    pub refused_full: u64,
    /// Accepts that failed, by kind.
    pub accept_failed: BTreeMap<String, u64>,
    /// Connections that ended, by reason.
    pub closed: BTreeMap<String, u64>,
}

/// What every client reports. Counts are since the start unless a name says `now`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientHead {
    /// [`CLIENT_SCHEMA`] or [`HTTP_CLIENT_SCHEMA`].
    pub schema: String,
    /// True in the last report of a process and in `--json` files.
    pub is_final: bool,
    /// Microseconds since the process started.
    pub at_us: u64,
    /// Core threads.
    pub thread_count: usize,
    /// Rings made so far.
    pub shard_count: usize,
    /// Users asked for.
    pub users_asked: u64,
    /// Connection attempts begun.
    pub attempts: u64,
    /// Attempts that opened.
    pub opened: u64,
    /// Attempts that failed, by kind (refused, timed_out, reset, no_address_left, no_descriptor,
    /// ...).
    pub failed: BTreeMap<String, u64>,
    /// The target of the first of these, by kind.
    #[serde(default)]
    pub failed_targets: BTreeMap<String, String>,
    /// Attempts that failed, by target and kind, of the first 64 targets.
    #[serde(default)]
    pub failed_by_target: BTreeMap<String, BTreeMap<String, u64>>,
    /// Connections open now.
    pub open_now: u64,
    /// Attempts begun and not yet ended.
    pub connecting_now: u64,
    /// Users there are: started, and not ended because there were to be fewer.
    #[serde(default)]
    pub users_now: u64,
}

/// The fields of its head are a report's own: in JSON, and to whoever reads it here.
macro_rules! has_head {
    ($($report:ident: $head:ident),*) => {$(
        impl Deref for $report {
            type Target = $head;
            fn deref(&self) -> &$head {
                &self.head
            }
        }

        impl DerefMut for $report {
            fn deref_mut(&mut self) -> &mut $head {
                &mut self.head
            }
        }
    )*};
}

has_head!(ServerReport: ServerHead, HttpServerReport: ServerHead, RelayReport: ServerHead, ClientReport: ClientHead, HttpClientReport: ClientHead);

/// What `holdfast-server longconn` reports. Counts are since the start unless a name says `now`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerReport {
    /// What every server reports.
    #[serde(flatten)]
    pub head: ServerHead,
    /// Heartbeats or echoes handed to the kernel whole.
    pub messages_sent: u64,
    /// Bytes peers sent, dropped or echoed.
    pub bytes_received: u64,
    /// What turns of the core threads were like, by name: see [`ClientReport::turns`].
    #[serde(default)]
    pub turns: BTreeMap<String, u64>,
    /// What should not happen in numbers, by name: stale completions, buffer shortages, queue
    /// overflows.
    pub anomalies: BTreeMap<String, u64>,
}

/// [`ServerHead::schema`].
pub const SERVER_SCHEMA: &str = "holdfast.server.longconn/1";

/// What `holdfast-client longconn` reports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientReport {
    /// What every client reports.
    #[serde(flatten)]
    pub head: ClientHead,
    /// How each opened connection ended: held (to the end, all due messages right), stopped (the
    /// same until there were to be fewer users), closed_by_server, reset,
    /// wrong_data, missed_message, closed_by_us, ... Complete in the final report only.
    pub ended: BTreeMap<String, u64>,
    /// How the connections that the client closed at the end were closed: gracefully, aborted (the
    /// server did not close its side in time), reset. Says nothing of how they were held.
    #[serde(default)]
    pub closed: BTreeMap<String, u64>,
    /// Every user has been attempted once and no attempt is under way.
    pub ramp_done: bool,
    /// From the first attempt to the last one that opened, seconds.
    pub ramp_seconds: f64,
    /// Whole messages that were right.
    pub messages_received: u64,
    /// Messages that differed from `--expect`.
    pub messages_wrong: u64,
    /// Messages that were due and had not come (final report: complete).
    pub messages_missed: u64,
    /// Messages sent upward.
    pub messages_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Connect time from the intended start.
    pub connect_us: Latency,
    /// How long after its due time a heartbeat arrived.
    pub lateness_us: Latency,
    /// The largest 99.9th percentile of `lateness_us` that the run passes with, microseconds; 0: it
    /// is not judged.
    #[serde(default)]
    pub lateness_limit_us: u64,
    /// How long after a message was sent the next one arrived, where `--send` is given and no
    /// interval is expected.
    #[serde(default)]
    pub response_us: Latency,
    /// What turns of the core threads were like, by name: in how many work was postponed because
    /// its share was used up (`timers_postponed`, `receives_postponed`, `accepts_postponed`,
    /// `dials_postponed`), and `longest_us`, `timer_late_us_max`, `accept_queue_max`.
    #[serde(default)]
    pub turns: BTreeMap<String, u64>,
    /// What should not happen in numbers, by name.
    pub anomalies: BTreeMap<String, u64>,
}

/// [`ClientHead::schema`].
pub const CLIENT_SCHEMA: &str = "holdfast.client.longconn/1";

/// Percentiles of one HdrHistogram, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Values recorded.
    pub count: u64,
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Largest value.
    pub max: u64,
}

/// What `holdfast-server http` reports. Counts are since the start unless a name says `now`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpServerReport {
    /// What every server reports.
    #[serde(flatten)]
    pub head: ServerHead,
    /// Responses by status code, refusals (400, 408, ...) included. 100 is not counted.
    pub responses: BTreeMap<String, u64>,
    /// Connections ended by a time-out, by which: header, body, write, idle.
    pub timed_out: BTreeMap<String, u64>,
    /// Bytes peers sent.
    pub bytes_received: u64,
    /// What should not happen in numbers, by name: stale completions, buffer shortages, queue
    /// overflows.
    pub anomalies: BTreeMap<String, u64>,
}

/// [`ServerHead::schema`].
pub const HTTP_SERVER_SCHEMA: &str = "holdfast.server.http/1";

/// What `holdfast-server relay` reports. Every accepted connection, a *client*, is in exactly one of
/// `ended`, `clients_now` and, if it was refused before it counted, `closed` of the head. The other
/// counts of the head are of sockets: a relayed client has two.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RelayReport {
    /// What every server reports.
    #[serde(flatten)]
    pub head: ServerHead,
    /// Clients that ended, by class: closed, reset_by_client, reset_by_backend, client_left,
    /// connect_refused, connect_timeout, no_backend, queue_full, idle, cut, stopped, ...
    pub ended: BTreeMap<String, u64>,
    /// Clients that have not ended.
    pub clients_now: u64,
    /// Those of them that have no backend yet: they connect, wait, or have not sent their header.
    pub waiting_now: u64,
    /// Those of them that wait for a backend with `maxconn` connections.
    pub queued_now: u64,
    /// Attempts to connect to a backend.
    pub connect_attempts: u64,
    /// Attempts that opened.
    pub connected: u64,
    /// Attempts that failed, by kind.
    pub connect_failed: BTreeMap<String, u64>,
    /// Attempts that followed a failed one of the same client.
    pub connect_retries: u64,
    /// Bytes received, from clients and backends.
    pub bytes_received: u64,
    /// Bytes forwarded, in both directions.
    pub bytes_forwarded: u64,
    /// Those of them that a socket did not take at once.
    pub bytes_copied: u64,
    /// What turns of the core threads were like, by name: see [`ClientReport::turns`].
    #[serde(default)]
    pub turns: BTreeMap<String, u64>,
    /// What should not happen in numbers, by name.
    pub anomalies: BTreeMap<String, u64>,
}

/// [`ServerHead::schema`].
pub const RELAY_SCHEMA: &str = "holdfast.server.relay/1";

/// What `holdfast-client http` reports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpClientReport {
    /// What every client reports.
    #[serde(flatten)]
    pub head: ClientHead,
    /// Every user has been started and no first attempt is under way.
    pub ramp_done: bool,
    /// From the first attempt to the last user's opening, seconds.
    pub ramp_seconds: f64,
    /// Open model: requests asked for per second (`--rate`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_per_second: Option<f64>,
    /// Requests begun: sent, or meant to be sent on a connection that did not open.
    pub requests: u64,
    /// Requests begun and without an outcome yet; 0 in the final report.
    pub pending_now: u64,
    /// What became of each request, one class each: ok, wrong_status, wrong_body, malformed,
    /// timed_out, reset, closed_early, refused, no_address_left, stopped (still under way when the
    /// run ended), ...
    pub outcomes: BTreeMap<String, u64>,
    /// Responses by status code.
    pub responses: BTreeMap<String, u64>,
    /// Requests sent again on another connection, because the server closed the one they were sent
    /// on without answering.
    #[serde(default)]
    pub retried: u64,
    /// Connections on which bytes arrived while no request was outstanding; they count as no
    /// request.
    #[serde(default)]
    pub unsolicited: u64,
    /// Heads and chunked bodies that were tolerated although no server should send them, by kind:
    /// folded_line, bare_lf, ...
    #[serde(default)]
    pub oddities: BTreeMap<String, u64>,
    /// Of several URLs: what became of the requests of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub targets: BTreeMap<String, BTreeMap<String, u64>>,
    /// Requests with the outcome malformed, by reason: head_too_long, too_many_headers,
    /// status_line, excess_bytes, ...
    #[serde(default)]
    pub malformed: BTreeMap<String, u64>,
    /// Of each of these reasons an example: the beginning of what could not be parsed, escaped.
    #[serde(default)]
    pub malformed_examples: BTreeMap<String, String>,
    /// Open model: requests that are due and not sent yet, now.
    pub backlog_now: u64,
    /// Open model: the most there ever were.
    pub backlog_max: u64,
    /// The part of the run that is measured: from the end of `--warm-up` to the stop, seconds so
    /// far.
    pub measured_seconds: f64,
    /// Requests with the outcome ok in that part.
    pub measured_ok: u64,
    /// Requests with any other outcome but `stopped` in that part.
    pub measured_failed: u64,
    /// Latency of ok requests in that part, from the time they were due; in the closed model, with
    /// what a stalled server kept from being asked filled in (HdrHistogram's correction for
    /// coordinated omission).
    pub latency_us: Latency,
    /// The same from the time they were really sent, uncorrected.
    pub latency_raw_us: Latency,
    /// As `latency_us`, with the failed requests of that part: from the time they were due until
    /// they failed.
    #[serde(default)]
    pub latency_with_failed_us: Latency,
    /// Connect time from the intended start.
    pub connect_us: Latency,
    /// Bytes received.
    pub bytes_received: u64,
    /// What should not happen in numbers, by name.
    pub anomalies: BTreeMap<String, u64>,
}

/// [`ClientHead::schema`].
pub const HTTP_CLIENT_SCHEMA: &str = "holdfast.client.http/1";

/// What `holdfast-client worker` reports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Always [`WORKER_SCHEMA`].
    pub schema: String,
    /// True in the last report of a process and in `--json` files.
    pub is_final: bool,
    /// The master's address.
    pub master: String,
    /// Workers this process is to the master.
    pub workers: usize,
    /// Those of them the master knows.
    pub workers_known: usize,
    /// Users there are, of all classes.
    pub users_now: u64,
    /// The last hundred tests, on the way only the last one: by user class, a [`ClientReport`]
    /// (`LongConn`) or an [`HttpClientReport`] (`Http`).
    pub runs: Vec<BTreeMap<String, serde_json::Value>>,
}

/// [`WorkerReport::schema`].
pub const WORKER_SCHEMA: &str = "holdfast.client.worker/1";
