//! What a callback may do beyond its own connection.
//!
//! Invariants: nothing happens during a callback: what it asks for is recorded here and performed by the core thread after the
//! callback has returned.
//! Must not depend on: rings, slots, threads, handlers.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::attempt::{Attempts, Dial, DialId, Source};
use crate::bytes::Bytes;
use crate::error::CloseReason;
use crate::id::ConnId;
use crate::listen::Listener;

/// There is no room for another action or attempt in this turn. Try again in [`Handler::on_turn`](crate::Handler::on_turn).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

impl std::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the core thread's queue is full; next: go on in on_turn")
    }
}

impl std::error::Error for NoRoom {}

/// Most actions that wait in a thread's queue.
const ACTIONS_MAX: usize = 65_536;

/// What a callback asked for beyond its own connection.
#[derive(Debug)]
pub(crate) enum Action {
    Send(ConnId, Bytes),
    Close(ConnId),
    Abort(ConnId, CloseReason),
    Reset(ConnId, CloseReason),
    PauseReading(ConnId),
    ResumeReading(ConnId),
    /// With the first of [`States::dialled`].
    Dial(DialId),
    CancelDial(DialId),
}

/// What callbacks record beside the actions on their own connection. A core thread has one; tests of handlers make their own.
#[derive(Debug)]
pub struct Recorder<S> {
    pub(crate) thread: ThreadRecord,
    pub(crate) states: States<S>,
}

/// States that connections are dialled with.
#[derive(Debug)]
pub(crate) struct States<S> {
    /// Of attempts to the plan's next targets.
    pub planned: Vec<(DialId, S)>,
    /// Of the queue's [`Action::Dial`], in their order.
    pub dialled: VecDeque<S>,
}

impl<S> Default for States<S> {
    fn default() -> Self {
        States {
            planned: Vec::new(),
            dialled: VecDeque::new(),
        }
    }
}

/// What is to become of a thread's listeners.
#[derive(Debug)]
pub(crate) enum ListenerChange {
    /// Accepts from one more.
    Add(Listener),
    /// Closes the one of this number.
    Remove(usize),
}

/// The part that is the same for all states.
#[derive(Debug, Default)]
pub(crate) struct ThreadRecord {
    pub number: u16,
    pub is_stopping: bool,
    /// Attempts that may still be started in this turn.
    pub dial_room: usize,
    /// Connections to close, the newest first.
    pub close_count: u64,
    /// Numbers of listeners that were given, those of removed ones included.
    pub listener_count: usize,
    /// Listeners to add and to remove.
    pub listener_changes: Vec<ListenerChange>,
    /// What is to be done beyond the connections of callbacks, in order.
    pub actions: VecDeque<Action>,
    pub attempts: Attempts,
    /// What the callback under way sends on its own connection.
    pub sent: Sent,
    /// The memory of one that was applied, for the next inner callback.
    pub spare: Sent,
    /// Bytes that it forwards and that do not lie in the receive buffer.
    pub forwarded: Vec<u8>,
}

impl ThreadRecord {
    /// Forgets what the callback under way has sent.
    pub fn clear_sent(&mut self) {
        self.sent.clear();
        self.forwarded.clear();
    }
}

/// Bytes that a callback sends on its own connection.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Copied bytes.
    pub outgoing: Vec<u8>,
    /// Shared buffers, each with its place between the copied bytes.
    pub shared: Vec<(usize, Arc<[u8]>)>,
}

/// Bytes of [`Sent`] that lie together.
pub(crate) enum Piece<'a> {
    Copied(&'a [u8]),
    Shared(&'a Arc<[u8]>),
}

impl Sent {
    /// True if nothing was sent.
    pub fn is_empty(&self) -> bool {
        self.outgoing.is_empty() && self.shared.is_empty()
    }

    /// Bytes sent.
    pub fn len(&self) -> usize {
        let shared = self.shared.iter().map(|(_, bytes)| bytes.len());
        self.outgoing.len() + shared.sum::<usize>()
    }

    /// All of it in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let last = (self.outgoing.len(), None);
        let shared = self
            .shared
            .iter()
            .map(|(place, bytes)| (*place, Some(bytes)));
        let mut from = 0;
        shared.chain([last]).flat_map(move |(place, bytes)| {
            let copied = &self.outgoing[from..place];
            from = place;
            let copied = (!copied.is_empty()).then_some(Piece::Copied(copied));
            copied.into_iter().chain(bytes.map(Piece::Shared))
        })
    }

    /// All of it in order, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut sent = Vec::with_capacity(self.len());
        for piece in self.pieces() {
            sent.extend_from_slice(match piece {
                Piece::Copied(bytes) => bytes,
                Piece::Shared(bytes) => bytes,
            });
        }
        sent
    }

    /// Forgets it.
    pub fn clear(&mut self) {
        self.outgoing.clear();
        self.shared.clear();
    }
}

impl<S> Default for Recorder<S> {
    fn default() -> Self {
        Recorder {
            thread: ThreadRecord::default(),
            states: States::default(),
        }
    }
}

impl<S> Recorder<S> {
    /// One that has room for `dial_room` attempts to connect.
    pub fn with_dial_room(dial_room: usize) -> Self {
        let mut recorder = Recorder::default();
        recorder.thread.dial_room = dial_room;
        recorder
    }

    /// From now on the engine is stopping.
    pub fn stop(&mut self) {
        self.thread.is_stopping = true;
    }

    /// The context of a callback.
    pub fn context(&mut self, now_us: u64) -> Context<'_, S> {
        Context {
            now_us,
            thread: &mut self.thread,
            states: &mut self.states,
        }
    }

    /// The states of the attempts that were started with [`Context::dial_planned`] or
    /// [`Context::dial_planned_to`] since the last call.
    pub fn take_planned(&mut self) -> Vec<S> {
        let planned = self.states.planned.drain(..);
        planned.map(|(_, state)| state).collect()
    }

    /// The copied bytes and the shared buffers that were sent on the connection of the last callback.
    pub fn take_sent(&mut self) -> Vec<u8> {
        let sent = self.thread.sent.to_vec();
        self.thread.sent.clear();
        sent
    }
}

/// The core thread as a callback sees it: what it may do beyond its own connection.
///
/// Every callback has one: [`Conn::context`](crate::Conn::context) gives it where a callback is about a connection. `S` is the
/// handler's state of a connection.
#[derive(Debug)]
pub struct Context<'a, S> {
    now_us: u64,
    thread: &'a mut ThreadRecord,
    states: &'a mut States<S>,
}

impl<S> Context<'_, S> {
    /// Microseconds of engine time.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The number of this core thread.
    pub fn thread(&self) -> usize {
        usize::from(self.thread.number)
    }

    /// True once the engine shuts down: nothing is dialled any more.
    pub fn is_stopping(&self) -> bool {
        self.thread.is_stopping
    }

    /// Attempts to connect that may still be started in this turn.
    pub fn dial_room(&self) -> usize {
        if self.thread.is_stopping {
            return 0;
        }
        let wanted = self.states.planned.len() + self.states.dialled.len();
        self.thread.dial_room.saturating_sub(wanted)
    }

    /// Actions by id, such as [`Context::send`], that may still be asked for now. A handler that addresses more
    /// connections goes on in [`Handler::on_turn`](crate::Handler::on_turn), which is called again at once if it returns a time that
    /// has come.
    pub fn queue_room(&self) -> usize {
        ACTIONS_MAX.saturating_sub(self.thread.actions.len())
    }

    fn push(&mut self, action: Action) -> Result<(), NoRoom> {
        if self.queue_room() == 0 {
            return Err(NoRoom);
        }
        self.thread.actions.push_back(action);
        Ok(())
    }

    /// Sends `bytes` on a connection of this thread: calls [`Handler::on_send`](crate::Handler::on_send) for it. Like all actions by
    /// id, it is performed after this callback and before the thread sleeps, in the order of the requests. If the connection has
    /// closed by then, or belongs to another thread, the bytes are dropped and counted in
    /// [`Stats::stale_ids`](crate::Stats::stale_ids); if it is closing, they are dropped.
    ///
    /// # Errors
    /// [`NoRoom`] without [`Context::queue_room`]: nothing is sent.
    pub fn send(&mut self, id: ConnId, bytes: impl Into<Bytes>) -> Result<(), NoRoom> {
        self.push(Action::Send(id, bytes.into()))
    }

    /// Closes a connection of this thread gracefully: calls
    /// [`Handler::on_close_requested`](crate::Handler::on_close_requested) for it.
    ///
    /// # Errors
    /// [`NoRoom`] without [`Context::queue_room`]: nothing is closed.
    pub fn close(&mut self, id: ConnId) -> Result<(), NoRoom> {
        self.push(Action::Close(id))
    }

    /// Closes a connection of this thread at once with `reason`; unsent bytes are dropped. Also when it is closing already.
    ///
    /// # Errors
    /// [`NoRoom`] without [`Context::queue_room`]: nothing is closed.
    pub fn abort(&mut self, id: ConnId, reason: CloseReason) -> Result<(), NoRoom> {
        self.push(Action::Abort(id, reason))
    }

    /// As [`Context::abort`], but its peer gets a reset (RST): see [`Conn::reset`](crate::Conn::reset).
    ///
    /// # Errors
    /// [`NoRoom`] without [`Context::queue_room`]: nothing is closed.
    pub fn reset(&mut self, id: ConnId, reason: CloseReason) -> Result<(), NoRoom> {
        self.push(Action::Reset(id, reason))
    }

    /// As [`Conn::pause_reading`](crate::Conn::pause_reading), for a connection of this thread.
    ///
    /// # Errors
    /// [`NoRoom`] without [`Context::queue_room`]: nothing is paused.
    pub fn pause_reading(&mut self, id: ConnId) -> Result<(), NoRoom> {
        self.push(Action::PauseReading(id))
    }

    /// As [`Conn::resume_reading`](crate::Conn::resume_reading), for a connection of this thread.
    ///
    /// # Errors
    /// [`NoRoom`] without [`Context::queue_room`]: nothing is resumed.
    pub fn resume_reading(&mut self, id: ConnId) -> Result<(), NoRoom> {
        self.push(Action::ResumeReading(id))
    }

    /// Starts a connection with `state`. It ends in [`Handler::on_open`](crate::Handler::on_open) or
    /// [`Handler::on_open_failed`](crate::Handler::on_open_failed), never during this callback.
    ///
    /// A linked dial ([`Dial::linked_to`]) needs no [`Context::dial_room`]: accepting has its share of a turn, and so have the actions
    /// that callbacks ask for, so a relay may dial in [`Handler::on_open`](crate::Handler::on_open).
    ///
    /// # Errors
    /// [`NoRoom`] without [`Context::dial_room`], or for a linked dial without [`Context::queue_room`], or when the engine
    /// [stops](Context::is_stopping): nothing is dialled.
    ///
    /// # Panics
    /// For a linked dial from [`Source::Plan`](crate::Source::Plan).
    pub fn dial(&mut self, dial: Dial, state: S) -> Result<DialId, NoRoom> {
        let has_room = match dial.link {
            None => self.dial_room() > 0,
            Some(_) => {
                assert!(
                    dial.source != Source::Plan,
                    "a linked dial has no source of the plan"
                );
                !self.thread.is_stopping && self.queue_room() > 0
            }
        };
        if !has_room {
            return Err(NoRoom);
        }
        let id = self.thread.attempts.add(dial);
        self.thread.actions.push_back(Action::Dial(id));
        self.states.dialled.push_back(state);
        Ok(id)
    }

    /// Cancels an attempt, whether it waits to be started or is under way: it ends in
    /// [`Handler::on_open_failed`](crate::Handler::on_open_failed), and never in `on_open`. Returns false if the attempt has ended: if
    /// it opened, close the connection instead.
    pub fn cancel_dial(&mut self, id: DialId) -> bool {
        let Some(attempt) = self.thread.attempts.get_mut(id) else {
            return false;
        };
        if !std::mem::replace(&mut attempt.is_cancelled, true) {
            self.thread.actions.push_back(Action::CancelDial(id));
        }
        true
    }

    /// Starts a connection with `state`, from and to the next free addresses of the engine's [`DialPlan`](crate::DialPlan). It
    /// begins when this turn's callbacks have run, and ends in [`Handler::on_open`](crate::Handler::on_open) or
    /// [`Handler::on_open_failed`](crate::Handler::on_open_failed).
    ///
    /// # Panics
    /// Without [`Context::dial_room`].
    pub fn dial_planned(&mut self, state: S) {
        self.dial_planned_to(0, state);
    }

    /// As [`Context::dial_planned`], to the next free addresses of one group of a [joined](crate::DialPlan::joined) plan.
    ///
    /// # Panics
    /// Without [`Context::dial_room`]; when the attempt starts, if the plan has no such group.
    pub fn dial_planned_to(&mut self, group: u16, state: S) {
        assert!(self.dial_room() > 0, "there is room to dial");
        self.states.planned.push((DialId::planned(group), state));
    }

    /// Accepts from one more listener, on this thread only, from the next turn on. Returns the number that its connections have for
    /// [`Conn::listener`](crate::Conn::listener): the first one that was never used on this thread. Once the engine stops, or after
    /// [`Engine::release_listeners`](crate::Engine::release_listeners), it is closed instead.
    pub fn add_listener(&mut self, listener: Listener) -> usize {
        let number = self.thread.listener_count;
        self.thread.listener_count += 1;
        self.thread
            .listener_changes
            .push(ListenerChange::Add(listener));
        number
    }

    /// Closes this thread's listener of this number, once the connections that wait at it have been accepted, unless another process
    /// has the socket as well. Connections that it accepted go on. Does nothing if it is closed already.
    pub fn remove_listener(&mut self, number: usize) {
        self.thread
            .listener_changes
            .push(ListenerChange::Remove(number));
    }

    /// Calls [`Handler::on_stop`](crate::Handler::on_stop) for up to `count` open connections at the end of this turn, from the last
    /// slot backwards: the newest first, except those in reused slots. A turn may reach fewer: ask again in the next one. A
    /// connection that does not close at once may be called again.
    pub fn close_newest(&mut self, count: u64) {
        self.thread.close_count = count;
    }

    /// Calls `call` with the same context for another state: how one handler wraps another. `wrap` makes this handler's state of a
    /// state that the inner handler dials with.
    pub fn inner<T, U>(
        &mut self,
        mut wrap: impl FnMut(T) -> S,
        call: impl FnOnce(&mut Context<'_, T>) -> U,
    ) -> U {
        let mut states = States::default();
        let dial_room = self.thread.dial_room;
        self.thread.dial_room = self.dial_room();
        let result = call(&mut Context {
            now_us: self.now_us,
            thread: self.thread,
            states: &mut states,
        });
        self.thread.dial_room = dial_room;
        let States { planned, dialled } = states;
        let planned = planned.into_iter();
        self.states
            .planned
            .extend(planned.map(|(id, state)| (id, wrap(state))));
        self.states.dialled.extend(dialled.into_iter().map(wrap));
        result
    }

    #[cfg(feature = "sim")]
    pub(crate) fn thread_mut(&mut self) -> &mut ThreadRecord {
        self.thread
    }

    pub(crate) fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.thread.sent.outgoing
    }

    pub(crate) fn forwarded(&mut self) -> &mut Vec<u8> {
        &mut self.thread.forwarded
    }

    /// What the callback under way has sent on its own connection.
    pub(crate) fn sent(&self) -> &Sent {
        &self.thread.sent
    }

    pub(crate) fn sent_mut(&mut self) -> &mut Sent {
        &mut self.thread.sent
    }

    /// Sets aside what was sent, so that a callback of an inner handler starts with nothing.
    pub(crate) fn begin_inner(&mut self) -> Sent {
        let empty = std::mem::take(&mut self.thread.spare);
        std::mem::replace(&mut self.thread.sent, empty)
    }

    /// Ends [`Context::begin_inner`]: returns what the inner handler has sent.
    pub(crate) fn end_inner(&mut self, own: Sent) -> Sent {
        std::mem::replace(&mut self.thread.sent, own)
    }

    /// Sends what an inner handler has sent, when nothing else was.
    pub(crate) fn adopt(&mut self, sent: Sent) {
        debug_assert!(self.thread.sent.is_empty());
        self.thread.spare = std::mem::replace(&mut self.thread.sent, sent);
    }

    /// Keeps the memory for the next inner callback.
    pub(crate) fn recycle(&mut self, mut sent: Sent) {
        sent.clear();
        self.thread.spare = sent;
    }

    pub(crate) fn push_shared(&mut self, bytes: Arc<[u8]>) {
        let place = self.thread.sent.outgoing.len();
        self.thread.sent.shared.push((place, bytes));
    }

    /// The same context, for a shorter time.
    pub(crate) fn reborrow(&mut self) -> Context<'_, S> {
        Context {
            now_us: self.now_us,
            thread: self.thread,
            states: self.states,
        }
    }
}
