//! Streams of frames: cut anywhere they mean the same, and an independent crate reads them alike.

mod common;
#[path = "../../http1/tests/common/mod.rs"]
mod random;

use common::{Item, Reading, agree, read};
use holdfast_websocket::{
    Config, Kind, Limits, Opcode, ProtocolError, Role, close_payload, write_frame,
};
use random::Random;

fn config(role: Role) -> Config {
    let limits = Limits {
        frame_bytes_max: 70_000,
        message_bytes_max: 70_000,
    };
    Config { role, limits }
}

const TEXTS: [&str; 4] = [
    "",
    "hello",
    "κόσμε €",
    "🦀 and 𝄞, and plain letters behind them",
];

/// A valid stream for `role` of a few messages, and what it says. Messages are fragmented, with control frames between.
fn stream(random: &mut Random, role: Role) -> (Vec<u8>, Vec<Item>) {
    let (mut wire, mut items) = (Vec::new(), Vec::new());
    let mut put = |random: &mut Random, opcode, is_final, payload: &[u8]| {
        let mask = (role == Role::Server).then(|| (random.next() as u32).to_ne_bytes());
        write_frame(&mut wire, opcode, is_final, mask, payload);
    };
    for _ in 0..1 + random.below(4) {
        let (kind, message) = if random.below(2) == 0 {
            let text = *random.choose(&TEXTS);
            (Kind::Text, text.repeat(1 + random.below(4)).into_bytes())
        } else {
            let length = *random.choose(&[0, 1, 2, 3, 125, 126, 127, 300]);
            (
                Kind::Binary,
                (0..length).map(|_| random.next() as u8).collect(),
            )
        };
        let mut rest = &message[..];
        let mut opcode = Opcode::from(kind);
        let fragments = 1 + random.below(3);
        for fragment in 1..=fragments {
            let is_last = fragment == fragments;
            let length = if is_last {
                rest.len()
            } else {
                random.below(rest.len() + 1)
            };
            put(random, opcode, is_last, &rest[..length]);
            rest = &rest[length..];
            opcode = Opcode::Continuation;
            if is_last {
                items.push(Item::Message(kind, message.clone()));
            }
            match random.below(5) {
                0 => {
                    put(random, Opcode::Ping, true, b"are you there?");
                    items.push(Item::Ping(b"are you there?".to_vec()));
                }
                1 => {
                    put(random, Opcode::Pong, true, b"");
                    items.push(Item::Pong(Vec::new()));
                }
                _ => {}
            }
        }
    }
    if random.below(3) == 0 {
        let payload = close_payload(holdfast_websocket::CloseCode(4_000), "enough");
        put(random, Opcode::Close, true, &payload);
        items.push(Item::Close(4_000, "enough".to_owned()));
    }
    (wire, items)
}

#[test]
fn valid_streams_mean_the_same_cut_at_every_byte() {
    let mut random = Random::new(1);
    for round in 0..300 {
        let role = if round % 2 == 0 {
            Role::Server
        } else {
            Role::Client
        };
        let config = config(role);
        let (wire, items) = stream(&mut random, role);
        let whole = read(&config, [&wire[..]]);
        assert_eq!((&whole.items, whole.error), (&items, None));
        agree(&config, &wire, &whole);
        for at in 0..=wire.len() {
            let (before, after) = wire.split_at(at);
            assert_eq!(read(&config, [before, after]), whole, "cut at {at}");
        }
        assert_eq!(read(&config, wire.chunks(1)), whole, "byte by byte");
    }
}

#[test]
fn spoilt_streams_mean_the_same_cut_at_every_byte() {
    let mut random = Random::new(2);
    let mut errors = std::collections::HashSet::new();
    for round in 0..2_000 {
        let role = if round % 2 == 0 {
            Role::Server
        } else {
            Role::Client
        };
        let config = config(role);
        let (wire, _) = stream(&mut random, role);
        let wire = random.spoil(&wire);
        let whole = read(&config, [&wire[..]]);
        errors.extend(whole.error);
        agree(&config, &wire, &whole);
        let step = 1 + wire.len() / 64;
        for at in (0..=wire.len()).step_by(step) {
            let (before, after) = wire.split_at(at);
            assert_eq!(read(&config, [before, after]), whole, "cut at {at}");
        }
    }
    assert!(errors.len() >= 8, "few kinds of errors: {errors:?}");
}

/// A frame: opcode, whether it is final, payload.
type Frame<'a> = (Opcode, bool, &'a [u8]);

/// What a client reads of frames.
fn client_reads(frames: &[Frame<'_>]) -> Reading {
    let mut wire = Vec::new();
    for (opcode, is_final, payload) in frames {
        write_frame(&mut wire, *opcode, *is_final, None, payload);
    }
    read(&config(Role::Client), [&wire[..]])
}

#[test]
fn messages_that_are_not_allowed_are_refused() {
    use Opcode::{Binary, Close, Continuation, Text};
    use ProtocolError as E;
    let long = vec![b'a'; 40_000];
    let cases: [(&[Frame<'_>], E); 8] = [
        (&[(Continuation, true, b"")], E::UnexpectedContinuation),
        (
            &[(Text, false, b"a"), (Text, true, b"b")],
            E::ExpectedContinuation,
        ),
        (&[(Text, true, b"\xc3")], E::Utf8),
        (
            &[(Text, false, b"\xc3"), (Continuation, false, b"\xc3")],
            E::Utf8,
        ),
        (&[(Close, true, b"\x03")], E::ClosePayload),
        (&[(Close, true, b"\x03\xed")], E::ClosePayload),
        (
            &[(Binary, false, &long), (Continuation, true, &long)],
            E::MessageTooLong,
        ),
        (
            &[(Text, true, b"ok"), (Close, true, b"\x03\xe8\xff")],
            E::Utf8,
        ),
    ];
    for (frames, error) in cases {
        assert_eq!(client_reads(frames).error, Some(error), "{frames:?}");
    }
    let longer = vec![0; 70_001];
    assert_eq!(
        client_reads(&[(Binary, true, &longer)]).error,
        Some(E::FrameTooLong)
    );
    let codes: Vec<u16> = E::ALL.iter().map(|error| error.close_code().0).collect();
    assert!(codes.iter().all(|code| matches!(code, 1002 | 1007 | 1009)));
}

#[test]
fn wrong_text_is_refused_before_its_message_ends() {
    let frames = [
        (Opcode::Text, false, &b"ok"[..]),
        (Opcode::Continuation, false, b"\xff"),
    ];
    assert_eq!(client_reads(&frames).error, Some(ProtocolError::Utf8));
}
