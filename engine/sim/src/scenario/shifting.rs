//! A client whose number of users is changed while it runs.
//!
//! Must not depend on: what its users do.

use std::sync::Arc;

use holdfast_client::load::Load;
use holdfast_engine::sim::Random;
use holdfast_engine::{Bytes, CloseReason, Conn, ConnId, Context, DialId, Handler, OpenFailure};

/// A handler under a load, and the orders the load is still to be given.
pub(super) struct Shifting<H> {
    users: H,
    load: Arc<Load>,
    now: u64,
    orders: Vec<(u64, u64, u64, u64)>,
}

impl<H> Shifting<H> {
    /// Users who begin as `load` says, `from` of them. The orders come from a source of their own: those drawn elsewhere stay.
    pub fn new(users: H, load: Arc<Load>, from: u64, seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5349_4655);
        let count = if random.once_in(2) {
            random.magnitude(1, 5)
        } else {
            0
        };
        let mut orders: Vec<_> = (0..count)
            .map(|_| {
                let rate_milli = random.pick(&[Load::MAX, 20_000, 500_000]);
                // Fewer as often as more: of those who were there at first, not many are left to go after a while.
                let most = random.pick(&[from / 4, from + 10]);
                (
                    random.magnitude(1_000, 3_000_000),
                    random.below(most + 1),
                    rate_milli,
                    random.pick(&[0, 0, 1_000, 300_000]),
                )
            })
            .collect();
        orders.sort_unstable_by_key(|order| std::cmp::Reverse(order.0));
        Shifting {
            users,
            load,
            now: from,
            orders,
        }
    }
}

impl<H: Handler> Handler for Shifting<H> {
    type State = H::State;
    type Report = H::Report;
    type Command = H::Command;

    fn on_turn(&mut self, cx: &mut Context<'_, H::State>) -> Option<u64> {
        while let Some(&(at_us, users, rate_milli, later_us)) = self.orders.last() {
            if at_us > cx.now_us() {
                break;
            }
            self.orders.pop();
            let from = std::mem::replace(&mut self.now, users);
            self.load
                .order(from, users, rate_milli, cx.now_us() + later_us);
        }
        let next_order_us = self.orders.last().map(|order| order.0);
        let next_us = self.users.on_turn(cx);
        next_us.into_iter().chain(next_order_us).min()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, H::State>) {
        self.users.on_open(conn);
    }
    fn on_bytes(&mut self, conn: &mut Conn<'_, H::State>, bytes: &[u8]) -> usize {
        self.users.on_bytes(conn, bytes)
    }
    fn on_eof(&mut self, conn: &mut Conn<'_, H::State>) {
        self.users.on_eof(conn);
    }
    fn on_timer(&mut self, conn: &mut Conn<'_, H::State>) {
        self.users.on_timer(conn);
    }
    fn on_blocked(&mut self, conn: &mut Conn<'_, H::State>) {
        self.users.on_blocked(conn);
    }
    fn on_writable(&mut self, conn: &mut Conn<'_, H::State>) {
        self.users.on_writable(conn);
    }
    fn on_send(&mut self, conn: &mut Conn<'_, H::State>, bytes: Bytes) {
        self.users.on_send(conn, bytes);
    }
    fn on_close_requested(&mut self, conn: &mut Conn<'_, H::State>) {
        self.users.on_close_requested(conn);
    }
    fn on_stop(&mut self, conn: &mut Conn<'_, H::State>) {
        self.users.on_stop(conn);
    }
    fn on_close(
        &mut self,
        cx: &mut Context<'_, H::State>,
        id: ConnId,
        state: &H::State,
        reason: CloseReason,
    ) {
        self.users.on_close(cx, id, state, reason);
    }
    fn on_open_failed(
        &mut self,
        cx: &mut Context<'_, H::State>,
        dial: DialId,
        state: &H::State,
        failure: OpenFailure,
    ) {
        self.users.on_open_failed(cx, dial, state, failure);
    }
    fn report(&mut self, report: &mut H::Report) {
        self.users.report(report);
    }
}
