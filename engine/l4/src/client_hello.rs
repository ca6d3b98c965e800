//! The server name in a TLS ClientHello (RFC 8446, 4.1.2; RFC 6066, 3), read without decrypting
//! anything.
//!
//! The message may be cut into records anywhere, and the records into pieces. With Encrypted Client
//! Hello the name is that of the outer message, which is the one meant for routing.
//! Invariants: an answer is given when the message is whole, an error at the first byte of the
//! record or message header that is wrong; no byte behind the message is looked at.
//! Must not depend on: cryptography, which names exist.

use core::fmt;
use core::net::Ipv4Addr;
use core::ops::Deref;

use crate::ParseError;
use crate::error::rules;

/// Most bytes that a ClientHello may take with its record headers. With post-quantum key shares they
/// are about 1,800 bytes long; resumption and ECH add hundreds.
pub const BYTES_MAX: usize = 16_384;
/// Longest name, bytes (RFC 1035, 2.3.4).
pub const NAME_BYTES_MAX: usize = 255;

const RECORD_HEADER_BYTES: usize = 5;
/// RFC 8446, 5.1.
const RECORD_BYTES_MAX: usize = 1 << 14;
const MESSAGE_HEADER_BYTES: usize = 4;
const CONTENT_HANDSHAKE: u8 = 22;
const TYPE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;
const RANDOM_BYTES: usize = 32;
const SESSION_ID_BYTES_MAX: usize = 32;

rules! {
    /// The rule that the beginning of a connection breaks.
    HelloError {
        NotTls = "not_tls", "the connection does not begin with a TLS handshake record";
        Record = "record", "a record's header is malformed";
        NotClientHello = "not_client_hello", "the first message is not a ClientHello";
        TooLong = "too_long", "the ClientHello is longer than the limit";
        Message = "message", "the ClientHello is malformed";
        ServerName = "server_name", "the server name is malformed";
    }
}

type Result<T> = core::result::Result<T, HelloError>;

/// A host name in lower case: letters, digits, `-`, `_` and `.`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ServerName {
    bytes: [u8; NAME_BYTES_MAX],
    length: u8,
}

impl Deref for ServerName {
    type Target = str;

    fn deref(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.length)]).expect("ASCII only")
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// The server name that the ClientHello at the beginning of `bytes` asks for; `None` if it asks for
/// none, or for an IP address, which RFC 6066 does not permit and servers ignore.
///
/// # Errors
///
/// [`ParseError::Incomplete`] until the message is whole; at most [`BYTES_MAX`] bytes are needed.
/// [`ParseError::Invalid`] if this is no valid ClientHello, whatever follows.
pub fn server_name(
    bytes: &[u8],
) -> core::result::Result<Option<ServerName>, ParseError<HelloError>> {
    let Some(body) = message_body(&bytes[..bytes.len().min(BYTES_MAX)])? else {
        return Err(ParseError::Incomplete);
    };
    Ok(read_hello(body)?)
}

/// A view of the message's bytes, across records.
#[derive(Clone, Copy)]
struct Reader<'a> {
    /// From the current record's rest on.
    bytes: &'a [u8],
    /// Payload left in the current record.
    record_left: usize,
    /// Bytes that may still be read here.
    left: usize,
}

/// The body of the ClientHello; `None` if it is not whole.
fn message_body(bytes: &[u8]) -> Result<Option<Reader<'_>>> {
    let mut header = [0; MESSAGE_HEADER_BYTES];
    let mut message_bytes = MESSAGE_HEADER_BYTES;
    let (mut at, mut payload_seen) = (0, 0);
    let mut body = None;
    // Each turn is a record; all of it but its payload is looked at.
    while payload_seen < message_bytes {
        let rest = &bytes[at.min(bytes.len())..];
        let Some(record_bytes) = record_length(rest, at == 0)? else {
            return within_limit(bytes);
        };
        let payload = &rest[RECORD_HEADER_BYTES..];
        let payload = &payload[..payload.len().min(record_bytes)];
        for (index, byte) in payload.iter().enumerate() {
            let Some(place) = header.get_mut(payload_seen + index) else {
                break;
            };
            *place = *byte;
        }
        let before = payload_seen;
        payload_seen += payload.len();
        if payload_seen > 0 && header[0] != TYPE_CLIENT_HELLO {
            return Err(HelloError::NotClientHello);
        }
        if before < MESSAGE_HEADER_BYTES && payload_seen >= MESSAGE_HEADER_BYTES {
            let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
            message_bytes += length;
            if message_bytes > BYTES_MAX {
                return Err(HelloError::TooLong);
            }
            let skipped = MESSAGE_HEADER_BYTES - before;
            body = Some(Reader {
                bytes: &rest[RECORD_HEADER_BYTES + skipped..],
                record_left: record_bytes - skipped,
                left: length,
            });
        }
        at += RECORD_HEADER_BYTES + record_bytes;
        if payload.len() < record_bytes && payload_seen < message_bytes {
            return within_limit(bytes);
        }
    }
    Ok(body)
}

/// More bytes are needed, if as many as there are may be.
fn within_limit(bytes: &[u8]) -> Result<Option<Reader<'_>>> {
    match bytes.len() < BYTES_MAX {
        true => Ok(None),
        false => Err(HelloError::TooLong),
    }
}

/// The payload length of the record whose header `bytes` begins with; `None` if it is not whole.
fn record_length(bytes: &[u8], is_first: bool) -> Result<Option<usize>> {
    let error = match is_first {
        true => HelloError::NotTls,
        false => HelloError::Record,
    };
    if bytes.first().is_some_and(|kind| *kind != CONTENT_HANDSHAKE)
        || bytes.get(1).is_some_and(|major| *major != 3)
    {
        return Err(error);
    }
    let Some(header) = bytes.first_chunk::<RECORD_HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    match length {
        1..=RECORD_BYTES_MAX => Ok(Some(length)),
        _ => Err(HelloError::Record),
    }
}

impl<'a> Reader<'a> {
    /// The next `length` bytes as their own reader.
    fn take(&mut self, length: usize) -> Result<Reader<'a>> {
        if length > self.left {
            return Err(HelloError::Message);
        }
        let taken = Reader {
            left: length,
            ..*self
        };
        self.left -= length;
        let mut to_skip = length;
        while to_skip > 0 {
            self.enter_record();
            let step = to_skip.min(self.record_left);
            self.bytes = &self.bytes[step..];
            self.record_left -= step;
            to_skip -= step;
        }
        Ok(taken)
    }

    /// Passes the header of the next record if the current one is used up. The message is whole, so
    /// it is there.
    fn enter_record(&mut self) {
        if self.record_left == 0 {
            let header = self.bytes;
            self.record_left = usize::from(u16::from_be_bytes([header[3], header[4]]));
            self.bytes = &header[RECORD_HEADER_BYTES..];
        }
    }

    fn u8(&mut self) -> Result<u8> {
        if self.left == 0 {
            return Err(HelloError::Message);
        }
        self.enter_record();
        let (byte, rest) = self.bytes.split_first().expect("the message is whole");
        self.bytes = rest;
        self.record_left -= 1;
        self.left -= 1;
        Ok(*byte)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    /// A vector with a length of two bytes.
    fn vector(&mut self) -> Result<Reader<'a>> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

fn read_hello(mut body: Reader<'_>) -> Result<Option<ServerName>> {
    body.u16()?; // legacy_version
    body.take(RANDOM_BYTES)?;
    let session_id_bytes = usize::from(body.u8()?);
    if session_id_bytes > SESSION_ID_BYTES_MAX {
        return Err(HelloError::Message);
    }
    body.take(session_id_bytes)?;
    let cipher_suites = body.vector()?;
    if cipher_suites.left < 2 || cipher_suites.left % 2 != 0 {
        return Err(HelloError::Message);
    }
    let compression_methods = body.u8()?;
    if compression_methods == 0 {
        return Err(HelloError::Message);
    }
    body.take(usize::from(compression_methods))?;
    if body.left == 0 {
        return Ok(None); // TLS 1.0 to 1.2 without extensions.
    }
    let mut extensions = body.vector()?;
    if body.left > 0 {
        return Err(HelloError::Message);
    }
    let mut names = None;
    while extensions.left > 0 {
        let kind = extensions.u16()?;
        let data = extensions.vector()?;
        if kind == EXTENSION_SERVER_NAME && names.replace(data).is_some() {
            return Err(HelloError::ServerName);
        }
    }
    names.map_or(Ok(None), read_names)
}

/// The host name of a ServerNameList. Names of other types have a length like this one (RFC 6066, 3).
fn read_names(mut extension: Reader<'_>) -> Result<Option<ServerName>> {
    let malformed = |_| HelloError::ServerName;
    let mut list = extension.vector().map_err(malformed)?;
    if list.left == 0 || extension.left > 0 {
        return Err(HelloError::ServerName);
    }
    let mut host = None;
    while list.left > 0 {
        let kind = list.u8().map_err(malformed)?;
        let name = list.vector().map_err(malformed)?;
        if kind == NAME_TYPE_HOST && host.replace(name).is_some() {
            return Err(HelloError::ServerName);
        }
    }
    host.map_or(Ok(None), read_host)
}

fn read_host(mut name: Reader<'_>) -> Result<Option<ServerName>> {
    let length = u8::try_from(name.left).map_err(|_| HelloError::ServerName)?;
    let mut host = ServerName {
        bytes: [0; NAME_BYTES_MAX],
        length,
    };
    for place in &mut host.bytes[..usize::from(length)] {
        *place = name.u8()?.to_ascii_lowercase();
    }
    let text = &host.bytes[..usize::from(length)];
    // IPv6 literals are the only names with a colon that clients send.
    let is_host = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    if text.is_empty() || !text.iter().all(|byte| is_host(byte) || *byte == b':') {
        return Err(HelloError::ServerName);
    }
    let is_address = text.contains(&b':') || host.parse::<Ipv4Addr>().is_ok();
    Ok((!is_address).then_some(host))
}
