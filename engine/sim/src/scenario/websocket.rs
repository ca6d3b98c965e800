//! Heartbeats over WebSocket: the server and the users of the scenario `longconn`, each behind the layer, and between the layers and the
//! engine a wire that fragments messages and puts pings between their fragments.
//!
//! The mistakes of this scenario are made on the wire, as a codec with that mistake would.

use std::sync::{Arc, Mutex};

use holdfast_client::load::Load;
use holdfast_client::longconn::user::{UserConfig, UserReport, Users};
use holdfast_engine::sim::{Canary, Random};
use holdfast_engine::{
    CloseReason, ConnId, Handler, InnerActions, InnerState, Layer, LayerConn, LayerContext,
    LayerState,
};
use holdfast_server::longconn::heartbeat::{HeartbeatConfig, HeartbeatServer};
use holdfast_websocket::layer::{ClientOptions, Options, ServerOptions, Stats, WebSocket};
use holdfast_websocket::{FrameHeader, Opcode, Role, apply_mask, write_frame};

use super::shifting;
use super::sides::{Sides, add_hostile, config, plan, world};
use crate::run::{Outcome, Run};

static MESSAGES: [&[u8]; 3] = [b"ok", b"k", &[b'm'; 900]];

/// A request to upgrade, and masked frames behind it: what scripted clients send, often spoilt.
fn hostile_content() -> Vec<Vec<u8>> {
    let mut request = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".to_vec();
    let mut frames = Vec::new();
    let mask = Some([1, 2, 3, 4]);
    write_frame(&mut frames, Opcode::Binary, false, mask, b"hello");
    write_frame(&mut frames, Opcode::Ping, true, mask, b"?");
    write_frame(&mut frames, Opcode::Continuation, true, mask, b"");
    request.extend_from_slice(&frames);
    let mut close = Vec::new();
    write_frame(&mut close, Opcode::Close, true, mask, b"\x03\xe8");
    vec![request.clone(), frames, [request, close].concat()]
}

pub(super) fn run(run: Run) -> Outcome {
    let world = world(run);
    let (server, client, plan, heartbeat, user, users, options, has_hostile) = {
        let mut world = world.lock().expect("it is new");
        let has_hostile = world.random().once_in(3);
        if has_hostile {
            let answers = [
                b"HTTP/1.1 503 Busy\r\n\r\n".to_vec(),
                b"\x82\x02ok".to_vec(),
            ];
            add_hostile(&mut world, &hostile_content(), Some(&answers));
        }
        let random = world.random();
        let [server, client] = [(); 2].map(|()| {
            let pending_bytes_max = random.magnitude(512, 65_536) as usize;
            let config = config(random).to_builder();
            config
                .pending_bytes_max(pending_bytes_max)
                .build()
                .expect("valid")
        });
        let message = random.pick(&MESSAGES);
        let interval_us = random.pick(&[0, 5_000, 50_000, 200_000]);
        let heartbeat = HeartbeatConfig {
            message,
            interval_us,
            idle_timeout_us: random
                .once_in(4)
                .then(|| random.magnitude(1_000, 3_000_000)),
            echo: false,
        };
        let upward = random.pick(&MESSAGES);
        let user = UserConfig {
            expect: message,
            interval_us: if random.once_in(2) { interval_us } else { 0 },
            send: random
                .once_in(2)
                .then(|| (upward, random.magnitude(8_000, 500_000))),
            reconnect: None,
        };
        let users = random.magnitude(1, 40);
        let mut options = [
            Options::server(ServerOptions::default()),
            Options::client(ClientOptions {
                host: "a".to_owned(),
                path: "/".to_owned(),
                ..ClientOptions::default()
            }),
        ];
        for options in &mut options {
            let shortest_us = random.pick(&[10_000, 1_000_000]);
            options.upgrade_timeout_us = random.magnitude(shortest_us, 5_000_000);
            options.close_timeout_us = random.magnitude(10_000, 3_000_000);
        }
        let plan = plan(random, has_hostile);
        (
            server,
            client,
            plan,
            heartbeat,
            user,
            users,
            options.map(Arc::new),
            has_hostile,
        )
    };
    let now_us = world.lock().expect("nobody panicked with it").now_us();
    let sides = Sides {
        world: &world,
        server: &server,
        client: &client,
        plan: &plan,
        canary: run.canary,
        seed: run.seed,
    };
    let [server_stats, client_stats]: [Arc<Mutex<Stats>>; 2] = Default::default();
    let [server_options, client_options] = options;
    let load = Load::new(users, Load::MAX);
    let mut seed = run.seed ^ 0x5753_0000;
    let wire = |inner: WebSocket<HeartbeatServer>| {
        seed += 1;
        Wire::new(inner.with_seed(seed), Role::Server, run.canary, seed)
    };
    let mut wire = wire;
    let users_wire = {
        let users = Users::new(user, load, 0, 1);
        let inner = WebSocket::new(users, client_options, Arc::clone(&client_stats));
        Wire::new(
            inner.with_seed(run.seed),
            Role::Client,
            run.canary,
            run.seed,
        )
    };
    sides.run_commanded(
        || {
            let inner = HeartbeatServer::new(heartbeat);
            let stats = Arc::clone(&server_stats);
            wire(WebSocket::new(inner, Arc::clone(&server_options), stats))
        },
        users_wire,
        |_| Vec::new(),
        shifting::changes(now_us, users, run.seed),
        |coverage, servers, client| {
            let mut report = UserReport::default();
            client.handler().report(&mut report);
            let stats = client_stats
                .lock()
                .expect("nobody panicked with it")
                .clone();
            let served = server_stats
                .lock()
                .expect("nobody panicked with it")
                .clone();
            let sum = |counts: Vec<u64>| counts.into_iter().sum::<u64>();
            let classes = stats.upgraded
                + sum(stats.refused.into_values().collect())
                + sum(stats.invalid.into_values().collect())
                + stats.timed_out
                + stats.ended_early
                + stats.cancelled;
            assert_eq!(
                classes,
                client.stats().opened,
                "each upgrade ended in one class"
            );
            let ended: u64 = report.ended.iter().sum();
            assert_eq!(
                ended, stats.upgraded,
                "each upgraded connection ended in one class"
            );
            if !has_hostile {
                assert_eq!(report.wrong, 0, "what was pushed is what came");
                for errors in [&stats.protocol_errors, &served.protocol_errors] {
                    assert!(errors.is_empty(), "of our own two ends: {errors:?}");
                }
            }
            let answered = client.handler().answered;
            let answered = servers
                .iter_mut()
                .fold(answered, |sum, s| sum + s.handler().answered);
            coverage.count("upgraded", stats.upgraded);
            coverage.count("pings_answered", answered);
            coverage.count("messages", report.received);
        },
    )
}

/// Between the layer and the engine: fragments messages, puts pings between the fragments, and makes sure that each is answered.
struct Wire<H> {
    inner: H,
    role: Role,
    canary: Option<Canary>,
    random: Random,
    /// Pings whose answer was made sure of.
    answered: u64,
}

/// What the wire knows of a connection.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// Frames follow the head of the request or the response, in each direction.
    is_sending_frames: bool,
    pings: u32,
    pongs: u32,
    /// The code of the peer's Close.
    code: Option<u16>,
    received: Received,
}

/// How far the received bytes were read: their head up to the empty line, then frames.
#[derive(Debug, Clone, Copy, Default)]
struct Received {
    /// Bytes of the empty line, and its two bytes before, seen so far.
    line_end: u8,
    is_in_frames: bool,
    header: [u8; 16],
    length: u8,
    /// Bytes of payload to skip.
    skip: u64,
}

impl Seen {
    fn receive(&mut self, role: Role, bytes: &[u8]) {
        let at = &mut self.received;
        for byte in bytes {
            if !at.is_in_frames {
                at.line_end = match (at.line_end, byte) {
                    (0 | 2, b'\r') | (1 | 3, b'\n') => at.line_end + 1,
                    (_, b'\r') => 1,
                    _ => 0,
                };
                at.is_in_frames = at.line_end == 4;
            } else if at.skip > 0 {
                at.skip -= 1;
            } else {
                at.header[usize::from(at.length)] = *byte;
                at.length += 1;
                let header = &at.header[..usize::from(at.length)];
                let Ok(parsed) = FrameHeader::parse(header, role) else {
                    // The layer has said so: nothing more is read of this connection.
                    at.skip = u64::MAX;
                    continue;
                };
                let Some((frame, end)) = parsed else {
                    continue;
                };
                if frame.opcode == Opcode::Close && frame.length >= 2 {
                    if header.len() < end + 2 {
                        continue;
                    }
                    let mut code = [header[end], header[end + 1]];
                    apply_mask(&mut code, frame.mask.unwrap_or_default());
                    self.code.get_or_insert(u16::from_be_bytes(code));
                }
                if frame.opcode == Opcode::Pong {
                    self.pongs += 1;
                }
                at.skip = frame.length - (header.len() - end) as u64;
                at.length = 0;
            }
        }
    }
}

impl<H: Handler> Wire<H> {
    fn new(inner: H, role: Role, canary: Option<Canary>, seed: u64) -> Self {
        Wire {
            inner,
            role,
            canary,
            random: Random::new(seed ^ 0x5749_5245),
            answered: 0,
        }
    }

    /// Frames as the layer sent them, whole, and what leaves instead.
    fn fragment(&mut self, seen: &mut Seen, frames: &[u8]) -> Vec<u8> {
        let receiver = match self.role {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        };
        let (mut out, mut rest) = (Vec::new(), frames);
        while !rest.is_empty() {
            let parsed = FrameHeader::parse(rest, receiver).expect("the layer's frames are valid");
            let (header, at) = parsed.expect("a frame is sent whole");
            let end = at + header.length as usize;
            let (frame, after) = rest.split_at(end);
            rest = after;
            if header.opcode.is_control() || header.length < 2 || self.random.once_in(5) {
                out.extend_from_slice(frame);
                continue;
            }
            let mut payload = frame[at..].to_vec();
            apply_mask(&mut payload, header.mask.unwrap_or_default());
            let cut = 1 + self.random.below(header.length - 1) as usize;
            let (mut first, mut second) = payload.split_at(cut);
            if self.canary == Some(Canary::FragmentsSwapped) {
                (first, second) = (second, first);
            }
            let mut put = |opcode, is_final, payload: &[u8]| {
                let is_forgotten = is_final && self.canary == Some(Canary::MaskForgotten);
                let mask = header.mask.filter(|_| !is_forgotten);
                write_frame(&mut out, opcode, is_final, mask, payload);
            };
            put(header.opcode, false, first);
            if self.random.once_in(2) {
                seen.pings += 1;
                if self.canary != Some(Canary::ControlFrameLost) {
                    put(Opcode::Ping, true, b"between");
                }
            }
            put(Opcode::Continuation, true, second);
        }
        out
    }
}

impl<H: Handler> Layer for Wire<H> {
    type Inner = H;
    type State = Seen;

    fn inner(&mut self) -> &mut H {
        &mut self.inner
    }

    fn on_bytes(&mut self, conn: &mut LayerConn<'_, Self>, bytes: &[u8]) -> usize {
        let used = self.call(conn, |inner, conn| inner.on_bytes(conn, bytes));
        conn.state.own.receive(self.role, &bytes[..used]);
        used
    }

    fn on_actions(&mut self, conn: &mut LayerConn<'_, Self>, mut actions: InnerActions) {
        let sent = actions.sends().collect::<Vec<_>>().concat();
        if !sent.is_empty() {
            let mut seen = conn.state.own;
            let head = match seen.is_sending_frames {
                true => 0,
                // A refusal has a body, and nothing follows it.
                false if sent.starts_with(b"HTTP/1.1 4") => sent.len(),
                false => {
                    sent.windows(4)
                        .position(|w| w == b"\r\n\r\n")
                        .expect("a head")
                        + 4
                }
            };
            seen.is_sending_frames = true;
            conn.send_copy(&sent[..head]);
            conn.send_copy(&self.fragment(&mut seen, &sent[head..]));
            conn.state.own = seen;
            actions.clear_sends();
        }
        conn.apply(actions);
    }

    fn on_close(
        &mut self,
        cx: &mut LayerContext<'_, Self>,
        id: ConnId,
        state: &LayerState<Seen, InnerState<Self>>,
        reason: CloseReason,
    ) {
        let seen = state.own;
        assert!(
            seen.pongs <= seen.pings,
            "a pong that nobody asked for: {seen:?}"
        );
        // The code of our own Close: the peer answered it, and all pings before it.
        let own_code = match self.role {
            Role::Server => 1_001,
            Role::Client => 1_000,
        };
        if seen.code == Some(own_code) {
            assert_eq!(
                seen.pongs, seen.pings,
                "pings that were not answered: {seen:?}"
            );
            self.answered += u64::from(seen.pings);
        }
        self.call_thread(cx, |inner, cx| inner.on_close(cx, id, &state.inner, reason));
    }
}
