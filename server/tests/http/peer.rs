//! A peer of the tests' own: it writes bytes as they are, and reads responses by rules of its own.
//!
//! Must not depend on: the code under test, its parser included.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use crate::Server;
use crate::common::{PATIENCE, read_to_end};

pub const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
pub const HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
/// A request that is told "no more than this", before its end.
pub const HALF_GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nX";

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's only value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice: {:?}", self.headers);
        value
    }

    pub fn says_close(&self) -> bool {
        self.header("Connection") == Some("close")
    }

    /// It without what differs from second to second.
    pub fn without_date(mut self) -> Self {
        self.headers.retain(|(name, _)| name != "Date");
        self
    }
}

/// The response at the beginning of `bytes` and its length; `None` if it is not whole. `is_head`:
/// it answers HEAD.
pub fn answer(bytes: &[u8], is_head: bool) -> Option<(Answer, usize)> {
    let head_bytes = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_bytes - 4]).expect("a head is text");
    let mut lines = head.split("\r\n");
    let first = lines.next().expect("a status line");
    let rest = first.strip_prefix("HTTP/1.1 ").expect("a status line");
    let (status, _reason) = rest.split_once(' ').expect("a reason, if an empty one");
    let status: u16 = status.parse().expect("a status");
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line:?}")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut answer = Answer {
        status,
        headers,
        body: Vec::new(),
    };
    let length = answer
        .header("Content-Length")
        .map(|value| value.parse::<usize>().expect("a length"));
    if matches!(status, 100..=199 | 204 | 304) {
        assert_eq!(length, None, "{first} has no body and no length");
        return Some((answer, head_bytes));
    }
    let length = length.expect("every other response has a length");
    if is_head {
        return Some((answer, head_bytes));
    }
    answer
        .body
        .extend_from_slice(bytes.get(head_bytes..head_bytes + length)?);
    Some((answer, head_bytes + length))
}

/// All responses in `bytes`, which answer requests in this order (true: HEAD), and nothing else.
/// Interim ones stay in.
pub fn answers(bytes: &[u8], are_head: &[bool]) -> Vec<Answer> {
    let mut all = Vec::new();
    let mut at = 0;
    let mut are_head = are_head.iter();
    let mut is_head = are_head.next();
    while at < bytes.len() {
        let shown = String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 200)]);
        let asked = *is_head.unwrap_or_else(|| panic!("more than was asked for: {shown}"));
        let (one, length) =
            answer(&bytes[at..], asked).unwrap_or_else(|| panic!("cut short: {shown}"));
        at += length;
        if one.status >= 200 {
            is_head = are_head.next();
        }
        all.push(one);
    }
    all
}

/// A connection.
pub struct Peer {
    pub stream: TcpStream,
    heard: Vec<u8>,
}

impl Peer {
    pub fn new(server: &Server) -> Self {
        Peer::to(server.address)
    }

    pub fn to(address: SocketAddr) -> Self {
        Peer::of(TcpStream::connect_timeout(&address, PATIENCE).expect("a connection"))
    }

    pub fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Peer {
            stream,
            heard: Vec::new(),
        }
    }

    pub fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("taken");
    }

    /// The next response.
    pub fn hear(&mut self, is_head: bool) -> Answer {
        self.try_hear(is_head)
            .expect("no reset")
            .expect("a response, not the end")
    }

    /// The next response; `None` at the peer's end, which never comes in the middle of one.
    pub fn try_hear(&mut self, is_head: bool) -> std::io::Result<Option<Answer>> {
        loop {
            if let Some((answer, length)) = answer(&self.heard, is_head) {
                self.heard.drain(..length);
                return Ok(Some(answer));
            }
            let mut piece = [0; 65_536];
            let count = self.stream.read(&mut piece)?;
            if count == 0 {
                assert!(self.heard.is_empty(), "the end in the middle of a response");
                return Ok(None);
            }
            self.heard.extend_from_slice(&piece[..count]);
        }
    }

    pub fn ask(&mut self, request: &[u8]) -> Answer {
        self.say(request);
        self.hear(request.starts_with(b"HEAD "))
    }

    /// Sends no more, and reads everything to the server's end.
    pub fn finish(mut self) -> Vec<u8> {
        self.stream.shutdown(Shutdown::Write).expect("open");
        self.hear_all()
    }

    /// Reads everything to the server's end, which is in order.
    pub fn hear_all(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.heard);
        all.extend(read_to_end(&mut self.stream).expect("an end in order"));
        all
    }

    /// Waits until the server has ended the connection, in whatever way. Returns how many bytes
    /// came before that.
    pub fn until_cut(&mut self) -> u64 {
        let mut piece = [0; 65_536];
        let mut bytes = 0;
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return bytes,
                Ok(count) => bytes += count as u64,
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return bytes,
                Err(e) => panic!("no end: {e}"),
            }
        }
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        let at_once = linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&self.stream, sockopt::Linger, &at_once).expect("a socket");
    }
}
