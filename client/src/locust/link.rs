//! The connection of one worker to the master: made, kept, and made again after a loss.
//!
//! Invariants: after a loss the link connects again, at first at once, then with growing pauses of
//! up to five seconds; a peer that does not read or write delays it by no more than [`TIMEOUT`];
//! messages to be sent while there is no connection are dropped.
//! Must not depend on: the contents of messages.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};

use super::zmtp::{self, Decoder, Received};
use crate::reconnect::{Backoff, Random};

/// How long connecting, greeting or writing may take.
const TIMEOUT: Duration = Duration::from_secs(5);
const BACKOFF: Backoff = Backoff {
    first_us: 200_000,
    longest_us: 5_000_000,
};
/// Idle time before the kernel sends keepalive probes, seconds: Locust's own value.
const KEEPALIVE_SECONDS: u32 = 30;
/// How long a connection that is given up may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// How long the router may take after that to forget the node id.
const FORGET_TIME: Duration = Duration::from_millis(200);
/// Messages that may wait for the link.
const QUEUE_LEN: usize = 256;

/// What a session wants from its link.
#[derive(Debug)]
pub enum LinkCommand {
    /// Send this message.
    Send(Vec<u8>),
    /// Close the connection and connect again with this node id.
    Reconnect(String),
    /// Close the connection, and answer when everything before was handed to the kernel.
    Flush(tokio::sync::oneshot::Sender<()>),
}

/// What happened on a link.
#[derive(Debug)]
pub enum LinkEvent {
    /// The connection is up and greeted.
    Connected,
    /// A message has arrived.
    Message(Vec<u8>),
    /// There is no connection, for this reason.
    Disconnected(String),
}

/// Starts the link of worker `number`, whose events go to `events`. Inside a runtime.
pub fn start(
    master: String,
    id: String,
    number: usize,
    events: Sender<(usize, LinkEvent)>,
) -> Sender<LinkCommand> {
    let (sender, commands) = channel(QUEUE_LEN);
    let mut link = Link {
        master,
        id,
        number,
        events,
        commands,
        random: Random::new(number),
    };
    tokio_uring::spawn(async move {
        let mut retries = 0;
        loop {
            let lost = match link.connect().await {
                Ok((stream, decoder)) => {
                    retries = 0;
                    link.serve(stream, decoder).await
                }
                Err(e) => Some(e),
            };
            if link.events.is_closed() {
                return;
            }
            let Some(reason) = lost else { continue };
            if link
                .events
                .send((number, LinkEvent::Disconnected(reason)))
                .await
                .is_err()
            {
                return;
            }
            let pause_us = BACKOFF.pause_us(retries, &mut link.random);
            retries = (retries + 1).min(16);
            if link.pause(Duration::from_micros(pause_us)).await.is_none() {
                return;
            }
        }
    });
    sender
}

struct Link {
    master: String,
    id: String,
    number: usize,
    events: Sender<(usize, LinkEvent)>,
    commands: Receiver<LinkCommand>,
    random: Random,
}

impl Link {
    async fn connect(&self) -> Result<(TcpStream, Decoder), String> {
        let addresses = match timeout(TIMEOUT, tokio::net::lookup_host(&self.master)).await {
            Ok(Ok(addresses)) => addresses.collect::<Vec<SocketAddr>>(),
            Ok(Err(e)) => {
                return Err(format!(
                    "its name cannot be resolved ({e}); next: give its address with --master, or add the name to /etc/hosts"
                ));
            }
            Err(_) => {
                return Err(
                    "the resolver does not answer; next: give the master's address instead of its name"
                        .to_owned(),
                );
            }
        };
        let connected = timeout(TIMEOUT, TcpStream::connect(&addresses[..])).await;
        let mut stream = connected
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .map_err(connect_error)?;
        // A router sends its greeting unasked.
        timeout(TIMEOUT, self.greet(&mut stream))
            .await
            .unwrap_or_else(|_| {
                Err(not_a_master(&format!(
                    "it accepts the connection, but sends no greeting of ZeroMQ's protocol within {} s",
                    TIMEOUT.as_secs()
                )))
            })
            .map(|decoder| (stream, decoder))
    }

    /// Exchanges greetings and READY commands.
    async fn greet(&self, stream: &mut TcpStream) -> Result<Decoder, String> {
        let text = |e: std::io::Error| format!("{e}; next: see the master's log");
        stream.set_nodelay(true).map_err(text)?;
        // Keepalive only finds a lost master sooner; heartbeats find it too.
        let _ = setsockopt(stream, sockopt::KeepAlive, &true);
        let _ = setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_SECONDS);
        stream.write_all(&zmtp::greeting()).await.map_err(text)?;
        stream
            .write_all(&zmtp::ready(&self.id))
            .await
            .map_err(text)?;
        let mut decoder = Decoder::default();
        loop {
            match decoder.next().map_err(|e| not_a_master(&e))? {
                Some(Received::Ready) => return Ok(decoder),
                Some(Received::Greeting | Received::Other) => {}
                Some(Received::Message(_)) => {
                    return Err(not_a_master("it sends a message before READY"));
                }
                None => receive(stream, &mut decoder).await?,
            }
        }
    }

    /// Serves a connection until it is lost, then gives the reason, or until a command ends it.
    async fn serve(&mut self, mut stream: TcpStream, mut decoder: Decoder) -> Option<String> {
        self.emit(LinkEvent::Connected).await;
        loop {
            loop {
                match decoder.next() {
                    Ok(Some(Received::Message(bytes))) => {
                        self.emit(LinkEvent::Message(bytes)).await
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(e) => return Some(e),
                }
            }
            tokio::select! {
                received = receive(&mut stream, &mut decoder) => {
                    if let Err(e) = received {
                        return Some(e);
                    }
                }
                command = self.commands.recv() => match command? {
                    LinkCommand::Send(payload) => {
                        let bytes = zmtp::message(&payload);
                        match timeout(TIMEOUT, stream.write_all(&bytes)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(e)) => return Some(e.to_string()),
                            Err(_) => return Some("it does not read".to_owned()),
                        }
                    }
                    LinkCommand::Reconnect(id) => {
                        self.id = id;
                        close(stream).await;
                        return None;
                    }
                    LinkCommand::Flush(done) => {
                        // The kernel has everything that was written; FIN follows it.
                        let _ = stream.shutdown().await;
                        let _ = done.send(());
                    }
                }
            }
        }
    }

    async fn emit(&self, event: LinkEvent) {
        let _ = self.events.send((self.number, event)).await;
    }

    /// Waits, and meanwhile drops messages that cannot be sent. `None` when the session has ended.
    async fn pause(&mut self, time: Duration) -> Option<()> {
        let rest = sleep(time);
        tokio::pin!(rest);
        loop {
            tokio::select! {
                () = &mut rest => return Some(()),
                command = self.commands.recv() => match command? {
                    LinkCommand::Send(_) => {}
                    LinkCommand::Reconnect(id) => self.id = id,
                    LinkCommand::Flush(done) => drop(done),
                }
            }
        }
    }
}

/// Why a connection to the master was not made, and what to do.
fn connect_error(error: std::io::Error) -> String {
    let next = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            "start the master, or give the port of its --master-bind-port, 5557 by default"
        }
        _ => "check the address given with --master, and the route to it",
    };
    format!("{error}; next: {next}")
}

/// What to do about a peer that does not speak the protocol.
fn not_a_master(reason: &str) -> String {
    format!(
        "{reason}; next: give the port of the master's --master-bind-port, 5557 by default, not that of its web page"
    )
}

/// Closes a connection and waits for the peer to do so: a router ignores a second connection of a
/// node id while it has the first.
async fn close(mut stream: TcpStream) {
    let ended = async {
        let _ = stream.shutdown().await;
        let mut bytes = [0; 1_024];
        while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
    };
    let _ = timeout(CLOSE_MAX, ended).await;
    sleep(FORGET_TIME).await;
}

/// Waits for bytes. Cancel safe: nothing is lost when it is dropped.
async fn receive(stream: &mut TcpStream, decoder: &mut Decoder) -> Result<(), String> {
    let mut bytes = [0; 16 * 1024];
    match stream.read(&mut bytes).await {
        Ok(0) => Err("it ended the connection".to_owned()),
        Ok(count) => {
            decoder.push(&bytes[..count]);
            Ok(())
        }
        Err(e) => Err(e.to_string()),
    }
}
