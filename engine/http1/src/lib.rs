//! HTTP/1.1 framing (RFC 9112, RFC 9110): where a message begins, where it ends, and whether
//! another may follow.
//!
//! Pure functions over bytes: [`parse_request`] and [`parse_response`] read a head, [`Chunked`]
//! finds the payload of a chunked body. Requests are read strictly, responses tolerantly. Heads are
//! read by httparse; what it tolerates and a server must not (bare LF above all) is checked after
//! it.
//!
//! ```
//! use holdfast_http1::{Body, Chunked, Limits, parse_response};
//!
//! let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
//! let head = parse_response(bytes, false, &Limits::RESPONSE)?.expect("complete");
//! assert_eq!((head.status, head.body), (200, Body::Chunked));
//!
//! let (mut chunked, mut at, mut payload) = (Chunked::tolerant(), head.length, Vec::new());
//! loop {
//!     let step = chunked.step(&bytes[at..])?;
//!     payload.extend_from_slice(&bytes[at..][step.data]);
//!     at += step.used;
//!     if step.is_done {
//!         break;
//!     }
//! }
//! assert_eq!((payload.as_slice(), at), (&b"hello"[..], bytes.len()));
//! assert!(head.oddities.is_empty() && chunked.oddities().is_empty());
//! # Ok::<(), holdfast_http1::Malformed>(())
//! ```
//!
//! Invariants: nothing is allocated and nothing panics, whatever the bytes; what a message means
//! never depends on how its bytes were cut into pieces; a request that two readers could frame
//! differently is refused.
//! Must not depend on: sockets, clocks, connections, what is served.
#![forbid(unsafe_code)]

mod chunked;
mod head;
mod limits;
mod malformed;
mod request;
mod response;
mod status;

pub use chunked::{CHUNK_LINE_BYTES_MAX, Chunked, Step, TRAILER_BYTES_MAX};
pub use head::Body;
pub use limits::{HEADER_COUNT_CEILING, Limits};
pub use malformed::{Malformed, Oddities, Oddity};
pub use request::{EMPTY_LINES_MAX, METHOD_BYTES_MAX, RequestError, RequestHead, parse_request};
pub use response::{ResponseHead, parse_response};
pub use status::status_reason;

/// Tests the example of the readme.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
