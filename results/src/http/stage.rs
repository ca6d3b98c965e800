//! Where slices are performed: signals, waits, progress.
//!
//! Purpose: what every slice needs of its surroundings, so that a slice itself reads as one line of events.
//! Invariants: every wait is bounded, and ends at once when the bench is interrupted, or interrupted again while all ends in order. Children that a slice drops are killed.
//! Must not know: what is measured.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use super::glance::Glance;
use crate::frame;

use holdfast_telemetry::live::Live;
use holdfast_telemetry::refusal::Refusal;
use holdfast_telemetry::report_line::Report;
use holdfast_telemetry::signals::Signals;
use holdfast_testbed::child::Child;

/// From one set of figures for people to the next.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// A process that was told to end has this long.
const END_MAX: Duration = Duration::from_secs(15);
/// How often the end of a process is looked for: the window of a slice lasts until it is seen.
const END_POLL: Duration = Duration::from_millis(2);

/// Why a slice has no figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// The bench was interrupted.
    Interrupted,
    /// Something did not do its part.
    Failed {
        /// By kind, as it is counted among the failures.
        kind: &'static str,
        /// In words.
        why: String,
    },
}

impl Cut {
    /// A failure.
    pub fn failed(kind: &'static str, why: impl Into<String>) -> Self {
        Self::Failed {
            kind,
            why: why.into(),
        }
    }
}

/// The surroundings of all slices.
#[derive(Debug)]
pub struct Stage {
    /// Woken by each line of a child.
    pub notify: Rc<Notify>,
    /// What shows the run.
    pub live: Live,
    /// What it shows.
    pub glance: Glance,
    shown: Option<Instant>,
    signals: Signals,
    interrupt_count: u32,
    /// So many interrupts end no wait.
    outlasted_count: u32,
}

impl Stage {
    /// Listens for signals. Inside the runtime.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub fn new(live: Live) -> Result<Self, Refusal> {
        let signals = frame::signals()
            .map_err(|e| Refusal::new(format!("signals: {e}"), "ulimit -n 20000"))?;
        Ok(Self {
            notify: Rc::new(Notify::new()),
            live,
            glance: Glance::new(),
            shown: None,
            signals,
            interrupt_count: 0,
            outlasted_count: 0,
        })
    }

    /// Somebody wants it all to end.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupt_count > 0
    }

    /// What is waited for from now on ends in order, also when all of it was interrupted: it takes one interrupt more to end a wait.
    pub fn end_in_order(&mut self) {
        self.outlasted_count = 1;
        if self.interrupt_count == 1 {
            self.live.say("in order; once more: at once");
        }
    }

    /// Waits until `look` gives something, which is asked after each line of a child and every `poll`; `None` after `max`.
    ///
    /// # Errors
    /// When the bench is interrupted, or `look` says that waiting is in vain.
    pub async fn wait<T>(
        &mut self,
        max: Duration,
        poll: Duration,
        mut look: impl FnMut() -> Result<Option<T>, Cut>,
    ) -> Result<Option<T>, Cut> {
        let until = Instant::now() + max;
        loop {
            if self.interrupt_count > self.outlasted_count {
                return Err(Cut::Interrupted);
            }
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.step(left.min(poll)).await;
        }
    }

    /// Waits until `child`, which was told to, has ended and all it printed is read.
    ///
    /// # Errors
    /// When it does not, counted as `kind`.
    pub async fn until_ended<R: Report>(
        &mut self,
        child: &mut Child<R>,
        kind: &'static str,
    ) -> Result<(), Cut> {
        let ended = self
            .wait(END_MAX, END_POLL, || {
                child.reap();
                Ok(child.is_done().then_some(()))
            })
            .await?;
        ended.ok_or_else(|| {
            Cut::failed(
                kind,
                format!(
                    "the {} did not end within {} s{}",
                    child.name,
                    END_MAX.as_secs(),
                    last_words(child)
                ),
            )
        })
    }

    async fn step(&mut self, time: Duration) {
        let mut is_signal = false;
        tokio::select! {
            () = self.signals.next() => is_signal = true,
            () = self.notify.notified() => {}
            () = sleep(time) => {}
        }
        if self.glance.has_begun() && self.shown.is_none_or(|at| at.elapsed() >= SHOW_EVERY) {
            self.shown = Some(Instant::now());
            self.live.show(self.glance.snapshot());
        }
        is_signal |= self.live.tick();
        if is_signal {
            self.interrupt_count += 1;
            if self.interrupt_count == 1 {
                self.live.say("interrupted: ending all of it");
            }
        }
    }
}

/// Looks that `child` still runs.
///
/// # Errors
/// How it ended and its last words, counted as `kind`.
pub fn has_not_ended<R: Report>(child: &mut Child<R>, kind: &'static str) -> Result<(), Cut> {
    child.reap();
    if child.exit().is_none() {
        return Ok(());
    }
    Err(Cut::failed(
        kind,
        format!(
            "the {} {}{}",
            child.name,
            child.end_in_words(),
            last_words(child)
        ),
    ))
}

/// The last line of a child's standard error behind a colon, if there is one.
#[must_use]
pub fn last_words<R: Report>(child: &Child<R>) -> String {
    child
        .stderr_tail(1)
        .pop()
        .map_or(String::new(), |line| format!(": {line}"))
}

/// The address of slice `number`: each has one of its own, so that what earlier ones left in TIME_WAIT is in nobody's way.
#[must_use]
pub fn address(number: usize, port: u16) -> SocketAddr {
    let byte = |n: usize| u8::try_from(n % 250 + 1).unwrap_or(1);
    SocketAddr::from((
        Ipv4Addr::new(127, 1, byte(number / 250), byte(number)),
        port,
    ))
}

/// Whether something listens at `address`.
#[must_use]
pub fn connects(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_loopback_and_differ() {
        let all: std::collections::BTreeSet<_> = (0..49_000).map(|n| address(n, 900)).collect();
        assert_eq!(all.len(), 49_000);
        assert!(all.iter().all(|a| a.ip().is_loopback()));
        assert_eq!(address(0, 900).to_string(), "127.1.1.1:900");
    }
}
