//! When users ask: waits, the schedule and its backlog, latency from the due time, the warm-up, the
//! files that are left.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_telemetry::wire::HttpClientReport;

use crate::common::{Folder, count};
use crate::server::{HELLO, HttpServer};
use crate::{client, run};

/// A server that takes its time, for one request after the other.
fn slow(time: Duration) -> HttpServer {
    let one_at_a_time = Mutex::new(());
    HttpServer::start(move |_, stream| {
        let _turn = one_at_a_time.lock().unwrap();
        std::thread::sleep(time);
        stream.write_all(HELLO).is_ok()
    })
}

#[test]
fn users_wait_between_requests() {
    let (start, server) = (Instant::now(), HttpServer::saying(HELLO));
    let args = ["--users", "2", "--requests", "10", "--wait", "100ms..200ms"];
    let last = run(server.address(), &args).last();
    assert_eq!(count(&last.outcomes, "ok"), 10, "{last:?}");
    // Of ten requests one user has five at least, and so four waits.
    assert!(start.elapsed() >= Duration::from_millis(400), "{last:?}");
    assert!(last.measured_seconds >= 0.4, "{last:?}");
}

#[test]
fn without_a_wait_there_is_nothing_to_correct() {
    let server = HttpServer::saying(HELLO);
    let last = run(server.address(), &["--users", "1", "--requests", "500"]).last();
    assert_eq!(
        (last.latency_us.count, last.latency_raw_us.count),
        (500, 500)
    );
    // The first one was due before the connection was open.
    assert!(last.latency_us.max >= last.latency_raw_us.max, "{last:?}");
    assert_eq!((last.backlog_now, last.backlog_max), (0, 0));
}

#[test]
fn stall_counts_for_requests_not_sent_meanwhile() {
    let has_stalled = AtomicBool::new(false);
    let server = HttpServer::start(move |asked, stream| {
        if asked.number == 20 && !has_stalled.swap(true, Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1_000));
        }
        stream.write_all(HELLO).is_ok()
    });
    let args = ["--requests", "50", "--wait", "10ms"];
    let last = run(server.address(), &args).last();
    assert_eq!((last.measured_ok, last.latency_raw_us.count), (50, 50));
    // At least half of what was due in the stalled second (every 10 ms and the time of an answer),
    // at most what was due in all.
    let due_max = (last.measured_seconds * 100.0) as u64 + 1;
    assert!((55..=due_max).contains(&last.latency_us.count), "{last:?}");
    assert!(
        last.latency_raw_us.p50 < 500_000 && last.latency_us.max >= 1_000_000,
        "{last:?}"
    );
}

#[test]
fn the_schedule_does_not_wait_for_the_server() {
    // 100 requests a second are due, and 20 a second answered: the 40th comes 1.6 s late.
    let server = slow(Duration::from_millis(50));
    let last = run(
        server.address(),
        &["--users", "2", "--rate", "100", "--requests", "40"],
    )
    .last();
    assert_eq!(
        (count(&last.outcomes, "ok"), server.asked()),
        (40, 40),
        "nothing is dropped"
    );
    assert!(last.backlog_max >= 20 && last.backlog_now == 0, "{last:?}");
    assert_eq!((last.latency_us.count, last.latency_raw_us.count), (40, 40));
    assert!(last.latency_us.max >= 1_400_000, "{last:?}");
    assert!(
        last.latency_us.p50 > 2 * last.latency_raw_us.p50,
        "{last:?}"
    );
}

#[test]
fn what_is_due_and_not_sent_is_reported_as_backlog() {
    let server = slow(Duration::from_millis(50));
    let users = client(server.address(), &["--rate", "1000"]);
    let is_late = |r: &HttpClientReport| r.backlog_now > 500;
    let report = users.until("a backlog", is_late);
    assert!(report.backlog_max >= report.backlog_now, "{report:?}");
    // Sent or in the backlog: as many as the schedule has had due. A client that gets no core for a
    // while learns of it later.
    let due = |r: &HttpClientReport| r.measured_seconds * 1_000.0;
    let known = |r: &HttpClientReport| (r.requests + r.backlog_now) as f64;
    users.until("all that is due is known", |r| {
        (due(r) - known(r)).abs() <= 0.1 * due(r)
    });
    let outcome = users.stop();
    crate::assert_balanced(&outcome);
    let last = outcome.last();
    assert!(last.backlog_now >= report.backlog_now, "{last:?}");
    assert!(known(&last) <= due(&last) + 2.0, "{last:?}");
    assert_eq!(outcome.code(), Some(0), "late is not lost: {last:?}");
}

#[test]
fn kept_schedule_is_even_over_users_and_threads() {
    let server = HttpServer::saying(HELLO);
    let args = [
        "--users",
        "10",
        "--threads",
        "2",
        "--rate",
        "500",
        "--run-time",
        "1200ms",
    ];
    let last = run(server.address(), &args).last();
    assert!(
        last.requests <= 1 + (last.measured_seconds * 500.0) as u64,
        "{last:?}"
    );
    assert_eq!(last.requests, server.asked());
    let args = [&args[..6], &["--requests", "100", "--no-keepalive"]].concat();
    let server = HttpServer::saying_once(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    );
    let last = run(server.address(), &args).last();
    server.assert_served(&last, 100);
}

#[test]
fn what_ends_in_the_warm_up_is_not_measured() {
    let server = HttpServer::saying(HELLO);
    let args = [
        "--wait",
        "20ms",
        "--run-time",
        "1200ms",
        "--warm-up",
        "600ms",
    ];
    let last = run(server.address(), &args).last();
    let ok = count(&last.outcomes, "ok");
    assert!(last.measured_ok > 0 && last.measured_ok < ok, "{last:?}");
    assert_eq!(last.latency_raw_us.count, last.measured_ok);
    assert!((0.6..=20.0).contains(&last.measured_seconds), "{last:?}");
}

#[test]
fn json_and_histogram_files_equal_the_printed_report() {
    let folder = Folder::new("http-files");
    let (json, log) = (folder.file("client.json"), folder.file("client.hlog"));
    let server = HttpServer::saying(HELLO);
    let args = [
        "--requests",
        "100",
        "--json",
        &json,
        "--histogram-log",
        &log,
    ];
    let last = run(server.address(), &args).last();
    let written: HttpClientReport =
        serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(written, last);
    assert_eq!(last.schema, holdfast_telemetry::wire::HTTP_CLIENT_SCHEMA);
    let text = std::fs::read_to_string(log).unwrap();
    for tag in ["Tag=connect,", "Tag=latency,", "Tag=raw,"] {
        assert!(text.contains(tag), "{tag}: {text:.400}");
    }
}
