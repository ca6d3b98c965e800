//! Real servers, and what they counted themselves: nginx, and `holdfast-server http`.

use std::collections::BTreeSet;

use holdfast_telemetry::wire::{HttpClientReport, HttpServerReport};

use crate::common::programs::Nginx;
use crate::common::{Folder, ServerOf, count, subcommand, sum, until};
use crate::run_with;

/// Bytes of a body that takes many reads and writes.
const LARGE: usize = 3_000_000;

/// Asks nginx for a path `requests` times; all become `outcome`, and nginx has logged as many with
/// this method and status. Gives the report and the connections they came on.
fn ask(
    nginx: &Nginx,
    path: &str,
    requests: usize,
    (outcome, method, status): (&str, &str, &str),
    more: &[&str],
) -> (HttpClientReport, usize) {
    let before = nginx.requests().lines().count();
    let target = format!("http://{}{path}", nginx.address);
    let (source, count_text) = (nginx.address.ip().to_string(), requests.to_string());
    let args = ["--target", &target, "--source", &source, "--users", "4"];
    let asking = ["--requests", &count_text, "--method", method];
    let done = run_with(&[&args[..], &asking, more].concat());
    let last = done.last();
    assert_eq!(
        (last.requests, count(&last.outcomes, outcome)),
        (requests as u64, requests as u64),
        "{last:?}"
    );
    assert_eq!(count(&last.responses, status), requests as u64, "{last:?}");
    let code = i32::from(outcome != "ok");
    assert_eq!(done.code(), Some(code), "{last:?}");
    // It logs a request once it has answered it.
    until("nginx has logged all", || {
        nginx.requests().lines().count() >= before + requests
    });
    let log = nginx.requests();
    let expected = format!(" {method} {path} {status} ");
    let new = || log.lines().skip(before);
    let right = new().filter(|line| line.contains(&expected));
    assert_eq!((right.count(), new().count()), (requests, requests));
    let connections: BTreeSet<_> = new().map(|line| line.split(' ').next()).collect();
    (last, connections.len())
}

#[test]
#[ignore = "needs nginx: make test"]
fn nginx_counts_what_the_client_counts() {
    let folder = Folder::new("http-of-nginx");
    let body = folder.file("large");
    std::fs::write(&body, vec![b'x'; LARGE]).expect("a file");
    std::fs::write(folder.file("path"), "hello").expect("a file");
    // Of its own accord it takes a body only to hand it on.
    let locations = format!(
        "location / {{ root {}; }}
        location /early {{ return 200 hello; }}
        location /upload {{
            proxy_pass http://$server_addr:$server_port/unlogged;
            proxy_method GET; proxy_pass_request_body off; proxy_set_header Content-Length '';
        }}
        location /unlogged {{ access_log off; return 200 hello; }}",
        folder.0.display()
    );
    let nginx = Nginx::start("http-nginx", "", &locations);
    let hello = ["--expect-body", "hello"];
    let with = |more: &[&'static str]| [&hello, more].concat();
    let get = ("ok", "GET", "200");

    let (last, connections) = ask(&nginx, "/path", 400, get, &hello);
    assert!(last.opened <= 4 && connections <= 4, "{last:?}");
    let (last, connections) = ask(&nginx, "/path", 200, get, &with(&["--no-keepalive"]));
    assert_eq!(connections, 200, "{last:?}");
    let (last, connections) = ask(&nginx, "/path", 400, get, &with(&["--pipeline", "8"]));
    assert!(last.opened <= 4 && connections <= 4, "{last:?}");
    // The last of each batch says that it is.
    let batches = with(&["--no-keepalive", "--pipeline", "8"]);
    let (last, connections) = ask(&nginx, "/path", 84, get, &batches);
    assert!((11..=14).contains(&connections), "{last:?}");

    let (last, _) = ask(&nginx, "/large", 8, get, &[]);
    assert!(last.bytes_received > 8 * LARGE as u64, "{last:?}");
    let (last, _) = ask(&nginx, "/path", 100, ("ok", "HEAD", "200"), &[]);
    assert!(last.bytes_received > 0, "{last:?}");
    ask(&nginx, "/missing", 20, ("wrong_status", "GET", "404"), &[]);
    let expecting = ["--expect-status", "404"];
    ask(&nginx, "/missing", 20, ("ok", "GET", "404"), &expecting);

    let post = [&hello[..], &["--body-file", &body]].concat();
    let before = nginx.requests().lines().count();
    ask(&nginx, "/upload", 8, ("ok", "POST", "200"), &post);
    for line in nginx.requests().lines().skip(before) {
        let bytes: usize = line.rsplit(' ').next().unwrap().parse().expect("a number");
        assert!(bytes > LARGE, "{line}");
    }
    // Answered with the head, and taken all the same.
    ask(&nginx, "/early", 8, ("ok", "POST", "200"), &post);

    let log = nginx.requests();
    assert_eq!(
        log.lines().count(),
        400 + 200 + 400 + 84 + 8 + 100 + 40 + 16
    );
    let complaints = nginx.end();
    assert!(!complaints.contains("[error]"), "{complaints}");
}

#[test]
fn our_own_server_counts_the_same_over_ipv6() {
    let mut command = subcommand("holdfast-server", "http", &[]);
    command.args(["--listen", "[::1]:0"]);
    let server = ServerOf::<HttpServerReport>::run(command);
    let target = format!("http://{}/path", server.address);
    let args = ["--target", &target, "--users", "20", "--pipeline", "4"];
    let more = ["--requests", "2000", "--expect-body", "ok"];
    let done = run_with(&[&args[..], &more].concat());
    let (last, code) = (done.last(), done.code());
    let ok = count(&last.outcomes, "ok");
    assert_eq!(
        (last.requests, ok, code),
        (2_000, 2_000, Some(0)),
        "{last:?}"
    );
    let served = server.running.stop().last();
    assert_eq!(sum(&served.responses), 2_000, "{served:?}");
    assert_eq!(count(&served.responses, "200"), 2_000, "{served:?}");
    assert_eq!(served.accepted, last.opened, "{served:?}");
    assert_eq!(sum(&served.closed), served.accepted, "{served:?}");
}
