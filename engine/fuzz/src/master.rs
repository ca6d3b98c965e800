//! Bytes of a Locust master's connection to `holdfast-client worker`, from the first one.
//!
//! Any split of the bytes gives the same messages; a decoded message survives encoding and
//! decoding.

use holdfast_client::locust::message::{MasterMessage, Message};
use holdfast_client::locust::zmtp::{Decoder, Received};

/// All units up to the first error.
fn decode(pieces: &[&[u8]]) -> (Vec<Received>, bool) {
    let mut decoder = Decoder::default();
    let mut all = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(unit)) => all.push(unit),
                Ok(None) => break,
                Err(_) => return (all, true),
            }
        }
    }
    (all, false)
}

/// The bytes of a master's connection.
pub fn master(data: &[u8]) {
    let (units, is_over) = decode(&[data]);
    for cut in (0..data.len()).step_by(1 + data.len() / 64) {
        assert_eq!(
            decode(&[&data[..cut], &data[cut..]]),
            (decode(&[data]).0, is_over)
        );
    }
    for unit in units {
        let Received::Message(bytes) = unit else {
            continue;
        };
        let Ok(message) = Message::decode(&bytes) else {
            continue;
        };
        let written = message.encode();
        let again = Message::decode(&written).expect("what is written can be read");
        assert_eq!(again.encode(), written);
        let _ = MasterMessage::from_message(&message);
    }
}
