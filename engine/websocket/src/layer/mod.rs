//! [`WebSocket`]: a layer that puts WebSocket around any handler.
//!
//! The inner handler is opened when the connection is upgraded. It receives the payloads of messages and sends messages: all that one
//! callback sends on its connection is one. Pings are answered, and both closing handshakes are performed, without it.
//! Invariants: 16 bytes of a connection's state, and nothing allocated for one that is idle; a frame is sent whole, by one callback;
//! nothing is sent behind our Close frame; a Ping is answered once, however often its bytes are delivered.
//! Must not depend on: what the inner handler does, rings, threads.

mod masks;
mod stats;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use holdfast_engine::{
    CloseMode, CloseReason, ConnId, DialId, Handler, InnerActions, InnerState, Layer, LayerConn,
    LayerContext, LayerState, OpenFailure, ReadChange, TimerChange,
};

use crate::close::CloseFrame;
use crate::close_code::CloseCode;
use crate::decoder::{Config, ControlPayload, Decoder, Event, Kind, Limits};
use crate::error::ProtocolError;
use crate::frame::{FrameHeader, Opcode, Role, write_frame};
use crate::handshake::{
    REQUEST_LIMITS, UpgradeError, UpgradeFailure, UpgradeRequest, UpgradeTarget,
    parse_upgrade_request, parse_upgrade_response, write_refusal, write_upgrade_request,
    write_upgrade_response,
};
use masks::Masks;
pub use stats::Stats;

/// What a server upgrades.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// The path of the targets that are served, without a query; others are answered by 404. By default all are.
    pub path: Option<String>,
    /// The subprotocols spoken here, the preferred one first. The first one that the client offers too is chosen; if it offers none of
    /// them, none is. By default none is.
    pub protocols: Vec<String>,
    /// The origins whose pages may connect; a browser's request from another one is answered by 403. By default all may.
    pub origins: Vec<String>,
}

impl ServerOptions {
    /// The subprotocol that answers `request`, if any.
    fn judge(&self, request: &UpgradeRequest<'_>) -> Result<Option<&str>, UpgradeError> {
        if self
            .path
            .as_deref()
            .is_some_and(|path| path != request.path())
        {
            let (status, reason) = (404, "there is nothing at this path");
            return Err(UpgradeError { status, reason });
        }
        let is_known = |origin: &str| {
            self.origins
                .iter()
                .any(|known| known.eq_ignore_ascii_case(origin))
        };
        if !self.origins.is_empty() && request.origin.is_some_and(|origin| !is_known(origin)) {
            let (status, reason) = (403, "pages of this origin may not connect");
            return Err(UpgradeError { status, reason });
        }
        let is_offered = |known: &&String| request.protocols().any(|offered| offered == *known);
        Ok(self.protocols.iter().find(is_offered).map(String::as_str))
    }
}

/// What a client asks for.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// Host and port of the URL, the port only if it is not 80.
    pub host: String,
    /// Path and query of the URL; begins with `/`.
    pub path: String,
    /// Subprotocols, the preferred one first.
    pub protocols: Vec<String>,
    /// More headers of the request: names and values.
    pub headers: Vec<(String, String)>,
}

/// Our end of the connections.
#[derive(Debug, Clone)]
pub enum Side {
    /// They are accepted.
    Server(ServerOptions),
    /// They are dialled.
    Client(ClientOptions),
}

/// How the inner handler receives messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// As a stream of bytes: payloads as they arrive, without the boundaries of messages. Nothing is kept here, so a message may have any
    /// length.
    #[default]
    Stream,
    /// Each [`Handler::on_bytes`] is given one whole message, which may be empty. If it uses less than all of it, the whole message is
    /// delivered again, when the engine would deliver again the bytes that were left. What it sends has the kind of the message. An
    /// unfinished message is kept, up to [`Limits::message_bytes_max`].
    Messages,
    /// The same, and an empty message is answered by an empty one, which a handler could not send: for an echo.
    Echo,
}

/// What all connections of a [`WebSocket`] have in common.
#[derive(Debug, Clone)]
pub struct Options {
    /// Our end, and what it asks for or serves.
    pub side: Side,
    /// What a peer may send.
    pub limits: Limits,
    /// How messages are delivered.
    pub delivery: Delivery,
    /// What sent messages are, except answers of [`Delivery::Messages`]. By default binary.
    pub kind: Kind,
    /// Longest time from the opening of the TCP connection to the upgrade, microseconds. By default 10 s.
    pub upgrade_timeout_us: u64,
    /// Longest time for the peer to answer our Close frame, and to end the TCP connection afterwards, microseconds. By default 10 s.
    pub close_timeout_us: u64,
}

impl Options {
    /// A server's defaults.
    pub fn server(options: ServerOptions) -> Self {
        Options::new(Side::Server(options))
    }

    /// A client's defaults.
    pub fn client(options: ClientOptions) -> Self {
        Options::new(Side::Client(options))
    }

    fn new(side: Side) -> Self {
        Options {
            side,
            limits: Limits::default(),
            delivery: Delivery::default(),
            kind: Kind::Binary,
            upgrade_timeout_us: 10_000_000,
            close_timeout_us: 10_000_000,
        }
    }
}

/// Where the frames of a connection are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reader {
    decoder: Decoder,
    /// Control frames behind the decoder's place that were handled already: the inner handler left bytes before them.
    handled: u8,
}

/// The layer's state of a connection: 16 bytes.
#[derive(Debug, Clone, Copy)]
pub enum State {
    /// The opening handshake is under way. The inner handler knows nothing of the connection.
    Opening {
        /// Names the key of the request.
        nonce: u32,
        /// The attempt of the inner handler.
        dial: DialId,
    },
    /// Messages go both ways.
    Open(Reader),
    /// The inner handler ended its direction: our Close is sent, and messages are delivered until the peer's.
    HalfClosed(Reader),
    /// The inner handler closed the connection: our Close is sent, and messages are delivered until the peer's.
    Closing(Reader),
    /// The same, but messages are dropped.
    Discarding(Reader),
    /// The handshake failed, or was refused.
    Failed {
        /// The attempt of the inner handler.
        dial: DialId,
        /// What it is told, if it dialled.
        failure: OpenFailure,
    },
    /// Everything is over but the TCP connection. The inner handler is told this reason, or the engine's.
    Ended(Option<CloseReason>),
}

impl Default for State {
    fn default() -> Self {
        let (nonce, dial) = (0, DialId::PLANNED);
        State::Opening { nonce, dial }
    }
}

impl State {
    /// The reader, while frames are read.
    fn reader(&mut self) -> Option<&mut Reader> {
        match self {
            State::Open(reader)
            | State::HalfClosed(reader)
            | State::Closing(reader)
            | State::Discarding(reader) => Some(reader),
            State::Opening { .. } | State::Failed { .. } | State::Ended(_) => None,
        }
    }
}

const _: () = assert!(size_of::<State>() == 16);

/// A layer that puts WebSocket around `H`: see the module. `on_open` of the inner handler follows the upgrade, so it is told neither
/// listener nor addresses; a layer that needs them goes around this one. A dialled connection whose upgrade fails is an attempt that
/// failed, to the inner handler.
///
/// | the inner handler | the peer is sent | the inner handler is told |
/// |---|---|---|
/// | sends | one message for each callback | |
/// | `close`, `close_after_send` | Close 1000 (in `on_stop` 1001), the end of the connection when the peer has answered | `on_close(LocallyClosed)`, or `Aborted` after the timeout |
/// | `shutdown_write` | the same | messages, `on_eof`, `on_close(LocallyClosed)` |
/// | `abort`, `reset_after_send` | no Close | as without the layer |
///
/// | the peer | the inner handler is told | the peer is sent |
/// |---|---|---|
/// | Close | `on_eof`, what it sends precedes our Close; `on_close(PeerClosed)` | Close with the same code |
/// | FIN without Close | `on_close(PeerClosed)`, and counted | FIN |
/// | breaks the protocol | `on_close(Other)`, and counted | Close with the code of the error |
///
/// `Conn::forward` and links between connections pass the layer by: do not use them inside.
pub struct WebSocket<H> {
    inner: H,
    options: Arc<Options>,
    config: Config,
    stats: Arc<Mutex<Stats>>,
    masks: Masks,
    /// Payloads of the callback, and a frame to send: one buffer for all connections of the thread.
    payload: Vec<u8>,
    frame: Vec<u8>,
    /// Unfinished messages, [`Delivery::Messages`].
    unfinished: HashMap<ConnId, Vec<u8>>,
    /// What answers are, while a message is delivered.
    answer: Option<Kind>,
    /// The code of the Close frame that the inner handler's close sends.
    close_code: CloseCode,
    /// The inner handler paused the delivery.
    is_paused: bool,
    /// The peer's Close is being answered.
    is_answering_close: bool,
}

impl<H> WebSocket<H> {
    /// The layer of one thread around `inner`. `stats` is where it counts.
    pub fn new(inner: H, options: Arc<Options>, stats: Arc<Mutex<Stats>>) -> Self {
        let role = match options.side {
            Side::Server(_) => Role::Server,
            Side::Client(_) => Role::Client,
        };
        WebSocket {
            inner,
            config: Config {
                role,
                limits: options.limits,
            },
            options,
            stats,
            masks: Masks::new(),
            payload: Vec::new(),
            frame: Vec::new(),
            unfinished: HashMap::new(),
            answer: None,
            close_code: CloseCode::NORMAL,
            is_paused: false,
            is_answering_close: false,
        }
    }

    /// The same with masks and keys that are the same each time, for simulations.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.masks = Masks::seeded(seed);
        self
    }

    fn count(&self, count: impl FnOnce(&mut Stats)) {
        count(&mut self.stats.lock().expect("no panic while it counts"));
    }

    fn mask(&mut self) -> Option<[u8; 4]> {
        (self.config.role == Role::Client).then(|| self.masks.next())
    }
}

impl<H: Handler> WebSocket<H> {
    fn send_frame(&mut self, conn: &mut LayerConn<'_, Self>, opcode: Opcode, payload: &[u8]) {
        let mask = self.mask();
        self.frame.clear();
        write_frame(&mut self.frame, opcode, true, mask, payload);
        conn.send_copy(&self.frame);
    }

    /// Sends what the inner handler sent, as one message.
    fn send_message(&mut self, conn: &mut LayerConn<'_, Self>, actions: &mut InnerActions) {
        let length: usize = actions.sends().map(<[u8]>::len).sum();
        if length == 0 {
            return;
        }
        let mask = self.mask();
        let header = FrameHeader {
            is_final: true,
            opcode: self.answer.unwrap_or(self.options.kind).into(),
            length: length as u64,
            mask,
        };
        self.frame.clear();
        header.write(&mut self.frame);
        if let Some(mask) = mask {
            let at = self.frame.len();
            for piece in actions.sends() {
                self.frame.extend_from_slice(piece);
            }
            crate::mask::apply_mask(&mut self.frame[at..], mask);
            actions.clear_sends();
        }
        // A server's payload stays what it is: shared buffers are not copied.
        conn.send_copy(&self.frame);
    }

    fn send_close(&mut self, conn: &mut LayerConn<'_, Self>, code: CloseCode) {
        let payload = code.0.to_be_bytes();
        let length = if code.may_be_sent() { payload.len() } else { 0 };
        self.send_frame(conn, Opcode::Close, &payload[..length]);
    }

    /// Everything was said: the TCP connection ends. The server ends it; a client waits for that (RFC 6455, 7.1.1).
    fn end(&mut self, conn: &mut LayerConn<'_, Self>, reason: CloseReason) {
        conn.state.own = State::Ended(Some(reason));
        match self.config.role {
            Role::Server => conn.close_after_send(),
            Role::Client => {
                conn.set_timer(conn.now_us() + self.options.close_timeout_us);
                conn.resume_reading();
            }
        }
    }

    /// The peer broke the protocol.
    fn fail(&mut self, conn: &mut LayerConn<'_, Self>, error: ProtocolError) {
        self.count(|stats| *stats.protocol_errors.entry(error.label()).or_default() += 1);
        if matches!(conn.state.own, State::Open(_)) {
            self.send_close(conn, error.close_code());
        }
        conn.state.own = State::Ended(Some(CloseReason::Other));
        conn.close_after_send();
    }

    /// The peer sent its Close.
    fn on_peer_close(&mut self, conn: &mut LayerConn<'_, Self>, payload: &ControlPayload) {
        let code = CloseFrame::parse(payload).map_or(CloseCode::NONE, |frame| frame.code);
        self.count(|stats| *stats.close_codes.entry(code.0).or_default() += 1);
        match conn.state.own {
            State::Open(_) => {
                self.is_answering_close = true;
                self.call(conn, |inner, conn| inner.on_eof(conn));
                self.is_answering_close = false;
                if matches!(conn.state.own, State::Open(_)) {
                    self.send_close(conn, code);
                    self.end(conn, CloseReason::PeerClosed);
                }
            }
            State::HalfClosed(_) => {
                self.is_answering_close = true;
                self.call(conn, |inner, conn| inner.on_eof(conn));
                self.is_answering_close = false;
                if matches!(conn.state.own, State::HalfClosed(_)) {
                    self.end(conn, CloseReason::LocallyClosed);
                }
            }
            _ => self.end(conn, CloseReason::LocallyClosed),
        }
    }

    /// Handles a control frame other than Close.
    fn on_control(&mut self, conn: &mut LayerConn<'_, Self>, event: &Event) {
        match event {
            Event::Ping(payload) => {
                self.count(|stats| stats.pings += 1);
                // Behind our Close nothing may be sent.
                if matches!(conn.state.own, State::Open(_)) {
                    self.send_frame(conn, Opcode::Pong, payload);
                }
            }
            _ => self.count(|stats| stats.pongs += 1),
        }
    }

    /// The connection is upgraded; the inner handler is told.
    fn opened(&mut self, conn: &mut LayerConn<'_, Self>) {
        self.count(|stats| stats.upgraded += 1);
        conn.state.own = State::Open(Reader::default());
        conn.clear_timer();
        self.call(conn, |inner, conn| inner.on_open(conn));
    }

    /// The response that refuses the upgrade.
    fn refuse(&mut self, conn: &mut LayerConn<'_, Self>, error: &UpgradeError) {
        self.frame.clear();
        write_refusal(&mut self.frame, error);
        conn.send_copy(&self.frame);
        self.failed(conn, OpenFailure::Refused);
        conn.close_after_send();
    }

    /// There will be no upgrade.
    fn failed(&mut self, conn: &mut LayerConn<'_, Self>, failure: OpenFailure) {
        let State::Opening { dial, .. } = conn.state.own else {
            return;
        };
        conn.state.own = State::Failed { dial, failure };
    }

    /// Reads a request. Returns the bytes it used, and whether the connection is upgraded.
    fn read_request(&mut self, conn: &mut LayerConn<'_, Self>, bytes: &[u8]) -> (usize, bool) {
        let options = Arc::clone(&self.options);
        let Side::Server(server) = &options.side else {
            unreachable!("only a server reads requests");
        };
        let answer = match parse_upgrade_request(bytes, &REQUEST_LIMITS) {
            Ok(None) => return (0, false),
            Ok(Some(request)) => server.judge(&request).map(|protocol| (request, protocol)),
            Err(error) => Err(error),
        };
        match answer {
            Ok((request, protocol)) => {
                self.frame.clear();
                write_upgrade_response(&mut self.frame, &request, protocol);
                conn.send_copy(&self.frame);
                self.opened(conn);
                (request.length, true)
            }
            Err(error) => {
                self.count(|stats| *stats.refused.entry(error.status).or_default() += 1);
                self.refuse(conn, &error);
                (bytes.len(), false)
            }
        }
    }

    /// Reads a response. Returns the bytes it used, and whether the connection is upgraded.
    fn read_response(
        &mut self,
        conn: &mut LayerConn<'_, Self>,
        bytes: &[u8],
        nonce: u32,
    ) -> (usize, bool) {
        let options = Arc::clone(&self.options);
        let Side::Client(client) = &options.side else {
            unreachable!("only a client reads responses");
        };
        match parse_upgrade_response(bytes, &self.masks.key(nonce), &client.protocols) {
            Ok(None) => (0, false),
            Ok(Some(response)) => {
                self.opened(conn);
                (response.length, true)
            }
            Err(failure) => {
                self.count(|stats| match failure {
                    UpgradeFailure::Status(status) => {
                        *stats.refused.entry(status).or_default() += 1;
                    }
                    _ => *stats.invalid.entry(failure.label()).or_default() += 1,
                });
                self.failed(
                    conn,
                    match failure {
                        UpgradeFailure::Status(_) => OpenFailure::Refused,
                        _ => OpenFailure::Other,
                    },
                );
                conn.close();
                (bytes.len(), false)
            }
        }
    }

    /// Delivers `payload` to the inner handler, or drops it. Returns how much was used.
    fn deliver(&mut self, conn: &mut LayerConn<'_, Self>, payload: &[u8]) -> usize {
        if matches!(conn.state.own, State::Discarding(_)) {
            return payload.len();
        }
        self.call(conn, |inner, conn| inner.on_bytes(conn, payload))
    }

    /// Reads frames, [`Delivery::Stream`]. Returns how many bytes were used.
    fn read_stream(&mut self, conn: &mut LayerConn<'_, Self>, bytes: &[u8]) -> usize {
        let mut payload = std::mem::take(&mut self.payload);
        let mut at = 0;
        loop {
            let Some(&mut start) = conn.state.own.reader() else {
                // It ended: what follows is dropped.
                at = bytes.len();
                break;
            };
            payload.clear();
            let mut scan = Scan::new(start);
            let end = self.scan(conn, &mut scan, &bytes[at..], &mut payload);
            let used = match payload.is_empty() {
                true => 0,
                false => self.deliver(conn, &payload),
            };
            let Some(reader) = conn.state.own.reader() else {
                at = bytes.len();
                break;
            };
            let is_left = used < payload.len();
            if is_left {
                let (used, left) = scan.back_to(&self.config, start, &bytes[at..], used);
                *reader = left;
                at += used;
            } else {
                *reader = Reader {
                    decoder: scan.decoder,
                    handled: 0,
                };
                at += scan.at;
            }
            match end {
                // What the inner handler waits for comes with bytes that follow, or when its pause ends.
                Found::Incomplete => break,
                _ if self.is_paused => break,
                Found::Many if is_left => {
                    // It wants more of a message than this many control frames may interrupt.
                    self.fail(conn, ProtocolError::MessageTooLong);
                }
                Found::Many => {}
                Found::Close(payload) => self.on_peer_close(conn, &payload),
                Found::Error(error) => self.fail(conn, error),
            }
        }
        self.payload = payload;
        at
    }

    /// Reads frames until the end of `bytes`, a Close frame or an error. Pings that were not answered are.
    fn scan(
        &mut self,
        conn: &mut LayerConn<'_, Self>,
        scan: &mut Scan,
        bytes: &[u8],
        payload: &mut Vec<u8>,
    ) -> Found {
        let mut handled = scan.start_handled;
        while scan.controls < u8::MAX {
            let mut decoder = scan.decoder;
            match decoder.step(&self.config, &bytes[scan.at..], payload) {
                Ok(None) => return Found::Incomplete,
                Err(error) => return Found::Error(error),
                Ok(Some(step)) => {
                    match step.event {
                        Event::Data { .. } => {}
                        Event::Close(payload) => return Found::Close(payload),
                        event => {
                            scan.controls += 1;
                            match handled {
                                0 => self.on_control(conn, &event),
                                _ => handled -= 1,
                            }
                        }
                    }
                    scan.decoder = decoder;
                    scan.at += step.used;
                }
            }
        }
        Found::Many
    }

    /// Reads frames, [`Delivery::Messages`]. Returns how many bytes were used.
    fn read_messages(&mut self, conn: &mut LayerConn<'_, Self>, bytes: &[u8]) -> usize {
        let mut payload = std::mem::take(&mut self.payload);
        let mut at = 0;
        while !self.is_paused {
            let Some(&mut reader) = conn.state.own.reader() else {
                at = bytes.len();
                break;
            };
            payload.clear();
            let mut decoder = reader.decoder;
            let step = match decoder.step(&self.config, &bytes[at..], &mut payload) {
                Ok(Some(step)) => step,
                Ok(None) => break,
                Err(error) => {
                    self.fail(conn, error);
                    continue;
                }
            };
            match step.event {
                Event::Close(payload) => {
                    self.on_peer_close(conn, &payload);
                    continue;
                }
                Event::Data { kind, ends_message } => {
                    if !self.on_part(conn, kind, ends_message, &mut payload) {
                        break;
                    }
                }
                event => self.on_control(conn, &event),
            }
            at += step.used;
            if let Some(reader) = conn.state.own.reader() {
                reader.decoder = decoder;
            }
        }
        self.payload = payload;
        at
    }

    /// A part of a message arrived. False: it ends the message, and the inner handler did not use that.
    fn on_part(
        &mut self,
        conn: &mut LayerConn<'_, Self>,
        kind: Kind,
        ends_message: bool,
        payload: &mut Vec<u8>,
    ) -> bool {
        let id = conn.id();
        if !ends_message {
            if !payload.is_empty() {
                self.unfinished
                    .entry(id)
                    .or_default()
                    .extend_from_slice(payload);
            }
            return true;
        }
        let earlier = self.unfinished.remove(&id);
        let earlier_length = earlier.as_ref().map_or(0, Vec::len);
        if let Some(mut whole) = earlier {
            whole.append(payload);
            *payload = whole;
        }
        self.answer = Some(kind);
        let used = self.deliver(conn, payload);
        if payload.is_empty()
            && self.options.delivery == Delivery::Echo
            && matches!(conn.state.own, State::Open(_))
        {
            self.send_frame(conn, kind.into(), b"");
        }
        self.answer = None;
        let is_used = used == payload.len() || conn.state.own.reader().is_none();
        if !is_used && earlier_length > 0 {
            payload.truncate(earlier_length);
            self.unfinished.insert(id, std::mem::take(payload));
        }
        is_used
    }

    /// Sends our Close, because the inner handler closed, in `mode`.
    fn begin_close(&mut self, conn: &mut LayerConn<'_, Self>, state: impl FnOnce(Reader) -> State) {
        let State::Open(reader) = conn.state.own else {
            return;
        };
        let code = self.close_code;
        self.send_close(conn, code);
        conn.state.own = state(reader);
        if !matches!(conn.state.own, State::HalfClosed(_)) {
            conn.set_timer(conn.now_us() + self.options.close_timeout_us);
            // The peer's Close is waited for, whatever the inner handler paused before.
            conn.resume_reading();
            self.is_paused = false;
        }
    }
}

/// How far frames were read that the inner handler may not use yet.
struct Scan {
    decoder: Decoder,
    at: usize,
    /// Control frames passed, and how many of the first ones were handled before.
    controls: u8,
    start_handled: u8,
}

/// Where it ended.
enum Found {
    /// More bytes are needed.
    Incomplete,
    /// There were too many control frames to count.
    Many,
    Close(ControlPayload),
    Error(ProtocolError),
}

impl Scan {
    fn new(start: Reader) -> Self {
        Scan {
            decoder: start.decoder,
            at: 0,
            controls: 0,
            start_handled: start.handled,
        }
    }

    /// Where the first `used` bytes of payload end that were read from `start`: the bytes up to there, and the reader.
    #[cold]
    fn back_to(
        &self,
        config: &Config,
        start: Reader,
        bytes: &[u8],
        used: usize,
    ) -> (usize, Reader) {
        let mut payload = Vec::new();
        let (mut decoder, mut at, mut passed, mut left) = (start.decoder, 0, 0, used);
        while left > 0 {
            let mut step = |decoder: &mut Decoder, bytes: &[u8]| {
                payload.clear();
                let step = decoder.step(config, bytes, &mut payload);
                (
                    step.expect("read before").expect("read before"),
                    payload.len(),
                )
            };
            let before = decoder;
            let (mut found, mut length) = step(&mut decoder, &bytes[at..self.at]);
            if length > left {
                let end = at + found.used - (length - left);
                decoder = before;
                (found, length) = step(&mut decoder, &bytes[at..end]);
            }
            if !matches!(found.event, Event::Data { .. }) {
                passed += 1;
            }
            left -= length;
            at += found.used;
        }
        let handled = self.controls - passed;
        (at, Reader { decoder, handled })
    }
}

impl<H: Handler> Layer for WebSocket<H> {
    type Inner = H;
    type State = State;

    fn inner(&mut self) -> &mut H {
        &mut self.inner
    }

    fn on_actions(&mut self, conn: &mut LayerConn<'_, Self>, mut actions: InnerActions) {
        if let Some(CloseMode::Abort(_) | CloseMode::ResetAfterSend) = actions.close {
            if matches!(conn.state.own, State::Open(_)) {
                self.send_message(conn, &mut actions);
            } else {
                actions.clear_sends();
            }
            if conn.state.own.reader().is_some() {
                self.count(|stats| stats.ended_without_close += 1);
                conn.state.own = State::Ended(None);
            }
            return conn.apply(actions);
        }
        let close = actions.close.take();
        let shuts_write = std::mem::take(&mut actions.shuts_write);
        match conn.state.own {
            State::Open(_) => self.send_message(conn, &mut actions),
            State::HalfClosed(_) => actions.clear_sends(),
            // It has closed: what it wants now is dropped, as the engine does.
            _ => {
                actions.clear_sends();
                actions.timer = TimerChange::Keep;
                actions.reading = ReadChange::Keep;
                actions.pauses_until_sent = false;
            }
        }
        self.is_paused |= actions.pauses_until_sent || actions.reading == ReadChange::Pause;
        conn.apply(actions);
        if self.is_answering_close {
            return;
        }
        match (close, conn.state.own) {
            (None, _) if shuts_write => self.begin_close(conn, State::HalfClosed),
            (None, _) => {}
            (Some(CloseMode::AfterSend), State::HalfClosed(reader) | State::Closing(reader)) => {
                conn.state.own = State::Discarding(reader);
                conn.set_timer(conn.now_us() + self.options.close_timeout_us);
            }
            (Some(_), State::HalfClosed(reader)) => {
                conn.state.own = State::Closing(reader);
                conn.set_timer(conn.now_us() + self.options.close_timeout_us);
            }
            (Some(CloseMode::AfterSend), _) => self.begin_close(conn, State::Discarding),
            (Some(_), _) => self.begin_close(conn, State::Closing),
        }
    }

    fn on_open(&mut self, conn: &mut LayerConn<'_, Self>) {
        conn.set_timer(conn.now_us() + self.options.upgrade_timeout_us);
        let options = Arc::clone(&self.options);
        let Side::Client(client) = &options.side else {
            return;
        };
        let nonce = self.masks.next_nonce();
        let dial = conn.dial_id().unwrap_or(DialId::PLANNED);
        conn.state.own = State::Opening { nonce, dial };
        let target = UpgradeTarget {
            host: &client.host,
            path: &client.path,
            protocols: &client.protocols,
            headers: &client.headers,
        };
        self.frame.clear();
        write_upgrade_request(&mut self.frame, &target, &self.masks.key(nonce));
        conn.send_copy(&self.frame);
    }

    fn on_bytes(&mut self, conn: &mut LayerConn<'_, Self>, bytes: &[u8]) -> usize {
        self.is_paused = false;
        let mut at = 0;
        if let State::Opening { nonce, .. } = conn.state.own {
            let (used, is_open) = match self.config.role {
                Role::Server => self.read_request(conn, bytes),
                Role::Client => self.read_response(conn, bytes, nonce),
            };
            at = used;
            if !is_open || at == bytes.len() || self.is_paused {
                return at;
            }
        }
        at + match self.options.delivery {
            Delivery::Stream => self.read_stream(conn, &bytes[at..]),
            Delivery::Messages | Delivery::Echo => self.read_messages(conn, &bytes[at..]),
        }
    }

    fn on_eof(&mut self, conn: &mut LayerConn<'_, Self>) {
        match conn.state.own {
            State::Open(_) => conn.state.own = State::Ended(Some(CloseReason::PeerClosed)),
            State::HalfClosed(_) | State::Closing(_) | State::Discarding(_) => {
                conn.state.own = State::Ended(Some(CloseReason::LocallyClosed));
            }
            State::Opening { .. } | State::Failed { .. } => {
                return conn.close();
            }
            State::Ended(_) => return conn.close(),
        }
        self.count(|stats| stats.ended_without_close += 1);
        conn.close();
    }

    fn on_timer(&mut self, conn: &mut LayerConn<'_, Self>) {
        match conn.state.own {
            State::Open(_) | State::HalfClosed(_) => {
                self.call(conn, |inner, conn| inner.on_timer(conn));
            }
            State::Opening { .. } => {
                self.count(|stats| stats.timed_out += 1);
                match self.config.role {
                    Role::Server => {
                        let (status, reason) = (408, "the request did not arrive in time");
                        self.refuse(conn, &UpgradeError { status, reason });
                    }
                    Role::Client => {
                        self.failed(conn, OpenFailure::TimedOut);
                        conn.abort(CloseReason::TimedOut);
                    }
                }
            }
            State::Closing(_) | State::Discarding(_) => {
                conn.state.own = State::Ended(None);
                self.count(|stats| stats.ended_without_close += 1);
                conn.abort(CloseReason::Aborted);
            }
            State::Failed { .. } | State::Ended(_) => conn.abort(CloseReason::Aborted),
        }
    }

    fn on_blocked(&mut self, conn: &mut LayerConn<'_, Self>) {
        if conn.state.own.reader().is_some() {
            self.call(conn, |inner, conn| inner.on_blocked(conn));
        }
    }

    fn on_writable(&mut self, conn: &mut LayerConn<'_, Self>) {
        if conn.state.own.reader().is_some() {
            self.call(conn, |inner, conn| inner.on_writable(conn));
        }
    }

    fn on_stop(&mut self, conn: &mut LayerConn<'_, Self>) {
        match conn.state.own {
            State::Opening { .. } => {
                self.count(|stats| stats.cancelled += 1);
                self.failed(conn, OpenFailure::Cancelled);
                conn.abort(CloseReason::Aborted);
            }
            State::Failed { .. } => conn.abort(CloseReason::Aborted),
            State::Ended(_) => {}
            _ => {
                self.close_code = match self.config.role {
                    Role::Server => CloseCode::GOING_AWAY,
                    Role::Client => CloseCode::NORMAL,
                };
                self.call(conn, |inner, conn| inner.on_stop(conn));
                self.close_code = CloseCode::NORMAL;
            }
        }
    }

    fn on_close(
        &mut self,
        cx: &mut LayerContext<'_, Self>,
        id: ConnId,
        state: &LayerState<State, InnerState<Self>>,
        reason: CloseReason,
    ) {
        self.unfinished.remove(&id);
        let told = match state.own {
            State::Opening { dial, .. } => {
                self.count(|stats| stats.ended_early += 1);
                let failure = match reason {
                    CloseReason::TimedOut => OpenFailure::TimedOut,
                    CloseReason::Reset => OpenFailure::Reset,
                    CloseReason::Unreachable => OpenFailure::Unreachable,
                    _ => OpenFailure::Other,
                };
                return self.tell_failure(cx, dial, state, failure);
            }
            State::Failed { dial, failure } => return self.tell_failure(cx, dial, state, failure),
            State::Ended(told) => told,
            _ => {
                self.count(|stats| stats.ended_without_close += 1);
                None
            }
        };
        let reason = told.unwrap_or(reason);
        self.call_thread(cx, |inner, cx| inner.on_close(cx, id, &state.inner, reason));
    }
}

impl<H: Handler> WebSocket<H> {
    /// Tells an inner handler that dialled that there is no connection.
    fn tell_failure(
        &mut self,
        cx: &mut LayerContext<'_, Self>,
        dial: DialId,
        state: &LayerState<State, InnerState<Self>>,
        failure: OpenFailure,
    ) {
        if self.config.role == Role::Client {
            self.call_thread(cx, |inner, cx| {
                inner.on_open_failed(cx, dial, &state.inner, failure);
            });
        }
    }
}
