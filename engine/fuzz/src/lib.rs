//! Fuzz targets: one plain function for everything that reads what a peer, a file or a flag
//! supplies.
//!
//! Purpose: each target takes any bytes and panics if the code under test breaks a promise. "Does
//! not crash" is the least of them: input cut anywhere must mean the same, two readers
//! ([`mod@reference`], hyper, tungstenite) must agree, and what is written must be read back.
//! Invariants: a target depends on nothing but its bytes: no clock, no file, no network, no state
//! of an earlier call; it takes microseconds. `corpus/TARGET/` holds inputs that together reach
//! what was ever reached; the tests of this package replay them all, and `make fuzz` begins with
//! them.
//! Must not depend on: libFuzzer. `bin/` does.
//!
//! To add a target: a function in a file here, a line in [`TARGETS`], a `[[bin]]` in `Cargo.toml`
//! with its file in `bin/`, a folder in `corpus/` with a few inputs that are right and a few that
//! are nearly.
#![forbid(unsafe_code)]

mod bodies;
mod documents;
mod hyper_view;
mod input;
mod l4;
mod master;
mod proc_texts;
mod profiles;
pub mod reference;
mod replies;
mod reports;
mod requests;
mod responder;
mod responses;
mod sources;
mod statuses;
mod urls;
mod websocket;

pub use bodies::chunked;
pub use documents::documents;
pub use hyper_view::http_request_hyper;
pub use l4::{client_hello, proxy};
pub use master::master;
pub use proc_texts::{machine, samples};
pub use profiles::profiles;
pub use replies::http_reply;
pub use reports::reports;
pub use requests::http_request;
pub use responder::http_responder;
pub use responses::http_response;
pub use sources::sources;
pub use statuses::statuses;
pub use urls::urls;
pub use websocket::{websocket_frames, websocket_upgrade};

/// A fuzz target.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its file in `bin/` and of its folder in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("chunked", chunked),
    ("client_hello", client_hello),
    ("documents", documents),
    ("http_reply", http_reply),
    ("http_request", http_request),
    ("http_request_hyper", http_request_hyper),
    ("http_responder", http_responder),
    ("http_response", http_response),
    ("machine", machine),
    ("master", master),
    ("profiles", profiles),
    ("proxy", proxy),
    ("reports", reports),
    ("samples", samples),
    ("sources", sources),
    ("statuses", statuses),
    ("urls", urls),
    ("websocket_frames", websocket_frames),
    ("websocket_upgrade", websocket_upgrade),
];
