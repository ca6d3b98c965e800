//! One run: what runs, with which seed, and what it gave.
//!
//! Must not depend on: how a scenario is run.

use holdfast_engine::sim::Canary;

use crate::coverage::Coverage;

/// A kind of run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Random handlers on both sides, which do whatever a handler may do.
    Echo,
    /// The heartbeat server of `holdfast-server longconn` and the users of `holdfast-client
    /// longconn`.
    Longconn,
    /// The responder of `holdfast-server http` and the users of `holdfast-client http`.
    Http,
    /// Random handlers on both sides, which end either direction, pause and resume.
    Streams,
    /// Random handlers that act on each other's connections by their ids, and dial and cancel in
    /// every callback.
    Mesh,
    /// The `relay` example between clients and a backend that keep accounts of each pair.
    Relay,
    /// The example `chat`.
    Chat,
    /// More work than a turn has time for. Does not alternate with the others: it takes longer.
    Overload,
    /// The two of `Longconn`, each behind the layer `WebSocket`.
    WebSocket,
}

impl Scenario {
    /// Every one.
    pub const ALL: [Scenario; 9] = [
        Scenario::Echo,
        Scenario::Longconn,
        Scenario::Http,
        Scenario::Streams,
        Scenario::Mesh,
        Scenario::Relay,
        Scenario::Chat,
        Scenario::Overload,
        Scenario::WebSocket,
    ];
    /// Those that alternate. Their number has no divisor in common with 8, by which seeds get access lists and successors: else some
    /// scenario would never have them.
    const ALTERNATING: [Scenario; 9] = [
        Scenario::Echo,
        Scenario::Longconn,
        Scenario::Http,
        Scenario::Streams,
        Scenario::Mesh,
        Scenario::Relay,
        Scenario::Chat,
        Scenario::WebSocket,
        Scenario::Longconn,
    ];

    /// The one that a seed runs when they alternate, or the one that can detect the mistake.
    pub fn of_run(seed: u64, canary: Option<Canary>) -> Scenario {
        match canary {
            Some(Canary::SharesUnbounded) => Scenario::Overload,
            Some(Canary::MaskForgotten | Canary::FragmentsSwapped | Canary::ControlFrameLost) => {
                Scenario::WebSocket
            }
            _ => Scenario::ALTERNATING[(seed % Scenario::ALTERNATING.len() as u64) as usize],
        }
    }

    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Scenario::Echo => "echo",
            Scenario::Longconn => "longconn",
            Scenario::Http => "http",
            Scenario::Streams => "streams",
            Scenario::Mesh => "mesh",
            Scenario::Relay => "relay",
            Scenario::Chat => "chat",
            Scenario::Overload => "overload",
            Scenario::WebSocket => "websocket",
        }
    }
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// What runs.
    pub scenario: Scenario,
    /// How.
    pub seed: u64,
    /// With which deliberate mistake.
    pub canary: Option<Canary>,
    /// Print everything that happens.
    pub is_told: bool,
}

/// The result of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// A digest of everything that happened.
    pub trace: u64,
    /// What it met.
    pub coverage: Coverage,
}

impl Run {
    /// The command that repeats it.
    pub fn command(&self) -> String {
        let mut text = format!(
            "cargo run --release -p holdfast-sim -- --scenario {} --seed {}",
            self.scenario.label(),
            self.seed
        );
        if let Some(canary) = self.canary {
            text += &format!(" --canary {}", canary.label());
        }
        text
    }
}
