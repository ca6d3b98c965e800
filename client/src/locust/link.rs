//! The connection of one worker to the master: kept, and made again when it is lost.
//!
//! Invariants: after a loss it is tried again, at once and then ever later, up to five seconds; nobody who does not read or write holds
//! it up for longer than that; what could not be sent when it was lost is dropped.
//! Must not know: what messages say.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};

use super::zmtp::{self, Heard, Inbox};
use crate::reconnect::{Backoff, Random};

/// How long connecting, greeting or writing may take.
const PATIENCE: Duration = Duration::from_secs(5);
const BACKOFF: Backoff = Backoff {
    first_us: 200_000,
    longest_us: 5_000_000,
};
/// After how long without a word the kernel asks whether the master is there, seconds: as Locust does.
const KEEPALIVE_SECONDS: u32 = 30;
/// How long a connection that is given up may take to end, and how long the router may take to know.
const LEAVE: Duration = Duration::from_secs(1);
const LEAVE_REST: Duration = Duration::from_millis(200);
/// Messages that may wait for the link, either way.
const QUEUE_COUNT: usize = 256;

/// What to do with a link.
pub enum Wish {
    /// Send this.
    Send(Vec<u8>),
    /// Connect anew, as this one.
    Rebuild(String),
    /// Say when everything before was sent.
    Flush(tokio::sync::oneshot::Sender<()>),
}

/// What became of it.
pub enum Event {
    /// It is up.
    Up,
    /// A message came.
    Message(Vec<u8>),
    /// It is down, for this reason.
    Down(String),
}

/// Starts a link for a worker: what it is given is sent, what comes goes to `events` with the worker's number. Inside a runtime.
pub fn start(
    master: String,
    identity: String,
    number: usize,
    events: Sender<(usize, Event)>,
) -> Sender<Wish> {
    let (wishes, receiver) = channel(QUEUE_COUNT);
    let mut link = Link {
        master,
        identity,
        number,
        events,
        wishes: receiver,
        random: Random::new(number),
    };
    tokio_uring::spawn(async move {
        let mut retries = 0;
        loop {
            let lost = match link.connect().await {
                Ok((stream, inbox)) => {
                    retries = 0;
                    link.serve(stream, inbox).await
                }
                Err(e) => Some(e),
            };
            // Nobody listens any more, or a new connection was wished for.
            if link.events.is_closed() {
                return;
            }
            let Some(reason) = lost else { continue };
            if link
                .events
                .send((number, Event::Down(reason)))
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
    wishes
}

struct Link {
    master: String,
    identity: String,
    number: usize,
    events: Sender<(usize, Event)>,
    wishes: Receiver<Wish>,
    random: Random,
}

impl Link {
    async fn connect(&self) -> Result<(TcpStream, Inbox), String> {
        let greeted = async {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host(&self.master)
                .await
                .map_err(|e| format!("cannot resolve {} ({e})", self.master))?
                .collect();
            let mut stream = TcpStream::connect(&addresses[..])
                .await
                .map_err(|e| e.to_string())?;
            let said = |e: std::io::Error| e.to_string();
            stream.set_nodelay(true).map_err(said)?;
            // A kernel without these is no reason to go without a master.
            let _ = setsockopt(&stream, sockopt::KeepAlive, &true);
            let _ = setsockopt(&stream, sockopt::TcpKeepIdle, &KEEPALIVE_SECONDS);
            stream.write_all(&zmtp::greeting()).await.map_err(said)?;
            stream
                .write_all(&zmtp::ready(&self.identity))
                .await
                .map_err(said)?;
            let mut inbox = Inbox::default();
            loop {
                match inbox.heard()? {
                    Some(Heard::Ready) => return Ok((stream, inbox)),
                    Some(Heard::Greeting | Heard::Other) => {}
                    Some(Heard::Message(_)) => return Err("it sends before it is ready".to_owned()),
                    None => receive(&mut stream, &mut inbox).await?,
                }
            }
        };
        let late = |_| Err("it does not answer".to_owned());
        timeout(PATIENCE, greeted).await.unwrap_or_else(late)
    }

    /// Serves a connection until it is lost, for a reason, or is to be made anew.
    async fn serve(&mut self, mut stream: TcpStream, mut inbox: Inbox) -> Option<String> {
        self.tell(Event::Up).await;
        loop {
            loop {
                match inbox.heard() {
                    Ok(Some(Heard::Message(bytes))) => self.tell(Event::Message(bytes)).await,
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(e) => return Some(e),
                }
            }
            tokio::select! {
                received = receive(&mut stream, &mut inbox) => {
                    if let Err(e) = received {
                        return Some(e);
                    }
                }
                wish = self.wishes.recv() => match wish? {
                    Wish::Send(payload) => {
                        let bytes = zmtp::message(&payload);
                        match timeout(PATIENCE, stream.write_all(&bytes)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(e)) => return Some(e.to_string()),
                            Err(_) => return Some("it does not read".to_owned()),
                        }
                    }
                    Wish::Rebuild(identity) => {
                        self.identity = identity;
                        leave(stream).await;
                        return None;
                    }
                    Wish::Flush(done) => {
                        // What was written is with the kernel; its end goes out behind it.
                        let _ = stream.shutdown().await;
                        let _ = done.send(());
                    }
                }
            }
        }
    }

    async fn tell(&self, event: Event) {
        let _ = self.events.send((self.number, event)).await;
    }

    /// Waits, and meanwhile drops what cannot be sent. `None` when nobody wishes anything any more.
    async fn pause(&mut self, time: Duration) -> Option<()> {
        let rest = sleep(time);
        tokio::pin!(rest);
        loop {
            tokio::select! {
                () = &mut rest => return Some(()),
                wish = self.wishes.recv() => match wish? {
                    Wish::Send(_) => {}
                    Wish::Rebuild(identity) => self.identity = identity,
                    Wish::Flush(done) => drop(done),
                }
            }
        }
    }
}

/// Ends a connection and waits for the peer's end: a router takes no second connection of a name while it has the first.
async fn leave(mut stream: TcpStream) {
    let ended = async {
        let _ = stream.shutdown().await;
        let mut bytes = [0; 1_024];
        while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
    };
    let _ = timeout(LEAVE, ended).await;
    sleep(LEAVE_REST).await;
}

/// Waits for bytes. May be given up at any time: nothing is lost then.
async fn receive(stream: &mut TcpStream, inbox: &mut Inbox) -> Result<(), String> {
    let mut bytes = [0; 16 * 1024];
    match stream.read(&mut bytes).await {
        Ok(0) => Err("it ended the connection".to_owned()),
        Ok(count) => {
            inbox.push(&bytes[..count]);
            Ok(())
        }
        Err(e) => Err(e.to_string()),
    }
}
