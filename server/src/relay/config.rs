//! What a relay was asked to do, before any name is resolved: from `relay.toml` or from flags.
//!
//! Invariants: every key is a field of one of these structs, and nothing else is accepted; a value
//! that [`RelayConfig::check`] passed contradicts no other one.
//! Must not depend on: engines, sockets, names of hosts and their addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_supervisor::flags::unescape;
use holdfast_units::parse;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// The pool of `--backend`, and of listeners that name none.
pub const DEFAULT_POOL: &str = "default";
/// The largest weight, as haproxy has it.
pub const WEIGHT_MAX: u16 = 256;
/// Most backends of all pools: their number is two bytes of a connection's state.
pub const BACKEND_COUNT_MAX: usize = 60_000;
/// The longest time that a key accepts.
const TIME_MAX: Duration = Duration::from_secs(86_400);

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RelayConfig {
    /// Addresses to listen on.
    #[serde(default)]
    pub listen: Vec<ListenConfig>,
    /// Groups of backends by name.
    #[serde(default)]
    pub pool: BTreeMap<String, PoolConfig>,
    /// Path of the admin socket.
    #[serde(default)]
    pub admin: Option<PathBuf>,
    /// Where connections are logged.
    #[serde(default)]
    pub access_log: Option<AccessLogConfig>,
}

/// One address that is listened on.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ListenConfig {
    /// `HOST:PORT`, `*:PORT` or `PORT`.
    pub address: String,
    /// The pool that its connections go to.
    #[serde(default = "default_pool")]
    pub pool: String,
    /// Pools by the server name (SNI) of a TLS ClientHello: a name, or `*.` and a suffix. A
    /// connection whose name is not here goes to `pool`.
    #[serde(default)]
    pub sni: BTreeMap<String, String>,
    /// Networks whose connections begin with a PROXY header.
    #[serde(default)]
    pub accept_proxy: Vec<String>,
    /// How long a PROXY header or a ClientHello may take to arrive.
    #[serde(default = "default_header_timeout", deserialize_with = "time")]
    pub header_timeout: Duration,
    /// Networks that may connect; empty: all.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Networks that may not connect.
    #[serde(default)]
    pub deny: Vec<String>,
    /// Most connections at once of one source address.
    #[serde(default)]
    pub max_per_source: Option<u32>,
    /// Most new connections of one source address in a second.
    #[serde(default)]
    pub rate_per_source: Option<u32>,
}

impl ListenConfig {
    /// A listener with the defaults.
    pub fn new(address: impl Into<String>, pool: impl Into<String>) -> Self {
        ListenConfig {
            address: address.into(),
            pool: pool.into(),
            sni: BTreeMap::new(),
            accept_proxy: Vec::new(),
            header_timeout: default_header_timeout(),
            allow: Vec::new(),
            deny: Vec::new(),
            max_per_source: None,
            rate_per_source: None,
        }
    }
}

fn default_pool() -> String {
    DEFAULT_POOL.to_owned()
}

fn default_header_timeout() -> Duration {
    Duration::from_secs(5)
}

/// A group of backends that serve the same.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PoolConfig {
    /// How a backend is chosen.
    pub balance: Balance,
    /// The backends, in order.
    pub backend: Vec<BackendConfig>,
    /// How their health is checked.
    pub check: CheckConfig,
    /// How long what may take.
    pub timeouts: Timeouts,
    /// Source addresses of connections to backends: `ADDRESS`, `FIRST-LAST` or `NETWORK/BITS`. Empty:
    /// the kernel chooses address and port.
    pub source: Vec<String>,
    /// Source ports used of each of these addresses, `FIRST-LAST`.
    pub source_ports: PortRange,
    /// Connect to backends from the client's own address (IP_TRANSPARENT).
    pub transparent: bool,
    /// The PROXY header that connections to backends begin with.
    pub send_proxy: SendProxy,
    /// What happens to the connections of a backend that goes down.
    pub on_down: OnDown,
    /// The period that `on-down = "cut"` spreads over.
    #[serde(deserialize_with = "time")]
    pub cut_over: Duration,
    /// Attempts to connect after the first one failed.
    pub retries: u8,
    /// Most clients that wait while every backend has `maxconn` connections.
    pub queue: u32,
    /// How long one of them waits.
    #[serde(deserialize_with = "time")]
    pub queue_timeout: Duration,
    /// The time in which the weight of a backend that comes up or is added rises to its full value;
    /// 0s: at once.
    #[serde(deserialize_with = "time")]
    pub slowstart: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            balance: Balance::default(),
            backend: Vec::new(),
            check: CheckConfig::default(),
            timeouts: Timeouts::default(),
            source: Vec::new(),
            source_ports: PortRange::default(),
            transparent: false,
            send_proxy: SendProxy::default(),
            on_down: OnDown::default(),
            cut_over: Duration::from_secs(10),
            retries: 3,
            queue: 1_024,
            queue_timeout: Duration::from_secs(5),
            slowstart: Duration::ZERO,
        }
    }
}

/// How a backend is chosen, under haproxy's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Smooth weighted round robin.
    #[default]
    Roundrobin,
    /// The fewest connections for its weight.
    Leastconn,
    /// By a hash of the client's address; a change of backends moves most clients.
    Source,
    /// The same by Maglev hashing; a change of backends moves few clients.
    Consistent,
    /// The less loaded of two random ones.
    Random,
}

/// The PROXY header that is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SendProxy {
    /// None.
    #[default]
    None,
    /// Version 1, text.
    V1,
    /// Version 2, binary.
    V2,
}

/// What happens to the connections of a backend that goes down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDown {
    /// They go on.
    #[default]
    Keep,
    /// They go on, and the backend gets none back from a hash or a queue.
    Drain,
    /// They are reset, spread over `cut-over`.
    Cut,
}

/// One server that connections go to.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BackendConfig {
    /// What it is called; empty: its address.
    #[serde(default)]
    pub name: String,
    /// Where it listens.
    pub address: HostPort,
    /// Its share of new connections relative to the others, 0 to 256; 0: none.
    #[serde(default = "default_weight")]
    pub weight: u16,
    /// Used only while no other backend is up.
    #[serde(default)]
    pub backup: bool,
    /// Most connections at once; 0: no limit.
    #[serde(default)]
    pub maxconn: u32,
    /// Overrides the kind of the pool's check.
    #[serde(default)]
    pub check: Option<CheckKind>,
}

impl BackendConfig {
    /// A backend with the defaults.
    pub fn new(address: HostPort) -> Self {
        BackendConfig {
            name: String::new(),
            address,
            weight: default_weight(),
            backup: false,
            maxconn: 0,
            check: None,
        }
    }

    /// What it is called.
    pub fn name(&self) -> String {
        match self.name.is_empty() {
            true => self.address.to_string(),
            false => self.name.clone(),
        }
    }
}

fn default_weight() -> u16 {
    1
}

/// `HOST:PORT[,weight=N][,backup][,maxconn=N][,check=KIND][,name=NAME]`.
impl FromStr for BackendConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "next: give HOST:PORT[,name=NAME][,weight=0..256][,backup][,maxconn=N][,check=tcp|http|none]";
        let mut parts = text.split(',');
        let address = parts.next().unwrap_or_default().parse()?;
        let mut backend = BackendConfig::new(address);
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let number = || {
                value
                    .parse::<u32>()
                    .map_err(|_| format!("'{value}' is no number for {key}; {FORM}"))
            };
            match key {
                "name" => backend.name = value.to_owned(),
                "weight" => backend.weight = number()?.try_into().unwrap_or(u16::MAX),
                "backup" if value.is_empty() => backend.backup = true,
                "maxconn" => backend.maxconn = number()?,
                "check" => {
                    backend.check = Some(match value {
                        "none" => CheckKind::None,
                        "tcp" => CheckKind::Tcp,
                        "http" => CheckKind::Http,
                        _ => return Err(format!("'{value}' is no kind of check; {FORM}")),
                    });
                }
                _ => return Err(format!("'{part}' is no option of a backend; {FORM}")),
            }
        }
        Ok(backend)
    }
}

/// How the health of backends is checked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CheckConfig {
    /// What is asked of a backend.
    pub kind: CheckKind,
    /// Time between checks of a backend.
    #[serde(deserialize_with = "time")]
    pub interval: Duration,
    /// The same after a check that contradicts what the backend is, until it is settled; 0s:
    /// `interval`.
    #[serde(deserialize_with = "time")]
    pub fast_interval: Duration,
    /// A part of the interval, percent: each is up to half of it longer or shorter than the last one.
    pub jitter: u8,
    /// How long one check may take.
    #[serde(deserialize_with = "time")]
    pub timeout: Duration,
    /// Checks in a row that pass before a backend is up.
    pub rise: u32,
    /// Checks in a row that fail before a backend is down. The first check after the start decides
    /// alone.
    pub fall: u32,
    /// A backend is also down when `fall` connections of clients in a row failed: refused, without an
    /// answer, or reset before the backend had sent anything. It is up again after `rise` checks;
    /// without a kind of check these are connections that are closed at once, made only while it is
    /// down.
    pub passive: bool,
    /// Sent after connecting; escapes as `--message` has them.
    pub send: String,
    /// What the answer must begin with.
    pub expect: String,
    /// Path of an HTTP check.
    pub path: String,
    /// Host header of an HTTP check; empty: the backend's address.
    pub host: String,
    /// Port that is checked; 0: the backend's.
    pub port: u16,
    /// Begin with PROXY LOCAL where the pool sends PROXY headers.
    pub send_proxy: bool,
}

impl Default for CheckConfig {
    fn default() -> Self {
        CheckConfig {
            kind: CheckKind::default(),
            interval: Duration::from_secs(2),
            fast_interval: Duration::ZERO,
            jitter: 10,
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            passive: true,
            send: String::new(),
            expect: String::new(),
            path: "/".to_owned(),
            host: String::new(),
            port: 0,
            send_proxy: true,
        }
    }
}

/// What a check asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckKind {
    /// Nothing: the backend counts as up until connections of clients fail.
    #[default]
    None,
    /// It accepts a connection; with `expect`, it answers so. Without, a process that is stopped or
    /// stuck passes: the kernel accepts for it.
    Tcp,
    /// It answers a GET with a status below 400.
    Http,
}

/// How long what may take.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Timeouts {
    /// One attempt to connect to a backend.
    #[serde(deserialize_with = "time")]
    pub connect: Duration,
    /// No byte to or from the client; 0s: any time.
    #[serde(deserialize_with = "time")]
    pub client: Duration,
    /// No byte to or from the backend; 0s: any time.
    #[serde(deserialize_with = "time")]
    pub server: Duration,
    /// No byte in either direction, in place of `client` and `server`; 0s: those.
    #[serde(deserialize_with = "time")]
    pub tunnel: Duration,
    /// As `client`, once either side has ended its direction; 0s: `client`.
    #[serde(deserialize_with = "time")]
    pub client_fin: Duration,
    /// As `server`, once either side has ended its direction; 0s: `server`.
    #[serde(deserialize_with = "time")]
    pub server_fin: Duration,
    /// From the accept to the end, whatever passes; 0s: any time.
    #[serde(deserialize_with = "time")]
    pub max_duration: Duration,
    /// Up to this part of a time is added to idle timeouts and to `max-duration`, another one for
    /// each connection, percent.
    pub jitter: u8,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(5),
            client: Duration::ZERO,
            server: Duration::ZERO,
            tunnel: Duration::ZERO,
            client_fin: Duration::from_secs(300),
            server_fin: Duration::from_secs(300),
            max_duration: Duration::ZERO,
            jitter: 0,
        }
    }
}

/// The access log.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AccessLogConfig {
    /// Where it goes: a file, or `-` for standard error.
    pub file: PathBuf,
    /// One line of text or of JSON for each connection.
    #[serde(default)]
    pub format: LogFormat,
}

/// How a connection is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// The fields of haproxy's `option tcplog`.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Where a backend listens: a name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// A name or an address, without brackets.
    pub host: String,
    /// A port, never 0.
    pub port: u16,
}

impl HostPort {
    /// Its address, if it is one and no name.
    pub fn literal(&self) -> Option<SocketAddr> {
        let ip = self.host.parse::<IpAddr>().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(ip) => write!(f, "[{ip}]:{}", self.port),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || {
            format!(
                "'{text}' is no address of a backend; next: give HOST:PORT, such as 10.0.0.1:80 or [2001:db8::1]:80"
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
        let port = port.parse().ok().filter(|port| *port > 0);
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_fine = match bare {
            Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.len() <= 253 && host.chars().all(is_host),
        };
        match port {
            Some(port) if is_fine => Ok(HostPort {
                host: bare.unwrap_or(host).to_owned(),
                port,
            }),
            _ => Err(malformed()),
        }
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Ports from the first to the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, not below the first.
    pub last: u16,
}

impl Default for PortRange {
    fn default() -> Self {
        PortRange {
            first: 1_024,
            last: u16::MAX,
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(PortRange { first, last }),
            _ => Err(format!(
                "'{text}' is no range of ports; next: give FIRST-LAST, such as 1024-65535"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A time with its unit.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time = parse::time(&text).map_err(D::Error::custom)?;
    if time > TIME_MAX {
        return Err(D::Error::custom("a time above 24h; next: give 24h at most"));
    }
    Ok(time)
}

fn invalid(cause: impl Into<String>, next_step: impl Into<String>) -> SetupError {
    SetupError::new(SetupErrorKind::InvalidInput, cause, next_step)
}

impl RelayConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// One line: what is wrong where, with line and column where the text is.
    pub fn read(path: &Path) -> Result<Self, SetupError> {
        let name = path.display();
        let read = || {
            std::fs::read_to_string(path).map_err(|error| {
                let cause = format!("cannot read {name}");
                SetupError::from_io(cause, error, "name the file with --config FILE")
            })
        };
        let text = read()?;
        let config = Self::parse(&text, &name.to_string())?;
        // An editor that writes in place shows half of a file.
        if read()? != text {
            return Err(invalid(
                format!("{name} changed while it was read"),
                "try again when it is written",
            ));
        }
        Ok(config)
    }

    /// Parses and checks the text of a file called `name`.
    ///
    /// # Errors
    /// As [`RelayConfig::read`].
    pub fn parse(text: &str, name: &str) -> Result<Self, SetupError> {
        let config: RelayConfig = toml::from_str(text).map_err(|error| {
            let place = error.span().map_or_else(String::new, |span| {
                let before = text.get(..span.start).unwrap_or(text);
                let line = before.matches('\n').count() + 1;
                let start = before.rfind('\n').map_or(0, |at| at + 1);
                format!(":{line}:{}", before[start..].chars().count() + 1)
            });
            let (cause, next_step) = error.message().split_once("; next: ").unwrap_or((
                error.message(),
                "correct it; man holdfast-server-relay has every key",
            ));
            invalid(format!("{name}{place}: {cause}"), next_step)
        })?;
        config.check()?;
        Ok(config)
    }

    /// Checks what can be checked without resolving a name.
    ///
    /// # Errors
    /// One line: what contradicts what.
    pub fn check(&self) -> Result<(), SetupError> {
        if self.listen.is_empty() {
            return Err(invalid(
                "no address to listen on",
                "give --listen HOST:PORT, or a [[listen]] with an address",
            ));
        }
        let backends: usize = self.pool.values().map(|pool| pool.backend.len()).sum();
        if backends > BACKEND_COUNT_MAX {
            return Err(invalid(
                format!("{backends} backends"),
                format!("give {BACKEND_COUNT_MAX} at most"),
            ));
        }
        for listen in &self.listen {
            let pools = [&listen.pool].into_iter().chain(listen.sni.values());
            for pool in pools {
                if !self.pool.contains_key(pool) {
                    return Err(invalid(
                        format!(
                            "listener {} sends to pool '{pool}', which there is none of",
                            listen.address
                        ),
                        format!("add [pool.{pool}] with a backend, or --backend HOST:PORT"),
                    ));
                }
            }
        }
        let mut addresses = BTreeSet::new();
        for listen in &self.listen {
            if !addresses.insert(&listen.address) {
                return Err(invalid(
                    format!("two listeners at {}", listen.address),
                    "remove one of them",
                ));
            }
        }
        for (name, pool) in &self.pool {
            pool.check(name)?;
        }
        Ok(())
    }
}

impl PoolConfig {
    fn check(&self, pool: &str) -> Result<(), SetupError> {
        if self.backend.is_empty() {
            return Err(invalid(
                format!("pool '{pool}' has no backend"),
                "add --backend HOST:PORT, or [[pool.NAME.backend]] with an address",
            ));
        }
        let mut names = BTreeSet::new();
        for backend in &self.backend {
            let name = backend.name();
            if backend.weight > WEIGHT_MAX {
                return Err(invalid(
                    format!(
                        "backend '{name}' of pool '{pool}' has weight {}",
                        backend.weight
                    ),
                    format!("give 0 to {WEIGHT_MAX}"),
                ));
            }
            if !names.insert(name.clone()) {
                return Err(invalid(
                    format!("pool '{pool}' has two backends called '{name}'"),
                    "give each a name of its own",
                ));
            }
        }
        if self.backend.iter().all(|backend| backend.weight == 0) {
            return Err(invalid(
                format!("every backend of pool '{pool}' has weight 0"),
                "give one of them weight 1",
            ));
        }
        let check = &self.check;
        for (key, value) in [("rise", check.rise), ("fall", check.fall)] {
            if value == 0 {
                return Err(invalid(
                    format!("check.{key} of pool '{pool}' is 0"),
                    "give at least 1",
                ));
            }
        }
        for (key, text) in [("send", &check.send), ("expect", &check.expect)] {
            if let Err(error) = unescape(&format!("check.{key} of pool '{pool}'"), text) {
                let text = error.to_string();
                let (cause, next_step) = text.split_once("; next: ").unwrap_or((&text, ""));
                return Err(invalid(cause, next_step));
            }
        }
        if check.jitter > 100 {
            return Err(invalid(
                format!("check.jitter of pool '{pool}' is {}%", check.jitter),
                "give 0 to 100",
            ));
        }
        for (key, text) in [("path", &check.path), ("host", &check.host)] {
            if text.contains(|c: char| c.is_ascii_control() || c == ' ') {
                return Err(invalid(
                    format!("check.{key} of pool '{pool}' has a space or a control character"),
                    "write it as in a request line, such as /health",
                ));
            }
        }
        for (key, time) in [
            ("check.interval", check.interval),
            ("check.timeout", check.timeout),
            ("timeouts.connect", self.timeouts.connect),
        ] {
            if time < Duration::from_millis(10) {
                return Err(invalid(
                    format!("{key} of pool '{pool}' is below 10ms"),
                    "give 10ms to 24h",
                ));
            }
        }
        if self.timeouts.jitter > 100 {
            return Err(invalid(
                format!(
                    "timeouts.jitter of pool '{pool}' is {}%",
                    self.timeouts.jitter
                ),
                "give 0 to 100",
            ));
        }
        if self.transparent && !self.source.is_empty() {
            return Err(invalid(
                format!("pool '{pool}' has both source and transparent"),
                "remove one of them",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<RelayConfig, String> {
        RelayConfig::parse(text, "relay.toml").map_err(|error| error.to_string())
    }

    const SMALL: &str = r#"
[[listen]]
address = "127.0.0.1:7000"

[[pool.default.backend]]
address = "127.0.0.1:80"
"#;

    #[test]
    fn small_file_has_defaults() {
        let config = parsed(SMALL).unwrap();
        let pool = &config.pool[DEFAULT_POOL];
        assert_eq!(config.listen[0].pool, DEFAULT_POOL);
        assert_eq!(pool.backend[0].weight, 1);
        assert_eq!(pool.backend[0].name(), "127.0.0.1:80");
        assert_eq!(pool.timeouts, Timeouts::default());
    }

    #[test]
    fn errors_are_one_line_with_line_and_column() {
        let with = |more: &str| format!("{SMALL}{more}\n");
        for (text, place, cause) in [
            (with("wieght = 3"), ":7:1:", "wieght"),
            (with("weight = \"x\""), ":7:10:", "invalid type"),
            (with("weight = 257"), "", "weight 257"),
            (with("weight = 0"), "", "has weight 0"),
            (with("[pool.default.timeouts]\nconnect = 5"), ":8:", ""),
            (
                with("[pool.default.timeouts]\nconnect = \"5x\""),
                ":8:11:",
                "",
            ),
            (
                with("[pool.default.timeouts]\nconnect = \"1ms\""),
                "",
                "10ms",
            ),
            (
                with("[[pool.default.backend]]\naddress = \"127.0.0.1:80\""),
                "",
                "two backends",
            ),
            (
                with("[[pool.default.backend]]\naddress = \"127.0.0.1\""),
                ":8:11:",
                "no address of a backend",
            ),
            (
                with("[[listen]]\naddress = \"127.0.0.1:7000\""),
                "",
                "two listeners",
            ),
            (
                with("[[listen]]\naddress = \"1:2\"\npool = \"none\""),
                "",
                "'none'",
            ),
            (
                with("[pool.default.check]\nexpect = '\\q'"),
                "",
                "check.expect of pool 'default'",
            ),
            (
                with("[pool.default.check]\npath = \"/a b\""),
                "",
                "check.path of pool 'default'",
            ),
            (
                with("[pool.default.check]\njitter = 101"),
                "",
                "check.jitter",
            ),
            (with("[pool.empty]"), "", "no backend"),
            (String::new(), "", "no address to listen on"),
        ] {
            let error = parsed(&text).unwrap_err();
            assert!(error.contains(place), "{error}");
            assert!(error.contains(cause), "{error}");
            assert!(
                error.contains("; next: ") && !error.contains('\n'),
                "{error}"
            );
        }
    }

    #[test]
    fn backends_of_the_command_line() {
        let backend: BackendConfig = "[::1]:80,weight=3,backup,maxconn=7,check=tcp,name=a"
            .parse()
            .unwrap();
        assert_eq!(backend.address.to_string(), "[::1]:80");
        assert_eq!(
            (backend.weight, backend.backup, backend.maxconn),
            (3, true, 7)
        );
        assert_eq!(
            (backend.check, backend.name()),
            (Some(CheckKind::Tcp), "a".to_owned())
        );
        for text in [
            "",
            "a",
            "a:0",
            "a b:1",
            ":80",
            "::1:80",
            "a:80,x",
            "a:80,weight=z",
            "a:80,check=z",
        ] {
            let error = text.parse::<BackendConfig>().unwrap_err();
            assert!(error.contains("; next: "), "{text}: {error}");
        }
    }
}
