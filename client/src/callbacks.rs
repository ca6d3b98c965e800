//! Calls of handlers without an engine, for tests of users.
//!
//! Must not depend on: what a handler does.

use holdfast_engine::{CloseReason, ConnId, DialId, Handler, OpenFailure, Recorder};

/// A turn with room to dial: the users it dials.
pub fn dialled<H: Handler>(users: &mut H, now_us: u64) -> Vec<H::State> {
    let mut recorder = Recorder::with_dial_room(10_000);
    users.on_turn(&mut recorder.context(now_us));
    recorder.take_planned()
}

/// A turn of an engine that is stopping.
pub fn stop<H: Handler>(users: &mut H, now_us: u64) {
    let mut recorder = Recorder::default();
    recorder.stop();
    users.on_turn(&mut recorder.context(now_us));
}

/// A user's connection closes.
pub fn end<H: Handler>(users: &mut H, user: &H::State, reason: CloseReason, now_us: u64) {
    let mut recorder = Recorder::default();
    let cx = &mut recorder.context(now_us);
    users.on_close(cx, ConnId::default(), user, reason);
}

/// A user's attempt to connect fails.
pub fn fail<H: Handler>(users: &mut H, user: &H::State, failure: OpenFailure, now_us: u64) {
    let mut recorder = Recorder::default();
    let cx = &mut recorder.context(now_us);
    users.on_open_failed(cx, DialId::PLANNED, user, failure);
}
