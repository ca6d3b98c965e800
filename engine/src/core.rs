//! One core thread: its shards, its handler and its listeners, over any ring.
//!
//! The thread drives all rings of its core. It makes another ring when its rings are full, so
//! memory follows what is held, and the [`ConnectionLimiter`] alone bounds how many that is: no
//! thread can be full while the engine has room.
//! Invariants: a connection is admitted by the limiter before it is accepted.
//! Must not depend on: threads, clocks, protocols, and what a request looks like.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use crate::attempt::{DialId, Source};
use crate::config::{Config, SPARE_SLOTS};
use crate::context::{Action, ListenerChange, Recorder};
use crate::dial::{DialPlan, Tuples};
use crate::error::{Error, OpenFailure};
use crate::handler::Handler;
use crate::id::ConnId;
use crate::limiter::{Admission, ConnectionLimiter};
use crate::listen;
use crate::mailbox::{Handle, Mailbox, Ordered, Shutdown};
use crate::ring::Ring;
use crate::shard::{ById, CoreContext, Shard};
use crate::share::RampShare;
use crate::slot::UNPLANNED;
use crate::stats::{Stats, Work};

/// Most attempts one thread has under way.
const CONNECTING_MAX: usize = 2_048;
/// Most connections a handler may end in one turn by [`crate::Context::close_newest`].
const ENDS_PER_TURN_MAX: u64 = 256;

/// Most actions by id that are performed in one go.
const ACTIONS_PER_SHARE_MAX: usize = 1_024;
/// Actions performed before the clock is read again.
const ACTIONS_PER_CLOCK: usize = 64;
/// Most commands that are given to the handler in one turn.
const COMMANDS_PER_TURN_MAX: usize = 1_024;

/// Rounds of accepting before the listeners are closed; each takes the full share of each.
const LAST_ROUNDS_MAX: usize = 128;

/// One core thread: its shards and its handler, over any ring.
pub struct Core<'a, R, H: Handler, M> {
    shards: Vec<Shard<R, H>>,
    make_ring: M,
    ctx: CoreContext<'a, H>,
    mailbox: &'a Mailbox<H::Command>,
    commands: Vec<H::Command>,
    /// The first ring polls what wakes the thread.
    is_waker_armed: bool,
    listeners: Vec<Listener>,
    /// Listeners that are closed once their queues are empty.
    closing_count: usize,
    filling: usize,
    dials: Vec<(DialId, H::State)>,
    taken_in_a_row: u64,
    accepts: RampShare,
    attempts: RampShare,
    stopping: Option<Shutdown>,
    /// The listeners were given up, and none is added any more.
    has_released: bool,
    next_call_us: Option<u64>,
}

/// A listener as a core thread is given it.
#[derive(Debug, Clone, Copy)]
pub struct CoreListener {
    /// Its descriptor, which the caller keeps open until the core has given it up.
    pub fd: RawFd,
    /// Another process has it too.
    pub is_shared: bool,
    /// The address that its connections have, if it is known: not of a listener at every address.
    pub address: Option<SocketAddr>,
}

struct Listener {
    /// -1 once it is closed: the numbers of the others stay.
    fd: RawFd,
    is_shared: bool,
    is_readable: bool,
    is_armed: bool,
    /// It is closed once its queue is empty, or has not become so in this many turns.
    closes_within: Option<u32>,
    /// What closes the descriptor, unless the caller does.
    owned: Option<listen::Listener>,
}

impl Listener {
    fn new(listener: &CoreListener) -> Self {
        Listener {
            fd: listener.fd,
            is_shared: listener.is_shared,
            is_readable: true,
            is_armed: false,
            closes_within: None,
            owned: None,
        }
    }
}

impl From<&listen::Listener> for CoreListener {
    fn from(listener: &listen::Listener) -> Self {
        let address = listener.local_addr().ok();
        CoreListener {
            fd: listener.as_raw_fd(),
            is_shared: listener.is_shared(),
            address: address.filter(|address| !address.ip().is_unspecified()),
        }
    }
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
    /// The core of thread number `thread`, without connections; `handle` has its mailbox. `share` of `share_count` threads
    /// says which tuples of the plan are its own.
    ///
    /// # Errors
    /// [`Error`] when its first ring cannot be made.
    pub fn new(
        config: &'a Config,
        limiter: &'a ConnectionLimiter,
        (handle, thread): (&'a Handle<H::Command>, usize),
        mut handler: H,
        mut make_ring: M,
        listeners: &[CoreListener],
        plan: Option<(&'a DialPlan, u64, u64)>,
    ) -> Result<Self, Error> {
        let first = Shard::new(0, make_ring()?, config, 0);
        let mut recorder = Recorder::default();
        recorder.thread.number = thread as u16;
        recorder.thread.listener_count = listeners.len();
        handler.on_start(&mut recorder.context(0), handle);
        let tuples = plan.map(|(plan, share, share_count)| Tuples::new(plan, share, share_count));
        Ok(Core {
            shards: vec![first],
            make_ring,
            ctx: CoreContext {
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
                listener_addresses: listeners.iter().map(|l| l.address).collect(),
                is_woken: false,
                last_end_us: 0,
                is_stopping: false,
                is_aborting: false,
                has_called: false,
                postponed: [false; Work::ALL.len()],
                recorder,
            },
            mailbox: handle.mailbox(thread),
            commands: Vec::new(),
            is_waker_armed: false,
            listeners: listeners.iter().map(Listener::new).collect(),
            closing_count: 0,
            filling: 0,
            dials: Vec::new(),
            taken_in_a_row: 0,
            accepts: RampShare::new(config.shares.accepts),
            attempts: RampShare::new(config.shares.dials),
            stopping: None,
            has_released: false,
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
    #[cfg(feature = "sim")]
    pub(crate) fn parts(&self) -> (&[Shard<R, H>], &CoreContext<'a, H>) {
        (&self.shards, &self.ctx)
    }

    /// True when every slot is free.
    pub fn is_empty(&self) -> bool {
        let thread = &self.ctx.recorder.thread;
        self.shards.iter().all(|s| s.used_count() == 0)
            && self.ctx.redial.is_empty()
            && thread.attempts.len() == 0
    }

    /// Gives the listeners up: nothing is accepted from them any more. When this returns, no request names their
    /// descriptors and the caller may close them. A poll keeps a socket open, so it is cancelled.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses to serve.
    fn release_listeners(&mut self) -> Result<(), Error> {
        self.closing_count = 0;
        // Closed behind the cancels.
        let listeners = std::mem::take(&mut self.listeners);
        for (number, listener) in listeners.iter().enumerate() {
            if listener.is_armed {
                self.shards[0].stop_listening(number)?;
            }
        }
        self.shards.iter_mut().try_for_each(|s| s.enter(None))
    }

    /// Takes the listeners that it was made with over: it closes them when they are given up.
    pub fn own_listeners(&mut self, listeners: Vec<listen::Listener>) {
        for (own, listener) in self.listeners.iter_mut().zip(listeners) {
            own.owned = Some(listener);
        }
    }

    /// Adds and removes the listeners that callbacks asked for.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses to serve.
    fn change_listeners(&mut self) -> Result<(), Error> {
        let changes = std::mem::take(&mut self.ctx.recorder.thread.listener_changes);
        for change in changes {
            match change {
                // Nothing is accepted any more: it is closed.
                ListenerChange::Add(_) if self.has_released => {}
                ListenerChange::Add(listener) => {
                    let known = CoreListener::from(&listener);
                    self.ctx.listener_addresses.push(known.address);
                    let mut own = Listener::new(&known);
                    own.owned = Some(listener);
                    self.listeners.push(own);
                }
                ListenerChange::Remove(number) => {
                    let listener = self.listeners.get_mut(number);
                    if let Some(listener) = listener.filter(|l| l.closes_within.is_none()) {
                        listener.closes_within = Some(LAST_ROUNDS_MAX as u32);
                        self.closing_count += 1;
                    }
                }
            }
        }
        for number in 0..self.listeners.len() {
            let listener = &mut self.listeners[number];
            let Some(rounds) = &mut listener.closes_within else {
                continue;
            };
            if listener.fd < 0 {
                continue;
            }
            *rounds -= 1;
            let waiting = self.shards[0].ring().accept_queue_len(listener.fd);
            if waiting > 0 && !listener.is_shared && *rounds > 0 {
                listener.is_readable = true;
                continue;
            }
            listener.fd = -1;
            listener.is_readable = false;
            let owned = listener.owned.take();
            if std::mem::take(&mut listener.is_armed) {
                self.shards[0].stop_listening(number)?;
            }
            // Behind the accepts and the cancel.
            self.shards.iter_mut().try_for_each(|s| s.enter(None))?;
            drop(owned);
            self.closing_count -= 1;
        }
        Ok(())
    }

    /// Stops, or stops harder. The listeners have been given up.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses to serve.
    pub fn stop(&mut self, how: Shutdown) -> Result<(), Error> {
        if Some(how) <= self.stopping {
            return Ok(());
        }
        self.stopping = Some(how);
        self.ctx.is_stopping = true;
        self.ctx.recorder.stop();
        self.ctx.is_aborting = how == Shutdown::Immediate;
        self.ctx.last_end_us = self.ctx.last_end_us.max(self.ctx.now_us);
        for (id, state) in std::mem::take(&mut self.ctx.redial) {
            self.ctx.fail(id, &state, OpenFailure::Cancelled, None);
        }
        // The handler learns that the engine stops before `on_stop` is called for any connection.
        self.dial()?;
        for shard in &mut self.shards {
            match how {
                Shutdown::Graceful => shard.start_drain(),
                Shutdown::Immediate => shard.abort_all(&mut self.ctx)?,
            }
        }
        Ok(())
    }

    /// Gives the listeners up if that is asked for, starts the shutdown that is asked for, if any, and
    /// takes one turn. When nothing more is accepted, `close_listeners` is called. `None` when all is
    /// over.
    ///
    /// # Errors
    /// [`Error`] as of a turn.
    pub fn serve(
        &mut self,
        now_us: u64,
        ordered: Ordered,
        close_listeners: impl FnOnce(),
    ) -> Result<Option<Next>, Error> {
        let how = ordered.shutdown;
        if self.closing_count > 0 || !self.ctx.recorder.thread.listener_changes.is_empty() {
            self.change_listeners()?;
        }
        if (ordered.releases_listeners || how.is_some()) && !self.has_released {
            self.has_released = true;
            if how == Some(Shutdown::Graceful) {
                self.accept_waiting()?;
            }
            self.release_listeners()?;
            close_listeners();
        }
        if let Some(how) = how {
            self.ctx.now_us = now_us;
            self.stop(how)?;
        }
        let next = self.turn(now_us)?;
        if how.is_none() || !self.is_empty() {
            return Ok(Some(next));
        }
        // Senders were told that these were accepted.
        for command in self.mailbox.end() {
            self.command(command);
        }
        // No connection is left: these are counted as stale.
        while self.perform_actions()? {}
        Ok(None)
    }

    /// Sleeps until a ring has something or `timeout` is over. One ring is waited for inside the
    /// kernel call that serves it; of several, `sleep` waits for any.
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

    /// One turn of everything: each kind of work up to its share.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses to serve, or a ring that is needed cannot be made and none
    /// is there.
    pub fn turn(&mut self, now_us: u64) -> Result<Next, Error> {
        self.ctx.now_us = now_us;
        let share = self.ctx.config.shares.events_per_ring(self.shards.len());
        self.ctx.postponed = [false; Work::ALL.len()];
        let mut worked = false;
        if self.waits_in_the_ring() {
            // Before the accepts, so that what completions cause and the accepts share an entry
            // into the kernel.
            worked |= self.shards[0].dispatch(&mut self.ctx, share)? > 0;
            worked |= self.perform_actions()?;
        }
        worked |= self.take_commands()?;
        self.update_listeners();
        for number in 0..self.listeners.len() {
            if self.listeners[number].fd >= 0 {
                worked |= self.accept(number)?;
            }
        }
        self.abort_the_last()?;
        let may_leave = self.waits_in_the_ring() && !self.has_more_now();
        for number in 0..self.shards.len() {
            if self.shards[number].has_work(now_us) {
                worked |= self.shards[number].turn(&mut self.ctx, may_leave, share)?;
                worked |= self.perform_actions()?;
            }
        }
        self.update_listeners();
        // Behind every callback of this turn, so that what they ask for is dialled, and its
        // deadline heard.
        self.dial()?;
        self.arm_waker()?;
        let has_postponed = self.count_turn(now_us);
        if has_postponed || self.has_more_now() || self.ctx.has_called {
            return Ok(Next::Again);
        }
        if worked && !self.waits_in_the_ring() {
            return Ok(Next::Busy);
        }
        let timers = self.shards.iter().filter_map(|s| s.next_due_us(now_us));
        let due_us = timers
            .chain(self.next_call_us)
            .chain(self.patient_until_us());
        Ok(Next::IdleUntil(due_us.min()))
    }

    /// Gives commands that wait to the handler. True if there were any.
    fn take_commands(&mut self) -> Result<bool, Error> {
        if self.mailbox.is_empty() {
            return Ok(false);
        }
        let mut commands = std::mem::take(&mut self.commands);
        self.mailbox.take(&mut commands, COMMANDS_PER_TURN_MAX);
        commands.drain(..).for_each(|command| self.command(command));
        self.commands = commands;
        self.perform_actions()?;
        Ok(true)
    }

    fn command(&mut self, command: H::Command) {
        self.ctx.stats.commands += 1;
        self.ctx.has_called = true;
        let mut cx = self.ctx.recorder.context(self.ctx.now_us);
        self.ctx.handler.on_command(&mut cx, command);
    }

    /// Has the first ring poll what wakes the thread, again each time it did.
    fn arm_waker(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.ctx.is_woken) {
            // Before the next poll, which would complete at once.
            self.mailbox.waker().clear();
            self.is_waker_armed = false;
        }
        if !self.is_waker_armed {
            self.shards[0].poll_waker(self.mailbox.waker().fd())?;
            self.is_waker_armed = true;
        }
        Ok(())
    }

    /// Counts the turn that began at `since_us`, and adapts the next one's new connections to it.
    /// True if it postponed timers or completions.
    fn count_turn(&mut self, since_us: u64) -> bool {
        let turn_us = self.shards[0].ring().now_us().saturating_sub(since_us);
        self.accepts.adapt(turn_us);
        self.attempts.adapt(turn_us);
        let stats = &mut self.ctx.stats;
        stats.turn_us_max = stats.turn_us_max.max(turn_us);
        let postponed = self.ctx.postponed;
        for (count, is_postponed) in stats.postponed.iter_mut().zip(postponed) {
            *count += u64::from(is_postponed);
        }
        postponed[Work::Timers as usize] || postponed[Work::Receives as usize]
    }

    fn update_listeners(&mut self) {
        for number in self.ctx.listening.drain(..) {
            let listener = self.listeners.get_mut(number);
            if let Some(listener) = listener.filter(|listener| listener.fd >= 0) {
                listener.is_armed = false;
                listener.is_readable = true;
            }
        }
    }

    /// Takes what waits at listeners that no other process has before they are closed, which would
    /// reset it.
    ///
    /// # Errors
    /// [`Error`] as of a turn.
    fn accept_waiting(&mut self) -> Result<(), Error> {
        for _ in 0..LAST_ROUNDS_MAX {
            let ring = self.shards[0].ring();
            let now_us = ring.now_us();
            let mut is_over = true;
            let own = |l: &&mut Listener| !l.is_shared && l.fd >= 0;
            for listener in self.listeners.iter_mut().filter(own) {
                is_over &= ring.accept_queue_len(listener.fd) == 0;
                listener.is_readable = true;
            }
            if is_over {
                break;
            }
            self.accepts.restore();
            self.turn(now_us)?;
            // Submits what the turn left for an entry that sleeps.
            self.shards.iter_mut().try_for_each(|s| s.enter(None))?;
        }
        Ok(())
    }

    fn has_more_now(&self) -> bool {
        self.listeners.iter().any(|l| l.is_readable)
            || !self.ctx.redial.is_empty()
            || !self.ctx.recorder.thread.actions.is_empty()
            || !self.mailbox.is_empty()
            || !self.ctx.recorder.thread.listener_changes.is_empty()
            || self.closing_count > 0
    }

    /// True if the one entry into the kernel that submits also sleeps: there is one ring, and no
    /// work is to gather meanwhile.
    fn waits_in_the_ring(&self) -> bool {
        self.shards.len() == 1 && self.ctx.config.batch_delay_us == 0
    }

    /// While all are to end in order: when the rest is to be aborted if none ends before.
    fn patient_until_us(&self) -> Option<u64> {
        let patience_us = self.ctx.config.drain_timeout.as_micros() as u64;
        let is_draining = self.stopping == Some(Shutdown::Graceful);
        is_draining.then_some(self.ctx.last_end_us + patience_us + 1)
    }

    /// When all are to end and none has for as long as one may take, the rest is aborted.
    fn abort_the_last(&mut self) -> Result<(), Error> {
        if self
            .patient_until_us()
            .is_some_and(|until_us| self.ctx.now_us >= until_us)
        {
            self.stopping = Some(Shutdown::Immediate);
            self.ctx.is_aborting = true;
            for shard in &mut self.shards {
                shard.abort_all(&mut self.ctx)?;
            }
        }
        Ok(())
    }

    /// Takes the connections that wait at a listener, and waits for more. An accept that finds none
    /// would cost as much as one that does, since the kernel makes the socket's file first: so it
    /// is asked how many there are.
    fn accept(&mut self, number: usize) -> Result<bool, Error> {
        let Listener {
            fd,
            is_readable,
            is_armed,
            ..
        } = self.listeners[number];
        if is_readable {
            let waiting = self.shards[0].ring().accept_queue_len(fd);
            let wanted = waiting.min(self.accepts.of_queue(waiting));
            self.ctx.postponed[Work::Accepts as usize] |= wanted < waiting;
            let queue_max = &mut self.ctx.stats.accept_queue_max;
            *queue_max = u64::from(waiting).max(*queue_max);
            match self.ctx.limiter.try_acquire(wanted) {
                _ if wanted == 0 => {}
                // Another thread's accepts hold the last places: look again when it knows whether
                // it needs them.
                Admission::Later => return Ok(false),
                Admission::Granted(granted) => match self.shard_with_room(true)? {
                    Some(shard) => {
                        let count = granted.min(self.shards[shard].room_to_accept());
                        self.ctx.limiter.cancel(granted - count);
                        let tells_peer = self.ctx.config.peer_addresses;
                        self.shards[shard].accept(number, fd, count, tells_peer)?;
                    }
                    None => {
                        self.ctx.limiter.cancel(granted);
                        self.refuse(fd, wanted)?;
                    }
                },
                Admission::Full => self.refuse(fd, wanted)?,
            }
            self.listeners[number].is_readable = false;
        }
        if is_armed {
            return Ok(is_readable);
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
    fn shard_with_room(&mut self, to_accept: bool) -> Result<Option<usize>, Error> {
        let has_room = |shard: &Shard<R, H>| match to_accept {
            true => shard.room_to_accept() > 0,
            false => shard.room() > 0,
        };
        if !has_room(&self.shards[self.filling]) {
            match self.shards.iter().position(has_room) {
                Some(shard) => self.filling = shard,
                None => match (self.make_ring)() {
                    Ok(ring) => {
                        let (number, now_us) = (self.shards.len(), self.ctx.now_us);
                        self.shards
                            .push(Shard::new(number, ring, self.ctx.config, now_us));
                        self.filling = number;
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

    /// Lets the handler have its turn, and starts the connections it wants; those that met a taken
    /// address first.
    fn dial(&mut self) -> Result<(), Error> {
        let again = self.ctx.redial.len();
        self.update_dial_room();
        self.ctx.has_called = false;
        let mut cx = self.ctx.recorder.context(self.ctx.now_us);
        self.next_call_us = self.ctx.handler.on_turn(&mut cx);
        let thread = &mut self.ctx.recorder.thread;
        let mut to_close = std::mem::take(&mut thread.close_count).min(ENDS_PER_TURN_MAX);
        for shard in self.shards.iter_mut().rev() {
            if to_close == 0 {
                break;
            }
            to_close -= shard.close_newest(&mut self.ctx, to_close)?;
        }
        // One that met a taken address says how crowded it is; a whole round of them, that there is
        // no other.
        if again == 0 {
            self.taken_in_a_row = 0;
        }
        self.taken_in_a_row += again as u64;
        let mut dials = std::mem::take(&mut self.dials);
        dials.append(&mut self.ctx.redial);
        let planned = self.ctx.recorder.states.planned.drain(..);
        self.ctx.postponed[Work::Dials as usize] |= planned.len() >= self.attempts.now() as usize;
        self.ctx.stats.attempts += planned.len() as u64;
        dials.extend(planned);
        for (id, state) in dials.drain(..) {
            self.start(id, state)?;
        }
        self.dials = dials;
        self.perform_actions()?;
        self.update_dial_room();
        Ok(())
    }

    /// Starts an attempt.
    fn start(&mut self, id: DialId, state: H::State) -> Result<(), Error> {
        let attempt = self.ctx.recorder.thread.attempts.get_mut(id).copied();
        let dial = attempt.map(|attempt| attempt.dial);
        let named = dial.map(|dial| dial.target);
        let link = dial.and_then(|dial| dial.link);
        if self.stopping.is_some() || attempt.is_some_and(|attempt| attempt.is_cancelled) {
            self.ctx.fail(id, &state, OpenFailure::Cancelled, named);
            return self.fail_link(link, OpenFailure::Cancelled);
        }
        let (tuple, source, planned) = match dial.map_or(Source::Plan, |dial| dial.source) {
            Source::Kernel => (UNPLANNED, None, None),
            Source::Addr(source) | Source::Transparent(source) => (UNPLANNED, Some(source), None),
            Source::Plan => {
                let tuples = self.ctx.tuples.as_mut();
                let tuples = tuples.filter(|tuples| self.taken_in_a_row <= tuples.count());
                let group = id.planned_group().unwrap_or_default();
                let taken = tuples.and_then(|tuples| tuples.take(group));
                let Some((own, (source, target))) = taken else {
                    self.ctx.fail(id, &state, OpenFailure::AddrExhausted, named);
                    return Ok(());
                };
                (own, Some(source), Some(target))
            }
        };
        let target = named.or(planned).expect("the plan has a target");
        let shard = match link {
            Some(link) if !self.may_link(link) => {
                self.ctx.stats.stale_ids += 1;
                self.ctx.fail(id, &state, OpenFailure::Cancelled, named);
                return Ok(());
            }
            Some(link) => {
                let shard = usize::from(link.shard);
                (self.shards[shard].room_for_partner() > 0).then_some(shard)
            }
            None => self.shard_with_room(false)?,
        };
        match shard {
            Some(shard) => {
                let addresses = (source, target);
                let shards = &mut self.shards;
                let slot =
                    shards[shard].dial(state, tuple, addresses, dial.as_ref(), &mut self.ctx)?;
                if let Some(link) = link {
                    self.shards[shard].link(link.slot, slot)?;
                }
                if id.planned_group().is_none() {
                    let attempts = &mut self.ctx.recorder.thread.attempts;
                    attempts.place(id, (shard as u16, slot));
                }
            }
            None => {
                if let Some(tuples) = self.ctx.tuples.as_mut().filter(|_| planned.is_some()) {
                    tuples.release(tuple);
                }
                self.ctx.fail(id, &state, OpenFailure::NoDescriptor, named);
                self.fail_link(link, OpenFailure::NoDescriptor)?;
            }
        }
        Ok(())
    }

    /// Tells a connection that its partner was not even dialled.
    fn fail_link(&mut self, link: Option<ConnId>, failure: OpenFailure) -> Result<(), Error> {
        match link.filter(|link| self.may_link(*link)) {
            Some(link) => {
                self.shards[usize::from(link.shard)].fail_link(&mut self.ctx, link.slot, failure)
            }
            None => Ok(()),
        }
    }

    /// True if the connection of this id may be given a partner.
    fn may_link(&self, id: ConnId) -> bool {
        id.thread == self.ctx.recorder.thread.number
            && self
                .shards
                .get(usize::from(id.shard))
                .is_some_and(|shard| shard.may_link(id.slot, id.generation))
    }

    /// Performs what callbacks have asked for beyond their own connections, a bounded share of it, in
    /// the order of the requests. What that causes waits behind.
    fn perform_actions(&mut self) -> Result<bool, Error> {
        let count = self.ctx.recorder.thread.actions.len();
        for number in 0..count.min(ACTIONS_PER_SHARE_MAX) {
            if number % ACTIONS_PER_CLOCK == ACTIONS_PER_CLOCK - 1 {
                self.ctx.now_us = self.shards[0].ring().now_us();
            }
            let Some(action) = self.ctx.recorder.thread.actions.pop_front() else {
                break;
            };
            self.perform(action)?;
        }
        Ok(count > 0)
    }

    fn perform(&mut self, action: Action) -> Result<(), Error> {
        match action {
            Action::Send(id, bytes) => self.act(id, ById::Send(bytes)),
            Action::Close(id) => self.act(id, ById::Close),
            Action::Abort(id, reason) => self.act(id, ById::Abort(reason)),
            Action::Reset(id, reason) => self.act(id, ById::Reset(reason)),
            Action::PauseReading(id) => self.act(id, ById::PauseReading),
            Action::ResumeReading(id) => self.act(id, ById::ResumeReading),
            Action::Dial(id) => {
                let state = self.ctx.recorder.states.dialled.pop_front();
                self.ctx.stats.attempts += 1;
                let room = &mut self.ctx.recorder.thread.dial_room;
                *room = room.saturating_sub(1);
                self.start(id, state.expect("a dial comes with a state"))
            }
            Action::CancelDial(id) => {
                let attempt = self.ctx.recorder.thread.attempts.get_mut(id);
                match attempt.and_then(|attempt| attempt.place) {
                    Some((shard, slot)) => {
                        let shard = &mut self.shards[usize::from(shard)];
                        shard.cancel_connecting(&mut self.ctx, slot, libc::ECANCELED)
                    }
                    // It has ended, or ends when it would be started.
                    None => Ok(()),
                }
            }
        }
    }

    fn act(&mut self, id: ConnId, action: ById) -> Result<(), Error> {
        let is_own = id.thread == self.ctx.recorder.thread.number;
        let shard = self.shards.get_mut(usize::from(id.shard));
        let is_done = match shard.filter(|_| is_own) {
            Some(shard) => shard.act(&mut self.ctx, id, action)?,
            None => false,
        };
        self.ctx.stats.stale_ids += u64::from(!is_done);
        Ok(())
    }

    fn update_dial_room(&mut self) {
        let connecting = self.ctx.stats.connecting_now as usize;
        let room = CONNECTING_MAX
            .saturating_sub(connecting)
            .min(self.attempts.now() as usize);
        self.ctx.recorder.thread.dial_room = room;
    }
}
