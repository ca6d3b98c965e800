//! Shards over cores: the loop of one core thread, and the threads of an engine.
//!
//! One thread drives all rings of its core. It makes another ring when its rings are full, so memory follows what is held, and the
//! [`ConnectionLimiter`] alone bounds how many that is: no thread can be full while the engine has room.
//! A thread with work looks again after `batch_delay_us`, which lets work gather; one without sleeps until a ring has an event, a timer
//! is due, or its orders are to be looked at.
//! Invariants: a ring is made, used and dropped by its own thread; a connection is admitted by the limiter before it is accepted.
//! Must not know: protocols, and what a request looks like.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::config::{
    ACCEPT_BATCH_MAX, COMMAND_INTERVAL_US, Config, REPORT_INTERVAL_US, SPARE_SLOTS,
};
use crate::dial::{DialPlan, Tuples};
use crate::error::{Error, OpenFailure};
use crate::handler::{Dial, Handler};
use crate::kernel::{KernelRing, os};
use crate::ring::Ring;
use crate::shard::{Context, Shard};
use crate::stats::Stats;

/// Most attempts one thread has under way.
const CONNECTING_MAX: usize = 2_048;
/// Most attempts one thread starts in one turn: few enough that a heartbeat does not wait long behind them, enough that a
/// thread whose turns are long with heartbeats still ramps.
const DIALS_PER_TURN_MAX: usize = 1_024;
/// Most connections a handler may end in one turn by [`Dial::close_newest`].
const ENDS_PER_TURN_MAX: u64 = 256;

/// Rounds of accepting before the listeners are closed; each takes up to [`ACCEPT_BATCH_MAX`] from each.
const LAST_ROUNDS_MAX: usize = 128;

// `make loom` tries every order in which threads may touch a limiter.
#[cfg(loom)]
use loom::sync::atomic::AtomicU64 as Places;
#[cfg(not(loom))]
use std::sync::atomic::AtomicU64 as Places;

/// Admission: how many connections are held, against how many may be. A place is taken before an accept and kept or given
/// back after it. Full is said on the sight of one number alone, `held`: two read one after the other need not belong together.
#[derive(Debug)]
pub struct ConnectionLimiter {
    capacity: u64,
    /// Places taken, those of accepts under way included. Never less than `held`.
    taken: Places,
    /// Places of connections.
    held: Places,
}

/// What a limiter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    /// So many may be accepted now.
    Granted(u32),
    /// None now, but accepts under way may give places back.
    Later,
    /// Every place is held by a connection.
    Full,
}

impl ConnectionLimiter {
    /// A limiter for `capacity` connections.
    pub fn new(capacity: u64) -> Self {
        ConnectionLimiter {
            capacity,
            taken: Places::new(0),
            held: Places::new(0),
        }
    }

    /// Places taken, and of these the ones of connections.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let held = self.held.load(Ordering::Acquire);
        (self.taken.load(Ordering::Acquire), held)
    }

    /// Takes up to `wanted` places for accepts.
    fn try_acquire(&self, wanted: u32) -> Admission {
        let mut granted = 0;
        let _ = self
            .taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
                granted = u64::from(wanted).min(self.capacity.saturating_sub(taken)) as u32;
                (granted > 0).then_some(taken + u64::from(granted))
            });
        match granted {
            0 if self.held.load(Ordering::Acquire) >= self.capacity => Admission::Full,
            0 => Admission::Later,
            _ => Admission::Granted(granted),
        }
    }

    /// An accept has become a connection: its place is held.
    pub(crate) fn commit(&self) {
        self.held.fetch_add(1, Ordering::AcqRel);
    }

    /// `count` accepts have not become connections.
    pub(crate) fn cancel(&self, count: u32) {
        self.taken.fetch_sub(u64::from(count), Ordering::AcqRel);
    }

    /// A connection has ended.
    pub(crate) fn release(&self) {
        let before = self.held.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "nobody leaves who did not enter");
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How an engine stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Shutdown {
    /// Not at all.
    None = 0,
    /// Nothing new; every connection ends in order.
    Graceful = 1,
    /// Every connection is cut.
    Immediate = 2,
}

/// One core thread: its shards and its handler, over any ring.
pub struct Core<'a, R, H: Handler, M> {
    shards: Vec<Shard<R, H>>,
    make_ring: M,
    ctx: Context<'a, H>,
    plan: Option<&'a DialPlan>,
    listeners: Vec<Listener>,
    filling: usize,
    dials: Vec<H::State>,
    taken_in_a_row: u64,
    stopping: Shutdown,
    next_call_us: Option<u64>,
}

struct Listener {
    fd: RawFd,
    is_readable: bool,
    is_armed: bool,
}

/// What a turn leaves to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There is more now.
    Again,
    /// Work was done; more is likely soon.
    Busy,
    /// Nothing until an event, or until this engine time.
    IdleUntil(Option<u64>),
}

impl<'a, R: Ring, H: Handler, M: FnMut() -> Result<R, Error>> Core<'a, R, H, M> {
    /// A core without connections. `share` of `share_count` threads says which tuples of the plan are its own.
    ///
    /// # Errors
    /// [`Error`] when its first ring cannot be made.
    pub fn new(
        config: &'a Config,
        limiter: &'a ConnectionLimiter,
        handler: H,
        mut make_ring: M,
        listeners: &[RawFd],
        plan: Option<(&'a DialPlan, u64, u64)>,
    ) -> Result<Self, Error> {
        let first = Shard::new(make_ring()?, config, 0);
        let tuples = plan.map(|(plan, share, share_count)| Tuples::new(plan, share, share_count));
        Ok(Core {
            shards: vec![first],
            make_ring,
            ctx: Context {
                handler,
                config,
                limiter,
                stats: Stats {
                    shard_count: 1,
                    ..Stats::default()
                },
                now_us: 0,
                tuples,
                redial: Vec::new(),
                listening: Vec::new(),
                last_end_us: 0,
                is_stopping: false,
                is_cutting: false,
            },
            plan: plan.map(|(plan, ..)| plan),
            listeners: listeners
                .iter()
                .map(|fd| Listener {
                    fd: *fd,
                    is_readable: true,
                    is_armed: false,
                })
                .collect(),
            filling: 0,
            dials: Vec::new(),
            taken_in_a_row: 0,
            stopping: Shutdown::None,
            next_call_us: None,
        })
    }

    /// The handler.
    pub fn handler(&mut self) -> &mut H {
        &mut self.ctx.handler
    }

    /// Counters so far.
    pub fn stats(&mut self) -> &Stats {
        self.ctx.stats.queue_overflows =
            self.shards.iter().map(|s| s.ring().overflow_count()).sum();
        self.ctx.stats.shard_count = self.shards.len() as u64;
        &self.ctx.stats
    }

    /// What an audit looks at.
    pub(crate) fn parts(&self) -> (&[Shard<R, H>], &Context<'a, H>) {
        (&self.shards, &self.ctx)
    }

    /// True when every slot is free.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|s| s.used_count() == 0) && self.ctx.redial.is_empty()
    }

    /// Stops, or stops harder. Listeners are closed by the caller first.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses to serve.
    pub fn stop(&mut self, how: Shutdown) -> Result<(), Error> {
        if how as u8 <= self.stopping as u8 {
            return Ok(());
        }
        self.stopping = how;
        self.ctx.is_stopping = true;
        self.ctx.is_cutting = how == Shutdown::Immediate;
        self.ctx.last_end_us = self.ctx.last_end_us.max(self.ctx.now_us);
        self.listeners.clear();
        for state in std::mem::take(&mut self.ctx.redial) {
            self.fail(&state, OpenFailure::Cancelled);
        }
        for shard in &mut self.shards {
            match how {
                Shutdown::Graceful => shard.start_drain(),
                Shutdown::Immediate => shard.cut_all(&mut self.ctx)?,
                Shutdown::None => {}
            }
        }
        Ok(())
    }

    /// Looks at the orders and takes one turn. When no more is to be accepted, `close_listeners` is called. `None` when all is over.
    ///
    /// # Errors
    /// [`Error`] as of a turn.
    pub fn serve(
        &mut self,
        now_us: u64,
        how: Shutdown,
        close_listeners: impl FnOnce(),
    ) -> Result<Option<Next>, Error> {
        if how == Shutdown::Graceful && !self.listeners.is_empty() {
            self.accept_waiting(now_us)?;
        }
        if how != Shutdown::None {
            close_listeners();
            self.stop(how)?;
        }
        let next = self.turn(now_us)?;
        Ok((how == Shutdown::None || !self.is_empty()).then_some(next))
    }

    /// Sleeps until a ring has something or `timeout` is over. One ring is waited for inside the kernel call that serves it; of
    /// several, `sleep` waits for any.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses to serve.
    pub fn wait(&mut self, timeout: Duration, sleep: impl FnOnce(Duration)) -> Result<(), Error> {
        if let [shard] = &mut self.shards[..] {
            return shard.enter((!timeout.is_zero()).then_some(timeout));
        }
        if !timeout.is_zero() && !self.shards.iter().any(|s| s.has_work(self.ctx.now_us)) {
            sleep(timeout);
        }
        Ok(())
    }

    /// One turn of everything.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses to serve, or a ring that is needed cannot be made and none is there.
    pub fn turn(&mut self, now_us: u64) -> Result<Next, Error> {
        self.ctx.now_us = now_us;
        self.dial()?;
        let mut worked = false;
        if self.waits_in_the_ring() {
            // Before the accepts, so that what completions cause and the accepts share an entry into the kernel.
            worked |= self.shards[0].dispatch(&mut self.ctx)?;
        }
        self.hear_listeners();
        for number in 0..self.listeners.len() {
            worked |= self.accept(number)?;
        }
        self.cut_the_last()?;
        let may_leave = self.waits_in_the_ring() && !self.has_more_now();
        for shard in &mut self.shards {
            if shard.has_work(now_us) {
                worked |= shard.turn(&mut self.ctx, may_leave)?;
            }
        }
        self.hear_listeners();
        if self.has_more_now() {
            return Ok(Next::Again);
        }
        if worked && !self.waits_in_the_ring() {
            return Ok(Next::Busy);
        }
        let timers = self.shards.iter().filter_map(|s| s.next_due_us(now_us));
        Ok(Next::IdleUntil(timers.chain(self.next_call_us).min()))
    }

    fn hear_listeners(&mut self) {
        for number in self.ctx.listening.drain(..) {
            if let Some(listener) = self.listeners.get_mut(number) {
                listener.is_armed = false;
                listener.is_readable = true;
            }
        }
    }

    /// Takes what waits at the listeners before they are closed, which would reset it.
    ///
    /// # Errors
    /// [`Error`] as of a turn.
    fn accept_waiting(&mut self, now_us: u64) -> Result<(), Error> {
        for _ in 0..LAST_ROUNDS_MAX {
            let ring = self.shards[0].ring();
            if self.listeners.iter().all(|l| ring.waiting_count(l.fd) == 0) {
                break;
            }
            self.listeners.iter_mut().for_each(|l| l.is_readable = true);
            self.turn(now_us)?;
            // Submits what the turn left for an entry that sleeps.
            self.shards.iter_mut().try_for_each(|s| s.enter(None))?;
        }
        Ok(())
    }

    fn has_more_now(&self) -> bool {
        self.listeners.iter().any(|l| l.is_readable) || !self.ctx.redial.is_empty()
    }

    /// True if the one entry into the kernel that submits also sleeps: there is one ring, and no work is to gather meanwhile.
    fn waits_in_the_ring(&self) -> bool {
        self.shards.len() == 1 && self.ctx.config.batch_delay_us == 0
    }

    /// When all are to end and none has for as long as one may take, the rest is cut.
    fn cut_the_last(&mut self) -> Result<(), Error> {
        let patience_us = self.ctx.config.drain_timeout.as_micros() as u64;
        if self.stopping == Shutdown::Graceful
            && self.ctx.now_us > self.ctx.last_end_us + patience_us
        {
            self.stopping = Shutdown::Immediate;
            self.ctx.is_cutting = true;
            for shard in &mut self.shards {
                shard.cut_all(&mut self.ctx)?;
            }
        }
        Ok(())
    }

    /// Takes the connections that wait at a listener, and waits for more. An accept that finds none would cost as much as one that
    /// does, since the kernel makes the socket's file first: so it is asked how many there are.
    fn accept(&mut self, number: usize) -> Result<bool, Error> {
        let Listener {
            fd, is_readable, ..
        } = self.listeners[number];
        if is_readable {
            let waiting = self.shards[0].ring().waiting_count(fd);
            let wanted = waiting.min(ACCEPT_BATCH_MAX);
            match self.ctx.limiter.try_acquire(wanted) {
                _ if wanted == 0 => {}
                // Another thread's accepts hold the last places: look again when it knows whether it needs them.
                Admission::Later => return Ok(false),
                Admission::Granted(granted) => match self.shard_with_room()? {
                    Some(shard) => {
                        let count = granted.min(self.shards[shard].room());
                        self.ctx.limiter.cancel(granted - count);
                        self.shards[shard].accept(fd, count)?;
                    }
                    None => {
                        self.ctx.limiter.cancel(granted);
                        self.refuse(fd, wanted)?;
                    }
                },
                Admission::Full => self.refuse(fd, wanted)?,
            }
            self.listeners[number].is_readable = false;
        } else if self.listeners[number].is_armed {
            return Ok(false);
        }
        // Behind the accepts, so that it completes at once only if they leave some.
        self.shards[0].listen(number, fd)?;
        self.listeners[number].is_armed = true;
        Ok(true)
    }

    fn refuse(&mut self, listener: RawFd, wanted: u32) -> Result<(), Error> {
        self.shards[0].refuse(listener, wanted.min(SPARE_SLOTS), self.ctx.config)
    }

    /// A shard with a free slot, made if need be; `None` if none can be made.
    fn shard_with_room(&mut self) -> Result<Option<usize>, Error> {
        if self.shards[self.filling].room() == 0 {
            match self.shards.iter().position(|s| s.room() > 0) {
                Some(shard) => self.filling = shard,
                None => match (self.make_ring)() {
                    Ok(ring) => {
                        self.shards
                            .push(Shard::new(ring, self.ctx.config, self.ctx.now_us));
                        self.filling = self.shards.len() - 1;
                    }
                    Err(_) => {
                        self.ctx.stats.unexpected += 1;
                        return Ok(None);
                    }
                },
            }
        }
        Ok(Some(self.filling))
    }

    /// Starts the connections the handler wants, those that met a taken address first.
    fn dial(&mut self) -> Result<(), Error> {
        let Some(plan) = self.plan else { return Ok(()) };
        let connecting = self.ctx.stats.connecting_now as usize;
        let room = CONNECTING_MAX
            .saturating_sub(connecting)
            .min(DIALS_PER_TURN_MAX);
        self.dials.append(&mut self.ctx.redial);
        let again = self.dials.len();
        let is_stopping = self.stopping != Shutdown::None;
        let mut dial = Dial::new(self.ctx.now_us, room + again, is_stopping, &mut self.dials);
        self.next_call_us = self.ctx.handler.on_turn(&mut dial);
        let mut to_close = dial.close_count().min(ENDS_PER_TURN_MAX);
        self.ctx.stats.attempts += (self.dials.len() - again) as u64;
        for shard in self.shards.iter_mut().rev() {
            if to_close == 0 {
                break;
            }
            to_close -= shard.close_newest(&mut self.ctx, to_close)?;
        }
        // One that met a taken address says how crowded it is; a whole round of them, that there is no other.
        if again == 0 {
            self.taken_in_a_row = 0;
        }
        self.taken_in_a_row += again as u64;
        let mut dials = std::mem::take(&mut self.dials);
        for state in dials.drain(..) {
            let tuples = self
                .ctx
                .tuples
                .as_mut()
                .expect("a core with a plan has tuples");
            let is_exhausted = self.taken_in_a_row > tuples.count();
            let Some((own, number)) = tuples.take().filter(|_| !is_exhausted) else {
                self.fail(&state, OpenFailure::AddrExhausted);
                continue;
            };
            match self.shard_with_room()? {
                Some(shard) => {
                    let (source, target) = plan.tuple(number);
                    self.shards[shard].dial(state, own, source, target, &mut self.ctx)?;
                }
                None => {
                    self.ctx.tuples.as_mut().expect("as above").release(own);
                    self.fail(&state, OpenFailure::NoDescriptor);
                }
            }
        }
        self.dials = dials;
        Ok(())
    }

    fn fail(&mut self, state: &H::State, failure: OpenFailure) {
        self.ctx.stats.failed[failure as usize] += 1;
        let now_us = self.ctx.now_us;
        self.ctx.handler.on_open_failed(state, failure, now_us);
    }
}

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
                    Error::new(
                        format!("no thread to be had ({e})"),
                        "raise the limit: ulimit -u",
                    )
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_full_only_of_connections() {
        let limiter = ConnectionLimiter::new(10);
        assert_eq!(limiter.try_acquire(8), Admission::Granted(8));
        assert_eq!(limiter.try_acquire(8), Admission::Granted(2));
        assert_eq!(
            limiter.try_acquire(8),
            Admission::Later,
            "accepts under way may give places back"
        );
        (0..8).for_each(|_| limiter.commit());
        limiter.cancel(2);
        assert_eq!(limiter.try_acquire(8), Admission::Granted(2));
        (0..2).for_each(|_| limiter.commit());
        assert_eq!(limiter.try_acquire(8), Admission::Full);
        limiter.release();
        assert_eq!(limiter.try_acquire(8), Admission::Granted(1));
    }

    #[test]
    fn a_gate_with_room_never_says_full_whoever_asks_beside() {
        for _ in 0..5_000 {
            let limiter = ConnectionLimiter::new(8);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        // Each thread has 2 newcomers, so that all fit, and asks for 8 places for each.
                        let mut waiting = 2;
                        while waiting > 0 {
                            match limiter.try_acquire(8) {
                                Admission::Granted(count) => {
                                    limiter.commit();
                                    (1..count).for_each(|_| limiter.cancel(1));
                                    waiting -= 1;
                                }
                                Admission::Later => {}
                                Admission::Full => {
                                    panic!("refused with {waiting} of 8 not there yet")
                                }
                            }
                        }
                    });
                }
            });
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    /// Asks for more than there is, keeps one place and gives the others back. True if there was one.
    fn come(limiter: &ConnectionLimiter) -> bool {
        let Admission::Granted(count) = limiter.try_acquire(8) else {
            return false;
        };
        limiter.commit();
        (1..count).for_each(|_| limiter.cancel(1));
        true
    }

    /// In every order: nobody is refused for connections that are not there, none is held above the capacity, and the books
    /// balance.
    #[test]
    fn a_gate_in_every_order_of_its_threads() {
        for capacity in [1, 2, 3] {
            loom::model(move || {
                let limiter = Arc::new(ConnectionLimiter::new(capacity));
                let threads: Vec<_> = (0..2)
                    .map(|_| {
                        let limiter = Arc::clone(&limiter);
                        loom::thread::spawn(move || {
                            let has_come = come(&limiter);
                            // Two connections there can be at most: with room for three none may hear that it is full.
                            if capacity == 3 {
                                assert_ne!(limiter.try_acquire(0), Admission::Full);
                            }
                            u64::from(has_come)
                        })
                    })
                    .collect();
                let held: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
                assert!((1..=capacity).contains(&held), "{held} of {capacity}");
                assert_eq!(limiter.held.load(Ordering::Relaxed), held);
                assert_eq!(limiter.taken.load(Ordering::Relaxed), held);
            });
        }
    }

    /// One comes while another goes: the place is free for one of them afterwards, never for two.
    #[test]
    fn a_place_is_left_and_taken_in_every_order() {
        loom::model(|| {
            let limiter = Arc::new(ConnectionLimiter::new(1));
            assert!(come(&limiter));
            let other = Arc::clone(&limiter);
            let comes = loom::thread::spawn(move || come(&other) || come(&other));
            limiter.release();
            let has_come = comes.join().unwrap();
            assert_eq!(limiter.held.load(Ordering::Relaxed), u64::from(has_come));
            assert_eq!(limiter.taken.load(Ordering::Relaxed), u64::from(has_come));
            assert_eq!(has_come, !come(&limiter));
        });
    }
}
