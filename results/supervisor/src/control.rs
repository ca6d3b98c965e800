//! The runtime of the control plane, which hears signals from the moment it exists.
//!
//! Invariants: made before a port is bound, so that a signal never ends a process that others can
//! already reach without its figures.
//! Must not depend on: engines, what is supervised.

use std::time::Duration;

use holdfast_telemetry::console::{Console, Event, Events};

/// See the file's head.
pub struct Control {
    pub(crate) runtime: tokio_uring::Runtime,
    pub(crate) events: Events,
}

impl Control {
    /// Listens for the signals that stop a program, and for SIGUSR2 with `hears_upgrades`.
    ///
    /// # Errors
    /// The kernel has no memory or no descriptor left for a ring.
    pub fn new(console: &Console, hears_upgrades: bool) -> std::io::Result<Self> {
        let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())?;
        let events = runtime.block_on(async { Events::new(console, hears_upgrades) })?;
        Ok(Control { runtime, events })
    }

    /// Waits for `time`; true as soon as somebody asks for the end.
    pub fn is_stopped_within(&mut self, time: Duration, console: &mut Console) -> bool {
        let events = &mut self.events;
        self.runtime.block_on(async move {
            let stop = async { while events.next(console).await != Event::Stop {} };
            tokio::time::timeout(time, stop).await.is_ok()
        })
    }
}

/// Somebody asked for the end before the program served; the text says what it was doing.
#[derive(Debug)]
pub struct Interrupted(pub String);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "interrupted while {}", self.0)
    }
}

impl std::error::Error for Interrupted {}
