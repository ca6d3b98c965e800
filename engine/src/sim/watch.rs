//! A handler around a handler, which records what the inner one asked for and was given.
//!
//! Invariants checked here: callbacks come in order (opened once, ended once, nothing after); every attempt ends in exactly one of
//! opened and failed; a handler is given nothing while its peer does not take what was sent; see also [`Ledger`].
//! Must not depend on: what the inner handler does.

use std::collections::HashMap;

use super::addressed::Addressed;
use super::broken::Canary;
use super::ledger::Ledger;
use super::socket::Stage;
use super::world::{Shared, lock};
use crate::attempt::DialId;
use crate::bytes::Bytes;
use crate::context::Context;
use crate::error::{CloseReason, OpenFailure, PartnerEnd};
use crate::handler::{Conn, Handler, TimerChange};
use crate::id::ConnId;
use crate::mailbox::Handle;
use crate::slot::Phase;

/// The state of a watched connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct WatchedState<S> {
    /// The handler's own.
    pub inner: S,
    /// The simulated socket it is on.
    pub(super) socket: u32,
    /// Its attempt, if it was dialled: 1 is the first.
    attempt: u32,
}

/// See the file's head.
pub struct Watched<H: Handler> {
    inner: H,
    world: Shared,
    reads_while_blocked: bool,
    canary: Option<Canary>,
    /// By attempt: whether it has ended in a class.
    attempts: Vec<bool>,
    /// The sockets of open connections.
    sockets: HashMap<ConnId, u32>,
    /// The partners of linked connections.
    partners: HashMap<ConnId, ConnId>,
    /// Connections whose partner has closed, which they have not been told.
    unlinked: Vec<ConnId>,
    open_count: u64,
    /// Commands given to it.
    command_count: u64,
    canary_count: u64,
    /// A command that another is to overtake.
    overtaken: Option<H::Command>,
    addressed: Addressed,
    /// A callback ran since the last `on_turn`.
    has_called: bool,
    /// When `on_turn` is to be called next, as the inner handler asked.
    next_turn_us: Option<u64>,
}

impl<H: Handler> Watched<H> {
    /// Watches a handler.
    pub fn new(
        inner: H,
        world: &Shared,
        reads_while_blocked: bool,
        canary: Option<Canary>,
    ) -> Self {
        Watched {
            inner,
            world: world.clone(),
            reads_while_blocked,
            canary,
            attempts: Vec::new(),
            sockets: HashMap::new(),
            partners: HashMap::new(),
            unlinked: Vec::new(),
            open_count: 0,
            command_count: 0,
            canary_count: 0,
            overtaken: None,
            addressed: Addressed::default(),
            has_called: false,
            next_turn_us: None,
        }
    }

    /// The handler.
    pub fn inner(&mut self) -> &mut H {
        &mut self.inner
    }

    pub(super) fn world(&self) -> Shared {
        self.world.clone()
    }

    /// The handler was given `count` commands.
    pub(super) fn check_commands(&self, count: u64) -> Result<(), String> {
        let own = self.command_count + u64::from(self.overtaken.is_some());
        match own == count {
            true => Ok(()),
            false => Err(format!("{count} commands were taken, {own} given")),
        }
    }

    /// A thread that dials is about to rest until `due_us`: no deadline a callback may have asked for is lost.
    pub(super) fn check_deadline(&self, due_us: Option<u64>) -> Result<(), String> {
        if self.has_called {
            return Err("a callback ran, and its deadline was not asked for".to_owned());
        }
        match self.next_turn_us {
            Some(us) if due_us.is_none_or(|due_us| due_us > us) => Err(format!(
                "on_turn is to be called at {us}, and the thread rests until {due_us:?}"
            )),
            _ => Ok(()),
        }
    }

    /// All connections have ended, and all attempts.
    pub(super) fn check_end(&self) -> Result<(), String> {
        let lost = self.attempts.iter().filter(|ended| !**ended).count();
        if lost + self.open_count as usize > 0 {
            let open = self.open_count;
            return Err(format!(
                "{lost} attempts and {open} connections have not ended"
            ));
        }
        Ok(())
    }

    /// Nothing waits in the thread's queue: every action by id has been performed.
    pub(super) fn check_addressed(
        &self,
        phase: impl Fn(ConnId) -> Option<Phase>,
    ) -> Result<(), String> {
        if let Some(id) = self
            .unlinked
            .iter()
            .find(|id| phase(**id) == Some(Phase::Open))
        {
            return Err(format!("{id:?} is not told that its partner has closed"));
        }
        self.addressed.check(phase)
    }

    fn end_attempt(&mut self, attempt: u32) {
        if let Some(place) = attempt.checked_sub(1) {
            let has_ended = &mut self.attempts[place as usize];
            assert!(!*has_ended, "attempt {attempt} ends twice");
            *has_ended = true;
        }
    }

    /// Runs a callback of the inner handler and writes what it asked for into the books.
    fn call<U>(
        &mut self,
        conn: &mut Conn<'_, WatchedState<H::State>>,
        callback: impl FnOnce(&mut H, &mut Conn<'_, H::State>) -> U,
    ) -> U {
        self.has_called = true;
        let earlier = conn.context().thread_mut().actions.len();
        let result = conn.with_part(
            |s| &mut s.inner,
            |inner| dialled(&mut self.attempts, inner),
            |conn| callback(&mut self.inner, conn),
        );
        let thread = conn.context().thread_mut();
        self.addressed.asked(thread, earlier, self.canary);
        let socket = conn.state.socket;
        let mut world = lock(&self.world);
        let now_us = world.now_us();
        let ledger = world.socket_mut(socket).ledger.as_mut();
        let asked = conn.actions();
        ledger.expect("it was opened").asked(now_us, &asked);
        if !asked.forwarded.is_empty() || asked.shuts_partner {
            let partner = conn.partner().expect("it takes bytes");
            let socket = self.sockets[&partner];
            let ledger = world.socket_mut(socket).ledger.as_mut();
            let ledger = ledger.expect("the partner was opened");
            ledger.forwarded(&asked.forwarded, asked.shuts_partner);
        }
        if let (TimerChange::At(at_us), None) = (asked.timer, asked.close_mode) {
            // The shard is told another time, as if it filed the timer wrongly.
            match self.canary {
                Some(Canary::TimerEarly) => conn.set_timer(at_us.saturating_sub(5_000)),
                Some(Canary::TimerLate) => conn.set_timer(at_us + 20_000),
                _ => {}
            }
        }
        result
    }

    /// Runs a callback that is about no connection, likewise.
    fn call_thread<U>(
        &mut self,
        cx: &mut Context<'_, WatchedState<H::State>>,
        callback: impl FnOnce(&mut H, &mut Context<'_, H::State>) -> U,
    ) -> U {
        let earlier = cx.thread_mut().actions.len();
        let result = cx.inner(
            |inner| dialled(&mut self.attempts, inner),
            |cx| callback(&mut self.inner, cx),
        );
        self.addressed.asked(cx.thread_mut(), earlier, self.canary);
        result
    }

    /// A linked connection was reset: what had come before must have been given to its handler, if its
    /// partner could take it.
    fn check_reset(&self, socket: u32, partner: ConnId) {
        let world = lock(&self.world);
        let partner = self.sockets.get(&partner).map(|own| world.socket(*own));
        let takes_bytes = partner.is_some_and(|partner| {
            let ledger = partner.ledger.as_ref().expect("it was opened");
            partner.stage == Stage::Open && ledger.takes_bytes()
        });
        let own = world.socket(socket);
        let ledger = own.ledger.as_ref().expect("it was opened");
        if takes_bytes && ledger.is_read() {
            assert!(
                own.received.is_empty() && ledger.is_all_used(),
                "bytes that came before a reset are lost"
            );
        }
    }

    fn ledger<U>(&self, socket: u32, look: impl FnOnce(u64, &mut Ledger) -> U) -> U {
        let mut world = lock(&self.world);
        let now_us = world.now_us();
        let ledger = world.socket_mut(socket).ledger.as_mut();
        look(now_us, ledger.expect("it was opened"))
    }
}

/// The state of a new attempt.
fn dialled<S>(attempts: &mut Vec<bool>, inner: S) -> WatchedState<S> {
    attempts.push(false);
    WatchedState {
        inner,
        socket: 0,
        attempt: attempts.len() as u32,
    }
}

impl<H: Handler> Handler for Watched<H> {
    type State = WatchedState<H::State>;
    type Report = H::Report;
    type Command = H::Command;

    fn on_open(&mut self, conn: &mut Conn<'_, Self::State>) {
        {
            let mut world = lock(&self.world);
            let socket = world.last_reaped.expect("a connection has a socket");
            let ledger = &mut world.socket_mut(socket).ledger;
            assert!(ledger.is_none(), "on_open twice");
            *ledger = Some(Box::default());
            if conn.listener().is_some()
                && let Some(peer) = conn.peer_addr()
            {
                let source = world.source_of_peer(socket);
                assert_eq!(peer, source, "the address of another peer");
            }
            if conn.dial_id().is_some() {
                let target = world.socket(socket).target;
                assert_eq!(conn.peer_addr(), target, "connected to another target");
            }
            conn.state.socket = socket;
            self.sockets.insert(conn.id(), socket);
        }
        self.end_attempt(conn.state.attempt);
        self.addressed.opened(conn.id(), conn.dial_id());
        self.open_count += 1;
        self.call(conn, |inner, conn| inner.on_open(conn));
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, Self::State>, bytes: &[u8]) -> usize {
        let socket = conn.state.socket;
        assert!(
            self.reads_while_blocked || !conn.is_blocked() || conn.partner().is_some(),
            "given bytes while the peer takes none"
        );
        let was_paused = self.ledger(socket, |_, ledger| ledger.take_was_paused());
        match self.canary {
            Some(Canary::HeldLost) if was_paused => return bytes.len(),
            Some(Canary::EndEarly) if was_paused => self.on_eof(conn),
            _ => {}
        }
        self.ledger(socket, |_, ledger| ledger.shown(bytes));
        let used = self.call(conn, |inner, conn| inner.on_bytes(conn, bytes));
        self.ledger(socket, |_, ledger| ledger.used(used));
        if self.canary == Some(Canary::ForwardEofEarly) && used > 8 {
            conn.forward_eof();
        }
        match self.canary {
            Some(Canary::BytesRepeated) => used / 2,
            _ => used,
        }
    }

    fn on_eof(&mut self, conn: &mut Conn<'_, Self::State>) {
        let socket = conn.state.socket;
        assert!(
            self.reads_while_blocked || !conn.is_blocked() || conn.partner().is_some(),
            "told of the peer's end while the peer takes no bytes"
        );
        {
            let world = lock(&self.world);
            let socket = world.socket(socket);
            let has_ended = socket.has_peer_end || socket.stage == Stage::Dead;
            assert!(
                has_ended && socket.received.is_empty(),
                "told of an end that the peer has not sent"
            );
        }
        self.ledger(socket, |_, ledger| ledger.end_told());
        self.call(conn, |inner, conn| inner.on_eof(conn));
        if self.canary == Some(Canary::EndRepeated) {
            self.ledger(socket, |_, ledger| ledger.end_told());
        }
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self::State>) {
        self.ledger(conn.state.socket, |now_us, ledger| ledger.fired(now_us));
        self.call(conn, |inner, conn| inner.on_timer(conn));
    }

    fn on_blocked(&mut self, conn: &mut Conn<'_, Self::State>) {
        self.call(conn, |inner, conn| inner.on_blocked(conn));
    }

    fn on_writable(&mut self, conn: &mut Conn<'_, Self::State>) {
        self.call(conn, |inner, conn| inner.on_writable(conn));
    }

    fn on_send(&mut self, conn: &mut Conn<'_, Self::State>, bytes: Bytes) {
        self.addressed.came(conn.id(), Some(bytes.to_vec()));
        self.call(conn, |inner, conn| inner.on_send(conn, bytes));
    }

    fn on_close_requested(&mut self, conn: &mut Conn<'_, Self::State>) {
        self.addressed.came(conn.id(), None);
        self.call(conn, |inner, conn| inner.on_close_requested(conn));
    }

    fn on_linked(&mut self, conn: &mut Conn<'_, Self::State>) {
        let (own, partner) = (conn.id(), conn.partner().expect("it is linked"));
        self.partners.insert(own, partner);
        self.partners.insert(partner, own);
        self.call(conn, |inner, conn| inner.on_linked(conn));
    }

    fn on_unlinked(&mut self, conn: &mut Conn<'_, Self::State>, end: PartnerEnd) {
        self.partners.remove(&conn.id());
        if self.canary == Some(Canary::PartnerUntold) {
            return;
        }
        self.unlinked.retain(|id| *id != conn.id());
        self.call(conn, |inner, conn| inner.on_unlinked(conn, end));
    }

    fn on_stop(&mut self, conn: &mut Conn<'_, Self::State>) {
        self.call(conn, |inner, conn| inner.on_stop(conn));
    }

    fn on_close(
        &mut self,
        cx: &mut Context<'_, Self::State>,
        id: ConnId,
        state: &Self::State,
        reason: CloseReason,
    ) {
        self.ledger(state.socket, |_, ledger| ledger.closed(reason));
        self.unlinked.retain(|unlinked| *unlinked != id);
        if let Some(partner) = self.partners.remove(&id)
            && self.partners.contains_key(&partner)
        {
            self.unlinked.push(partner);
            if reason == CloseReason::Reset {
                self.check_reset(state.socket, partner);
            }
        }
        self.sockets.remove(&id);
        self.open_count -= 1;
        self.has_called = true;
        self.addressed.closed(id);
        if self.canary == Some(Canary::CloseUntold) {
            return;
        }
        self.call_thread(cx, |inner, cx| {
            inner.on_close(cx, id, &state.inner, reason);
        });
    }

    fn on_open_failed(
        &mut self,
        cx: &mut Context<'_, Self::State>,
        dial: DialId,
        state: &Self::State,
        failure: OpenFailure,
    ) {
        let is_cancelled = failure == OpenFailure::Cancelled && dial.planned_group().is_none();
        if self.canary == Some(Canary::FailureUntold)
            || self.canary == Some(Canary::CancelUntold) && is_cancelled
        {
            return;
        }
        self.addressed.failed(dial);
        self.end_attempt(state.attempt);
        self.has_called = true;
        self.call_thread(cx, |inner, cx| {
            inner.on_open_failed(cx, dial, &state.inner, failure);
        });
    }

    fn on_start(&mut self, cx: &mut Context<'_, Self::State>, handle: &Handle<H::Command>) {
        self.call_thread(cx, |inner, cx| inner.on_start(cx, handle));
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self::State>, command: H::Command) {
        self.has_called = true;
        let is_due = self.canary_count.is_multiple_of(4);
        self.canary_count += 1;
        match self.canary {
            Some(Canary::CommandLost) if is_due => return,
            Some(Canary::CommandOvertakes) if is_due => {
                self.overtaken = Some(command);
                return;
            }
            _ => {}
        }
        for command in [Some(command), self.overtaken.take()].into_iter().flatten() {
            self.command_count += 1;
            self.call_thread(cx, |inner, cx| inner.on_command(cx, command));
        }
    }

    fn on_turn(&mut self, cx: &mut Context<'_, Self::State>) -> Option<u64> {
        self.has_called = false;
        let next_us = self.call_thread(cx, |inner, cx| inner.on_turn(cx));
        let earlier_us = std::mem::replace(&mut self.next_turn_us, next_us);
        match self.canary {
            Some(Canary::DeadlineStale) => earlier_us,
            _ => next_us,
        }
    }

    fn report(&mut self, report: &mut Self::Report) {
        self.inner.report(report);
    }
}
