//! The manners of the endpoint, and what those without any can do to it: nothing.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use holdfast_telemetry::wire::ServerReport;

use crate::common::{PATIENCE, read_to_end, refusal, subcommand, until};
use crate::{Running, exchange, get, server};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The head of an answer, and whether there is a body.
fn head(at: SocketAddr, request: &str) -> (String, bool) {
    let answer = exchange(at, request);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_lowercase(), !body.is_empty())
}

#[test]
fn it_answers_as_http_wants_it() {
    let (_server, at) = server::<ServerReport>(&[]);
    for (request, status, line, has_body) in [
        (
            "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
            "200",
            format!("content-type: {PLAIN}"),
            true,
        ),
        (
            "GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n",
            "200",
            format!("content-type: {PLAIN}"),
            true,
        ),
        (
            "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n\r\n",
            "200",
            format!("content-type: {OPEN_METRICS}"),
            true,
        ),
        (
            "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
            "200",
            "content-length: ".to_owned(),
            false,
        ),
        (
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "404",
            "content-type: ".to_owned(),
            true,
        ),
        (
            "GET /metrics/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "404",
            "content-type: ".to_owned(),
            true,
        ),
        (
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nxx",
            "405",
            "allow: get, head".to_owned(),
            true,
        ),
        (
            "DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
            "405",
            "allow: get, head".to_owned(),
            true,
        ),
    ] {
        let (head, body) = head(at, request);
        assert!(
            head.starts_with(&format!("http/1.1 {status}")),
            "{request}: {head}"
        );
        assert!(head.contains(&line), "{request}: {head}");
        assert_eq!(body, has_body, "{request}: {head}");
    }
    assert!(get(at, "/metrics", "Accept: application/openmetrics-text\r\n").ends_with("# EOF\n"));
}

#[test]
fn nobody_gets_more_than_a_bounded_part() {
    let (server, at) = server::<ServerReport>(&[]);
    let peer = server.connect();
    server.until_open(1);
    let files = || {
        std::fs::read_dir(format!("/proc/{}/fd", server.running.pid()))
            .expect("it lives")
            .count()
    };
    let before = files();
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    for garbage in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET /metrics HTTP/9.9\r\n\r\n",
        &long,
    ] {
        let answer = exchange(at, garbage);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{garbage:.20}: {answer}"
        );
    }
    // Some say nothing, some half of what they want, some all of it and never read.
    let rude: Vec<_> = (0..300)
        .map(|number| {
            let mut stream =
                TcpStream::connect_timeout(&at, PATIENCE).expect("the backlog takes them");
            let said = ["", "GET /metr", "GET /metrics HTTP/1.1\r\n\r\n"][number % 3];
            stream.write_all(said.as_bytes()).expect("it is taken");
            stream
        })
        .collect();
    // Accepted in the order they came: when this one is answered, all before it were.
    let page = get(at, "/metrics", "");
    assert!(
        page.contains("\nholdfast_connections_open 1.0\n"),
        "none of them is one of ours: {page}"
    );
    assert!(
        files() <= before + 64 + 1,
        "{} files, {before} before",
        files()
    );
    // Who only waits is cut after its time.
    let mut silent = TcpStream::connect_timeout(&at, PATIENCE).expect("a connection");
    silent.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    assert_eq!(read_to_end(&mut silent).expect("an end in order"), b"");
    drop((rude, peer));
    server.until_open(0);
    until("their descriptors are back", || files() <= before);
    let outcome = server.running.stop();
    assert_eq!((outcome.code(), outcome.last().accepted), (Some(0), 1));
}

#[test]
fn unavailable_port_is_refused_before_the_start() {
    let (_server, taken) = server::<ServerReport>(&[]);
    let taken = taken.to_string();
    for (address, words) in [
        (&*taken, "in use"),
        ("192.0.2.1:9464", "of this machine"),
        ("nonsense", "ADDR:PORT"),
    ] {
        let outcome = refusal("holdfast-server", &["--metrics", address]);
        outcome.assert_refused(&["--metrics", address, words, "; next: "]);
        assert!(outcome.reports.is_empty());
        for (name, target) in [("longconn", "127.0.0.1:1"), ("http", "http://127.0.0.1:1/")] {
            let mut command = subcommand("holdfast-client", name, &["--target", target]);
            command.args(["--metrics", address]);
            let outcome = Running::<ServerReport>::start(command).outcome();
            outcome.assert_refused(&[address, words, "; next: "]);
        }
        let command = subcommand("holdfast-server", "http", &["--metrics", address]);
        Running::<ServerReport>::start(command)
            .outcome()
            .assert_refused(&[words]);
    }
}

#[test]
fn nothing_listens_unless_asked() {
    let server = crate::ServerOf::<ServerReport>::start(&[]);
    let links = std::fs::read_dir(format!("/proc/{}/fd", server.running.pid())).expect("it lives");
    let links = links
        .flatten()
        .filter_map(|f| std::fs::read_link(f.path()).ok());
    let own: Vec<_> = links
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's sockets");
    let mut listening: Vec<u16> = Vec::new();
    for line in table.lines().skip(1) {
        // proc(5): local address, state (10 is LISTEN), inode
        let fields: Vec<_> = line.split_whitespace().collect();
        if fields[3] == "0A" && own.contains(&format!("socket:[{}]", fields[9])) {
            let port = fields[1].split_once(':').expect("a port").1;
            listening.push(u16::from_str_radix(port, 16).expect("a number"));
        }
    }
    listening.dedup();
    assert_eq!(listening, [server.address.port()]);
}
