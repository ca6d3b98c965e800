//! What every server shares besides the supervisor: the flags of listening, the listeners, the
//! capacity, counts of all threads.
//!
//! Invariants: the machine is checked and signals are listened for before a port is bound, and
//! every port is bound before the engine starts.
//! Must not depend on: protocols, rings, slots.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use holdfast_engine::listen::{self, Inherited, Listener};
use holdfast_engine::{CloseReason, Config, ConfigBuilder, Engine, Handler, OpenFailure, Stats};
use holdfast_supervisor::control::Control;
use holdfast_supervisor::flags::{self, EngineFlags};
use holdfast_supervisor::preflight::Preflight;
use holdfast_supervisor::supervise::{Reporter, Supervisor};
use holdfast_supervisor::upgrade::{METRICS, Program, Upgrade, UpgradeState};
use holdfast_sysctl::{Role, grouped, preflight};
use holdfast_telemetry::console::Console;
use holdfast_telemetry::metrics::{LabelValues, Metrics};
use holdfast_telemetry::units::parse;
use holdfast_telemetry::wire::ServerHead;

use crate::access::{Access, AccessControl, AccessFlags};
use crate::port;

/// Capacity where memory allows it and `--connections` is not given.
const CONNECTIONS_DEFAULT: u64 = 1_000_000;

/// Default of `--drain-timeout`.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest time that a flag accepts.
const DURATION_MAX: Duration = Duration::from_secs(86_400);

/// Flags of every server.
#[derive(Args)]
pub struct ServerFlags {
    /// Listen on this address and port; repeat or separate by commas. PORT and *:PORT mean every
    /// address, HOST means the default port [default: the sockets that systemd passes, else port
    /// 7070 of every address, IPv4 and IPv6; http: 8080]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    listen: Vec<String>,
    /// Hold at most this many connections; reset and count more at once [default: 1000000, or what
    /// memory allows]
    #[arg(long, value_name = "COUNT", value_parser = parse::count_in::<u64>(1..=1_000_000_000))]
    connections: Option<u64>,
    /// Accept on the core that receives a connection's packets: best when clients are on this
    /// machine or the network card has a queue for each core
    #[arg(long, alias = "local-accept")]
    accept_on_rx_cpu: bool,
    #[command(flatten)]
    access: AccessFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

impl ServerFlags {
    /// What `--listen` was given.
    pub fn listen(&self) -> &[String] {
        &self.listen
    }

    /// Listens at these addresses, whatever `--listen` was given.
    pub fn listen_at(&mut self, addresses: Vec<String>) {
        self.listen = addresses;
    }
}

/// What a protocol requires of its server.
pub struct ServerSpec {
    /// Port to listen on where `--listen` is not given.
    pub port: u16,
    /// Memory of one connection at most, the kernel's included, bytes.
    pub bytes_per_connection: u64,
    /// Slots of the engine that one connection takes.
    pub slots_per_connection: u64,
    /// Names of the protocol's timeouts, for metrics.
    pub timeouts: Vec<&'static str>,
    /// Names of what becomes of a request or a client, for metrics.
    pub outcomes: Vec<&'static str>,
    /// Sizes and times of the engine; capacity, threads and ring sizes are filled in here.
    pub config: ConfigBuilder,
    /// How long the process keeps its connections after an upgrade; `None`: until they end.
    pub keep_after_upgrade: Option<Duration>,
}

/// A server about to start.
pub struct Server {
    console: Console,
    metrics: Metrics,
    control: Control,
    inherited: Option<Inherited>,
    upgrade: Upgrade,
    access: Option<AccessControl>,
    /// The engine's config.
    pub config: Config,
    /// Listeners of each thread.
    listeners: Vec<Vec<Listener>>,
    bound: Vec<SocketAddr>,
}

/// Checks the time of a flag: 10 ms to a day. Returns whole microseconds.
///
/// # Errors
/// One line: the flag, its value and the range.
pub fn check_duration(flag: &str, time: Duration) -> Result<u64, anyhow::Error> {
    flags::check_duration(flag, time, DURATION_MAX)
}

impl Server {
    /// Checks the machine, takes inherited sockets and binds the other ports.
    ///
    /// # Errors
    /// One line: what is missing and the next command.
    pub fn bind(flags: ServerFlags, spec: ServerSpec) -> Result<Self, anyhow::Error> {
        let program = Program::current();
        let engine = &flags.engine;
        engine.tie_to_parent()?;
        let mut inherited = listen::inherited()?;
        let metrics = inherited.as_mut().and_then(|i| i.take(METRICS).pop());
        let taken = inherited.as_mut().map(Inherited::take_rest);
        let taken = taken.unwrap_or_default();
        let mut console = engine.open_console()?;
        let checked = Preflight::check(Role::Server)?;
        let machine = &checked.machine;
        let fits = || preflight::memory_fits(machine, spec.bytes_per_connection);
        let capacity = match flags.connections {
            Some(wanted) => {
                let enough = preflight::check_memory(machine, wanted, spec.bytes_per_connection);
                engine.unless_forced(enough, &mut console)?;
                wanted
            }
            None => CONNECTIONS_DEFAULT.min(fits()),
        };
        let is_successor = inherited.as_ref().is_some_and(|i| i.is_from_predecessor());
        let wanted = match is_successor || flags.listen.is_empty() && !taken.is_empty() {
            true => Vec::new(),
            false => addresses(&flags.listen, spec.port)?,
        };
        let access = AccessControl::of(&flags.access)?;
        let base = spec.config.drain_timeout(DRAIN_TIMEOUT);
        let base = match access {
            Some(_) => base.peer_addresses(true),
            None => base,
        };
        let config = checked.config(engine, capacity, spec.slots_per_connection, base)?;
        let refusal = if engine.die_with_parent {
            Some(
                "--die-with-parent would end the new process with this one; next: start without it",
            )
        } else if console.is_on_terminal() {
            Some("two processes cannot draw on one terminal; next: start with --quiet")
        } else {
            None
        };
        // From here on a signal ends the process with its figures: ports are bound next.
        let mut control = Control::new(&console, true)?;
        let label_values = LabelValues {
            open_failures: OpenFailure::ALL.iter().map(|f| f.label()).collect(),
            ends: CloseReason::ALL.iter().map(|r| r.label()).collect(),
            timeouts: spec.timeouts,
            outcomes: spec.outcomes,
            ..LabelValues::default()
        };
        let metrics = metrics.map(|listener| TcpListener::from(OwnedFd::from(listener)));
        let metrics = engine.open_metrics(label_values, metrics)?;
        let cores = flags.accept_on_rx_cpu.then_some(config.cores());
        let port::Bound {
            listeners,
            addresses: bound,
        } = port::listen(
            taken,
            wanted,
            config.thread_count(),
            cores,
            &mut control,
            &mut console,
        )?;
        let all = listeners.iter().flatten();
        let copies: Result<_, _> = all.map(Listener::try_clone).collect();
        console.note(checked.summary(&config));
        for warning in checked.warnings(capacity) {
            console.note(warning);
        }
        Ok(Server {
            console,
            metrics,
            control,
            inherited,
            access,
            upgrade: Upgrade {
                program,
                listeners: copies?,
                keep: spec.keep_after_upgrade,
                on_retire: Box::new(|| {}),
                refusal,
                state: UpgradeState::default(),
            },
            config,
            listeners,
            bound,
        })
    }

    /// For each listener of each thread, the place in `texts` of the address that it listens at. One that
    /// none of them asks for, such as a socket that was inherited, counts as the first.
    ///
    /// # Errors
    /// One line: an address is none, or its name is unknown.
    pub fn routes(&self, texts: &[&str]) -> Result<Vec<Vec<usize>>, anyhow::Error> {
        let mut asked = Vec::new();
        for (place, text) in texts.iter().enumerate() {
            asked.extend(
                resolve(text, 0)?
                    .into_iter()
                    .map(|address| (address, place)),
            );
        }
        let place = |address: SocketAddr| {
            let is_it = |asked: SocketAddr| {
                asked == address || asked.port() == 0 && asked.ip() == address.ip()
            };
            let found = asked.iter().find(|(asked, _)| is_it(*asked));
            found.map_or(0, |(_, place)| *place)
        };
        let thread = |listeners: &Vec<Listener>| {
            let addresses = listeners.iter().map(Listener::local_addr);
            let places: Result<Vec<_>, _> = addresses.map(|a| a.map(place)).collect();
            Ok(places?)
        };
        self.listeners.iter().map(thread).collect()
    }

    /// Calls `on_retire` when an upgrade has succeeded, before any connection is closed for it.
    pub fn on_retire(&mut self, on_retire: impl Fn() + 'static) {
        self.upgrade.on_retire = Box::new(on_retire);
    }

    /// What its reports begin with.
    pub fn head(&self, schema: &str) -> ServerHead {
        ServerHead {
            schema: schema.to_owned(),
            listen: self.addresses(),
            thread_count: self.config.thread_count(),
            capacity: self.config.capacity(),
            ring_slots: self.config.ring_slots(),
            ..ServerHead::default()
        }
    }

    /// The addresses it listens on, as text.
    fn addresses(&self) -> Vec<String> {
        self.bound.iter().map(ToString::to_string).collect()
    }

    /// Runs the engine to its end. `activity` says what it does, as in "holding".
    ///
    /// # Errors
    /// The engine did not start, a thread failed, or the figures could not be written.
    pub fn run<H, R>(
        self,
        activity: &str,
        handler: impl FnMut(usize) -> H,
        reporter: &mut R,
    ) -> Result<(), anyhow::Error>
    where
        H: Handler<Report = R::Counters, Command = R::Command> + 'static,
        R: Reporter,
    {
        let ready = format!(
            "{activity} up to {} connections on {} with {} threads; Ctrl-C closes them gracefully",
            grouped(self.config.capacity()),
            self.addresses().join(", "),
            self.config.thread_count(),
        );
        let supervisor = Supervisor {
            console: self.console,
            metrics: self.metrics,
            run_time: None,
            histogram_log: None,
            ready: Some(ready),
            inherited: self.inherited,
            upgrade: Some(self.upgrade),
        };
        let (config, listeners) = (self.config, self.listeners);
        let control = self.control;
        match self.access.map(Arc::new) {
            None => {
                let start = || Engine::start(config, listeners, None, handler);
                supervisor.run(control, start, reporter)?;
            }
            Some(access) => {
                let mut handler = handler;
                let handler = |thread| Access::new(handler(thread), Arc::clone(&access));
                let start = || Engine::start(config, listeners, None, handler);
                supervisor.run(control, start, reporter)?;
            }
        }
        Ok(())
    }
}

/// The addresses to listen on, those of `texts` or port `default_port` of every address: none
/// twice, and none that another one covers.
///
/// # Errors
/// One line naming the text, or the address that cannot be bound, and the remedy.
fn addresses(texts: &[String], default_port: u16) -> Result<Vec<SocketAddr>, anyhow::Error> {
    let mut found = Vec::new();
    for text in texts {
        found.extend(resolve(text, default_port)?);
    }
    for address in &found {
        preflight::check_port(*address)?;
    }
    if found.is_empty() {
        found = every_address(default_port)?;
    }
    Ok(without_covered(found))
}

/// Resolves `HOST:PORT`, `HOST`, `PORT`, `*:PORT` or `:PORT`.
fn resolve(text: &str, default_port: u16) -> Result<Vec<SocketAddr>, anyhow::Error> {
    if text.starts_with("unix:") {
        anyhow::bail!(
            "'{text}': Unix sockets are not listened on; next: --listen 127.0.0.1:{default_port}"
        );
    }
    let every_port = text.strip_prefix('*').unwrap_or(text);
    let every_port = every_port.strip_prefix(':').unwrap_or(every_port);
    if !every_port.is_empty() && every_port.bytes().all(|b| b.is_ascii_digit()) {
        let port = every_port.parse().map_err(|_| {
            anyhow::anyhow!(
                "cannot listen on '{text}' (no such port); next: give a port from 0 to 65535"
            )
        })?;
        return every_address(port);
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(vec![(ip, default_port).into()]);
    }
    let found = match text.contains(':') {
        true => text.to_socket_addrs(),
        false => (text, default_port).to_socket_addrs(),
    };
    let found = found.map_err(|e| {
        anyhow::anyhow!("cannot listen on '{text}' ({e}); next: give HOST:PORT, such as 0.0.0.0:7070 or [::]:7070")
    })?;
    Ok(found.collect())
}

/// A port of every address, of both IP versions where this machine has them.
fn every_address(port: u16) -> Result<Vec<SocketAddr>, anyhow::Error> {
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    preflight::check_port(v4)?;
    // Without IPv6 in the kernel there is nothing to listen on. A free port would not be the same
    // one for both.
    let has_v6 = port != 0 && preflight::check_port(v6).is_ok();
    Ok(if has_v6 { vec![v4, v6] } else { vec![v4] })
}

/// Leaves out addresses that are there twice, and those of a port that another address listens on
/// for all of their IP version.
fn without_covered(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut kept: Vec<SocketAddr> = Vec::new();
    for address in &addresses {
        let covers = |other: &SocketAddr| {
            let is_alike = other.is_ipv4() == address.is_ipv4() && other.port() == address.port();
            is_alike && other != address && other.ip().is_unspecified()
        };
        // Each address with port 0 gets a port of its own.
        let is_free = address.port() == 0;
        if is_free || !kept.contains(address) && !addresses.iter().any(covers) {
            kept.push(*address);
        }
    }
    kept
}

/// The head of a report: the constant fields of `base` and the engine's counts.
pub fn head(base: &ServerHead, is_final: bool, at_us: u64, stats: &Stats) -> ServerHead {
    ServerHead {
        is_final,
        at_us,
        shard_count: stats.shard_count as usize,
        open_now: stats.open_now,
        // The sum of the threads' peaks, which need not coincide; the limiter lets no more than the
        // capacity be open.
        open_max: stats.open_max.min(base.capacity),
        accepted: stats.accepted,
        refused_full: stats.refused_full,
        accept_failed: counts(stats.accept_failed_by_label()),
        closed: counts(stats.closed_by_label()),
        ..base.clone()
    }
}

/// Counts by name, those that are not 0.
pub fn counts(pairs: impl IntoIterator<Item = (impl ToString, u64)>) -> BTreeMap<String, u64> {
    let occurred = pairs.into_iter().filter(|(_, count)| *count > 0);
    occurred.map(|(k, v)| (k.to_string(), v)).collect()
}

/// Counts by name, those that are 0 too.
pub fn all_counts(pairs: impl IntoIterator<Item = (impl ToString, u64)>) -> BTreeMap<String, u64> {
    pairs.into_iter().map(|(k, v)| (k.to_string(), v)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Vec<String> {
        let found = resolve(text, 7_070).unwrap();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_form_of_a_listen_address() {
        for (text, expected) in [
            ("127.0.0.1:1234", "127.0.0.1:1234"),
            ("127.0.0.1", "127.0.0.1:7070"),
            ("::1", "[::1]:7070"),
            ("[::1]", "[::1]:7070"),
            ("[::1]:1234", "[::1]:1234"),
        ] {
            assert_eq!(resolved(text), [expected], "{text}");
        }
        for text in ["41234", "*:41234", ":41234"] {
            assert_eq!(resolved(text)[0], "0.0.0.0:41234", "{text}");
        }
        for text in ["unix:/run/x", "a b:1", "127.0.0.1:x", "70000"] {
            let error = resolve(text, 7_070).unwrap_err().to_string();
            assert!(error.contains("; next: "), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_that_overlap_are_listened_on_once() {
        let kept = |texts: &[&str]| -> Vec<String> {
            let all = texts.iter().map(|t| t.parse().unwrap()).collect();
            without_covered(all)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(kept(&["127.0.0.1:1", "127.0.0.1:1"]), ["127.0.0.1:1"]);
        assert_eq!(
            kept(&["127.0.0.1:1", "0.0.0.0:1", "[::]:1"]),
            ["0.0.0.0:1", "[::]:1"]
        );
        assert_eq!(kept(&["127.0.0.1:1", "0.0.0.0:2"]).len(), 2);
        assert_eq!(kept(&["127.0.0.1:0", "127.0.0.1:0"]).len(), 2);
    }
}
