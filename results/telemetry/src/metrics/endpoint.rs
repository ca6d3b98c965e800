//! The HTTP side of metrics: who may ask, how often, and for how long.
//!
//! Invariants: whatever scrapers do, this takes a bounded part of its thread and of memory. One
//! request a connection, a head of 8 KiB at most, [`SCRAPE_TIME_MAX`] for all of it,
//! [`SCRAPERS_MAX`] at once of which the oldest makes room, and one accept in [`ACCEPT_EVERY`].
//! Must not depend on: what is measured.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::page::Format;

/// Where the page is.
const PATH: &str = "/metrics";
/// Connections answered at once.
const SCRAPERS_MAX: usize = 64;
/// From the accept to the last byte.
const SCRAPE_TIME_MAX: Duration = Duration::from_secs(10);
/// A scraper of every second needs one accept of these; a hundred of them are less than a hundredth
/// of a core.
const ACCEPT_EVERY: Duration = Duration::from_millis(10);
/// The least hyper can work with, bytes.
const HEAD_BYTES_MAX: usize = 8_192;

/// Serves `text`, the page as of now in the format asked for, as long as its runtime lives.
pub async fn serve(listener: TcpListener, text: Rc<dyn Fn(Format) -> Bytes>) {
    let mut scrapers: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        // An error is the peer's, or passes: no descriptor is left.
        if let Ok((stream, _)) = listener.accept().await {
            scrapers.retain(|scraper| !scraper.is_finished());
            if scrapers.len() >= SCRAPERS_MAX
                && let Some(oldest) = scrapers.pop_front()
            {
                oldest.abort();
            }
            scrapers.push_back(spawn_local(answer(stream, Rc::clone(&text))));
        }
        sleep(ACCEPT_EVERY).await;
    }
}

/// Answers one request, or gives up.
async fn answer(stream: TcpStream, text: Rc<dyn Fn(Format) -> Bytes>) {
    let service = service_fn(|request| {
        let response = respond(&request, &*text);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    // What a scraper does wrong is its own loss.
    let _ = timeout(SCRAPE_TIME_MAX, connection).await;
}

fn respond(request: &Request<Incoming>, text: &dyn Fn(Format) -> Bytes) -> Response<Full<Bytes>> {
    let plain = Format::Prometheus.content_type();
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, PATH) => {
            let accept = request.headers().get(ACCEPT);
            let format = Format::accepted(accept.and_then(|a| a.to_str().ok()).unwrap_or_default());
            (StatusCode::OK, format.content_type(), text(format))
        }
        (_, PATH) => (
            StatusCode::METHOD_NOT_ALLOWED,
            plain,
            Bytes::from_static(b"GET or HEAD\n"),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            plain,
            Bytes::from_static(b"next: GET /metrics\n"),
        ),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
