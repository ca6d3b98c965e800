//! Several servers: users, or requests, are shared out by weight, and failures are told apart.
//!
//! Bounds: users are shared out exactly; each thread takes turns of its own, so of n requests of a
//! schedule or of a connection each, every server has its share give or take the requests under way
//! (one for each user) and a turn for each thread.

use std::net::TcpListener;
use std::process::Command;

use holdfast_telemetry::wire::{HttpClientReport, HttpServerReport};

use crate::common::programs::Nginx;
use crate::common::{Folder, Outcome, ServerOf, count, program, subcommand, sum, until};
use crate::run_with;
use crate::server::{HELLO, HttpServer};

const USERS: u64 = 8;
const THREADS: u64 = 2;
/// How far the requests of a server may be from its share.
const BOUND: u64 = USERS + THREADS;

/// Runs users against the weighted URLs of a file.
fn run_file(name: &str, lines: &[(String, u64)], more: &[&str]) -> Outcome<HttpClientReport> {
    let folder = Folder::new(name);
    let file = folder.file("targets");
    let lines = lines
        .iter()
        .map(|(url, weight)| format!("{url} {weight}\n"));
    std::fs::write(&file, lines.collect::<String>()).expect("a file");
    let users = USERS.to_string();
    let args = ["--targets-file", &file, "--users", &users, "--threads", "2"];
    run_with(&[&args[..], more].concat())
}

fn assert_share(count: u64, all: u64, part: u64, whole: u64) {
    let share = all * part / whole;
    assert!(count.abs_diff(share) <= BOUND, "{count} instead of {share}");
}

#[test]
fn weights_are_honoured_with_and_without_kept_connections() {
    for more in [&["--no-keepalive"][..], &["--rate", "400"]] {
        let servers = [HttpServer::saying(HELLO), HttpServer::saying(HELLO)];
        let url = |server: usize, path| format!("http://{}{path}", servers[server].address());
        let lines = [(url(0, "/a"), 2), (url(1, "/"), 1), (url(0, "/b"), 1)];
        let args = [more, &["--requests", "800"]].concat();
        let done = run_file("http-several", &lines, &args);
        let last = done.last();
        assert_eq!(
            (done.code(), count(&last.outcomes, "ok")),
            (Some(0), 800),
            "{}",
            done.errors
        );
        assert_eq!(servers[0].asked() + servers[1].asked(), 800);
        assert_share(servers[0].asked(), 800, 3, 4);
        for (url, weight) in lines {
            assert_share(count(&last.targets[&url], "ok"), 800, weight, 4);
        }
        if more[0] == "--rate" {
            // Each user keeps to its server.
            assert_eq!(servers.each_ref().map(HttpServer::connections), [6, 2]);
        }
    }
}

#[test]
fn servers_may_differ_in_ip_version_and_one_that_is_down_is_named() {
    let up = HttpServer::on("[::1]:0".parse().unwrap(), |_, stream| {
        std::io::Write::write_all(stream, HELLO).is_ok()
    });
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let down = closed.local_addr().unwrap();
    drop(closed);
    let lines = [
        (format!("http://{}/", up.address()), 1),
        (format!("http://{down}/x"), 1),
    ];
    let more = ["--rate", "200", "--run-time", "2s"];
    let done = run_file("http-one-down", &lines, &more);
    let last = done.last();
    assert_eq!(done.code(), Some(1), "{}", done.errors);
    let [ok, refused] = [&lines[0].0, &lines[1].0].map(|url| &last.targets[url]);
    assert!(count(ok, "ok") > 100 && sum(ok) == count(ok, "ok") + count(ok, "stopped"));
    assert!(count(refused, "refused") > 0 && count(refused, "ok") == 0);
    let failed = &last.failed_by_target;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(
        count(&failed[&down.to_string()], "refused"),
        count(&last.failed, "refused")
    );
    // The same for people.
    let mut command = Command::new(program("holdfast-client"));
    command.args(["http", "--users", "4", "--rate", "100", "--run-time", "1s"]);
    for (url, _) in &lines {
        command.args(["--target", url]);
    }
    let output = command.output().expect("the client runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    for line in [
        format!("users of each server: {} 2, {down} 2", up.address()),
        format!("connecting failed: first refused by {down}"),
        format!("requests: http://{down}/x: refused "),
        format!("requests: http://{}/: ok ", up.address()),
    ] {
        assert!(said.contains(&line), "{line}: {said}");
    }
}

#[test]
fn too_few_users_for_kept_connections_are_refused_with_a_number_that_works() {
    let servers = [HttpServer::saying(HELLO), HttpServer::saying(HELLO)];
    let lines = servers
        .each_ref()
        .map(|s| format!("http://{}/", s.address()));
    let lines = [(lines[0].clone(), 19), (lines[1].clone(), 1)];
    let folder = Folder::new("http-few-users");
    let file = folder.file("targets");
    let text = lines
        .each_ref()
        .map(|(url, weight)| format!("{url} {weight}\n"));
    std::fs::write(&file, text.concat()).expect("a file");
    let run = |users: &str, more: &[&str]| {
        let args = [
            "--targets-file",
            &file,
            "--users",
            users,
            "--requests",
            "100",
        ];
        crate::Running::<HttpClientReport>::start(crate::command(&[&args[..], more].concat()))
            .outcome()
    };
    let refused = run("2", &[]);
    let address = servers[1].address().to_string();
    refused.assert_refused(&[&address, "no share of 2 users", "--no-keepalive"]);
    let (_, next) = refused.errors.split_once("give --users ").expect("advice");
    let users = next.split(' ').next().unwrap();
    assert_eq!(run(users, &[]).code(), Some(0), "--users {users}");
    assert_eq!(run("2", &["--no-keepalive"]).code(), Some(0));
}

#[test]
#[ignore = "needs nginx: make test"]
fn two_real_servers_count_their_shares() {
    let nginx = Nginx::start("http-two", "", "location / { return 200 ok; }");
    let ours = ServerOf::<HttpServerReport>::run(subcommand("holdfast-server", "http", &[]));
    let lines = [
        (format!("http://{}/n", nginx.address), 3),
        (format!("http://{}/o", ours.address), 1),
    ];
    let (mut of_nginx, mut of_ours) = (0, 0);
    for more in [&["--no-keepalive"][..], &["--rate", "2000"]] {
        let args = [more, &["--requests", "4000", "--expect-body", "ok"]].concat();
        let done = run_file("http-two-servers", &lines, &args);
        let last = done.last();
        assert_eq!(done.code(), Some(0), "{}", done.errors);
        of_nginx += count(&last.targets[&lines[0].0], "ok");
        of_ours += count(&last.targets[&lines[1].0], "ok");
        assert_share(count(&last.targets[&lines[0].0], "ok"), 4_000, 3, 4);
        assert_share(count(&last.targets[&lines[1].0], "ok"), 4_000, 1, 4);
    }
    assert_eq!(of_nginx + of_ours, 8_000);
    until("nginx has logged all", || {
        nginx.requests().lines().count() as u64 >= of_nginx
    });
    assert_eq!(nginx.requests().lines().count() as u64, of_nginx);
    let served = ours.running.stop().last();
    assert_eq!(sum(&served.responses), of_ours, "{served:?}");
}
