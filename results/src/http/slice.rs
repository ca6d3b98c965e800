//! One slice: a server is started, loaded, measured and ended.
//!
//! Purpose: `server -> ready -> idle connections -> warm-up -> load -> end`, and what was used of
//! cores and memory meanwhile.
//! Invariants: the window of CPU and that of requests are the same. In saturation it is the whole
//! life of the generator, for wrk says only what it did in all; users are measured between two
//! reports of our client, when all of them have started. Nothing a slice started outlives it.
//! Must not depend on: rounds, medians, verdicts.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::address::address;
use super::generator::{Outcome, Wanted};
use super::moment::Moment;
use super::plan::{IDLE_SETTLE, Plan, USERS_PER_SECOND, USERS_SETTLE, WARM_UP, ramp};
use super::processes::{Client, LOAD_POLL, Outcomes, Performance, Server, still_run};
use super::scenario::{Generator, Kind};
use crate::run_control::{Aborted, RunControl};

use holdfast_report::folder::RunFolder;
use holdfast_report::http::record::{CountsOfBoth, Measured};
use holdfast_telemetry::proc::tree;
use holdfast_telemetry::wire::{HttpClientReport, HttpServerReport};

/// Opening idle connections, or starting users, beyond the time it should take.
const RAMP_MAX: Duration = Duration::from_secs(60);
/// What idle connections wait before they would ask again: longer than any slice.
const NEVER: &str = "10m..10m";
/// Memory is read this long after the last connection opened.
const MEMORY_SETTLE: Duration = Duration::from_millis(500);
/// Our client reports every second, give or take this.
const REPORT_JITTER: Duration = Duration::from_millis(100);

/// Performs slice `number` of `plan`.
///
/// # Errors
/// When it gave no figures, and why.
pub async fn measure(
    control: &mut RunControl,
    plan: &Plan,
    folder: &RunFolder,
    number: usize,
) -> Result<Measured, Aborted> {
    let slice = plan.slices[number];
    let dir = folder.file(&format!("work/{number:05}"));
    std::fs::create_dir_all(&dir)
        .map_err(|e| Aborted::failed("not_started", format!("{}: {e}", dir.display())))?;
    let mut performance = Performance {
        control,
        plan,
        halves: plan.halves_of(&slice),
        slice,
        number,
        dir: dir.clone(),
        outcomes: Outcomes::default(),
    };
    let measured = performance.perform().await;
    if matches!(measured, Err(Aborted::Failed { .. })) {
        tidy(&dir);
    } else {
        let _ = std::fs::remove_dir_all(&dir);
    }
    measured
}

/// Leaves of a failed slice's files those with something in them: configurations, and what was said
/// on standard error.
fn tidy(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.metadata().is_ok_and(|meta| meta.len() == 0) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

impl Performance<'_> {
    async fn perform(&mut self) -> Result<Measured, Aborted> {
        let (mut server, start) = self.start_server()?;
        self.until_ready(&mut server, start.ready).await?;
        let mut measured = match self.slice.scenario.kind {
            Kind::Saturation => self.saturation(&mut server).await?,
            Kind::Users => self.users(&mut server).await?,
            Kind::IdleMemory => self.idle_memory(&mut server).await?,
        };
        let last = self.end_server(server, &start).await?;
        measured.round = self.slice.round;
        measured.server_core_count = self.halves.server.len();
        measured.client_core_count = self.halves.client.len();
        measured.is_shared = self.halves.is_shared();
        measured.failures = std::mem::take(&mut self.outcomes.failures);
        if let Some(report) = last {
            server_failures(&report, &mut measured.failures);
            if self.slice.generator == Generator::Holdfast {
                measured.counts = Some(CountsOfBoth {
                    client_ok: self.outcomes.ok,
                    client_stopped: self.outcomes.stopped,
                    server_ok: report.responses.get("200").copied().unwrap_or(0),
                });
            }
        }
        Ok(measured)
    }

    /// As much as goes, for the time of a slice.
    async fn saturation(&mut self, server: &mut Server) -> Result<Measured, Aborted> {
        let scenario = self.slice.scenario;
        let mut measured = Measured::default();
        let mut holder = None;
        if scenario.idle > 0 {
            measured.rss_base_bytes = Some(tree::rss_bytes(server.pid()));
            holder = Some(self.hold_idle(server, scenario.idle).await?);
        }
        let (warm_up, _) = self.load_for(server, WARM_UP).await?;
        self.outcomes.add(&warm_up);
        if scenario.idle > 0 {
            measured.rss_bytes = Some(tree::rss_bytes(server.pid()));
            measured.idle_connections = scenario.idle;
        }
        let before = Moment::now(server.pid());
        let (outcome, client_cpu) = self.load_for(server, self.plan.flags.slice).await?;
        before.until_now(server.pid(), &self.halves, &mut measured);
        measured.client_cpu_seconds = client_cpu;
        measured.requests = outcome.ok;
        measured.requests_per_second = outcome.per_second;
        measured.latency_us = outcome.latency;
        measured.latency_raw_us = outcome.latency_raw;
        self.outcomes.add(&outcome);
        if let Some(holder) = holder {
            let (held, _) = self.end_client(holder, Generator::Holdfast).await?;
            self.outcomes.add(&held);
        }
        Ok(measured)
    }

    /// Users who wait: from when all have started, for the time of a slice.
    async fn users(&mut self, server: &mut Server) -> Result<Measured, Aborted> {
        let users = self.slice.scenario.connections;
        let warm_up = ramp(users) + USERS_SETTLE;
        let mut client = self.start_client(&Wanted {
            connections: users,
            per_second: Some(USERS_PER_SECOND),
            wait: "100ms..1s",
            warm_up,
            ..self.wanted()
        })?;
        let is_settled =
            |r: &HttpClientReport| r.ramp_done && Duration::from_micros(r.at_us) >= warm_up;
        let first = self
            .until_report(server, &mut client, warm_up + RAMP_MAX, is_settled)
            .await?;
        let before = Moment::now(server.pid());
        let client_before = tree::cpu_seconds(client.pid());
        let time = self.plan.flags.slice;
        let until = first.at_us + micros(time.saturating_sub(REPORT_JITTER));
        let last = self
            .until_report(server, &mut client, time + RAMP_MAX, |r| {
                r.at_us >= until && r.at_us > first.at_us
            })
            .await?;
        let mut measured = Measured::default();
        before.until_now(server.pid(), &self.halves, &mut measured);
        measured.client_cpu_seconds = tree::cpu_seconds(client.pid()) - client_before;
        let ok = |r: &HttpClientReport| r.outcomes.get("ok").copied().unwrap_or(0);
        measured.requests = ok(&last).saturating_sub(ok(&first));
        measured.requests_per_second =
            Some(measured.requests as f64 / ((last.at_us - first.at_us) as f64 / 1e6));
        let (outcome, _) = self.end_client(client, Generator::Holdfast).await?;
        measured.latency_us = outcome.latency;
        measured.latency_raw_us = outcome.latency_raw;
        self.outcomes.add(&outcome);
        Ok(measured)
    }

    /// Connections that ask once and stay.
    async fn idle_memory(&mut self, server: &mut Server) -> Result<Measured, Aborted> {
        let connections = self.slice.scenario.connections_of(self.slice.subject);
        let rss_base_bytes = Some(tree::rss_bytes(server.pid()));
        let holder = self.hold_idle(server, connections).await?;
        self.control
            .wait::<()>(IDLE_SETTLE, LOAD_POLL, || Ok(None))
            .await?;
        let rss_bytes = Some(tree::rss_bytes(server.pid()));
        let (outcome, _) = self.end_client(holder, Generator::Holdfast).await?;
        self.outcomes.add(&outcome);
        Ok(Measured {
            rss_base_bytes,
            rss_bytes,
            idle_connections: connections,
            ..Measured::default()
        })
    }

    /// Opens connections that ask once and then stay, with our client, whoever makes the load.
    async fn hold_idle(
        &mut self,
        server: &mut Server,
        connections: u64,
    ) -> Result<Client, Aborted> {
        let wanted = Wanted {
            connections,
            wait: NEVER,
            pipeline: 1,
            is_keep_alive: true,
            ..self.wanted()
        };
        let mut holder = self.start_generator(Generator::Holdfast, &wanted, "idle.stderr.log")?;
        self.until_report(server, &mut holder, RAMP_MAX, |r| {
            r.ramp_done && r.pending_now == 0 && r.requests >= connections
        })
        .await?;
        self.control
            .wait::<()>(MEMORY_SETTLE, LOAD_POLL, || Ok(None))
            .await?;
        Ok(holder)
    }

    /// Starts this slice's generator, lets it run for `time`, ends it.
    async fn load_for(
        &mut self,
        server: &mut Server,
        time: Duration,
    ) -> Result<(Outcome, f64), Aborted> {
        let mut client = self.start_client(&self.wanted())?;
        self.control
            .wait::<()>(time, LOAD_POLL, || {
                still_run(server, &mut client).map(|()| None)
            })
            .await?;
        self.end_client(client, self.slice.generator).await
    }

    fn wanted(&self) -> Wanted {
        let scenario = self.slice.scenario;
        Wanted {
            address: address(self.number, self.plan.port),
            threads: self.halves.client.len(),
            connections: scenario.connections,
            per_second: None,
            wait: "0",
            rate: None,
            warm_up: Duration::ZERO,
            pipeline: scenario.pipeline,
            is_keep_alive: scenario.is_keep_alive,
        }
    }
}

/// What our server counts and what nobody asked for.
fn server_failures(report: &HttpServerReport, failures: &mut BTreeMap<String, u64>) {
    let statuses = report
        .responses
        .iter()
        .filter(|(status, _)| *status != "200")
        .map(|(status, n)| (format!("server_status_{status}"), *n));
    let times = report
        .timed_out
        .iter()
        .map(|(what, n)| (format!("server_timed_out_{what}"), *n));
    let accepts = report
        .accept_failed
        .iter()
        .map(|(kind, n)| (format!("server_accept_{kind}"), *n));
    let refused = [("server_refused_full".to_string(), report.refused_full)];
    for (kind, n) in statuses.chain(times).chain(accepts).chain(refused) {
        if n > 0 {
            *failures.entry(kind).or_default() += n;
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_our_server_refused_is_a_failure() {
        let mut report = HttpServerReport::default();
        report.responses.insert("200".into(), 1_000);
        report.responses.insert("400".into(), 2);
        report.timed_out.insert("idle".into(), 0);
        report.timed_out.insert("header".into(), 1);
        report.refused_full = 3;
        let mut failures = BTreeMap::new();
        server_failures(&report, &mut failures);
        assert_eq!(
            failures,
            BTreeMap::from([
                ("server_refused_full".into(), 3),
                ("server_status_400".into(), 2),
                ("server_timed_out_header".into(), 1),
            ])
        );
    }
}
