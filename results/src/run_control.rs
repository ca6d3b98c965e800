//! Signals, waits and progress of one run.
//!
//! Purpose: what every scenario needs while its processes run, so that a scenario itself reads as a
//! line of events.
//! Invariants: every wait is bounded. An interrupt ends a wait at once; during shutdown only a
//! second one does. A dropped child is killed.
//! Must not depend on: any scenario.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::progress::Progress;
use crate::run_harness;

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_telemetry::live::Live;
use holdfast_telemetry::report_line::Report;
use holdfast_telemetry::signals::Signals;
use holdfast_testbed::child::Child;

/// From one set of figures for people to the next.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// A process that was told to end has this long.
const END_MAX: Duration = Duration::from_secs(15);
/// How often the end of a process is looked for: the window of a slice lasts until it is seen.
const END_POLL: Duration = Duration::from_millis(2);

/// Why a run, or a part of it, ended before its end.
#[derive(Debug)]
pub enum Aborted {
    /// The bench was interrupted.
    Interrupted,
    /// A program could not start and said why: the run never began.
    Refused(SetupError),
    /// Something did not do its part.
    Failed {
        /// By kind, as it is counted among the failures.
        kind: &'static str,
        /// In words.
        why: String,
    },
}

impl Aborted {
    /// A failure.
    pub fn failed(kind: &'static str, why: impl Into<String>) -> Self {
        Self::Failed {
            kind,
            why: why.into(),
        }
    }
}

/// Signals, waits and progress of one run.
#[derive(Debug)]
pub struct RunControl {
    /// Woken by each line of a child.
    pub notify: Rc<Notify>,
    /// What shows the run.
    pub live: Live,
    /// What it shows, where the run is made of parts.
    pub progress: Progress,
    shown: Option<Instant>,
    signals: Signals,
    interrupt_count: u32,
    interrupted_at: Option<Instant>,
    /// This many interrupts end no wait.
    ignored_count: u32,
}

impl RunControl {
    /// Listens for signals. Inside the runtime.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub fn new(live: Live) -> Result<Self, SetupError> {
        let signals = run_harness::signals().map_err(|e| {
            SetupError::new(
                SetupErrorKind::Io,
                format!("signals: {e}"),
                "ulimit -n 20000",
            )
        })?;
        Ok(Self {
            notify: Rc::new(Notify::new()),
            live,
            progress: Progress::new(),
            shown: None,
            signals,
            interrupt_count: 0,
            interrupted_at: None,
            ignored_count: 0,
        })
    }

    /// The bench was interrupted.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupt_count > 0
    }

    /// When it was interrupted first.
    #[must_use]
    pub fn interrupted_at(&self) -> Option<Instant> {
        self.interrupted_at
    }

    /// Shuts down gracefully from now on, also after an interrupt: only a second one ends a wait.
    pub fn begin_shutdown(&mut self) {
        self.ignored_count = 1;
        if self.interrupt_count == 1 {
            self.live
                .note("shutting down gracefully; interrupt once more: at once");
        }
    }

    /// Waits until `look` gives something, which is asked after each line of a child and every
    /// `poll`; `None` after `max`.
    ///
    /// # Errors
    /// When the bench is interrupted, or `look` says that waiting is in vain.
    pub async fn wait<T>(
        &mut self,
        max: Duration,
        poll: Duration,
        mut look: impl FnMut() -> Result<Option<T>, Aborted>,
    ) -> Result<Option<T>, Aborted> {
        let until = Instant::now() + max;
        loop {
            if self.interrupt_count > self.ignored_count {
                return Err(Aborted::Interrupted);
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
    ) -> Result<(), Aborted> {
        let ended = self
            .wait(END_MAX, END_POLL, || {
                child.reap();
                Ok(child.is_done().then_some(()))
            })
            .await?;
        ended.ok_or_else(|| {
            Aborted::failed(
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
        if self.progress.has_begun() && self.shown.is_none_or(|at| at.elapsed() >= SHOW_EVERY) {
            self.shown = Some(Instant::now());
            self.live.show(self.progress.snapshot());
        }
        is_signal |= self.live.tick();
        if is_signal {
            self.interrupt_count += 1;
            if self.interrupt_count == 1 {
                self.interrupted_at = Some(Instant::now());
                self.live.note("interrupted: stopping the run");
            }
        }
    }
}

/// Looks that `child` still runs.
///
/// # Errors
/// How it ended and its last words, counted as `kind`.
pub fn has_not_ended<R: Report>(child: &mut Child<R>, kind: &'static str) -> Result<(), Aborted> {
    child.reap();
    if child.exit().is_none() {
        return Ok(());
    }
    Err(Aborted::failed(
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
