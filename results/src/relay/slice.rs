//! One measurement: a backend, a relay before it, a load, and what was used meanwhile.
//!
//! Purpose: `backend -> relay -> load -> window -> end` for every kind of scenario.
//! Invariants: the relay has a core for itself; backend and load share the other one, so that what
//! they cost is nobody's figure. Every wait is bounded and looks whether somebody has died
//! meanwhile. Nothing a measurement started outlives it.
//! Must not depend on: rounds, medians, targets.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::bulk::{BulkReport, Direction};
use super::plan::{
    BACKEND_COUNT, INTERVAL, Kind, PAIRS_PER_BACKEND, Plan, RELOAD_COUNT, RELOAD_PAUSE, SlicePlan,
    Subject, WARM_UP,
};
use super::subject::{self, CONFIG, Wanted as WantedRelay, write_config};
use crate::http::address::{address, connects};
use crate::http::cores;
use crate::http::generator::{self, GeneratorLine, Outcome, Wanted};
use crate::http::scenario::Generator;
use crate::http::subject::ServerLine;
use crate::proxy::limit::limit;
use crate::proxy::{haproxy, nginx};
use crate::run_control::{Aborted, RunControl, has_not_ended, last_words};

use holdfast_report::relay::record::Measured;
use holdfast_telemetry::live::Snapshot;
use holdfast_telemetry::proc::{KernelSample, tree};
use holdfast_telemetry::report_line::{AnyLine, Report};
use holdfast_telemetry::wire::{ClientReport, ServerReport};
use holdfast_testbed::child::{Child, plain_time, words};

/// A program that does not listen by then will not.
const START_MAX: Duration = Duration::from_secs(10);
/// What has to happen beyond the time it should take.
const SPARE: Duration = Duration::from_secs(60);
/// How often a load is looked at: rarely, for this program runs on the cores it measures.
const LOAD_POLL: Duration = Duration::from_millis(250);
/// Killed processes give millions of sockets back for this long at most.
const CLOSE_MAX: Duration = Duration::from_secs(120);
/// Kernel memory that changes by less than this in [`LOAD_POLL`] has settled.
const QUIET_BYTES: u64 = 256 << 10;

/// One measurement on its way.
pub struct Slice<'a> {
    /// Signals, waits.
    pub control: &'a mut RunControl,
    /// What was asked for.
    pub plan: &'a Plan,
    /// What is measured.
    pub slice: &'a SlicePlan,
    /// Which measurement of the run it is: it has addresses of its own.
    pub number: usize,
    /// A folder for its files.
    pub dir: PathBuf,
    /// Requests a second of `half-load`.
    pub rate: u64,
    /// The relay's command line, once it was started.
    pub command: Option<String>,
}

/// A relay that is ready; `None` inside: clients connect to the backend.
struct Relay {
    process: Option<Child<AnyLine>>,
    socket: Option<PathBuf>,
    log: PathBuf,
    target: SocketAddr,
}

impl Relay {
    fn still_runs(&mut self) -> Result<(), Aborted> {
        self.process
            .as_mut()
            .map_or(Ok(()), |process| has_not_ended(process, "relay_died"))
    }

    fn cpu_seconds(&self) -> f64 {
        let process = self.process.as_ref();
        process.map_or(0.0, |p| tree::cpu_seconds(p.pid()))
    }

    fn rss_bytes(&self) -> Option<u64> {
        self.process.as_ref().map(|p| tree::rss_bytes(p.pid()))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

impl Slice<'_> {
    /// Makes the measurement.
    ///
    /// # Errors
    /// Why it gave no figures.
    pub async fn measure(&mut self) -> Result<Measured, Aborted> {
        let mut measured = match self.slice.kind {
            Kind::Requests | Kind::Connections | Kind::HalfLoad => self.requests().await,
            Kind::Messages | Kind::Limit | Kind::Pairs => self.long_connections().await,
            Kind::Bulk(direction) => self.bulk(direction).await,
            Kind::Storm => self.storm().await,
            Kind::Reloads => self.reloads().await,
        }?;
        measured.round = self.slice.round;
        Ok(measured)
    }

    /// The relay listens here. Each measurement has addresses of its own, so that what earlier ones
    /// left in TIME_WAIT is in nobody's way.
    fn address(&self) -> SocketAddr {
        address(2 * self.number, self.plan.port)
    }

    /// The backend listens here.
    fn backend(&self) -> SocketAddr {
        address(2 * self.number + 1, self.plan.port + 1)
    }

    // ---- programs ----

    fn start<R: Report>(
        &self,
        name: &'static str,
        is_relay: bool,
        program: &Path,
        args: &[String],
    ) -> Result<Child<R>, Aborted> {
        let fail = |why: String| Aborted::failed("not_started", format!("the {name}: {why}"));
        let halves = &self.plan.cores;
        let cores = if is_relay {
            &halves.server
        } else {
            &halves.client
        };
        let log = self.dir.join(format!("{name}.stderr.log"));
        let notify = self.control.notify.clone();
        cores::on(cores, || Child::start(name, program, args, log, notify))
            .map_err(fail)?
            .map_err(|e| fail(format!("{}: {e}", program.display())))
    }

    async fn until_line<R: Report>(&mut self, child: &mut Child<R>) -> Result<(), Aborted> {
        let found = self
            .control
            .wait(START_MAX, Duration::from_millis(10), || {
                has_not_ended(child, "not_started")?;
                Ok((child.heard().line_count > 0).then_some(()))
            })
            .await?;
        found.ok_or_else(|| {
            let words = last_words(child);
            let why = format!("the {} did not listen within 10 s{words}", child.name);
            Aborted::failed("not_started", why)
        })
    }

    /// Starts the relay before `backends` and waits until it listens.
    async fn start_relay(&mut self, backends: &[SocketAddr]) -> Result<Relay, Aborted> {
        let fail = |why: String| Aborted::failed("relay_did_not_start", why);
        let address = self.address();
        // Not in the run's folder: such a path may be too long for a socket.
        let name = format!("holdfast-relay-{}-{}.sock", std::process::id(), self.number);
        let socket = std::env::temp_dir().join(name);
        // In a storm those who leave are still there when the others come.
        let generations = if self.slice.kind == Kind::Storm { 2 } else { 1 };
        let wanted = WantedRelay {
            address,
            backends,
            connections: generations * self.slice.connections + 1_000,
            socket: &socket,
            dir: &self.dir,
        };
        let subject = self.slice.subject;
        let log = self.dir.join("relay.stderr.log");
        let Some(start) = subject::start(subject, self.plan, &wanted).map_err(fail)? else {
            return Ok(Relay {
                process: None,
                socket: None,
                log,
                target: backends[0],
            });
        };
        let mut child: Child<AnyLine> = self.start("relay", true, &start.program, &start.args)?;
        self.command = Some(child.command.clone());
        self.control
            .progress
            .watch(&child, |_| -> Option<Snapshot> { None });
        if start.prints_line {
            self.until_line(&mut child).await?;
        } else {
            let ready = self
                .control
                .wait(START_MAX, Duration::from_millis(10), || {
                    has_not_ended(&mut child, "relay_did_not_start")?;
                    Ok(connects(address).then_some(()))
                })
                .await?;
            ready.ok_or_else(|| {
                fail(format!(
                    "it did not listen within 10 s{}",
                    last_words(&child)
                ))
            })?;
        }
        Ok(Relay {
            process: Some(child),
            socket: matches!(subject, Subject::Haproxy | Subject::HaproxySplice).then_some(socket),
            log,
            target: address,
        })
    }

    /// Ends a program of ours by a signal; what it said last.
    async fn end<R: Report + Clone>(
        &mut self,
        mut child: Child<R>,
        signal: Signal,
    ) -> Result<Option<R>, Aborted> {
        child.signal(signal);
        self.control.until_ended(&mut child, "did_not_end").await?;
        child.tidy();
        let last = child.heard().latest.clone();
        Ok(last)
    }

    /// Ends the relay. One that ends by itself, or badly, has failed.
    async fn end_relay(
        &mut self,
        mut relay: Relay,
        measured: &mut Measured,
    ) -> Result<(), Aborted> {
        relay.still_runs()?;
        let Some(mut process) = relay.process.take() else {
            return Ok(());
        };
        let is_ours = self.slice.subject == Subject::Holdfast;
        process.signal(if is_ours {
            Signal::SIGTERM
        } else {
            Signal::SIGKILL
        });
        self.control
            .until_ended(&mut process, "relay_did_not_end")
            .await?;
        process.tidy();
        if is_ours && !process.exit().is_some_and(|status| status.success()) {
            measured.fail("relay_ended_badly", 1);
        }
        Ok(())
    }

    /// Kills all of these and waits until the kernel has taken everything back.
    async fn kill<S: Report, C: Report>(
        &mut self,
        server: Child<S>,
        relay: Relay,
        client: Child<C>,
    ) -> Result<(), Aborted> {
        let (mut server, mut relay, mut client) = (server, relay, client);
        client.signal(Signal::SIGKILL);
        if let Some(process) = &relay.process {
            process.signal(Signal::SIGKILL);
        }
        server.signal(Signal::SIGKILL);
        self.control
            .wait(CLOSE_MAX, LOAD_POLL, || {
                client.reap();
                server.reap();
                let is_relay_done = relay.process.as_mut().is_none_or(|p| {
                    p.reap();
                    p.exit().is_some()
                });
                let is_done = client.exit().is_some() && server.exit().is_some() && is_relay_done;
                Ok(is_done.then_some(()))
            })
            .await?;
        client.tidy();
        server.tidy();
        Ok(())
    }

    /// Waits until the kernel has freed what earlier measurements left: a baseline taken before
    /// would make this one look small.
    async fn until_quiet(&mut self) -> Result<(), Aborted> {
        let mut before = KernelSample::read().slab_bytes;
        let mut quiet_count = 0;
        self.control
            .wait(START_MAX, LOAD_POLL, || {
                let now = KernelSample::read().slab_bytes;
                let is_quiet = before.saturating_sub(now) < QUIET_BYTES;
                quiet_count = if is_quiet { quiet_count + 1 } else { 0 };
                before = now;
                Ok((quiet_count > 2).then_some(()))
            })
            .await
            .map(drop)
    }

    // ---- requests ----

    async fn start_responder(&mut self) -> Result<Child<ServerLine>, Aborted> {
        let room = (self.slice.connections + 1_000).to_string();
        let backend = self.backend().to_string();
        let args = words(&[
            "http",
            "--listen",
            &backend,
            "--connections",
            &room,
            "--threads",
            "1",
            "--progress",
            "json",
            "--die-with-parent",
        ]);
        let program = self.plan.ours.0.clone();
        let mut server: Child<ServerLine> = self.start("backend", false, &program, &args)?;
        self.control.progress.watch(&server, ServerLine::snapshot);
        self.until_line(&mut server).await?;
        Ok(server)
    }

    /// Runs a generator for `time`; what it came to and its time on a core.
    async fn load_for(
        &mut self,
        server: &mut Child<ServerLine>,
        relay: &mut Relay,
        time: Duration,
    ) -> Result<(Outcome, f64), Aborted> {
        let kind = self.slice.kind;
        let rate = (kind == Kind::HalfLoad).then_some(self.rate);
        let by = match kind {
            Kind::HalfLoad => Generator::Holdfast,
            _ => self.plan.flags.generator,
        };
        let wanted = Wanted {
            address: relay.target,
            threads: 1,
            connections: self.slice.connections,
            per_second: None,
            wait: "0",
            rate,
            warm_up: Duration::ZERO,
            pipeline: 1,
            is_keep_alive: kind != Kind::Connections,
        };
        let (program, args) = generator::start(by, &self.plan.programs, &wanted, &self.dir)
            .map_err(|why| Aborted::failed("not_started", why))?;
        let mut client: Child<GeneratorLine> = self.start("client", false, &program, &args)?;
        self.control
            .progress
            .watch(&client, GeneratorLine::snapshot);
        self.control
            .wait::<()>(time, LOAD_POLL, || {
                has_not_ended(server, "backend_died")?;
                has_not_ended(&mut client, "client_died")?;
                relay.still_runs().map(|()| None)
            })
            .await?;
        client.signal(generator::stop_signal(by));
        self.control.until_ended(&mut client, "did_not_end").await?;
        client.tidy();
        let outcome = generator::outcome(client.heard().latest.as_ref());
        let outcome = outcome.map_err(|why| {
            let words = format!("{why}; it {}{}", client.end_in_words(), last_words(&client));
            Aborted::failed("client_without_result", words)
        })?;
        Ok((outcome, client.cpu().as_secs_f64()))
    }

    /// Requests: as many as go on connections that stay or are made for each, or at a fixed rate.
    async fn requests(&mut self) -> Result<Measured, Aborted> {
        let mut server = self.start_responder().await?;
        let mut relay = self.start_relay(&[self.backend()]).await?;
        let (warm_up, _) = self.load_for(&mut server, &mut relay, WARM_UP).await?;
        let time = match self.slice.kind {
            Kind::HalfLoad => 2 * self.plan.slice,
            _ => self.plan.slice,
        };
        let before = (
            Instant::now(),
            relay.cpu_seconds(),
            tree::cpu_seconds(server.pid()),
        );
        let (outcome, client_cpu) = self.load_for(&mut server, &mut relay, time).await?;
        let seconds = before.0.elapsed().as_secs_f64();
        let relay_cpu = relay.cpu_seconds() - before.1;
        let load_cpu = client_cpu + tree::cpu_seconds(server.pid()) - before.2;
        let mut measured = Measured::default();
        let each = |cpu: f64| (outcome.ok > 0).then(|| cpu * 1e6 / outcome.ok as f64);
        measured.add("per_second", outcome.per_second);
        measured.add("load_cpu_us", each(load_cpu));
        if relay.process.is_some() {
            measured.add("cpu_us", each(relay_cpu));
            measured.add("relay_busy_percent", Some(100.0 * relay_cpu / seconds));
        }
        // As many requests as go wait for each other: their latency is that of the load.
        let is_fixed_rate = self.slice.kind == Kind::HalfLoad;
        if let Some(latency) = outcome.latency.filter(|_| is_fixed_rate) {
            measured.add("p50_us", Some(latency.p50 as f64));
            measured.add("p99_us", Some(latency.p99 as f64));
        }
        self.end_relay(relay, &mut measured).await?;
        let last = self.end(server, Signal::SIGTERM).await?;
        for (kind, n) in [&warm_up, &outcome].into_iter().flat_map(|o| &o.failures) {
            measured.fail(kind, *n);
        }
        if let Some(ServerLine::Report(report)) = last
            && (self.plan.flags.generator == Generator::Holdfast
                || self.slice.kind == Kind::HalfLoad)
        {
            let answered = report.responses.get("200").copied().unwrap_or(0);
            let asked = warm_up.ok + outcome.ok;
            let most = asked + warm_up.stopped + outcome.stopped;
            measured.fail("answers_missing", asked.saturating_sub(answered));
            measured.fail("answers_too_many", answered.saturating_sub(most));
        }
        Ok(measured)
    }

    // ---- long connections ----

    async fn start_holder(
        &mut self,
        listen: &str,
        connections: u64,
        interval: Duration,
    ) -> Result<Child<ServerReport>, Aborted> {
        let args = words(&[
            "longconn",
            "--listen",
            listen,
            "--connections",
            &(connections + 1_000).to_string(),
            "--interval",
            &plain_time(interval),
            "--threads",
            "1",
            "--progress",
            "json",
            "--force",
            "--die-with-parent",
        ]);
        let program = self.plan.ours.0.clone();
        let mut server: Child<ServerReport> = self.start("backend", false, &program, &args)?;
        self.control
            .progress
            .watch(&server, |r| Some(Snapshot::from(r)));
        self.until_line(&mut server).await?;
        Ok(server)
    }

    fn start_users(
        &mut self,
        target: SocketAddr,
        interval: Duration,
        more: &[&str],
    ) -> Result<Child<ClientReport>, Aborted> {
        let mut args = words(&[
            "longconn",
            "--target",
            &target.to_string(),
            "--users",
            &self.slice.connections.to_string(),
            "--interval",
            &plain_time(interval),
            "--threads",
            "1",
            "--drain-timeout",
            "5s",
            "--progress",
            "json",
            "--force",
            "--die-with-parent",
        ]);
        args.extend(words(more));
        let program = self.plan.ours.1.clone();
        let client: Child<ClientReport> = self.start("client", false, &program, &args)?;
        self.control
            .progress
            .watch(&client, |r| Some(Snapshot::from(r)));
        Ok(client)
    }

    /// Waits until `is_it` holds of what backend and client have said.
    async fn until(
        &mut self,
        server: &mut Child<ServerReport>,
        relay: &mut Relay,
        client: &mut Child<ClientReport>,
        max: Duration,
        is_it: impl Fn(&ServerReport, &ClientReport) -> bool,
    ) -> Result<bool, Aborted> {
        let found = self
            .control
            .wait(max, LOAD_POLL, || {
                has_not_ended(server, "backend_died")?;
                has_not_ended(client, "client_died")?;
                relay.still_runs()?;
                Ok(is_it(&latest(server), &latest(client)).then_some(()))
            })
            .await?;
        Ok(found.is_some())
    }

    /// Pairs that stay: with a heartbeat each second, or without any byte.
    async fn long_connections(&mut self) -> Result<Measured, Aborted> {
        let (users, kind) = (self.slice.connections, self.slice.kind);
        let interval = match kind {
            Kind::Messages => INTERVAL,
            _ => Duration::ZERO,
        };
        let port = self.plan.port + 1;
        // Very many pairs have several addresses of the one backend, each with ports of its own.
        let backends: Vec<SocketAddr> = match kind {
            Kind::Pairs => (0..users.div_ceil(PAIRS_PER_BACKEND))
                .map(|n| SocketAddr::from((Ipv4Addr::new(127, 2, 0, n as u8 + 1), port)))
                .collect(),
            _ => vec![self.backend()],
        };
        let listen = match kind {
            Kind::Pairs => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            _ => self.backend(),
        };
        let mut server = self
            .start_holder(&listen.to_string(), users, interval)
            .await?;
        let mut relay = self.start_relay(&backends).await?;
        self.until_quiet().await?;
        let (rss_base, slab_base) = (relay.rss_bytes(), KernelSample::read().slab_bytes);
        let rate = self.plan.flags.spawn_rate;
        let target = relay.target;
        let mut client =
            self.start_users(target, interval, &["--spawn-rate", &rate.to_string()])?;
        let ramp_max = Duration::from_secs_f64(users as f64 / rate as f64 * 4.0) + SPARE;
        let start = KernelSample::read();
        let is_ramped = self
            .until(&mut server, &mut relay, &mut client, ramp_max, |_, c| {
                c.ramp_done
            })
            .await?;
        let busy = KernelSample::read().busy_percent_since(&start);
        // Everybody behind the relay too, where it takes everybody.
        self.until(
            &mut server,
            &mut relay,
            &mut client,
            2 * INTERVAL,
            |s, _| s.open_now >= users,
        )
        .await?;
        let settled = 2 * INTERVAL;
        self.until(&mut server, &mut relay, &mut client, settled, |_, _| false)
            .await?;
        let mut measured = Measured::default();
        let first = latest(&client);
        let before = (Instant::now(), relay.cpu_seconds());
        if kind == Kind::Messages {
            let until = first.at_us + self.plan.hold().as_micros() as u64;
            self.until(&mut server, &mut relay, &mut client, SPARE, |_, c| {
                c.at_us >= until
            })
            .await?;
            let last = latest(&client);
            let received = last.messages_received - first.messages_received;
            let cpu = relay.cpu_seconds() - before.1;
            let seconds = (last.at_us - first.at_us) as f64 / 1e6;
            measured.add(
                "per_second",
                (seconds > 0.0).then(|| received as f64 / seconds),
            );
            if relay.process.is_some() && received > 0 {
                measured.add("cpu_us", Some(cpu * 1e6 / received as f64));
                let elapsed = before.0.elapsed().as_secs_f64();
                measured.add("relay_busy_percent", Some(100.0 * cpu / elapsed));
            }
        }
        let (held, opened) = (latest(&server).open_now, latest(&client).open_now);
        let each = |bytes: f64| (held > 0).then(|| bytes / held as f64);
        let slab = KernelSample::read().slab_bytes as f64 - slab_base as f64;
        measured.add("slab_bytes", each(slab));
        let growth = relay.rss_bytes().zip(rss_base);
        measured.add(
            "own_bytes",
            growth.and_then(|(now, base)| each(now as f64 - base as f64)),
        );
        measured.add("held", Some(held as f64));
        if kind != Kind::Messages {
            let statistics = relay.socket.as_deref().and_then(|s| haproxy::ask(s).ok());
            let said = match self.slice.subject {
                Subject::Nginx => nginx::out_of_descriptors(&relay.log),
                _ => None,
            };
            measured.limit = limit(held, users, statistics.as_ref(), said.as_deref(), busy);
        }
        // One that stops at its descriptors is a result; ours has no such limit.
        if kind != Kind::Limit || self.slice.subject == Subject::Holdfast {
            measured.fail("not_held", users.saturating_sub(held.min(opened)));
            measured.fail("held_too_many", held.saturating_sub(users));
            if !is_ramped {
                measured.fail("ramp_not_done", 1);
            }
        }
        if kind == Kind::Messages {
            let last = self.end(client, Signal::SIGTERM).await?.unwrap_or_default();
            let ended = last.ended.iter().filter(|(class, _)| *class != "held");
            for (class, n) in last.failed.iter().chain(ended) {
                measured.fail(class, *n);
            }
            self.end_relay(relay, &mut measured).await?;
            self.end(server, Signal::SIGTERM).await?;
        } else {
            self.kill(server, relay, client).await?;
        }
        Ok(measured)
    }

    // ---- bulk ----

    async fn bulk(&mut self, direction: Direction) -> Result<Measured, Aborted> {
        let mut relay = self.start_relay(&[self.backend()]).await?;
        let args = words(&[
            "bulk",
            "--listen",
            &self.backend().to_string(),
            "--target",
            &relay.target.to_string(),
            "--connections",
            &self.slice.connections.to_string(),
            "--direction",
            match direction {
                Direction::Up => "up",
                Direction::Down => "down",
            },
            "--time",
            &plain_time(self.plan.slice),
        ]);
        let program = std::env::current_exe()
            .map_err(|e| Aborted::failed("not_started", format!("this program: {e}")))?;
        let before = (Instant::now(), relay.cpu_seconds());
        let mut load: Child<BulkReport> = self.start("bulk", false, &program, &args)?;
        self.control
            .wait(self.plan.slice + SPARE, Duration::from_millis(5), || {
                load.reap();
                relay.still_runs()?;
                Ok(load.is_done().then_some(()))
            })
            .await?;
        let relay_cpu = relay.cpu_seconds() - before.1;
        load.tidy();
        let report = load.heard().latest.clone().ok_or_else(|| {
            let words = format!("bulk {}{}", load.end_in_words(), last_words(&load));
            Aborted::failed("client_without_result", words)
        })?;
        let mut measured = Measured::default();
        let megabytes = report.received as f64 / 1e6;
        measured.add("mb_per_second", Some(megabytes / report.seconds));
        if relay.process.is_some() && relay_cpu > 0.0 {
            measured.add("mb_per_cpu_second", Some(megabytes / relay_cpu));
            let elapsed = before.0.elapsed().as_secs_f64();
            measured.add("relay_busy_percent", Some(100.0 * relay_cpu / elapsed));
        }
        measured.fail("bytes_missing", report.sent.saturating_sub(report.received));
        measured.fail(
            "bytes_too_many",
            report.received.saturating_sub(report.sent),
        );
        measured.fail("bytes_wrong", report.wrong);
        measured.fail("streams_failed", report.failed);
        self.end_relay(relay, &mut measured).await?;
        Ok(measured)
    }

    // ---- ours alone ----

    /// All users leave and as many come at once, while the relay counts on. How far the backends
    /// are apart then.
    async fn storm(&mut self) -> Result<Measured, Aborted> {
        let users = self.slice.connections;
        let mut servers = Vec::new();
        let mut backends = Vec::new();
        for n in 0..BACKEND_COUNT {
            let host = Ipv4Addr::new(127, 3, 0, n as u8 + 1);
            let backend = SocketAddr::from((host, self.plan.port + 1));
            let server = self
                .start_holder(&backend.to_string(), users, Duration::ZERO)
                .await?;
            servers.push(server);
            backends.push(backend);
        }
        let mut relay = self.start_relay(&backends).await?;
        let max = Duration::from_secs_f64(users as f64 / 5_000.0) + SPARE;
        let rate = self.plan.flags.spawn_rate.to_string();
        let target = relay.target;
        let mut first = self.start_users(
            target,
            Duration::ZERO,
            &["--spawn-rate", &rate, "--source", "127.8.0.0/28"],
        )?;
        self.until_all_open(&mut servers, &mut relay, &mut first, max)
            .await?;
        // The kernel closes the connections of a killed process while the new ones come.
        first.signal(Signal::SIGKILL);
        let mut second = self.start_users(
            target,
            Duration::ZERO,
            &["--spawn-rate", "max", "--source", "127.9.0.0/28"],
        )?;
        self.until_all_open(&mut servers, &mut relay, &mut second, max)
            .await?;
        let open: Vec<u64> = servers.iter().map(|s| latest(s).open_now).collect();
        let (least, most) = (open.iter().min(), open.iter().max());
        let all: u64 = open.iter().sum();
        let mean = all as f64 / open.len() as f64;
        let mut measured = Measured::default();
        measured.add("held", Some(all as f64));
        measured.add(
            "spread_percent",
            least
                .zip(most)
                .map(|(least, most)| 100.0 * (most - least) as f64 / mean),
        );
        for (kind, n) in &latest(&second).failed {
            measured.fail(kind, *n);
        }
        measured.fail("not_held", users.saturating_sub(all));
        measured.fail("held_too_many", all.saturating_sub(users));
        let last = servers.pop();
        for server in servers {
            server.signal(Signal::SIGKILL);
        }
        if let Some(server) = last {
            self.kill(server, relay, second).await?;
        }
        Ok(measured)
    }

    /// Waits until every user is open at some backend, and no other connection is.
    async fn until_all_open(
        &mut self,
        servers: &mut [Child<ServerReport>],
        relay: &mut Relay,
        client: &mut Child<ClientReport>,
        max: Duration,
    ) -> Result<(), Aborted> {
        let users = self.slice.connections;
        self.control
            .wait(max, LOAD_POLL, || {
                has_not_ended(client, "client_died")?;
                relay.still_runs()?;
                for server in servers.iter_mut() {
                    has_not_ended(server, "backend_died")?;
                }
                let open: u64 = servers.iter().map(|s| latest(s).open_now).sum();
                Ok((latest(client).ramp_done && open == users).then_some(()))
            })
            .await
            .map(drop)
    }

    /// Reloads a changed configuration again and again while requests pass.
    async fn reloads(&mut self) -> Result<Measured, Aborted> {
        let mut server = self.start_responder().await?;
        let backends = [self.backend()];
        let mut relay = self.start_relay(&backends).await?;
        let wanted = Wanted {
            address: relay.target,
            threads: 1,
            connections: self.slice.connections,
            per_second: None,
            wait: "0",
            rate: None,
            warm_up: Duration::ZERO,
            pipeline: 1,
            is_keep_alive: true,
        };
        let args = generator::client_args(&wanted);
        let program = self.plan.ours.1.clone();
        let mut client: Child<GeneratorLine> = self.start("client", false, &program, &args)?;
        self.control
            .progress
            .watch(&client, GeneratorLine::snapshot);
        self.control
            .wait::<()>(WARM_UP, LOAD_POLL, || Ok(None))
            .await?;
        let config = self.dir.join(CONFIG);
        let mut rss_base = None;
        for n in 0..RELOAD_COUNT {
            write_config(&config, relay.target, &backends, 1 + n % 2)
                .map_err(|why| Aborted::failed("not_started", why))?;
            if let Some(process) = &relay.process {
                process.signal(Signal::SIGHUP);
            }
            self.control
                .wait::<()>(RELOAD_PAUSE, RELOAD_PAUSE, || {
                    has_not_ended(&mut server, "backend_died")?;
                    has_not_ended(&mut client, "client_died")?;
                    relay.still_runs().map(|()| None)
                })
                .await?;
            // What the first ones touch stays touched.
            if n == RELOAD_COUNT / 10 {
                rss_base = relay.rss_bytes();
            }
        }
        let mut measured = Measured::default();
        let growth = relay.rss_bytes().zip(rss_base);
        measured.add(
            "rss_growth_bytes",
            growth.map(|(now, base)| now as f64 - base as f64),
        );
        let last = self.end(client, Signal::SIGTERM).await?;
        let outcome = generator::outcome(last.as_ref())
            .map_err(|why| Aborted::failed("client_without_result", why))?;
        measured.add("per_second", outcome.per_second);
        // A lost connection is opened again, whatever became of its request.
        let again = outcome.opened.saturating_sub(self.slice.connections);
        let failed: u64 = outcome.failures.values().sum();
        measured.add("lost", Some(again.max(failed) as f64));
        for (kind, n) in &outcome.failures {
            measured.fail(kind, *n);
        }
        measured.fail("opened_again", again);
        self.end_relay(relay, &mut measured).await?;
        self.end(server, Signal::SIGTERM).await?;
        Ok(measured)
    }
}

fn latest<R: Report + Clone + Default>(child: &Child<R>) -> R {
    child.heard().latest.clone().unwrap_or_default()
}

/// Kinds without figures of their own.
#[must_use]
pub fn failed(kind: &str, why: String, round: u32) -> Measured {
    Measured {
        round,
        failures: BTreeMap::from([(kind.to_owned(), 1)]),
        error: Some(why),
        ..Measured::default()
    }
}
