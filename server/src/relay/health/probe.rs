//! One check of a backend.
//!
//! Invariants: it takes no longer than its timeout and reads no more than [`ANSWER_MAX`] bytes. One
//! that only connects ends with a reset, as haproxy's do, and leaves no port in TIME_WAIT.
//! Must not depend on: what follows from its outcome.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use holdfast_l4::proxy::{self, Addresses, Command};
use holdfast_supervisor::flags::unescape;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::relay::config::{BackendConfig, CheckKind, PoolConfig, SendProxy};

/// The longest answer that is looked at, bytes.
const ANSWER_MAX: usize = 16_384;

/// What is asked of a backend, and what passes.
#[derive(Debug, PartialEq)]
pub struct Probe {
    /// Sent at once.
    send: Vec<u8>,
    expect: Expect,
    /// In place of the backend's port, unless 0.
    port: u16,
    timeout: Duration,
}

/// What passes.
#[derive(Debug, PartialEq)]
enum Expect {
    /// Accepting.
    Accept,
    /// An answer that begins with this.
    Start(Vec<u8>),
    /// The status line of an HTTP response below 400.
    Http,
}

impl Probe {
    /// The check of a backend, of a kind other than none.
    pub fn new(kind: CheckKind, pool: &PoolConfig, backend: &BackendConfig) -> Self {
        let check = &pool.check;
        let mut probe = Probe::accepting(pool);
        match kind {
            CheckKind::Http => {
                let host = match check.host.is_empty() {
                    true => backend.address.to_string(),
                    false => check.host.clone(),
                };
                let request = format!(
                    "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: holdfast-relay\r\n\
                     Accept: */*\r\nConnection: close\r\n\r\n",
                    check.path
                );
                probe.send.extend(request.into_bytes());
                probe.expect = Expect::Http;
            }
            CheckKind::Tcp | CheckKind::None => {
                let bytes = |text: &str| unescape("check", text).expect("checked when it was read");
                probe.send.extend(bytes(&check.send));
                if !check.expect.is_empty() {
                    probe.expect = Expect::Start(bytes(&check.expect));
                }
            }
        }
        probe
    }

    /// Passes if the backend accepts a connection.
    pub fn accepting(pool: &PoolConfig) -> Self {
        let check = &pool.check;
        let mut send = [0; proxy::TCP_BYTES_MAX];
        let nobody = &Addresses::Unspecified;
        let length = match pool.send_proxy {
            SendProxy::V1 if check.send_proxy => proxy::write_v1(&mut send, nobody),
            SendProxy::V2 if check.send_proxy => {
                proxy::write_v2(&mut send, Command::Local, nobody, [], false)
            }
            _ => Ok(0),
        };
        let length = length.expect("a header without addresses is short");
        Probe {
            send: send[..length].to_vec(),
            expect: Expect::Accept,
            port: check.port,
            timeout: check.timeout,
        }
    }

    /// Checks the backend at `address`.
    ///
    /// # Errors
    /// Why it does not pass, for people. What passes is told likewise.
    pub async fn run(&self, mut address: SocketAddr) -> Result<String, String> {
        if self.port != 0 {
            address.set_port(self.port);
        }
        let begin = Instant::now();
        let mut state = "connecting";
        let outcome = timeout(self.timeout, self.ask(address, &mut state)).await;
        match outcome {
            Ok(Ok(text)) => Ok(format!("{text} in {:.1?}", begin.elapsed())),
            Ok(Err(text)) => Err(text),
            Err(_) => Err(format!("timeout after {:?} while {state}", self.timeout)),
        }
    }

    async fn ask(&self, address: SocketAddr, state: &mut &str) -> Result<String, String> {
        let connected = self.connect(address).await;
        let mut stream = connected.map_err(|error| format!("connecting failed: {error}"))?;
        *state = "sending";
        let sent = stream.write_all(&self.send).await;
        sent.map_err(|error| format!("sending failed: {error}"))?;
        if self.expect == Expect::Accept {
            return Ok("connected".to_owned());
        }
        *state = "waiting for an answer";
        let mut answer = Vec::new();
        loop {
            if let Some(judged) = self.judge(&answer) {
                return judged;
            }
            let room = (ANSWER_MAX - answer.len()) as u64;
            let read = (&mut stream).take(room).read_buf(&mut answer).await;
            match read {
                Ok(0) => return Err(format!("ended after {} bytes of answer", answer.len())),
                Ok(_) => {}
                Err(error) => return Err(format!("waiting for an answer failed: {error}")),
            }
        }
    }

    /// What follows from the answer so far; `None`: more of it is needed.
    fn judge(&self, answer: &[u8]) -> Option<Result<String, String>> {
        match &self.expect {
            Expect::Accept => Some(Ok("connected".to_owned())),
            Expect::Start(start) => {
                let length = start.len().min(answer.len());
                if answer[..length] != start[..length] {
                    let text = String::from_utf8_lossy(&answer[..answer.len().min(64)]);
                    return Some(Err(format!("answered {text:?}")));
                }
                (length == start.len()).then(|| Ok("answered as expected".to_owned()))
            }
            Expect::Http => {
                const STATUS_END: usize = "HTTP/1.1 200".len();
                let prefix = b"HTTP/1.";
                let length = prefix.len().min(answer.len());
                if answer[..length] != prefix[..length] {
                    return Some(Err("answered something other than HTTP/1".to_owned()));
                }
                let line = answer.get(..STATUS_END)?;
                let code = std::str::from_utf8(&line[STATUS_END - 3..]).ok();
                Some(match code.and_then(|code| code.parse::<u16>().ok()) {
                    Some(code @ 200..=399) => Ok(format!("status {code}")),
                    Some(code) => Err(format!("status {code}")),
                    None => Err("answered something other than HTTP/1".to_owned()),
                })
            }
        }
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = match address.is_ipv4() {
            true => TcpSocket::new_v4(),
            false => TcpSocket::new_v6(),
        }?;
        socket.set_nodelay(true)?;
        if self.send.is_empty() && self.expect == Expect::Accept {
            socket.set_zero_linger()?;
        }
        socket.connect(address).await
    }
}
