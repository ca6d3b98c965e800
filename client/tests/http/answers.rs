//! Every way an answer can be, each made by a server on purpose, and how the client names it.

use std::io::Write;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{count, own_address};
use crate::peer::{Peer, reset};
use crate::server::{HELLO, HttpServer};
use crate::{assert_outcomes, client, run, run_with};

/// Asks four times, and says that all four became `outcome`.
fn assert_all(server: &HttpServer, outcome: &str, more: &[&str]) {
    let args = [&["--requests", "4", "--users", "2"], more].concat();
    let done = run(server.address(), &args);
    let last = done.last();
    assert_eq!(
        (last.requests, count(&last.outcomes, outcome)),
        (4, 4),
        "{last:?}"
    );
    assert_eq!(server.asked(), 4, "{last:?}");
    let (ok, code) = if outcome == "ok" { (4, 0) } else { (0, 1) };
    assert_eq!((last.measured_ok, last.measured_failed), (ok, 4 - ok));
    assert_eq!(
        (last.latency_us.count, done.code()),
        (ok, Some(code)),
        "{last:?}"
    );
}

#[test]
fn every_framing_is_ok() {
    let hello = ["--expect-body", "hello"];
    assert_all(&HttpServer::saying(HELLO), "ok", &hello);
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\nX: y\r\n\r\n";
    assert_all(&HttpServer::saying(chunked), "ok", &hello);
    let until_close = b"HTTP/1.1 200 OK\r\n\r\nhello";
    assert_all(&HttpServer::saying_once(until_close), "ok", &hello);
    let early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    assert_all(&HttpServer::saying(early), "ok", &hello);
    let http10 = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    assert_all(&HttpServer::saying_once(http10), "ok", &hello);
}

#[test]
fn answers_without_a_body_are_ok_whatever_length_they_name() {
    let nothing = b"HTTP/1.1 204 No Content\r\n\r\n";
    assert_all(&HttpServer::saying(nothing), "ok", &[]);
    let unchanged = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n";
    assert_all(
        &HttpServer::saying(unchanged),
        "ok",
        &["--expect-status", "304"],
    );
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_all(&HttpServer::saying(head), "ok", &["--method", "HEAD"]);
}

#[test]
fn another_status_or_body_is_wrong() {
    let missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello";
    assert_all(&HttpServer::saying(missing), "wrong_status", &[]);
    assert_all(
        &HttpServer::saying(HELLO),
        "wrong_status",
        &["--expect-status", "201,3xx"],
    );
    for other in ["hell", "hello!", "hullo", ""] {
        assert_all(
            &HttpServer::saying(HELLO),
            "wrong_body",
            &["--expect-body", other],
        );
    }
}

#[test]
fn non_http_and_excess_bytes_are_malformed() {
    let shell = b"SSH-2.0-OpenSSH_9.9\r\n";
    assert_all(&HttpServer::saying(shell), "malformed", &[]);
    let long = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhello";
    assert_all(&HttpServer::saying(long), "malformed", &[]);
    let chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n";
    assert_all(&HttpServer::saying(chunk), "malformed", &[]);
    let upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n";
    assert_all(&HttpServer::saying(upgrade), "malformed", &[]);
    let endless = HttpServer::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        (0..5_000).all(|_| stream.write_all(b"X-Filler: 0123456789\r\n").is_ok())
    });
    assert_all(&endless, "malformed", &[]);
}

#[test]
fn unsolicited_response_counts_as_no_request() {
    let is_told = AtomicBool::new(false);
    let server = HttpServer::start(move |_, stream| {
        stream.write_all(HELLO).unwrap();
        if is_told.swap(true, Ordering::SeqCst) {
            return true;
        }
        // Longer than the client takes to read the first one, shorter than its wait.
        std::thread::sleep(Duration::from_millis(100));
        stream
            .write_all(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
            .is_ok()
    });
    let outcome = run(server.address(), &["--requests", "2", "--wait", "400ms"]);
    let last = outcome.last();
    assert_outcomes(&last, [("ok", 2)]);
    assert_eq!((last.unsolicited, server.asked()), (1, 2), "{last:?}");
    assert_eq!((server.connections(), outcome.code()), (2, Some(0)));
}

#[test]
fn a_malformed_response_has_a_reason_and_an_example() {
    let shell = b"SSH-2.0-OpenSSH_9.9\r\n";
    let last = run(HttpServer::saying(shell).address(), &["--requests", "3"]).last();
    assert_eq!(last.malformed.values().sum::<u64>(), 3, "{last:?}");
    let (reason, example) = last.malformed_examples.iter().next().expect("an example");
    assert!(last.malformed.contains_key(reason), "{last:?}");
    assert!(example.starts_with("SSH-2.0"), "{last:?}");
}

#[test]
fn oddities_are_tolerated_and_counted() {
    let answers: [(&[u8], &str); 5] = [
        (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", "bare_lf"),
        (
            b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
            "folded_line",
        ),
        (
            b"HTTP/1.3 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "minor_version",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n05\r\nhello\r\n0\r\n\r\n",
            "leading_zeros",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "length_beside_encoding",
        ),
    ];
    for (answer, kind) in answers {
        let args = ["--requests", "3", "--expect-body", "hello"];
        let last = run(HttpServer::saying(answer).address(), &args).last();
        assert_outcomes(&last, [("ok", 3)]);
        assert_eq!(count(&last.oddities, kind), 3, "{last:?}");
    }
}

#[test]
fn limits_of_a_head_are_flags() {
    let mut long = b"HTTP/1.1 200 OK\r\n".to_vec();
    (0..100).for_each(|n| long.extend(format!("X-{n}: {}\r\n", "x".repeat(300)).bytes()));
    long.extend(b"Content-Length: 5\r\n\r\nhello");
    let long: &'static [u8] = long.leak();
    for (outcome, more) in [
        ("ok", &[][..]),
        ("malformed", &["--response-headers-max", "64"]),
        ("malformed", &["--response-head-max", "16384"]),
    ] {
        assert_all(&HttpServer::saying(long), outcome, more);
    }
    let server = HttpServer::saying(long);
    let args = ["--requests", "1", "--response-headers-max", "64"];
    let last = run(server.address(), &args).last();
    assert_eq!(last.malformed.get("too_many_headers"), Some(&1));
}

#[test]
fn no_answer_or_a_part_of_one_is_timed_out() {
    let timeout = ["--timeout", "50ms"];
    assert_all(&HttpServer::saying(b""), "timed_out", &timeout);
    assert_all(
        &HttpServer::saying(b"HTTP/1.1 200 OK\r\nConte"),
        "timed_out",
        &timeout,
    );
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel";
    assert_all(&HttpServer::saying(half), "timed_out", &timeout);
    assert_all(
        &HttpServer::saying(b"HTTP/1.1 100 Continue\r\n\r\n"),
        "timed_out",
        &timeout,
    );
}

#[test]
fn an_end_before_the_answer_is_complete_is_closed_early() {
    assert_all(&HttpServer::saying_once(b""), "closed_early", &[]);
    assert_all(
        &HttpServer::saying_once(b"HTTP/1.1 200 OK\r\nConte"),
        "closed_early",
        &[],
    );
    let short = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello";
    assert_all(&HttpServer::saying_once(short), "closed_early", &[]);
    let chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    assert_all(&HttpServer::saying_once(chunk), "closed_early", &[]);
}

#[test]
fn reset_of_the_connection_is_counted_as_reset() {
    let server = HttpServer::start(|_, stream| {
        reset(stream.try_clone().expect("a descriptor"));
        false
    });
    assert_all(&server, "reset", &[]);
}

#[test]
fn missing_server_is_refused_and_found_once_it_starts() {
    let address = (own_address(), 8_080).into();
    let users = client(address, &["--users", "3", "--timeout", "20s"]);
    users.until("each refused", |r| count(&r.outcomes, "refused") >= 3);
    let server = HttpServer::on(address, |_, stream| stream.write_all(HELLO).is_ok());
    users.until("all served", |r| {
        r.open_now == 3 && count(&r.outcomes, "ok") > 100
    });
    let outcome = users.stop();
    crate::assert_balanced(&outcome);
    let last = outcome.last();
    assert_eq!(
        count(&last.failed, "refused"),
        count(&last.outcomes, "refused")
    );
    let sent = last.requests - count(&last.outcomes, "refused");
    assert!(
        server.asked() >= sent - 3 && server.asked() <= sent,
        "{last:?}"
    );
    assert_eq!(outcome.code(), Some(1), "some were refused");
}

#[test]
fn foreign_source_address_is_named() {
    let server = HttpServer::saying(HELLO);
    let target = format!("http://{}", server.address());
    let args = [
        "--target",
        &target,
        "--source",
        "192.0.2.77",
        "--requests",
        "2",
    ];
    let outcome = run_with(&args);
    let last = outcome.last();
    assert_eq!(count(&last.outcomes, "address_not_ours"), 2, "{last:?}");
    assert_eq!(outcome.code(), Some(1));
}

#[test]
fn what_is_under_way_at_the_end_is_stopped_and_no_failure() {
    // A listener nobody accepts from: connections open, and nothing is ever said.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let args = ["--users", "5", "--drain-timeout", "100ms"];
    let users = client(silent.local_addr().unwrap(), &args);
    users.until("all asked", |r| r.pending_now == 5);
    let outcome = users.stop();
    crate::assert_balanced(&outcome);
    assert_eq!(count(&outcome.last().outcomes, "stopped"), 5);
    assert_eq!(outcome.code(), Some(1), "nothing was ok");

    let server =
        HttpServer::start(|asked, stream| asked.number > 0 || stream.write_all(HELLO).is_ok());
    let users = client(server.address(), &["--users", "5"]);
    users.until("all asked twice", |r| r.requests == 10);
    let outcome = users.stop();
    crate::assert_balanced(&outcome);
    let last = outcome.last();
    assert_outcomes(&last, [("ok", 5), ("stopped", 5)]);
    assert_eq!(outcome.code(), Some(0), "{last:?}");
}

#[test]
fn server_that_only_accepts_and_closes_gets_backed_off_attempts() {
    let peer = Peer::start(|_, _| None);
    let outcome = run(peer.address, &["--users", "10", "--run-time", "1500ms"]);
    let last = outcome.last();
    assert!(
        count(&last.outcomes, "ok") == 0 && last.requests >= 10,
        "{last:?}"
    );
    // Pauses of at least 50, 100, 200, 400 and 800 ms: a sixth attempt starts after 1.5 s.
    assert!(last.attempts <= 10 * 6, "{last:?}");
}

#[test]
fn several_urls_take_turns_and_are_accounted_for_apart() {
    let server = HttpServer::start(|asked, stream| {
        let is_there = asked.bytes.starts_with(b"GET /there ");
        assert!(is_there || asked.bytes.starts_with(b"GET /missing "));
        let missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        let answer = if is_there { HELLO } else { &missing[..] };
        stream.write_all(answer).is_ok()
    });
    let url = |path: &str| format!("http://{}/{path}", server.address());
    let (there, missing) = (url("there"), url("missing"));
    let own = own_address().to_string();
    let common = [
        "--source",
        &own,
        "--requests",
        "40",
        "--users",
        "2",
        "--threads",
        "1",
    ];
    let turns = [&["--target", &there, "--target", &missing], &common[..]];
    let file = std::env::temp_dir().join(format!("holdfast-targets-{}", std::process::id()));
    std::fs::write(&file, format!("{there} 3\n\n# less\n{missing}\n")).unwrap();
    let path = file.display().to_string();
    let weights = [&["--targets-file", &path], &common[..]];
    for (args, found) in [(turns.concat(), 20), (weights.concat(), 30)] {
        let done = run_with(&args);
        let last = done.last();
        assert_outcomes(&last, [("ok", found), ("wrong_status", 40 - found)]);
        assert_eq!(count(&last.targets[&there], "ok"), found, "{last:?}");
        assert_eq!(count(&last.targets[&missing], "wrong_status"), 40 - found);
    }
    std::fs::remove_file(file).unwrap();
}
