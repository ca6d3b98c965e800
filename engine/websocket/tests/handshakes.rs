//! Opening handshakes: between our two ends, with an independent crate, and what must be refused.

use holdfast_http1::Malformed;
use holdfast_websocket::{
    REQUEST_LIMITS, UpgradeFailure, UpgradeTarget, accept_key, parse_upgrade_request,
    parse_upgrade_response, write_refusal, write_upgrade_request, write_upgrade_response,
};

const KEY: [u8; 16] = *b"the sample nonce";

fn request(target: &UpgradeTarget<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_upgrade_request(&mut bytes, target, &KEY);
    bytes
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn both_ends_agree_wherever_the_bytes_are_cut() {
    let protocols = names(&["chat.v2", "chat"]);
    let headers = [("Origin".to_owned(), "http://example.org".to_owned())];
    let target = UpgradeTarget {
        host: "example.org:8080",
        path: "/room?id=1",
        protocols: &protocols,
        headers: &headers,
    };
    let bytes = request(&target);
    for end in 0..bytes.len() {
        assert!(matches!(
            parse_upgrade_request(&bytes[..end], &REQUEST_LIMITS),
            Ok(None)
        ));
    }
    let read = parse_upgrade_request(&bytes, &REQUEST_LIMITS)
        .expect("valid")
        .expect("complete");
    assert_eq!(read.length, bytes.len());
    assert_eq!((read.target, read.path()), ("/room?id=1", "/room"));
    assert_eq!(
        (read.host, read.origin),
        ("example.org:8080", Some("http://example.org"))
    );
    assert_eq!(read.protocols().collect::<Vec<_>>(), ["chat.v2", "chat"]);

    let mut response = Vec::new();
    write_upgrade_response(&mut response, &read, Some("chat"));
    let whole = [&response[..], b"\x81\x02hi"].concat();
    for end in 0..response.len() {
        assert_eq!(
            parse_upgrade_response(&whole[..end], &KEY, &protocols),
            Ok(None)
        );
    }
    let agreed = parse_upgrade_response(&whole, &KEY, &protocols)
        .expect("valid")
        .expect("complete");
    assert_eq!(
        (agreed.length, agreed.protocol),
        (response.len(), Some("chat"))
    );
    // Informational responses come before it.
    let late = [b"HTTP/1.1 103 Early Hints\r\n\r\n", &response[..]].concat();
    assert_eq!(
        parse_upgrade_response(&late, &KEY, &protocols)
            .unwrap()
            .unwrap()
            .length,
        late.len()
    );
}

#[test]
fn tungstenite_accepts_our_request_and_our_response() {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut bytes = Vec::new();
        let response = loop {
            let mut buffer = [0; 512];
            let length = stream.read(&mut buffer).expect("a request");
            bytes.extend_from_slice(&buffer[..length]);
            if let Some(request) = parse_upgrade_request(&bytes, &REQUEST_LIMITS).expect("valid") {
                let mut response = Vec::new();
                write_upgrade_response(&mut response, &request, None);
                break response;
            }
        };
        stream.write_all(&response).expect("sent");
        // Ours is the client now, theirs the server.
        let (stream, _) = listener.accept().expect("another client");
        drop(tungstenite::accept(stream).expect("upgraded"));
    });
    let stream = TcpStream::connect(address).expect("connected");
    let url = format!("ws://{address}/path");
    let (_, response) = tungstenite::client(url, stream).expect("upgraded");
    assert_eq!(response.status(), 101);

    let mut stream = TcpStream::connect(address).expect("connected");
    let host = address.to_string();
    let target = UpgradeTarget {
        host: &host,
        path: "/",
        ..UpgradeTarget::default()
    };
    stream.write_all(&request(&target)).expect("sent");
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 512];
        let length = stream.read(&mut buffer).expect("a response");
        assert!(length > 0, "closed before it upgraded");
        bytes.extend_from_slice(&buffer[..length]);
        if parse_upgrade_response(&bytes, &KEY, &[])
            .expect("valid")
            .is_some()
        {
            break;
        }
    }
    server.join().expect("the server");
}

#[test]
fn requests_that_do_not_mean_websocket_get_the_right_status() {
    let target = UpgradeTarget {
        host: "a",
        path: "/",
        ..UpgradeTarget::default()
    };
    let valid = String::from_utf8(request(&target)).expect("ASCII");
    let cases = [
        ("GET ", "PUT ", 405),
        ("HTTP/1.1", "HTTP/1.0", 505),
        ("Upgrade: websocket", "Upgrade: h2c", 426),
        ("Connection: Upgrade", "Connection: keep-alive", 426),
        ("Version: 13", "Version: 8", 426),
        (
            "Version: 13",
            "Version: 13\r\nSec-WebSocket-Version: 13",
            426,
        ),
        ("Key: dGhl", "Key: dGh", 400),
        ("Key: dGhl", "Key: !Ghl", 400),
        ("Host: a", "Hist: a", 400),
        ("Host: a", "Host: a\r\nContent-Length: 1", 413),
        ("Host: a", "Host: a\r\nOrigin: b\r\nOrigin: c", 400),
        ("GET / ", "GET /#a ", 400),
    ];
    for (from, to, status) in cases {
        assert!(valid.contains(from), "{from}");
        let bytes = valid.replacen(from, to, 1).into_bytes();
        let error = parse_upgrade_request(&bytes, &REQUEST_LIMITS).expect_err(to);
        assert_eq!(error.status, status, "{to}: {}", error.reason);
        let mut response = Vec::new();
        write_refusal(&mut response, &error);
        let refused = parse_upgrade_response(&response, &KEY, &[]);
        assert_eq!(refused, Err(UpgradeFailure::Status(status)));
    }
    let long = valid.replacen("GET /", &format!("GET /{}", "a".repeat(5_000)), 1);
    let error = parse_upgrade_request(long.as_bytes(), &REQUEST_LIMITS).expect_err("long");
    assert_eq!(error.status, 414);
    let long = valid.replacen(
        "Host: a",
        &format!("Host: a\r\nB: {}", "b".repeat(9_000)),
        1,
    );
    let error = parse_upgrade_request(long.as_bytes(), &REQUEST_LIMITS).expect_err("long");
    assert_eq!(error.status, 431);
}

#[test]
fn responses_that_do_not_upgrade_are_refused() {
    let accept = accept_key(b"dGhlIHNhbXBsZSBub25jZQ==");
    let accept = str::from_utf8(&accept).expect("ASCII");
    let valid = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    let offered = names(&["chat"]);
    let read =
        |text: &str| parse_upgrade_response(text.as_bytes(), &KEY, &offered).map(|r| r.is_some());
    assert_eq!(read(&valid), Ok(true));
    let cases = [
        (
            "101 Switching Protocols",
            "200 OK",
            UpgradeFailure::Status(200),
        ),
        (
            "101 Switching Protocols",
            "404 Not Found",
            UpgradeFailure::Status(404),
        ),
        (
            "Upgrade: WebSocket",
            "Upgrade: h2c",
            UpgradeFailure::NotUpgraded,
        ),
        (
            "keep-alive, upgrade",
            "keep-alive",
            UpgradeFailure::NotUpgraded,
        ),
        ("Accept: s", "Accept: S", UpgradeFailure::WrongAccept),
        (
            "Sec-WebSocket-Accept",
            "Accept",
            UpgradeFailure::WrongAccept,
        ),
        (
            "Upgrade:",
            "Sec-WebSocket-Protocol: other\r\nUpgrade:",
            UpgradeFailure::Protocol,
        ),
        (
            "Upgrade:",
            "Sec-WebSocket-Extensions: permessage-deflate\r\nUpgrade:",
            UpgradeFailure::Extension,
        ),
        (
            "Upgrade:",
            "A: b\r\n c\r\nUpgrade:",
            UpgradeFailure::NotUpgraded,
        ),
        (
            "HTTP/1.1",
            "SSH-2.0",
            UpgradeFailure::Malformed(Malformed::Version),
        ),
    ];
    for (from, to, failure) in cases {
        let text = valid.replacen(from, to, 1);
        assert_ne!(text, valid, "{from}");
        assert_eq!(read(&text), Err(failure), "{text}");
    }
}
