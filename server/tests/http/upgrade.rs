//! SIGUSR2: a new process takes over the port, and no request fails.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_telemetry::wire::HttpClientReport;
use nix::sys::signal::Signal;

use crate::common::service::Service;
use crate::common::{PATIENCE, Running, count, subcommand, sum, until};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const GET_AND_CLOSE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One response of the server; true if it says that the connection closes.
fn read_response(stream: &mut TcpStream) -> bool {
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\nok") {
        let mut byte = [0];
        let received = stream.read(&mut byte).expect("a response");
        assert_eq!(received, 1, "an end in the middle of {response:?}");
        response.push(byte[0]);
    }
    assert!(response.starts_with(b"HTTP/1.1 200 "), "{response:?}");
    let text = String::from_utf8(response).expect("text");
    text.contains("\r\nConnection: close\r\n")
}

/// A connection for each request, until the end; returns how many.
fn keep_asking(address: SocketAddr, is_over: Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut count = 0;
        while !is_over.load(Ordering::Relaxed) {
            let mut stream = connect(address);
            stream.write_all(GET_AND_CLOSE).expect("the server reads");
            read_response(&mut stream);
            count += 1;
        }
        count
    })
}

#[test]
fn upgrades_under_load_fail_no_request() {
    let mut service = Service::start("http-upgrade", &["http", "--threads", "2"]);
    let address = service.address;
    let is_over = Arc::default();
    let loops = [(); 3].map(|()| keep_asking(address, Arc::clone(&is_over)));
    // Users who keep their connections, and wait between requests for longer than a stopping server
    // would.
    let url = format!("http://{address}/");
    let args = [
        "--users",
        "40",
        "--wait",
        "1ms..900ms",
        "--run-time",
        "60s",
        "--no-retry",
        "--target",
        &url,
    ];
    let load = Running::<HttpClientReport>::start(subcommand("holdfast-client", "http", &args));
    load.until("responses", |r| count(&r.outcomes, "ok") > 100);
    let mut old = Vec::new();
    for _ in 0..4 {
        old.push(service.upgrade());
        std::thread::sleep(Duration::from_millis(300));
    }
    for pid in old {
        service.until_ended(pid);
    }
    let answered = count(&load.last().outcomes, "ok");
    load.until("more responses", |r| {
        count(&r.outcomes, "ok") > answered + 100
    });
    is_over.store(true, Ordering::Relaxed);
    let asked = loops.map(|l| l.join().expect("no request failed"));
    let last = load.stop().last();
    let answered = count(&last.outcomes, "ok");
    let stopped = count(&last.outcomes, "stopped");
    assert_eq!(
        answered + stopped,
        sum(&last.outcomes),
        "{:?}",
        last.outcomes
    );
    assert_eq!(sum(&last.failed), 0, "{:?}", last.failed);
    service.stop();
    // Every process says what it did: together they answered everything.
    let reports = service.reports();
    let finals = reports.iter().filter(|r| r["is_final"] == true);
    let served: Vec<u64> = finals
        .map(|r| r["responses"]["200"].as_u64().unwrap_or(0))
        .collect();
    assert_eq!(served.len(), 5, "{served:?}");
    assert!(served.iter().all(|s| *s > 0), "{served:?}");
    let all = asked.iter().sum::<u64>() + answered;
    let by_servers: u64 = served.iter().sum();
    assert!(
        (all..=all + stopped).contains(&by_servers),
        "{by_servers} of {all}"
    );
}

#[test]
fn old_process_answers_idle_connections_once_more() {
    let mut service = Service::start("http-idle", &["http", "--threads", "1"]);
    let mut idle = connect(service.address);
    idle.write_all(GET).unwrap();
    assert!(!read_response(&mut idle));
    std::thread::sleep(Duration::from_millis(700));
    let old = service.upgrade();
    std::thread::sleep(Duration::from_secs(2));
    assert!(service.is_running(old), "it has a connection");
    idle.write_all(GET).unwrap();
    assert!(read_response(&mut idle), "the response says close");
    assert_eq!(idle.read(&mut [0]).expect("FIN"), 0);
    drop(idle);
    service.until_ended(old);
}

#[test]
fn failed_upgrade_is_said_and_changes_nothing() {
    let mut service = Service::start("http-failed", &["http", "--threads", "1"]);
    let path = service.folder.file("holdfast-server");
    let broken = service.folder.file("broken");
    std::fs::write(&broken, "#!/bin/sh\nexit 7\n").unwrap();
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    let good = service.folder.file("good");
    std::fs::rename(&path, &good).unwrap();
    let said = |service: &Service, text: &str| {
        service.signal(Signal::SIGUSR2);
        until(text, || {
            let errors = service.errors();
            let mut lines = errors.lines().filter(|l| l.contains("still serving"));
            lines.any(|l| l.contains(text) && l.contains("; next: "))
        });
        let mut stream = connect(service.address);
        stream.write_all(GET).unwrap();
        read_response(&mut stream);
    };
    said(&service, "No such file");
    std::fs::rename(&broken, &path).unwrap();
    said(&service, "exit status: 7");
    // The path leads to a program again: the next signal succeeds.
    std::fs::rename(&good, &path).unwrap();
    let old = service.upgrade();
    service.until_ended(old);
    let mut stream = connect(service.address);
    stream.write_all(GET_AND_CLOSE).unwrap();
    read_response(&mut stream);
}

/// Metrics of the new process are at the same port as soon as it serves.
#[test]
fn metrics_move_to_the_new_process() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = port.local_addr().unwrap();
    drop(port);
    let text = metrics.to_string();
    let mut service = Service::start("http-metrics", &["http", "--metrics", &text]);
    let scrape = || {
        let mut stream = connect(metrics);
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("a page");
        let line = page
            .lines()
            .find(|l| l.starts_with("process_start_time_seconds "));
        line.map(str::to_owned)
    };
    let before = scrape();
    std::thread::sleep(Duration::from_millis(1_100));
    let old = service.upgrade();
    let after = scrape();
    assert!(
        before.is_some() && after.is_some() && before != after,
        "{before:?} {after:?}"
    );
    service.until_ended(old);
    assert_eq!(scrape(), after);
}

/// A signal is heard from the moment that anybody can connect.
#[test]
fn signal_while_the_port_is_waited_for_ends_with_a_message() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let command = subcommand("holdfast-server", "http", &["--listen", &address]);
    let mut running = Running::<HttpClientReport>::start(command);
    std::thread::sleep(Duration::from_millis(250));
    running.signal(Signal::SIGTERM);
    let status = running.ended(PATIENCE);
    // Refused, if the port was not waited for any more when the signal came.
    let errors = running.errors();
    match status.code() {
        Some(130) => assert!(
            errors.contains("interrupted while waiting for port"),
            "{errors}"
        ),
        code => assert_eq!(code, Some(2), "{errors}"),
    }
}
