//! Heads of HTTP/1.1 messages, as the responder and the load generator read them.

use divan::{Bencher, black_box, counter::BytesCount};
use holdfast_http1::{Limits, parse_request, parse_response};

const SMALL_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
const BROWSER_REQUEST: &[u8] = b"GET /index.html?page=2 HTTP/1.1\r\nHost: www.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\nCookie: session=0123456789abcdef\r\n\
    Upgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nPriority: u=0, i\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nDate: Sat, 28 Nov 2026 20:00:00 GMT\r\nContent-Type: text/plain\r\n\
    Content-Length: 13\r\n\r\n";

#[divan::bench(args = ["small", "browser"])]
fn request(bencher: Bencher, which: &str) {
    let bytes = match which {
        "small" => SMALL_REQUEST,
        _ => BROWSER_REQUEST,
    };
    let limits = Limits::default();
    bencher.counter(BytesCount::new(bytes.len())).bench(|| {
        let head = parse_request(black_box(bytes), &limits);
        assert!(matches!(head, Ok(Some(_))));
    });
}

#[divan::bench]
fn response(bencher: Bencher) {
    let limits = Limits::default();
    bencher.counter(BytesCount::new(RESPONSE.len())).bench(|| {
        let head = parse_response(black_box(RESPONSE), false, &limits);
        assert!(matches!(head, Ok(Some(_))));
    });
}
