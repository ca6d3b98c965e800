//! WebSocket: frames read whole, in pieces and by tungstenite; opening handshakes cut anywhere.

use holdfast_websocket::{
    Config, Limits, REQUEST_LIMITS, Role, UpgradeFailure, UpgradeRequest, parse_upgrade_request,
    parse_upgrade_response, write_refusal, write_upgrade_response,
};

use crate::input::{cuts, options, pieces, read_cut};

#[path = "../../websocket/tests/common/mod.rs"]
mod oracle;

/// Frames, as a server and as a client reads them: however they are cut, and as tungstenite reads them.
pub fn websocket_frames(data: &[u8]) {
    let Some((seed, bytes)) = options(data) else {
        return;
    };
    let config = Config {
        role: if seed & 1 == 0 {
            Role::Server
        } else {
            Role::Client
        },
        // A message of two frames that are allowed may be too long.
        limits: Limits {
            frame_bytes_max: 200,
            message_bytes_max: 256,
        },
    };
    let whole = oracle::read(&config, [&bytes[..]]);
    oracle::agree(&config, &bytes, &whole);
    for at in cuts(bytes.len()) {
        let (before, after) = bytes.split_at(at);
        assert_eq!(oracle::read(&config, [before, after]), whole, "cut at {at}");
    }
    assert_eq!(oracle::read(&config, pieces(&bytes, seed | 2)), whole);
}

const KEY: [u8; 16] = *b"the sample nonce";

/// Requests to upgrade, and responses to one.
pub fn websocket_upgrade(data: &[u8]) {
    let Some((seed, bytes)) = options(data) else {
        return;
    };
    if seed & 1 == 0 {
        request(&bytes);
    } else {
        let protocols = ["chat".to_owned()];
        let read = |bytes: &[u8]| {
            parse_upgrade_response(bytes, &KEY, &protocols)
                .map(|read| read.map(|r| (r.length, r.protocol.map(str::to_owned))))
        };
        if let Ok(Some((length, protocol))) = read_cut(&bytes, read, |said| *said == Ok(None)) {
            assert!(length <= bytes.len());
            assert!(protocol.is_none_or(|name| name == "chat"));
        }
    }
}

fn request(bytes: &[u8]) {
    // What a request says, without what borrows from it.
    let says = |request: UpgradeRequest<'_>| {
        let protocols: Vec<String> = request.protocols().map(str::to_owned).collect();
        let names = (request.target.to_owned(), request.host.to_owned());
        (request.length, names, protocols)
    };
    let read = |bytes: &[u8]| parse_upgrade_request(bytes, &REQUEST_LIMITS).map(|r| r.map(says));
    match read_cut(bytes, read, |said| *said == Ok(None)) {
        Ok(None) => {}
        Ok(Some((length, ..))) => {
            assert!(length <= bytes.len());
            let request = parse_upgrade_request(bytes, &REQUEST_LIMITS)
                .expect("valid")
                .expect("complete");
            // Whatever the request was, the response upgrades.
            let mut response = Vec::new();
            write_upgrade_response(&mut response, &request, None);
            let answered = parse_upgrade_response(&response, &KEY, &[]);
            assert!(matches!(
                answered,
                Ok(Some(_)) | Err(UpgradeFailure::WrongAccept)
            ));
        }
        Err(error) => {
            let mut response = Vec::new();
            write_refusal(&mut response, &error);
            let refused = parse_upgrade_response(&response, &KEY, &[]);
            assert_eq!(refused, Err(UpgradeFailure::Status(error.status)));
        }
    }
}
