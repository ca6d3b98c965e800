//! `holdfast-server http`: its flags and its report.
//!
//! Must not depend on: rings, slots, how a request is parsed.

pub mod responder;
pub mod response;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use holdfast_engine::{Config, Engine};
use holdfast_http1::Limits;
use holdfast_supervisor::histogram_log::Intervals;
use holdfast_supervisor::run_command;
use holdfast_supervisor::supervise::{Reporter, merge_threads};
use holdfast_sysctl::cost::{DIRECT_DESCRIPTOR_BYTES, RECV_PARKED_BYTES, SOCKET_BYTES};
use holdfast_sysctl::grouped;
use holdfast_telemetry::console::write_counts;
use holdfast_telemetry::live::Snapshot;
use holdfast_telemetry::wire::{HTTP_SERVER_SCHEMA, HttpServerReport, ServerHead};
use holdfast_units::parse;

use crate::launch::{self, Server, ServerFlags, ServerSpec, all_counts, check_duration, counts};
use responder::{REFUSALS, Responder, ResponderReport, TimeoutKind, Timeouts};
use response::{Responses, Template, WallClock, has_body};

/// Memory of one connection at most: kernel socket, direct descriptor, waiting receive, and 128
/// bytes of the engine.
const BYTES_PER_CONNECTION: u64 = SOCKET_BYTES + DIRECT_DESCRIPTOR_BYTES + RECV_PARKED_BYTES + 128;
/// Longest response body, bytes: it is kept in memory.
const BODY_BYTES_MAX: usize = 1 << 30;

/// Flags of `holdfast-server http`.
#[derive(Args)]
pub struct Flags {
    /// Send this body with each response
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "ok",
        conflicts_with = "body_file"
    )]
    body: String,
    /// Send the content of this file as the body, read once at the start [default: the text of
    /// --body]
    #[arg(long, value_name = "FILE")]
    body_file: Option<PathBuf>,
    /// Respond with this status code
    #[arg(long, value_name = "CODE", default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
    /// Add this header to each response; repeat [default: the Content-Type that fits the body]
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_header)]
    header: Vec<(String, String)>,
    /// Accept request heads up to this length, bytes; 431 beyond
    #[arg(long, value_name = "BYTES", default_value_t = 16_384, value_parser = parse::size_in::<u32>(256..=65_536))]
    head_max: u32,
    /// Accept request targets up to this length, bytes; 414 beyond
    #[arg(long, value_name = "BYTES", default_value_t = 8_192, value_parser = parse::size_in::<u32>(16..=65_536))]
    target_max: u32,
    /// Accept up to this many header lines of a request; 431 beyond
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = parse::count_in::<u16>(1..=128))]
    headers_max: u16,
    /// Accept request bodies up to this length, bytes, and drop them; 413 beyond
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = parse::size)]
    body_max: u64,
    /// Allow this time from the first byte of a request to the end of its head; 408 beyond
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse::time)]
    header_timeout: Duration,
    /// Allow this time from the first byte of a request to the end of its body; 408 beyond
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse::time)]
    read_timeout: Duration,
    /// Reset a connection whose peer reads nothing of a response for this time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse::time)]
    write_timeout: Duration,
    /// Close a connection without a request for this time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse::time)]
    idle_timeout: Duration,
    #[command(flatten)]
    server: ServerFlags,
}

/// Parses a header line. Refuses what could break the framing of the response, and headers that the
/// server sets.
fn parse_header(text: &str) -> Result<(String, String), String> {
    let next = "next: give NAME: VALUE, such as 'Cache-Control: no-store'";
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("no colon; {next}"))?;
    let value = value.trim_matches([' ', '\t']);
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("'{name}' is no header name; {next}"));
    }
    if value.bytes().any(|b| b != b'\t' && (b < b' ' || b == 127)) {
        return Err(format!("a control character in the value; {next}"));
    }
    let own = ["content-length", "transfer-encoding", "connection", "date"];
    if own.iter().any(|own| name.eq_ignore_ascii_case(own)) {
        return Err(format!("{name} is set by the server; next: leave it out"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Runs the subcommand.
pub fn main(flags: Flags) -> ExitCode {
    run_command(|| run(flags))
}

fn run(flags: Flags) -> Result<ExitCode, anyhow::Error> {
    let template = template(&flags)?;
    let milliseconds =
        |name, time| check_duration(name, time).map(|time_us| (time_us / 1_000) as u32);
    let timeouts = Timeouts {
        header_ms: milliseconds("--header-timeout", flags.header_timeout)?,
        read_ms: milliseconds("--read-timeout", flags.read_timeout)?,
        write_ms: milliseconds("--write-timeout", flags.write_timeout)?,
        idle_ms: milliseconds("--idle-timeout", flags.idle_timeout)?,
    };
    let limits = Limits {
        head_bytes_max: flags.head_max as usize,
        target_bytes_max: flags.target_max as usize,
        header_count_max: usize::from(flags.headers_max),
        body_bytes_max: flags.body_max,
    };
    let spec = ServerSpec {
        port: 8080,
        bytes_per_connection: BYTES_PER_CONNECTION,
        slots_per_connection: 1,
        outcomes: Vec::new(),
        timeouts: TimeoutKind::ALL.iter().map(|(_, name)| *name).collect(),
        config: Config::builder()
            .buffer_bytes(2_048)
            .buffer_count_max(1_024)
            .staging_bytes(512 * 1024)
            .pending_bytes_max(limits.head_bytes_max + 128 * 1024)
            .batch_delay(Duration::ZERO)
            .park_after(Duration::from_secs(1)),
        // Each is closed behind its next response.
        keep_after_upgrade: Some(Duration::ZERO),
    };
    let mut server = Server::bind(flags.server, spec)?;
    let is_retiring = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&is_retiring);
    server.on_retire(move || flag.store(true, Ordering::Release));
    // Half of the drain timeout: an idle connection is closed before it would be aborted.
    let half_ms = server.config.drain_timeout().as_millis() / 2;
    let retire_idle_ms = u128::from(timeouts.idle_ms).min(half_ms) as u32;
    let base = server.head(HTTP_SERVER_SCHEMA);
    let clock = WallClock::default();
    clock.set(0);
    let mut reporter = HttpReporter {
        base,
        status: template.status,
        clock: clock.clone(),
    };
    let handler = |_| {
        let responses = Responses::new(template.clone(), clock.clone());
        let responder = Responder::new(responses, limits, timeouts);
        responder.with_retiring(Arc::clone(&is_retiring), retire_idle_ms)
    };
    server.run("answering", handler, &mut reporter)?;
    Ok(ExitCode::SUCCESS)
}

/// The response that the flags describe.
fn template(flags: &Flags) -> Result<Template, anyhow::Error> {
    let body = match &flags.body_file {
        None => flags.body.clone().into_bytes(),
        Some(file) => std::fs::read(file).map_err(|e| {
            anyhow::anyhow!(
                "cannot read {} ({e}); next: name a file with --body-file, or give --body TEXT",
                file.display()
            )
        })?,
    };
    if body.len() > BODY_BYTES_MAX {
        anyhow::bail!(
            "a body of {} bytes; next: give one of 1 GiB at most",
            body.len()
        );
    }
    let mut lines: Vec<String> = flags
        .header
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let has_type = |(name, _): &(String, String)| name.eq_ignore_ascii_case("content-type");
    if has_body(flags.status) && !flags.header.iter().any(has_type) {
        lines.insert(0, format!("Content-Type: {}\r\n", content_type(&body)));
    }
    Ok(Template {
        status: flags.status,
        headers: lines.concat(),
        body: Box::leak(body.into_boxed_slice()),
    })
}

/// The media type of a body, by its bytes.
fn content_type(body: &[u8]) -> &'static str {
    if body.is_ascii() {
        "text/plain"
    } else if std::str::from_utf8(body).is_ok() {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    }
}

struct HttpReporter {
    /// The fields that do not change.
    base: ServerHead,
    status: u16,
    clock: WallClock,
}

impl Reporter for HttpReporter {
    type Counters = ResponderReport;
    type Command = ();
    type Report = HttpServerReport;

    fn report(
        &mut self,
        engine: &Engine<ResponderReport>,
        is_final: bool,
    ) -> (HttpServerReport, Intervals) {
        let now_us = engine.now_us();
        self.clock.set(now_us);
        let mut all = ResponderReport::default();
        let stats = merge_threads(engine, |thread| {
            all.answered += thread.answered;
            add(&mut all.refused, &thread.refused);
            add(&mut all.timed_out, &thread.timed_out);
        });
        let mut responses = counts(REFUSALS.iter().zip(all.refused));
        if all.answered > 0 {
            *responses.entry(self.status.to_string()).or_default() += all.answered;
        }
        let mut anomalies = stats.anomalies().to_vec();
        anomalies.push(("sends_short", stats.sends_short));
        let report = HttpServerReport {
            head: launch::head(&self.base, is_final, now_us, &stats),
            responses,
            timed_out: counts(
                TimeoutKind::ALL
                    .iter()
                    .map(|(kind, name)| (name, all.timed_out[*kind as usize])),
            ),
            bytes_received: stats.bytes_received,
            anomalies: all_counts(anomalies),
        };
        (report, Intervals::new())
    }

    fn snapshot(&self, report: &HttpServerReport) -> Snapshot {
        Snapshot::from(report)
    }

    fn summary(&self, report: &HttpServerReport) -> String {
        let mut text = format!(
            "responses {}, connections accepted {}, open {} at most, refused {} for want of room",
            grouped(report.responses.values().sum()),
            grouped(report.accepted),
            grouped(report.open_max),
            grouped(report.refused_full),
        );
        write_counts(
            &mut text,
            &[
                ("responses", &report.responses),
                ("timed out", &report.timed_out),
                ("ended", &report.closed),
                ("accept failed", &report.accept_failed),
                ("anomalies", &report.anomalies),
            ],
        );
        text
    }
}

fn add(into: &mut [u64], from: &[u64]) {
    for (a, b) in into.iter_mut().zip(from) {
        *a += b;
    }
}
