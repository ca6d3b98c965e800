//! Frames and their headers (RFC 6455, 5.2).
//!
//! Invariants: a header is refused as early as its bytes show what is wrong, and for the first thing that is; headers are written in
//! their shortest form.
//! Must not depend on: messages, which frames may follow which.

use crate::error::ProtocolError;
use crate::mask::apply_mask;

/// Longest header of a frame, bytes.
pub const HEADER_BYTES_MAX: usize = 14;
/// Longest payload of a control frame, bytes.
pub const CONTROL_BYTES_MAX: usize = 125;

/// Whose end of the connection this is. A server's frames are not masked, a client's are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We are the server.
    Server,
    /// We are the client.
    Client,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Another fragment of the message.
    Continuation = 0,
    /// The first fragment of a text.
    Text = 1,
    /// The first fragment of a binary message.
    Binary = 2,
    /// The sender sends nothing behind it.
    Close = 8,
    /// Has to be answered.
    Ping = 9,
    /// The answer, or a sign of life.
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    /// Close, Ping or Pong: never a fragment, at most [`CONTROL_BYTES_MAX`] bytes, allowed between the fragments of a message.
    pub fn is_control(self) -> bool {
        self as u8 & 8 != 0
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// It is the last fragment of its message.
    pub is_final: bool,
    /// What it is.
    pub opcode: Opcode,
    /// Length of the payload, bytes; below 2^63.
    pub length: u64,
    /// What the payload is masked with.
    pub mask: Option<[u8; 4]>,
}

impl FrameHeader {
    /// Reads the header at the beginning of `bytes`, as the end with `role` gets it. Returns it and its length, bytes; `Ok(None)`: it
    /// is incomplete.
    ///
    /// # Errors
    /// [`ProtocolError`], for what can be seen of a header alone.
    #[inline]
    pub fn parse(bytes: &[u8], role: Role) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some(first) = bytes.first() else {
            return Ok(None);
        };
        let is_final = first & 0x80 != 0;
        if first & 0x70 != 0 {
            return Err(ProtocolError::ReservedBit);
        }
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(ProtocolError::ReservedOpcode)?;
        if opcode.is_control() && !is_final {
            return Err(ProtocolError::FragmentedControl);
        }
        let Some(second) = bytes.get(1) else {
            return Ok(None);
        };
        let is_masked = second & 0x80 != 0;
        match role {
            Role::Server if !is_masked => return Err(ProtocolError::NotMasked),
            Role::Client if is_masked => return Err(ProtocolError::Masked),
            _ => {}
        }
        let short = second & 0x7f;
        if opcode.is_control() && usize::from(short) > CONTROL_BYTES_MAX {
            return Err(ProtocolError::LongControl);
        }
        let (length, at) = match short {
            126 => {
                let Some(bytes) = bytes.get(2..4) else {
                    return Ok(None);
                };
                let length = u16::from_be_bytes(bytes.try_into().expect("2 bytes"));
                if length < 126 {
                    return Err(ProtocolError::Length);
                }
                (u64::from(length), 4)
            }
            127 => {
                let Some(bytes) = bytes.get(2..10) else {
                    return Ok(None);
                };
                let length = u64::from_be_bytes(bytes.try_into().expect("8 bytes"));
                if length <= u64::from(u16::MAX) || length >> 63 != 0 {
                    return Err(ProtocolError::Length);
                }
                (length, 10)
            }
            short => (u64::from(short), 2),
        };
        let (mask, end) = if is_masked {
            let Some(mask) = bytes.get(at..at + 4) else {
                return Ok(None);
            };
            (Some(mask.try_into().expect("4 bytes")), at + 4)
        } else {
            (None, at)
        };
        let header = FrameHeader {
            is_final,
            opcode,
            length,
            mask,
        };
        Ok(Some((header, end)))
    }

    /// Appends the header to `out`.
    #[inline]
    pub fn write(&self, out: &mut Vec<u8>) {
        let first = self.opcode as u8 | if self.is_final { 0x80 } else { 0 };
        let mask_bit = if self.mask.is_some() { 0x80 } else { 0 };
        match self.length {
            0..126 => out.extend_from_slice(&[first, mask_bit | self.length as u8]),
            126..=0xffff => {
                out.extend_from_slice(&[first, mask_bit | 126]);
                out.extend_from_slice(&(self.length as u16).to_be_bytes());
            }
            _ => {
                out.extend_from_slice(&[first, mask_bit | 127]);
                out.extend_from_slice(&self.length.to_be_bytes());
            }
        }
        if let Some(mask) = self.mask {
            out.extend_from_slice(&mask);
        }
    }
}

/// Appends a frame to `out`. A client gives a `mask` that nobody can foresee (RFC 6455, 5.3), a server none: its frame may be sent to
/// any number of clients.
pub fn write_frame(
    out: &mut Vec<u8>,
    opcode: Opcode,
    is_final: bool,
    mask: Option<[u8; 4]>,
    payload: &[u8],
) {
    let length = payload.len() as u64;
    FrameHeader {
        is_final,
        opcode,
        length,
        mask,
    }
    .write(out);
    let at = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut out[at..], mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_every_length_are_written_and_read_back() {
        for length in [
            0,
            1,
            125,
            126,
            127,
            65_535,
            65_536,
            u64::from(u32::MAX),
            i64::MAX as u64,
        ] {
            for mask in [None, Some([9, 8, 7, 6])] {
                let role = if mask.is_some() {
                    Role::Server
                } else {
                    Role::Client
                };
                let header = FrameHeader {
                    is_final: length % 2 == 0,
                    opcode: Opcode::Binary,
                    length,
                    mask,
                };
                let mut bytes = Vec::new();
                header.write(&mut bytes);
                assert!(bytes.len() <= HEADER_BYTES_MAX);
                for end in 0..bytes.len() {
                    assert_eq!(FrameHeader::parse(&bytes[..end], role), Ok(None));
                }
                let read = FrameHeader::parse(&bytes, role);
                assert_eq!(read, Ok(Some((header, bytes.len()))));
            }
        }
    }

    #[test]
    fn wrong_headers_are_refused_at_the_byte_that_shows_it() {
        use ProtocolError as E;
        let cases: [(&[u8], Role, E); 12] = [
            (b"\xc1", Role::Client, E::ReservedBit),
            (b"\x83", Role::Client, E::ReservedOpcode),
            (b"\x8f", Role::Client, E::ReservedOpcode),
            (b"\x09", Role::Client, E::FragmentedControl),
            (b"\x81\x85", Role::Client, E::Masked),
            (b"\x81\x05", Role::Server, E::NotMasked),
            (b"\x88\x7e", Role::Client, E::LongControl),
            (b"\x89\x7f", Role::Client, E::LongControl),
            (b"\x82\x7e\x00\x7d", Role::Client, E::Length),
            (b"\x82\x7f\0\0\0\0\0\0\xff\xff", Role::Client, E::Length),
            (b"\x82\x7f\x80\0\0\0\0\0\0\0", Role::Client, E::Length),
            (b"\x8a\xfe", Role::Server, E::LongControl),
        ];
        for (bytes, role, error) in cases {
            assert_eq!(FrameHeader::parse(bytes, role), Err(error), "{bytes:x?}");
            let shorter = &bytes[..bytes.len() - 1];
            assert_eq!(FrameHeader::parse(shorter, role), Ok(None), "{bytes:x?}");
        }
    }
}
