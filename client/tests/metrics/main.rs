//! `--metrics` of the real programs through its public doors: what HTTP clients, a real Prometheus
//! and promtool find there.
#![forbid(unsafe_code)]

#[path = "../../../server/tests/common/mod.rs"]
mod common;

mod documented;
mod endpoint;
mod files;
mod prometheus;

/// The program this package makes.
const OWN_PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-client");

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use holdfast_telemetry::wire::{ClientReport, HttpClientReport, HttpServerReport, ServerReport};

use common::{PATIENCE, Running, ServerOf, Serving, client, own_address, subcommand, sum};

/// Users of the longconn client here.
const USERS: u64 = 3_000;

/// A file of `results/`.
fn results_file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../results", name]
        .iter()
        .collect()
}

/// An address for somebody's metrics or API.
fn free_address() -> SocketAddr {
    (own_address(), 9_464).into()
}

/// A server with metrics, and where they are.
fn server<R: Serving>(args: &[&str]) -> (ServerOf<R>, SocketAddr) {
    let metrics = free_address();
    let server = ServerOf::start(&[args, &["--metrics", &metrics.to_string()]].concat());
    (server, metrics)
}

/// Users of an HTTP server.
fn http_client(target: SocketAddr, args: &[&str]) -> Running<HttpClientReport> {
    let mut command = subcommand("holdfast-client", "http", args);
    let source = own_address().to_string();
    command.args([
        "--target",
        &format!("http://{target}/"),
        "--source",
        &source,
    ]);
    Running::start(command)
}

/// All four programs at work, with metrics.
struct Four {
    holder: ServerOf<ServerReport>,
    users: Running<ClientReport>,
    responder: ServerOf<HttpServerReport>,
    askers: Running<HttpClientReport>,
    /// In this order.
    metrics: [SocketAddr; 4],
}

impl Four {
    /// Every user is there, and every asker was answered.
    fn start() -> Self {
        let (holder, of_holder) = server::<ServerReport>(&["--every", "1s"]);
        let (responder, of_responder) = server::<HttpServerReport>(&[]);
        let (of_users, of_askers) = (free_address(), free_address());
        let (count, source) = (USERS.to_string(), own_address().to_string());
        let at = of_users.to_string();
        let flags = [
            "--users",
            &count,
            "--every",
            "1s",
            "--source",
            &source,
            "--metrics",
            &at,
        ];
        let users = client(holder.address, &flags);
        let at = of_askers.to_string();
        let flags = ["--users", "20", "--wait", "10ms..50ms", "--metrics", &at];
        let askers = http_client(responder.address, &flags);
        users.until("all users", |r| r.open_now == USERS);
        askers.until("answers", |r| sum(&r.responses) > 100);
        let metrics = [of_holder, of_users, of_responder, of_askers];
        Four {
            holder,
            users,
            responder,
            askers,
            metrics,
        }
    }
}

/// Sends bytes and reads to the end; empty if the connection was reset.
fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).expect("text")
}

/// The body of a `GET` that is answered with 200.
fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    let answer = exchange(address, &format!("GET {path} HTTP/1.0\r\n{headers}\r\n"));
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{path}: {answer}"));
    assert!(head.split(' ').nth(1) == Some("200"), "{path}: {answer}");
    body.to_owned()
}
