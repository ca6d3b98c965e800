//! What runs in a simulated world. Each scenario draws small sizes for its engines from the seed,
//! so that everything is full at times.
//!
//! Must not depend on: how many runs there are.

mod babble;
mod chat;
mod echo;
mod http;
mod longconn;
mod mesh;
mod notes;
mod overload;
mod relay;
mod shifting;
mod sides;
mod streams;
mod websocket;

use crate::run::{Outcome, Run, Scenario};

impl Run {
    /// Runs it.
    ///
    /// # Panics
    /// When an invariant is broken.
    pub fn run(self) -> Outcome {
        match self.scenario {
            Scenario::Echo => echo::run(self),
            Scenario::Longconn => longconn::run(self),
            Scenario::Http => http::run(self),
            Scenario::Streams => streams::run(self),
            Scenario::Mesh => mesh::run(self),
            Scenario::Chat => chat::run(self),
            Scenario::Relay => relay::run(self),
            Scenario::Overload => overload::run(self),
            Scenario::WebSocket => websocket::run(self),
        }
    }
}
