//! An HTTP server of the test's own, as honest or as false as the test wants it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_telemetry::wire::HttpClientReport;

use crate::common::count;
use crate::peer::Peer;

/// A good answer.
pub const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// One request as it came.
pub struct Asked<'a> {
    /// Requests on its connection before it.
    pub number: usize,
    /// Head and body.
    pub bytes: &'a [u8],
}

/// Reads requests and has a closure answer them, each connection on a thread.
pub struct HttpServer {
    pub peer: Peer,
    asked: Arc<AtomicU64>,
}

impl HttpServer {
    /// `answer` writes what it wants and says whether the connection stays.
    pub fn start(
        answer: impl Fn(&Asked<'_>, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        HttpServer::on(([127, 0, 0, 1], 0).into(), answer)
    }

    pub fn on(
        address: SocketAddr,
        answer: impl Fn(&Asked<'_>, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        let asked = Arc::new(AtomicU64::new(0));
        let (counter, answer) = (Arc::clone(&asked), Arc::new(answer));
        let peer = Peer::on(address, move |_, stream| {
            let (counter, answer) = (Arc::clone(&counter), Arc::clone(&answer));
            std::thread::spawn(move || serve(stream, &counter, &*answer));
            None
        });
        HttpServer { peer, asked }
    }

    /// Answers everything with the same bytes, and keeps the connection.
    pub fn saying(bytes: &'static [u8]) -> Self {
        HttpServer::start(move |_, stream| stream.write_all(bytes).is_ok())
    }

    /// The same, and ends the connection.
    pub fn saying_once(bytes: &'static [u8]) -> Self {
        HttpServer::start(move |_, stream| stream.write_all(bytes).is_err())
    }

    pub fn address(&self) -> SocketAddr {
        self.peer.address
    }

    /// Whole requests that came.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// So many requests came, and the client had as many that were ok.
    pub fn assert_served(&self, last: &HttpClientReport, requests: u64) {
        let ok = count(&last.outcomes, "ok");
        assert_eq!((ok, self.asked()), (requests, requests), "{last:?}");
    }

    /// Connections that came.
    pub fn connections(&self) -> u64 {
        self.peer.count() as u64
    }
}

fn serve(
    mut stream: TcpStream,
    counter: &AtomicU64,
    answer: &dyn Fn(&Asked<'_>, &mut TcpStream) -> bool,
) {
    stream.set_nodelay(true).expect("an option");
    let (mut bytes, mut buffer, mut number) = (Vec::new(), vec![0; 65_536], 0);
    loop {
        while let Some(length) = request_length(&bytes) {
            counter.fetch_add(1, Ordering::SeqCst);
            let asked = Asked {
                number,
                bytes: &bytes[..length],
            };
            if !answer(&asked, &mut stream) {
                return;
            }
            bytes.drain(..length);
            number += 1;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Bytes of the first request in `bytes`, if it is whole.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).expect("a head is ASCII");
    let body = text
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |n| n.parse().expect("a number"));
    (bytes.len() >= head + body).then_some(head + body)
}
