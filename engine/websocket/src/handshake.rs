//! The opening handshake (RFC 6455, 4): an HTTP/1.1 request to upgrade, and its response.
//!
//! Heads are framed by `holdfast-http1`, a request strictly. What the handshake needs of them is read here; Host, Origin, the target
//! and all other headers are given to the caller, who knows what may be served to whom.
//! Invariants: a connection is upgraded only if both sides meant it: method, version, Upgrade, Connection, key and accept value are
//! checked, and nothing is agreed that was not offered.
//! Must not depend on: sockets, what is served.

use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_http1 as http1;
use holdfast_http1::{Body, Malformed, parse_request, parse_response, status_reason};
use sha1::{Digest, Sha1};

/// Length of the random number in a Sec-WebSocket-Key, bytes.
pub const KEY_BYTES: usize = 16;
/// Length of a Sec-WebSocket-Key, base64.
const KEY_TEXT_BYTES: usize = 24;
/// Length of a Sec-WebSocket-Accept, base64.
const ACCEPT_TEXT_BYTES: usize = 28;
/// What the key is hashed with (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// How long the head of an upgrade request may be: 8 KiB, with 64 headers.
pub const REQUEST_LIMITS: http1::Limits = http1::Limits {
    head_bytes_max: 8 << 10,
    target_bytes_max: 4 << 10,
    header_count_max: 64,
    body_bytes_max: 0,
};

/// The Sec-WebSocket-Accept that answers a Sec-WebSocket-Key.
///
/// ```
/// let accept = holdfast_websocket::accept_key(b"dGhlIHNhbXBsZSBub25jZQ==");
/// assert_eq!(&accept, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
/// ```
pub fn accept_key(key: &[u8]) -> [u8; ACCEPT_TEXT_BYTES] {
    let hash = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut text = [0; ACCEPT_TEXT_BYTES];
    let length = STANDARD.encode_slice(hash, &mut text);
    assert_eq!(length, Ok(ACCEPT_TEXT_BYTES), "base64 of 20 bytes");
    text
}

fn key_text(key: &[u8; KEY_BYTES]) -> [u8; KEY_TEXT_BYTES] {
    let mut text = [0; KEY_TEXT_BYTES];
    let length = STANDARD.encode_slice(key, &mut text);
    assert_eq!(length, Ok(KEY_TEXT_BYTES), "base64 of 16 bytes");
    text
}

/// The headers of a head, in order: names as they were written, values without the whitespace around them.
#[derive(Clone, Copy)]
pub struct Headers<'b> {
    /// From the first header to the empty line; checked by `holdfast-http1`.
    lines: &'b [u8],
}

impl<'b> Headers<'b> {
    /// The first line of a head without folded lines, and its headers.
    fn split(head: &'b [u8]) -> (&'b [u8], Self) {
        let (first, lines) = split_line(head);
        (first, Headers { lines })
    }

    /// Name and value of each.
    pub fn iter(self) -> impl Iterator<Item = (&'b str, &'b [u8])> {
        let mut rest = self.lines;
        std::iter::from_fn(move || {
            let (line, after) = split_line(rest);
            rest = after;
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = str::from_utf8(line[..colon].trim_ascii_end()).ok()?;
            Some((name, line[colon + 1..].trim_ascii()))
        })
    }

    /// The values of all headers with this name.
    pub fn all(self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.iter()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The value of the header with this name, if there is exactly one, and it is ASCII.
    pub fn single(self, name: &str) -> Option<&'b str> {
        let mut values = self.all(name);
        let value = values.next().filter(|value| value.is_ascii())?;
        match values.next() {
            None => str::from_utf8(value).ok(),
            Some(_) => None,
        }
    }

    /// The elements of the lists in all headers with this name.
    fn elements(self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.all(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|element| !element.is_empty())
    }

    fn lists(self, name: &str, element: &str) -> bool {
        self.elements(name)
            .any(|known| known.eq_ignore_ascii_case(element.as_bytes()))
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.iter()
                    .map(|(name, value)| (name, value.escape_ascii().to_string())),
            )
            .finish()
    }
}

/// A line without its end, and what follows.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some(lf) = bytes.iter().position(|byte| *byte == b'\n') else {
        return (bytes, &[]);
    };
    let line = &bytes[..lf];
    (line.strip_suffix(b"\r").unwrap_or(line), &bytes[lf + 1..])
}

/// A valid request to upgrade. Whether to follow it is the caller's choice, by its target, Host and Origin.
#[derive(Debug, Clone, Copy)]
pub struct UpgradeRequest<'b> {
    /// Bytes of the head. Frames begin here; a client that waits for the response sends none before it.
    pub length: usize,
    /// The request target, as it was sent.
    pub target: &'b str,
    /// What the client takes this server for.
    pub host: &'b str,
    /// The origin of the page, if a browser sent the request. A server for browsers accepts only those it knows (RFC 6455, 10.2).
    pub origin: Option<&'b str>,
    /// The Sec-WebSocket-Key.
    key: &'b str,
    /// All headers.
    pub headers: Headers<'b>,
}

impl<'b> UpgradeRequest<'b> {
    /// The path of the target, without the query.
    pub fn path(&self) -> &'b str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The subprotocols that the client offers, the preferred one first.
    pub fn protocols(&self) -> impl Iterator<Item = &'b str> {
        self.headers
            .elements("Sec-WebSocket-Protocol")
            .filter_map(|name| str::from_utf8(name).ok())
    }
}

/// Why a request is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpgradeError {
    /// The status of the response.
    pub status: u16,
    /// What is wrong, in words.
    pub reason: &'static str,
}

fn refuse<T>(status: u16, reason: &'static str) -> Result<T, UpgradeError> {
    Err(UpgradeError { status, reason })
}

/// Reads the request to upgrade at the beginning of `bytes`. `Ok(None)`: it is incomplete.
///
/// # Errors
/// [`UpgradeError`]: answer with [`write_refusal`], and close.
pub fn parse_upgrade_request<'b>(
    bytes: &'b [u8],
    limits: &http1::Limits,
) -> Result<Option<UpgradeRequest<'b>>, UpgradeError> {
    let head = match parse_request(bytes, limits) {
        Ok(Some(head)) => head,
        Ok(None) => return Ok(None),
        Err(error) => return refuse(error.status, error.reason),
    };
    let text = bytes[..head.length].trim_ascii_start();
    let (line, headers) = Headers::split(text);
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next(), words.next());
    let Some(target) = target.and_then(|target| str::from_utf8(target).ok()) else {
        return refuse(400, "the request line is malformed");
    };
    if head.is_http10 {
        return refuse(505, "WebSocket needs HTTP/1.1");
    }
    if method != Some(b"GET") {
        return refuse(405, "the method is not GET");
    }
    if head.body != Body::None {
        return refuse(400, "a request to upgrade has no body");
    }
    if !headers.lists("Upgrade", "websocket") || !headers.lists("Connection", "upgrade") {
        return refuse(
            426,
            "this is a WebSocket server, and the request is not to upgrade",
        );
    }
    if headers.single("Sec-WebSocket-Version") != Some("13") {
        return refuse(426, "the version of WebSocket is not 13");
    }
    let key = headers.single("Sec-WebSocket-Key").filter(|key| {
        let mut number = [0; KEY_BYTES + 2];
        key.len() == KEY_TEXT_BYTES && STANDARD.decode_slice(key, &mut number) == Ok(KEY_BYTES)
    });
    let Some(key) = key else {
        return refuse(400, "Sec-WebSocket-Key is not 16 bytes of base64");
    };
    let Some(host) = headers.single("Host") else {
        return refuse(400, "Host is malformed");
    };
    let origin = headers.single("Origin");
    if origin.is_none() && headers.all("Origin").next().is_some() {
        return refuse(400, "Origin is malformed");
    }
    Ok(Some(UpgradeRequest {
        length: head.length,
        target,
        host,
        origin,
        key,
        headers,
    }))
}

/// Appends the response that follows `request` with the subprotocol chosen of those it offers, if any. Extensions are declined.
pub fn write_upgrade_response(
    out: &mut Vec<u8>,
    request: &UpgradeRequest<'_>,
    protocol: Option<&str>,
) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(&accept_key(request.key.as_bytes()));
    if let Some(protocol) = protocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(protocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// Appends a response that refuses to upgrade. Close the connection behind it.
pub fn write_refusal(out: &mut Vec<u8>, error: &UpgradeError) {
    let UpgradeError { status, reason } = error;
    let extra = match status {
        405 => "Allow: GET\r\n",
        426 => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        _ => "",
    };
    let connection = if *status == 426 {
        "Upgrade, close"
    } else {
        "close"
    };
    let head = format!(
        "HTTP/1.1 {status} {}\r\n{extra}Connection: {connection}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{reason}\n",
        status_reason(*status),
        reason.len() + 1,
    );
    out.extend_from_slice(head.as_bytes());
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct UpgradeTarget<'a> {
    /// Host and port of the URL, the port only if it is not the scheme's.
    pub host: &'a str,
    /// Path and query of the URL; begins with `/`.
    pub path: &'a str,
    /// Subprotocols, the preferred one first.
    pub protocols: &'a [String],
    /// More headers: names and values, written as they are. Origin and cookies, for example.
    pub headers: &'a [(String, String)],
}

/// Appends the request to upgrade. `key` is random, another one for each connection.
pub fn write_upgrade_request(out: &mut Vec<u8>, target: &UpgradeTarget<'_>, key: &[u8; KEY_BYTES]) {
    let mut part = |bytes: &[u8]| out.extend_from_slice(bytes);
    part(b"GET ");
    part(target.path.as_bytes());
    part(b" HTTP/1.1\r\nHost: ");
    part(target.host.as_bytes());
    part(b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ");
    part(&key_text(key));
    for (at, protocol) in target.protocols.iter().enumerate() {
        part(if at == 0 {
            b"\r\nSec-WebSocket-Protocol: "
        } else {
            b", "
        });
        part(protocol.as_bytes());
    }
    for (name, value) in target.headers {
        part(b"\r\n");
        part(name.as_bytes());
        part(b": ");
        part(value.as_bytes());
    }
    part(b"\r\n\r\n");
}

/// A response that follows the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpgradeResponse<'b> {
    /// Bytes of the head. Frames begin here.
    pub length: usize,
    /// The subprotocol that the server chose, one of those offered.
    pub protocol: Option<&'b str>,
}

/// Why there is no WebSocket connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpgradeFailure {
    /// The server answered with this status instead of 101.
    Status(u16),
    /// The response is no HTTP.
    Malformed(Malformed),
    /// The 101 is malformed where a server's must not be (folded lines, bare LF), or does not say that it upgrades to WebSocket.
    NotUpgraded,
    /// The accept value does not belong to our key.
    WrongAccept,
    /// The server chose a subprotocol that was not offered, or several.
    Protocol,
    /// The server uses an extension that was not offered.
    Extension,
}

impl UpgradeFailure {
    /// The stable name in reports and metrics; all statuses have one.
    pub fn label(self) -> &'static str {
        match self {
            UpgradeFailure::Status(_) => "status",
            UpgradeFailure::Malformed(_) => "malformed",
            UpgradeFailure::NotUpgraded => "not_upgraded",
            UpgradeFailure::WrongAccept => "wrong_accept",
            UpgradeFailure::Protocol => "protocol",
            UpgradeFailure::Extension => "extension",
        }
    }
}

/// Reads the response at the beginning of `bytes` to a request with `key` and `protocols`. `Ok(None)`: it is incomplete.
///
/// # Errors
/// [`UpgradeFailure`]; the connection cannot be used any more.
pub fn parse_upgrade_response<'b>(
    bytes: &'b [u8],
    key: &[u8; KEY_BYTES],
    protocols: &[String],
) -> Result<Option<UpgradeResponse<'b>>, UpgradeFailure> {
    let limits = http1::Limits {
        head_bytes_max: REQUEST_LIMITS.head_bytes_max,
        ..http1::Limits::RESPONSE
    };
    let mut start = 0;
    let head = loop {
        let head = match parse_response(&bytes[start..], false, &limits) {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(None),
            Err(error) => return Err(UpgradeFailure::Malformed(error)),
        };
        match head.status {
            101 => break head,
            // Others of its class come before the response.
            100..=199 if start + head.length <= limits.head_bytes_max => start += head.length,
            status => return Err(UpgradeFailure::Status(status)),
        }
    };
    let end = start + head.length;
    let (_, headers) = Headers::split(&bytes[start..end]);
    let is_websocket = headers
        .single("Upgrade")
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    if !head.oddities.is_empty() || !is_websocket || !headers.lists("Connection", "upgrade") {
        return Err(UpgradeFailure::NotUpgraded);
    }
    let accept = headers.single("Sec-WebSocket-Accept");
    if accept.map(str::as_bytes) != Some(&accept_key(&key_text(key))[..]) {
        return Err(UpgradeFailure::WrongAccept);
    }
    if headers
        .elements("Sec-WebSocket-Extensions")
        .next()
        .is_some()
    {
        return Err(UpgradeFailure::Extension);
    }
    let protocol = headers.single("Sec-WebSocket-Protocol");
    let is_offered = protocol.is_none_or(|chosen| protocols.iter().any(|p| p == chosen));
    if !is_offered || (protocol.is_none() && headers.all("Sec-WebSocket-Protocol").next().is_some())
    {
        return Err(UpgradeFailure::Protocol);
    }
    let length = end;
    Ok(Some(UpgradeResponse { length, protocol }))
}
