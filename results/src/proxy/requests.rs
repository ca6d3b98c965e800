//! Requests over connections that stay, direct or through the system: as many as go, or of users
//! who wait.
//!
//! Invariants: rates and time on cores are of one window, between two reports of the client.
//! Must not depend on: verdicts.

use std::time::Duration;

use super::limit::limit;
use super::plan::{Kind, PORT, TrialPlan};
use super::trial::{Ground, Programs, SPARE, begun, occurred, rate_of, split};
use crate::competitors::Mode;
use crate::http::generator::{self, GeneratorLine, Wanted};
use crate::http::plan::{USERS_PER_SECOND, USERS_SETTLE, ramp};
use crate::http::subject::ServerLine;
use crate::run_control::Aborted;

use holdfast_report::network::Agreement;
use holdfast_report::proxy::record::Trial;
use holdfast_telemetry::units::round;
use holdfast_telemetry::wire::HttpClientReport;
use holdfast_testbed::child::Child;
use holdfast_testbed::network::layout::{BACKEND, client};

/// Users of a server that answers at once ask again after 0.55 s on average.
const WAIT_MEAN_SECONDS: f64 = 0.55;

impl Ground<'_> {
    /// Requests over connections that stay.
    pub(super) async fn http(&mut self, trial: &TrialPlan) -> Result<Trial, Aborted> {
        let (plan, users) = (self.plan, trial.users);
        let is_waiting = trial.kind == Kind::Waiting;
        let listen = self.network.host(BACKEND).at(PORT);
        let room = (users + 1_000).to_string();
        let server: Child<ServerLine> = self
            .start_server(split(&format!(
                "http --listen {listen} --connections {room} --progress json --die-with-parent"
            )))
            .await?;
        self.control.progress.watch(&server, ServerLine::snapshot);
        let system = self.start_system(trial).await?;
        let mut result = Trial {
            offered_per_second: is_waiting.then(|| round(users as f64 / WAIT_MEAN_SECONDS, 1)),
            ..begun(trial, system.as_ref())
        };
        let warm_up = if is_waiting {
            ramp(users)
        } else {
            Duration::ZERO
        } + USERS_SETTLE;
        let wanted = Wanted {
            address: system.as_ref().map_or(listen, |s| s.address),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            connections: users,
            per_second: is_waiting.then_some(USERS_PER_SECOND),
            wait: if is_waiting { "100ms..1s" } else { "0" },
            rate: None,
            warm_up,
            pipeline: 1,
            is_keep_alive: true,
        };
        let program = plan.programs.1.clone();
        let args = generator::client_args(&wanted);
        let client: Child<GeneratorLine> = self.start("client", &client(1), &program, args)?;
        self.control
            .progress
            .watch(&client, GeneratorLine::snapshot);
        let mut all = Programs {
            server,
            client,
            system,
        };
        self.until(&mut all, warm_up + SPARE, "the warm-up", |all| {
            let report = latest_http(&all.client);
            report.ramp_done && Duration::from_micros(report.at_us) >= warm_up
        })
        .await?;
        let start = all.moment();
        let first = latest_http(&all.client);
        let until = first.at_us + u64::try_from(plan.slice.as_micros()).unwrap_or(u64::MAX);
        self.until(&mut all, plan.slice + SPARE, "the measurement", |all| {
            latest_http(&all.client).at_us >= until
        })
        .await?;
        let last = latest_http(&all.client);
        let end = all.moment();
        let statistics = all.statistics()?;
        let said = all.out_of_descriptors();
        let held = match &statistics {
            Some(s) => Some(s.front.open),
            // Whoever passes connections on has as many behind it as before it.
            None => said
                .as_ref()
                .map(|_| self.network.host(BACKEND).kernel().established),
        };
        result.proxy_rss_bytes = all.system_rss_bytes();
        let answered = ok(&last) - ok(&first);
        let window = start.until(&end, answered);
        result.window = Some(window);
        result.per_second = rate_of(answered, first.at_us, last.at_us);
        let (GeneratorLine::Client(client), after, ServerLine::Report(server)) =
            self.end_all(all).await?
        else {
            return Err(Aborted::failed(
                "without_result",
                "client or server left no report",
            ));
        };
        // Through haproxy, what was under way when the client was stopped is answered and counted
        // by some.
        let under_way: u64 = client.outcomes.values().sum::<u64>() - ok(&client);
        let mut answered = Agreement::exact(
            "requests answered with 200",
            [
                ("client", ok(&client)),
                ("server", server.responses.get("200").copied().unwrap_or(0)),
            ],
        );
        // In TCP mode haproxy knows of no requests.
        if let Some(s) = after.filter(|_| trial.mode == Some(Mode::Http)) {
            answered.add("haproxy_front", s.front.ok);
            answered.add("haproxy_back", s.back.ok);
        }
        answered.slack = under_way;
        result.agreements = vec![answered];
        if is_waiting && let Some(open) = held {
            let busy = window.machine_busy_percent;
            result.limit = limit(open, users, statistics.as_ref(), said.as_deref(), busy);
        }
        result.opened = client.opened;
        result.failed = occurred(&client.failed);
        result.outcomes = occurred(&client.outcomes);
        result.connect_us = client.connect_us;
        result.latency_us = client.latency_us;
        Ok(result)
    }
}

fn latest_http(client: &Child<GeneratorLine>) -> HttpClientReport {
    match &client.heard().latest {
        Some(GeneratorLine::Client(report)) => (**report).clone(),
        _ => HttpClientReport::default(),
    }
}

fn ok(report: &HttpClientReport) -> u64 {
    report.outcomes.get("ok").copied().unwrap_or(0)
}
