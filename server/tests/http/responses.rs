//! What is answered: body, status, headers, date, connection, byte by byte.

use std::time::{Duration, SystemTime};

use crate::common::{Folder, Random, until};
use crate::peer::{Answer, GET, HEAD, Peer, answer, answers};
use crate::programs::run;
use crate::{Server, books};

fn file_of(folder: &Folder, bytes: usize) -> (String, Vec<u8>) {
    let body = Random(bytes as u64).bytes(bytes);
    let file = folder.file(&format!("body-{bytes}"));
    std::fs::write(&file, &body).expect("a file");
    (file, body)
}

#[test]
#[ignore = "needs curl: make test"]
fn files_of_every_size_arrive_byte_by_byte() {
    let folder = Folder::new("http-files");
    // Up to 4,096 bytes a body is sent with its head.
    for size in [0, 1, 4_096, 4_097, 5_000, 20_000_000] {
        let (file, body) = file_of(&folder, size);
        let server = Server::start(&["--body-file", &file]);
        let url = format!("http://{}/", server.address);
        let heard = run("curl", &["-sS", "--max-time", "60", &url], b"");
        assert!(heard.out == body, "{size} bytes through curl");
        let mut peer = Peer::new(&server);
        let whole = peer.ask(GET);
        assert!(whole.body == body, "{size} bytes");
        let head = peer.ask(HEAD);
        assert_eq!(head.body, b"");
        let headers = |answer: Answer| answer.without_date().headers;
        assert_eq!(headers(head), headers(whole));
        assert_eq!(peer.finish(), b"");
        books(server, 3);
    }
}

#[test]
fn twenty_large_answers_in_a_row_arrive_whole() {
    let folder = Folder::new("http-row");
    for size in [4_096, 100_000] {
        let (file, body) = file_of(&folder, size);
        let server = Server::start(&["--body-file", &file]);
        let mut peer = Peer::new(&server);
        peer.say(&[GET, HEAD].concat().repeat(20));
        let all = answers(&peer.finish(), &[false, true].repeat(20));
        assert_eq!(all.len(), 40);
        for pair in all.chunks(2) {
            assert!(pair[0].body == body && pair[1].body.is_empty());
        }
        books(server, 40);
    }
}

#[test]
#[ignore = "needs curl: make test"]
fn status_headers_and_body_are_as_asked() {
    for (status, reason, body) in [
        ("200", "OK", "hello"),
        ("204", "No Content", ""),
        ("304", "Not Modified", ""),
        ("404", "Not Found", "hello"),
        ("599", "", "hello"),
    ] {
        let added = ["--header", "X-One: 1", "--header", "x-two:  2 : 3 "];
        let server =
            Server::start(&[&["--status", status, "--body", "hello"], &added[..]].concat());
        let url = format!("http://{}/", server.address);
        let heard = run("curl", &["-sSi", "--max-time", "60", &url], b"");
        let text = String::from_utf8(heard.out).expect("text");
        let first = format!("HTTP/1.1 {status} {reason}\r\n");
        assert!(text.starts_with(&first), "{text}");
        assert!(text.contains("\r\nX-One: 1\r\n") && text.contains("\r\nx-two: 2 : 3\r\n"));
        assert!(text.ends_with(&format!("\r\n\r\n{body}")), "{text}");
        let mut peer = Peer::new(&server);
        let answer = peer.ask(GET);
        assert_eq!(answer.body, body.as_bytes());
        let kind = (!body.is_empty()).then_some("text/plain");
        assert_eq!(answer.header("Content-Type"), kind);
        assert_eq!(peer.ask(HEAD).status.to_string(), status);
        assert_eq!(peer.finish(), b"");
        let report = books(server, 3);
        assert_eq!(report.responses[status], 3);
    }
    let server = Server::start(&["--header", "content-type: image/png"]);
    let answer = Peer::new(&server).ask(GET);
    assert_eq!(answer.header("Content-Type"), Some("image/png"));
    books(server, 1);
}

#[test]
fn date_header_is_current() {
    let server = Server::start(&[]);
    let mut peer = Peer::new(&server);
    let mut asked = 0;
    let mut date = || {
        asked += 1;
        let answer = peer.ask(GET);
        let text = answer.header("Date").expect("a date").to_owned();
        let date = httpdate::parse_http_date(&text).expect("a date");
        #[expect(
            clippy::disallowed_methods,
            reason = "what the Date header is compared with"
        )]
        let now = SystemTime::now();
        let off = now.duration_since(date).unwrap_or_else(|e| e.duration());
        // Its own second, a tenth until it is rendered again, and a loaded machine.
        assert!(off < Duration::from_secs(5), "{text} is off by {off:?}");
        date
    };
    let first = date();
    let mut last = first;
    until("another date", || {
        let next = date();
        assert!(next >= last, "it goes back");
        last = next;
        last > first
    });
    drop(peer);
    books(server, asked);
}

#[test]
fn connection_persists_until_either_side_closes() {
    let server = Server::start(&[]);
    let (close, keep) = (Some("close"), Some("keep-alive"));
    let table: [(&[u8], Option<&str>); 8] = [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
            None,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n",
            close,
        ),
        (b"GET / HTTP/1.0\r\n\r\n", close),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", keep),
        (
            b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
            close,
        ),
        (b"HEAD / HTTP/1.0\r\n\r\n", close),
        (b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi", close),
    ];
    for (request, said) in table {
        let mut peer = Peer::new(&server);
        let shown = request.escape_ascii();
        assert_eq!(peer.ask(request).header("Connection"), said, "{shown}");
        if said == close {
            assert_eq!(peer.hear_all(), b"", "{shown}");
        } else {
            assert_eq!(peer.ask(request).header("Connection"), said, "{shown}");
            assert_eq!(peer.finish(), b"", "{shown}");
        }
    }
    books(server, 8 + 3);
}

/// The only answer to a request, and what follows it.
fn only_answer(server: &Server, request: &[u8], is_head: bool) -> Answer {
    let mut peer = Peer::new(server);
    peer.say(request);
    let heard = peer.finish();
    let (answer, length) = answer(&heard, is_head).expect("an answer");
    assert_eq!(length, heard.len(), "{:?}", String::from_utf8_lossy(&heard));
    answer
}

#[test]
fn a_refused_head_has_no_content() {
    let server = Server::start(&[]);
    let with = |line: &str| format!("HEAD / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
    let requests = [
        (400, with("Host: a")),
        (417, with("Expect: x")),
        (501, with("Transfer-Encoding: gzip, chunked")),
        (413, with("Content-Length: 99999999999")),
        (431, with(&"X: y\r\n".repeat(70))),
        (
            414,
            with("").replace("/ ", &format!("/{} ", "a".repeat(9_000))),
        ),
        (400, format!("\r\n{}", with("Host: a"))),
    ];
    for (status, request) in &requests {
        let answer = only_answer(&server, request.as_bytes(), true);
        assert_eq!(answer.status, *status, "{request}");
        assert!(answer.says_close() && answer.body.is_empty());
    }
    books(server, requests.len() as u64);
}

#[test]
fn connect_is_not_implemented_and_closes() {
    let server = Server::start(&[]);
    let request = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
    let answer = only_answer(&server, request, false);
    assert!(answer.status == 501 && answer.says_close());
    books(server, 1);
}

#[test]
fn a_status_without_content_never_has_any() {
    for (status, length) in [("204", None), ("205", Some("0")), ("304", None)] {
        let server = Server::start(&["--status", status, "--body", "hello"]);
        let mut peer = Peer::new(&server);
        let answer = peer.ask(HEAD);
        assert_eq!(answer.header("Content-Length"), length);
        peer.say(GET);
        let heard = peer.finish();
        assert!(heard.ends_with(b"\r\n\r\n"), "{status}");
        books(server, 2);
    }
}
