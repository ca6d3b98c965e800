//! Frames into messages: what is kept of a connection between two reads.
//!
//! Invariants: a [`Decoder`] has 14 bytes and no alignment, so that a connection's slot can have two bytes more beside it; the payload
//! of a message is passed on as it arrives, that of a control frame at once.
//! Must not depend on: who keeps the decoder, what messages mean.

use core::fmt;
use core::ops::Deref;

use crate::close::CloseFrame;
use crate::error::ProtocolError;
use crate::frame::{CONTROL_BYTES_MAX, FrameHeader, Opcode, Role};
use crate::mask::apply_mask;
use crate::utf8::Utf8;

/// What a peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest frame, bytes of payload.
    pub frame_bytes_max: u32,
    /// Longest message, bytes of payload in all its fragments.
    pub message_bytes_max: u32,
}

/// 16 MiB for a frame and for a message.
impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}

impl Limits {
    /// The defaults.
    pub const DEFAULT: Limits = Limits {
        frame_bytes_max: 16 << 20,
        message_bytes_max: 16 << 20,
    };
}

/// What all connections of a server or a client have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Our end.
    pub role: Role,
    /// What the peer may send.
    pub limits: Limits,
}

impl Config {
    /// A server with the default limits.
    pub const SERVER: Config = Config {
        role: Role::Server,
        limits: Limits::DEFAULT,
    };
    /// A client with the default limits.
    pub const CLIENT: Config = Config {
        role: Role::Client,
        limits: Limits::DEFAULT,
    };
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// UTF-8.
    Text = 1,
    /// Any bytes.
    Binary = 2,
}

impl From<Kind> for Opcode {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        }
    }
}

/// The payload of a control frame, unmasked. Dereferences to its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ControlPayload {
    length: u8,
    bytes: [u8; CONTROL_BYTES_MAX],
}

impl ControlPayload {
    fn new(masked: &[u8], mask: Option<[u8; 4]>) -> Self {
        let mut bytes = [0; CONTROL_BYTES_MAX];
        let length = masked.len();
        bytes[..length].copy_from_slice(masked);
        if let Some(mask) = mask {
            apply_mask(&mut bytes[..length], mask);
        }
        ControlPayload {
            length: length as u8,
            bytes,
        }
    }
}

impl Deref for ControlPayload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Debug for ControlPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

/// What [`Decoder::step`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A part of a message, perhaps an empty one: its payload was appended to the buffer.
    Data {
        /// What the message is.
        kind: Kind,
        /// The message ends with this part.
        ends_message: bool,
    },
    /// A Ping, to be answered by a Pong with the same payload.
    Ping(ControlPayload),
    /// A Pong.
    Pong(ControlPayload),
    /// A Close frame, whose payload is valid: see [`CloseFrame::parse`]. Nothing that follows it may be read.
    Close(ControlPayload),
}

/// One step of a [`Decoder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes it used, at least one.
    pub used: usize,
    /// What they were.
    pub event: Event,
}

/// What is kept of one connection: 14 bytes. Begins where the opening handshake ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decoder {
    /// Bytes that are still to come of the frame, and bytes of its message so far, the rest of the frame included. Not `u32`, which
    /// would align the whole.
    frame_left: [u8; 4],
    message_bytes: [u8; 4],
    /// That of the next byte first; zero if there is none.
    mask: [u8; 4],
    utf8: u8,
    flags: u8,
}

/// The kind of the unfinished message; 0: there is none.
const KIND: u8 = 3;
/// The frame is the last one of its message.
const FINAL: u8 = 4;
/// The frame's header was read, but not its last byte.
const IN_FRAME: u8 = 8;

impl Decoder {
    /// Reads the next frame, or a part of it, at the beginning of `bytes`; the payload of a message is appended to `payload`. Returns
    /// `Ok(None)` if more bytes are needed: then none were used, at most [`HEADER_BYTES_MAX`](crate::HEADER_BYTES_MAX) of a header or
    /// 131 of a control frame.
    ///
    /// # Errors
    /// [`ProtocolError`]. The decoder may not be used again, and `payload` has nothing of the frame that is wrong.
    #[inline]
    pub fn step(
        &mut self,
        config: &Config,
        bytes: &[u8],
        payload: &mut Vec<u8>,
    ) -> Result<Option<Step>, ProtocolError> {
        let mut used = 0;
        if self.flags & IN_FRAME == 0 {
            let Some((header, length)) = FrameHeader::parse(bytes, config.role)? else {
                return Ok(None);
            };
            if header.opcode.is_control() {
                return control(&header, length, bytes);
            }
            self.begin_frame(&header, &config.limits)?;
            used = length;
        } else if bytes.is_empty() {
            return Ok(None);
        }
        let left = u32::from_ne_bytes(self.frame_left);
        let rest = &bytes[used..];
        let body = &rest[..rest.len().min(left as usize)];
        let is_text = self.flags & KIND == Kind::Text as u8;
        let start = payload.len();
        payload.extend_from_slice(body);
        if self.mask != [0; 4] {
            self.mask = apply_mask(&mut payload[start..], self.mask);
        }
        let left = left - body.len() as u32;
        self.frame_left = left.to_ne_bytes();
        let mut ends_message = false;
        if left == 0 {
            self.flags &= !IN_FRAME;
            ends_message = self.flags & FINAL != 0;
        }
        if is_text {
            let mut text = Utf8::from_number(self.utf8);
            if !text.feed(&payload[start..]) || (ends_message && !text.is_complete()) {
                payload.truncate(start);
                return Err(ProtocolError::Utf8);
            }
            self.utf8 = text.number();
        }
        if ends_message {
            *self = Decoder::default();
        }
        let kind = if is_text { Kind::Text } else { Kind::Binary };
        Ok(Some(Step {
            used: used + body.len(),
            event: Event::Data { kind, ends_message },
        }))
    }

    /// The kind of the message whose end has not arrived, if there is one.
    pub fn unfinished(&self) -> Option<Kind> {
        match self.flags & KIND {
            0 => None,
            1 => Some(Kind::Text),
            _ => Some(Kind::Binary),
        }
    }

    fn begin_frame(&mut self, header: &FrameHeader, limits: &Limits) -> Result<(), ProtocolError> {
        let is_in_message = self.flags & KIND != 0;
        match header.opcode {
            Opcode::Continuation if !is_in_message => {
                return Err(ProtocolError::UnexpectedContinuation);
            }
            Opcode::Text | Opcode::Binary if is_in_message => {
                return Err(ProtocolError::ExpectedContinuation);
            }
            Opcode::Text => self.flags = Kind::Text as u8,
            Opcode::Binary => self.flags = Kind::Binary as u8,
            _ => {}
        }
        if header.length > u64::from(limits.frame_bytes_max) {
            return Err(ProtocolError::FrameTooLong);
        }
        let earlier = u32::from_ne_bytes(self.message_bytes);
        let message = u64::from(earlier) + header.length;
        if message > u64::from(limits.message_bytes_max) {
            return Err(ProtocolError::MessageTooLong);
        }
        self.frame_left = (header.length as u32).to_ne_bytes();
        self.message_bytes = (message as u32).to_ne_bytes();
        self.mask = header.mask.unwrap_or_default();
        self.flags |= IN_FRAME;
        if header.is_final {
            self.flags |= FINAL;
        }
        Ok(())
    }
}

fn control(header: &FrameHeader, at: usize, bytes: &[u8]) -> Result<Option<Step>, ProtocolError> {
    let end = at + header.length as usize;
    let Some(masked) = bytes.get(at..end) else {
        return Ok(None);
    };
    let payload = ControlPayload::new(masked, header.mask);
    let event = match header.opcode {
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        _ => {
            CloseFrame::parse(&payload)?;
            Event::Close(payload)
        }
    };
    Ok(Some(Step { used: end, event }))
}

const _: () = assert!(size_of::<Decoder>() == 14 && align_of::<Decoder>() == 1);
