//! WebSocket (RFC 6455) without I/O: the opening handshake, frames and the closing handshake.
//!
//! Pure functions over bytes, and one small state: a [`Decoder`] is 14 bytes of each connection.
//! Payloads are appended, unmasked, to a buffer of the caller, which one thread needs once.
//!
//! ```
//! use holdfast_websocket::{Config, Decoder, Event, Opcode, write_frame};
//!
//! // A ping between two fragments of a message, from a server.
//! let mut wire = Vec::new();
//! write_frame(&mut wire, Opcode::Binary, false, None, b"one, ");
//! write_frame(&mut wire, Opcode::Ping, true, None, b"still there?");
//! write_frame(&mut wire, Opcode::Continuation, true, None, b"two");
//!
//! let (mut decoder, mut message, mut at) = (Decoder::default(), Vec::new(), 0);
//! while let Some(step) = decoder.step(&Config::CLIENT, &wire[at..], &mut message)? {
//!     at += step.used;
//!     match step.event {
//!         Event::Ping(payload) => assert_eq!(&*payload, b"still there?"),
//!         Event::Data { ends_message: true, .. } => assert_eq!(message, b"one, two"),
//!         _ => {}
//!     }
//! }
//! assert_eq!(at, wire.len());
//! # Ok::<(), holdfast_websocket::ProtocolError>(())
//! ```
//!
//! With the feature `layer`, [`layer::WebSocket`] puts this around any handler of `holdfast-engine`.
//!
//! Invariants: nothing panics, whatever the bytes; what frames mean never depends on how their
//! bytes were cut into pieces; nothing is kept of a connection but its [`Decoder`].
//! Must not depend on: sockets, clocks, connections, what messages mean.
#![forbid(unsafe_code)]

mod close;
mod close_code;
mod decoder;
mod error;
mod frame;
mod handshake;
#[cfg(feature = "layer")]
pub mod layer;
mod mask;
mod utf8;

pub use close::{CloseFrame, close_payload};
pub use close_code::CloseCode;
pub use decoder::{Config, ControlPayload, Decoder, Event, Kind, Limits, Step};
pub use error::ProtocolError;
pub use frame::{CONTROL_BYTES_MAX, FrameHeader, HEADER_BYTES_MAX, Opcode, Role, write_frame};
pub use handshake::{
    Headers, KEY_BYTES, REQUEST_LIMITS, UpgradeError, UpgradeFailure, UpgradeRequest,
    UpgradeResponse, UpgradeTarget, accept_key, parse_upgrade_request, parse_upgrade_response,
    write_refusal, write_upgrade_request, write_upgrade_response,
};
pub use mask::apply_mask;
pub use utf8::Utf8;

/// Tests the example of the readme.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
