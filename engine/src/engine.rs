//! The threads of an engine, and what the control plane sees of them.
//!
//! Each thread is pinned to a core and drives one [`Core`]. A thread with work looks again after `batch_delay_us`, which lets work
//! gather; one without sleeps until a ring has an event, a timer is due, or its orders are to be looked at.
//! Invariants: a ring is made, used and dropped by its own thread.
//! Must not depend on: protocols, and what a request looks like.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::config::{COMMAND_INTERVAL_US, Config, REPORT_INTERVAL_US};
use crate::core::{Core, Next, Shutdown};
use crate::dial::DialPlan;
use crate::error::{Error, SetupErrorKind};
use crate::handler::Handler;
use crate::kernel::{KernelRing, os};
use crate::limiter::ConnectionLimiter;
use crate::stats::Stats;

/// What one core thread shows to the control plane.
#[derive(Debug, Clone, Default)]
pub struct CoreReport<P> {
    /// Engine counters.
    pub stats: Stats,
    /// The handler's own report.
    pub handler: P,
    /// The thread has ended.
    pub is_done: bool,
}

/// A running engine: its threads, its orders, its reports.
pub struct Engine<P> {
    threads: Vec<JoinHandle<Result<(), Error>>>,
    stop: Arc<AtomicU8>,
    board: Arc<Vec<Mutex<CoreReport<P>>>>,
    started_at: Instant,
}

impl<P: Default + Send + 'static> Engine<P> {
    /// Starts `config.thread_count` core threads, each with the handler `make_handler` gives for its number, and returns when all of
    /// them run. `listeners[thread]` are accepted from; with a `plan`, handlers may dial.
    ///
    /// # Errors
    /// [`Error`] of the first thread that could not start; the others are stopped.
    pub fn start<H, F>(
        config: Config,
        listeners: Vec<Vec<OwnedFd>>,
        plan: Option<DialPlan>,
        mut make_handler: F,
    ) -> Result<Self, Error>
    where
        H: Handler<Report = P> + 'static,
        F: FnMut(usize) -> H,
    {
        config.check()?;
        let config = Arc::new(config);
        let limiter = Arc::new(ConnectionLimiter::new(config.capacity));
        let plan = plan.map(Arc::new);
        let stop = Arc::new(AtomicU8::new(Shutdown::None as u8));
        let board: Arc<Vec<_>> =
            Arc::new((0..config.thread_count).map(|_| Mutex::default()).collect());
        let started_at = Instant::now();
        let (ready_tx, ready_rx) = std::sync::mpsc::channel();
        let mut listeners = listeners.into_iter();
        let mut threads = Vec::new();
        for number in 0..config.thread_count {
            let own = CoreThread {
                number,
                config: Arc::clone(&config),
                limiter: Arc::clone(&limiter),
                plan: plan.clone(),
                listeners: listeners.next().unwrap_or_default(),
                stop: Arc::clone(&stop),
                board: Arc::clone(&board),
                started_at,
            };
            let (handler, ready) = (make_handler(number), ready_tx.clone());
            let thread = std::thread::Builder::new()
                .name(format!("core-{number}"))
                .stack_size(512 * 1024)
                .spawn(move || own.run(handler, &ready))
                .map_err(|e| {
                    Error::from_io(
                        "cannot start a core thread",
                        e,
                        "raise the limit: ulimit -u",
                    )
                    .with_kind(SetupErrorKind::LimitExceeded)
                })?;
            threads.push(thread);
        }
        drop(ready_tx);
        let engine = Engine {
            threads,
            stop,
            board,
            started_at,
        };
        let started = ready_rx
            .iter()
            .take(engine.threads.len())
            .filter(|ok| *ok)
            .count();
        if started < engine.threads.len() {
            engine.stop(Shutdown::Immediate);
            engine.join()?;
            return Err(Error::new(
                SetupErrorKind::Other,
                "a core thread could not start",
                "see the messages above",
            ));
        }
        Ok(engine)
    }

    /// Microseconds of engine time.
    pub fn now_us(&self) -> u64 {
        self.started_at.elapsed().as_micros() as u64
    }

    /// Tells the threads to stop; a harder stop replaces a softer one.
    pub fn stop(&self, how: Shutdown) {
        self.stop.fetch_max(how as u8, Ordering::Release);
    }

    /// Every thread's last report, in turn. The threads go on meanwhile: one whose report is being read publishes a little later.
    pub fn reports(&self) -> impl Iterator<Item = MutexGuard<'_, CoreReport<P>>> {
        self.board
            .iter()
            .map(|report| report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// True when every thread has ended.
    pub fn is_done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the threads to end. Reports stay readable before, so read them first, or share them.
    ///
    /// # Errors
    /// The first [`Error`] a thread ended with.
    pub fn join(self) -> Result<(), Error> {
        // All of them first: an error must not leave a thread behind.
        let results: Vec<_> = self
            .threads
            .into_iter()
            .map(|t| t.join().expect("a core thread panicked"))
            .collect();
        results.into_iter().collect()
    }
}

struct CoreThread<P> {
    number: usize,
    config: Arc<Config>,
    limiter: Arc<ConnectionLimiter>,
    plan: Option<Arc<DialPlan>>,
    listeners: Vec<OwnedFd>,
    stop: Arc<AtomicU8>,
    board: Arc<Vec<Mutex<CoreReport<P>>>>,
    started_at: Instant,
}

impl<P: Default + Send> CoreThread<P> {
    fn run<H: Handler<Report = P>>(
        mut self,
        handler: H,
        ready: &std::sync::mpsc::Sender<bool>,
    ) -> Result<(), Error> {
        let cores = &self.config.cores;
        if !cores.is_empty() {
            os::pin_to(cores[self.number % cores.len()]);
        }
        let config = Arc::clone(&self.config);
        let limiter = Arc::clone(&self.limiter);
        let plan = self.plan.clone();
        let share = (self.number as u64, config.thread_count as u64);
        let fds: Vec<RawFd> = self.listeners.iter().map(AsRawFd::as_raw_fd).collect();
        let started_at = self.started_at;
        let waker = os::Waker::new();
        let waker = match waker {
            Ok(waker) => waker,
            Err(error) => {
                let _ = ready.send(false);
                return Err(error);
            }
        };
        let make_ring = || KernelRing::new(&config, started_at, &waker);
        let core = Core::new(
            &config,
            &limiter,
            handler,
            make_ring,
            &fds,
            plan.as_deref().map(|p| (p, share.0, share.1)),
        );
        let _ = ready.send(core.is_ok());
        let mut core = core?;
        let result = self.serve(&mut core, &waker);
        if result.is_err() {
            // The others cannot make up for this thread: end in order what they hold.
            self.stop
                .fetch_max(Shutdown::Graceful as u8, Ordering::Release);
        }
        let mut report = self.board[self.number]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        report.stats = core.stats().clone();
        core.handler().report(&mut report.handler);
        report.is_done = true;
        result
    }

    fn serve<H, M>(
        &mut self,
        core: &mut Core<'_, KernelRing, H, M>,
        waker: &os::Waker,
    ) -> Result<(), Error>
    where
        H: Handler<Report = P>,
        M: FnMut() -> Result<KernelRing, Error>,
    {
        let mut next_report_us = 0;
        loop {
            let now_us = self.now_us();
            let how = match self.stop.load(Ordering::Acquire) {
                0 => Shutdown::None,
                1 => Shutdown::Graceful,
                _ => Shutdown::Immediate,
            };
            let listeners = &mut self.listeners;
            let next = core.serve(now_us, how, || {
                // A ring that polls a listener keeps it open: shutting it down is what stops it from listening.
                for listener in listeners.drain(..) {
                    let _ = nix::sys::socket::shutdown(
                        listener.as_raw_fd(),
                        nix::sys::socket::Shutdown::Both,
                    );
                }
            })?;
            let Some(next) = next else { return Ok(()) };
            if now_us >= next_report_us {
                next_report_us = now_us + REPORT_INTERVAL_US;
                // Never wait for a reader: what it misses now comes a little later.
                if let Ok(mut report) = self.board[self.number].try_lock() {
                    report.stats = core.stats().clone();
                    core.handler().report(&mut report.handler);
                }
            }
            match next {
                Next::Again => {}
                Next::Busy if self.config.batch_delay_us > 0 => {
                    std::thread::sleep(Duration::from_micros(self.config.batch_delay_us));
                }
                Next::Busy => {}
                Next::IdleUntil(due_us) => {
                    let until = due_us.unwrap_or(u64::MAX).min(now_us + COMMAND_INTERVAL_US);
                    let timeout = Duration::from_micros(until.saturating_sub(self.now_us()));
                    core.wait(timeout, |timeout| waker.wait(timeout))?;
                }
            }
        }
    }

    fn now_us(&self) -> u64 {
        self.started_at.elapsed().as_micros() as u64
    }
}
