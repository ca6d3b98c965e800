//! A stream of frames as this crate reads it, and as tungstenite does.
//!
//! Must not depend on: where the bytes come from. The fuzz target uses it too.
#![allow(dead_code)] // Each user is a crate of its own and uses a part.

use std::io::{self, Read, Write};

use holdfast_websocket::{CloseFrame, Config, Decoder, Event, Kind, ProtocolError, Role};
use tungstenite::protocol::{WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

/// What arrived: whole messages and control frames, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// Code, reason.
    Close(u16, String),
}

/// Items, the bytes used, and the error that ended it, if one did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub items: Vec<Item>,
    pub error: Option<ProtocolError>,
    pub closed: bool,
}

/// Reads a stream that arrives in `pieces`, as a connection does: what a step does not use is given again with what follows.
pub fn read<'a>(config: &Config, pieces: impl IntoIterator<Item = &'a [u8]>) -> Reading {
    let (mut decoder, mut message) = (Decoder::default(), Vec::new());
    let (mut pending, mut items) = (Vec::new(), Vec::new());
    for piece in pieces {
        pending.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let before = message.len();
            let step = match decoder.step(config, &pending[at..], &mut message) {
                Ok(Some(step)) => step,
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(message.len(), before, "nothing of a wrong frame");
                    return Reading {
                        items,
                        error: Some(error),
                        closed: false,
                    };
                }
            };
            assert!(step.used > 0 && at + step.used <= pending.len(), "progress");
            at += step.used;
            match step.event {
                Event::Data { kind, ends_message } => {
                    assert_eq!(decoder.unfinished().is_none(), ends_message);
                    if ends_message {
                        items.push(Item::Message(kind, std::mem::take(&mut message)));
                    }
                }
                Event::Ping(payload) => items.push(Item::Ping(payload.to_vec())),
                Event::Pong(payload) => items.push(Item::Pong(payload.to_vec())),
                Event::Close(payload) => {
                    let close = CloseFrame::parse(&payload).expect("checked");
                    items.push(Item::Close(close.code.0, close.reason.to_owned()));
                    return Reading {
                        items,
                        error: None,
                        closed: true,
                    };
                }
            }
        }
        pending.drain(..at);
        assert!(
            pending.len() <= 14 + 125,
            "only a header or a control frame waits"
        );
    }
    Reading {
        items,
        error: None,
        closed: false,
    }
}

/// The stream that tungstenite reads; what it writes is dropped.
struct Wire<'a>(&'a [u8]);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The items that tungstenite reads, and whether it found an error behind them.
pub fn oracle(config: &Config, bytes: &[u8]) -> (Vec<Item>, bool) {
    let role = match config.role {
        Role::Server => tungstenite::protocol::Role::Server,
        Role::Client => tungstenite::protocol::Role::Client,
    };
    let limits = WebSocketConfig::default()
        .max_frame_size(Some(config.limits.frame_bytes_max as usize))
        .max_message_size(Some(config.limits.message_bytes_max as usize));
    let mut socket = WebSocket::from_raw_socket(Wire(bytes), role, Some(limits));
    let mut items = Vec::new();
    loop {
        items.push(match socket.read() {
            Ok(Message::Text(text)) => Item::Message(Kind::Text, text.as_bytes().to_vec()),
            Ok(Message::Binary(bytes)) => Item::Message(Kind::Binary, bytes.to_vec()),
            Ok(Message::Ping(payload)) => Item::Ping(payload.to_vec()),
            Ok(Message::Pong(payload)) => Item::Pong(payload.to_vec()),
            Ok(Message::Close(frame)) => {
                let (code, reason) = frame.map_or((1005, String::new()), |f| {
                    (f.code.into(), f.reason.to_string())
                });
                items.push(Item::Close(code, reason));
                return (items, false);
            }
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return (items, false);
            }
            Err(_) => return (items, true),
        });
    }
}

/// Makes sure that `ours` is what tungstenite reads of the same bytes. It is less strict in some points, and we stop where it goes on.
pub fn agree(config: &Config, bytes: &[u8], ours: &Reading) {
    let (items, is_error) = oracle(config, bytes);
    match ours.error {
        None => {
            assert_eq!(
                ours.items,
                items,
                "{:?}: {}",
                config.role,
                bytes.escape_ascii()
            );
            assert!(
                !is_error,
                "only tungstenite refuses {}",
                bytes.escape_ascii()
            );
        }
        // It takes any length form, and answers a close code that may not be sent instead of refusing it. It looks for a text's wrong
        // bytes at its end, and for too long a message when it is there.
        Some(_) => {
            let common = &items[..ours.items.len().min(items.len())];
            assert_eq!(ours.items, common, "{}", bytes.escape_ascii());
        }
    }
    if is_error {
        assert!(
            ours.error.is_some(),
            "only tungstenite refuses {}",
            bytes.escape_ascii()
        );
    }
}
