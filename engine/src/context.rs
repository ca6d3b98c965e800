//! What a callback may do beyond its own connection, and how connections and attempts are named.
//!
//! Invariants: nothing happens during a callback: what it asks for is recorded here and performed by the core thread after the
//! callback has returned.
//! Must not depend on: rings, slots, threads, handlers.

/// Names one connection of an engine. Copy it, keep it, compare it: a slot that is used again gets another generation, so an id of a
/// connection that has closed is recognised as stale and never reaches the slot's next connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ConnId {
    pub(crate) thread: u16,
    pub(crate) shard: u16,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

const _: () = assert!(size_of::<ConnId>() == 12);

impl ConnId {
    /// The core thread that owns the connection.
    pub fn thread(self) -> usize {
        usize::from(self.thread)
    }
}

/// Names one attempt to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId {
    index: u32,
    generation: u32,
}

impl DialId {
    /// The id of every attempt that [`Context::dial_planned`] started: they cannot be told apart, and cost nothing.
    pub const PLANNED: DialId = DialId {
        index: u32::MAX,
        generation: 0,
    };
}

/// What callbacks record beside the actions on their own connection. A core thread has one; tests of handlers make their own.
#[derive(Debug)]
pub struct Recorder<S> {
    pub(crate) thread: ThreadRecord,
    pub(crate) planned: Vec<S>,
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
    /// Copied bytes that the callback under way sends on its own connection.
    pub outgoing: Vec<u8>,
}

impl<S> Default for Recorder<S> {
    fn default() -> Self {
        Recorder {
            thread: ThreadRecord::default(),
            planned: Vec::new(),
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
            planned: &mut self.planned,
        }
    }

    /// The states of the attempts that were started with [`Context::dial_planned`] since the last call.
    pub fn take_planned(&mut self) -> Vec<S> {
        std::mem::take(&mut self.planned)
    }

    /// The copied bytes that were sent on the connection of the last callback.
    pub fn take_sent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.thread.outgoing)
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
    planned: &'a mut Vec<S>,
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
        self.thread.dial_room.saturating_sub(self.planned.len())
    }

    /// Starts a connection with `state`, from and to the next free addresses of the engine's [`DialPlan`](crate::DialPlan). It
    /// begins when this turn's callbacks have run, and ends in [`Handler::on_open`](crate::Handler::on_open) or
    /// [`Handler::on_open_failed`](crate::Handler::on_open_failed).
    ///
    /// # Panics
    /// Without [`Context::dial_room`].
    pub fn dial_planned(&mut self, state: S) {
        assert!(self.dial_room() > 0, "there is room to dial");
        self.planned.push(state);
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
        wrap: impl FnMut(T) -> S,
        call: impl FnOnce(&mut Context<'_, T>) -> U,
    ) -> U {
        let mut planned = Vec::new();
        let dial_room = self.thread.dial_room;
        self.thread.dial_room = self.dial_room();
        let result = call(&mut Context {
            now_us: self.now_us,
            thread: self.thread,
            planned: &mut planned,
        });
        self.thread.dial_room = dial_room;
        self.planned.extend(planned.into_iter().map(wrap));
        result
    }

    pub(crate) fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.thread.outgoing
    }

    pub(crate) fn outgoing_bytes(&self) -> usize {
        self.thread.outgoing.len()
    }

    /// The same context, for a shorter time.
    pub(crate) fn reborrow(&mut self) -> Context<'_, S> {
        Context {
            now_us: self.now_us,
            thread: self.thread,
            planned: self.planned,
        }
    }
}
