//! The threads of an engine, and what the control plane sees of them.
//!
//! Each thread is pinned to a core and drives one [`Core`]. A thread with work looks again after
//! `batch_delay_us`, which lets work gather; one without sleeps until a ring has an event, a timer
//! is due, or another thread tells it something.
//! Invariants: a ring is made, used and dropped by its own thread.
//! Must not depend on: protocols, and what a request looks like.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::config::{Config, REPORT_INTERVAL_US};
use crate::core::{Core, CoreListener, Next};
use crate::dial::DialPlan;
use crate::error::{SetupError, SetupErrorKind};
use crate::handler::Handler;
use crate::kernel::{KernelRing, os};
use crate::limiter::ConnectionLimiter;
use crate::listen::Listener;
use crate::mailbox::{Handle, Mailbox, Shutdown};
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

/// How long [`Drop`] waits for the threads of an engine. Connections are aborted at once, so only a
/// handler or a kernel that hangs takes longer.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running engine.
///
/// Dropping it shuts it down at once ([`Shutdown::Immediate`]) and joins its threads, within a
/// bound: a thread that has not ended after five seconds is left behind.
///
/// `P` is what its handlers report, `C` the commands they take.
pub struct Engine<P, C = ()> {
    threads: Vec<JoinHandle<Result<(), SetupError>>>,
    handle: Handle<C>,
    reports: Arc<Vec<Mutex<CoreReport<P>>>>,
    started_at: Instant,
}

impl<P: Default + Send + 'static, C: Send + 'static> Engine<P, C> {
    /// Starts [`Config::thread_count`] core threads, each with the handler `make_handler` returns
    /// for its number, and returns when all of them run. Thread `i` accepts from `listeners[i]`,
    /// which may be missing; with a `plan`, handlers may dial.
    ///
    /// # Errors
    /// The [`SetupError`] of the first thread that could not start, after the others have ended.
    /// [`SetupErrorKind::InvalidInput`] if there are listeners for more threads than there are.
    pub fn start<H, F>(
        config: Config,
        listeners: Vec<Vec<Listener>>,
        plan: Option<DialPlan>,
        mut make_handler: F,
    ) -> Result<Self, SetupError>
    where
        H: Handler<Report = P, Command = C> + 'static,
        F: FnMut(usize) -> H,
    {
        if listeners.len() > config.thread_count {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!(
                    "listeners for {} threads, but {} threads",
                    listeners.len(),
                    config.thread_count
                ),
                "make listeners for as many threads as the config has",
            ));
        }
        let config = Arc::new(config);
        let limiter = Arc::new(ConnectionLimiter::new(config.capacity));
        let plan = plan.map(Arc::new);
        let reports = (0..config.thread_count).map(|_| Mutex::default());
        let mut engine = Engine {
            threads: Vec::new(),
            handle: mailboxes(&config)?,
            reports: Arc::new(reports.collect()),
            started_at: Instant::now(),
        };
        let (ready_tx, ready_rx) = std::sync::mpsc::channel();
        let mut listeners = listeners.into_iter();
        for number in 0..config.thread_count {
            let own = CoreThread {
                number,
                config: Arc::clone(&config),
                limiter: Arc::clone(&limiter),
                plan: plan.clone(),
                listeners: listeners.next().unwrap_or_default(),
                handle: engine.handle.clone(),
                reports: Arc::clone(&engine.reports),
                started_at: engine.started_at,
            };
            let (handler, ready) = (make_handler(number), ready_tx.clone());
            let thread = std::thread::Builder::new()
                .name(format!("core-{number}"))
                .stack_size(512 * 1024)
                .spawn(move || own.run(handler, ready))
                .map_err(|e| {
                    SetupError::from_io(
                        "cannot start a core thread",
                        e,
                        "raise the limit: ulimit -u",
                    )
                    .with_kind(SetupErrorKind::LimitExceeded)
                })?;
            engine.threads.push(thread);
        }
        drop(ready_tx);
        let started_count = ready_rx.iter().filter(|is_ready| *is_ready).count();
        if started_count < config.thread_count {
            engine.stop(Shutdown::Immediate);
            engine.join()?;
            unreachable!("a thread that did not start returned an error");
        }
        Ok(engine)
    }

    /// What sends commands to its handlers, from any thread.
    pub fn handle(&self) -> Handle<C> {
        self.handle.clone()
    }

    /// Microseconds of engine time: since the start.
    pub fn now_us(&self) -> u64 {
        self.started_at.elapsed().as_micros() as u64
    }

    /// Accepts nothing any more; open connections go on, and dialling does. Every thread closes its listeners shortly after. What
    /// waits there is left to other processes that have the same sockets, such as a successor; without one it is reset.
    pub fn release_listeners(&self) {
        self.handle.release_listeners();
    }

    /// Starts to shut down and returns at once; [`Engine::join`] waits for the end. A harder way
    /// replaces a softer one.
    pub fn stop(&self, how: Shutdown) {
        self.handle.stop(how);
    }

    /// The last report of every thread, in the order of their numbers. Threads publish every 200 ms
    /// and at their end, and never wait for a reader: while a report is being read, its thread
    /// publishes a little later.
    pub fn reports(&self) -> impl Iterator<Item = MutexGuard<'_, CoreReport<P>>> {
        self.reports
            .iter()
            .map(|report| report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// True when every thread has ended.
    pub fn is_done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the threads to end. Read the final reports before, when [`Engine::is_done`].
    ///
    /// # Errors
    /// The first [`SetupError`] a thread ended with: the kernel stopped serving one of its rings.
    ///
    /// # Panics
    /// With the panic of a handler, after all threads have ended.
    pub fn join(mut self) -> Result<(), SetupError> {
        // All of them first: an error must not leave a thread behind.
        let results: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        results
            .into_iter()
            .try_for_each(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl<P, C> Drop for Engine<P, C> {
    fn drop(&mut self) {
        self.handle.stop(Shutdown::Immediate);
        let started_at = Instant::now();
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && started_at.elapsed() < DROP_TIMEOUT {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                // Its error or panic has nobody to go to.
                let _ = thread.join();
            }
        }
    }
}

/// The mailboxes of an engine's threads.
///
/// # Errors
/// [`SetupError`] when no descriptor is left.
pub fn mailboxes<C>(config: &Config) -> Result<Handle<C>, SetupError> {
    let mailboxes = (0..config.thread_count).map(|_| {
        Ok(Mailbox::new(
            config.commands_max,
            Box::new(os::Waker::new()?),
        ))
    });
    Ok(Handle::new(mailboxes.collect::<Result<_, SetupError>>()?))
}

/// Takes no more commands when a thread ends, and shuts the others down if it ends early: they
/// cannot take over its connections and listeners.
struct End<C> {
    handle: Handle<C>,
    number: usize,
}

impl<C> Drop for End<C> {
    fn drop(&mut self) {
        self.handle.mailbox(self.number).end();
        self.handle.stop(Shutdown::Graceful);
    }
}

/// When to report next. Reports lie on a grid of engine time, so that two looks which are whole
/// seconds apart have the same number of reports between them; and off the whole seconds, at which
/// programs look: there a report would be in time for one look and late for the next.
fn next_report_after(now_us: u64) -> u64 {
    const AHEAD_US: u64 = REPORT_INTERVAL_US / 4;
    now_us + REPORT_INTERVAL_US - (now_us + AHEAD_US) % REPORT_INTERVAL_US
}

struct CoreThread<P, C> {
    number: usize,
    config: Arc<Config>,
    limiter: Arc<ConnectionLimiter>,
    plan: Option<Arc<DialPlan>>,
    listeners: Vec<Listener>,
    handle: Handle<C>,
    reports: Arc<Vec<Mutex<CoreReport<P>>>>,
    started_at: Instant,
}

impl<P: Default + Send, C: Send + 'static> CoreThread<P, C> {
    fn run<H: Handler<Report = P, Command = C>>(
        mut self,
        handler: H,
        ready: std::sync::mpsc::Sender<bool>,
    ) -> Result<(), SetupError> {
        // Also when it panics. After a shutdown it changes nothing: the others were told before.
        let _end = End {
            handle: self.handle.clone(),
            number: self.number,
        };
        let cores = &self.config.cores;
        if !cores.is_empty() {
            os::pin_to(cores[self.number % cores.len()]);
        }
        let config = Arc::clone(&self.config);
        let limiter = Arc::clone(&self.limiter);
        let plan = self.plan.clone();
        let share = (self.number as u64, config.thread_count as u64);
        let own_listeners = std::mem::take(&mut self.listeners);
        let listeners: Vec<_> = own_listeners.iter().map(CoreListener::from).collect();
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
        let handle = self.handle.clone();
        let core = Core::new(
            &config,
            &limiter,
            (&handle, self.number),
            handler,
            make_ring,
            &listeners,
            plan.as_deref().map(|p| (p, share.0, share.1)),
        );
        let _ = ready.send(core.is_ok());
        // The start waits until no thread can say more: one that panicked before said nothing.
        drop(ready);
        let mut core = core?;
        core.own_listeners(own_listeners);
        let result = self.serve(&mut core, &waker);
        let mut report = self.reports[self.number]
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
    ) -> Result<(), SetupError>
    where
        H: Handler<Report = P, Command = C>,
        M: FnMut() -> Result<KernelRing, SetupError>,
    {
        let handle = self.handle.clone();
        let mailbox = handle.mailbox(self.number);
        let mut next_report_us = 0;
        loop {
            let now_us = self.now_us();
            let ordered = mailbox.ordered();
            let next = core.serve(now_us, ordered, || {})?;
            let Some(next) = next else { return Ok(()) };
            let mut is_reported = false;
            if now_us >= next_report_us {
                next_report_us = next_report_after(now_us);
                // Never wait for a reader: what it misses now comes a little later.
                if let Ok(mut report) = self.reports[self.number].try_lock() {
                    report.stats = core.stats().clone();
                    core.handler().report(&mut report.handler);
                    is_reported = true;
                }
            }
            match next {
                Next::Again => {}
                Next::Busy if self.config.batch_delay_us > 0 => {
                    std::thread::sleep(Duration::from_micros(self.config.batch_delay_us));
                }
                Next::Busy => {}
                Next::IdleUntil(due_us) => {
                    // What this turn changed is reported soon; after that nothing changes until the
                    // thread is woken.
                    let report_us = (!is_reported).then_some(next_report_us);
                    let until_us = due_us.into_iter().chain(report_us).min();
                    let timeout = match until_us {
                        _ if !mailbox.may_sleep(ordered) => Duration::ZERO,
                        None => Duration::MAX,
                        Some(us) => Duration::from_micros(us.saturating_sub(self.now_us())),
                    };
                    core.wait(timeout, |timeout| waker.wait(timeout))?;
                    mailbox.has_woken();
                }
            }
        }
    }

    fn now_us(&self) -> u64 {
        self.started_at.elapsed().as_micros() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_lie_on_a_grid_off_whole_seconds() {
        let next = [0, 149_999, 150_000, 150_001, 999_000].map(next_report_after);
        assert_eq!(next, [150_000, 150_000, 350_000, 350_000, 1_150_000]);
    }
}
