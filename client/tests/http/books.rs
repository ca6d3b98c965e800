//! The books: what the client says it asked and got, against what the server counted, with every
//! way of asking.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{Folder, count};
use crate::server::{HELLO, HttpServer};
use crate::{assert_outcomes, run, run_with};

#[test]
fn as_many_as_were_asked_for_over_any_number_of_threads() {
    for (users, threads, requests) in [("1", "2", 1), ("7", "2", 1_000), ("50", "3", 333)] {
        let server = HttpServer::saying(HELLO);
        let requests_text = requests.to_string();
        let args = [
            "--users",
            users,
            "--threads",
            threads,
            "--requests",
            &requests_text,
        ];
        let outcome = run(server.address(), &args);
        let last = outcome.last();
        assert_eq!(outcome.code(), Some(0), "{last:?}");
        assert_eq!(
            (last.requests, count(&last.outcomes, "ok")),
            (requests, requests)
        );
        assert_eq!(
            (server.asked(), count(&last.responses, "200")),
            (requests, requests)
        );
        assert_eq!(last.bytes_received, requests * HELLO.len() as u64);
        // One connection each; those that came when all was asked for had nothing to do.
        assert!(server.connections() <= users.parse().unwrap());
    }
}

#[test]
fn batch_is_sent_at_once_and_the_next_after_all_responses() {
    let server = HttpServer::saying(HELLO);
    let args = ["--users", "2", "--pipeline", "128", "--requests", "1000"];
    let last = run(
        server.address(),
        &[&args[..], &["--expect-body", "hello"]].concat(),
    )
    .last();
    server.assert_served(&last, 1_000);

    // A server that answers nothing before it has all of a batch would wait for ever for a client
    // that sends one by one.
    let held = Mutex::new(0);
    let server = HttpServer::start(move |_, stream| {
        let mut held = held.lock().unwrap();
        *held += 1;
        *held % 10 != 0 || stream.write_all(&HELLO.repeat(10)).is_ok()
    });
    let last = run(server.address(), &["--pipeline", "10", "--requests", "50"]).last();
    server.assert_served(&last, 50);
}

#[test]
fn requests_behind_the_last_response_of_a_connection_are_sent_again_or_closed_early() {
    let server = HttpServer::start(|asked, stream| {
        let answer: &[u8] = match asked.number {
            0..2 => HELLO,
            2 => b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
            _ => b"",
        };
        stream.write_all(answer).is_ok()
    });
    let args = ["--pipeline", "8", "--requests", "16"];
    let last = run(server.address(), &[&args[..], &["--no-retry"]].concat()).last();
    assert_outcomes(&last, [("ok", 6), ("closed_early", 10)]);
    assert_eq!(server.connections(), 2);
    // A POST may do something twice.
    let last = run(
        server.address(),
        &[&args[..], &["--method", "POST"]].concat(),
    )
    .last();
    assert_outcomes(&last, [("ok", 6), ("closed_early", 10)]);

    let outcome = run(server.address(), &args);
    let last = outcome.last();
    assert_outcomes(&last, [("ok", 16)]);
    // 5 and 2 of the first batch, then 7, 4 and 1 of the second one, which begins on the third
    // connection.
    assert_eq!((last.retried, outcome.code()), (5 + 2 + 7 + 4 + 1, Some(0)));
}

#[test]
fn a_connection_that_closes_as_a_request_is_sent_fails_no_idempotent_request() {
    // Every second request of a connection meets its end.
    let server =
        HttpServer::start(|asked, stream| asked.number == 0 && stream.write_all(HELLO).is_ok());
    let args = ["--requests", "6", "--users", "2"];
    let outcome = run(server.address(), &args);
    let last = outcome.last();
    assert_outcomes(&last, [("ok", 6)]);
    assert!(last.retried >= 4 && outcome.code() == Some(0), "{last:?}");
    for more in [&["--no-retry"][..], &["--method", "POST"]] {
        let args = ["--requests", "6"];
        let last = run(server.address(), &[&args[..], more].concat()).last();
        assert_outcomes(&last, [("ok", 3), ("closed_idle", 3)]);
        assert_eq!(last.retried, 0);
    }
    // A response that has begun is cut off: the server has acted on the request.
    let server = HttpServer::start(|asked, stream| {
        let answer = if asked.number == 0 {
            HELLO
        } else {
            &HELLO[..20]
        };
        stream.write_all(answer).is_ok() && asked.number == 0
    });
    let last = run(server.address(), &["--requests", "6"]).last();
    assert_outcomes(&last, [("ok", 3), ("closed_early", 3)]);
}

#[test]
fn one_connection_for_each_user_or_one_for_each_request() {
    let server = HttpServer::saying(HELLO);
    // The waits leave a thread that is scheduled late time to start its users.
    let args = ["--users", "4", "--requests", "200", "--wait", "20ms"];
    let last = run(server.address(), &args).last();
    assert_eq!((last.opened, server.connections()), (4, 4), "{last:?}");

    let server = HttpServer::start(|asked, stream| {
        let text = std::str::from_utf8(asked.bytes).unwrap();
        assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        false
    });
    let outcome = run(server.address(), &[&args[..], &["--no-keepalive"]].concat());
    let last = outcome.last();
    assert_eq!(outcome.code(), Some(0), "{last:?}");
    server.assert_served(&last, 200);
    // A connection more for each user whose next request was no longer to be.
    assert!((200..=204).contains(&last.opened), "{last:?}");
}

#[test]
fn server_closing_without_notice_loses_no_request() {
    let server = HttpServer::start(|asked, stream| {
        stream.write_all(HELLO).unwrap();
        asked.number < 4
    });
    let args = ["--users", "3", "--requests", "100"];
    let last = run(server.address(), &args).last();
    assert_outcomes(&last, [("ok", 100)]);
    let last = run(server.address(), &[&args[..], &["--no-retry"]].concat()).last();
    let lost = count(&last.outcomes, "closed_idle");
    assert_eq!(count(&last.outcomes, "ok") + lost, 100, "{last:?}");
    // Five answers a connection, then the request that met the end, if it had been sent.
    assert!(
        lost <= last.opened && count(&last.outcomes, "ok") >= 80,
        "{last:?}"
    );

    // Who waits sees the end before asking, and asks on another connection.
    let server = HttpServer::saying_once(HELLO);
    let args = ["--users", "3", "--requests", "9", "--wait", "150ms"];
    let last = run(server.address(), &args).last();
    assert_eq!(
        (count(&last.outcomes, "ok"), last.opened),
        (9, 9),
        "{last:?}"
    );
}

#[test]
fn answers_split_at_every_byte_are_the_same() {
    const CHUNKED: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    for answer in [HELLO, CHUNKED] {
        let next = AtomicUsize::new(1);
        let server = HttpServer::start(move |_, stream| {
            let at = next.fetch_add(1, Ordering::SeqCst);
            stream.write_all(&answer[..at]).unwrap();
            // Long enough that the first part is read alone, most times.
            std::thread::sleep(Duration::from_millis(2));
            stream.write_all(&answer[at..]).is_ok()
        });
        let requests = (answer.len() - 1).to_string();
        let args = ["--requests", &requests, "--expect-body", "hello"];
        let outcome = run(server.address(), &args);
        assert_eq!(outcome.code(), Some(0), "{:?}", outcome.last());
    }
}

#[test]
fn large_response_and_large_request_are_complete() {
    const BYTES: usize = 3_000_000;
    let server = HttpServer::start(|asked, stream| {
        let body = &asked.bytes[asked.bytes.len() - BYTES..];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
        stream.write_all(&[head.as_bytes(), body].concat()).is_ok()
    });
    let folder = Folder::new("http-body");
    let path = folder.file("body");
    std::fs::write(&path, vec![b'x'; BYTES]).unwrap();
    let args = [
        "--method",
        "POST",
        "--body-file",
        &path,
        "--requests",
        "4",
        "--users",
        "2",
    ];
    let outcome = run(server.address(), &args);
    let last = outcome.last();
    assert_eq!(outcome.code(), Some(0), "{last:?}");
    assert!(last.bytes_received > 4 * BYTES as u64);
}

#[test]
fn requests_match_the_flags() {
    let server = HttpServer::start(|asked, stream| {
        let text = std::str::from_utf8(asked.bytes).unwrap();
        let is_right = text.starts_with("PUT /a/b?c=d HTTP/1.1\r\nHost: 127.0.0.1:")
            && text.contains("\r\nX-One: 1\r\nX-Two: a: b\r\n")
            && text.ends_with("\r\nContent-Length: 4\r\n\r\nbody");
        let status = if is_right { "204 Right" } else { "400 Wrong" };
        write!(stream, "HTTP/1.1 {status}\r\n\r\n").is_ok()
    });
    let target = format!("http://{}/a/b?c=d", server.address());
    let args = [
        "--target",
        &target,
        "--method",
        "PUT",
        "--body",
        "body",
        "--requests",
        "1",
    ];
    let headers = ["--header", "X-One: 1", "--header", "X-Two: a: b"];
    let last = run_with(&[&args[..], &headers].concat()).last();
    assert_eq!(count(&last.responses, "204"), 1, "{last:?}");
}

#[test]
#[ignore = "needs python3: make test"]
fn responses_of_pythons_http_server_are_parsed() {
    let folder = Folder::new("http-python");
    std::fs::write(folder.file("path"), "hello").unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let python = std::process::Command::new("python3")
        .args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"])
        .args([folder.0.as_os_str(), address.port().to_string().as_ref()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut python = python.expect("python3 runs; next: make need");
    crate::common::until("python listens", || {
        std::net::TcpStream::connect(address).is_ok()
    });
    let args = ["--users", "3", "--requests", "30", "--expect-body", "hello"];
    let outcome = run(address, &args);
    let _ = python.kill();
    let _ = python.wait();
    let last = outcome.last();
    assert_eq!(
        (count(&last.outcomes, "ok"), outcome.code()),
        (30, Some(0)),
        "{last:?}"
    );
}
