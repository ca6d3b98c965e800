//! What a Locust master sends to `holdfast-client worker`, from the first byte of its connection.
//!
//! Cut anywhere, a connection has to say the same; what is read as a message has to be written and read again the same.

use holdfast_client::locust::message::{Message, Order};
use holdfast_client::locust::zmtp::{Heard, Inbox};

/// Everything that was said, up to the first error.
fn said(pieces: &[&[u8]]) -> (Vec<Heard>, bool) {
    let mut inbox = Inbox::default();
    let mut all = Vec::new();
    for piece in pieces {
        inbox.push(piece);
        loop {
            match inbox.heard() {
                Ok(Some(heard)) => all.push(heard),
                Ok(None) => break,
                Err(_) => return (all, true),
            }
        }
    }
    (all, false)
}

/// The bytes of a master's connection.
pub fn master(data: &[u8]) {
    let (heard, is_over) = said(&[data]);
    for cut in (0..data.len()).step_by(1 + data.len() / 64) {
        assert_eq!(
            said(&[&data[..cut], &data[cut..]]),
            (said(&[data]).0, is_over)
        );
    }
    for heard in heard {
        let Heard::Message(bytes) = heard else {
            continue;
        };
        let Ok(message) = Message::decode(&bytes) else {
            continue;
        };
        let written = message.encode();
        let again = Message::decode(&written).expect("what is written can be read");
        assert_eq!(again.encode(), written);
        let _ = Order::from_message(&message);
    }
}
