//! What must hold of a core between turns, and when it has ended.
//!
//! Invariants: looking changes nothing but counts of overdue turns.
//! Must not depend on: what handlers do.

use super::socket::{Owner, Stage};
use super::watch::Watched;
use super::world::{World, lock};
use crate::config::TICK_US;
use crate::core::Core;
use crate::error::Error;
use crate::handler::Handler;
use crate::limiter::ConnectionLimiter;
use crate::ring::Ring;
use crate::shard::audit::{Census, RingAudit};
use crate::slot::Phase;
use crate::stats::Work;

/// How long an attempt may last over its limit: the cancel has to be submitted, and to be heard of.
const CONNECT_GRACE_US: u64 = 20_000_000;
/// Turns in which the kernel may still owe a watch its completion.
const UNHEARD_TURNS_MAX: u32 = 64;

/// Checks everything between turns. `turn_us` is when the last one began.
pub(super) fn check_core<R: Ring + RingAudit, H: Handler, M: FnMut() -> Result<R, Error>>(
    core: &Core<'_, R, Watched<H>, M>,
    turn_us: u64,
) -> Result<Census, String> {
    let (shards, ctx) = core.parts();
    let mut census = Census::default();
    // The oldest come first, so only those that exceeded the share may be late.
    let may_be_late = ctx.postponed[Work::Timers as usize];
    let shared = ctx.handler.world();
    let mut world = lock(&shared);
    for shard in shards {
        let now_us = world.now_us();
        shard.audit(now_us, &mut census, &mut |slot| {
            let socket = slot.state.socket;
            let is_calm = slot.phase() == Phase::Open;
            if is_calm {
                let turn_us = if may_be_late { u64::MAX } else { turn_us };
                check_timer(&world, socket, slot.is_timed(), turn_us)?;
            }
            if is_calm && slot.needs_watch() {
                check_watch(&mut world, socket)?;
            }
            Ok(())
        })?;
    }
    let stats = &ctx.stats;
    let equal = |what: &str, one: u64, other: u64| match one == other {
        true => Ok(()),
        false => Err(format!("{what}: {one} and {other}")),
    };
    equal("open connections", stats.open_now, census.open)?;
    equal(
        "attempts under way",
        stats.connecting_now,
        census.connecting,
    )?;
    equal(
        "attempts and their classes",
        stats.attempts,
        stats.opened
            + stats.failed.iter().sum::<u64>()
            + stats.connecting_now
            + ctx.redial.len() as u64,
    )?;
    let thread = &ctx.recorder.thread;
    let (mut places, unplaced) = thread.attempts.places();
    if !places.all(|(shard, slot)| shards[usize::from(shard)].is_connecting(slot)) {
        return Err("an attempt with an id is in a slot that does not connect".to_owned());
    }
    let again = ctx
        .redial
        .iter()
        .filter(|(id, _)| id.planned_group().is_none());
    equal(
        "attempts that wait to be started",
        unplaced as u64,
        (ctx.recorder.states.dialled.len() + again.count()) as u64,
    )?;
    if thread.actions.is_empty() {
        ctx.handler
            .check_addressed(|id| shards[usize::from(id.shard)].phase_of(id))?;
    }
    equal(
        "connections and their ends",
        stats.accepted + stats.opened,
        stats.open_now + stats.closed.iter().sum::<u64>(),
    )?;
    ctx.handler.check_commands(stats.commands)?;
    Ok(census)
}

/// Checks that nothing is left.
pub(super) fn check_end<R: Ring + RingAudit, H: Handler, M: FnMut() -> Result<R, Error>>(
    core: &Core<'_, R, Watched<H>, M>,
) -> Result<(), String> {
    let census = check_core(core, u64::MAX)?;
    if census.open + census.connecting + census.accepting > 0 {
        return Err(format!("something is left at the end: {census:?}"));
    }
    core.parts().1.handler.check_end()
}

/// A connection's timer is on the wheel exactly if its handler set it, and fired when it was due.
fn check_timer(world: &World, socket: u32, is_on: bool, turn_us: u64) -> Result<(), String> {
    let Some(ledger) = &world.socket(socket).ledger else {
        return Err("open without on_open".to_owned());
    };
    let due = ledger.due_tick();
    if due.is_some() != is_on {
        return Err(format!(
            "socket {socket}: its timer is {due:?}, on the wheel: {is_on}"
        ));
    }
    match due {
        Some(due) if turn_us != u64::MAX && due <= turn_us / TICK_US => Err(format!(
            "socket {socket}: a timer due at tick {due} has not fired at {turn_us}"
        )),
        _ => Ok(()),
    }
}

/// A watched connection hears of an error, unless the kernel has not told it yet.
fn check_watch(world: &mut World, socket: u32) -> Result<(), String> {
    let entry = world.socket_mut(socket);
    if entry.error.is_none() {
        return Ok(());
    }
    entry.unheard_turns += 1;
    match entry.unheard_turns > UNHEARD_TURNS_MAX {
        true => Err(format!("socket {socket} was reset, and nobody hears of it")),
        false => Ok(()),
    }
}

/// The limiter's books against what its cores have.
pub(super) fn check_limiter(limiter: &ConnectionLimiter, all: &[Census]) -> Result<(), String> {
    let held: u64 = all.iter().map(|c| c.accepted).sum();
    let accepting: u64 = all.iter().map(|c| c.accepting).sum();
    if limiter.counts() != (held + accepting, held) {
        let (counts, open) = (limiter.counts(), held);
        return Err(format!(
            "the limiter says {counts:?}; open {open}, opening {accepting}"
        ));
    }
    Ok(())
}

/// No connection tries for longer than it may; in the end no ring has a socket.
pub(super) fn check_world(
    world: &World,
    is_over: bool,
    connect_timeout_us: u64,
) -> Result<(), String> {
    for (id, socket) in world.sockets.iter().enumerate() {
        let Owner::Ring(_) = socket.owner else {
            continue;
        };
        if is_over && !socket.is_closed {
            return Err(format!("socket {id} is open at the end"));
        }
        let lasts_us = world.now_us() - socket.connect_us;
        if socket.stage == Stage::Connecting
            && !socket.is_closed
            && lasts_us > connect_timeout_us + CONNECT_GRACE_US
        {
            return Err(format!("socket {id} has been connecting for {lasts_us} us"));
        }
    }
    Ok(())
}
