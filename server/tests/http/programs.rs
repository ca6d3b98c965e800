//! Clients and a proxy that others wrote: curl, Python's http.client, wrk, ab, nginx.

use std::io::Write;
use std::process::Stdio;

use crate::common::programs::{Nginx, command, spawn};
use crate::common::{Folder, count, sum};
use crate::peer::{GET, HEAD, Peer};
use crate::{Server, books};

/// What a program printed.
pub struct Heard {
    pub out: Vec<u8>,
    pub errors: String,
}

/// Runs a program to its end, which is a success. The arguments bound its time, or its work does.
pub fn run(name: &str, args: &[&str], input: &[u8]) -> Heard {
    let mut child = spawn(
        command(name)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    );
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let outcome = child.wait_with_output().expect("our child");
    let _ = writing.join().expect("no panic");
    let errors = String::from_utf8_lossy(&outcome.stderr).into_owned();
    let status = outcome.status;
    assert!(status.success(), "{name} {args:?}: {status} {errors}");
    Heard {
        out: outcome.stdout,
        errors,
    }
}

fn curl(args: &[&str], input: &[u8]) -> Heard {
    run(
        "curl",
        &[&["-sS", "--max-time", "30"], args].concat(),
        input,
    )
}

/// The number behind `label` in what a program printed.
fn number_after(text: &str, label: &str) -> u64 {
    let (_, rest) = text
        .split_once(label)
        .unwrap_or_else(|| panic!("no '{label}' in {text}"));
    let first = rest.split_whitespace().next().unwrap_or_default();
    first.parse().unwrap_or_else(|e| panic!("{first}: {e}"))
}

#[test]
#[ignore = "needs curl: make test"]
fn curl_gets_heads_and_posts() {
    let server = Server::start(&[]);
    let url = format!("http://{}/path?query", server.address);
    let code = ["-w", " %{http_code} %{http_version}"];
    let print = |args: &[&str], input: &[u8]| {
        let heard = curl(&[&code[..], args, &[&url]].concat(), input);
        String::from_utf8(heard.out).expect("text")
    };
    assert_eq!(print(&[], b""), "ok 200 1.1");
    assert_eq!(print(&["--http1.0"], b""), "ok 200 1.1");
    let head = print(&["--head"], b"");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Length: 2\r\n") && head.ends_with("\r\n\r\n 200 1.1"));
    assert_eq!(print(&["--data", "a=b"], b""), "ok 200 1.1");
    assert_eq!(print(&["-X", "DELETE"], b""), "ok 200 1.1");
    let body = vec![b'x'; 3_000_000];
    assert_eq!(print(&["--data-binary", "@-"], &body), "ok 200 1.1");
    assert_eq!(print(&["-T", "-"], &body), "ok 200 1.1");
    let expect = ["-T", "-", "-H", "Expect: 100-continue", "-v"];
    let heard = curl(&[&expect[..], &[&url]].concat(), &body);
    assert_eq!(heard.out, b"ok");
    let wire = heard.errors;
    assert!(wire.contains("> Transfer-Encoding: chunked"), "{wire}");
    assert!(wire.contains("< HTTP/1.1 100 Continue"), "{wire}");
    let report = books(server, 8);
    assert_eq!(report.accepted, 8);
    assert_eq!(count(&report.responses, "200"), 8);
    assert!(report.bytes_received > 9_000_000);
}

#[test]
#[ignore = "needs curl: make test"]
fn curl_takes_one_connection_for_many_urls() {
    let server = Server::start(&[]);
    let url = format!("http://{}/", server.address);
    let each = ["-o", "/dev/null", &url];
    let format = ["-w", "%{http_code} %{num_connects}\n"];
    let heard = curl(&[&format[..], &each, &each, &each, &each].concat(), b"");
    let text = String::from_utf8(heard.out).expect("text");
    assert_eq!(text, "200 1\n200 0\n200 0\n200 0\n");
    assert_eq!(books(server, 4).accepted, 1);
}

#[test]
#[ignore = "needs curl: make test"]
fn curl_is_told_what_is_refused() {
    let server = Server::start(&["--body-max", "1000", "--head-max", "2000"]);
    let url = format!("http://{}/", server.address);
    let long = format!("X: {}", "x".repeat(3_000));
    let large = vec![b'x'; 100_000];
    for (args, status) in [
        (&["-H", &long][..], "431"),
        (
            &["--data-binary", "@-", "-H", "Expect: 100-continue"],
            "413",
        ),
        (&["-T", "-", "-H", "Expect: 100-continue"], "413"),
        (&["-H", "Expect: a-miracle"], "417"),
        (&["-H", "Host:"], "400"),
    ] {
        let format = ["-o", "/dev/null", "-w", "%{http_code}", "--max-time", "30"];
        let heard = curl(&[&format, args, &[&url]].concat(), &large);
        assert_eq!(String::from_utf8_lossy(&heard.out), status, "{args:?}");
    }
    let report = books(server, 5);
    assert_eq!(count(&report.responses, "413"), 2);
}

const PYTHON: &str = r#"
import http.client, sys
host, port = sys.argv[1].split(":")
connection = http.client.HTTPConnection(host, int(port), timeout=30)
def ask(method, body=None, **how):
    connection.request(method, "/path", body, **how)
    response = connection.getresponse()
    assert response.status == 200 and response.reason == "OK", response.status
    assert response.version == 11 and not response.will_close
    expected = b"" if method == "HEAD" else b"ok"
    assert response.read() == expected
    return connection.sock
first = ask("GET")
for _ in range(100):
    assert ask("GET") is first
assert ask("HEAD") is first
assert ask("POST", b"x" * 100000) is first
pieces = (b"x" * n for n in (1, 10000, 16, 255))
assert ask("PUT", pieces, encode_chunked=True, headers={"Transfer-Encoding": "chunked"}) is first
assert ask("GET") is first
connection.close()
print("all right")
"#;

#[test]
#[ignore = "needs python3: make test"]
fn python_keeps_its_connection_and_sends_chunks() {
    let server = Server::start(&[]);
    let heard = run("python3", &["-c", PYTHON, &server.address.to_string()], b"");
    assert_eq!(heard.out, b"all right\n", "{}", heard.errors);
    assert_eq!(books(server, 105).accepted, 1);
}

#[test]
#[ignore = "needs wrk: make test"]
fn wrk_meets_no_error_and_counts_what_the_server_counts() {
    let server = Server::start(&[]);
    let url = format!("http://{}/", server.address);
    let heard = run("wrk", &["-t1", "-c50", "-d1s", &url], b"");
    let text = String::from_utf8(heard.out).expect("text");
    assert!(!text.contains("errors"), "{text}");
    assert!(!text.contains("Non-2xx"), "{text}");
    let line = text.lines().find(|line| line.contains(" requests in "));
    let line = line.unwrap_or_else(|| panic!("{text}")).trim();
    let counted: u64 = line.split(' ').next().unwrap().parse().expect("a number");
    assert!(counted > 100, "{text}");
    let last = server
        .running
        .until("wrk has gone", |r| r.accepted > 0 && r.open_now == 0);
    let answered = sum(&last.responses);
    // It stops without reading what it asked for last on each connection, and connects once more
    // before it begins.
    assert!(
        (counted..=counted + 50).contains(&answered),
        "{answered}: {text}"
    );
    let report = books(server, answered);
    assert_eq!(count(&report.responses, "200"), answered);
    assert!((50..=51).contains(&report.accepted), "{report:?}");
}

#[test]
#[ignore = "needs ab: make test"]
fn ab_fails_nothing_with_and_without_kept_connections() {
    let server = Server::start(&[]);
    let url = format!("http://{}/", server.address);
    let bounds = ["-s", "30", "-n", "2000", "-c", "20"];
    for (how, kept) in [(&["-k"][..], 2_000), (&[], 0), (&["-i", "-k"], 2_000)] {
        let heard = run("ab", &[&["-q"], how, &bounds, &[&url]].concat(), b"");
        let text = String::from_utf8(heard.out).expect("text");
        assert_eq!(number_after(&text, "Complete requests:"), 2_000, "{text}");
        assert_eq!(number_after(&text, "Failed requests:"), 0, "{text}");
        assert!(!text.contains("Non-2xx") && !text.contains("Write errors"));
        if kept > 0 {
            assert_eq!(number_after(&text, "Keep-Alive requests:"), kept, "{text}");
        }
    }
    let report = books(server, 6_000);
    // It opens a few more than it uses.
    assert!((2_040..=2_100).contains(&report.accepted), "{report:?}");
}

/// nginx in front of a server of ours.
fn proxy_before(server: &Server) -> Nginx {
    let upstream = format!(
        "upstream ours {{ server {}; keepalive 16; keepalive_requests 1000000; }}",
        server.address
    );
    let locations = "proxy_http_version 1.1;
        proxy_set_header Connection '';
        location / { proxy_pass http://ours; }
        location /stream { proxy_pass http://ours; proxy_request_buffering off; }
        location /old { proxy_pass http://ours; proxy_http_version 1.0; proxy_set_header Connection close; }";
    Nginx::start("http-nginx", &upstream, locations)
}

#[test]
#[ignore = "needs nginx, ab and curl: make test"]
fn nginx_in_front_reuses_connections_and_finds_no_fault() {
    let folder = Folder::new("http-behind-nginx");
    let body = "0123456789".repeat(10_000);
    std::fs::write(folder.file("body"), &body).expect("a file");
    let server = Server::start(&["--body-file", &folder.file("body")]);
    let proxy = proxy_before(&server);
    let url = format!("http://{}", proxy.address);

    let load = ["-q", "-k", "-s", "30", "-n", "1000", "-c", "8"];
    let heard = run("ab", &[&load[..], &[&format!("{url}/")]].concat(), b"");
    let text = String::from_utf8(heard.out).expect("text");
    assert_eq!(number_after(&text, "Complete requests:"), 1_000, "{text}");
    assert_eq!(number_after(&text, "Failed requests:"), 0, "{text}");
    assert!(!text.contains("Non-2xx"), "{text}");

    let upload = vec![b'x'; 2_000_000];
    for path in ["/", "/stream"] {
        for how in [&["--data-binary", "@-"][..], &["-T", "-"]] {
            let heard = curl(&[how, &[&format!("{url}{path}")]].concat(), &upload);
            assert!(heard.out == body.as_bytes(), "{path} {how:?}");
        }
    }
    assert!(curl(&[&format!("{url}/old")], b"").out == body.as_bytes());
    let mut peer = Peer::to(proxy.address);
    peer.say(&[GET, HEAD, GET].concat());
    for is_head in [false, true, false] {
        let expected = if is_head { "" } else { &body };
        assert!(peer.hear(is_head).body == expected.as_bytes());
    }
    drop(peer);
    let complaints = proxy.end();
    assert!(!complaints.contains("upstream"), "{complaints}");
    let report = books(server, 1_000 + 4 + 1 + 3);
    // 8 at a time and one of its own for /old; a few more where uploads met.
    assert!(report.accepted <= 16, "{}", report.accepted);
}
