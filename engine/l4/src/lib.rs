//! What a layer-4 relay reads and writes itself: PROXY protocol headers, and the server name of a
//! TLS ClientHello.
//!
//! Pure functions over bytes: [`proxy::parse`] reads a header of either version,
//! [`proxy::write_v1`] and [`proxy::write_v2`] write one, [`client_hello::server_name`] reads the
//! name that TLS pass-through routes by. A caller keeps what it has received and calls again with
//! more as long as the answer is [`ParseError::Incomplete`].
//!
//! ```
//! use holdfast_l4::ParseError;
//! use holdfast_l4::proxy::{self, Addresses, Command};
//!
//! let addresses = Addresses::tcp("[2001:db8::1]:4000".parse()?, "[2001:db8::2]:443".parse()?);
//! let mut bytes = [0; proxy::TCP_BYTES_MAX];
//! let length = proxy::write_v2(&mut bytes, Command::Proxy, &addresses, [], true).unwrap();
//!
//! assert_eq!(proxy::parse(&bytes[..length - 1]), Err(ParseError::Incomplete));
//! let parsed = proxy::parse(&bytes[..length]).expect("complete and valid");
//! assert_eq!((parsed.header.addresses, parsed.length), (addresses, length));
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! Invariants: nothing is allocated and nothing panics, whatever the bytes; an answer other than
//! [`ParseError::Incomplete`] stays the same however many bytes follow; every length is bounded.
//! Must not depend on: sockets, clocks, connections, who is trusted.
#![forbid(unsafe_code)]

pub mod client_hello;
mod crc32c;
mod error;
pub mod proxy;

pub use error::ParseError;

/// Tests the example of the readme.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
