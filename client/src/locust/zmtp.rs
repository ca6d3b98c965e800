//! ZeroMQ's wire format, as far as a DEALER socket with the NULL mechanism needs it (ZMTP 3.0,
//! ZeroMQ RFC 23).
//!
//! Our own and not the `zeromq` crate's, which aborts the process on a truncated command or a huge
//! length; this process may hold a million users.
//! Invariants: all bytes give frames, a request for more, or an error; no more is buffered than the
//! longest frame allowed.
//! Must not depend on: sockets, the contents of a frame.

/// Longest frame accepted, bytes. The longest a master sends are its options, some KiB.
const FRAME_BYTES_MAX: u64 = 4 << 20;
/// Length of the greeting.
const GREETING_BYTES: usize = 64;

/// The greeting: signature, version 3.0, mechanism NULL, not a server.
pub fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    (bytes[0], bytes[9], bytes[10]) = (0xff, 0x7f, 3);
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

/// The READY command. An identity has at most 255 bytes.
pub fn ready(identity: &str) -> Vec<u8> {
    let mut body = b"\x05READY".to_vec();
    for (name, value) in [("Socket-Type", "DEALER"), ("Identity", identity)] {
        body.push(name.len() as u8);
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&(value.len() as u32).to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    frame(COMMAND, &body)
}

/// A message of one frame.
pub fn message(payload: &[u8]) -> Vec<u8> {
    frame(0, payload)
}

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 9);
    match u8::try_from(body.len()) {
        Ok(length) => bytes.extend_from_slice(&[flags, length]),
        Err(_) => {
            bytes.push(flags | LONG);
            bytes.extend_from_slice(&(body.len() as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// One unit from a peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A valid greeting.
    Greeting,
    /// The READY command.
    Ready,
    /// A message; of several frames, only the last one.
    Message(Vec<u8>),
    /// Anything else that needs no answer.
    Other,
}

/// Decodes the bytes of a peer.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    is_greeted: bool,
}

impl Decoder {
    /// Adds bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next unit; `None` if it needs more bytes.
    ///
    /// # Errors
    /// What is wrong; nothing after it can be decoded.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would end at None"
    )]
    pub fn next(&mut self) -> Result<Option<Received>, String> {
        if !self.is_greeted {
            return self.greeting();
        }
        let Some((flags, body)) = self.frame()? else {
            return Ok(None);
        };
        Ok(Some(match flags & (COMMAND | MORE) {
            0 => Received::Message(body),
            COMMAND if body.starts_with(b"\x05READY") => Received::Ready,
            COMMAND if body.starts_with(b"\x05ERROR") => {
                return Err("it refuses the connection".to_owned());
            }
            _ => Received::Other,
        }))
    }

    fn greeting(&mut self) -> Result<Option<Received>, String> {
        // A peer of another protocol shows in the first bytes, and may never send 64.
        let is_other = |at: usize, byte: u8| self.bytes.get(at).is_some_and(|b| *b != byte);
        if is_other(0, 0xff) || is_other(9, 0x7f) {
            return Err("it does not speak ZeroMQ's protocol".to_owned());
        }
        if self.bytes.len() < GREETING_BYTES {
            return Ok(None);
        }
        let greeting: Vec<u8> = self.bytes.drain(..GREETING_BYTES).collect();
        if greeting[10] < 3 {
            return Err(format!(
                "it speaks version {} of ZeroMQ's protocol, 3 is needed",
                greeting[10]
            ));
        }
        if !greeting[12..32].starts_with(b"NULL\0") {
            return Err("it wants authentication, which Locust's master does not".to_owned());
        }
        self.is_greeted = true;
        Ok(Some(Received::Greeting))
    }

    fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, String> {
        let Some(flags) = self.bytes.first().copied() else {
            return Ok(None);
        };
        if flags & !(MORE | LONG | COMMAND) != 0 {
            return Err("a frame with unknown flags".to_owned());
        }
        let head = if flags & LONG == 0 { 2 } else { 9 };
        let Some(length) = self.bytes.get(1..head) else {
            return Ok(None);
        };
        let length = length
            .iter()
            .fold(0, |all, byte| all << 8 | u64::from(*byte));
        if length > FRAME_BYTES_MAX {
            return Err(format!("a frame of {length} bytes"));
        }
        let end = head + length as usize;
        if self.bytes.len() < end {
            return Ok(None);
        }
        let body = self.bytes[head..end].to_vec();
        self.bytes.drain(..end);
        Ok(Some((flags, body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8], chunk: usize) -> Result<Vec<Received>, String> {
        let mut decoder = Decoder::default();
        let mut received = Vec::new();
        for part in bytes.chunks(chunk) {
            decoder.push(part);
            while let Some(next) = decoder.next()? {
                received.push(next);
            }
        }
        Ok(received)
    }

    #[test]
    fn units_are_decoded_however_the_bytes_are_split() {
        let mut bytes = greeting().to_vec();
        bytes[11] = 1;
        bytes.extend_from_slice(&ready("x"));
        bytes.extend_from_slice(&message(b"short"));
        bytes.extend_from_slice(b"\x01\x01a\x00\x01b");
        bytes.extend_from_slice(b"\x04\x05\x04PING");
        bytes.extend_from_slice(&message(&[7; 300]));
        let expected = [
            Received::Greeting,
            Received::Ready,
            Received::Message(b"short".to_vec()),
            Received::Other,
            Received::Message(b"b".to_vec()),
            Received::Other,
            Received::Message(vec![7; 300]),
        ];
        for chunk in 1..bytes.len() {
            assert_eq!(all(&bytes, chunk).as_deref(), Ok(&expected[..]), "{chunk}");
        }
    }

    #[test]
    fn invalid_bytes_are_an_error_at_once() {
        for start in [&b"HTTP/1.1 400"[..], b"\xff\0\0\0\0\0\0\0\x01\x01"] {
            assert!(all(start, 1).is_err());
        }
        let after_greeting = |bytes: &[u8]| all(&[&greeting()[..], bytes].concat(), 7);
        for bytes in [
            &b"\x02\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            b"\x08\x01",
            b"\x04\x06\x05ERROR",
        ] {
            assert!(after_greeting(bytes).is_err());
        }
        // A command cut short is no READY, and nothing else.
        for bytes in [&b"\x04\x00"[..], b"\x04\x01\xff", b"\x04\x03\x05RE"] {
            assert_eq!(
                after_greeting(bytes).as_deref(),
                Ok(&[Received::Greeting, Received::Other][..])
            );
        }
    }
}
