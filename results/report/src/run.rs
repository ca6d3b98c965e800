//! The schema of `run.json`: everything a run leaves, key by key.
//!
//! Purpose: one definition of the record, for writing it now and comparing it later. `README.md`
//! beside this crate explains every key with its unit.
//! Invariants: units end the names. Adding a key keeps [`RUN_SCHEMA`]; renaming, removing or
//! redefining one raises its number. What could not be measured is `null`, never zero. The verdict
//! follows from the record alone.
//! Must not depend on: how figures are taken or shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::header::Header;
use crate::locust::record::LocustRecord;
use crate::network::NetworkRecord;

use holdfast_telemetry::proc::BusiestThread;
use holdfast_telemetry::wire::Latency;

/// The schema of a [`Run`].
pub const RUN_SCHEMA: &str = "holdfast.run/1";

/// One run, as `run.json` holds it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// What every record begins with; its schema is [`RUN_SCHEMA`].
    #[serde(flatten)]
    pub header: Header,
    /// What was asked for.
    pub asked: Asked,
    /// Every attempt and where it ended.
    pub connections: Connections,
    /// The opening.
    pub ramp: Ramp,
    /// How long all were held.
    pub hold: Hold,
    /// Heartbeats.
    pub messages: Messages,
    /// Latencies from the intended time, microseconds.
    pub latency_us: Latencies,
    /// Memory a connection.
    pub memory: Memory,
    /// Time on cores.
    pub cpu: Cpu,
    /// The kernel's own counters over the run.
    pub kernel: Kernel,
    /// The two processes.
    pub processes: Processes,
    /// The lab's hosts, where the run had more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkRecord>,
    /// Locust's part, where its master drove the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locust: Option<LocustRecord>,
}

/// The request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// Users.
    pub users: u64,
    /// Users opened a second; `null` means as fast as it goes.
    pub spawn_rate_per_second: Option<f64>,
    /// Interval of messages to one connection.
    pub every_seconds: f64,
    /// How long all are held after the ramp.
    pub hold_seconds: f64,
    /// The heartbeat.
    pub message: String,
    /// Source addresses handed to the client, if any.
    pub source: Option<String>,
    /// Addresses connected to.
    pub targets: Vec<String>,
}

/// Every attempt ends in one class; every opened connection too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connections {
    /// Users asked for.
    pub asked: u64,
    /// Attempts that opened.
    pub opened: u64,
    /// Attempts that failed, by kind.
    pub failed: BTreeMap<String, u64>,
    /// Open at the end of the hold, as the client counts. A run cut short is counted where it was
    /// cut.
    pub held_at_end: u64,
    /// Opened connections that ended in anything else than `held`; all of them without the client's
    /// final report.
    pub lost: u64,
    /// How opened connections ended, by class, as the client counts.
    pub ended: BTreeMap<String, u64>,
    /// Open at the end of the hold, as the server counts.
    pub server_open: u64,
    /// Established pairs at the end of the hold, as the kernel counts (both ends are on this
    /// machine).
    pub kernel_established: u64,
    /// The sockets behind it, two a pair.
    pub kernel_established_sockets: u64,
    /// Accepted by the server over the whole run.
    pub server_accepted: u64,
    /// Turned away by the server because it was full.
    pub server_refused_full: u64,
    /// Accepts that failed at the server, by kind.
    pub server_accept_failed: BTreeMap<String, u64>,
    /// How connections ended at the server, by reason.
    pub server_closed: BTreeMap<String, u64>,
}

/// The opening.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ramp {
    /// From the first attempt to the last that opened.
    pub seconds: f64,
    /// Opened a second, over that time.
    pub per_second: f64,
}

/// The time after the ramp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hold {
    /// From the end of the ramp to the three counts; `null` if the run ended before them.
    pub seconds: Option<f64>,
}

/// Heartbeats, from server to client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Messages {
    /// Sent by the server over the whole run; `null` without its final report.
    pub sent: Option<u64>,
    /// Received whole and right by the client over the whole run.
    pub received: u64,
    /// Received, and different from what was expected.
    pub wrong: u64,
    /// Due and not come.
    pub missed: u64,
    /// Received a second, over the hold; `null` without a whole hold.
    pub per_second: Option<f64>,
    /// What the interval and the held connections make due a second.
    pub due_per_second: f64,
}

/// Percentiles; the whole histograms are in `histograms.hlog`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latencies {
    /// Connect time from the intended start.
    pub connect: Latency,
    /// How long after its due time a heartbeat arrived.
    pub lateness: Latency,
}

/// Memory at the end of the hold, against what was there before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// All resident memory of the server divided by the connections held.
    pub server_rss_bytes_per_connection: Option<f64>,
    /// All resident memory of the client divided by the connections held.
    pub client_rss_bytes_per_connection: Option<f64>,
    /// Growth of kernel slabs since before the client started, divided by the pairs held.
    pub slab_bytes_per_pair: Option<f64>,
    /// Decline of available memory over the same time, divided by the pairs held: slabs, RSS, page
    /// tables, everything.
    pub machine_bytes_per_pair: Option<f64>,
    /// Resident memory of the server at the end of the hold.
    pub server_rss_bytes: Option<u64>,
    /// The same for the client.
    pub client_rss_bytes: Option<u64>,
    /// Resident memory of the server when it listened and held nothing.
    pub server_rss_base_bytes: Option<u64>,
    /// Resident memory of the client right after its start.
    pub client_rss_base_bytes: Option<u64>,
    /// Growth of the server's resident memory since then, divided by the connections held.
    pub server_rss_growth_bytes_per_connection: Option<f64>,
    /// The same for the client.
    pub client_rss_growth_bytes_per_connection: Option<f64>,
    /// Slabs before the client started.
    pub slab_base_bytes: Option<u64>,
    /// Slabs at the end of the hold.
    pub slab_bytes: Option<u64>,
    /// Least memory available at any sample of the run.
    pub available_bytes_min: Option<u64>,
    /// Least memory left in a control group that bounds one of the processes, at any sample;
    /// `null`: none does.
    pub cgroup_left_bytes_min: Option<u64>,
    /// Memory touched before the ramp, so that a virtual machine's host backs it; 0: the run began
    /// as it was.
    pub warmed_bytes: u64,
    /// How long that took.
    pub warmed_seconds: f64,
}

/// Time on cores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// Server, all threads, user and system, whole life.
    pub server_seconds: f64,
    /// Client, likewise.
    pub client_seconds: f64,
    /// Share of all cores in use from the start of the ramp to the end of the hold, by whatever
    /// runs here.
    pub machine_busy_percent: Option<f64>,
    /// The same within the ramp.
    pub ramp: Option<CpuPhase>,
    /// The same within the hold.
    pub hold: Option<CpuPhase>,
}

/// Time on cores within one phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuPhase {
    /// Length of the phase by the clock.
    pub seconds: f64,
    /// Server.
    pub server_seconds: f64,
    /// Client.
    pub client_seconds: f64,
    /// Share of all cores in use.
    pub machine_busy_percent: f64,
    /// Share of all cores in softirqs: packets on their way through the kernel.
    pub softirq_percent: f64,
    /// The core with the largest share in use.
    pub core_busy_max_percent: f64,
    /// The core with the largest share in softirqs.
    pub core_softirq_max_percent: f64,
    /// The busiest thread of the server; `null` where the kernel does not tell.
    pub server_thread: Option<BusiestThread>,
    /// The busiest thread of the client.
    pub client_thread: Option<BusiestThread>,
}

/// The kernel's counters, from the baseline to the last sample of the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kernel {
    /// Growth of TcpExt counters that name limits (`ListenOverflows`, ...).
    pub counters: BTreeMap<String, u64>,
    /// The same without what happened while all was closed: to the end of the hold, or to where the
    /// run was cut short.
    pub load_counters: BTreeMap<String, u64>,
    /// Most connections seen in TIME_WAIT.
    pub time_wait_max: u64,
    /// The same, before all was closed.
    pub time_wait_load_max: u64,
    /// Most pages of socket memory seen before all was closed, of the whole machine.
    pub tcp_mem_pages_max: u64,
    /// Seconds before all was closed in which that was above the pressure mark of
    /// `machine.tcp_mem_pages`.
    pub tcp_mem_pressure_seconds: u64,
    /// Packets dropped because a core's queue of arrived ones was full, whole machine.
    pub packets_dropped: u64,
    /// Processes the kernel killed for memory, whole machine.
    pub oom_kills: u64,
    /// Most connections tracked by the namespace's firewall; `null` without connection tracking.
    pub conntrack_count_max: Option<u64>,
    /// How many it may track.
    pub conntrack_max: Option<u64>,
    /// Packets dropped because that table was full.
    pub conntrack_drops: u64,
    /// Established sockets before the client started.
    pub established_base: u64,
}

/// Both processes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Processes {
    /// The server.
    pub server: ProcessRecord,
    /// The client.
    pub client: ProcessRecord,
}

/// One process and its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessRecord {
    /// Its command line.
    pub command: String,
    /// Exit code; `null` when it never started or a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it printed its final report.
    pub has_final_report: bool,
    /// Core threads.
    pub thread_count: usize,
    /// Rings.
    pub shard_count: usize,
    /// What it says of the turns of its core threads, by name; zeros are left out.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub turns: BTreeMap<String, u64>,
    /// What it says should not happen, by name; zero counts are left out.
    pub anomalies: BTreeMap<String, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Verdict;

    #[test]
    fn schema_goes_round() {
        let mut run = Run {
            header: Header {
                schema: RUN_SCHEMA.into(),
                name: "longconn".into(),
                verdict: Verdict::Pass,
                ..Header::default()
            },
            ..Run::default()
        };
        run.connections.failed.insert("refused".into(), 3);
        run.memory.slab_bytes_per_pair = Some(8_160.5);
        run.header.lab.connection_hash_buckets = Some(-262_144);
        run.latency_us.connect = Latency {
            count: 1,
            p50: 2,
            p99: 3,
            p999: 4,
            max: 5,
        };
        let text = serde_json::to_string_pretty(&run).expect("writes");
        assert_eq!(serde_json::from_str::<Run>(&text).expect("reads"), run);
        assert!(text.contains("\"verdict\": \"pass\""));
    }

    #[test]
    fn has_every_key_readers_rely_on() {
        let value = serde_json::to_value(Run::default()).expect("writes");
        for path in [
            "schema",
            "name",
            "verdict",
            "reasons",
            "limits",
            "command",
            "commit",
            "started_at",
            "machine.kernel",
            "machine.cpu",
            "machine.core_count",
            "machine.memory_bytes",
            "machine.rlimit_nofile",
            "connections.asked",
            "connections.opened",
            "connections.failed",
            "connections.held_at_end",
            "connections.lost",
            "connections.server_open",
            "connections.kernel_established",
            "ramp.seconds",
            "ramp.per_second",
            "messages.sent",
            "messages.received",
            "messages.wrong",
            "messages.missed",
            "messages.per_second",
            "latency_us.connect.p50",
            "latency_us.connect.p99",
            "latency_us.connect.p999",
            "latency_us.connect.max",
            "latency_us.lateness.p50",
            "latency_us.lateness.p99",
            "latency_us.lateness.p999",
            "latency_us.lateness.max",
            "memory.server_rss_bytes_per_connection",
            "memory.client_rss_bytes_per_connection",
            "memory.slab_bytes_per_pair",
            "cpu.server_seconds",
            "cpu.client_seconds",
            "cpu.machine_busy_percent",
        ] {
            let found = path
                .split('.')
                .try_fold(&value, |value, key| value.get(key));
            assert!(found.is_some(), "{path} is missing");
        }
    }

    #[test]
    fn older_record_without_newer_keys_is_readable() {
        let run: Run =
            serde_json::from_str(r#"{"schema":"holdfast.run/1","verdict":"fail"}"#).expect("reads");
        assert_eq!(run.header.verdict, Verdict::Fail);
    }
}
