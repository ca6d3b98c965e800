//! Long connections, direct or through the system: opened, held, each with heartbeats.
//!
//! Invariants: counts of one moment are taken in the hold, while nothing opens or closes.
//! Must not depend on: verdicts.

use std::time::{Duration, Instant};

use super::haproxy::Statistics;
use super::limit::limit;
use super::plan::{Kind, PORT, TrialPlan};
use super::trial::{Ground, Programs, SPARE, begun, latest, line_count, occurred, rate_of, split};
use crate::run_control::Aborted;

use holdfast_report::network::Agreement;
use holdfast_report::proxy::record::Trial;
use holdfast_telemetry::proc::KernelSample;
use holdfast_telemetry::wire::{ClientReport, ServerReport};
use holdfast_testbed::child::{Child, plain_time};
use holdfast_testbed::network::layout::{BACKEND, BALANCER, client};

impl Ground<'_> {
    /// Heartbeats over connections that stay.
    pub(super) async fn longconn(&mut self, trial: &TrialPlan) -> Result<Trial, Aborted> {
        let (plan, users) = (self.plan, trial.users);
        let listen = self.network.host(BACKEND).at(PORT).to_string();
        let (interval, room) = (plain_time(plan.every), (users + 1_000).to_string());
        let common = "--progress json --die-with-parent";
        let args = format!(
            "longconn --listen {listen} --connections {room} --interval {interval} {common}"
        );
        let server: Child<ServerReport> = self.start_server(split(&args)).await?;
        let system = self.start_system(trial).await?;
        let target = system.as_ref().map_or(listen, |s| s.address.to_string());
        let mut result = begun(trial, system.as_ref());
        let slab_base = KernelSample::read().slab_bytes;
        let log = self.dir.join("histograms.hlog").display().to_string();
        let program = plan.programs.1.clone();
        let mut args = split(&format!(
            "longconn --target {target} --users {users} --spawn-rate {} --interval {interval} --drain-timeout 5s {common}",
            plan.rate
        ));
        args.extend(["--histogram-log".into(), log]);
        let client: Child<ClientReport> = self.start("client", &client(1), &program, args)?;
        let mut all = Programs {
            server,
            client,
            system,
        };
        let start = all.moment();
        let ramp_max = Duration::from_secs_f64(users as f64 / plan.rate as f64) + SPARE;
        self.until(&mut all, ramp_max, "opening the connections", |all| {
            latest(&all.client).ramp_done
        })
        .await?;
        let ramped = all.moment();
        let at_start = latest(&all.client);
        let until = Instant::now() + plan.hold;
        self.until(&mut all, plan.hold + SPARE, "the hold", |_| {
            Instant::now() >= until
        })
        .await?;
        // A line under way when the hold ended may be older than it: the second one is not.
        let lines = |all: &Programs<_, _>| [line_count(&all.server), line_count(&all.client)];
        let before = lines(&all);
        self.until(&mut all, SPARE, "reports", |all| {
            lines(all)
                .iter()
                .zip(before)
                .all(|(now, before)| *now >= before + 2)
        })
        .await?;
        let held = all.moment();
        let (in_hold, open) = (latest(&all.client), latest(&all.server).open_now);
        let statistics = all.statistics()?;
        result.proxy_rss_bytes = all.system_rss_bytes();
        result.slab_growth_bytes = i64::try_from(held.kernel.slab_bytes)
            .ok()
            .zip(i64::try_from(slab_base).ok())
            .map(|(now, base)| now - base);
        result.ramp = Some(start.until(&ramped, in_hold.opened));
        let received = in_hold.messages_received - at_start.messages_received;
        result.window = Some(ramped.until(&held, received));
        result.per_second = rate_of(received, at_start.at_us, in_hold.at_us);
        result.agreements = vec![self.open_now(trial, open, in_hold.open_now, statistics.as_ref())];
        if trial.kind == Kind::Limit {
            let busy = result.ramp.map_or(0.0, |w| w.machine_busy_percent);
            let said = all.out_of_descriptors();
            result.limit = limit(open, users, statistics.as_ref(), said.as_deref(), busy);
        }
        let (client, after, server) = self.end_all(all).await?;
        if trial.kind == Kind::Longconn {
            result
                .agreements
                .extend(in_all(&client, &server, after.as_ref()));
        }
        result.opened = client.opened;
        result.failed = occurred(&client.failed);
        result.outcomes = occurred(&client.ended);
        result.connect_us = client.connect_us;
        result.latency_us = client.lateness_us;
        Ok(result)
    }

    /// Who counts how many connections as open, at the end of the hold. The client is left out
    /// where it has more than the system takes: the kernel opens those, and the system never learns
    /// of them.
    fn open_now(
        &self,
        trial: &TrialPlan,
        server: u64,
        client_open: u64,
        statistics: Option<&Statistics>,
    ) -> Agreement {
        let established = |host: &str| self.network.host(host).kernel().established;
        let mut open = Agreement::exact(
            "connections open at the end of the hold",
            [("server", server), ("kernel_backend", established(BACKEND))],
        );
        if trial.kind == Kind::Longconn {
            open.add("client", client_open);
            open.add("kernel_client", established(&client(1)));
            if trial.is_proxied {
                open.add("kernel_balancer_half", established(BALANCER) / 2);
            }
        }
        if let Some(s) = statistics {
            open.add("haproxy_front", s.front.open);
            open.add("haproxy_back", s.back.open);
        }
        open
    }
}

/// What all did over the whole of a trial in which nothing stopped.
fn in_all(
    client: &ClientReport,
    server: &ServerReport,
    statistics: Option<&Statistics>,
) -> Vec<Agreement> {
    let mut opened = Agreement::exact(
        "connections opened in all",
        [("client", client.opened), ("server", server.accepted)],
    );
    let messages = Agreement::exact(
        "messages in all",
        [
            ("client", client.messages_received),
            ("server", server.messages_sent),
        ],
    );
    let mut all = vec![];
    if let Some(s) = statistics {
        opened.add("haproxy_front", s.front.sessions);
        opened.add("haproxy_back", s.back.sessions);
        all.push(Agreement::exact(
            "bytes to clients",
            [
                ("client", client.bytes_received),
                ("haproxy_front", s.front.bytes_out),
                ("haproxy_back", s.back.bytes_out),
            ],
        ));
    }
    all.extend([opened, messages]);
    all
}
