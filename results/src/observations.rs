//! From what was observed in a run that opens users and holds them to its record.
//!
//! Purpose: [`Observations`] collects samples; [`Observations::build_record`] turns them, and the
//! last reports of both ends, into the figures of a [`Run`].
//! Invariants: reads only; asks the kernel nothing. What was not observed becomes `None`, never
//! zero.
//! Must not depend on: how phases follow each other, whether figures are good.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use crate::sample::{Sample, cpu_phase};
use crate::under_load::UnderLoad;

use holdfast_report::run::{
    Connections, Cpu, Hold, Kernel, Latencies, Memory, Messages, ProcessRecord, Processes, Ramp,
    Run,
};
use holdfast_telemetry::proc::Saturation;
use holdfast_telemetry::proc::ThreadTimes;
use holdfast_telemetry::proc::{KernelSample, ProcessSample};
use holdfast_telemetry::report_line::Report;
use holdfast_telemetry::units::round;
use holdfast_telemetry::wire::{ClientReport, ServerReport};
use holdfast_testbed::child::Child;

/// The three counts, taken together at the end of the hold, and who counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Open at the client.
    pub client: u64,
    /// Open at the server.
    pub server: u64,
    /// Established pairs.
    pub kernel: u64,
    /// The sockets behind them, both ends.
    pub kernel_sockets: u64,
}

/// Everything observed in a run.
#[derive(Debug, Clone)]
pub struct Observations {
    /// Start of the run.
    pub started: Instant,
    /// The latest second.
    pub latest: Sample,
    /// The server listens, the client does not run yet.
    pub baseline: Option<Sample>,
    /// The client was just started.
    pub ramp_start: Option<Sample>,
    /// The ramp is done.
    pub hold_start: Option<Sample>,
    /// The three counts are taken; `None` for a run cut short.
    pub hold_end: Option<Sample>,
    /// Where a run was cut short.
    pub cut: Option<Sample>,
    /// The three counts, also of a run cut short.
    pub counts: Option<Counts>,
    /// The client right after its start.
    pub client_base: Option<ProcessSample>,
    /// Least memory available in any sample.
    pub available_bytes_min: u64,
    /// Memory touched before the ramp, bytes, and how long that took, seconds.
    pub prefaulted: (u64, f64),
    /// Most connections in TIME_WAIT in any sample.
    pub time_wait_max: u64,
    /// What samples showed before everything was closed.
    under_load: UnderLoad,
    /// `net.ipv4.tcp_mem`, if known.
    pub tcp_mem_pages: Option<[u64; 3]>,
    /// What went wrong that no count shows.
    pub incidents: Vec<String>,
}

impl Observations {
    /// Nothing yet, but the kernel as it is before the start.
    #[must_use]
    pub fn new(kernel: KernelSample) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            available_bytes_min: kernel.mem_available_bytes,
            prefaulted: (0, 0.0),
            time_wait_max: 0,
            under_load: UnderLoad::default(),
            tcp_mem_pages: None,
            latest: Sample {
                at: now,
                kernel,
                server: None,
                client: None,
                server_threads: ThreadTimes::default(),
                client_threads: ThreadTimes::default(),
                cgroup_left_bytes: None,
                client_report: None,
            },
            baseline: None,
            ramp_start: None,
            hold_start: None,
            hold_end: None,
            cut: None,
            counts: None,
            client_base: None,
            incidents: Vec::new(),
        }
    }

    /// Adds the sample of this second; returns the one before.
    pub fn add(&mut self, now: Sample) -> Sample {
        if self.ramp_start.is_some() && self.hold_end.is_none() && self.cut.is_none() {
            self.under_load
                .take(&now, self.tcp_mem_pages.map(|pages| pages[1]));
        }
        self.available_bytes_min = self.available_bytes_min.min(now.kernel.mem_available_bytes);
        self.time_wait_max = self.time_wait_max.max(now.kernel.tcp_tw);
        std::mem::replace(&mut self.latest, now)
    }

    /// Where the load ended: the three counts, or the cut.
    fn load_end(&self) -> Option<&Sample> {
        self.hold_end.as_ref().or(self.cut.as_ref())
    }

    /// What client, server and kernel count as open at `mark`.
    #[must_use]
    pub fn counts_at(&self, mark: &Sample, server_open: u64) -> Counts {
        let base = self.baseline.as_ref().map_or(0, |m| m.kernel.established);
        let kernel_sockets = mark.kernel.established.saturating_sub(base);
        Counts {
            client: mark.client_report.as_ref().map_or(0, |r| r.open_now),
            server: server_open,
            // Both ends are here, so a connection counts twice; the verdict sees an odd socket by
            // the other figure.
            kernel: kernel_sockets / 2,
            kernel_sockets,
        }
    }

    /// Fills in everything measured: `counts` at the end of the hold, the last report and the
    /// process of both ends.
    pub fn build_record(
        &self,
        run: &mut Run,
        counts: &Counts,
        server: &End<ServerReport>,
        client: &End<ClientReport>,
    ) {
        run.header.seconds = round(self.started.elapsed().as_secs_f64(), 3);
        run.header.incidents.clone_from(&self.incidents);
        let (server_report, client_report) = (&server.report, &client.report);
        run.connections = connections(run.asked.users, counts, server_report, client_report);
        run.ramp = Ramp {
            seconds: round(client_report.ramp_seconds, 4),
            per_second: if client_report.ramp_seconds > 0.0 {
                round(client_report.opened as f64 / client_report.ramp_seconds, 1)
            } else {
                0.0
            },
        };
        run.hold = Hold {
            seconds: self.hold_seconds(),
        };
        run.messages = Messages {
            sent: server_report
                .is_final
                .then_some(server_report.messages_sent),
            received: client_report.messages_received,
            wrong: client_report.messages_wrong,
            missed: client_report.messages_missed,
            per_second: self.messages_per_second(),
            due_per_second: round(counts.client as f64 / run.asked.every_seconds, 1),
        };
        run.latency_us = Latencies {
            connect: client_report.connect_us,
            lateness: client_report.lateness_us,
        };
        run.memory = self.memory(counts);
        run.cpu = self.cpu(server.cpu, client.cpu);
        run.kernel = self.kernel();
        let entries = run.kernel.time_wait_max + run.connections.kernel_established_sockets;
        let warning = run.header.lab.long_chains(entries);
        run.header.lab.notes.extend(warning);
        run.processes = Processes {
            server: server.process.clone(),
            client: client.process.clone(),
        };
    }

    fn hold_seconds(&self) -> Option<f64> {
        let (start, end) = (self.hold_start.as_ref()?, self.hold_end.as_ref()?);
        Some(round(end.at.duration_since(start.at).as_secs_f64(), 3))
    }

    /// Received a second between the reports nearest to the hold's two ends, by the client's own
    /// clock.
    fn messages_per_second(&self) -> Option<f64> {
        let a = self.hold_start.as_ref()?.client_report.as_ref()?;
        let b = self.hold_end.as_ref()?.client_report.as_ref()?;
        let seconds = b.at_us.checked_sub(a.at_us).filter(|us| *us > 0)? as f64 / 1e6;
        Some(round(
            b.messages_received.saturating_sub(a.messages_received) as f64 / seconds,
            1,
        ))
    }

    fn memory(&self, counts: &Counts) -> Memory {
        let mut memory = Memory {
            available_bytes_min: Some(self.available_bytes_min),
            cgroup_left_bytes_min: self.under_load.cgroup_left_bytes_min,
            warmed_bytes: self.prefaulted.0,
            warmed_seconds: self.prefaulted.1,
            ..Memory::default()
        };
        let Some(base) = &self.baseline else {
            return memory;
        };
        memory.server_rss_base_bytes = base.server.map(|p| p.rss_bytes);
        memory.client_rss_base_bytes = self.client_base.map(|p| p.rss_bytes);
        memory.slab_base_bytes = Some(base.kernel.slab_bytes);
        let Some(end) = &self.hold_end else {
            return memory;
        };
        memory.server_rss_bytes = end.server.map(|p| p.rss_bytes);
        memory.client_rss_bytes = end.client.map(|p| p.rss_bytes);
        memory.slab_bytes = Some(end.kernel.slab_bytes);
        let per = |bytes: f64, n: u64| (n > 0).then(|| round(bytes / n as f64, 2));
        let growth = |now: Option<u64>, base: Option<u64>| Some(now? as f64 - base? as f64);
        memory.server_rss_bytes_per_connection = memory
            .server_rss_bytes
            .and_then(|b| per(b as f64, counts.server));
        memory.client_rss_bytes_per_connection = memory
            .client_rss_bytes
            .and_then(|b| per(b as f64, counts.client));
        memory.server_rss_growth_bytes_per_connection =
            growth(memory.server_rss_bytes, memory.server_rss_base_bytes)
                .and_then(|b| per(b, counts.server));
        memory.client_rss_growth_bytes_per_connection =
            growth(memory.client_rss_bytes, memory.client_rss_base_bytes)
                .and_then(|b| per(b, counts.client));
        memory.slab_bytes_per_pair =
            growth(memory.slab_bytes, memory.slab_base_bytes).and_then(|b| per(b, counts.kernel));
        memory.machine_bytes_per_pair = growth(
            Some(base.kernel.mem_available_bytes),
            Some(end.kernel.mem_available_bytes),
        )
        .and_then(|b| per(b, counts.kernel));
        memory
    }

    fn cpu(&self, server: Option<Duration>, client: Option<Duration>) -> Cpu {
        let seconds = |cpu: Option<Duration>| round(cpu.unwrap_or_default().as_secs_f64(), 3);
        let ramp_end = self.hold_start.as_ref().or(self.cut.as_ref());
        Cpu {
            server_seconds: seconds(server),
            client_seconds: seconds(client),
            machine_busy_percent: cpu_phase(self.ramp_start.as_ref(), self.hold_end.as_ref())
                .map(|p| p.machine_busy_percent),
            ramp: cpu_phase(self.ramp_start.as_ref(), ramp_end),
            hold: cpu_phase(self.hold_start.as_ref(), self.load_end()),
        }
    }

    fn kernel(&self) -> Kernel {
        let Some(base) = &self.baseline else {
            return Kernel::default();
        };
        let load_end = self.load_end().unwrap_or(&self.latest);
        let growth = |of: fn(&Saturation) -> u64| {
            of(&load_end.kernel.saturation).saturating_sub(of(&base.kernel.saturation))
        };
        let observed = &self.under_load;
        Kernel {
            counters: self.latest.kernel.counters_since(&base.kernel),
            load_counters: load_end.kernel.counters_since(&base.kernel),
            time_wait_max: self.time_wait_max,
            time_wait_load_max: observed.time_wait_max,
            tcp_mem_pages_max: observed.tcp_mem_pages_max,
            tcp_mem_pressure_seconds: observed.tcp_mem_pressure_seconds,
            packets_dropped: growth(|p| p.packets_dropped),
            oom_kills: growth(|p| p.oom_kills),
            conntrack_count_max: observed.conntrack_count_max,
            conntrack_max: load_end.kernel.saturation.conntrack_max,
            conntrack_drops: growth(|p| p.conntrack_drops),
            established_base: base.kernel.established,
        }
    }
}

/// One end of the connections when all is over: its last report, its process, its time on cores.
#[derive(Debug, Clone, Default)]
pub struct End<R> {
    /// The last report; zeros without one.
    pub report: R,
    /// How the process ended.
    pub process: ProcessRecord,
    /// Time on cores of its whole life.
    pub cpu: Option<Duration>,
}

impl End<ServerReport> {
    /// A server, as `report` has it.
    pub fn server<L: Report>(child: Option<&Child<L>>, report: Option<ServerReport>) -> Self {
        let report = report.unwrap_or_default();
        Self {
            process: process_record(
                child,
                report.thread_count,
                report.shard_count,
                &report.turns,
                &report.anomalies,
            ),
            cpu: child.map(Child::cpu),
            report,
        }
    }
}

impl End<ClientReport> {
    /// A client, or what started all of them, as `report` has them.
    pub fn client<L: Report>(child: Option<&Child<L>>, report: Option<ClientReport>) -> Self {
        let report = report.unwrap_or_default();
        Self {
            process: process_record(
                child,
                report.thread_count,
                report.shard_count,
                &report.turns,
                &report.anomalies,
            ),
            cpu: child.map(Child::cpu),
            report,
        }
    }
}

/// The first line of a child that was no report, in words.
#[must_use]
pub fn malformed_line<R: Report>(child: Option<&Child<R>>) -> Option<String> {
    let child = child?;
    let line = child.heard().not_understood.clone()?;
    Some(format!(
        "the {} printed a line that is no report: {line}",
        child.name
    ))
}

fn connections(
    asked: u64,
    counts: &Counts,
    server: &ServerReport,
    client: &ClientReport,
) -> Connections {
    let ended_otherwise: u64 = client
        .ended
        .iter()
        .filter(|(class, _)| *class != "held")
        .map(|(_, n)| n)
        .sum();
    Connections {
        asked,
        opened: client.opened,
        failed: nonzero(&client.failed),
        held_at_end: counts.client,
        // Without a final report nobody can say that any of them was held.
        lost: if client.is_final {
            ended_otherwise
        } else {
            client.opened
        },
        ended: nonzero(&client.ended),
        server_open: counts.server,
        kernel_established: counts.kernel,
        kernel_established_sockets: counts.kernel_sockets,
        server_accepted: server.accepted,
        server_refused_full: server.refused_full,
        server_accept_failed: nonzero(&server.accept_failed),
        server_closed: nonzero(&server.closed),
    }
}

fn process_record<R: Report>(
    child: Option<&Child<R>>,
    thread_count: usize,
    shard_count: usize,
    turns: &BTreeMap<String, u64>,
    anomalies: &BTreeMap<String, u64>,
) -> ProcessRecord {
    let Some(child) = child else {
        return ProcessRecord::default();
    };
    ProcessRecord {
        command: child.command.clone(),
        exit_code: child.exit().and_then(|status| status.code()),
        signal: child.exit().and_then(|status| status.signal()),
        has_final_report: child.heard().final_raw.is_some(),
        thread_count,
        shard_count,
        turns: nonzero(turns),
        anomalies: nonzero(anomalies),
    }
}

fn nonzero(map: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    map.iter()
        .filter(|(_, n)| **n > 0)
        .map(|(name, n)| (name.clone(), *n))
        .collect()
}

#[cfg(test)]
mod tests {
    use holdfast_telemetry::wire::ClientHead;

    use super::*;

    fn mark(established: u64, available: u64) -> Sample {
        let kernel = KernelSample {
            established,
            mem_available_bytes: available,
            ..KernelSample::default()
        };
        let report = ClientReport {
            head: ClientHead {
                open_now: 7,
                ..ClientHead::default()
            },
            ..ClientReport::default()
        };
        Sample {
            at: Instant::now(),
            kernel,
            server: None,
            client: None,
            server_threads: ThreadTimes::default(),
            client_threads: ThreadTimes::default(),
            cgroup_left_bytes: None,
            client_report: Some(report),
        }
    }

    #[test]
    fn kernel_count_starts_at_the_baseline_and_keeps_odd_sockets() {
        let mut observed = Observations::new(KernelSample::default());
        observed.baseline = Some(mark(4, 0));
        let counts = observed.counts_at(&mark(19, 0), 6);
        assert_eq!(
            (
                counts.client,
                counts.server,
                counts.kernel,
                counts.kernel_sockets
            ),
            (7, 6, 7, 15)
        );
    }

    #[test]
    fn extremes_are_kept_over_seconds() {
        let mut observed = Observations::new(KernelSample {
            mem_available_bytes: 100,
            ..KernelSample::default()
        });
        for available in [90, 20, 50] {
            observed.add(mark(0, available));
        }
        assert_eq!(
            (
                observed.available_bytes_min,
                observed.latest.kernel.mem_available_bytes
            ),
            (20, 50)
        );
    }

    #[test]
    fn without_a_final_report_all_that_opened_is_lost() {
        let counts = Counts::default();
        let mut client = ClientReport {
            head: ClientHead {
                opened: 10,
                ..ClientHead::default()
            },
            ..ClientReport::default()
        };
        client
            .ended
            .extend([("held".to_string(), 8), ("reset".to_string(), 2)]);
        let lost =
            |client: &ClientReport| connections(10, &counts, &ServerReport::default(), client).lost;
        assert_eq!(lost(&client), 10);
        client.is_final = true;
        assert_eq!(lost(&client), 2);
    }
}
