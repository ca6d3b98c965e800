//! HTTP/1.1 framing (RFC 9112, RFC 9110): where a message begins, where it ends, and whether another may follow.
//!
//! Purpose: pure functions over bytes. [`parse_request`] and [`parse_response`] read a head, [`Chunked`] finds the payload of a
//! chunked body. Heads are read by httparse; what it tolerates and this crate does not (bare LF above all) is checked after it.
//! Invariants: nothing is allocated and nothing panics, whatever the bytes; what a message means never depends on how its bytes
//! were cut into pieces; what two readers could frame differently is refused.
//! Must not know: sockets, clocks, connections, what is served.
#![forbid(unsafe_code)]

mod chunked;
mod head;
mod limits;
mod request;
mod response;
mod status;

pub use chunked::{CHUNK_LINE_BYTES_MAX, Chunked, Step, TRAILER_BYTES_MAX};
pub use head::{Body, Malformed};
pub use limits::{HEADER_COUNT_CEILING, Limits};
pub use request::{EMPTY_LINES_MAX, RequestError, RequestHead, parse_request};
pub use response::{ResponseHead, parse_response};
pub use status::status_reason;

/// Tests the example of the readme.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
