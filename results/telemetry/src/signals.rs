//! The signals by which somebody asks for the end.
//!
//! Invariants: none is lost while nobody waits.
//! Must not depend on: what ends.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals listened for.
#[derive(Debug)]
pub struct Signals(Vec<Signal>);

impl Signals {
    /// Listens for some from now on. Inside a runtime.
    ///
    /// # Errors
    /// When they cannot be listened for.
    pub fn listen(kinds: &[SignalKind]) -> io::Result<Self> {
        let signals: io::Result<_> = kinds.iter().map(|kind| signal(*kind)).collect();
        Ok(Self(signals?))
    }

    /// Waits for the next one. None is lost if the wait is given up.
    pub async fn next(&mut self) {
        poll_fn(|context| {
            let is_any = self.0.iter_mut().any(|s| s.poll_recv(context).is_ready());
            if is_any {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}
