//! The same bytes to hyper's server and to our parsers: what a request is and where it ends must
//! not depend on who reads it, or a proxy of one kind in front of a server of the other could be
//! made to see different requests.
//!
//! Every request that we would answer, hyper has to have handed over too, with the same method and
//! the same body, in the same order. Allowed differences, each of which ends the comparison:
//! - We refuse, hyper goes on: we are stricter on purpose (bare LF, Host, targets, sizes, codings,
//!   expectations: the list stands in `holdfast-http1`). A refusal ends the connection, so nothing
//!   behind it can be taken for a request.
//! - hyper refuses or gives up, we go on: its URI type knows fewer targets than RFC 9112 lets pass,
//!   and after CONNECT or a connection it wants to close it reads no more. It must not have served
//!   something else instead, which is what is checked.
//! - We are at the end of the bytes in the middle of a request; hyper may have begun to hand it
//!   over, never whole.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use holdfast_http1::{Body, Chunked, Limits, parse_request};
use hyper::body::{Body as _, Bytes, Frame, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};

use crate::input::options;

/// A request that was served.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Served {
    method: String,
    body: Vec<u8>,
    /// Whether its end was seen.
    is_whole: bool,
}

/// A connection whose peer has said all it says, and listens.
struct Script<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Read for Script<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let length = into.remaining().min(self.bytes.len() - self.at);
        let end = self.at + length;
        into.put_slice(&self.bytes[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

impl Write for Script<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A response's body, which there is none of.
struct Nothing;

impl hyper::body::Body for Nothing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

/// What hyper serves of `bytes`.
fn by_hyper(bytes: &[u8]) -> Vec<Served> {
    let all = Rc::new(RefCell::new(Vec::<Served>::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let all = Rc::clone(&all);
        async move {
            let number = all.borrow().len();
            let method = request.method().to_string();
            all.borrow_mut().push(Served {
                method,
                body: Vec::new(),
                is_whole: false,
            });
            let mut body = pin!(request.into_body());
            loop {
                let frame = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await;
                match frame {
                    None => break,
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            all.borrow_mut()[number].body.extend_from_slice(data);
                        }
                    }
                    Some(Err(error)) => return Err(error),
                }
            }
            all.borrow_mut()[number].is_whole = true;
            Ok::<_, hyper::Error>(Response::new(Nothing))
        }
    });
    let script = Script { bytes, at: 0 };
    let connection = http1::Builder::new()
        .half_close(true)
        .serve_connection(script, service);
    let mut connection = pin!(connection);
    let mut context = Context::from_waker(Waker::noop());
    // Reading and writing are always ready, so that it is only left waiting for itself; more turns
    // than bytes are not needed.
    for _ in 0..=bytes.len() + 16 {
        if connection.as_mut().poll(&mut context).is_ready() {
            break;
        }
    }
    all.take()
}

/// What we serve of `bytes`.
fn by_us(bytes: &[u8]) -> Vec<Served> {
    let limits = Limits::default();
    let mut all = Vec::new();
    let mut at = 0;
    while let Ok(Some(head)) = parse_request(&bytes[at..], &limits) {
        let line = bytes[at..].trim_ascii_start();
        let method = line.split(|b| *b == b' ').next().unwrap_or_default();
        let method = String::from_utf8_lossy(method).into_owned();
        at += head.length;
        let Some((body, used)) = body(&bytes[at..], head.body) else {
            break;
        };
        at += used;
        let is_whole = true;
        all.push(Served {
            method,
            body,
            is_whole,
        });
        if !head.keep_alive {
            break;
        }
    }
    all
}

/// The payload of a body, and the bytes it takes; `None` if it is malformed or not all there.
fn body(bytes: &[u8], body: Body) -> Option<(Vec<u8>, usize)> {
    match body {
        Body::None | Body::UntilClose => Some((Vec::new(), 0)),
        Body::Length(length) => {
            let length = usize::try_from(length).ok()?;
            Some((bytes.get(..length)?.to_vec(), length))
        }
        Body::Chunked => {
            let mut chunked = Chunked::default();
            let (mut payload, mut at) = (Vec::new(), 0);
            loop {
                let step = chunked.step(&bytes[at..]).ok()?;
                payload.extend_from_slice(&bytes[at..][step.data]);
                at += step.used;
                if step.is_done {
                    return Some((payload, at));
                }
                if step.used == 0 {
                    return None;
                }
            }
        }
    }
}

/// Requests of a connection, as hyper sees them and as we do.
pub fn http_request_hyper(data: &[u8]) {
    let Some((_, bytes)) = options(data) else {
        return;
    };
    let ours = by_us(&bytes);
    let theirs = by_hyper(&bytes);
    for (number, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(ours, theirs, "request {number}");
    }
}
