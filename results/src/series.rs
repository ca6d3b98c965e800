//! The one-second series of a run: `series.csv`.
//!
//! Purpose: what both processes and the kernel said, second by second, one row each, units in the
//! column names.
//! Invariants: a row has as many fields as [`COLUMNS`]; what is unknown is empty. Rows are written
//! as they come, so a run that dies leaves all rows before its death. Writing goes through the
//! ring: a slow disk delays no sample.
//! Must not depend on: phases' rules, verdicts.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Instant;

use crate::sample::Sample;

use holdfast_report::run::CpuPhase;
use holdfast_telemetry::proc::{KernelSample, ProcessSample};
use holdfast_telemetry::wire::{ClientReport, ServerReport};

/// Names of the columns, in order.
pub const COLUMNS: &[&str] = &[
    "at_seconds",
    "phase",
    "client_attempts",
    "client_opened",
    "client_failed",
    "client_open",
    "server_open",
    "kernel_established_sockets",
    "messages_sent",
    "messages_received",
    "messages_wrong",
    "messages_missed",
    "connect_p99_us",
    "lateness_p99_us",
    "server_cpu_seconds",
    "client_cpu_seconds",
    "server_rss_bytes",
    "client_rss_bytes",
    "machine_busy_percent",
    "slab_bytes",
    "slab_unreclaimable_bytes",
    "available_bytes",
    "tcp_inuse",
    "tcp_orphan",
    "tcp_time_wait",
    "tcp_alloc",
    "tcp_mem_pages",
    "listen_overflows",
    "listen_drops",
    "time_wait_overflows",
    "syn_retransmits",
    "softirq_percent",
    "core_busy_max_percent",
    "core_softirq_max_percent",
    "server_thread_busy_percent",
    "server_thread_wanted_percent",
    "client_thread_busy_percent",
    "client_thread_wanted_percent",
    "syn_queue_drops",
    "syn_cookies",
    "tcp_memory_pressures",
    "packets_dropped",
    "conntrack_count",
    "cgroup_left_bytes",
    "client_at_us",
    "client_failed_by_kind",
    "client_lost_by_class",
];

/// The class of an ended connection that was not lost.
const HELD: &str = "held";

/// Everything known at one second.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Since the start of the run.
    pub at_seconds: f64,
    /// Phase of the run.
    pub phase: &'a str,
    /// The kernel now.
    pub kernel: &'a KernelSample,
    /// What the cores did since the row before.
    pub cores: Option<CpuPhase>,
    /// Memory left in a control group that bounds server or client.
    pub cgroup_left_bytes: Option<u64>,
    /// The server process.
    pub server: Option<&'a ProcessSample>,
    /// The client process.
    pub client: Option<&'a ProcessSample>,
    /// The latest line of the server.
    pub server_report: Option<&'a ServerReport>,
    /// The latest line of the client.
    pub client_report: Option<&'a ClientReport>,
}

impl<'a> Row<'a> {
    /// What `sample` has noted of a run that began at `started`, and the server's latest line.
    #[must_use]
    pub fn of(
        sample: &'a Sample,
        started: Instant,
        phase: &'a str,
        cores: Option<CpuPhase>,
        server_report: Option<&'a ServerReport>,
    ) -> Self {
        Self {
            at_seconds: sample.at.duration_since(started).as_secs_f64(),
            phase,
            kernel: &sample.kernel,
            cores,
            cgroup_left_bytes: sample.cgroup_left_bytes,
            server: sample.server.as_ref(),
            client: sample.client.as_ref(),
            server_report,
            client_report: sample.client_report.as_ref(),
        }
    }

    /// The row as one line of CSV.
    #[must_use]
    pub fn line(&self) -> String {
        let client = |f: fn(&ClientReport) -> u64| {
            self.client_report
                .map_or(String::new(), |r| f(r).to_string())
        };
        let server = |f: fn(&ServerReport) -> u64| {
            self.server_report
                .map_or(String::new(), |r| f(r).to_string())
        };
        let cpu = |p: Option<&ProcessSample>| {
            p.map_or(String::new(), |p| format!("{:.2}", p.cpu_seconds()))
        };
        let rss = |p: Option<&ProcessSample>| p.map_or(String::new(), |p| p.rss_bytes.to_string());
        let k = self.kernel;
        let maybe = |value: Option<u64>| value.map_or(String::new(), |v| v.to_string());
        let percent = |of: fn(&CpuPhase) -> Option<f64>| {
            let value = self.cores.as_ref().and_then(of);
            value.map_or(String::new(), |v| format!("{v:.1}"))
        };
        let fields = [
            format!("{:.3}", self.at_seconds),
            self.phase.to_string(),
            client(|r| r.attempts),
            client(|r| r.opened),
            client(|r| r.failed.values().sum()),
            client(|r| r.open_now),
            server(|r| r.open_now),
            k.established.to_string(),
            server(|r| r.messages_sent),
            client(|r| r.messages_received),
            client(|r| r.messages_wrong),
            client(|r| r.messages_missed),
            client(|r| r.connect_us.p99),
            client(|r| r.lateness_us.p99),
            cpu(self.server),
            cpu(self.client),
            rss(self.server),
            rss(self.client),
            percent(|c| Some(c.machine_busy_percent)),
            k.slab_bytes.to_string(),
            k.slab_unreclaimable_bytes.to_string(),
            k.mem_available_bytes.to_string(),
            k.tcp_inuse.to_string(),
            k.tcp_orphan.to_string(),
            k.tcp_tw.to_string(),
            k.tcp_alloc.to_string(),
            k.tcp_mem_pages.to_string(),
            k.counter("ListenOverflows").to_string(),
            k.counter("ListenDrops").to_string(),
            k.counter("TCPTimeWaitOverflow").to_string(),
            k.counter("TCPSynRetrans").to_string(),
            percent(|c| Some(c.softirq_percent)),
            percent(|c| Some(c.core_busy_max_percent)),
            percent(|c| Some(c.core_softirq_max_percent)),
            percent(|c| Some(c.server_thread?.busy_percent)),
            percent(|c| Some(c.server_thread?.wanted_percent)),
            percent(|c| Some(c.client_thread?.busy_percent)),
            percent(|c| Some(c.client_thread?.wanted_percent)),
            k.counter("TCPReqQFullDrop").to_string(),
            k.counter("SyncookiesSent").to_string(),
            k.counter("TCPMemoryPressures").to_string(),
            k.saturation.packets_dropped.to_string(),
            maybe(k.saturation.conntrack_count),
            maybe(self.cgroup_left_bytes),
            client(|r| r.at_us),
            self.client_report
                .map_or(String::new(), |r| named_counts(&r.failed)),
            self.client_report
                .map_or(String::new(), |r| named_counts(&r.ended)),
        ];
        assert_eq!(fields.len(), COLUMNS.len(), "a field for each column");
        fields.join(",") + "\n"
    }
}

/// `refused:3 timed_out:1`: counts by name in one field, without those that are zero and without
/// connections that were held.
fn named_counts(counts: &BTreeMap<String, u64>) -> String {
    let told = counts.iter().filter(|(name, n)| **n > 0 && *name != HELD);
    let told: Vec<String> = told.map(|(name, n)| format!("{name}:{n}")).collect();
    told.join(" ")
}

/// The open file.
#[derive(Debug)]
pub struct Series {
    file: tokio_uring::fs::File,
    length_bytes: u64,
}

impl Series {
    /// Creates the file with its line of names.
    ///
    /// # Errors
    /// When the file cannot be made or written.
    pub async fn create(path: &Path) -> io::Result<Self> {
        let mut series = Self {
            file: tokio_uring::fs::File::create(path).await?,
            length_bytes: 0,
        };
        series.append(COLUMNS.join(",") + "\n").await?;
        Ok(series)
    }

    /// Adds one line.
    ///
    /// # Errors
    /// When the file cannot be written; the line may then be there in part.
    pub async fn append(&mut self, line: String) -> io::Result<()> {
        let length = line.len() as u64;
        let (result, _) = self
            .file
            .write_all_at(line.into_bytes(), self.length_bytes)
            .await;
        self.length_bytes += length;
        result
    }

    /// Closes the file.
    ///
    /// # Errors
    /// What the kernel says on closing.
    pub async fn close(self) -> io::Result<()> {
        self.file.close().await
    }
}

#[cfg(test)]
mod tests {
    use holdfast_telemetry::wire::ClientHead;

    use super::*;

    #[test]
    fn a_row_has_a_field_for_each_column() {
        let kernel = KernelSample::default();
        let row = Row {
            at_seconds: 1.5,
            phase: "ramp",
            kernel: &kernel,
            cores: None,
            cgroup_left_bytes: None,
            server: None,
            client: None,
            server_report: None,
            client_report: Some(&ClientReport {
                head: ClientHead {
                    attempts: 7,
                    ..ClientHead::default()
                },
                ended: [
                    ("held".into(), 5),
                    ("reset".into(), 2),
                    ("wrong_data".into(), 1),
                ]
                .into(),
                ..ClientReport::default()
            }),
        };
        let line = row.line();
        assert!(line.starts_with("1.500,ramp,7,0,"), "{line}");
        assert_eq!(line.matches(',').count(), COLUMNS.len() - 1);
        assert!(line.ends_with(",0,,reset:2 wrong_data:1\n"), "{line}");
    }
}
