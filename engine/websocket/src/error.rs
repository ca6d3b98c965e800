//! What a peer can do wrong after the opening handshake, and the close code that answers it.
//!
//! Invariants: each error has one stable label and one close code.
//! Must not depend on: how errors are found.

use core::fmt;

use crate::close_code::CloseCode;

/// Why a connection fails. It cannot be used any more: send a Close frame with
/// [`ProtocolError::close_code`], and close it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A reserved bit is set, and no extension was negotiated.
    ReservedBit,
    /// The opcode is reserved.
    ReservedOpcode,
    /// A control frame is a fragment.
    FragmentedControl,
    /// The payload of a control frame is longer than 125 bytes.
    LongControl,
    /// The length does not have its shortest form, or its highest bit is set.
    Length,
    /// A client's frame is not masked.
    NotMasked,
    /// A server's frame is masked.
    Masked,
    /// A continuation, but no message was begun.
    UnexpectedContinuation,
    /// A message began before the one before it ended.
    ExpectedContinuation,
    /// The text of a message or of a Close frame is not UTF-8.
    Utf8,
    /// The payload of a Close frame is one byte, or its code may not be sent.
    ClosePayload,
    /// A frame is longer than allowed.
    FrameTooLong,
    /// A message is longer than allowed.
    MessageTooLong,
}

impl ProtocolError {
    /// Every error, in the order of their numbers.
    pub const ALL: [ProtocolError; 13] = [
        ProtocolError::ReservedBit,
        ProtocolError::ReservedOpcode,
        ProtocolError::FragmentedControl,
        ProtocolError::LongControl,
        ProtocolError::Length,
        ProtocolError::NotMasked,
        ProtocolError::Masked,
        ProtocolError::UnexpectedContinuation,
        ProtocolError::ExpectedContinuation,
        ProtocolError::Utf8,
        ProtocolError::ClosePayload,
        ProtocolError::FrameTooLong,
        ProtocolError::MessageTooLong,
    ];

    /// The code of the Close frame that answers it (RFC 6455, 7.4.1).
    pub fn close_code(self) -> CloseCode {
        match self {
            ProtocolError::Utf8 => CloseCode::INVALID_PAYLOAD,
            ProtocolError::FrameTooLong | ProtocolError::MessageTooLong => CloseCode::TOO_LONG,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }

    /// The stable name in reports and metrics.
    pub fn label(self) -> &'static str {
        match self {
            ProtocolError::ReservedBit => "reserved_bit",
            ProtocolError::ReservedOpcode => "reserved_opcode",
            ProtocolError::FragmentedControl => "fragmented_control",
            ProtocolError::LongControl => "long_control",
            ProtocolError::Length => "length",
            ProtocolError::NotMasked => "not_masked",
            ProtocolError::Masked => "masked",
            ProtocolError::UnexpectedContinuation => "unexpected_continuation",
            ProtocolError::ExpectedContinuation => "expected_continuation",
            ProtocolError::Utf8 => "utf8",
            ProtocolError::ClosePayload => "close_payload",
            ProtocolError::FrameTooLong => "frame_too_long",
            ProtocolError::MessageTooLong => "message_too_long",
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProtocolError::ReservedBit => "a reserved bit is set",
            ProtocolError::ReservedOpcode => "the opcode is reserved",
            ProtocolError::FragmentedControl => "a control frame is fragmented",
            ProtocolError::LongControl => "a control frame is longer than 125 bytes",
            ProtocolError::Length => "a length does not have its shortest form",
            ProtocolError::NotMasked => "a client's frame is not masked",
            ProtocolError::Masked => "a server's frame is masked",
            ProtocolError::UnexpectedContinuation => "a continuation continues no message",
            ProtocolError::ExpectedContinuation => "a message began before the last one ended",
            ProtocolError::Utf8 => "a text is not UTF-8",
            ProtocolError::ClosePayload => "a Close frame is malformed",
            ProtocolError::FrameTooLong => "a frame is too long",
            ProtocolError::MessageTooLong => "a message is too long",
        })
    }
}

impl std::error::Error for ProtocolError {}
