//! One core thread of an engine in a world, and how nodes take turns.
//!
//! Invariants: a node does what the thread of the real engine does, in the same steps; it is audited after each.
//! Must not depend on: what its handler does.

use std::time::Duration;

use super::audit::{check_core, check_end, check_limiter, check_world};
use super::broken::{Broken, Canary};
use super::fault::Fault;
use super::outside::Outside;
use super::ring::SimRing;
use super::watch::Watched;
use super::world::{Shared, lock};
use crate::config::Config;
use crate::core::{Core, CoreListener, Next};
use crate::dial::DialPlan;
use crate::error::{Error, SetupErrorKind};
use crate::handler::Handler;
use crate::limiter::ConnectionLimiter;
use crate::mailbox::Ordered;
use crate::shard::audit::Census;
use crate::stats::Stats;

/// Steps a run may take: far more than any does that ends.
const STEPS_MAX: u64 = 2_000_000;
/// How long a run may last in its own time, after all its orders to stop.
const DRAIN_US_MAX: u64 = 3_600_000_000;

type MakeRing<'a> = Box<dyn FnMut() -> Result<Broken, Error> + 'a>;

/// What a node waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// This time.
    Until(u64),
    /// This time, or anything.
    UntilWoken(u64),
    Ended,
}

/// See the file's head.
pub struct Node<'a, H: Handler> {
    core: Core<'a, Broken, Watched<H>, MakeRing<'a>>,
    world: Shared,
    config: &'a Config,
    limiter: &'a ConnectionLimiter,
    listeners: Vec<CoreListener>,
    canary: Option<Canary>,
    outside: Outside<'a, H::Command>,
    /// The orders it acts on.
    known: Ordered,
    rest: Rest,
    census: Census,
}

impl<'a, H: Handler> Node<'a, H> {
    /// A node that holds nothing yet.
    #[allow(clippy::too_many_arguments)] // What an engine's thread is made of.
    pub fn new(
        world: &Shared,
        config: &'a Config,
        limiter: &'a ConnectionLimiter,
        handler: H,
        listeners: &[CoreListener],
        plan: Option<&'a DialPlan>,
        outside: Outside<'a, H::Command>,
        canary: Option<Canary>,
    ) -> Self {
        let handler = Watched::new(handler, world, config.reads_while_blocked, canary);
        let own = world.clone();
        let mut has_first = false;
        let make_ring = move || {
            if has_first && lock(&own).strikes(Fault::NoRing) {
                return Err(Error::new(
                    SetupErrorKind::OutOfMemory,
                    "no ring",
                    "a simulated fault",
                ));
            }
            has_first = true;
            Ok(Broken::new(SimRing::new(&own, config), canary))
        };
        let make_ring: MakeRing<'a> = Box::new(make_ring);
        let plan = plan.map(|plan| (plan, 0, 1));
        let mailbox = (outside.handle, outside.thread);
        let core = Core::new(
            config, limiter, mailbox, handler, make_ring, listeners, plan,
        );
        Node {
            core: core.expect("the first ring is there"),
            world: world.clone(),
            config,
            limiter,
            listeners: listeners.to_vec(),
            canary,
            outside,
            known: Ordered::default(),
            rest: Rest::Until(0),
            census: Census::default(),
        }
    }

    /// Counters.
    pub fn stats(&mut self) -> &Stats {
        self.core.stats()
    }

    /// The handler.
    pub fn handler(&mut self) -> &mut H {
        self.core.handler().inner()
    }

    /// What threads outside told it.
    pub fn outside(&self) -> &Outside<'a, H::Command> {
        &self.outside
    }

    fn rings(&self) -> impl Iterator<Item = &SimRing> {
        self.core.parts().0.iter().map(|shard| shard.ring().inner())
    }

    /// True if something has happened that wakes it.
    fn has_mail(&self) -> bool {
        let world = lock(&self.world);
        self.rings()
            .any(|ring| !world.mail[ring.number as usize].is_empty())
    }

    /// Something comes from outside right now, between two looks of the thread.
    fn may_be_told_between(&mut self) {
        if self.outside.has_commands() && lock(&self.world).strikes(Fault::ToldBetween) {
            self.outside.tell_next();
        }
    }

    fn after_turn(&mut self, next: Next) {
        let now_us = lock(&self.world).now_us();
        self.rest = match next {
            Next::Again => {
                let is_between = !self.rings().all(SimRing::may_sleep);
                if is_between && lock(&self.world).strikes(Fault::StoppedBetween) {
                    self.outside.orders.now_us = self.outside.orders.now_us.min(now_us);
                }
                Rest::Until(now_us)
            }
            Next::Busy => Rest::Until(now_us + self.config.batch_delay_us),
            Next::IdleUntil(due_us) => {
                let heard = self.core.handler().check_deadline(due_us);
                heard.unwrap_or_else(|wrong| panic!("{wrong}"));
                if let Some(timer_us) = self.census.due_us {
                    assert!(
                        due_us.is_some_and(|us| us <= timer_us),
                        "a timer is due at {timer_us}, and the thread sleeps until {due_us:?}"
                    );
                }
                self.may_be_told_between();
                let may_sleep = self.outside.mailbox().may_sleep(self.known);
                self.may_be_told_between();
                let until_us = due_us.unwrap_or(u64::MAX);
                let timeout = match may_sleep {
                    true => Duration::from_micros(until_us.saturating_sub(now_us)),
                    false => Duration::ZERO,
                };
                let is_alone = self.rings().count() == 1;
                let mut sleeps = false;
                let waited = self.core.wait(timeout, |_| sleeps = true);
                waited.expect("a simulated ring serves");
                sleeps |= is_alone && self.rings().all(SimRing::is_asleep);
                if sleeps && self.rings().all(SimRing::may_sleep) {
                    let shards = self.core.parts().0;
                    assert!(
                        shards.iter().all(|shard| !shard.is_waited_for()),
                        "a thread sleeps while a connection waits to receive, or for sends to be settled"
                    );
                    Rest::UntilWoken(until_us)
                } else {
                    assert!(
                        is_alone || !sleeps,
                        "a thread sleeps although there is work"
                    );
                    Rest::Until(now_us)
                }
            }
        };
        let mut world = lock(&self.world);
        self.rest = match self.rest {
            Rest::Until(us) if world.strikes(Fault::WokenLate) => {
                Rest::Until(us + world.random.magnitude(100, 100_000))
            }
            Rest::UntilWoken(us) if world.strikes(Fault::TimeJump) => {
                Rest::Until(us.min(now_us) + world.random.magnitude(100_000, 10_000_000))
            }
            Rest::UntilWoken(us) if world.strikes(Fault::WokenForNothing) => {
                Rest::Until(us.min(now_us + world.random.magnitude(10, 50_000)))
            }
            rest => rest,
        };
    }
}

/// A node, whatever its handler.
pub trait Steps {
    /// When it takes its next step; `None` when it has ended.
    fn due_us(&self) -> Option<u64>;
    /// One look at its orders, one turn, and what comes before the next.
    fn step(&mut self);
    /// When it is told something from outside next.
    fn told_us(&self) -> Option<u64>;
    /// Tells it what is due.
    fn tell(&mut self, now_us: u64);
    /// When its last order comes.
    fn last_order_us(&self) -> u64;
    /// How it stands, for who looks into a failure.
    fn describe(&self) -> String;
    #[doc(hidden)]
    fn check_heard(&self) -> Result<(), String>;
    #[doc(hidden)]
    fn books(&self) -> NodeBooks<'_>;
}

/// What the driver audits over several nodes.
#[doc(hidden)]
pub struct NodeBooks<'a> {
    limiter: &'a ConnectionLimiter,
    census: Census,
    connect_timeout_us: u64,
}

impl<H: Handler> Steps for Node<'_, H> {
    fn due_us(&self) -> Option<u64> {
        match self.rest {
            Rest::Ended => None,
            Rest::Until(us) => Some(us),
            Rest::UntilWoken(_) if self.has_mail() => Some(0),
            Rest::UntilWoken(us) => Some(us),
        }
    }

    fn step(&mut self) {
        let turn_us = lock(&self.world).now_us();
        let world = &self.world;
        let listeners = &mut self.listeners;
        let shuts = self.canary == Some(Canary::SharedListenerShut);
        self.outside.mailbox().has_woken();
        self.known = self.outside.mailbox().ordered();
        let next = self.core.serve(turn_us, self.known, || {
            let mut world = lock(world);
            for listener in listeners.drain(..) {
                match shuts {
                    true => world.shut_listener(listener.fd),
                    false => world.close_listener(listener.fd),
                }
            }
        });
        assert!(
            !self.listeners.is_empty() || !self.rings().any(SimRing::polls_listener),
            "a listener is polled, which keeps it open, after its descriptor was closed"
        );
        let next = next.expect("a simulated ring serves");
        let census = check_core(&self.core, turn_us);
        self.census = census.unwrap_or_else(|wrong| panic!("{wrong}"));
        match next {
            Some(next) => self.after_turn(next),
            None => {
                let mut checked = check_end(&self.core);
                for ring in self.rings() {
                    checked = checked.and_then(|()| ring.give_up());
                }
                checked.unwrap_or_else(|wrong| panic!("{wrong}"));
                self.rest = Rest::Ended;
            }
        }
    }

    fn told_us(&self) -> Option<u64> {
        self.outside.next_us()
    }

    fn tell(&mut self, now_us: u64) {
        self.outside.tell(now_us);
    }

    fn last_order_us(&self) -> u64 {
        let orders = self.outside.orders;
        orders.in_order_us.min(orders.now_us)
    }

    fn describe(&self) -> String {
        let shards = self.core.parts().0.iter();
        let slots: Vec<String> = shards.flat_map(|shard| shard.describe()).collect();
        format!("{:?}, {:?}, {slots:?}", self.rest, self.outside.orders)
    }

    fn check_heard(&self) -> Result<(), String> {
        let mailbox = self.outside.mailbox();
        let sleeps = matches!(self.rest, Rest::UntilWoken(_)) && !self.has_mail();
        if sleeps && (!mailbox.is_empty() || mailbox.ordered() != self.known) {
            return Err("a thread sleeps on what it was told".to_owned());
        }
        Ok(())
    }

    fn books(&self) -> NodeBooks<'_> {
        NodeBooks {
            limiter: self.limiter,
            census: self.census,
            connect_timeout_us: self.config.connect_timeout.as_micros() as u64,
        }
    }
}

/// Lets nodes take turns until all have ended.
///
/// # Panics
/// When an invariant is broken.
pub fn drive(world: &Shared, nodes: &mut [&mut dyn Steps]) {
    let last_order_us = nodes.iter().map(|n| n.last_order_us()).max().unwrap_or(0);
    for step in 0.. {
        assert!(step < STEPS_MAX, "no end after {step} steps");
        let due_us = nodes.iter().flat_map(|n| [n.due_us(), n.told_us()]);
        let Some(next_us) = due_us.flatten().min() else {
            break;
        };
        let mut own = lock(world);
        let event_us = own.next_event_us().unwrap_or(u64::MAX);
        let until_us = next_us.min(event_us).max(own.now_us());
        assert!(
            until_us < last_order_us + DRAIN_US_MAX,
            "not ended {} s after it was to stop: {:?}",
            DRAIN_US_MAX / 1_000_000,
            nodes.iter().map(|n| n.describe()).collect::<Vec<_>>()
        );
        own.pass(until_us);
        let due = |n: &&mut dyn Steps| n.due_us().is_some_and(|us| us <= until_us);
        let first = own.random.below(nodes.len() as u64) as usize;
        drop(own);
        nodes.iter_mut().for_each(|n| n.tell(until_us));
        for number in 0..nodes.len() {
            let number = (number + first) % nodes.len();
            if due(&nodes[number]) {
                nodes[number].step();
                audit(world, nodes, false);
            }
        }
    }
    audit(world, nodes, true);
}

fn audit(world: &Shared, nodes: &[&mut dyn Steps], is_over: bool) {
    let books: Vec<NodeBooks<'_>> = nodes.iter().map(|n| n.books()).collect();
    let mut checked = nodes.iter().try_for_each(|n| n.check_heard());
    for own in &books {
        let same = |other: &&NodeBooks<'_>| std::ptr::eq(own.limiter, other.limiter);
        let censuses: Vec<Census> = books.iter().filter(same).map(|b| b.census).collect();
        checked = checked.and_then(|()| check_limiter(own.limiter, &censuses));
    }
    let longest_us = books.iter().map(|b| b.connect_timeout_us).max();
    checked
        .and_then(|()| check_world(&lock(world), is_over, longest_us.unwrap_or(0)))
        .unwrap_or_else(|wrong| panic!("{wrong}"));
}
