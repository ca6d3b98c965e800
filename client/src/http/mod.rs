//! `holdfast-client http`: its flags and its verdict.
//!
//! Invariants: the exit code is 0 only if some request was ok, no request and no attempt to connect
//! failed, and the counts balance.
//! Must not depend on: rings, slots, how users work.

pub mod counters;
pub mod mix;
pub mod outcome;
pub(crate) mod reporter;
pub mod request;
pub mod request_limit;
pub mod response;
pub mod schedule;
pub mod url;
pub mod user;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgGroup, Args};
use holdfast_engine::Engine;
use holdfast_http1::{HEADER_COUNT_CEILING, Limits, Malformed, Oddity};
use holdfast_supervisor::control::Control;
use holdfast_supervisor::run_command;
use holdfast_supervisor::supervise::Supervisor;
use holdfast_sysctl::grouped;
use holdfast_telemetry::console::{Console, EXIT_SHORT};
use holdfast_telemetry::metrics::LabelValues;
use holdfast_telemetry::output;
use holdfast_telemetry::wire::{HTTP_CLIENT_SCHEMA, HttpClientReport};
use holdfast_units::parse;

use crate::aggregate::head;
use crate::launch::{
    ClientFlags, ClientSpec, Destination, EngineSetup, LoadFlags, check_duration, metric_kinds,
};
use crate::target::Server;
use crate::turns::Turns;
use crate::{interned, target};
use mix::Mix;
use outcome::Outcome;
use reporter::{HttpReporter, RunParams};
use request::Parts;
use request_limit::RequestLimit;
use response::{Expectations, Statuses};
use schedule::Schedule;
use url::Url;
use user::{EXCESS_BYTES, Model, UserConfig, Users};

/// First line of the histogram log.
const LOG_COMMENT: &str = "holdfast-client http; microseconds; tags: connect, latency (from the due time, nothing filled in), raw (from \
                           the sending)";

/// Flags of `holdfast-client http`.
#[derive(Args)]
#[command(group = ArgGroup::new("content").args(["body", "body_file"]))]
pub struct Flags {
    /// Request this URL, http://[USER:PASSWORD@]HOST[:PORT][/PATH]; repeat: each request has the
    /// next one in turn. Users rotate over all addresses of the host. Of several servers, each user
    /// keeps to one, and users are shared out; with --no-keepalive, requests are. A user name is
    /// sent as Basic credentials
    #[arg(long, value_name = "URL", required_unless_present = "targets_file", value_parser = url::parse)]
    target: Vec<Url>,
    /// Request the URLs in this file, each in its share of the turns. A line for each: URL
    /// [WEIGHT], the weight 1 if it has none; - is standard input [default: none]
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    targets_file: Option<PathBuf>,
    /// Closed model: wait this long between a response and the user's next request, or a random
    /// time of a range such as 100ms..1s [default: 0]
    #[arg(long, value_name = "TIME", value_parser = parse_wait, conflicts_with = "rate")]
    wait: Option<(u64, u64)>,
    /// Open model: send this many requests per second over all users, on a fixed schedule; a due
    /// request is sent as soon as its user is free [default: the closed model]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    rate: Option<u64>,
    /// Stop after this many requests in total [default: no limit]
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = parse::count_in::<u64>(1..=1_000_000_000_000))]
    requests: Option<u64>,
    /// Open a new connection for each request (with --pipeline: for each batch). The ACK of the handshake travels with the request
    #[arg(long)]
    no_keepalive: bool,
    /// Send this many requests at once, of the same URL, and the next ones when all are answered.
    /// The requests of a batch are due together
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = parse::count_in::<u8>(1..=128))]
    pipeline: u8,
    /// Use this request method
    #[arg(long, value_name = "METHOD", default_value = "GET", value_parser = request::parse_method)]
    method: String,
    /// Add this header to each request; repeat [default: Host only]
    #[arg(long, value_name = "NAME: VALUE", value_parser = request::parse_header)]
    header: Vec<String>,
    /// Send this body with each request [default: none]
    #[arg(long, value_name = "TEXT")]
    body: Option<String>,
    /// Send the content of this file as the body of each request; - is standard input [default:
    /// none]
    #[arg(long, value_name = "FILE")]
    body_file: Option<PathBuf>,
    /// Expect these status codes: codes and classes, separated by commas
    #[arg(long, value_name = "CODES", default_value = "2xx", value_parser = response::parse_statuses)]
    expect_status: Statuses,
    /// Expect exactly this body, byte for byte [default: any complete one]
    #[arg(long, value_name = "TEXT")]
    expect_body: Option<String>,
    /// Do not send a request again when the server closed the connection before any byte of its
    /// response. By default requests with an idempotent method are, as RFC 9112 9.3.1 allows, if
    /// the connection answered before
    #[arg(long)]
    no_retry: bool,
    /// Accept response heads up to this length, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, value_parser = parse::size_in::<u32>(256..=1_048_576))]
    response_head_max: u32,
    /// Accept up to this many header lines of a response
    #[arg(long, value_name = "COUNT", default_value_t = 256, value_parser = parse::count_in::<u16>(1..=HEADER_COUNT_CEILING as u64))]
    response_headers_max: u16,
    /// Allow this time from the sending of a request to the end of its response
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse::time)]
    timeout: Duration,
    /// Leave requests that end before this time out of the measurement
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse::time)]
    warm_up: Duration,
    #[command(flatten)]
    quantity: LoadFlags,
    #[command(flatten)]
    launch: ClientFlags,
}

/// A user that gets a response within this time keeps its receive in the kernel: 608 bytes more,
/// one submission less per response.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// What http requires of the engine. No batch delay: it would be measured as latency. Requests
/// outstanding at the end get two seconds.
pub(crate) const SPEC: ClientSpec = ClientSpec {
    batch_delay_us: 0,
    drain_timeout: Duration::from_secs(2),
    buffer_bytes: 4_096,
    own_bytes_per_connection: 128 + 608,
    connections_per_user: 1,
};

/// Parses requests per second; gives thousandths.
fn parse_rate(text: &str) -> Result<u64, String> {
    match parse::rate(text) {
        Ok(rate) if (0.001..=100_000_000.0).contains(&rate) => Ok((rate * 1_000.0).round() as u64),
        _ => Err("not a rate; next: give requests a second from 0.001 to 100000000".to_owned()),
    }
}

/// Parses a time or a range of times; gives microseconds.
pub(crate) fn parse_wait(text: &str) -> Result<(u64, u64), String> {
    let (shortest, longest) = text.split_once("..").unwrap_or((text, text));
    let microseconds = |text: &str| match text.trim() {
        "0" => Some(0),
        text => parse::time(text)
            .ok()
            .filter(|t| t.is_zero() || (1..=14_400_000).contains(&t.as_millis()))
            .map(|t| t.as_micros() as u64),
    };
    match (microseconds(shortest), microseconds(longest)) {
        (Some(shortest), Some(longest)) if shortest <= longest => Ok((shortest, longest)),
        _ => Err(
            "not a wait; next: give 0, a time from 1ms to 4h, or a range such as 100ms..1s"
                .to_owned(),
        ),
    }
}

/// Runs the subcommand.
pub fn main(flags: Flags) -> ExitCode {
    run_command(|| run(flags))
}

fn run(flags: Flags) -> Result<ExitCode, anyhow::Error> {
    let launch = &flags.launch;
    launch.engine.tie_to_parent()?;
    let timeout_us = check_duration("--timeout", flags.timeout, false)?;
    let warm_up_us = check_duration("--warm-up", flags.warm_up, true)?;
    if flags.quantity.run_time.is_some_and(|t| t <= flags.warm_up) {
        anyhow::bail!("--warm-up leaves nothing of --run-time to measure; next: give less of it");
    }
    let wait_us = flags.wait.unwrap_or((0, 0));
    let model = match flags.rate {
        None => Model::Closed(wait_us.0, wait_us.1),
        Some(rate_milli) => Model::Open(Schedule {
            users: flags.quantity.users,
            batch: u64::from(flags.pipeline),
            rate_milli,
        }),
    };
    let urls = urls(&flags)?;
    let mut config = user_config(&flags, &urls, model, timeout_us)?;
    let kinds = LabelValues {
        outcomes: Outcome::ALL.iter().map(|(_, name)| *name).collect(),
        malformed: Malformed::ALL
            .iter()
            .map(|reason| reason.label())
            .chain([EXCESS_BYTES])
            .collect(),
        oddities: Oddity::ALL.iter().map(|oddity| oddity.label()).collect(),
        ..metric_kinds()
    };
    let metrics = launch.engine.open_metrics(kinds, None)?;
    let mut console = launch.open_console()?;
    let histogram_log = launch.open_histogram_log(LOG_COMMENT)?;
    if flags.target.len() > 1 {
        console.note(format_args!(
            "{} URLs in turn, with equal shares; next: for other shares give --targets-file FILE with lines of URL WEIGHT",
            flags.target.len()
        ));
    }
    if let Some(name) = ["http_proxy", "all_proxy", "ALL_PROXY"]
        .into_iter()
        .find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
    {
        console.note(format_args!(
            "{name} is set and ignored: users connect to the server itself"
        ));
    }
    let names = urls.iter().map(|(url, _)| &*url.host_port);
    let (servers, of_urls) = target::resolve_servers(names, &launch.resolve)?;
    let users = config
        .mix
        .set_servers(of_urls, launch.engine.thread_count())?;
    let destinations = destinations(&servers, &users, &flags, &mut console)?;
    let ready = prepare(
        launch,
        &flags.quantity,
        &destinations,
        &config,
        &mut console,
    )?;
    let thread_count = ready.config.thread_count();
    let base = head(HTTP_CLIENT_SCHEMA, thread_count, flags.quantity.users);
    let wait_mean_us =
        (flags.rate.is_none() && wait_us.1 > 0).then_some(wait_us.0.midpoint(wait_us.1));
    let params = RunParams {
        title: {
            let names: Vec<&str> = servers.iter().map(|server| &*server.names[0]).collect();
            format!("client http {}", target::list(&names))
        },
        urls: urls.iter().map(|(url, _)| url.to_string()).collect(),
        load: ready.load,
        rate_per_second: flags.rate.map(|milli| milli as f64 / 1e3),
    };
    let request_limit = Arc::clone(&config.request_limit);
    let mut reporter = HttpReporter::new(base, params, warm_up_us, wait_mean_us, request_limit);
    let control = Control::new(&console, false)?;
    let supervisor = Supervisor {
        console,
        metrics,
        run_time: flags.quantity.run_time,
        histogram_log,
        ready: None,
        inherited: None,
        upgrade: None,
    };
    let EngineSetup {
        config: engine_config,
        plan,
        targets,
        load,
    } = ready;
    let names = servers.into_iter().map(|server| server.names);
    target::keep_resolved(names.zip(targets).collect(), &launch.resolve);
    let handler = |share| Users::new(config.clone(), load, share, thread_count, warm_up_us);
    let last = supervisor.run(
        control,
        || Engine::start(engine_config, Vec::new(), Some(plan), handler),
        &mut reporter,
    )?;
    Ok(verdict(&last))
}

/// Everything an engine of HTTP users starts with.
///
/// # Errors
/// One line naming the cause and the next command to type.
pub(crate) fn prepare(
    launch: &ClientFlags,
    quantity: &LoadFlags,
    destinations: &[Destination<'_>],
    users: &UserConfig,
    console: &mut Console,
) -> Result<EngineSetup, anyhow::Error> {
    let spec = ClientSpec {
        // One in use, and one that is closing.
        connections_per_user: 1 + u64::from(users.is_reconnecting),
        ..SPEC
    };
    let mut ready = launch.prepare(quantity, destinations, spec, console)?;
    // All users may be answered at once: the buffers of a ring grow to 4 MiB when it needs them.
    let config = ready.config.to_builder().buffer_count_max(1_024);
    // A server may answer a batch before it has read all of it.
    let config = config.park_after(PARK_AFTER).reads_while_blocked(true);
    let config = config.sends_on_open(users.is_reconnecting);
    // The engine keeps a head that is not complete.
    let head_bytes_max = users.expectations.limits.head_bytes_max.max(16_384);
    let config = config.pending_bytes_max(head_bytes_max);
    ready.config = config.build()?;
    Ok(ready)
}

/// The URLs and their weights.
///
/// # Errors
/// One line naming what is wrong.
fn urls(flags: &Flags) -> Result<Vec<(Url, u64)>, anyhow::Error> {
    let Some(path) = &flags.targets_file else {
        return Ok(flags.target.iter().map(|url| (url.clone(), 1)).collect());
    };
    if path == Path::new("-") && flags.body_file.as_deref() == Some(path) {
        anyhow::bail!(
            "standard input is both the URLs and the body; next: give one of them in a file"
        );
    }
    let text = read_file(path)?;
    let text = String::from_utf8_lossy(&text);
    mix::parse_targets(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
}

/// How many users may be connected to each server at once, by the turns that users take.
///
/// # Errors
/// One line when a server has no user.
fn destinations<'a>(
    servers: &'a [Server],
    users: &Turns,
    flags: &Flags,
    console: &mut Console,
) -> Result<Vec<Destination<'a>>, anyhow::Error> {
    let user_count = flags.quantity.users;
    let mut shares = users.shares(user_count, servers.len());
    if flags.no_keepalive {
        // A slow server has the requests of more users under way than its share.
        shares.fill(user_count);
    } else if let Some(without) = shares.iter().position(|share| *share == 0) {
        anyhow::bail!(
            "{} has no share of {user_count} users, each of which keeps its connection to one of {} servers; next: give --users {} or \
             more, or --no-keepalive",
            servers[without].names[0],
            servers.len(),
            users.turns_until_all()
        );
    } else if servers.len() > 1 {
        let shares = servers.iter().zip(&shares);
        let shares: Vec<String> = shares
            .map(|(server, share)| format!("{} {}", server.names[0], grouped(*share)))
            .collect();
        let shares: Vec<&str> = shares.iter().map(String::as_str).collect();
        console.note(format_args!(
            "users of each server: {}",
            target::list(&shares)
        ));
    }
    let destinations = servers.iter().zip(shares);
    Ok(destinations
        .map(|(server, users)| Destination {
            addresses: &server.addresses,
            users,
        })
        .collect())
}

/// The whole file; `-` is standard input.
///
/// # Errors
/// One line naming the file and the cause.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, anyhow::Error> {
    let read = || -> io::Result<Vec<u8>> {
        if path != Path::new("-") {
            return std::fs::read(path);
        }
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|e| {
        anyhow::anyhow!(
            "cannot read {} ({e}); next: name a file that can be read",
            path.display()
        )
    })
}

fn user_config(
    flags: &Flags,
    urls: &[(Url, u64)],
    model: Model,
    timeout_us: u64,
) -> Result<UserConfig, anyhow::Error> {
    let body = match (&flags.body, &flags.body_file) {
        (Some(text), _) => Some(text.clone().into_bytes()),
        (None, Some(path)) => Some(read_file(path)?),
        (None, None) => None,
    };
    let parts = Parts {
        method: flags.method.clone(),
        headers: flags.header.clone(),
        body,
        is_last: flags.no_keepalive,
        count: flags.pipeline,
    };
    let batch = |(url, weight): &(Url, u64)| Ok((request::render(url, &parts)?, *weight));
    let batches: Result<_, anyhow::Error> = urls.iter().map(batch).collect();
    Ok(UserConfig {
        model,
        mix: Mix::new(batches?)?,
        expectations: Expectations {
            was_head: flags.method == "HEAD",
            limits: Limits {
                head_bytes_max: flags.response_head_max as usize,
                header_count_max: usize::from(flags.response_headers_max),
                ..Limits::default()
            },
            statuses: flags.expect_status,
            body: flags
                .expect_body
                .as_ref()
                .map(|text| interned::keep(text.clone().into_bytes())),
        },
        is_reconnecting: flags.no_keepalive,
        is_connecting_timed: flags.no_keepalive,
        is_retrying: !flags.no_retry && request::is_idempotent(&flags.method),
        timeout_us,
        request_limit: Arc::new(RequestLimit::new(flags.requests)),
    })
}

/// The exit code of a run.
fn verdict(last: &HttpClientReport) -> ExitCode {
    let ended: u64 = last.outcomes.values().sum();
    if ended != last.requests || last.pending_now != 0 {
        output::log_last(format_args!(
            "error: {} requests were begun and {ended} ended: the counts do not balance; next: report this with the final figures (--json)",
            last.requests
        ));
        return ExitCode::from(EXIT_SHORT);
    }
    let is_ok = last.outcomes.contains_key("ok") && reporter::failed(last) == 0;
    // Attempts that the end of the run cancelled are no failures.
    let has_failed = last.failed.keys().any(|name| name != "cancelled");
    match is_ok && !has_failed {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_SHORT),
    }
}
