//! What threads outside an engine tell one of its core threads, and when: commands, and orders to
//! stop.
//!
//! Invariants: everything is told once, in order, also after the thread has ended.
//! Must not depend on: what a command means, nodes.

use super::waker::SimWaker;
use super::world::Shared;
use crate::config::Config;
use crate::mailbox::{Handle, Mailbox, SendError, Shutdown};

/// When a thread is told to stop, in engine time.
#[derive(Debug, Clone, Copy)]
pub struct Orders {
    /// To give its listeners up and go on.
    pub release_us: u64,
    /// In order.
    pub in_order_us: u64,
    /// At once.
    pub now_us: u64,
}

impl Orders {
    fn at(self, now_us: u64) -> Option<Shutdown> {
        if now_us >= self.now_us {
            Some(Shutdown::Immediate)
        } else if now_us >= self.in_order_us {
            Some(Shutdown::Graceful)
        } else {
            None
        }
    }

    /// The next order after a time.
    fn next_us(self, now_us: u64) -> Option<u64> {
        let later = [self.release_us, self.in_order_us, self.now_us];
        let later = later
            .into_iter()
            .filter(|us| *us > now_us && *us < u64::MAX);
        later.min()
    }
}

/// The mailboxes of a simulated engine's threads.
pub fn mailboxes<C>(world: &Shared, config: &Config, threads: usize) -> Handle<C> {
    let mailbox = |_| Mailbox::new(config.commands_max, Box::new(SimWaker::new(world)));
    Handle::new((0..threads).map(mailbox).collect())
}

/// See the file's head.
pub struct Outside<'a, C> {
    pub(super) handle: &'a Handle<C>,
    pub(super) thread: usize,
    /// When it is told to stop.
    pub(super) orders: Orders,
    /// Commands and their times, the last one first.
    script: Vec<(u64, C)>,
    /// What was due until then was told, engine time.
    told_us: u64,
    told_count: u64,
    returned: Vec<SendError<C>>,
}

impl<'a, C> Outside<'a, C> {
    /// Tells thread `thread` of an engine to stop, and the commands of `script` at their times.
    pub fn new(
        handle: &'a Handle<C>,
        thread: usize,
        orders: Orders,
        mut script: Vec<(u64, C)>,
    ) -> Self {
        script.sort_by_key(|(at_us, _)| *at_us);
        script.reverse();
        Outside {
            handle,
            thread,
            orders,
            script,
            told_us: 0,
            told_count: 0,
            returned: Vec::new(),
        }
    }

    /// Commands that were accepted.
    pub fn accepted_count(&self) -> u64 {
        self.told_count - self.returned.len() as u64
    }

    /// The commands that were not accepted.
    pub fn returned(&self) -> &[SendError<C>] {
        &self.returned
    }

    /// What it tells.
    pub(super) fn mailbox(&self) -> &'a Mailbox<C> {
        self.handle.mailbox(self.thread)
    }

    /// When it tells something next.
    pub(super) fn next_us(&self) -> Option<u64> {
        let command_us = self.script.last().map(|(at_us, _)| *at_us);
        let order_us = self.orders.next_us(self.told_us);
        command_us.into_iter().chain(order_us).min()
    }

    pub(super) fn has_commands(&self) -> bool {
        !self.script.is_empty()
    }

    /// Tells everything that is due.
    pub(super) fn tell(&mut self, now_us: u64) {
        while self
            .script
            .last()
            .is_some_and(|(at_us, _)| *at_us <= now_us)
        {
            self.tell_next();
        }
        self.told_us = now_us;
        if now_us >= self.orders.release_us {
            self.mailbox().release_listeners();
        }
        if let Some(how) = self.orders.at(now_us) {
            self.mailbox().stop(how);
        }
    }

    /// Tells the next command, whatever its time is.
    pub(super) fn tell_next(&mut self) {
        if let Some((_, command)) = self.script.pop() {
            self.told_count += 1;
            let sent = self.handle.send(self.thread, command);
            self.returned.extend(sent.err());
        }
    }
}
